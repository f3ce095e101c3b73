"""`md5s3stash-producer`: keys of producers are on the spool's volume, and a new box has those that the last one had."""

from __future__ import annotations

import grp
import io
import os
import pwd
import stat
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from aws.image import producers

ALICE = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIE0y91FyNJegBaruSuhqta90GYRa3EjsZVmZhOsTBkVB alice@example.org"
BOB = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJY8lMowBIyS/R1xOyb8hRGFlqqMm3DUnTAK32jim8QQ bob@example.org"


@dataclass
class Box:
    """A box without its accounts: `useradd` makes one of the user who runs the tests."""

    volume: Path
    keys: Path
    commands: list[list[str]] = field(default_factory=list)
    accounts: set[str] = field(default_factory=set)

    def run(self, *words: str) -> int:
        return producers.main(words, self.volume, self.keys)

    def key_of(self, name: str) -> str:
        return (self.keys / name).read_text()


def boot(volume: Path, keys: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    box = Box(volume, keys)
    keys.mkdir()

    def run(command: list[str], *, check: bool) -> None:
        box.commands.append(command)
        if command[0] == "useradd":
            box.accounts.add(command[-1])

    class Group:
        @property
        def gr_mem(self) -> list[str]:
            return [*box.accounts]

    here = pwd.getpwuid(os.getuid())
    monkeypatch.setattr(Path, "is_mount", lambda path: path == volume)
    monkeypatch.setattr(subprocess, "run", run)
    monkeypatch.setattr(grp, "getgrnam", lambda _: Group())
    monkeypatch.setattr(producers, "_account", lambda name: here if name in {*box.accounts, "root"} else None)
    return box


@pytest.fixture
def box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Box:
    (tmp_path / "volume").mkdir()
    return boot(tmp_path / "volume", tmp_path / "keys", monkeypatch)


def given(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.StringIO(text))


def test_a_producer_who_is_added_is_let_in_by_the_next_box_too(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(f"# hers\n{ALICE}\n\n", monkeypatch)
    assert box.run("add", "alice") == 0
    assert box.key_of("alice") == f"{ALICE}\n"

    box = boot(box.volume, tmp_path / "next", monkeypatch)
    assert box.run("apply") == 0

    assert box.key_of("alice") == f"{ALICE}\n"
    assert [command[0] for command in box.commands] == ["useradd"]
    # sshd refuses a file that others may write to, and lets no user but root read the volume's.
    assert stat.S_IMODE((box.keys / "alice").stat().st_mode) & ~0o644 == 0
    assert stat.S_IMODE((box.volume / "producers").stat().st_mode) == 0o700


def test_a_revoked_key_stays_revoked_on_a_box_whose_image_has_it(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given(ALICE, monkeypatch)
    assert box.run("add", "alice") == 0
    assert box.run("revoke", "alice") == 0
    assert box.key_of("alice") == ""
    assert box.commands[-1] == ["pkill", "--signal", "KILL", "--uid", "alice"]

    box = boot(box.volume, tmp_path / "next", monkeypatch)
    (box.keys / "alice").write_text(ALICE)
    (box.keys / "bob").write_text(BOB)
    assert box.run("apply") == 0

    assert (box.key_of("alice"), box.key_of("bob")) == ("", BOB)


def test_new_keys_take_the_place_of_the_old_ones(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    for keys in (ALICE, BOB):
        given(keys, monkeypatch)
        assert box.run("add", "alice") == 0

    assert box.key_of("alice") == f"{BOB}\n"


def test_the_list_shows_whose_keys_are_let_in(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name, keys in {"alice": ALICE, "bob": BOB}.items():
        given(keys, monkeypatch)
        box.run("add", name)
    box.run("revoke", "bob")

    assert box.run("list") == 0
    (alice, bob) = capsys.readouterr().out.splitlines()
    assert alice == "alice\tSHA256:jStBi5oUhwlJSCQ0CR1hFx8nvkvMbVY+e+jUXcQDKY0 alice@example.org"
    assert bob == "bob\trevoked"


@pytest.mark.parametrize(
    ("name", "keys", "reason"),
    [
        ("Dr. Who", ALICE, "is not a user name"),
        ("../alice", ALICE, "is not a user name"),
        ("root", ALICE, "an account of this box that is not a producer's"),
        ("alice", "", "no keys on standard input"),
        ("alice", "-----BEGIN OPENSSH PRIVATE KEY-----", "is not a public key"),
        ("alice", "ssh-rsa " + ALICE.split()[1], "is not a public key"),
        ("alice", f'command="sh" {ALICE}', "is not a public key"),
        ("alice", f"{ALICE}\nssh-ed25519 %", "is not a public key"),
    ],
)
def test_what_cannot_be_a_producer_is_refused_and_changes_nothing(
    name: str, keys: str, reason: str, box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(keys, monkeypatch)

    assert box.run("add", name) == 1
    assert reason in capsys.readouterr().err
    assert [*box.keys.iterdir(), *(box.volume / "producers").iterdir(), *box.commands] == []


def test_nothing_is_kept_where_the_next_box_would_not_find_it(
    box: Box, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(Path, "is_mount", lambda _: False)
    given(ALICE, monkeypatch)

    assert box.run("add", "alice") == 1
    assert "is not mounted" in capsys.readouterr().err


def test_a_box_lets_all_others_in_though_one_name_is_not_a_producers(
    box: Box, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    given(BOB, monkeypatch)
    box.run("add", "bob")
    (box.volume / "producers" / "root").write_text(ALICE)
    box = boot(box.volume, tmp_path / "next", monkeypatch)

    assert box.run("apply") == 1
    assert "root: 'root' is an account of this box" in capsys.readouterr().err
    assert [file.name for file in box.keys.iterdir()] == ["bob"]
