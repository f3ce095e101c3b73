"""The appliance as its users see it: drops, thumbnails, the ledger, its units."""

from __future__ import annotations

import hashlib
import http.client
import io
import os
import random
import re
import secrets
import socket
import subprocess
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import PIL.Image

from tests.acceptance.cloud import Cloud
from tests.acceptance.guest import Guest
from tests.acceptance.image import Login, run
from tests.support.servers import wait_until

DAEMON = "md5s3stashd.service"
THUMBNAILERS = ("md5s3stash-thumbnailer@1.service", "md5s3stash-thumbnailer@2.service")
REDIS = "redis-server.service"
SOCKETS = ("md5s3stash-access.socket", "md5s3stash-thumbnailer.socket")
SPOOL_UNIT = "md5s3stash-spool.service"
MOUNT_UNIT = "srv-md5s3stash-incoming.mount"
UNITS = (REDIS, DAEMON, *SOCKETS, *THUMBNAILERS, SPOOL_UNIT, MOUNT_UNIT, "ssh.service")
THUMBNAIL_PORT = 8888

SETTLED_SECONDS = 90.0


def picture(width: int = 320, height: int = 240) -> bytes:
    """A unique JPEG of noise, which does not compress well."""
    data = io.BytesIO()
    noise = random.Random(secrets.token_bytes(8)).randbytes(width * height * 3)
    PIL.Image.frombytes("RGB", (width, height), noise).save(data, "JPEG")
    # After a power cut, a file whose size is a multiple of the block may have lost its end, and would be held.
    return data.getvalue() + b"." * (len(data.getvalue()) % 512 == 0)


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@dataclass(slots=True)
class Box:
    """A launched box, and all files dropped into it: `dropped` is name -> md5."""

    guest: Guest
    # The path on this machine.
    spool: Path
    cloud: Cloud
    login: Login
    sftp_user: str
    sftp_key: Path
    dropped: dict[str, str] = field(default_factory=dict)

    # --- units ----------------------------------------------------------------------------------------------------

    def is_active(self, *units: str) -> bool:
        states = self.guest.run("systemctl", "is-active", *units, check=False).split()
        return states == ["active"] * len(units)

    def main_pid(self, unit: str) -> int:
        return int(self.guest.run("systemctl", "show", "--property=MainPID", "--value", unit))

    def send(self, signal: str, unit: str) -> int:
        """Sends a signal to the unit's process; returns the process id."""
        pid = self.main_pid(unit)
        # 0 would be our whole process group.
        assert pid, f"{unit} does not run"
        self.guest.run("kill", f"-{signal}", str(pid))
        return pid

    def is_back(self, unit: str, before: int) -> bool:
        """Whether the unit runs in a new process."""
        return self.main_pid(unit) not in (0, before) and self.is_active(unit)

    def all_active(self) -> None:
        wait_until(lambda: self.is_active(*UNITS), f"active: {', '.join(UNITS)}", SETTLED_SECONDS)

    # --- drops ----------------------------------------------------------------------------------------------------

    def drop(self, label: str, count: int, width: int = 320, height: int = 240) -> Mapping[str, str]:
        """Drops new pictures as a local program in the drop group does: under a temporary name, then renamed."""
        return self.drop_files({f"{label}-{number}.jpg": picture(width, height) for number in range(count)})

    def drop_files(self, files: Mapping[str, bytes]) -> Mapping[str, str]:
        """Files with these names, likewise."""
        incoming = self.spool / "incoming"
        for name, data in files.items():
            temporary = incoming / f".{name}"
            temporary.write_bytes(data)
            temporary.chmod(0o664)
            os.rename(temporary, incoming / name)
        return self.remember(files)

    def drop_by_sftp(self, directory: Path, label: str, count: int) -> Mapping[str, str]:
        """Puts new pictures into a new folder with OpenSSH's client."""
        files = {f"{label}/{number}.jpg": picture() for number in range(count)}
        commands = [f"mkdir {label}"]
        for number, data in enumerate(files.values()):
            source = directory / f"{number}.jpg"
            source.write_bytes(data)
            commands.append(f"put {source} {label}/{number}.jpg")
        done = self.sftp("\n".join(commands))
        assert done.returncode == 0, done.stderr
        return self.remember(files)

    def sftp(self, commands: str) -> subprocess.CompletedProcess[str]:
        options = [*self.ssh_options(self.sftp_key), "-q", "-b", "-"]
        return subprocess.run(
            ["sftp", *options, f"{self.sftp_user}@{self.login.host}"],
            input=commands,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def ssh(self, user: str, key: Path, *command: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["ssh", *self.ssh_options(key), f"{user}@{self.login.host}", *command],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            timeout=60,
            check=False,
        )

    def make_account(self, name: str) -> None:
        """Makes an account with a shell and the owner's key."""
        self.guest.run("useradd", "--create-home", "--shell=/bin/sh", name)
        keys = self.login.key.with_suffix(".pub").read_text()
        self.guest.run("install", "-D", "-m", "0644", "/dev/stdin", f"/home/{name}/.ssh/authorized_keys", text=keys)

    def rsync(self, *arguments: str, account: str, target: str) -> None:
        shell = " ".join(["ssh", *self.ssh_options(self.login.key)])
        run(["rsync", "--rsh", shell, *arguments, f"{account}@{self.login.host}:{target}"])

    def ssh_options(self, key: Path) -> list[str]:
        return ["-F", str(self.login.config), "-i", str(key)]

    def remember(self, files: Mapping[str, bytes]) -> Mapping[str, str]:
        new = {name: md5_of(data) for name, data in files.items()}
        self.dropped.update(new)
        return new

    # --- outcomes -------------------------------------------------------------------------------------------------

    def ledger(self) -> Mapping[str, str]:
        """Name -> md5, from Redis."""
        lines = self.guest.run("redis-cli", "-s", "/run/redis/redis-server.sock", "hgetall", "md5s3stash:names")
        words = lines.splitlines()
        return dict(zip(words[::2], words[1::2], strict=True))

    def waiting(self) -> set[str]:
        """The files that are still in the spool."""
        states = ("incoming", "active", "deferred", "hold", "failed")
        # os.walk ignores directories that the daemon removes during the walk.
        return {name for state in states for _, _, names in os.walk(self.spool / state) for name in names}

    def nothing_is_lost(self) -> None:
        """Waits until all dropped files are recorded and stored; asserts that none has failed."""
        wait_until(lambda: not self.waiting(), "an empty spool", SETTLED_SECONDS)
        recorded, stored = self.ledger(), self.cloud.objects()
        missing = {name for name, md5 in self.dropped.items() if recorded.get(name) != md5 or stored.get(md5) != md5}
        assert not missing, f"lost: {', '.join(sorted(missing))}"

    # --- thumbnails -----------------------------------------------------------------------------------------------

    def thumbnail(self, md5: str, size: str = "100x100") -> PIL.Image.Image:
        """Raises OSError if there is none."""
        url = f"http://{self.login.host}:{THUMBNAIL_PORT}/clip/{size}/{md5}"
        with urllib.request.urlopen(url, timeout=30) as answer:
            return PIL.Image.open(io.BytesIO(answer.read()))

    def answers(self, md5: str) -> bool:
        try:
            return self.thumbnail(md5).size[0] == 100
        except OSError:
            return False


class DropLoad:
    """Drops files throughout the context, also while the daemon is down."""

    def __init__(self, box: Box, label: str) -> None:
        self._box = box
        self._label = label
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._drop)

    def __enter__(self) -> DropLoad:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    def _drop(self) -> None:
        turn = 0
        while not self._ended.wait(0.2):
            turn += 1
            self._box.drop(f"{self._label}-{turn}", 2, width=80)


class ThumbnailLoad:
    """Requests thumbnails without a pause, on a new connection each, throughout the context; records errors.

    The clients read slowly, as on a slow line: so a server always has requests in progress, also when it is stopped,
    and neither side is busy.
    """

    CLIENTS = 8

    def __init__(self, box: Box, label: str) -> None:
        self.answered = 0
        self.failures: list[str] = []
        self._box = box
        self._label = label
        self._md5s: list[str] = []
        self._begun = time.time()
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._ask, args=[number]) for number in range(self.CLIENTS)]

    def __enter__(self) -> ThumbnailLoad:
        # Thumbnails of noise are half a megabyte, more than the kernel buffers for a server (network.py).
        self._md5s = list(self._box.drop(self._label, 2, 1200, 900).values())
        self._box.nothing_is_lost()
        self._begun = time.time()
        for thread in self._threads:
            thread.start()
        wait_until(lambda: self.answered >= len(self._threads) or bool(self.failures), "the first answers", 60)
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def nobody_was_cut_off(self) -> None:
        """Asserts that every request was answered, though servers were stopped with requests in progress."""
        assert not self.failures, f"failed: {', '.join(self.failures)}"
        said = self._box.guest.run(
            "journalctl", "--unit=md5s3stash-thumbnailer@*", f"--since=@{self._begun:.0f}", "--output=cat"
        )
        in_hand = re.findall(r"event=stopping requests=(\d+)", said)
        assert any(map(int, in_hand)), f"the load was too light: {in_hand} requests in progress when servers stopped"

    def _ask(self, client: int) -> None:
        turn = client
        while not self._ended.is_set():
            turn += self.CLIENTS
            # A new size each time, so that it is rendered and not cached.
            path = f"/clip/{1000 - turn % 300}x1000/{self._md5s[turn % len(self._md5s)]}"
            try:
                read_slowly(self._box.login.host, path)
                self.answered += 1
            # HTTPException: the answer ends within its body.
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(f"{time.strftime('%T')} {error!r}")
                self._ended.wait(0.1)


def read_slowly(host: str, path: str) -> None:
    """Takes most of a second for a thumbnail. Raises OSError or HTTPException for an incomplete one."""
    with socket.socket() as connection:
        # Unread data stays in the server, and not in this machine's memory.
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        connection.settimeout(30)
        connection.connect((host, THUMBNAIL_PORT))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: {host}\r\nConnection: close\r\n\r\n".encode())
        answer = http.client.HTTPResponse(connection)
        answer.begin()
        if answer.status != 200:
            raise OSError(f"status {answer.status}")
        size = int(answer.headers["Content-Length"])
        received = 0
        while part := answer.read(size // 10):
            received += len(part)
            time.sleep(0.07)
        if received < size:
            raise http.client.IncompleteRead(b"", size - received)
