"""A directory of originals and of their reduced copies, by digest and bounded in bytes, that several processes of one
user share.

A file appears by a rename, whole and checked, or not at all; it goes when it was used last longest ago. Readers hold it
open, so an eviction takes nothing from them. Every process looks at the directory itself before it evicts: none has to
know of the others.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import logging
import os
import secrets
import stat
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from md5s3stash.digest import is_md5
from md5s3stash.errors import SettingsError

log = logging.getLogger(__name__)

_PART_SUFFIX = ".part"
_REDUCED_SUFFIX = ".reduced"
# What an eviction leaves, so that not every new file brings the next one.
_KEPT_SHARE = 0.9
# Of the bound; what others have added is not known before the directory was looked at.
_ADDED_BETWEEN_LOOKS = 1 / 16
# How long the file must not have been written to.
_LEFT_SECONDS = 60.0
# While the disk does not take a file, an original is held in memory: all of them together in no more than this.
MEMORY_BYTES = 64 * 1024 * 1024


class NoRoom(OSError):
    """More is being downloaded at this moment than the bound allows."""


@dataclass
class CacheCounts:
    """Since the start; for the metrics."""

    hits: int = 0
    reduced: int = 0
    misses: int = 0
    evictions: int = 0
    faults: int = 0
    bytes: int = 0


class DiskCache:
    """At most about `max_bytes` in `directory`; safe to share between threads and between processes."""

    def __init__(self, directory: Path, max_bytes: int) -> None:
        self.counts = CacheCounts()
        self.directory = directory
        self._max_bytes = max_bytes
        self._lock = threading.Lock()
        self._on_disk = _Room(max_bytes)
        self._in_memory = _Room(MEMORY_BYTES)
        self._added_bytes = 0
        self._evict()

    def open(self, md5: str) -> BinaryIO | None:
        """The cached original, which counts as a use; None where there is none, or where it cannot be read."""
        file = self._open(md5)
        if file is None:
            self.counts.misses += 1
        else:
            self.counts.hits += 1
        return file

    def open_reduced(self, md5: str) -> BinaryIO | None:
        """The reduced copy of an original, likewise; what is in it is for the caller to judge."""
        return self._open(md5 + _REDUCED_SUFFIX)

    def _open(self, name: str) -> BinaryIO | None:
        try:
            file = open(self.directory / name, "rb")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self.fault(error)
            return None
        with contextlib.suppress(OSError):
            # By hand, because disks are mounted with relatime.
            _stamp(file.fileno())
        return file

    def incoming(self) -> Incoming:
        """A place for the bytes of a new original. Raises OSError where the disk does not give one."""
        file, path = _new_part(self.directory)
        return Incoming(file, self._on_disk, path)

    def in_memory(self) -> Incoming:
        """A place for an original that the disk does not take; it is served once and not kept."""
        return Incoming(os.fdopen(os.memfd_create("original"), "w+b"), self._in_memory)

    def keep(self, incoming: Incoming, md5: str, modified: float | None) -> None:
        """Gives a checked original its name. What goes wrong here is logged: the file is open and can be served."""
        if incoming.path is None:
            return
        try:
            # By the same clock as `open`: the kernel's own stamps are up to a tick behind it.
            _stamp(incoming.file.fileno(), modified)
            # A power cut may otherwise leave the name on an empty file.
            os.fdatasync(incoming.file.fileno())
            os.rename(incoming.path, self.directory / md5)
        except OSError as error:
            self.fault(error)
            return
        self.added(incoming.size_bytes)

    def added(self, size_bytes: int) -> None:
        """So much is in the directory now that was not there before; makes room where it is too much."""
        with self._lock:
            self._added_bytes += size_bytes
            self.counts.bytes += size_bytes
            is_due = self._added_bytes > self._max_bytes * _ADDED_BETWEEN_LOOKS or self.counts.bytes > self._max_bytes
            if is_due:
                self._evict()

    def fault(self, error: OSError) -> None:
        """The disk did not do what it should; the request that found out is served all the same."""
        self.counts.faults += 1
        log.warning("event=cache_fault directory=%s reason=%r", self.directory, str(error))

    def _evict(self) -> None:
        """Removes what was used last longest ago until the rest fits, and what writers left that died."""
        entries = sorted(self._entries(), key=lambda entry: entry.used_ns)
        total = sum(entry.size_bytes for entry in entries)
        keep_bytes = self._max_bytes * _KEPT_SHARE if total > self._max_bytes else self._max_bytes
        for entry in entries:
            if total <= keep_bytes:
                break
            # Another process may have been faster.
            with contextlib.suppress(FileNotFoundError):
                os.unlink(self.directory / entry.name)
                self.counts.evictions += 1
            total -= entry.size_bytes
        self.counts.bytes, self._added_bytes = total, 0

    def _entries(self) -> Iterator[_Entry]:
        with contextlib.suppress(OSError), os.scandir(self.directory) as found:
            for item in found:
                with contextlib.suppress(OSError):
                    if item.name.endswith(_PART_SUFFIX):
                        _remove_if_left(item.path)
                    elif is_md5(item.name.removesuffix(_REDUCED_SUFFIX)) and item.is_file(follow_symlinks=False):
                        status = item.stat(follow_symlinks=False)
                        yield _Entry(item.name, status.st_size, status.st_atime_ns)


class Incoming:
    """The bytes of one original while they arrive: written, counted, hashed. Closing it gives the room back."""

    def __init__(self, file: BinaryIO, room: _Room, path: Path | None = None) -> None:
        self.file = file
        self.path = path
        self.size_bytes = 0
        self._room = room
        self._md5 = hashlib.md5(usedforsecurity=False)

    def write(self, data: bytes) -> None:
        """Raises NoRoom, or the OSError of the disk."""
        self._room.take(len(data))
        self.size_bytes += len(data)
        self._md5.update(data)
        self.file.write(data)

    @property
    def md5(self) -> str:
        return self._md5.hexdigest()

    def reader(self) -> BinaryIO:
        """The same bytes, opened once more from their beginning, under whatever name or none."""
        self.file.flush()
        return open(f"/proc/self/fd/{self.file.fileno()}", "rb")

    def close(self) -> None:
        if self.path is not None:
            # Gone already, where it was kept: then it has its other name.
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        with contextlib.suppress(OSError):
            self.file.close()
        self._room.give_back(self.size_bytes)
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Room:
    """Bytes that are written at this moment, by all threads together."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken_bytes = 0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        with self._lock:
            if self._taken_bytes + size_bytes > self._max_bytes:
                raise NoRoom(f"more than {self._max_bytes} bytes of originals are under way")
            self._taken_bytes += size_bytes

    def give_back(self, size_bytes: int) -> None:
        with self._lock:
            self._taken_bytes -= size_bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size_bytes: int
    used_ns: int


def open_cache(directory: Path, max_bytes: int) -> DiskCache:
    """The cache in a directory that is made if need be. Raises SettingsError where others could put files into it: a
    cached original is not hashed again.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SettingsError(f"cache_dir {directory} must be a directory that only this user can write to")
        return DiskCache(directory, max_bytes)
    except OSError as error:
        raise SettingsError(f"cache_dir {directory} cannot be used: {error.strerror}") from error


def keep_reduced(directory: Path, md5: str, write: Callable[[BinaryIO], None], modified: float) -> None:
    """Gives a reduced copy its name once it is written, for a process that has no cache of its own. Raises OSError.

    It is not synced: who reads it compares its checksum.
    """
    file, path = _new_part(directory)
    with file:
        try:
            write(file)
            file.flush()
            _stamp(file.fileno(), modified)
            os.rename(path, directory / f"{md5}{_REDUCED_SUFFIX}")
        except BaseException:
            with contextlib.suppress(OSError):
                os.unlink(path)
            raise


def drop_reduced(directory: Path, md5: str) -> None:
    """Removes a reduced copy that turned out to be damaged."""
    with contextlib.suppress(OSError):
        os.unlink(directory / f"{md5}{_REDUCED_SUFFIX}")


def _stamp(descriptor: int, modified: float | None = None) -> None:
    """The file was used now. Its mtime, the date of the object in S3, stays as it is without a new one."""
    if modified is None:
        os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
    else:
        # A float cannot hold the nanoseconds of today.
        seconds, fraction = divmod(modified, 1)
        os.utime(descriptor, ns=(time.time_ns(), int(seconds) * 1_000_000_000 + int(fraction * 1_000_000_000)))


def _new_part(directory: Path) -> tuple[BinaryIO, Path]:
    path = directory / f".{secrets.token_hex(8)}{_PART_SUFFIX}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    # Who finds the file without the lock knows that its writer is dead.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fdopen(descriptor, "w+b"), path


def _remove_if_left(path: str) -> None:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # Its writer is alive.
        # Between making a file and locking it a writer has no lock either.
        if os.fstat(file.fileno()).st_mtime < time.time() - _LEFT_SECONDS:
            os.unlink(path)
