"""Builds the appliance's image from Debian with the real playbook."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.support.servers import accepts_connections, wait_until

PROJECT = Path(__file__).resolve().parents[2]
OPS_BIN = PROJECT / "build/ops-venv/bin"
# Kept between runs; `make clean` removes it.
KEPT = PROJECT / "build/acceptance"

_WHEELS_IN_GUEST = "/mnt/wheels"
_ROOM = "md5s3stash-acceptance-"
# An image, and three boxes launched from it.
_ROOM_BYTES = 8 * 1024**3
# The sources of an image.
_INGREDIENTS = (
    "ansible",
    "aws/image",
    "daemon",
    "md5s3stash",
    "migrate",
    "packer",
    "requirements",
    "share",
    "systemd",
    "thumbnailer",
)


@dataclass(frozen=True, slots=True)
class Release:
    """A release of Debian, and the data of its Python with which pip downloads for it on another machine."""

    suite: str
    python: str
    glibc_minor: int

    @property
    def markers(self) -> Mapping[str, str]:
        return {"python_version": self.python.rpartition(".")[0], "python_full_version": self.python}


# Production runs on the first.
RELEASES = {release.suite: release for release in (Release("trixie", "3.13.5", 41), Release("bookworm", "3.11.2", 36))}


@dataclass(frozen=True, slots=True)
class Login:
    """Ansible's login to the guest: root, with a key, and OpenSSH's settings."""

    port: int
    key: Path
    config: Path
    host: str = "127.0.0.1"


def run(command: Sequence[str | Path], environment: Mapping[str, str] | None = None, seconds: float = 600) -> str:
    """Runs a command; returns its output. Raises AssertionError with the output if it fails."""
    done = subprocess.run(
        [str(part) for part in command],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, **(environment or {})},
        cwd=PROJECT,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, f"{command} ended with {done.returncode}\n{done.stdout[-8000:]}"
    return done.stdout


def fast_directory() -> Path:
    """A directory for root file systems: in memory if there is room, which is several times as fast."""
    memory = Path("/dev/shm")
    enough = memory.is_dir() and shutil.disk_usage(memory).free > _ROOM_BYTES
    return memory if enough else Path("/var/tmp")


def room_for_guests() -> Path:
    """A new directory for root file systems."""
    return Path(tempfile.mkdtemp(prefix=_ROOM, dir=fast_directory()))


def room_on_disk() -> Path:
    """A new directory on a disk's file system."""
    return Path(tempfile.mkdtemp(prefix=_ROOM, dir="/var/tmp"))


def unpack(archive: Path, directory: Path) -> None:
    directory.mkdir(exist_ok=True)
    run(["tar", "--directory", directory, "--extract", "--numeric-owner", "--file", archive])


def keep(directory: Path, archive: Path) -> None:
    """Packs the content of the directory for `unpack`."""
    unfinished = archive.with_suffix(".new.tar")
    run(["tar", "--directory", directory, "--create", "--numeric-owner", "--file", unfinished, "."])
    unfinished.rename(archive)


def is_current(archive: Path) -> bool:
    """Whether it exists, and no source of an image has changed since."""
    files = [path for name in _INGREDIENTS for path in (PROJECT / name).rglob("*") if path.suffix != ".pyc"]
    return archive.exists() and max(path.stat().st_mtime for path in files if path.is_file()) < archive.stat().st_mtime


def prepare(root: Path, release: Release) -> None:
    """Adds what a fresh Debian needs for the build: a name, and this machine's network settings."""
    # mmdebstrap leaves an empty package list that looks fresh.
    os.utime(root / "var/lib/apt/lists", (0, 0))
    (root / "etc/hostname").write_text("appliance\n")
    # sudo looks up the host's name, once for each task of the playbook.
    (root / "etc/hosts").write_text("127.0.0.1 localhost appliance\n")
    resolver = root / "etc/resolv.conf"
    resolver.unlink(missing_ok=True)
    shutil.copy("/etc/resolv.conf", resolver)
    # The release's sources lack the security updates.
    sources = root / "etc/apt/sources.list"
    main = sources.read_text().split()[1]
    security = main.removesuffix("/debian") + "/debian-security"
    sources.write_text(f"deb {main} {release.suite} main\ndeb {security} {release.suite}-security main\n")
    (root / "etc/pip.conf").write_text(f"[install]\nno-index = true\nfind-links = {_WHEELS_IN_GUEST}\n")


def copy(root: Path, new: Path) -> None:
    run(["cp", "--archive", root, new])


def let_in(root: Path, login: Login) -> None:
    """Installs a key for root, as a cloud does for a new instance; sshd listens on a free port of this machine."""
    public = login.key.with_suffix(".pub").read_text()
    authorized = root / "root/.ssh/authorized_keys"
    authorized.parent.mkdir(mode=0o700, exist_ok=True)
    authorized.write_text(public)
    authorized.chmod(0o600)
    (root / "etc/ssh/sshd_config.d/acceptance.conf").write_text(f"Port {login.port}\nListenAddress {login.host}\n")


# The host key of a new guest is unknown, and must not be remembered.
_SSH_SETTINGS = """\
BatchMode yes
IdentitiesOnly yes
StrictHostKeyChecking no
UserKnownHostsFile /dev/null
LogLevel ERROR
"""


def write_ssh_settings(config: Path) -> None:
    config.write_text(_SSH_SETTINGS)


def make_key(key: Path) -> None:
    """A private key; the public one is beside it, with .pub."""
    run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", key])


def wait_for_ssh(login: Login) -> None:
    wait_until(lambda: accepts_connections(login.port), f"sshd on port {login.port}", 30)


def playbook(login: Login, *options: str) -> str:
    """Runs ansible/site.yml; returns its output."""
    inventory = login.key.with_suffix(".inventory")
    # Not named by its address: Ansible would treat 127.0.0.1 as the control node.
    inventory.write_text(f"guest ansible_host={login.host} ansible_port={login.port} ansible_user=root\n")
    command: list[str | Path] = [
        OPS_BIN / "ansible-playbook",
        "--inventory",
        inventory,
        "--private-key",
        login.key,
        *options,
    ]
    return run([*command, PROJECT / "ansible/site.yml"], ansible_environment(login))


def bake(login: Login, *options: str) -> str:
    """Runs the template of packer/ against the booted guest; returns its output."""
    command: list[str | Path] = [PROJECT / "packer/rehearse", "build", "-color=false", "-only=null.guest"]
    command += ["-var", f"guest_port={login.port}", "-var", f"guest_key_file={login.key}"]
    command += ["-var", f"ansible_arguments={json.dumps(options)}"]
    return run(command, ansible_environment(login))


def guest_options(wheels: Path) -> list[str]:
    """Options of systemd-nspawn(1) that mount the wheels."""
    return [f"--bind-ro={wheels}:{_WHEELS_IN_GUEST}"]


def ansible_environment(login: Login) -> Mapping[str, str]:
    return {
        "ANSIBLE_CONFIG": str(PROJECT / "ansible/ansible.cfg"),
        "ANSIBLE_SSH_ARGS": f"-F {login.config} -o ControlMaster=auto -o ControlPersist=60s",
        # Persistent connections must be of this run: each run has the same addresses, in another network.
        "ANSIBLE_SSH_CONTROL_PATH_DIR": str(login.config.parent),
        "ANSIBLE_NOCOLOR": "true",
        "PATH": f"{OPS_BIN}:{os.environ['PATH']}",
    }


@contextlib.contextmanager
def removed_at_the_end(directory: Path) -> Iterator[Path]:
    try:
        yield directory
    finally:
        # A directory below a guest's mount is closed to root too, if the file system supports the flag.
        closed = directory.glob("*/var/spool/md5s3stash")
        subprocess.run(["chattr", "-f", "-i", *closed], capture_output=True, check=False)
        shutil.rmtree(directory)
