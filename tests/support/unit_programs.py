"""Runs parts of our programs as the users of their units: `python -m tests.support.unit_programs PART ARGUMENT...`.

- `helper SOCKET SPOOL`: the access helper, on a socket as systemd would make it.
- `passes SPOOL SOCKET COUNT`: COUNT passes of the daemon's intake. Prints the files taken, name -> content, and the
files left, reason -> count and an example.
- `open-up UNIT DIRECTORY NAME`: whether a unit's process can open another user's folder by itself.
- `daemon MOUNTS`: md5s3stashd, with these mounts of its own, a shell command.
"""

from __future__ import annotations

import contextlib
import json
import os
import runpy
import socket
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from md5s3stash_daemon.disk.access import READ_WRITE_SEARCH, open_up
from md5s3stash_daemon.disk.access_helper import serve
from md5s3stash_daemon.disk.beneath import Place
from md5s3stash_daemon.spool.completeness import Completed, Completeness
from md5s3stash_daemon.spool.scan import SpoolScan
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.spool.waiting import REASONS, WaitingFiles
from tests.support.mounts import enter_own_mounts
from tests.support.strangers import DAEMON
from tests.support.unit_user import become


def helper(path: str, directory: str) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(path)
        os.chown(path, DAEMON, DAEMON)
        os.chmod(path, 0o600)
        listening.listen(16)
        become("md5s3stash-access.service")
        # As if systemd started another one.
        serve(listening, directory, idle_seconds=3600)


def passes(directory: str, access_socket: str, count: str) -> None:
    become("md5s3stashd.service")
    waiting = WaitingFiles()
    spool = Spool(Path(directory), access_socket=access_socket or None)
    intake = SpoolScan(spool, Completeness(Completed(), 0), waiting)
    taken: dict[str, str | None] = {}
    for _ in range(int(count)):
        intake.start_pass()
        while entries := intake.take(256):
            for entry in entries:
                taken[entry.name] = None
                with contextlib.suppress(PermissionError), open(entry.path, "rb") as file:
                    taken[entry.name] = os.fsdecode(file.read())
        spool.prune_incoming(0, 4e9)
    left = {reason: [waiting.counts()[reason], waiting.example(reason)] for reason in REASONS}
    print(json.dumps({"taken": taken, "left": left}))


def try_to_open_up(unit: str, directory: str, name: str) -> None:
    become(unit)
    print(json.dumps(open_up(Place(directory, name), READ_WRITE_SEARCH)))


def daemon(mounts: str) -> None:
    enter_own_mounts(mounts)
    become("md5s3stashd.service")
    sys.argv = ["md5s3stashd"]
    runpy.run_module("md5s3stash_daemon", run_name="__main__", alter_sys=True)


if __name__ == "__main__":
    parts: Mapping[str, Callable[..., None]] = {
        "helper": helper,
        "passes": passes,
        "open-up": try_to_open_up,
        "daemon": daemon,
    }
    parts[sys.argv[1]](*sys.argv[2:])
