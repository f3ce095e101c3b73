"""The daemon and its producers with the users of the appliance: different ones, neither of them root.

The daemon has exactly the user, groups, umask and capabilities of systemd/md5s3stashd.service. Producers are another
user, in the drop group. The spool has the owners and modes of systemd/spool/states.conf. This needs root:
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
from collections.abc import Iterator, Mapping
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

# A writer waits at most this long for a lease (/proc/sys/fs/lease-break-time has 45), plus time for a busy machine.
SECONDS = 120.0

_UNIT = REPOSITORY / "systemd/md5s3stashd.service"
_STATES = REPOSITORY / "systemd/spool/states.conf"
_IDS = {"root": 0, "md5s3stash": DAEMON, "md5s3stash-drop": DROP_GROUP}

_CLONE_FS = 0x200
# The C library's setgroups(2) changes all threads; the system call only the calling thread.
_SYS_SETGROUPS = {"x86_64": 116, "aarch64": 159}


@contextlib.contextmanager
def appliance_site(redis_url: str, s3_endpoint: str, keys: Keys | None = None, bucket: str = "") -> Iterator[Site]:
    """A site below a directory that every user may enter, unlike pytest's own."""
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
    """The access helper with the rights of its unit, during the context."""
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
    """Makes the directories of the spool as systemd-tmpfiles does."""
    for line in _STATES.read_text().splitlines():
        kind, path, mode, user, group = [*line.split(), "", "", "", "", ""][:5]
        if kind == "d" and path.startswith("/var/spool/md5s3stash"):
            directory = spool / os.path.relpath(path, "/var/spool/md5s3stash")
            directory.mkdir()
            os.chown(directory, _IDS[user], _IDS[group])
            os.chmod(directory, int(mode, 8))


def unit_daemon(site: Site, environment: Mapping[str, str] | None = None) -> Daemon:
    """The daemon with the rights of its unit."""
    return _UnitDaemon(site, {**_unit_environment(site), **(environment or {})})


class _UnitDaemon(Daemon):
    def _fork(self, environment: Mapping[str, str]) -> warm.Fork:
        mounts = " && ".join([*_ways(self.site), "true"])
        arguments = ["tests.support.unit_programs", "daemon", mounts]
        return warm.start(arguments, environment, self.log_path, directory=Path("/"))


def cold_unit_daemon(site: Site, environment: Mapping[str, str] | None = None) -> Daemon:
    """As `unit_daemon`, but started as systemd does, and with processes that look at contents."""
    as_unit = ["setpriv", f"--reuid={DAEMON}", f"--regid={DAEMON}", f"--groups={DROP_GROUP}", "--no-new-privs"]
    as_unit += _capability_options()
    if unit_values("RestrictSUIDSGID") == ["yes"]:
        as_unit += [sys.executable, "-m", "tests.support.seccomp"]
    [umask] = unit_values("UMask")
    return Daemon(
        site,
        {**_unit_environment(site), **(environment or {})},
        mounts=[*_ways(site), f"umask {umask}", "cd /"],
        prefix=as_unit,
    )


def _unit_environment(site: Site) -> dict[str, str]:
    return {"HOME": "/nonexistent", "TMPDIR": "/tmp", "MD5S3STASH_SPOOL_ACCESS_SOCKET": _socket_of(site)}


def _ways(site: Site) -> list[str]:
    return ways_to(_programs(), site.directory / "closed")


def producers(at_once: int = 1, umask: int = 0o002) -> ThreadPoolExecutor:
    """Threads of this process that access files as the producer's user."""
    return ThreadPoolExecutor(at_once, "producer", initializer=_become_producer, initargs=(umask,))


def as_producer(site: Site, *command: str | Path, umask: int = 0o002) -> list[str]:
    """The command as the producer's user, with a user name, which OpenSSH requires."""
    mounts = [in_the_place_of("/etc/passwd", site.directory / "passwd")]
    as_user = ["setpriv", f"--reuid={PRODUCER}", f"--regid={PRODUCER}", f"--groups={DROP_GROUP}", "--inh-caps=-all"]
    return with_mounts([*mounts, f"umask {umask:o}", "cd /"], [*as_user, *map(str, command)])


def let_passes_go_by(site: Site, producer: ThreadPoolExecutor, seconds: float = 0.0) -> None:
    """Waits until the daemon has scanned the whole spool at least once, and for at least `seconds`."""
    done = time.monotonic() + seconds
    for number in itertools.count():
        # The second file is found by a pass that began after this call.
        name = f"marker-{uuid.uuid4().hex}"
        producer.submit(site.drop, name, b"marker").result()
        wait_until(lambda name=name: name in site.names(), "marker recorded", SECONDS)  # type: ignore[misc]
        if number and time.monotonic() > done:
            return


def recorded(site: Site, name: str) -> list[str]:
    """The md5s in the log for a dropped name, in order."""
    return [entry["md5"] for entry in site.log() if entry["name"] == name and entry["outcome"] != "failed"]


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def unit_capabilities() -> list[str]:
    """The capabilities of the unit's process, by the kernel's names ("cap_lease")."""
    bounding = [word for line in unit_values("CapabilityBoundingSet") for word in line.split()]
    if any(word.startswith("~") for word in bounding):
        raise ValueError("CapabilityBoundingSet lists removed capabilities: this reads only granted ones")
    # Capabilities of a user namespace have no effect where the kernel requires the machine's.
    if unit_values("PrivateUsers")[-1:] not in ([], ["no"]):
        return []
    ambient = [word for line in unit_values("AmbientCapabilities") for word in line.split()]
    return [word.lower() for word in ambient if word in bounding]


def unit_values(key: str) -> list[str]:
    """The unit's values of a key, in order; an empty value resets earlier ones (systemd.syntax(7))."""
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
    """The paths that another user must be able to read to run Python with the checkout."""
    return [Path(sys.base_prefix).resolve(), Path(sys.prefix).resolve(), REPOSITORY]


def _become_producer(umask: int) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    # Threads share the umask until one unshares it.
    if libc.unshare(_CLONE_FS) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "unshare")
    os.umask(umask)
    groups = (ctypes.c_uint32 * 1)(DROP_GROUP)
    if libc.syscall(_SYS_SETGROUPS[platform.machine()], 1, groups) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setgroups")
    # When the user's id is no longer 0, the kernel also drops root's file capabilities (capabilities(7)).
    libc.setfsgid(PRODUCER)
    libc.setfsuid(PRODUCER)
    assert libc.setfsuid(-1) == PRODUCER
