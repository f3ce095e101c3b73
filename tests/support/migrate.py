"""Runs md5s3stash-migrate as a process against a server of the test."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from md5s3stash.scheme import BucketBase
from tests.support import warm
from tests.support.digest_s3 import DigestS3
from tests.support.stores import Keys

REPOSITORY = Path(__file__).resolve().parents[2]
MODULE = "md5s3stash_migrate"
PROGRAM = [sys.executable, "-m", MODULE]
SECONDS = 300

BASE = BucketBase.parse("base", "multibucket")


def md5_of(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def fill(server: DigestS3, contents: Iterable[bytes], base: BucketBase = BASE) -> list[str]:
    """Stashes the contents under the base without requests; makes all of its buckets, and one called `one`."""
    server.buckets.update({*base.buckets(), "one"})
    md5s = []
    for data in contents:
        address = base.address(md5_of(data))
        server.put(
            address.bucket, address.key, data, content_type="image/tiff", cache_control="max-age=1", x_amz_meta_a="b"
        )
        md5s.append(md5_of(data))
    return md5s


@dataclass(frozen=True)
class Run:
    """A finished run. `report` are the lines of its report without the summary."""

    status: int
    stdout: str
    stderr: str
    report: list[dict[str, str]] = field(default_factory=list)
    summary: dict[str, Any] = field(default_factory=dict)

    def kinds(self) -> dict[str, str]:
        """The reported lines: kind -> the last part of the object's key."""
        return {entry["kind"]: entry["s3_url"].rpartition("/")[2] for entry in self.report}


def environment(endpoint: str, keys: Keys | None = None) -> dict[str, str]:
    keys = keys or Keys()
    return {
        **os.environ,
        "PYTHONPATH": f"{REPOSITORY}:{REPOSITORY / 'migrate'}",
        "S3_ENDPOINT": endpoint,
        "AWS_ACCESS_KEY_ID": keys.access_key,
        "AWS_SECRET_ACCESS_KEY": keys.secret_key,
    }


def start(endpoint: str, *arguments: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen([*PROGRAM, *arguments], env=environment(endpoint), stdout=subprocess.DEVNULL)


def run(endpoint: str, directory: Path, *arguments: str, keys: Keys | None = None, **variables: str) -> Run:
    """Runs it to its end; fails if it prints a traceback."""
    report = directory / "report.jsonl"
    command = [MODULE, *arguments, "--report", str(report)]
    done = warm.run(command, {**environment(endpoint, keys), **variables}, timeout=SECONDS)
    output, errors = done.stdout.decode(), done.stderr.decode()
    assert "Traceback" not in errors, errors
    lines = [json.loads(line) for line in report.read_text().splitlines()] if report.exists() else []
    entries = [line for line in lines if "summary" not in line]
    summary = lines[-1]["summary"] if lines and "summary" in lines[-1] else {}
    return Run(done.returncode, output, errors, entries, summary)
