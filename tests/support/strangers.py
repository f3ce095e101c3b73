"""The daemon and its producers as the users that they are on the appliance: none of them is root, or the other.

The daemon has the user, groups, umask and capabilities of systemd/md5s3stashd.service, and no more. Producers are
another user, in the drop group. The spool has the owners and modes of systemd/spool/states.conf. All of it needs root:
`pytest.mark.needs_namespaces(users=True)`.
"""

from __future__ import annotations

import contextlib
import ctypes
import hashlib
import itertools
import os
import platform
import sys
import tempfile
import time
import uuid
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.mounts import in_the_place_of, ways_to, with_mounts
from tests.support.servers import REPOSITORY, wait_until
from tests.support.stores import Keys

DAEMON = 12001
PRODUCER = 12002
DROP_GROUP = 12100

# A writer who meets a lease waits for it, at most so long (/proc/sys/fs/lease-break-time has 45), and all on a machine
# that has other things to do.
SECONDS = 120.0

_UNIT = REPOSITORY / "systemd/md5s3stashd.service"
_STATES = REPOSITORY / "systemd/spool/states.conf"
_IDS = {"root": 0, "md5s3stash": DAEMON, "md5s3stash-drop": DROP_GROUP}

_CLONE_FS = 0x200
# setgroups(2) of the C library changes all threads. The call itself changes the one that makes it.
_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159}


@contextlib.contextmanager
def appliance_site(redis_url: str, s3_endpoint: str, keys: Keys | None = None, bucket: str = "") -> Iterator[Site]:
    """A site below a directory that every user may enter, which pytest's own are not."""
    with tempfile.TemporaryDirectory(prefix="appliance-", ignore_cleanup_errors=True) as directory:
        os.chmod(directory, 0o755)
        site = Site(Path(directory), redis_url, s3_endpoint, keys or Keys(), bucket=bucket)
        make_spool(site.spool)
        users = Path("/etc/passwd").read_text()
        (site.directory / "passwd").write_text(f"{users}producer:x:{PRODUCER}:{PRODUCER}::/tmp:/bin/sh\n")
        with access_helper(site):
            yield site


@contextlib.contextmanager
def access_helper(site: Site) -> Iterator[None]:
    """The access helper with what its unit grants, while the context lasts."""
    arguments = ["tests.support.unit_programs", "helper", _socket_of(site), str(site.spool)]
    process = warm.start(arguments, os.environ, site.directory / "helper.log")
    try:
        wait_until(lambda: os.path.exists(_socket_of(site)), "the helper's socket", SECONDS)
        yield
    finally:
        process.kill()
        process.wait()


def _socket_of(site: Site) -> str:
    return str(site.directory / "access.socket")


def make_spool(spool: Path) -> None:
    """The directories of the spool, as systemd-tmpfiles makes them."""
    for line in _STATES.read_text().splitlines():
        kind, path, mode, user, group = [*line.split(), "", "", "", "", ""][:5]
        if kind == "d" and path.startswith("/var/spool/md5s3stash"):
            directory = spool / os.path.relpath(path, "/var/spool/md5s3stash")
            directory.mkdir()
            os.chown(directory, _IDS[user], _IDS[group])
            os.chmod(directory, int(mode, 8))


def unit_daemon(site: Site, environment: Mapping[str, str] | None = None, mounts: Sequence[str] = ()) -> Daemon:
    """The daemon with what its unit grants."""
    as_unit = ["setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", f"--groups={DROP_GROUP}", "--no-new-privs"]
    as_unit += _capability_options()
    if unit_values("RestrictSUIDSGID") == ["yes"]:
        as_unit += [sys.executable, "-m", "tests.support.seccomp"]
    [umask] = unit_values("UMask")
    known = {"HOME": "/nonexistent", "TMPDIR": "/tmp", "MD5S3STASH_SPOOL_ACCESS_SOCKET": _socket_of(site)}
    return Daemon(
        site,
        {**known, **(environment or {})},
        mounts=[*ways_to(_programs(), site.directory / "closed"), *mounts, f"umask {umask}", "cd /"],
        prefix=as_unit,
    )


def producers(at_once: int = 1, umask: int = 0o002) -> ThreadPoolExecutor:
    """Threads of this process whose every access to a file is that of the producer's user."""
    return ThreadPoolExecutor(at_once, "producer", initializer=_become_producer, initargs=(umask,))


def as_producer(site: Site, *command: str | Path, umask: int = 0o002) -> list[str]:
    """The command as the producer's user, who has a name, which OpenSSH asks for."""
    mounts = [in_the_place_of("/etc/passwd", site.directory / "passwd")]
    as_user = ["setpriv", f"--reuid={PRODUCER}", f"--regid={PRODUCER}", f"--groups={DROP_GROUP}", "--inh-caps=-all"]
    return with_mounts([*mounts, f"umask {umask:o}", "cd /"], [*as_user, *map(str, command)])


def let_passes_go_by(site: Site, producer: ThreadPoolExecutor, seconds: float = 0.0) -> None:
    """Until the daemon has looked at everything in the spool at least once, and for so many seconds."""
    done = time.monotonic() + seconds
    for number in itertools.count():
        # The second is found by a pass that began after this was called.
        name = f"marker-{uuid.uuid4().hex}"
        producer.submit(site.drop, name, b"marker").result()
        wait_until(lambda name=name: name in site.names(), "marker recorded", SECONDS)  # type: ignore[misc]
        if number and time.monotonic() > done:
            return


def recorded(site: Site, name: str) -> list[str]:
    """The md5s that the log has of a dropped name, in order."""
    return [entry["md5"] for entry in site.log() if entry["name"] == name and entry["outcome"] != "failed"]


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def unit_capabilities() -> list[str]:
    """What the unit's process may do beyond its user, by the kernel's names ("cap_lease")."""
    bounding = [word for line in unit_values("CapabilityBoundingSet") for word in line.split()]
    if any(word.startswith("~") for word in bounding):
        raise ValueError("CapabilityBoundingSet names what is taken away: this reads only what is granted")
    # Those of a user namespace do not count where the kernel asks for one of the machine's.
    if unit_values("PrivateUsers")[-1:] not in ([], ["no"]):
        return []
    ambient = [word for line in unit_values("AmbientCapabilities") for word in line.split()]
    return [word.lower() for word in ambient if word in bounding]


def unit_values(key: str) -> list[str]:
    """What the unit says of a key, in order; an empty value takes back what came before it (systemd.syntax(7))."""
    values: list[str] = []
    for line in _UNIT.read_text().splitlines():
        name, _, value = line.partition("=")
        if name.strip() == key:
            values = [*values, value.strip()] if value.strip() else []
    return values


def _capability_options() -> list[str]:
    granted = ",".join(["-all", *(f"+{name.removeprefix('cap_')}" for name in unit_capabilities())])
    return [f"--{kind}={granted}" for kind in ("inh-caps", "ambient-caps", "bounding-set")]


def _programs() -> list[Path]:
    """What another user must be able to read to run Python with the checkout."""
    return [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPOSITORY]


def _become_producer(umask: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # The umask belongs to what threads share, until one has its own.
    if libc.unshare(_CLONE_FS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
    os.umask(umask)
    groups = (ctypes.c_uint32 * 1)(DROP_GROUP)
    if libc.syscall(_SYS_SETGROUPS[platform.machine()], 1, groups) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setgroups")
    # Without the user's id 0 the kernel also takes away what root may do with files (capabilities(7)).
    libc.setfsgid(PRODUCER)
    libc.setfsuid(PRODUCER)
    assert libc.setfsuid(-1) == PRODUCER
