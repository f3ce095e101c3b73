"""Ownership of a spool: one daemon at a time, and only while its volume is mounted."""

from __future__ import annotations

import contextlib
import fcntl
import logging
import os
import secrets
import stat
import time
from pathlib import Path

from md5s3stash.errors import StashError
from md5s3stash_daemon.disk.durable import open_directory, replace_durably

log = logging.getLogger(__name__)

_MAX_ID_BYTES = 64

# `md5s3stashctl status` holds the lock for a moment. A daemon that was killed while it started a worker leaves the lock
# to that process, until it runs its own program or finds its parent gone: on a busy machine that takes seconds.
_PATIENCE_SECONDS = 0.2
_PATIENCE_AFTER_A_DEATH_SECONDS = 30.0
_TRY_SECONDS = 0.02


class SpoolTaken(StashError):
    """Another daemon owns the spool."""


class SpoolClosed(StashError):
    """The directory is a mount point whose volume is not mounted."""


def demand_open(directory: Path) -> None:
    """Raises SpoolClosed for a directory of mode 000: the appliance marks a mount point without its volume this way.
    Root could enter it, but the mount would hide what is stored there."""
    with contextlib.suppress(FileNotFoundError):
        if not os.stat(directory).st_mode & (stat.S_IRWXU | stat.S_IRWXG | stat.S_IRWXO):
            raise SpoolClosed(
                f"the spool {directory} is closed (mode 000): mount its volume, then start md5s3stash-spool.service"
            )


def lock(directory: Path) -> int:
    """Locks the spool for this process until it ends; the descriptor holds the lock. Raises SpoolTaken."""
    descriptor = os.open(directory / ".lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    if not _locked(descriptor):
        owner = _owner(descriptor)
        os.close(descriptor)
        raise SpoolTaken(
            f"another md5s3stashd (process {owner or 'unknown'}) serves the spool {directory}: stop it first, "
            "or give this one its own SPOOL_DIR"
        )
    os.ftruncate(descriptor, 0)
    os.pwrite(descriptor, f"{os.getpid()}\n".encode(), 0)
    return descriptor


def daemon_pid(directory: Path) -> str | None:
    """The process id in the spool's lock file; None if no daemon holds the lock."""
    try:
        descriptor = os.open(directory / ".lock", os.O_RDONLY | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        # Shared, so that two of these commands do not take each other for a daemon. Released at once, because it keeps
        # a daemon from starting.
        if not _locked(descriptor, fcntl.LOCK_SH, 0.0):
            return _owner(descriptor) or "unknown"
        fcntl.flock(descriptor, fcntl.LOCK_UN)
        return None
    finally:
        os.close(descriptor)


def _locked(descriptor: int, kind: int = fcntl.LOCK_EX, patience_seconds: float = _PATIENCE_SECONDS) -> bool:
    began = time.monotonic()
    while True:
        with contextlib.suppress(BlockingIOError):
            fcntl.flock(descriptor, kind | fcntl.LOCK_NB)
            return True
        patience = _PATIENCE_AFTER_A_DEATH_SECONDS if _is_dead(_owner(descriptor)) else patience_seconds
        if time.monotonic() - began > patience:
            return False
        time.sleep(_TRY_SECONDS)


def _owner(descriptor: int) -> str:
    """The process that took the lock last, as it recorded itself."""
    return os.pread(descriptor, 20, 0).decode("ascii", "replace").strip()


def _is_dead(owner: str) -> bool:
    return owner.isdecimal() and not os.path.exists(f"/proc/{owner}")


def identity(directory: Path) -> str:
    """The unique name of this spool, made once: several spools may share one ledger."""
    path = directory / ".id"
    with contextlib.suppress(FileNotFoundError), open(path, "rb") as file:
        found = file.read(_MAX_ID_BYTES + 1).strip()
        if found.isalnum() and len(found) <= _MAX_ID_BYTES:
            return found.decode("ascii")
        # It is part of a Redis key. Spools that had lost their id would share the empty one.
        log.warning("%s is not valid: the spool gets a new identity", path)
    # Only the daemon that holds the lock comes here. A half-written file would be another identity, so: rename.
    descriptor = open_directory(directory)
    try:
        replace_durably(descriptor, path.name, f"{secrets.token_hex(8)}\n".encode("ascii"))
    finally:
        os.close(descriptor)
    return identity(directory)
