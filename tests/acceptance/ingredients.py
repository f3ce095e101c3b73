"""The ingredients of a run: Debian from its mirror, wheels, tools.

They are made concurrently, since there are two cores and a network to wait for; a user of one waits for its result.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from packaging.markers import Marker

from tests.acceptance.image import (
    KEPT,
    PROJECT,
    Release,
    fast_directory,
    prepare,
    removed_at_the_end,
    room_for_guests,
    run,
    unpack,
)

# Packages of Debian's cloud image, without ours.
PACKAGES = (
    "systemd,systemd-sysv,libpam-systemd,dbus,python3,python3-apt,python3-venv,ca-certificates,openssh-server,sudo,"
    "iproute2,procps,kmod"
)
NEXT_VERSION = "99.0.0"
# One of them only waits for the network.
_AT_ONCE = 3


@dataclass(frozen=True, slots=True)
class Ingredients:
    """Archives of root directories, and directories of wheels."""

    debian: Future[Path]
    # The wheels of the lock, for a guest without a network.
    wheelhouse: Future[Path]
    # Ansible and other tools, in build/ops-venv.
    tools: Future[str]
    # build/wheels, from which the playbook installs.
    ours: Future[str]
    # Of a later version with the same behaviour.
    next_wheels: Future[Path]
    nfs_server: Future[Path]
    # Its Debian packages.
    cloud_init: Future[Path]


@contextlib.contextmanager
def ingredients(release: Release, room: Path) -> Iterator[Ingredients]:
    """Starts to make all of them, in the order in which they are needed."""
    with ThreadPoolExecutor(_AT_ONCE) as pool:
        debian = pool.submit(_debian, release)
        tools = pool.submit(run, [PROJECT / "tools/ops-venv"])
        wheelhouse = pool.submit(_wheelhouse, release)
        ours = pool.submit(run, [PROJECT / "tools/build-wheels"])
        # All downloads must start before the tests: later there is no network.
        nfs_server = pool.submit(_nfs_server, release)
        cloud_init = pool.submit(_cloud_init, debian, release)
        next_wheels = pool.submit(_next_wheels, ours, room)
        try:
            yield Ingredients(debian, wheelhouse, tools, ours, next_wheels, nfs_server, cloud_init)
        finally:
            pool.shutdown(cancel_futures=True)


def _debian(release: Release) -> Path:
    """An archive of a fresh Debian."""
    return _bootstrapped("debian", PACKAGES, release)


def _nfs_server(release: Release) -> Path:
    """An archive of a root directory with an NFS server in it."""
    return _bootstrapped("nfs", "nfs-ganesha,nfs-ganesha-vfs", release)


def _cloud_init(debian: Future[Path], release: Release) -> Path:
    """A directory with cloud-init's packages, downloaded once. Debian's cloud image has it; in our image it would
    configure every guest.
    """
    packages = KEPT / f"cloud-init-{release.suite}"
    if not packages.exists():
        with removed_at_the_end(room_for_guests()) as room:
            root = room / "root"
            unpack(debian.result(), root)
            prepare(root, release)
            for command in ("update", "install --download-only --yes --no-install-recommends cloud-init"):
                run(["chroot", root, "apt-get", "-qq", *command.split()])
            unfinished = packages.with_suffix(".new")
            shutil.rmtree(unfinished, ignore_errors=True)
            unfinished.mkdir()
            for package in (root / "var/cache/apt/archives").glob("*.deb"):
                shutil.copy(package, unfinished)
            unfinished.rename(packages)
    return packages


def _bootstrapped(name: str, packages: str, release: Release) -> Path:
    """An archive of a Debian with these packages, made once."""
    archive = KEPT / f"{name}-{release.suite}.tar"
    if not archive.exists():
        KEPT.mkdir(parents=True, exist_ok=True)
        unfinished = archive.with_suffix(".new.tar")
        leaner = ["path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*"]
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={packages}"]
        command += ['--aptopt=Acquire::Languages "none"', *(f"--dpkgopt={option}" for option in leaner)]
        run([*command, release.suite, unfinished], {"TMPDIR": str(fast_directory())})
        unfinished.rename(archive)
    return archive


def _wheelhouse(release: Release) -> Path:
    """The wheels of the lock, downloaded once, so that a guest without a network can be upgraded. The guest's pip still
    checks their hashes.
    """
    house = KEPT / f"wheels-{release.suite}"
    stamp = house / ".stamp"
    lock = (PROJECT / "requirements/appliance.txt").read_text()
    if not stamp.exists() or stamp.read_text() != lock:
        shutil.rmtree(house, ignore_errors=True)
        house.mkdir(parents=True)
        requirements = house / "requirements.txt"
        requirements.write_text(as_the_guest_reads_it(lock, release))
        command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "download", "--quiet", "--no-deps"]
        command += [
            "--only-binary=:all:",
            f"--python-version={release.markers['python_version']}",
            "--implementation=cp",
        ]
        minors = range(5, release.glibc_minor + 1)
        command += [f"--platform=manylinux_2_{minor}_{os.uname().machine}" for minor in minors]
        run([*command, "--require-hashes", "--requirement", requirements, "--dest", house])
        stamp.write_text(lock)
    return house


def as_the_guest_reads_it(lock: str, release: Release) -> str:
    """The part of the lock for the guest's Python: pip evaluates markers for its own Python."""
    wanted = []
    for requirement in re.split(r"^(?=[^\s#])", lock, flags=re.MULTILINE):
        marker = re.search(r" ; ([^\\\n]+)", requirement)
        if not marker or Marker(marker[1].strip()).evaluate(dict(release.markers)):
            wanted.append(requirement.replace(marker[0], " ") if marker else requirement)
    return "".join(wanted)


def _next_wheels(ours: Future[str], room: Path) -> Path:
    source, wheels = room / "next-source", room / "next-wheels"
    for name in run(["git", "ls-files"]).splitlines():
        if (PROJECT / name).is_file():
            (source / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(PROJECT / name, source / name)
    project = source / "pyproject.toml"
    project.write_text(
        re.sub(r'^version = ".*"', f'version = "{NEXT_VERSION}"', project.read_text(), flags=re.MULTILINE)
    )
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", "wheel", "--quiet", "--no-deps"]
    run([*command, "--no-build-isolation", "--wheel-dir", wheels, source])
    ours.result()
    for name in ("pilbox", "pyvips"):
        (wheel,) = (PROJECT / "build/wheels").glob(f"{name}-*.whl")
        shutil.copy(wheel, wheels)
    return wheels
