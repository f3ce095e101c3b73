"""NFS 4 without kernel support: nfs-ganesha serves a directory, and a producer uses libnfs.

Ganesha has its own root directory, so that running the tests installs no NFS server on the machine.
"""

from __future__ import annotations

import contextlib
import ctypes
import ctypes.util
import os
import socket
import subprocess
from collections.abc import Iterator
from pathlib import Path

from tests.acceptance.network import AROUND
from tests.support.servers import wait_until

PORT = 2049
# The size of libnfs 4's buffer.
_WRITE_BYTES = 1024
_NAME = "/incoming"
# The exports of docs/spool-over-network.md in ganesha's format; only NFS 4, without a grace period for earlier clients.
_SETTINGS = """\
NFS_CORE_PARAM {{
    Protocols = 4; NFS_Port = {port}; Enable_NLM = false; Enable_RQUOTA = false; allow_set_io_flusher_fail = true;
}}
NFSv4 {{ Graceless = true; RecoveryBackend = fs; Only_Numeric_Owners = true; }}
EXPORT {{
    Export_Id = 1; Path = /export; Pseudo = {name}; Protocols = 4; SecType = sys;
    Access_Type = RW; Squash = All_Squash; Anonymous_Uid = {uid}; Anonymous_Gid = {gid};
    FSAL {{ Name = VFS; }}
}}
"""
# Only ganesha sees the mounts, and they end with it.
_SERVE = (
    "set -e; mount --bind {exported} {root}/export; mount -t proc proc {root}/proc; mount --rbind /dev {root}/dev;"
    " exec chroot {root} ganesha.nfsd -F -L STDERR -f /etc/ganesha/export.conf"
)


@contextlib.contextmanager
def exported(root: Path, directory: Path, uid: int, gid: int) -> Iterator[None]:
    """Exports a directory of a disk's file system (ganesha does not serve tmpfs), with one user for all clients."""
    for place in ("export", "run/ganesha", "var/lib/nfs/ganesha"):
        (root / place).mkdir(parents=True, exist_ok=True)
    mounts = root / "etc/mtab"
    mounts.unlink(missing_ok=True)
    mounts.symlink_to("/proc/self/mounts")
    (root / "etc/ganesha/export.conf").write_text(_SETTINGS.format(port=PORT, name=_NAME, uid=uid, gid=gid))
    log = root.with_name(f"{root.name}.log")
    with open(log, "wb") as output:
        serve = ["unshare", "--mount", "sh", "-c", _SERVE.format(exported=directory, root=root)]
        server = subprocess.Popen(serve, stdin=subprocess.DEVNULL, stdout=output, stderr=subprocess.STDOUT)
        try:
            try:
                wait_until(_listens, "ganesha", 30)
            except TimeoutError as error:
                raise RuntimeError(f"{error}\n{log.read_text(errors='replace')[-3000:]}") from error
            yield
        finally:
            server.kill()
            server.wait()


def _listens() -> bool:
    with contextlib.suppress(OSError), socket.create_connection((AROUND, PORT), timeout=1):
        return True
    return False


class Client:
    """One producer's machine. Raises OSError with the message of libnfs."""

    def __init__(self) -> None:
        self._nfs = ctypes.CDLL(ctypes.util.find_library("nfs"))
        self._nfs.nfs_init_context.restype = ctypes.c_void_p
        self._nfs.nfs_get_error.restype = ctypes.c_char_p
        self._context = ctypes.c_void_p(self._nfs.nfs_init_context())
        self._check(self._nfs.nfs_set_version(self._context, 4))
        self._check(self._nfs.nfs_mount(self._context, AROUND.encode(), _NAME.encode()))

    def create(self, name: str, data: bytes) -> None:
        """Creates a file with this data, and closes it."""
        self._write(name, os.O_CREAT | os.O_WRONLY, data, offset=0)
        # libnfs creates files that only their owner can read.
        self._check(self._nfs.nfs_chmod(self._context, f"/{name}".encode(), 0o664))

    def append(self, name: str, data: bytes, offset: int) -> None:
        self._write(name, os.O_WRONLY, data, offset)

    def rename(self, old: str, new: str) -> None:
        self._check(self._nfs.nfs_rename(self._context, f"/{old}".encode(), f"/{new}".encode()))

    def close(self) -> None:
        self._nfs.nfs_destroy_context(self._context)

    def _write(self, name: str, flags: int, data: bytes, offset: int) -> None:
        file = ctypes.c_void_p()
        self._check(self._nfs.nfs_open(self._context, f"/{name}".encode(), flags, ctypes.byref(file)))
        for start in range(0, len(data), _WRITE_BYTES):
            part = data[start : start + _WRITE_BYTES]
            where, count = ctypes.c_uint64(offset + start), ctypes.c_uint64(len(part))
            self._check(self._nfs.nfs_pwrite(self._context, file, where, count, part))
        self._check(self._nfs.nfs_close(self._context, file))

    def _check(self, result: int) -> None:
        if result < 0:
            raise OSError(-result, self._nfs.nfs_get_error(self._context).decode())
