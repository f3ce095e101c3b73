"""Writes that survive a power cut: files and directories are on the disk when these functions return."""

from __future__ import annotations

import contextlib
import ctypes
import os


def write_durably(directory: int, name: str, data: bytes) -> None:
    """Writes a file below a directory's descriptor, replacing an old one, and syncs its bytes and its name. Not atomic:
    a power cut in the middle leaves a part of it. Raises OSError.
    """
    with contextlib.suppress(FileNotFoundError):
        os.unlink(name, dir_fd=directory)
    descriptor = os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o644, dir_fd=directory)
    with open(descriptor, "wb", buffering=0) as file:
        written = 0
        while written < len(data):
            written += file.write(data[written:]) or 0
        os.fsync(descriptor)
    os.fsync(directory)


def replace_durably(directory: int, name: str, data: bytes) -> None:
    """Like `write_durably`, but atomic: a power cut leaves the old file or the new one. Raises OSError."""
    temporary = f"{name}.new"
    write_durably(directory, temporary, data)
    os.rename(temporary, name, src_dir_fd=directory, dst_dir_fd=directory)
    os.fsync(directory)


def open_directory(path: str | os.PathLike[str]) -> int:
    """A descriptor for the functions above. Raises OSError."""
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)


def sync_path(path: str) -> None:
    """Syncs the content of a regular file, or the names in a directory. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_filesystem(descriptor: int) -> None:
    """Syncs the whole file system with syncfs(2): everything that any program has written so far.

    Raises OSError. Takes as long as the disk takes; other threads continue.
    """
    # Looked up here: a module that others import only for its types needs no libc.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.syncfs(descriptor) != 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
