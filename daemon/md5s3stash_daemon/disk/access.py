"""Gives the daemon's user access to folders and files of producers whose modes deny it.

A folder made by `sftp put -r` has no g+w, a file made with a strict umask no g+r. An entry in the access control list
lets in the daemon and no other user; owner and group stay the same. The kernel lets the owner add one, and a process
with CAP_FOWNER, which the access helper has and the daemon does not (decision 38).
"""

from __future__ import annotations

import os
import stat
import struct

from md5s3stash_daemon.disk.beneath import Place, folder_of

# The kernel's format (include/uapi/linux/posix_acl_xattr.h): a version, then entries of tag, permissions, id.
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
    """Grants this user these permissions on the file or folder, and access to its parent folders; False on failure."""
    parts = place.name.split("/")
    try:
        for depth in range(1, len(parts)):
            grant(Place(place.base, "/".join(parts[:depth])), READ_WRITE_SEARCH)
        return grant(place, permissions)
    except OSError:
        # It is gone, or is a link.
        return False


def grant(place: Place, permissions: int) -> bool:
    """Grants this user these permissions on the file or folder; False if the kernel refuses.

    Raises OSError if it is gone, or is a link.
    """
    with folder_of(place) as (folder, last):
        # O_PATH, because we may not be allowed to read it.
        descriptor = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        # Through /proc: no attribute can be set on an O_PATH descriptor itself.
        path = f"/proc/self/fd/{descriptor}"
        status = os.fstat(descriptor)
        if not _may_be_opened(status):
            return False
        try:
            if _is_sticky(status):
                # Only their owners may move its files, whatever the list says. The setgid bit goes too:
                # RestrictSUIDSGID= refuses a chmod that keeps it.
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
    # With several names it may be a hard link to another user's file elsewhere, unless the kernel forbids such links.
    return status.st_nlink == 1 or _links_are_protected()


def _links_are_protected() -> bool:
    """Whether users can only link to files that they may read and write (proc(5)); False if unknown."""
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
        return [(_USER_OBJ, mode >> 6 & 7, _NO_ID), (_GROUP_OBJ, mode >> 3 & 7, _NO_ID), (_OTHER, mode & 7, _NO_ID)]


def with_user(entries: Acl, user: int, permissions: int) -> Acl:
    """The list with these permissions for the user, and a mask that lets them through; no other user gains any."""
    masks = [granted for tag, granted, _ in entries if tag == _MASK]
    mask = masks[0] if masks else 7
    others = [
        # Permissions that the old mask withheld must not become effective with the new mask.
        (tag, granted & mask if tag in (_USER, _GROUP_OBJ, _GROUP) else granted, owner)
        for tag, granted, owner in entries
        if tag != _MASK and (tag, owner) != (_USER, user)
    ]
    needed = permissions
    for tag, granted, _ in others:
        needed |= granted if tag in (_USER, _GROUP_OBJ, _GROUP) else 0
    # The kernel requires order by tag and id.
    return sorted(
        [*others, (_USER, permissions, user), (_MASK, needed, _NO_ID)], key=lambda entry: (entry[0], entry[2])
    )


def parse(attribute: bytes) -> Acl:
    """Raises struct.error if it is not an access control list."""
    return [(tag, granted, owner) for tag, granted, owner in _ENTRY.iter_unpack(attribute[_HEADER.size :])]


def pack(entries: Acl) -> bytes:
    """In the kernel's format."""
    return _HEADER.pack(_VERSION) + b"".join(_ENTRY.pack(*entry) for entry in entries)
