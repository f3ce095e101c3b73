"""Settings as frozen dataclasses: flags override the environment, which overrides the TOML file, which overrides the
defaults. All errors are reported together.

A section is a dataclass whose fields are made by `setting()`. Each key has the environment variable
`MD5S3STASH_<SECTION>_<KEY>`, and a few also have a short name (BUCKET_BASE). The programs name the sections they read;
this module knows those of the core.
"""

from __future__ import annotations

import contextlib
import dataclasses
import re
import tomllib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, TypeVar

from md5s3stash.errors import SettingsError, StashError
from md5s3stash.scheme import BucketBase, KeyTemplate, parse_scheme

DEFAULT_FILE = Path("/etc/md5s3stash/md5s3stash.toml")

Parse = Callable[[Any], Any]
Section = TypeVar("Section")


class Faults:
    """Collects errors in settings and arguments, so that all are reported together."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    @contextlib.contextmanager
    def noted(self) -> Iterator[None]:
        """Collects the SettingsError of the block, if it raises one."""
        try:
            yield
        except SettingsError as error:
            self.lines += str(error).splitlines()

    def raise_any(self) -> None:
        """Raises one SettingsError with a line for each error, if there are any."""
        if self.lines:
            raise SettingsError("\n".join(self.lines))


def setting(default: Any, parse: Parse, help: str, variable: str | None = None) -> Any:
    """A field of a section: `parse` takes the text of a variable or the TOML value, and raises a ValueError that says
    what is allowed; `variable` is a short name in the environment.
    """
    return dataclasses.field(default=default, metadata={"parse": parse, "help": help, "variable": variable})


def text(value: Any) -> str:
    """Any text, trimmed."""
    if not isinstance(value, str):
        raise ValueError("a text is needed")
    return value.strip()


def optional_text(value: Any) -> str | None:
    """A text; empty is the same as not set."""
    return text(value) or None


def texts(value: Any) -> tuple[str, ...]:
    """A TOML array of texts, or one text with commas."""
    parts = value.split(",") if isinstance(value, str) else value
    if not isinstance(parts, list) or not all(isinstance(part, str) for part in parts):
        raise ValueError("a list of texts, or one text with commas, is needed")
    return tuple(part.strip() for part in parts if part.strip())


# What `redis.accepted_risks` may name: settings of Redis, and a Redis that does not show them.
RISKS = ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy", "unknown")


def risks(value: Any) -> tuple[str, ...]:
    """Names of `RISKS`."""
    names = texts(value)
    wrong = [name for name in names if name not in RISKS]
    if wrong:
        raise ValueError(f"{wrong[0]!r} is not one of {', '.join(RISKS)}")
    return names


def whole_number(minimum: int, maximum: int) -> Parse:
    """An integer within bounds."""

    def parse(value: Any) -> int:
        try:
            number = int(value) if isinstance(value, str) else value
        except ValueError:
            number = None
        if not isinstance(number, int) or isinstance(number, bool) or not minimum <= number <= maximum:
            raise ValueError(f"a whole number from {minimum} to {maximum} is needed")
        return number

    return parse


def seconds(minimum: float, maximum: float) -> Parse:
    """A time in seconds within bounds."""

    def parse(value: Any) -> float:
        try:
            number = float(value) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
        except (ValueError, OverflowError):
            number = None
        # NaN fails the comparison too.
        if number is None or not minimum <= number <= maximum:
            raise ValueError(f"a number of seconds from {minimum:g} to {maximum:g} is needed")
        return number

    return parse


def contact_text(value: Any) -> str | None:
    """A text that is allowed in a comment of User-Agent; empty is the same as not set."""
    found = optional_text(value)
    if (found is not None and not re.fullmatch(r"[\x20-\x7e]{1,200}", found)) or set(found or "") & set("()\\"):
        raise ValueError("an address or URL is needed, in ASCII and without brackets and backslashes")
    return found


def host_names(value: Any) -> tuple[str, ...]:
    """Names of hosts, in lower case."""
    names = tuple(name.lower() for name in texts(value))
    for name in names:
        if not re.fullmatch(r"[a-z0-9_]([a-z0-9_.-]{0,251}[a-z0-9_])?", name):
            raise ValueError("names of hosts such as museum.example.org are needed, without https:// and port")
    return names


def one_of(*allowed: str) -> Parse:
    """One of a few words."""

    def parse(value: Any) -> str:
        if text(value) not in allowed:
            raise ValueError(f"one of {', '.join(allowed)} is needed")
        return text(value)

    return parse


def scheme_name(value: Any) -> str:
    """A bucket scheme, by its proper name."""
    try:
        return parse_scheme(text(value)).value
    except StashError as error:
        raise ValueError(str(error)) from error


def key_prefixes(value: Any) -> tuple[str, ...]:
    """Prefixes of keys, each of which ends with a slash."""
    prefixes = texts(value)
    if not all(re.fullmatch(r"[^/\s][^\s]*/", prefix) for prefix in prefixes):
        raise ValueError("prefixes of keys such as thumbnails/ are needed, each with a slash at its end")
    return prefixes


@dataclass(frozen=True, slots=True)
class StashSettings:
    """`[stash]`: where contents go."""

    bucket_base: tuple[str, ...] = setting(
        (), texts, "bucket, or bucket/prefix; with several, separated by commas, each gets a copy", "BUCKET_BASE"
    )
    bucket_scheme: str = setting(
        "simple", scheme_name, "simple: one bucket; multibucket: 36 of them, by digest", "BUCKET_SCHEME"
    )
    key_template: str = setting(
        KeyTemplate.DIGEST.value,
        one_of(*KeyTemplate),
        "what follows the prefix in a key: {md5}; or {collection}/{md5}, where a content may be in a collection",
        "KEY_TEMPLATE",
    )
    derivative_prefixes: tuple[str, ...] = setting(
        (),
        key_prefixes,
        "prefixes of keys, such as thumbnails/, below which an object may be a picture made of the content whose md5 "
        "is in its key: its bytes are not compared with that md5",
        "DERIVATIVE_PREFIXES",
    )

    def bases(self) -> tuple[BucketBase, ...]:
        """The checked bucket bases, each once. Raises SettingsError if none is set or some are wrong."""
        if not self.bucket_base:
            raise SettingsError("BUCKET_BASE is not set: give the bucket (or bucket/prefix) to stash into")
        faults = Faults()
        bases: dict[BucketBase, None] = {}
        for base in self.bucket_base:
            with faults.noted():
                parsed = BucketBase.parse(base, self.bucket_scheme, KeyTemplate(self.key_template))
                bases[dataclasses.replace(parsed, derivatives=self.derivative_prefixes)] = None
        faults.raise_any()
        return tuple(bases)


@dataclass(frozen=True, slots=True)
class S3Settings:
    """`[s3]`: the store."""

    endpoint: str | None = setting(
        None, optional_text, "a host (s3-us-west-2.amazonaws.com) or URL (http://127.0.0.1:9000)", "S3_ENDPOINT"
    )
    connect_timeout_seconds: float = setting(10.0, seconds(0.1, 300), "time to connect to the store")
    read_timeout_seconds: float = setting(
        60.0, seconds(1, 3600), "the longest pause while the store sends or receives bytes"
    )
    request_timeout_seconds: float = setting(600.0, seconds(1, 86400), "time for a whole request of up to 8 MiB")
    conditional_writes: str = setting(
        "prefer",
        one_of("prefer", "require"),
        "require: store nothing in a store without If-None-Match; prefer: use HEAD before each put there",
    )


@dataclass(frozen=True, slots=True)
class RedisSettings:
    """`[redis]`: where mappings are recorded."""

    url: str | None = setting(
        None,
        optional_text,
        "redis://host:port/database, rediss://user:password@host:port, or unix:///path",
        "REDIS_URL",
    )
    prefix: str = setting("md5s3stash", text, "prefix of all keys in Redis")
    timeout_seconds: float = setting(30.0, seconds(0.1, 300), "time to wait for each answer of Redis")
    replicas: int = setting(0, whole_number(0, 10), "how many replicas must have a record before it counts")
    accepted_risks: tuple[str, ...] = setting(
        (), risks, f"accepted ways in which Redis may lose records: any of {', '.join(RISKS)}"
    )


@dataclass(frozen=True, slots=True)
class FetchSettings:
    """`[fetch]`: limits on reading and downloading, and what is sent to origins."""

    max_bytes: int = setting(50 * 1024**3, whole_number(1, 5 * 1024**4), "the largest file or download, in bytes")
    max_redirects: int = setting(5, whole_number(0, 30), "how many redirects are followed")
    connect_timeout_seconds: float = setting(10.0, seconds(0.1, 300), "time to connect to an origin")
    read_timeout_seconds: float = setting(60.0, seconds(0.1, 3600), "the longest pause while an origin sends")
    total_timeout_seconds: float = setting(3600.0, seconds(1, 7 * 86400), "time for a whole download")
    min_bytes_per_second: int = setting(
        4096,
        whole_number(0, 10**9),
        "the slowest rate accepted from an origin, averaged over read_timeout_seconds; 0 accepts any",
    )
    contact: str | None = setting(None, contact_text, "your e-mail address or web page, sent to origins in User-Agent")
    headers_file: str | None = setting(
        None, optional_text, "file with request headers for single origins, such as API keys"
    )
    old_cipher_hosts: tuple[str, ...] = setting(
        (), host_names, "hosts for which old ciphers that are not broken are accepted"
    )


CORE_SECTIONS: Mapping[str, type] = {
    "stash": StashSettings,
    "s3": S3Settings,
    "redis": RedisSettings,
    "fetch": FetchSettings,
}


class Settings:
    """Parsed sections, by their type: `settings[StashSettings].bucket_base`."""

    def __init__(self, sections: Mapping[type, Any]) -> None:
        self._sections = sections

    def __getitem__(self, section: type[Section]) -> Section:
        found: Section = self._sections[section]
        return found


def load(
    sections: Mapping[str, type],
    environ: Mapping[str, str],
    file: Path | None = None,
    flags: Mapping[str, Any] | None = None,
    *,
    others_allowed: bool = False,
) -> Settings:
    """Reads the sections from their sources, the later of TOML, environment and `flags` ("section.key") winning.

    `file` None reads DEFAULT_FILE if it exists. `others_allowed` ignores sections that this program does not know,
    since all programs share the file. Raises SettingsError with one line for each error.
    """
    collected = Faults()
    faults = collected.lines
    table = _read_toml(file, faults)
    faults += _unknown_keys(table, sections, others_allowed=others_allowed)
    parsed = {
        kind: kind(**_values(name, kind, table.get(name, {}), environ, flags or {}, faults))
        for name, kind in sections.items()
    }
    collected.raise_any()
    return Settings(parsed)


def variables_of(section: str, field: dataclasses.Field[Any]) -> tuple[str, ...]:
    """The environment variables of a key, the one that wins first."""
    long_name = f"MD5S3STASH_{section}_{field.name}".upper()
    short_name = field.metadata["variable"]
    return (long_name, short_name) if short_name else (long_name,)


def _read_toml(file: Path | None, faults: list[str]) -> Mapping[str, Any]:
    path = file or DEFAULT_FILE
    try:
        with open(path, "rb") as stream:
            return tomllib.load(stream)
    except FileNotFoundError:
        if file is not None:
            faults.append(f"{path}: there is no such settings file")
    except tomllib.TOMLDecodeError as error:
        faults.append(f"{path}: not valid TOML: {error}")
    except OSError as error:
        faults.append(f"{path}: cannot be read: {error.strerror}")
    except UnicodeDecodeError:
        faults.append(f"{path}: not valid TOML: it is not UTF-8")
    except (ValueError, RecursionError) as error:
        # A NUL in the name, a number of thousands of digits, brackets nested too deeply.
        faults.append(f"{str(path)!r}: cannot be read: {error}")
    return {}


def _unknown_keys(table: Mapping[str, Any], sections: Mapping[str, type], *, others_allowed: bool) -> list[str]:
    faults = []
    for name, values in table.items():
        if name not in sections:
            if not others_allowed:
                faults.append(f"[{_one_line(name)}] is not a section{_guess(name, sections)}")
        elif not isinstance(values, Mapping):
            faults.append(f"{name} is a section: write [{name}] and its keys below")
        else:
            keys = [field.name for field in dataclasses.fields(sections[name])]
            faults += [
                f"{name}.{_one_line(key)} is not a setting{_guess(key, keys)}" for key in values if key not in keys
            ]
    return faults


def _one_line(key: str) -> str:
    # A quoted key of TOML may hold a line break, and each error is one line.
    return key if key.isprintable() else repr(key)


def _guess(name: str, known: Any) -> str:
    close = get_close_matches(name, list(known), n=1)
    return f": did you mean {close[0]}?" if close else f"; there are: {', '.join(known)}"


def _values(
    section: str, kind: type, table: Any, environ: Mapping[str, str], flags: Mapping[str, Any], faults: list[str]
) -> dict[str, Any]:
    values: dict[str, Any] = {}
    for field in dataclasses.fields(kind):
        found = _find(section, field, table if isinstance(table, Mapping) else {}, environ, flags)
        if found is None:
            continue
        origin, raw = found
        try:
            values[field.name] = field.metadata["parse"](raw)
        except ValueError as error:
            faults.append(f"{origin}: {error}")
    return values


def _find(
    section: str,
    field: dataclasses.Field[Any],
    table: Mapping[str, Any],
    environ: Mapping[str, str],
    flags: Mapping[str, Any],
) -> tuple[str, Any] | None:
    """(its origin, as named in errors; the raw value) of the source that wins."""
    flag = flags.get(f"{section}.{field.name}")
    if flag is not None:
        return f"{section}.{field.name}", flag
    for variable in variables_of(section, field):
        # An empty variable in a unit file means "not set".
        if environ.get(variable, "").strip():
            return variable, environ[variable]
    if field.name in table:
        return f"{section}.{field.name}", table[field.name]
    return None
