"""Settings from flags, environment and TOML: precedence, errors, and that all errors are reported together."""

from __future__ import annotations

import contextlib
import string
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash.errors import SettingsError
from md5s3stash.scheme import BucketBase, BucketScheme
from md5s3stash.settings import (
    CORE_SECTIONS,
    FetchSettings,
    RedisSettings,
    S3Settings,
    Settings,
    StashSettings,
    load,
    variables_of,
)

MANY_DIGITS = "1" + "0" * 400


def toml(directory: Path, text: str) -> Path:
    path = directory / "settings.toml"
    path.write_text(text)
    return path


def loaded(file: Path, environ: dict[str, str] | None = None, flags: dict[str, Any] | None = None) -> Settings:
    return load(CORE_SECTIONS, environ or {}, file, flags)


def faults(file: Path, environ: dict[str, str] | None = None) -> list[str]:
    with pytest.raises(SettingsError) as caught:
        loaded(file, environ)
    return str(caught.value).splitlines()


def test_flags_win_over_the_environment_and_that_over_the_file_and_that_over_the_default(tmp_path: Path) -> None:
    file = toml(tmp_path, '[stash]\nbucket_base = "file"\nbucket_scheme = "multibucket"\n[s3]\nendpoint = "file"\n')

    found = loaded(file, {"BUCKET_BASE": "variable", "S3_ENDPOINT": "variable"}, {"stash.bucket_base": "flag"})

    assert found[StashSettings] == StashSettings(("flag",), "multibucket")
    assert found[S3Settings].endpoint == "variable"
    assert found[RedisSettings] == RedisSettings(None, "md5s3stash")


def test_every_key_has_a_long_variable_that_wins_over_its_short_name(tmp_path: Path) -> None:
    environ = {"BUCKET_BASE": "short", "MD5S3STASH_STASH_BUCKET_BASE": "long", "MD5S3STASH_FETCH_MAX_REDIRECTS": "7"}

    found = loaded(toml(tmp_path, ""), environ)

    assert found[StashSettings].bucket_base == ("long",)
    assert found[FetchSettings].max_redirects == 7
    field = StashSettings.__dataclass_fields__["bucket_base"]
    assert variables_of("stash", field) == ("MD5S3STASH_STASH_BUCKET_BASE", "BUCKET_BASE")


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_variable_is_not_set(empty: str, tmp_path: Path) -> None:
    file = toml(tmp_path, '[stash]\nbucket_base = "file"\n[redis]\nurl = ""\n')

    found = loaded(file, {"BUCKET_BASE": empty})

    assert found[StashSettings].bucket_base == ("file",)
    assert found[RedisSettings].url is None


@pytest.mark.parametrize("text", ['"one, two ,,one"', '["one", "two", ""]'])
def test_several_bucket_bases_are_a_list_or_one_text_with_commas_and_each_counts_once(
    text: str, tmp_path: Path
) -> None:
    bases = loaded(toml(tmp_path, f"[stash]\nbucket_base = {text}\n"))[StashSettings].bases()

    assert bases == (BucketBase("one", BucketScheme.SIMPLE), BucketBase("two", BucketScheme.SIMPLE))


def test_every_bucket_base_that_is_wrong_is_told() -> None:
    with pytest.raises(SettingsError) as caught:
        StashSettings(("fine", "no good", "s3://url")).bases()

    assert ["'no good'" in line or "'s3://url'" in line for line in str(caught.value).splitlines()] == [True, True]


def test_no_bucket_base_is_told_by_its_variable() -> None:
    with pytest.raises(SettingsError, match="BUCKET_BASE is not set"):
        StashSettings(()).bases()


@pytest.mark.parametrize(
    ("section", "line"),
    [
        ("stash", "bucket_base = 5"),
        ("stash", "bucket_base = [1]"),
        ("stash", 'bucket_scheme = "shared"'),
        ("stash", "bucket_scheme = true"),
        ("redis", "prefix = 5"),
        ("fetch", "max_bytes = true"),
        ("fetch", "max_bytes = 0"),
        ("fetch", "max_bytes = 1.5"),
        ("fetch", f"max_bytes = {MANY_DIGITS}"),
        ("fetch", 'max_redirects = "many"'),
        ("fetch", "max_redirects = 31"),
        ("fetch", "read_timeout_seconds = nan"),
        ("fetch", "read_timeout_seconds = inf"),
        ("fetch", "read_timeout_seconds = true"),
        ("fetch", "read_timeout_seconds = 0"),
        ("fetch", f"read_timeout_seconds = {MANY_DIGITS}"),
        ("fetch", 'read_timeout_seconds = "soon"'),
        ("fetch", "total_timeout_seconds = 1979-05-27"),
    ],
)
def test_a_value_of_another_kind_or_out_of_bounds_is_one_line_with_its_key(
    section: str, line: str, tmp_path: Path
) -> None:
    told = faults(toml(tmp_path, f"[{section}]\n{line}\n"))

    assert len(told) == 1
    assert told[0].startswith(f"{section}.{line.split(' ')[0]}: ")


@pytest.mark.parametrize(("value", "kept"), [("1", 1), (" 30 ", 30)])
def test_bounds_are_allowed_values(value: str, kept: int, tmp_path: Path) -> None:
    environ = {"MD5S3STASH_FETCH_MAX_REDIRECTS": value, "MD5S3STASH_FETCH_READ_TIMEOUT_SECONDS": "0.1"}

    found = loaded(toml(tmp_path, ""), environ)[FetchSettings]

    assert (found.max_redirects, found.read_timeout_seconds) == (kept, 0.1)


def test_every_fault_is_told_at_once_and_a_key_that_is_almost_right_gets_a_guess(tmp_path: Path) -> None:
    file = toml(tmp_path, '[stash]\nbucket_bsae = "x"\n"two\\nlines" = 1\n[fetsh]\n[fetch]\nmax_redirects = -1\n')

    told = faults(file, {"MD5S3STASH_FETCH_MAX_BYTES": "big"})

    assert len(told) == 5
    assert "stash.bucket_bsae is not a setting: did you mean bucket_base?" in told
    assert "[fetsh] is not a section: did you mean fetch?" in told
    assert any(line.startswith("MD5S3STASH_FETCH_MAX_BYTES: ") for line in told)
    assert any(line.startswith("stash.'two\\nlines' is not a setting; there are: ") for line in told)
    assert any(line.startswith("fetch.max_redirects: ") for line in told)


def test_a_section_written_as_a_key_is_told(tmp_path: Path) -> None:
    assert faults(toml(tmp_path, "stash = 5\n")) == ["stash is a section: write [stash] and its keys below"]


def test_sections_of_the_other_programs_are_passed_over_where_that_is_asked(tmp_path: Path) -> None:
    file = toml(tmp_path, '[spool]\ndir = "/var/spool"\n')

    assert load(CORE_SECTIONS, {}, file, others_allowed=True)[StashSettings] == StashSettings()


@pytest.mark.parametrize("content", [b"[stash", b"a = \xff", b"a = " + b"[" * 5000, b"a = " + b"1" * 5000])
def test_a_file_that_is_no_toml_is_one_line(content: bytes, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_bytes(content)

    told = faults(file)

    assert len(told) == 1
    assert str(file) in told[0]


def test_a_named_file_that_cannot_be_read_is_one_line(tmp_path: Path) -> None:
    assert faults(tmp_path / "missing") == [f"{tmp_path / 'missing'}: there is no such settings file"]
    assert faults(tmp_path) == [f"{tmp_path}: cannot be read: Is a directory"]
    assert len(faults(Path("nul\0byte"))) == 1


SOME_KEYS = st.sampled_from([f"{name}.{field.name}" for name, kind in CORE_SECTIONS.items() for field in fields(kind)])
ANYTHING = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=5,
)
VARIABLES = st.sampled_from(
    [
        variable
        for name, kind in CORE_SECTIONS.items()
        for field in fields(kind)
        for variable in variables_of(name, field)
    ]
)
TOML_LINES = st.one_of(
    st.text(string.printable),
    st.sampled_from([f"[{name}]" for name in CORE_SECTIONS]),
    st.builds(
        "{} = {}".format,
        SOME_KEYS,
        st.integers() | st.floats() | st.sampled_from(['"x"', "[1]", "{}", "true", "1979-05-27", "[[]]"]),
    ),
)


@settings(max_examples=60, deadline=None)
@given(
    lines=st.lists(TOML_LINES, max_size=6),
    environ=st.dictionaries(VARIABLES, st.text()),
    flags=st.dictionaries(SOME_KEYS, ANYTHING),
    others_allowed=st.booleans(),
)
def test_no_input_makes_load_raise_anything_but_a_settings_error(
    lines: list[str],
    environ: dict[str, str],
    flags: dict[str, Any],
    others_allowed: bool,
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    file = tmp_path_factory.getbasetemp() / "any.toml"
    file.write_text("\n".join(lines))

    with contextlib.suppress(SettingsError):
        load(CORE_SECTIONS, environ, file, flags, others_allowed=others_allowed)[StashSettings].bases()
