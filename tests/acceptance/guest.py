"""A Debian guest with its own systemd, in namespaces of this machine: boot, commands, reboot, power cut.

systemd-nspawn boots it without the host's systemd. It ends with the process that started it.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import signal
import subprocess
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.support.servers import wait_until

BOOT_SECONDS = 90.0
STOP_SECONDS = 90.0

MKFS = ("mkfs.ext4", "mkfs.xfs")
PROGRAMS = ("systemd-nspawn", "mmdebstrap", "packer", "nsenter", "ip", "pgrep", "sftp", "rsync", "nfs-cp", *MKFS)
_ENVIRONMENT = ("PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root", "LANG=C.UTF-8")
# The process joins its cgroups before it becomes systemd-nspawn.
_JOIN_AND_EXEC = 'while [ "$1" != -- ]; do echo $$ >"$1/cgroup.procs"; shift; done; shift; exec "$@"'

# systemd-nspawn mounts the controllers of cgroup v1 read-only; without this MemoryMax= has no effect.
_LET_LIMITS_ACT_AND_BOOT = (
    "for controller in memory pids cpu; do"
    " test ! -d /sys/fs/cgroup/$controller ||"
    " mount -o remount,bind,rw,nosuid,nodev,noexec /sys/fs/cgroup/$controller;"
    " done; exec /sbin/init"
)


class CannotBoot(Exception):
    """This machine cannot boot a guest, or the guest did not start; the message says why."""


def demand_a_machine_that_can_boot() -> None:
    """Raises CannotBoot if this machine cannot boot guests."""
    if os.geteuid() != 0:
        raise CannotBoot("a guest can only be booted by root: run `make acceptance` as root")
    missing = [program for program in PROGRAMS if not shutil.which(program)]
    if missing:
        raise CannotBoot(f"programs are missing: {', '.join(missing)}")
    tried = subprocess.run(["unshare", "--mount", "--pid", "--net", "--fork", "true"], capture_output=True, text=True)
    if tried.returncode != 0:
        raise CannotBoot(f"this machine does not allow namespaces: {tried.stderr.strip()}")


_SEALS = "landlock_create_ruleset landlock_add_rule landlock_restrict_self seccomp"


class Guest:
    """A root directory, booted or not. Without a network namespace it shares this machine's network."""

    def __init__(self, root: Path, name: str, namespace: Path | None = None, options: Sequence[str] = ()) -> None:
        self.root = root
        self.name = name
        self._namespace = namespace
        self._options = options
        self._log = root.with_name(f"{root.name}.console")
        self._process: subprocess.Popen[bytes] | None = None
        self._cgroups: list[Path] = []
        self._init = 0

    def boot(self, seconds: float = BOOT_SECONDS) -> None:
        """Starts it and waits until every unit has been started. Raises CannotBoot."""
        self.start()
        self.wait_until_booted(seconds)

    def start(self) -> None:
        """Returns when its first process runs; the guest ends with the calling thread. Raises CannotBoot."""
        self._cgroups = _make_cgroups(self.name)
        command = ["setpriv", "--pdeathsig", "TERM", "--", "sh", "-c", _JOIN_AND_EXEC, "sh"]
        command += [*map(str, self._cgroups), "--"]
        if self._namespace:
            # `ip netns exec` would hide /sys/fs/cgroup from systemd-nspawn.
            command += ["nsenter", f"--net={self._namespace}", "--"]
        command += ["systemd-nspawn", "--quiet", f"--directory={self.root}", f"--machine={self.name}"]
        # Nothing on this machine manages it: no machined, no unit, no journal, no clock.
        command += ["--register=no", "--keep-unit", "--link-journal=no", "--resolv-conf=off", "--timezone=off"]
        # Of its own, systemd-nspawn leaves these out up to 252.
        command += [f"--system-call-filter={_SEALS}"]
        command += ["--console=read-only", "--kill-signal=SIGRTMIN+3", "--notify-ready=no", *self._options]
        command += ["sh", "-c", _LET_LIMITS_ACT_AND_BOOT]
        with open(self._log, "ab") as log:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, start_new_session=True
            )
        self._wait_for("its first process", self._has_init, BOOT_SECONDS)

    def wait_until_booted(self, seconds: float = BOOT_SECONDS) -> None:
        """Waits until every unit has been started. Raises CannotBoot."""
        self._wait_for("every unit started", self._has_booted, seconds)

    def run(self, *command: str, check: bool = True, text: str | None = None) -> str:
        """Runs a command in the guest as root; returns its output. Raises CalledProcessError with stdout and stderr."""
        enter = ["nsenter", "--target", str(self._init), "--all", "--", "env", "-i", *_ENVIRONMENT]
        done = subprocess.run([*enter, *command], capture_output=True, text=True, input=text, check=False, timeout=120)
        if check and done.returncode != 0:
            raise subprocess.CalledProcessError(done.returncode, command, done.stdout, done.stderr)
        return done.stdout.strip()

    def reboot(self) -> None:
        """Reboots normally. systemd-nspawn ends, and we start it again as its manager."""
        self.run("systemctl", "reboot", check=False)
        self._ended()
        self.boot()

    def cut_the_power(self) -> None:
        """Kills all processes of the guest at once. The kernel keeps its page cache: this does not test fsync."""
        os.kill(self._init, signal.SIGKILL)
        self._ended()

    def shut_down(self) -> None:
        """Shuts down normally, if it runs."""
        if self._process and self.runs():
            self._process.terminate()
            self._ended()

    def runs(self) -> bool:
        """Whether it was booted and still runs."""
        return self._process is not None and self._process.poll() is None

    def console(self) -> str:
        """The end of its console output."""
        return self._log.read_text(errors="replace")[-3000:]

    def _wait_for(self, what: str, condition: object, seconds: float) -> None:
        assert callable(condition)
        try:
            wait_until(lambda: bool(condition()), f"{what} of guest {self.name}", seconds)
        except TimeoutError as error:
            raise CannotBoot(f"{error}\n{self.console()}") from error

    def _has_init(self) -> bool:
        assert self._process
        if self._process.poll() is not None:
            raise CannotBoot(f"systemd-nspawn ended with {self._process.returncode}\n{self.console()}")
        found = subprocess.run(["pgrep", "-P", str(self._process.pid), "-x", "systemd"], capture_output=True, text=True)
        self._init = int(found.stdout.split()[0]) if found.stdout else 0
        return bool(self._init)

    def _has_booted(self) -> bool:
        # `degraded` counts as booted: the tests check each unit.
        return self.run("systemctl", "is-system-running", check=False) in ("running", "degraded")

    def _ended(self) -> None:
        assert self._process
        self._process.wait(STOP_SECONDS)
        _remove_cgroups(self._cgroups)
        self._cgroups = []


@contextlib.contextmanager
def booted(guest: Guest) -> Iterator[Guest]:
    """Boots the guest; shuts it down at the end."""
    try:
        guest.boot()
        yield guest
    finally:
        guest.shut_down()


def _make_cgroups(name: str) -> list[Path]:
    """A cgroup below this process's own, for each hierarchy: the limits above still apply, and the guest's systemd
    never owns a root.
    """
    made = []
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        hierarchy = Path("/sys/fs/cgroup") / (controllers.removeprefix("name=") or "unified")
        if not controllers and not hierarchy.is_dir():
            hierarchy = Path("/sys/fs/cgroup")
        parent = hierarchy / path.lstrip("/")
        # A new cpuset accepts no process before it has processors and memory; it is not needed here.
        if controllers == "cpuset" or not os.access(parent / "cgroup.procs", os.W_OK):
            continue
        (parent / name).mkdir(exist_ok=True)
        made.append(parent / name)
    return made


def _remove_cgroups(cgroups: Sequence[Path]) -> None:
    for cgroup in cgroups:
        for directory, _, _ in os.walk(cgroup, topdown=False):
            # The kernel needs a moment to release the last process.
            with contextlib.suppress(OSError):
                os.rmdir(directory)
