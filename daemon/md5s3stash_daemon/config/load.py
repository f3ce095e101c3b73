"""Reads all of the daemon's settings, checks them together, and prints them."""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import redis

from md5s3stash.batch import origin_rules
from md5s3stash.cache import connect_redis
from md5s3stash.errors import SettingsError
from md5s3stash.retry import RetryPolicy
from md5s3stash.s3.store import connect
from md5s3stash.scheme import KeyTemplate
from md5s3stash.settings import Faults, FetchSettings, RedisSettings, S3Settings, Settings, StashSettings, load
from md5s3stash_daemon.config.notice_settings import NoticeSettings
from md5s3stash_daemon.config.settings import SECTIONS, SpoolSettings

# The spool does the retries.
NO_RETRY = RetryPolicy(attempts=1)


def read_settings(environ: Mapping[str, str], file: Path | None, flags: Mapping[str, Any] | None = None) -> Settings:
    """The settings, complete and checked, without connecting anywhere. Raises SettingsError with a line per error."""
    faults = Faults()
    settings: Settings | None = None
    with faults.noted():
        settings = load(SECTIONS, environ, file, flags)
        _require_template(settings)
    for name, check in _CHECKS.items():
        with faults.noted():
            # On its own: reports a section's missing settings even if another section is wrong.
            check(load({name: SECTIONS[name]}, environ, file, flags, others_allowed=True))
    # Both passes report a section's own errors: keep each once.
    faults.lines = list(dict.fromkeys(faults.lines))
    faults.raise_any()
    assert settings is not None
    return settings


def redis_client(settings: Settings) -> redis.Redis:
    """The client of the ledger; does not connect yet. Raises SettingsError."""
    of_redis = settings[RedisSettings]
    if of_redis.url is None:
        raise SettingsError("REDIS_URL is not set: set it to the Redis where the daemon records what it stashes")
    return connect_redis(of_redis.url, of_redis.timeout_seconds)


def _require_template(settings: Settings) -> None:
    """Raises SettingsError if folders are collections and keys have none."""
    if settings[SpoolSettings].collections and settings[StashSettings].key_template != KeyTemplate.COLLECTION:
        raise SettingsError(
            f"spool.collections is true: set stash.key_template (KEY_TEMPLATE) to {KeyTemplate.COLLECTION.value!r} too"
        )


_CHECKS: Mapping[str, Callable[[Settings], object]] = {
    "stash": lambda settings: settings[StashSettings].bases(),
    "redis": redis_client,
    "fetch": lambda settings: origin_rules(settings[FetchSettings]),
    "s3": lambda settings: connect(settings[S3Settings].endpoint),
    "notices": lambda settings: settings[NoticeSettings].check(),
}


def as_toml(settings: Settings) -> str:
    """The current settings as a settings file, without secrets."""
    return "\n".join(line for name, kind in SECTIONS.items() for line in _section(name, settings[kind]))


def _section(name: str, values: Any) -> Iterator[str]:
    yield f"[{name}]"
    for field in dataclasses.fields(values):
        value = getattr(values, field.name)
        yield f"# {field.name} is not set" if value is None else f"{field.name} = {toml_value(value)}"
    yield ""


def toml_value(value: Any) -> str:
    """The value of a setting in TOML, without credentials."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, (int, float)):
        return f"{value:g}" if isinstance(value, float) else str(value)
    if isinstance(value, tuple):
        return f"[{', '.join(map(toml_value, value))}]"
    return json.dumps(without_credentials(str(value)), ensure_ascii=False)


def without_credentials(text: str) -> str:
    """A URL with `***` for its user and password, and for a password in its query."""
    # Up to the last @: a password may contain an @ and slashes.
    text = re.sub(r"://.*@", "://***@", text, flags=re.DOTALL)
    return re.sub(r"([?&]password=)[^&]*", r"\1***", text)


def delays_of(settings: SpoolSettings) -> RetryPolicy:
    """Delays between the attempts of a file. Half is random, so that files that failed together spread out."""
    return RetryPolicy(
        first_delay_seconds=settings.first_delay_seconds, max_delay_seconds=settings.max_delay_seconds, jitter=0.5
    )


def probe_delays_of(settings: SpoolSettings) -> RetryPolicy:
    """Delays between probes of an unavailable service."""
    return RetryPolicy(
        first_delay_seconds=settings.probe_seconds, max_delay_seconds=settings.max_probe_seconds, jitter=0.1
    )
