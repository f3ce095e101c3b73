"""Builds images without an engine: a directory for each stage, and each RUN in it with `containers/enter`.

A stage is kept in build/container/ under the digest of all that it is made from, as an engine caches it. Needs root.

    python -m containers.chroot TARGET...       prints the directory of each image
"""

from __future__ import annotations

import fcntl
import fnmatch
import hashlib
import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from containers.containerfile import Configuration, ContainerfileError, Copy, Stage, Step, parse

REPOSITORY = Path(__file__).resolve().parents[1]
CONTAINERFILE = REPOSITORY / "containers/Containerfile"
ENTER = REPOSITORY / "containers/enter"
KEPT = REPOSITORY / "build/container"
# What engines start a program with that has no PATH of its own.
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Bind mounts of this machine's settings for the network, which do not become part of the image.
_NETWORK = Path("/run/build")


@dataclass(frozen=True, slots=True)
class Image:
    """A built stage."""

    root: Path
    configuration: Configuration

    @property
    def megabytes(self) -> float:
        """The size of its files, in units of 10^6 bytes; a file with several names counts once."""
        # Not the blocks that they take: engines count bytes.
        words = ["du", "--summarize", "--bytes", "--one-file-system", str(self.root)]
        return int(subprocess.run(words, check=True, capture_output=True, text=True).stdout.split()[0]) / 1e6


def stages() -> dict[str, Stage]:
    return parse(CONTAINERFILE.read_text())


def build(name: str) -> Image:
    """Builds the stage and those that it needs, except what is there already; one process at a time."""
    os.umask(0o022)
    KEPT.mkdir(parents=True, exist_ok=True)
    with open(KEPT / "lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        return _Builder(stages()).image(name)


class _Builder:
    def __init__(self, known: dict[str, Stage]) -> None:
        self._stages = known
        self._context = context()

    def image(self, name: str) -> Image:
        stage = self._stages[name]
        root = KEPT / f"{name}-{self._digest(name)}"
        if not root.exists():
            base = self.image(stage.base).root if stage.base in self._stages else _downloaded(stage.base)
            unfinished = root.with_name(f"{root.name}.new")
            shutil.rmtree(unfinished, ignore_errors=True)
            _run("cp", "--archive", base, unfinished)
            for step in stage.steps:
                self._do(step, unfinished)
            # Of the same stage from other files.
            for old in KEPT.glob(f"{name}-" + "[0-9a-f]" * 16):
                shutil.rmtree(old)
            unfinished.rename(root)
        return Image(root, stage.configuration)

    def _do(self, step: Step, root: Path) -> None:
        (root / step.configuration.directory.lstrip("/")).mkdir(parents=True, exist_ok=True)
        if isinstance(step.work, Copy):
            self._copy(step.work, root, root / step.configuration.directory.lstrip("/"))
        else:
            print(f"RUN {step.work}", file=sys.stderr, flush=True)
            run_in(root, step.configuration, step.work)

    def _copy(self, copy: Copy, root: Path, directory: Path) -> None:
        target = (root / copy.target.lstrip("/")) if copy.target.startswith("/") else directory / copy.target
        is_directory = copy.target.endswith("/")
        (target if is_directory else target.parent).mkdir(parents=True, exist_ok=True)
        for source in copy.sources:
            if copy.stage:
                _copy_tree(self.image(copy.stage).root / source.lstrip("/"), target)
                continue
            files = [path for path in self._context if path == source or path.startswith(f"{source}/")]
            if not files:
                raise ContainerfileError(f"COPY {source}: the build context has no such file")
            for path in files:
                if path == source:
                    place = target / Path(source).name if is_directory else target
                else:
                    place = target / path.removeprefix(f"{source}/")
                place.parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(REPOSITORY / path, place)

    def _digest(self, name: str) -> str:
        stage = self._stages[name]
        of_base = self._digest(stage.base) if stage.base in self._stages else stage.base
        digest = hashlib.sha256(f"{of_base}\n{stage.steps}".encode())
        for copy in (step.work for step in stage.steps if isinstance(step.work, Copy)):
            if copy.stage:
                digest.update(self._digest(copy.stage).encode())
            for path in self._context if not copy.stage else ():
                if any(path == source or path.startswith(f"{source}/") for source in copy.sources):
                    digest.update(path.encode() + (REPOSITORY / path).read_bytes())
        return digest.hexdigest()[:16]


def context() -> list[str]:
    """The files that .dockerignore leaves to a build, by their paths in the repository."""
    lines = (REPOSITORY / ".dockerignore").read_text().splitlines()
    rules = [line for line in lines if line and not line.startswith("#")]
    kept = [rule.removeprefix("!") for rule in rules if rule.startswith("!")]
    dropped = [rule.removeprefix("**/") for rule in rules if rule.startswith("**/")]
    if rules[0] != "*" or any("*" in name for name in kept) or len(rules) != 1 + len(kept) + len(dropped):
        raise ContainerfileError(".dockerignore: only *, !PATH and **/NAME are known")
    found = []
    for path in (file for name in kept for file in (REPOSITORY / name, *(REPOSITORY / name).rglob("*"))):
        parts = path.relative_to(REPOSITORY).parts
        if path.is_file() and not any(fnmatch.fnmatch(part, pattern) for part in parts for pattern in dropped):
            found.append("/".join(parts))
    return sorted(found)


def run_in(root: Path, configuration: Configuration, command: str) -> None:
    """Runs a command of a build. Raises CalledProcessError."""
    environment = {
        "PATH": _PATH,
        **configuration.environment,
        "APT_CONFIG": f"{_NETWORK}/apt.conf",
        "PIP_CONFIG_FILE": f"{_NETWORK}/pip.conf",
        "DEBIAN_FRONTEND": "noninteractive",
    }
    user, group = configuration.user
    rights = [] if user == 0 else ["--user", f"{user}:{group}"]
    (root / _NETWORK.relative_to("/")).mkdir(parents=True, exist_ok=True)
    words = [
        *(ENTER, root, *rights, "--directory", configuration.directory, "--tmpfs", "/tmp"),
        *("--volume", f"{KEPT}/network:{_NETWORK}", "--volume", "/etc/resolv.conf:/etc/resolv.conf", "--"),
        *(f"{name}={value}" for name, value in environment.items()),
        *("/bin/sh", "-c", command),
    ]
    try:
        # The output of apt and pip, and their warnings to root, are not output of the build.
        subprocess.run([str(word) for word in words], check=True, stdout=sys.stderr, stdin=subprocess.DEVNULL)
    finally:
        (root / _NETWORK.relative_to("/")).rmdir()


def _downloaded(image: str) -> Path:
    """A file system like that of the image; only Debian's is known."""
    if image != "debian:trixie-slim":
        raise ContainerfileError(f"the image '{image}' is not known: only debian:trixie-slim is")
    _run(REPOSITORY / "containers/debian-slim", KEPT)
    return KEPT / "debian-slim"


def _copy_tree(source: Path, target: Path) -> None:
    """As COPY --from: the content of a directory; everything belongs to root."""
    words = ["cp", "--archive", "--no-preserve=ownership"]
    if source.is_dir():
        target.mkdir(parents=True, exist_ok=True)
        _run(*words, f"{source}/.", target)
    else:
        _run(*words, source, target)


def _run(*words: str | Path) -> None:
    subprocess.run([str(word) for word in words], check=True, stdout=sys.stderr)


def main() -> int:
    if os.geteuid() != 0:
        print("Only root can build images without an engine: sudo make container", file=sys.stderr)
        return 1
    for name in sys.argv[1:]:
        image = build(name)
        print(f"{name}\t{image.megabytes:.0f} MB\t{image.root}", flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
