"""Opens folders and files of producers to one user, the daemon's, where their modes shut it out.

A folder that `sftp put -r` has made has no g+w, a file of a strict umask no g+r. An entry in the access control list
lets the daemon in, and nobody else; owners and groups stay. The kernel lets the owner add one, and a process with
CAP_FOWNER, which the access helper has and the daemon has not (decision 38).
"""

from __future__ import annotations

import os
import stat
import struct

from md5s3stash_daemon.disk.beneath import Place, folder_of

# As the kernel keeps it (include/uapi/linux/posix_acl_xattr.h): a version, then entries of tag, permissions, id.
_ATTRIBUTE = "system.posix_acl_access"
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

PROTECTED_LINKS = "/proc/sys/fs/protected_hardlinks"

READ = 4
READ_WRITE_SEARCH = 7

Acl = list[tuple[int, int, int]]


def open_up(place: Place, permissions: int) -> bool:
    """Whether this user has these permissions on the file or folder now, and may go through the folders on the way."""
    parts = place.name.split("/")
    try:
        for depth in range(1, len(parts)):
            grant(Place(place.base, "/".join(parts[:depth])), READ_WRITE_SEARCH)
        return grant(place, permissions)
    except OSError:
        # It has gone, or a link stands there.
        return False


def grant(place: Place, permissions: int) -> bool:
    """Whether this user has these permissions on the file or folder now; False where the kernel refuses that.

    Raises OSError where it has gone, or a link stands there.
    """
    with folder_of(place) as (folder, last):
        # With O_PATH, for we may not even read it.
        descriptor = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        # The way through /proc: on an O_PATH descriptor itself no attribute can be set.
        path = f"/proc/self/fd/{descriptor}"
        status = os.fstat(descriptor)
        if not _may_be_opened(status):
            return False
        try:
            if _is_sticky(status):
                # Its files are their owners' to move, whatever an entry says. All modes below 0o1000: RestrictSUIDSGID=
                # refuses to keep the setgid bit.
                os.chmod(path, status.st_mode & 0o777)
            elif os.access(path, permissions):
                return True
            entries = _entries_of(path, status.st_mode)
            os.setxattr(path, _ATTRIBUTE, pack(with_user(entries, os.geteuid(), permissions)))
        except OSError:
            return False
        return True
    finally:
        os.close(descriptor)


def _may_be_opened(status: os.stat_result) -> bool:
    if not stat.S_ISREG(status.st_mode):
        return stat.S_ISDIR(status.st_mode)
    # One of several names may be a link to a file of anybody's, which lies elsewhere, unless the kernel forbids those.
    return status.st_nlink == 1 or _links_are_protected()


def _links_are_protected() -> bool:
    """Whether a link can be made only to what one may read and write (proc(5)); no, where that is not shown."""
    try:
        with open(PROTECTED_LINKS, "rb") as file:
            return file.read().strip() == b"1"
    except OSError:
        return False


def _is_sticky(status: os.stat_result) -> bool:
    is_ours = status.st_uid == os.geteuid()
    return stat.S_ISDIR(status.st_mode) and bool(status.st_mode & stat.S_ISVTX) and not is_ours


def _entries_of(path: str, mode: int) -> Acl:
    try:
        return parse(os.getxattr(path, _ATTRIBUTE))
    except OSError:
        return [
            (_USER_OBJ, mode >> 6 & 7, _NO_ID),
            (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
            (_OTHER, mode & 7, _NO_ID),
        ]


def with_user(entries: Acl, user: int, permissions: int) -> Acl:
    """The list with these permissions for the user, and a mask that lets them through; nobody else gains any."""
    masks = [granted for tag, granted, _ in entries if tag == _MASK]
    mask = masks[0] if masks else 7
    others = [
        # What the mask withheld so far must not come into force with the new mask.
        (tag, granted & mask if tag in (_USER, _GROUP_OBJ, _GROUP) else granted, owner)
        for tag, granted, owner in entries
        if tag != _MASK and (tag, owner) != (_USER, user)
    ]
    needed = permissions
    for tag, granted, _ in others:
        needed |= granted if tag in (_USER, _GROUP_OBJ, _GROUP) else 0
    # The kernel wants them in order of tag and id.
    return sorted(
        [*others, (_USER, permissions, user), (_MASK, needed, _NO_ID)], key=lambda entry: (entry[0], entry[2])
    )


def parse(attribute: bytes) -> Acl:
    """Raises struct.error where it is none."""
    return [(tag, granted, owner) for tag, granted, owner in _ENTRY.iter_unpack(attribute[_HEADER.size :])]


def pack(entries: Acl) -> bytes:
    """As the kernel takes it."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
