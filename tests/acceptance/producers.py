"""Producers that drop small files continuously, each in its way. A file counts if its program reported it as copied."""

from __future__ import annotations

import abc
import secrets
import subprocess
import threading
from pathlib import Path

from tests.acceptance.box import Box, md5_of

# As in docs/spool-over-network.md.
_RSYNC = ("rsync", "-rtp", "--chmod=D2775,F664")
_INCOMING = "/var/spool/md5s3stash/incoming"

# A program on the box, from the first second of a boot until it is killed at the end of a shutdown. Its files contain
# their own names. It keeps no file open in the spool, so that the spool can be unmounted.
LOCAL_UNIT = f"""\
[Unit]
DefaultDependencies=no
After=local-fs.target systemd-tmpfiles-setup.service

[Service]
User=bob
Restart=always
ExecStart=/bin/sh -c 'cd /home/bob && while sleep 0.1; do \\
    file=local-$$(date +%%s%%N).txt; echo $$file >{_INCOMING}/.$$file && mv {_INCOMING}/.$$file {_INCOMING}/$$file && \\
    echo $$file >>copied; done'

[Install]
WantedBy=sysinit.target
"""


def local_copies(root: Path) -> dict[str, str]:
    """Name -> md5 of the files that the local program has dropped."""
    copied = root / "home/bob/copied"
    names = copied.read_text().split() if copied.exists() else []
    return {name: md5_of(f"{name}\n".encode()) for name in names}


class Producer(abc.ABC):
    """Drops files one by one during the context. `copied` is name -> md5 of those that its program reported as copied,
    `refusals` are the errors of the others."""

    def __init__(self, box: Box, directory: Path) -> None:
        self.copied: dict[str, str] = {}
        self.refusals: list[str] = []
        self._box = box
        self._directory = directory
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work)

    def __enter__(self) -> Producer:
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._ended.set()
        self._thread.join()

    @abc.abstractmethod
    def copy(self, file: Path) -> subprocess.CompletedProcess[str]:
        """Copies a file into incoming/."""

    def _work(self) -> None:
        while not self._ended.wait(0.2):
            data = secrets.token_bytes(200)
            file = self._directory / f"{type(self).__name__}-{secrets.token_hex(8)}.txt"
            file.write_bytes(data)
            done = self.copy(file)
            if done.returncode == 0:
                self.copied[file.name] = md5_of(data)
            else:
                self.refusals.append(done.stderr)


class Rsync(Producer):
    """An account with a shell."""

    def copy(self, file: Path) -> subprocess.CompletedProcess[str]:
        shell = " ".join(["ssh", "-o", "ConnectTimeout=2", *self._box.ssh_options(self._box.login.key)])
        target = f"bob@{self._box.login.host}:{_INCOMING}/"
        return _run([*_RSYNC, "--rsh", shell, str(file), target])


class Sftp(Producer):
    """A user restricted to SFTP."""

    def copy(self, file: Path) -> subprocess.CompletedProcess[str]:
        return self._box.sftp(f"put {file} {file.name}")


def _run(command: list[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=False)
