"""Common programs that upload a directory, and their command lines."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from bench.peer_packages import PeerMissing, python_environment
from bench.stack import DIRECTORY, ROOT, Endpoint
from bench.timing import Command

_ENVIRONMENTS = ROOT / "build" / "peers"
_SCRIPTS = Path(__file__).parent / "peers"


@dataclass(frozen=True, slots=True)
class Job:
    """Upload every file of `source` to the bucket. `scratch` is an empty directory on the same disk."""

    source: Path
    endpoint: Endpoint
    bucket: str
    scratch: Path = DIRECTORY


@dataclass(frozen=True, slots=True)
class Peer:
    """A way to upload. `version` asks the program, and raises PeerMissing if it cannot be run."""

    name: str
    version: Callable[[], str]
    arguments: Callable[[Job], list[str]]

    def command(self, job: Job) -> Command:
        return Command(self.arguments(job), job.endpoint.environment(), job.scratch)


def s5cmd(name: str, *words: str) -> Peer:
    """s5cmd with one of its commands."""
    return Peer(
        name,
        _s5cmd_version,
        lambda job: [s5cmd_program(), *_s5cmd_options(job), *words, f"{job.source}/", f"s3://{job.bucket}/"],
    )


def s5cmd_by_md5(name: str, how: str) -> Peer:
    """s5cmd after md5sum; see the script."""
    script = str(_SCRIPTS / "s5cmd_by_md5.sh")
    return Peer(
        name,
        _s5cmd_version,
        lambda job: [script, how, sys.executable, s5cmd_program(), job.endpoint.url, job.bucket, str(job.source)],
    )


def rclone(name: str, *words: str) -> Peer:
    """rclone copy with these options."""

    def arguments(job: Job) -> list[str]:
        remote = f":s3,provider=Other,env_auth=true,endpoint='{job.endpoint.url}':{job.bucket}"
        return [_rclone(), "copy", *words, str(job.source), remote]

    return Peer(name, lambda: _first_line([_rclone(), "version"]).replace("rclone v", "rclone "), arguments)


def aws(name: str, *words: str) -> Peer:
    """aws s3 with these arguments."""

    def arguments(job: Job) -> list[str]:
        options = ["--endpoint-url", job.endpoint.url, "--only-show-errors"]
        return [aws_program(), "s3", *words, *options, str(job.source), f"s3://{job.bucket}/"]

    return Peer(name, lambda: _first_line([aws_program(), "--version"]).split()[0].replace("/", " "), arguments)


def python_loop(name: str, way: str, *packages: str) -> Peer:
    """bench/peers/upload_loop.py with one of its ways."""
    ask = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {packages}))"

    def arguments(job: Job) -> list[str]:
        script = str(_SCRIPTS / "upload_loop.py")
        return [_python(), script, way, job.endpoint.url, job.bucket, str(job.source)]

    return Peer(name, lambda: _first_line([_python(), "-c", ask]), arguments)


def _python() -> str:
    return str(python_environment("uploads", _ENVIRONMENTS) / "bin/python")


def s5cmd_program() -> str:
    """Raises PeerMissing."""
    return str(python_environment("uploads", _ENVIRONMENTS) / "bin/s5cmd")


def _s5cmd_version() -> str:
    return f"s5cmd {_first_line([s5cmd_program(), 'version']).partition('-')[0].lstrip('v')}"


def _s5cmd_options(job: Job) -> list[str]:
    return ["--endpoint-url", job.endpoint.url, "--log", "error"]


def aws_program() -> str:
    """Raises PeerMissing."""
    return str(python_environment("awscli", _ENVIRONMENTS) / "bin/aws")


def _rclone() -> str:
    return str(Path(sys.executable).parent / "rclone")


def _first_line(command: list[str]) -> str:
    try:
        finished = subprocess.run(command, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise PeerMissing(f"{Path(command[0]).name} does not run: {error}") from error
    return finished.stdout.partition("\n")[0].strip()


# Part of the project's environment, so it is always installed.
RCLONE = rclone("rclone copy")
