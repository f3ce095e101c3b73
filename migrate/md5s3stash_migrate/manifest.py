"""The manifests of S3 Batch Operations: CSV with one line per object, `bucket,key`, the key URL-encoded.

A copy job copies from one bucket to one bucket, overwrites existing objects, and copies none above 5 GB (AWS, "Copy
objects", restrictions). So each pair of buckets has a manifest, which holds only the objects that the target lacks.
"""

from __future__ import annotations

import csv
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote

from md5s3stash.errors import SettingsError
from md5s3stash.s3.multipart import SINGLE_PUT_MAX_BYTES
from md5s3stash.scheme import BucketBase
from md5s3stash_migrate.listing import Stored


@dataclass(slots=True)
class Manifest:
    """A file, and its pair of buckets."""

    path: Path
    source_bucket: str
    target_bucket: str
    objects: int = 0


class Manifests:
    """Writes the manifests: a single one gets the path itself, several have their buckets in their names. `too_large`
    counts the objects that a job does not copy.
    """

    def __init__(self, path: Path, source: BucketBase, target: BucketBase) -> None:
        self._path = path
        self._target = target
        self._one = len(source.buckets()) == len(target.buckets()) == 1
        self._stack = ExitStack()
        self._writers: dict[tuple[str, str], tuple[Manifest, Any]] = {}
        self.too_large = 0

    def add(self, source: Stored) -> None:
        """Raises OSError."""
        if source.size_bytes > SINGLE_PUT_MAX_BYTES:
            self.too_large += 1
            return
        manifest, write_row = self._writer(source.address.bucket, self._target.address(source.md5).bucket)
        write_row([source.address.bucket, quote(source.address.key)])
        manifest.objects += 1

    def all(self) -> list[Manifest]:
        """The manifests that hold objects."""
        return [manifest for manifest, _ in self._writers.values()]

    def __enter__(self) -> Self:
        if self._one:
            # If nothing is missing, the requested file exists and is empty.
            self._path.write_bytes(b"")
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._stack.close()

    def _writer(self, source_bucket: str, target_bucket: str) -> tuple[Manifest, Callable[[list[str]], Any]]:
        pair = (source_bucket, target_bucket)
        if pair not in self._writers:
            path = self._path if self._one else _named(self._path, f"{source_bucket}-to-{target_bucket}")
            file = self._stack.enter_context(path.open("w", encoding="ascii", newline=""))
            self._writers[pair] = (Manifest(path, *pair), csv.writer(file, lineterminator="\n").writerow)
        return self._writers[pair]


def _named(path: Path, pair: str) -> Path:
    return path.with_name(f"{path.stem}.{pair}{path.suffix}")


def target_key_prefix(source: BucketBase, target: BucketBase) -> str | None:
    """The folder that a job has to put before the source's keys to make the target's. Raises SettingsError if the job
    would have to remove a part of the key.
    """
    theirs, ours = target.prefix.rstrip("/"), source.prefix.rstrip("/")
    if theirs == ours:
        return None
    if not ours:
        return theirs
    if theirs.endswith(f"/{ours}"):
        return theirs.removesuffix(f"/{ours}")
    raise SettingsError(
        f"S3 Batch Operations can only put a folder before the keys: {ours!r} cannot become {theirs!r}; "
        "migrate without --batch-manifest"
    )
