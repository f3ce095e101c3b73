"""Drops the repository's samples into the spool, as any producer would."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from laptop.place import REPOSITORY

SAMPLES = REPOSITORY / "samples"
# The README and the scripts that make the samples are not samples.
_NOT_SAMPLES = {"", ".py", ".md"}


@dataclass(frozen=True, slots=True)
class Sample:
    """A file of ours and the name under which the daemon knows it: its path below incoming/."""

    path: Path
    name: str
    size_bytes: int


def samples() -> list[Sample]:
    """All samples, sorted by name."""
    paths = sorted(path for path in SAMPLES.iterdir() if path.is_file() and _is_sample(path))
    return [Sample(path, f"samples/{path.name}", path.stat().st_size) for path in paths]


def drop(sample: Sample, incoming: Path) -> None:
    """Copies under a name that the daemon ignores, then renames: the daemon never sees a partial file."""
    target = incoming / sample.name
    target.parent.mkdir(parents=True, exist_ok=True)
    hidden = target.with_name(f".{target.name}.copying")
    shutil.copyfile(sample.path, hidden)
    hidden.rename(target)


def _is_sample(path: Path) -> bool:
    return path.suffix not in _NOT_SAMPLES and not path.name.startswith(".")
