"""A directory of originals, their reduced copies and their pyramids, named by digest and bounded in bytes. Several
processes of one user may share it.

A file appears by a rename, complete and checked, or not at all. The least recently used files are evicted. Readers hold
their file open, so an eviction does not affect them. Every process reads the directory before it evicts, so none has to
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
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Self

from md5s3stash.digest import is_md5
from md5s3stash.errors import SettingsError
from md5s3stash.scheme import split_name

log = logging.getLogger(__name__)

_PART_SUFFIX = ".part"
# Neither in a digest nor in a collection.
_COLLECTION_MARK = "@"
_REDUCED_SUFFIX, _PYRAMID_SUFFIX, _STILL_SUFFIX = _SUFFIXES = (".reduced", ".pyramid", ".still")
# The share of the bound that an eviction keeps, so that not every new file causes the next one.
_KEPT_SHARE = 0.9
# A share of the bound; what others have added is known only after the directory is read.
_ADDED_BETWEEN_LOOKS = 1 / 16
# The time without a write after which a part file counts as abandoned.
_LEFT_SECONDS = 60.0
# While the disk refuses files, originals are held in memory, in no more than this altogether.
MEMORY_BYTES = 64 * 1024 * 1024


class NoRoom(OSError):
    """More bytes are being downloaded than the bound allows."""


@dataclass
class CacheCounts:
    """Counts since the start, for the metrics."""

    hits: int = 0
    reduced: int = 0
    pyramids: int = 0
    misses: int = 0
    evictions: int = 0
    faults: int = 0
    bytes: int = 0


class DiskCache:
    """At most about `max_bytes` in `directory`; safe to share between threads and between processes."""

    def __init__(self, directory: Path, max_bytes: int, without: Collection[str] = ()) -> None:
        """`without` names the kinds of originals that are not shown. What was made while others were shown has another
        name, so that it is not shown either.
        """
        self.counts = CacheCounts()
        self.directory = directory
        self.max_bytes = max_bytes
        self._mark = "".join(f"-{kind}" for kind in ("without", *sorted(without))) if without else ""
        self._lock = threading.Lock()
        self._on_disk = _Room(max_bytes)
        self._in_memory = _Room(MEMORY_BYTES)
        self._added_bytes = 0
        self._evict()

    def open(self, md5: str) -> BinaryIO | None:
        """The cached original, which counts as a use; None if it is missing or cannot be read."""
        file = self._open(_file_name(md5))
        if file is None:
            self.counts.misses += 1
        else:
            self.counts.hits += 1
        return file

    def open_reduced(self, md5: str) -> BinaryIO | None:
        """The reduced copy of an original, likewise; the caller checks its content."""
        return self._open(self._derived(md5, _REDUCED_SUFFIX))

    def open_pyramid(self, md5: str) -> BinaryIO | None:
        """The pyramid of an original, likewise."""
        return self._open(self._derived(md5, _PYRAMID_SUFFIX))

    def open_still(self, name: str) -> BinaryIO | None:
        """The still of an original that is not a picture, likewise. It was synced, and is not checked."""
        return self._open(self._derived(name, _STILL_SUFFIX))

    def keep_still(self, incoming: Incoming, name: str, modified: float) -> None:
        """Gives a still its name, as `keep` does."""
        self.keep(incoming, self._derived(name, _STILL_SUFFIX), modified)

    def kept_pyramid(self, md5: str) -> Incoming | None:
        """The same, as what is made where there is none."""
        file = self.open_pyramid(md5)
        return None if file is None else Incoming(file, self._in_memory)

    def _derived(self, name: str, suffix: str) -> str:
        return f"{_file_name(name)}{self._mark}{suffix}"

    def _open(self, name: str) -> BinaryIO | None:
        try:
            file = open(self.directory / name, "rb")  # noqa: SIM115 - the caller closes it
        except OSError as error:
            if not isinstance(error, FileNotFoundError):
                self.fault(str(error))
            return None
        with contextlib.suppress(OSError):
            # Set here, because disks are mounted with relatime.
            _stamp(file.fileno())
        return file

    def incoming(self) -> Incoming:
        """A place for the bytes of a new original. Raises OSError if the disk refuses."""
        file, path = _new_part(self.directory)
        return Incoming(file, self._on_disk, path)

    def in_memory(self) -> Incoming:
        """A place for an original that the disk refuses; it is served once and not kept."""
        return Incoming(os.fdopen(os.memfd_create("original"), "w+b"), self._in_memory)

    def keep(self, incoming: Incoming, name: str, modified: float | None) -> None:
        """Gives a checked original its name, the md5. Errors are only logged: the file is open and can be served."""
        if incoming.path is None:
            return
        try:
            # With the same clock as `open`: the kernel's own stamps are up to a tick behind.
            _stamp(incoming.file.fileno(), modified)
            # A power cut may otherwise leave the name on an empty file.
            os.fdatasync(incoming.file.fileno())
            os.rename(incoming.path, self.directory / _file_name(name))
        except OSError as error:
            self.fault(str(error))
            return
        self.added(incoming.size_bytes)

    def keep_reduced(self, md5: str, modified: float, write: Callable[[BinaryIO], None]) -> None:
        """Has a reduced copy written, and then gives it its name. If the disk refuses, the next request makes the copy
        again in memory.

        It is not synced: its readers compare the checksum.
        """
        with contextlib.suppress(OSError):
            file, path = _new_part(self.directory)
            with file:
                try:
                    write(file)
                    # The times and the size that follow are those of all bytes.
                    file.flush()
                    _stamp(file.fileno(), modified)
                    os.rename(path, self.directory / self._derived(md5, _REDUCED_SUFFIX))
                    self.added(os.fstat(file.fileno()).st_size)
                except BaseException:
                    with contextlib.suppress(OSError):
                        os.unlink(path)
                    raise

    def drop_reduced(self, md5: str) -> None:
        """Removes a reduced copy that turned out to be damaged."""
        with contextlib.suppress(OSError):
            os.unlink(self.directory / self._derived(md5, _REDUCED_SUFFIX))

    def keep_pyramid(self, incoming: Incoming, md5: str, size_bytes: int, modified: float) -> None:
        """Gives a pyramid its name. It is not synced: who reads it compares its checksums."""
        if incoming.path is None:
            return
        try:
            _stamp(incoming.file.fileno(), modified)
            os.rename(incoming.path, self.directory / self._derived(md5, _PYRAMID_SUFFIX))
        except OSError as error:
            self.fault(str(error))
            return
        self.added(size_bytes)

    def drop_pyramid(self, md5: str) -> None:
        """Removes one that turned out to be damaged."""
        with contextlib.suppress(OSError):
            os.unlink(self.directory / self._derived(md5, _PYRAMID_SUFFIX))

    def added(self, size_bytes: int) -> None:
        """Counts bytes that were added to the directory, and evicts if they are too many."""
        with self._lock:
            self._added_bytes += size_bytes
            self.counts.bytes += size_bytes
            is_due = self._added_bytes > self.max_bytes * _ADDED_BETWEEN_LOOKS or self.counts.bytes > self.max_bytes
            if is_due:
                self._evict()

    def fault(self, reason: str) -> None:
        """Counts and logs a failure of the disk; the request that met it is served all the same."""
        self.counts.faults += 1
        log.warning("event=cache_fault directory=%s reason=%r", self.directory, reason)

    def _evict(self) -> None:
        """Removes the least recently used files until the rest fits, and part files whose writers died."""
        entries = sorted(self._entries(), key=lambda entry: entry.used_ns)
        total = sum(entry.size_bytes for entry in entries)
        keep_bytes = self.max_bytes * _KEPT_SHARE if total > self.max_bytes else self.max_bytes
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
                    elif _is_ours(item.name) and item.is_file(follow_symlinks=False):
                        status = item.stat(follow_symlinks=False)
                        yield _Entry(item.name, status.st_size, status.st_atime_ns)


class Incoming:
    """The bytes of one file while they arrive: written, counted, hashed. Closing it releases its bytes of the
    bound.
    """

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
        """The same bytes, opened again from the beginning, whatever the file's name is now."""
        self.file.flush()
        return open(f"/proc/self/fd/{self.file.fileno()}", "rb")

    def close(self) -> None:
        if self.path is not None:
            # A kept original has been renamed already.
            with contextlib.suppress(OSError):
                os.unlink(self.path)
        with contextlib.suppress(OSError):
            self.file.close()
        self._room.free(self.size_bytes)
        self.size_bytes = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class _Room:
    """Limits the bytes that all threads together are downloading."""

    def __init__(self, max_bytes: int) -> None:
        self._max_bytes = max_bytes
        self._taken_bytes = 0
        self._lock = threading.Lock()

    def take(self, size_bytes: int) -> None:
        with self._lock:
            if self._taken_bytes + size_bytes > self._max_bytes:
                raise NoRoom(f"more than {self._max_bytes} bytes of originals are being downloaded")
            self._taken_bytes += size_bytes

    def free(self, size_bytes: int) -> None:
        with self._lock:
            self._taken_bytes -= size_bytes


@dataclass(frozen=True, slots=True)
class _Entry:
    name: str
    size_bytes: int
    used_ns: int


def open_cache(directory: Path, max_bytes: int, without: Collection[str] = ()) -> DiskCache:
    """The cache in a directory, which is created if needed. Raises SettingsError if other users could put files into
    it: a cached original is not hashed again.
    """
    try:
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        status = directory.lstat()
        if not stat.S_ISDIR(status.st_mode) or status.st_uid != os.geteuid() or status.st_mode & 0o022:
            raise SettingsError(f"cache_dir {directory} must be a directory that only this user can write to")
        return DiskCache(directory, max_bytes, without)
    except OSError as error:
        raise SettingsError(f"cache_dir {directory} cannot be used: {error.strerror}") from error


def _stamp(descriptor: int, modified: float | None = None) -> None:
    """Marks the file as used now. Its mtime, the date of the object in S3, becomes `modified`; None keeps it."""
    if modified is None:
        os.utime(descriptor, ns=(time.time_ns(), os.fstat(descriptor).st_mtime_ns))
    else:
        # A float cannot hold the nanoseconds of today.
        seconds, fraction = divmod(modified, 1)
        os.utime(descriptor, ns=(time.time_ns(), int(seconds) * 1_000_000_000 + int(fraction * 1_000_000_000)))


def _new_part(directory: Path) -> tuple[BinaryIO, Path]:
    path = directory / f".{secrets.token_hex(8)}{_PART_SUFFIX}"
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    # A part file without this lock has no living writer.
    fcntl.flock(descriptor, fcntl.LOCK_EX)
    return os.fdopen(descriptor, "w+b"), path


def _file_name(content: str) -> str:
    """Of the original that is named `{md5}` or `{collection}/{md5}`: two collections may hold different bytes."""
    collection, md5 = split_name(content)
    return f"{md5}{_COLLECTION_MARK}{collection}" if collection else md5


def _is_ours(name: str) -> bool:
    stem, suffix = os.path.splitext(name)
    if suffix not in _SUFFIXES:
        stem = name
    # A derived file names its part, too.
    return is_md5(stem.partition(_COLLECTION_MARK)[0].partition("-")[0])


def _remove_if_left(path: str) -> None:
    with open(path, "rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return  # Its writer is alive.
        # A new file is not locked for a moment either.
        if os.fstat(file.fileno()).st_mtime < time.time() - _LEFT_SECONDS:
            os.unlink(path)
