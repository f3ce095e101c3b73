"""Files below a directory in which others may write, reached without following a link.

Each folder on the way is opened by its descriptor, with O_NOFOLLOW. So a name leads nowhere but below its base, even
where a folder is exchanged for a link between two of our steps. A base is a directory that only the daemon's user and
the operator can replace. A name is a path below it, without `..`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_BELOW = _FOLDER | os.O_NOFOLLOW

# Neither a FIFO nor a device may keep us waiting.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """Where a file is: its name below a base."""

    base: str
    name: str


def open_folder(base: str, folder: str, create: bool = False) -> int:
    """A descriptor of a folder below the base (of the base itself if `folder` is empty), made if `create`.

    Raises FileNotFoundError, NotADirectoryError (also for a link), and OSError.
    """
    descriptor = os.open(base, _FOLDER)
    if not folder:
        return descriptor
    try:
        try:
            return _open_below(descriptor, folder)
        except FileNotFoundError:
            if not create:
                raise
        return _made_below(descriptor, folder)
    finally:
        os.close(descriptor)


def _made_below(base: int, folder: str) -> int:
    descriptor = os.dup(base)
    try:
        for part in folder.split("/"):
            below = _made(descriptor, part)
            os.close(descriptor)
            descriptor = below
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _made(descriptor: int, part: str) -> int:
    while True:
        with contextlib.suppress(FileNotFoundError):
            return _open_below(descriptor, part)
        # Again and again: md5s3stashctl removes folders that look left over, and may take the one made here.
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=descriptor)


def _open_below(descriptor: int, folder: str) -> int:
    try:
        if "/" not in folder:
            return os.open(folder, _FOLDER_BELOW, dir_fd=descriptor)
        return _open_without_links(descriptor, folder)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EXDEV):
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), folder) from error
        raise


class _OpenHow(ctypes.Structure):
    """openat2(2)'s struct open_how."""

    _fields_ = (("flags", ctypes.c_uint64), ("mode", ctypes.c_uint64), ("resolve", ctypes.c_uint64))


# The same number on each architecture; the C library has no function for it.
_OPENAT2 = 437
_NO_SYMLINKS_BENEATH = 0x04 | 0x08
_HOW = _OpenHow(_FOLDER, 0, _NO_SYMLINKS_BENEATH)
_LIBC = ctypes.CDLL(None, use_errno=True)


def _open_without_links(descriptor: int, folder: str) -> int:
    """In one call however deep it is: a step for each part would be millions where folders lie thousands deep."""
    path = os.fsencode(folder)
    while True:
        opened = int(_LIBC.syscall(_OPENAT2, descriptor, path, ctypes.byref(_HOW), ctypes.sizeof(_HOW)))
        if opened >= 0:
            return opened
        number = ctypes.get_errno()
        # Somebody renamed something on the way meanwhile.
        if number != errno.EAGAIN:
            raise OSError(number, os.strerror(number), folder)


@contextlib.contextmanager
def folder_of(place: Place, create: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the folder that the file is in, and the last part of its name."""
    folder, _, last = place.name.rpartition("/")
    descriptor = open_folder(place.base, folder, create)
    try:
        yield descriptor, last
    finally:
        os.close(descriptor)


def status_of(place: Place) -> os.stat_result | None:
    """What stands there, itself if it is a link; None where nothing does. Raises OSError."""
    try:
        with folder_of(place) as (folder, last):
            return os.lstat(last, dir_fd=folder)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        if error.errno == errno.ENAMETOOLONG:
            return None
        raise


def open_file(place: Place, flags: int = READ, mode: int = 0o644) -> int:
    """A descriptor of the file. Raises OSError: ELOOP for a link."""
    with folder_of(place) as (folder, last):
        return os.open(last, flags | os.O_NOFOLLOW | os.O_CLOEXEC, mode, dir_fd=folder)


def move(source: Place, target: Place) -> bool:
    """Renames a file, makes the folders above its target, and replaces what stands there; False where it has gone.

    Raises FileExistsError or NotADirectoryError where a folder cannot be made, and OSError.
    """
    while True:
        try:
            with folder_of(source) as (old_folder, old), folder_of(target, create=True) as (new_folder, new):
                os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)
            return True
        except (FileNotFoundError, NotADirectoryError):
            if status_of(source) is None:
                return False
            # Either the target's folder went away under us, or one can never be made: the second look tells.
            with folder_of(target, create=True):
                pass


def files_below(
    base: str, folder: str = "", refused: Callable[[str, OSError], bool] = lambda folder, error: False
) -> Iterator[str]:
    """The name of everything that is not a directory, one directory at a time: a million names are never a list.

    `refused` is called with each folder that cannot be read, and why; it says whether another try may succeed. A folder
    that has gone is passed over.
    """
    folders = [folder]
    while folders:
        folder = folders.pop()
        descriptor = _opened(base, folder, refused)
        if descriptor is None:
            continue
        try:
            with os.scandir(descriptor) as found:
                for item in found:
                    name = f"{folder}/{item.name}" if folder else item.name
                    if item.is_dir(follow_symlinks=False):
                        folders.append(name)
                    else:
                        yield name
        except OSError as error:
            refused(folder, error)
        finally:
            os.close(descriptor)


def _opened(base: str, folder: str, refused: Callable[[str, OSError], bool]) -> int | None:
    for _ in range(2):
        try:
            return open_folder(base, folder)
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not refused(folder, error):
                return None
    return None


def remove_empty_folders(
    base: str, folder: str = "", is_left: Callable[[os.stat_result], bool] = lambda status: True
) -> None:
    """Removes the empty folders below, the deepest first, of which `is_left` says so; not the one where it begins."""
    # A folder is met twice: to look into it, and when all below it was met.
    folders = [(folder, False)]
    while folders:
        name, looked_into = folders.pop()
        with contextlib.suppress(OSError):
            if not looked_into:
                folders.append((name, True))
                with _listed(base, name) as found:
                    folders += [
                        (f"{name}/{item.name}" if name else item.name, False)
                        for item in found
                        if item.is_dir(follow_symlinks=False)
                    ]
            elif name != folder:
                with folder_of(Place(base, name)) as (above, last):
                    if is_left(os.lstat(last, dir_fd=above)):
                        os.rmdir(last, dir_fd=above)


def prune(place: Place) -> None:
    """Removes the folders that a file has left empty, up to the base, which stays."""
    folder = place.name
    with contextlib.suppress(OSError):  # not empty: another file is in there
        while folder := folder.rpartition("/")[0]:
            with folder_of(Place(place.base, folder)) as (above, last):
                os.rmdir(last, dir_fd=above)


def sync_folders(place: Place) -> None:
    """Has the name of a file on the disk, and those of the folders that it is in. Raises OSError."""
    folder = place.name
    while folder:
        folder = folder.rpartition("/")[0]
        # One that has gone is as empty as its last file left it.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = open_folder(place.base, folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)


@contextlib.contextmanager
def _listed(base: str, folder: str) -> Iterator[Iterator[os.DirEntry[str]]]:
    descriptor = open_folder(base, folder)
    try:
        with os.scandir(descriptor) as found:
            yield found
    finally:
        os.close(descriptor)
