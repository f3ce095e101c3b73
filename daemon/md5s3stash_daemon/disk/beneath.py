"""Reaches files below a directory that other users may write to, without following a link.

Each folder on the way is opened relative to its parent's descriptor, with O_NOFOLLOW. So a name never leads out of its
base, even if a producer replaces a folder with a link between two of our steps. A base is a directory that only the
daemon's user and the operator can replace. A name is a path below it, without `..`.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Callable, Iterator
from typing import NamedTuple

_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC
_FOLDER_BELOW = _FOLDER | os.O_NOFOLLOW

# path_resolution(7), without the final zero byte.
_LONGEST_PATH = 4095

# O_NONBLOCK: a FIFO or a device must not block us.
READ = os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC


class Place(NamedTuple):
    """Where a file is: its name below a base."""

    base: str
    name: str


def is_name(name: str) -> bool:
    """Whether this is a valid name: a path that does not lead out of its base."""
    try:
        # Fails for text from a report with half a surrogate pair.
        encoded = os.fsencode(name)
    except UnicodeEncodeError:
        return False
    return b"\0" not in encoded and all(part not in ("", ".", "..") for part in name.split("/"))


def open_folder(base: str, folder: str, create: bool = False) -> int:
    """A descriptor of a folder below the base (the base itself if `folder` is empty); `create` makes it if missing.

    Raises FileNotFoundError, NotADirectoryError (also for a link), and OSError.
    """
    descriptor = os.open(base, _FOLDER)
    for part in folder.split("/") if folder else ():
        try:
            below = _made(descriptor, part) if create else _open_below(descriptor, part)
        finally:
            os.close(descriptor)
        descriptor = below
    return descriptor


def _made(descriptor: int, part: str) -> int:
    while True:
        with contextlib.suppress(FileNotFoundError):
            return _open_below(descriptor, part)
        # In a loop: md5s3stashctl removes empty folders, and may remove the one made here.
        with contextlib.suppress(FileExistsError):
            os.mkdir(part, dir_fd=descriptor)


def _open_below(descriptor: int, part: str) -> int:
    try:
        return os.open(part, _FOLDER_BELOW, dir_fd=descriptor)
    except OSError as error:
        if error.errno == errno.ELOOP:
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR), part) from error
        raise


@contextlib.contextmanager
def folder_of(place: Place, create: bool = False) -> Iterator[tuple[int, str]]:
    """A descriptor of the file's folder, and the last part of its name."""
    folder, _, last = place.name.rpartition("/")
    descriptor = open_folder(place.base, folder, create)
    try:
        yield descriptor, last
    finally:
        os.close(descriptor)


def status_of(place: Place) -> os.stat_result | None:
    """lstat(2) of the file; None if it does not exist. Raises OSError."""
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
    """Renames a file, and makes the folders above its target; False if it is gone.

    Raises FileExistsError if the target exists, NotADirectoryError if a folder cannot be made, and OSError.
    """
    while True:
        try:
            with folder_of(source) as (old_folder, old), folder_of(target, create=True) as (new_folder, new):
                rename_to_new(old_folder, old, new_folder, new)
            return True
        except (FileNotFoundError, NotADirectoryError):
            if status_of(source) is None:
                return False
            # Either the target's folder was removed in between, or it can never be made: this second attempt raises.
            with folder_of(target, create=True):
                pass


_LIBC = ctypes.CDLL(None, use_errno=True)
_RENAME_NOREPLACE = 1
_NO_LINKS = frozenset({errno.EPERM, errno.ENOSYS, errno.EOPNOTSUPP, errno.EMLINK})


def rename_to_new(old_folder: int, old: str, new_folder: int, new: str) -> None:
    """rename(2) between two folders that never replaces a file. Raises FileExistsError, and OSError as rename(2)."""
    if _LIBC.renameat2(old_folder, os.fsencode(old), new_folder, os.fsencode(new), _RENAME_NOREPLACE) == 0:
        return
    number = ctypes.get_errno()
    if number not in (errno.ENOSYS, errno.EINVAL):
        raise OSError(number, os.strerror(number), old, None, new)
    # NFS has no such rename. Two names for a moment are harmless: the content is the address.
    try:
        os.link(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder, follow_symlinks=False)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
    else:
        os.unlink(old, dir_fd=old_folder)
        return
    # CIFS and FUSE have no links either: all that is left is to check first.
    with contextlib.suppress(FileNotFoundError):
        os.lstat(new, dir_fd=new_folder)
        raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), new)
    os.rename(old, new, src_dir_fd=old_folder, dst_dir_fd=new_folder)


class _Folder:
    """A folder that stays open while a walk has folders below it to open: for thousands of nested folders, going from
    the base to each would take millions of steps. The number of open folders is at most the depth.
    """

    __slots__ = ("descriptor", "name")

    def __init__(self, descriptor: int, name: str) -> None:
        self.descriptor = descriptor
        self.name = name

    def __del__(self) -> None:
        os.close(self.descriptor)

    def name_of(self, item: str) -> str:
        return f"{self.name}/{item}" if self.name else item

    def open(self, item: str) -> _Folder:
        """Raises as `open_folder` does, and ENAMETOOLONG if no path can reach it."""
        name = self.name_of(item)
        # A UTF-8 character has at most four bytes, so the exact length is rarely needed.
        if 4 * len(name) > _LONGEST_PATH and len(os.fsencode(name)) > _LONGEST_PATH:
            raise OSError(errno.ENAMETOOLONG, os.strerror(errno.ENAMETOOLONG), name)
        return _Folder(_open_below(self.descriptor, item), name)


def files_below(
    base: str, folder: str = "", refused: Callable[[str, OSError], bool] = lambda folder, error: False
) -> Iterator[str]:
    """The name of everything that is not a directory, one directory at a time: a million names never fill a list.

    `refused` is called with each folder that cannot be read and its error; it returns whether a retry may succeed. A
    folder that is gone is skipped.
    """
    waiting: list[tuple[str, Callable[[], _Folder]]] = [(folder, lambda: _Folder(open_folder(base, folder), folder))]
    while waiting:
        opened = _opened(*waiting.pop(), refused)
        if opened is None:
            continue
        try:
            with os.scandir(opened.descriptor) as found:
                for item in found:
                    name = opened.name_of(item.name)
                    if item.is_dir(follow_symlinks=False):
                        waiting.append((name, functools.partial(opened.open, item.name)))
                    else:
                        yield name
        except OSError as error:
            refused(opened.name, error)


def _opened(name: str, open_it: Callable[[], _Folder], refused: Callable[[str, OSError], bool]) -> _Folder | None:
    for _ in range(2):
        try:
            return open_it()
        except (FileNotFoundError, NotADirectoryError):
            return None
        except OSError as error:
            if not refused(name, error):
                return None
    return None


def remove_empty_folders(
    base: str, folder: str = "", is_left: Callable[[os.stat_result], bool] = lambda status: True
) -> None:
    """Removes empty folders below `folder` for which `is_left` is true, the deepest first; keeps `folder` itself."""
    try:
        top = _Folder(open_folder(base, folder), folder)
    except OSError:
        return
    # Each folder comes up twice: to list it, and after everything below it.
    waiting = [(top, item, False) for item in _folders_in(top)]
    while waiting:
        above, item, looked_into = waiting.pop()
        # A folder that is gone or not empty is left alone.
        with contextlib.suppress(OSError):
            if not looked_into:
                waiting.append((above, item, True))
                below = above.open(item)
                waiting += [(below, inner, False) for inner in _folders_in(below)]
            elif is_left(os.lstat(item, dir_fd=above.descriptor)):
                os.rmdir(item, dir_fd=above.descriptor)


def _folders_in(folder: _Folder) -> list[str]:
    with os.scandir(folder.descriptor) as found:
        return [item.name for item in found if item.is_dir(follow_symlinks=False)]


def prune(place: Place) -> None:
    """Removes the empty folders above a file that is gone or never came, up to the base, which stays."""
    folder = place.name
    with contextlib.suppress(OSError):  # not empty: another file is in there
        while folder := folder.rpartition("/")[0]:
            # Some folders of the path may not exist.
            with contextlib.suppress(FileNotFoundError), folder_of(Place(place.base, folder)) as (above, last):
                os.rmdir(last, dir_fd=above)


def sync_folders(place: Place) -> None:
    """Syncs the directory entry of a file and of all its folders. Raises OSError."""
    folder = place.name
    while folder:
        folder = folder.rpartition("/")[0]
        # A folder that is gone was empty.
        with contextlib.suppress(FileNotFoundError, NotADirectoryError):
            descriptor = open_folder(place.base, folder)
            try:
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
