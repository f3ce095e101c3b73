"""Installs the peers of the benchmarks under build/, at the versions locked in bench/peers."""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

_LOCKS = Path(__file__).parent / "peers"
_OLDEST_NODE = 20


class PeerMissing(Exception):
    """A peer cannot be measured here; the message says why."""


def python_environment(name: str, directory: Path) -> Path:
    """A virtual environment with the packages of bench/peers/NAME.txt. Raises PeerMissing."""
    lock = _LOCKS / f"{name}.txt"

    def install(home: Path) -> None:
        _run([sys.executable, "-m", "venv", str(home)], home)
        _run([str(home / "bin/pip"), "install", "--quiet", "--require-hashes", "-r", str(lock)], home)

    return _installed(directory / name, [lock], install)


def node_packages(directory: Path) -> Path:
    """A directory with ipx and sharp in its node_modules. Raises PeerMissing."""
    locks = [_LOCKS / "package.json", _LOCKS / "package-lock.json"]
    server = _LOCKS / "sharp_server.mjs"
    _require_node()

    def install(home: Path) -> None:
        for file in (*locks, server):
            shutil.copy(file, home)
        _run(["npm", "ci", "--no-audit", "--no-fund", "--loglevel=error"], home)

    return _installed(directory / "node", [*locks, server], install)


def _installed(home: Path, sources: Sequence[Path], install: Callable[[Path], None]) -> Path:
    """The directory with a complete installation; a stamp of its sources shows whether it is current."""
    stamp, digest = home / ".stamp", hashlib.sha256(b"".join(path.read_bytes() for path in sources)).hexdigest()
    if not (stamp.exists() and stamp.read_text() == digest):
        shutil.rmtree(home, ignore_errors=True)
        home.mkdir(parents=True)
        install(home)
        stamp.write_text(digest)
    return home


def _require_node() -> None:
    if not (shutil.which("node") and shutil.which("npm")):
        raise PeerMissing("node and npm are not installed (Debian: apt-get install nodejs npm)")
    version = subprocess.run(["node", "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if int(version.lstrip("v").partition(".")[0]) < _OLDEST_NODE:
        raise PeerMissing(f"node {version} is too old for sharp: {_OLDEST_NODE} or newer is needed")


def _run(command: Sequence[str], directory: Path) -> None:
    finished = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if finished.returncode != 0:
        last_line = (finished.stderr.strip().splitlines() or ["no output"])[-1]
        raise PeerMissing(f"`{Path(command[0]).name}` could not install it: {last_line}")
