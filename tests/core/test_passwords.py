"""Which credentials are sent to which source; no message contains one."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from md5s3stash.errors import SettingsError
from md5s3stash.passwords import PASSWORD_VARIABLE, Passwords

SECRET = "s3cret-0f-the-curat0r"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


def netrc(path: Path, text: str, mode: int = 0o600) -> str:
    path.write_text(text)
    path.chmod(mode)
    return str(path)


def test_without_options_nothing_is_sent_even_where_a_netrc_file_lies_ready(home: Path) -> None:
    netrc(home / ".netrc", f"default login curator password {SECRET}\n")

    passwords = Passwords.from_options(None, None, None, {PASSWORD_VARIABLE: SECRET})

    assert passwords.for_source("https://example.org/a") is None


def test_an_option_wins_over_the_variable_and_that_over_the_default_netrc_file(home: Path) -> None:
    netrc(home / ".netrc", "machine example.org login curator password filed\n")
    url = "https://example.org/a"
    environ = {PASSWORD_VARIABLE: "variable"}

    assert Passwords.from_options("curator", "option", None, environ).for_source(url) == ("curator", "option")
    assert Passwords.from_options("curator", None, None, environ).for_source(url) == ("curator", "variable")
    assert Passwords.from_options("curator", None, None, {}).for_source(url) == ("curator", "filed")


def test_a_name_on_the_command_line_goes_with_web_urls_alone() -> None:
    passwords = Passwords.from_options("curator", SECRET, None, {})

    assert passwords.for_source("https://anywhere.example/") == ("curator", SECRET)
    # The fetch refuses it with a reason: without the password the URL would fail with an unclear 401.
    assert passwords.for_source("http://anywhere.example/") == ("curator", SECRET)
    for source in ("/tmp/a", "file:///tmp/a", "-", "", "httpsomething"):
        assert passwords.for_source(source) is None


def test_netrc_entries_go_to_their_host_over_https_alone(home: Path) -> None:
    file = netrc(
        home / "secrets",
        f"machine One.Example login first password {SECRET}\n"
        "machine two.example login second password other\ndefault login anyone password general\n",
    )
    passwords = Passwords.from_options(None, None, file, {})

    assert passwords.for_source("https://one.example/a") == ("first", SECRET)
    assert passwords.for_source("https://ONE.example:8443/a") == ("first", SECRET)
    assert passwords.for_source("https://two.example/a") == ("second", "other")
    assert passwords.for_source("https://else.example/") == ("anyone", "general")
    assert passwords.for_source("http://one.example/a") is None
    assert passwords.for_source("https://[broken/") is None


def test_a_user_name_picks_its_own_entries_of_the_netrc_file(home: Path) -> None:
    file = netrc(
        home / "secrets", f"machine a.example login curator password {SECRET}\nmachine b.example login x password y\n"
    )
    passwords = Passwords.from_options("curator", None, file, {})

    assert passwords.for_source("https://a.example/") == ("curator", SECRET)
    assert passwords.for_source("https://b.example/") is None


@pytest.mark.parametrize(
    ("username", "password", "file", "told"),
    [
        (None, SECRET, None, "-p needs -u"),
        ("curator", None, None, f"no password for -u curator: set {PASSWORD_VARIABLE}, or add the host to ~/.netrc"),
        ("curator", None, "missing", "--netrc missing: there is no such file"),
        (None, None, "missing", "--netrc missing: there is no such file"),
        ("cura:tor", SECRET, None, "cannot hold a colon"),
    ],
)
def test_a_part_that_is_missing_is_told(
    username: str | None, password: str | None, file: str | None, told: str
) -> None:
    with pytest.raises(SettingsError, match=told) as caught:
        Passwords.from_options(username, password, file, {})
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize(
    "text",
    [
        f"machine example.org login curator password {SECRET} {SECRET}\n",
        f"{SECRET}\n",
        f"machine example.org login curator passwort {SECRET}\n",
    ],
)
def test_a_netrc_file_that_cannot_be_read_is_told_without_quoting_it(text: str, home: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        Passwords.from_options(None, None, netrc(home / "secrets", text), {})

    shown = f"{caught.value!r} {caught.value.__cause__!r}"
    assert "cannot be read as a netrc file" in shown
    assert SECRET not in shown
    assert "\n" not in str(caught.value)


def test_a_directory_is_no_netrc_file(home: Path) -> None:
    with pytest.raises(SettingsError, match="cannot be read as a netrc file"):
        Passwords.from_options(None, None, str(home), {})


def test_the_default_netrc_file_is_refused_while_others_may_read_it(home: Path) -> None:
    text = f"machine example.org login curator password {SECRET}\n"
    netrc(home / ".netrc", text, 0o644)

    with pytest.raises(SettingsError, match=r"chmod 600 ~/\.netrc"):
        Passwords.from_options("curator", None, None, {})


def test_a_named_netrc_file_that_others_may_read_is_warned_about(home: Path, caplog: pytest.LogCaptureFixture) -> None:
    file = netrc(home / "secrets", f"machine example.org login curator password {SECRET}\n", 0o640)

    with caplog.at_level(logging.WARNING):
        passwords = Passwords.from_options(None, None, file, {})

    assert passwords.for_source("https://example.org/") == ("curator", SECRET)
    assert [record.getMessage() for record in caplog.records] == [f"{file} holds passwords and is open to other users"]


def test_no_secret_shows_in_a_representation() -> None:
    shown = repr(Passwords(("curator", SECRET), {"host": ("a", SECRET)}, ("b", SECRET)))

    assert SECRET not in shown
