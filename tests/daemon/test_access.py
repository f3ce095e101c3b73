"""Producers' folders and files whose modes exclude the daemon: it takes them through the access helper. Both processes
have the user and the capabilities of their units.
"""

from __future__ import annotations

import contextlib
import errno
import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from md5s3stash_daemon.disk import access, access_helper
from md5s3stash_daemon.disk.access import READ, READ_WRITE_SEARCH, pack, parse
from md5s3stash_daemon.disk.beneath import Place
from md5s3stash_daemon.spool.spool import Spool
from tests.support import warm
from tests.support.mounts import with_mounts
from tests.support.servers import REPOSITORY, wait_until
from tests.support.strangers import DAEMON, DROP_GROUP, PRODUCER

# Needs several users.
pytestmark = pytest.mark.needs_namespaces(users=True)

ENVIRONMENT = {**os.environ, "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'daemon'}"}
ACL, DEFAULT_ACL = "system.posix_acl_access", "system.posix_acl_default"


@dataclass(frozen=True, slots=True)
class Appliance:
    """A spool with the owners and modes that systemd-tmpfiles sets."""

    spool: Path
    socket: Path

    @property
    def incoming(self) -> Path:
        return self.spool / "incoming"

    def folder(self, name: str, mode: int, group: int = DROP_GROUP) -> Path:
        """Makes a folder as a producer does."""
        path = self.incoming / name
        path.mkdir()
        os.chown(path, PRODUCER, group)
        path.chmod(mode)
        return path

    def file(self, name: str, mode: int = 0o600, group: int = DROP_GROUP) -> Path:
        path = self.incoming / name
        path.write_bytes(os.fsencode(f"content of {os.path.basename(name)}"))
        os.chown(path, PRODUCER, group)
        path.chmod(mode)
        return path

    def passes(self, count: int = 1, helped: bool = True) -> dict[str, Any]:
        """Runs passes of the daemon; returns what they did."""
        done: dict[str, Any] = run("passes", self.spool, self.socket if helped else "", count)
        return done

    def ask(self, request: bytes) -> bytes:
        """Sends the helper a request as the daemon's user; returns its answer."""
        code = f"import os, socket, sys; os.setresuid({DAEMON}, {DAEMON}, {DAEMON}); " + (
            "s = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET); s.connect(sys.argv[1]); "
            "s.send(bytes.fromhex(sys.argv[2])); sys.stdout.buffer.write(s.recv(9))"
        )
        return subprocess.run(
            [sys.executable, "-c", code, self.socket, request.hex()], capture_output=True, timeout=60, check=True
        ).stdout


def run(*arguments: object, mounts: tuple[str, ...] = ()) -> Any:
    program = ["tests.support.unit_programs", *map(str, arguments)]
    if mounts:
        command = with_mounts(mounts, [sys.executable, "-m", *program])
        done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, timeout=120, check=False)
    else:
        done = warm.run(program, ENVIRONMENT, timeout=120)
    assert done.returncode == 0, done.stderr.decode()
    return json.loads(done.stdout)


@pytest.fixture
def appliance() -> Iterator[Appliance]:
    # Not below pytest's directory, which only its user may enter.
    with tempfile.TemporaryDirectory(prefix="access-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        spool = Path(directory, "spool")
        Spool(spool).create()
        for path in (spool, *spool.iterdir()):
            os.chown(path, DAEMON, DAEMON)
        os.chown(spool / "incoming", DAEMON, DROP_GROUP)
        (spool / "incoming").chmod(0o2770)
        yield Appliance(spool, Path(directory, "socket"))


@pytest.fixture
def helper(appliance: Appliance, tmp_path: Path) -> Iterator[warm.Fork]:
    program = ["tests.support.unit_programs", "helper", str(appliance.socket), str(appliance.spool)]
    process = warm.start(program, ENVIRONMENT, tmp_path / "helper.log")
    try:
        wait_until(appliance.socket.exists, "a socket")
        yield process
    finally:
        process.kill()
        process.wait()


def album(mode: int, group: int = DROP_GROUP, file_mode: int = 0o600) -> Callable[[Appliance], list[str]]:
    def make(appliance: Appliance) -> list[str]:
        folder = appliance.folder("album", 0o700, group)
        appliance.file("album/1.tif", file_mode, group)
        folder.chmod(mode)
        return ["album/1.tif"]

    return make


def nested(appliance: Appliance) -> list[str]:
    folders = [appliance.folder(name, 0o700) for name in ("a", "a/b", "a/b/c", "a/b/c/d")]
    appliance.file("a/b/c/d/1.tif")
    appliance.file("a/b/2.tif", 0o644)
    for folder, mode in zip(folders, (0o755, 0o700, 0o555, 0o500), strict=True):
        folder.chmod(mode)
    return ["a/b/c/d/1.tif", "a/b/2.tif"]


def file_alone(appliance: Appliance) -> list[str]:
    appliance.file("1.tif", 0o600)
    appliance.file("2.tif", 0o000)
    appliance.file("3.tif", 0o640, PRODUCER)
    return ["1.tif", "2.tif", "3.tif"]


def with_default_acl(appliance: Appliance) -> list[str]:
    folder = appliance.folder("album", 0o755)
    none = 0xFFFFFFFF
    entries = [(1, 7, none), (2, 7, PRODUCER), (4, 0, none), (16, 7, none), (32, 0, none)]
    os.setxattr(folder, DEFAULT_ACL, pack(entries))
    appliance.file("album/1.tif")
    return ["album/1.tif"]


def with_an_acl_that_names_us_and_withholds_it(appliance: Appliance) -> list[str]:
    folder = appliance.folder("album", 0o700)
    appliance.file("album/1.tif")
    none = 0xFFFFFFFF
    entries = [(1, 7, none), (2, 7, DAEMON), (4, 0, none), (16, 0, none), (32, 0, none)]
    os.setxattr(folder, ACL, pack(entries))
    return ["album/1.tif"]


def of_odd_names(appliance: Appliance) -> list[str]:
    names = ["\udcff\udcfe", "new\nline", "\u202e", "-rf", " "]
    for name in names:
        appliance.folder(name, 0o700)
        appliance.file(f"{name}/{name}")
    return [f"{name}/{name}" for name in names]


def with_a_path_as_long_as_the_spool_takes(appliance: Appliance) -> list[str]:
    names, name = [], "d" * 200
    while len(os.fsencode(appliance.spool)) + len(name) < 3800:
        names.append(name)
        name = f"{name}/{'d' * 200}"
    for folder in names:
        appliance.folder(folder, 0o755)
    appliance.file(f"{names[-1]}/1.tif")
    return [f"{names[-1]}/1.tif"]


CLOSED = {
    "0755": album(0o755),
    "0700": album(0o700),
    "0555": album(0o555),
    "0000": album(0o000),
    "setgid": album(0o2755),
    "of a foreign group": album(0o750, group=PRODUCER),
    "sticky": album(0o1777),
    "sticky, setgid and closed": album(0o3700),
    "sticky, of a foreign group": album(0o1755, group=PRODUCER, file_mode=0o644),
    "nested": nested,
    "files alone": file_alone,
    "with a default acl": with_default_acl,
    "with an acl whose mask withholds": with_an_acl_that_names_us_and_withholds_it,
    "odd names": of_odd_names,
    "long path": with_a_path_as_long_as_the_spool_takes,
}


@pytest.mark.usefixtures("helper")
@pytest.mark.parametrize("make", CLOSED.values(), ids=CLOSED)
def test_a_closed_upload_is_taken_whole_in_one_pass(
    appliance: Appliance, make: Callable[[Appliance], list[str]]
) -> None:
    names = make(appliance)

    done = appliance.passes()

    assert done["taken"] == {name: f"content of {os.path.basename(name)}" for name in names}
    assert done["left"]["unclaimable"] == [0, ""]
    # Its folders are removed too.
    assert os.listdir(appliance.incoming) == []


def test_without_the_helper_it_stays_and_is_told(appliance: Appliance) -> None:
    album(0o755)(appliance)
    appliance.folder("closed", 0o700)
    appliance.file("closed/1.tif")

    without_setting, without_socket = appliance.passes(helped=False), appliance.passes()

    assert without_setting == without_socket
    assert without_setting["taken"] == {}
    assert without_setting["left"]["unclaimable"][0] == 2
    assert "Permission denied" in without_setting["left"]["unclaimable"][1]


@pytest.mark.usefixtures("helper")
def test_the_daemon_s_user_is_let_in_and_nobody_else(appliance: Appliance) -> None:
    folder = appliance.folder("album", 0o2750, PRODUCER)

    assert appliance.ask(b"wincoming/album") == b"y"

    before = {1: 7, 4: 5, 32: 0}
    granted = {(tag, owner): allowed for tag, allowed, owner in parse(os.getxattr(folder, ACL))}
    assert {tag: allowed for (tag, _), allowed in granted.items() if tag in before} == before
    assert {owner: allowed for (tag, owner), allowed in granted.items() if tag == 2} == {DAEMON: 7}
    found = folder.stat()
    assert (found.st_uid, found.st_gid) == (PRODUCER, PRODUCER)


@pytest.mark.usefixtures("helper")
def test_a_folder_of_the_drop_group_keeps_its_setgid_bit(appliance: Appliance) -> None:
    folder = appliance.folder("album", 0o2755)

    assert appliance.ask(b"wincoming/album") == b"y"
    assert folder.stat().st_mode & stat.S_ISGID


@pytest.mark.usefixtures("helper")
def test_nothing_outside_of_incoming_is_opened(appliance: Appliance) -> None:
    secret = appliance.spool.parent / "secret"
    secret.mkdir(mode=0o700)
    (secret / "key").write_text("key")
    (secret / "key").chmod(0o600)
    appliance.folder("album", 0o755)
    (appliance.incoming / "album/link").symlink_to(secret)
    (appliance.incoming / "album/key").symlink_to(secret / "key")
    os.mkfifo(appliance.incoming / "album/fifo", 0o600)

    for name in (b"album/link", b"album/link/key", b"album/key", b"album/fifo"):
        assert appliance.ask(b"rincoming/" + name) == b"n", name
    for name in (b"../../secret", b"album/../../../secret", b"..", b".", b"", b"/", b"album//x", os.fsencode(secret)):
        assert appliance.ask(b"wincoming/" + name) == b"n", name
    for request in (b"x", b"xincoming/album", b"wincoming/album\0", b"wincoming/gone", b"rincoming" + b"/y" * 2000):
        assert appliance.ask(request) == b"n", request
    for request in (
        b"w" + b"x" * 5000,
        b"wincoming",
        b"wincoming/",
        b"w",
        b"w../secret",
        b"whold/x",
        b"w/incoming/album",
    ):
        assert appliance.ask(request) == b"n", request

    for path in (secret, secret / "key"):
        with pytest.raises(OSError, match=os.strerror(errno.ENODATA)):
            os.getxattr(path, ACL)
    assert appliance.ask(b"wincoming/album") == b"y"


def test_the_helper_answers_only_its_own_user(appliance: Appliance, helper: warm.Fork) -> None:
    appliance.folder("album", 0o755)

    # Root may connect regardless of the socket's mode. The helper closes before or after the request is sent.
    with pytest.raises(ConnectionError):
        access_helper.ask(str(appliance.socket), "incoming/album", READ_WRITE_SEARCH, 60)
    code = f"import os, socket, sys; os.setresuid({PRODUCER}, {PRODUCER}, {PRODUCER}); "
    code += "socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET).connect(sys.argv[1])"
    refused = subprocess.run([sys.executable, "-c", code, appliance.socket], capture_output=True, check=False)
    assert b"PermissionError" in refused.stderr
    assert appliance.ask(b"wincoming/album") == b"y"
    assert helper.poll() is None


def test_the_daemon_cannot_open_a_folder_itself_and_the_helper_cannot_where_there_are_no_lists(
    appliance: Appliance,
) -> None:
    appliance.folder("album", 0o755)
    assert run("open-up", "md5s3stashd.service", appliance.incoming, "album") is False

    without_lists = (
        f"mount -t ramfs none {appliance.incoming}",
        f"mkdir -m 755 {appliance.incoming}/album && chown {PRODUCER} {appliance.incoming}/album",
    )
    assert run("open-up", "md5s3stash-access.service", appliance.incoming, "album", mounts=without_lists) is False
    assert run("open-up", "md5s3stash-access.service", appliance.incoming, "album") is True


def test_a_helper_that_refuses_is_asked_a_bounded_number_of_times(appliance: Appliance) -> None:
    for number in range(250):
        appliance.folder(f"{number:03}", 0o700)
        appliance.file(f"{number:03}/1.tif")
    asked: list[bytes] = []
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(appliance.socket))
        os.chown(appliance.socket, DAEMON, DAEMON)
        listening.listen(16)

        def refuse() -> None:
            with contextlib.suppress(OSError):
                while True:
                    connection, _ = listening.accept()
                    with connection:
                        asked.append(connection.recv(5000))
                        connection.send(b"n")

        threading.Thread(target=refuse, daemon=True).start()
        first = appliance.passes()
        asked_by_one_pass = len(asked)
        asked.clear()
        # As one daemon: it asks about each folder once, and no folder prevents a request for another.
        appliance.passes(6)
        asked_by_six = sorted(asked)
        listening.shutdown(socket.SHUT_RDWR)

    assert first["left"]["unclaimable"][0] == 250
    assert asked_by_one_pass == 100
    assert asked_by_six == [f"wincoming/{number:03}".encode() for number in range(250)]


def test_a_helper_that_hangs_costs_a_pass_one_wait(appliance: Appliance) -> None:
    for number in range(20):
        appliance.folder(f"{number:03}", 0o700)
        appliance.file(f"{number:03}/1.tif")
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(appliance.socket))
        os.chown(appliance.socket, DAEMON, DAEMON)
        listening.listen(16)
        # Not a test of speed: twenty waits of two seconds would take forty.
        begun = time.monotonic()
        done = appliance.passes()
        seconds = time.monotonic() - begun

    assert done["left"]["unclaimable"][0] == 20
    assert seconds < 30


@pytest.mark.parametrize(("protected", "opened"), [("1\n", True), ("0\n", False), (None, False)])
def test_a_file_of_several_names_is_opened_only_where_links_to_others_files_are_forbidden(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, protected: str | None, opened: bool
) -> None:
    monkeypatch.setattr(access, "PROTECTED_LINKS", str(tmp_path / "protected_hardlinks"))
    if protected is not None:
        (tmp_path / "protected_hardlinks").write_text(protected)
    (tmp_path / "one").write_text("x")
    os.link(tmp_path / "one", tmp_path / "two")

    assert access.grant(Place(str(tmp_path), "two"), READ) is opened


def test_the_program_imports_nothing_that_is_large_and_ends_when_nobody_asks(tmp_path: Path) -> None:
    code = (
        "import os, sys; os.dup2(int(sys.argv[2]), 3); from md5s3stash_daemon.disk import access_helper; "
        "access_helper.serve.__defaults__ = (0.1,); os.environ['LISTEN_FDS'] = '1'; "
        "status = access_helper.main([sys.argv[1]]); "
        "print(status, sorted(name for name in sys.modules if name.startswith('md5s3stash')), 'asyncio' in sys.modules)"
    )
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(str(tmp_path / "socket"))
        listening.listen(1)
        done = subprocess.run(
            [sys.executable, "-c", code, tmp_path, str(listening.fileno())],
            env=ENVIRONMENT,
            pass_fds=[listening.fileno()],
            capture_output=True,
            timeout=60,
            check=False,
        )

    names = ("", ".disk", ".disk.access", ".disk.access_helper", ".disk.beneath")
    ours = [f"md5s3stash_daemon{name}" for name in names]
    assert done.stdout.decode() == f"0 {ours} False\n", done.stderr.decode()


def test_the_program_started_by_hand_says_how_it_is_used() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "md5s3stash_daemon.disk.access_helper"],
        env=ENVIRONMENT,
        capture_output=True,
        check=False,
    )

    assert (done.returncode, done.stderr[:7]) == (2, b"usage: ")
