"""A sealed process is refused all that an attacker in it would try; its channel takes nothing but messages."""

from __future__ import annotations

import json
import os
import socket
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash.sealed import landlock, seccomp
from md5s3stash.sealed.channel import BrokenMessage, Channel
from md5s3stash.sealed.command import sealed_command
from md5s3stash.sealed.process import missing, small_environment
from tests.support import sealed_attempts
from tests.support.reachable import SECRET, reachable, unrefused

# Some containers lack it. Then programs in a room read what this user may read.
HAS_LANDLOCK = "landlock" not in missing()


@pytest.fixture
def ends() -> Iterator[tuple[Channel, socket.socket]]:
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield Channel(ours), theirs


def tried(how: str, directory: Path) -> tuple[dict[str, str], bool]:
    """How the attempts ended, and whether nothing outside has seen of them."""
    with reachable(directory, os.getpid()) as reach:
        environment = {**os.environ, "SEALED_ATTEMPTS": reach.described, SECRET[0]: SECRET[1]}
        program = [sys.executable, sealed_attempts.__file__, how]
        result = subprocess.run(program, env=environment, stdout=subprocess.PIPE, timeout=60, check=True)
        return json.loads(result.stdout), reach.is_untouched()


@pytest.mark.parametrize("name", ["landlock", "seccomp"])
def test_what_the_kernel_or_the_unit_does_not_give_is_named(name: str) -> None:
    code = "from md5s3stash.sealed.process import missing; print(missing())"
    program = [sys.executable, "-m", "tests.support.seccomp", f"--without={name}", sys.executable, "-c", code]
    result = subprocess.run(program, capture_output=True, text=True, timeout=60, check=True)
    assert name in result.stdout


def test_a_sealed_process_is_refused_everything(tmp_path: Path) -> None:
    ended, is_untouched = tried("alone", tmp_path / "reach")
    assert unrefused(ended) == {}
    assert len(ended) > 60
    assert ended["descriptors"] == "0,1,2"
    assert is_untouched


def test_without_a_room_the_same_attempts_succeed(tmp_path: Path) -> None:
    ended, is_untouched = tried("open", tmp_path / "reach")
    assert {what: how for what, how in ended.items() if not how.startswith("done")} == {}
    assert not is_untouched


def test_a_process_with_several_threads_is_not_sealed() -> None:
    code = (
        "import threading; from md5s3stash.sealed.process import seal\n"
        "threading.Thread(target=threading.Event().wait, daemon=True).start()\n"
        "seal({0, 1, 2})"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert "a process with several threads cannot be sealed" in result.stderr


def test_a_process_to_be_sealed_starts_without_secrets(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(*SECRET)
    monkeypatch.setenv("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    environment = small_environment()
    assert SECRET[1] not in environment.values()
    assert environment["GLIBC_TUNABLES"] == "glibc.malloc.hugetlb=1"


@pytest.mark.parametrize("machine", ["x86_64", "aarch64"])
@pytest.mark.parametrize("to_load", [False, True])
def test_a_filter_has_each_call_once_and_fits_a_jump(machine: str, to_load: bool) -> None:
    code = seccomp._filter(machine, to_load=to_load)
    assert len(code) < 4096
    assert all(yes < 256 and no < 256 for _, yes, no, _ in code)
    column = ["x86_64", "aarch64"].index(machine)
    numbers = [each[column] for each in (*seccomp._NUMBERS.values(), *seccomp._NUMBERS_TO_LOAD.values())]
    present = [number for number in numbers if number is not None]
    assert len(present) == len(set(present))


@pytest.mark.parametrize(
    ("abi", "words"),
    [
        (1, (0x1FFF, 0, 0)),
        (2, (0x3FFF, 0, 0)),
        (3, (0x7FFF, 0, 0)),
        (4, (0x7FFF, 3, 0)),
        (5, (0xFFFF, 3, 0)),
        (6, (0xFFFF, 3, 3)),
        (99, (0xFFFF, 3, 3)),
    ],
)
def test_each_version_of_landlock_refuses_what_it_can(abi: int, words: tuple[int, int, int]) -> None:
    assert tuple(landlock._bits(each, abi) for each in (landlock._FILES, landlock._NETWORK, landlock._SCOPES)) == words


def test_messages_arrive_with_their_bytes_and_files(ends: tuple[Channel, socket.socket], tmp_path: Path) -> None:
    ours, end = ends
    theirs = Channel(end)
    (tmp_path / "file").write_bytes(b"content")
    with (tmp_path / "file").open("rb") as file:
        ours.send({"kind": "thumbnail"}, files=[file.fileno()])
    message, (descriptor,) = theirs.receive_files()
    assert message == {"kind": "thumbnail"}
    assert os.read(descriptor, 100) == b"content"
    os.close(descriptor)
    body = os.urandom(3_000_000)
    sender = threading.Thread(target=theirs.send, args=({"a": 1}, body))
    sender.start()
    assert ours.receive(3_000_000, 30) == ({"a": 1}, body)
    sender.join()


@pytest.mark.parametrize(
    ("sent", "error"),
    [
        (struct.pack(">II", 2, 11) + b"{}" + b"x" * 11, BrokenMessage),
        (struct.pack(">II", 2**31, 0), BrokenMessage),
        (struct.pack(">II", 2, 0) + b"[]", BrokenMessage),
        (struct.pack(">II", 1, 0) + b"{", BrokenMessage),
        (struct.pack(">II", 100_000, 0) + b"[" * 100_000, BrokenMessage),
        (struct.pack(">II", 2, 0) + b"\xff\xfe", BrokenMessage),
        (b"\x80\x04\x95" + b"pickle...", BrokenMessage),
        (struct.pack(">II", 2, 10) + b"{}" + b"x" * 9, TimeoutError),
        (b"\0", TimeoutError),
        (b"", TimeoutError),
    ],
)
def test_what_is_not_a_message_ends_in_time(
    ends: tuple[Channel, socket.socket], sent: bytes, error: type[OSError]
) -> None:
    ours, theirs = ends
    theirs.sendall(sent)
    with pytest.raises(error):
        ours.receive(10, 0.2)


def test_a_message_in_drops_ends_in_time(ends: tuple[Channel, socket.socket]) -> None:
    ours, theirs = ends
    stop = threading.Event()

    def drip() -> None:
        theirs.sendall(struct.pack(">II", 2, 1000) + b"{}")
        while not stop.wait(0.02):
            theirs.sendall(b"x")

    dripping = threading.Thread(target=drip)
    dripping.start()
    begun = time.monotonic()
    with pytest.raises(TimeoutError):
        ours.receive(1000, 0.3)
    stop.set()
    dripping.join()
    assert time.monotonic() - begun < 15


def test_one_who_does_not_read_blocks_no_sender(ends: tuple[Channel, socket.socket]) -> None:
    ours, _ = ends
    with pytest.raises(TimeoutError):
        ours.send({}, bytes(10_000_000), seconds=0.2)


def test_descriptors_of_one_who_is_not_trusted_are_closed(ends: tuple[Channel, socket.socket]) -> None:
    ours, theirs = ends
    reader, writer = os.pipe()
    Channel(theirs).send({"a": 1}, files=[writer])
    os.close(writer)
    assert ours.receive(0, 5)[0] == {"a": 1}
    # The pipe has no writer left.
    assert os.read(reader, 1) == b""
    os.close(reader)


def run_sealed(*command: str, pass_fds: tuple[int, ...] = ()) -> subprocess.CompletedProcess[str]:
    program = sealed_command(command, pass_fds=pass_fds)
    return subprocess.run(
        program,
        pass_fds=pass_fds,
        env={},
        timeout=60,
        text=True,
        check=False,
        stdin=subprocess.DEVNULL,
        capture_output=True,
    )


def test_a_program_in_a_room_opens_what_it_is_given_and_nothing_else(tmp_path: Path) -> None:
    given, other = tmp_path / "given", tmp_path / "other"
    given.write_text("the picture")
    other.write_text("a secret")
    with given.open("rb") as file, socket.create_server(("127.0.0.1", 0)) as listener:
        number = file.fileno()
        result = run_sealed("/bin/cat", f"/proc/self/fd/{number}", str(other), "/etc/passwd", pass_fds=(number,))
        port = listener.getsockname()[1]
        tries = {
            "write": f"echo x > {tmp_path}/written",
            "write what is given": f"echo x > /proc/self/fd/{number}",
            "fork": "(true)",
            "connect": f"exec 3<>/dev/tcp/127.0.0.1/{port}",
            "signal": f"kill -0 {os.getpid()}",
        }
        if HAS_LANDLOCK:
            tries["start another program"] = f"exec /bin/cat {given}"
        ended = {
            what: run_sealed("/bin/bash", "-c", script, pass_fds=(number,)).returncode for what, script in tries.items()
        }
        environment = run_sealed("/bin/bash", "-c", "set -o posix; set", pass_fds=(number,)).stdout
    if HAS_LANDLOCK:
        assert (result.stdout, result.returncode != 0) == ("the picture", True)
        assert len(result.stderr.splitlines()) == 2
    assert {what: status for what, status in ended.items() if status == 0} == {}
    assert "AWS" not in environment
    assert sorted(path.name for path in tmp_path.iterdir()) == ["given", "other"]
