"""Opens folders and files of producers to the daemon's user alone, where their modes shut it out.

A folder that `sftp put -r` has made has no g+w, a file of a strict umask no g+r. With CAP_FOWNER, which the daemon's
unit gives, an entry in the access control list is ours to add; modes, owners and groups stay, and nobody else gets in.
It can be added only where the unit may write, which is the spool.
"""

from __future__ import annotations

import os
import struct

from md5s3stash_daemon.beneath import Place, folder_of

# As the kernel keeps it (include/uapi/linux/posix_acl_xattr.h): a version, then entries of tag, permissions, id.
_ATTRIBUTE = "system.posix_acl_access"
_HEADER = struct.Struct("<I")
_ENTRY = struct.Struct("<HHI")
_VERSION = 2
_NO_ID = 0xFFFFFFFF
_USER_OBJ, _USER, _GROUP_OBJ, _GROUP, _MASK, _OTHER = 0x01, 0x02, 0x04, 0x08, 0x10, 0x20

READ = 4
READ_WRITE_SEARCH = 7

Acl = list[tuple[int, int, int]]


def grant(place: Place, permissions: int) -> bool:
    """Whether the daemon's user has these permissions on the file or folder now; False where the kernel refuses that.

    Raises OSError where it has gone, or a link stands there.
    """
    with folder_of(place) as (folder, last):
        # With O_PATH, for we may not even read it.
        descriptor = os.open(last, os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    try:
        # The way through /proc: on an O_PATH descriptor itself no attribute can be set.
        path = f"/proc/self/fd/{descriptor}"
        mode = os.fstat(descriptor).st_mode
        try:
            entries = parse(os.getxattr(path, _ATTRIBUTE))
        except OSError:
            entries = [
                (_USER_OBJ, mode >> 6 & 7, _NO_ID),
                (_GROUP_OBJ, mode >> 3 & 7, _NO_ID),
                (_OTHER, mode & 7, _NO_ID),
            ]
        try:
            os.setxattr(path, _ATTRIBUTE, pack(with_user(entries, os.geteuid(), permissions)))
        except OSError:
            return False
        return True
    finally:
        os.close(descriptor)


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
