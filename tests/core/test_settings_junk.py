"""For any settings, each error is one line that names its key; wrong arguments are refused in one error."""

from __future__ import annotations

import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash.cli import build_parser
from md5s3stash.errors import SettingsError
from md5s3stash.settings import load, variables_of
from md5s3stash_daemon.config.load import as_toml, read_settings
from md5s3stash_daemon.config.settings import SECTIONS
from md5s3stash_daemon.ctl import main as ctl
from md5s3stash_daemon.enqueue import main as enqueue
from tests.support.strange import STRANGE_TEXT, STRANGE_VALUES

FIELDS = [(section, field) for section, kind in SECTIONS.items() for field in dataclasses.fields(kind)]
VARIABLES = {
    variable: f"{section}.{field.name}" for section, field in FIELDS for variable in variables_of(section, field)
}
# The environment cannot hold NUL, or half surrogate pairs other than those for undecodable bytes.
OF_ENVIRONMENT = STRANGE_TEXT.map(
    lambda text: text.encode("utf-8", "replace").replace(b"\0", b"\xff").decode("utf-8", "surrogateescape")
)


REQUIRED = ("BUCKET_BASE", "REDIS_URL")


def faults_of(read: Callable[[], object], kind: type[Exception] = SettingsError) -> list[str]:
    """The lines of the only error that it may raise."""
    try:
        read()
    except kind as error:
        # Not splitlines, which knows more line ends than a terminal.
        return str(error).split("\n")
    return []


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(sorted(VARIABLES)), OF_ENVIRONMENT)
def test_a_variable_of_any_text_is_taken_or_named_in_one_line(variable: str, value: str) -> None:
    for line in faults_of(lambda: as_toml(load(SECTIONS, {variable: value}, Path("/dev/null")))):
        assert line.startswith(f"{variable}: ")
        assert line.isprintable()


@settings(max_examples=200, deadline=None)
@given(st.sampled_from(FIELDS), STRANGE_VALUES)
def test_a_key_of_any_value_is_taken_or_named_in_one_line(
    of_field: tuple[str, dataclasses.Field[object]], value: object
) -> None:
    _, field = of_field
    # `load` adds the key before it.
    assert len(faults_of(lambda: field.metadata["parse"](value), ValueError)) <= 1


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200) | STRANGE_TEXT.map(lambda text: text.encode("utf-8", "surrogatepass")))
def test_a_file_of_any_bytes_is_taken_or_refused_in_lines(content: bytes) -> None:
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(content)
        file.flush()
        for line in faults_of(lambda: load(SECTIONS, {}, Path(file.name))):
            assert line.strip()
            assert line.isprintable()


@settings(max_examples=100, deadline=None)
@given(st.sampled_from(FIELDS), STRANGE_TEXT, STRANGE_TEXT)
def test_keys_and_values_of_any_text_in_a_file_are_named(
    of_field: tuple[str, dataclasses.Field[object]], key: str, value: str
) -> None:
    section, field = of_field
    content = f"[{section}]\n{field.name} = {json.dumps(value)}\n{json.dumps(key)} = 1\n"
    with tempfile.NamedTemporaryFile(suffix=".toml") as file:
        file.write(content.encode("utf-8", "backslashreplace"))
        file.flush()
        for line in faults_of(lambda: read_settings({}, Path(file.name))):
            assert line.isprintable()
            assert line.startswith((f"{section}.", *REQUIRED, file.name))


ARGUMENTS = st.lists(
    st.sampled_from(["--", "-", "--json", "--limit", "--jobs", "-b", "--config", "--netrc", "--cursor", "queue", "log"])
    | STRANGE_TEXT,
    max_size=5,
)


@settings(max_examples=200, deadline=None)
@given(ARGUMENTS, st.sampled_from([build_parser, ctl.build_parser, enqueue.build_parser]))
def test_arguments_of_any_text_are_taken_or_refused_in_one_error(arguments: Sequence[str], parser: object) -> None:
    assert callable(parser)
    if any(argument in ("-h", "--version") or argument.startswith(("--h", "--v")) for argument in arguments):
        return
    for line in faults_of(lambda: parser().parse_args(arguments)):
        assert line.strip()
