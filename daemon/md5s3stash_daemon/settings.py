"""The daemon's own section of the settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from md5s3stash.settings import CORE_SECTIONS, seconds, setting, text, whole_number


def directory(value: Any) -> Path:
    """An absolute path."""
    path = Path(text(value))
    if not path.is_absolute():
        raise ValueError("an absolute path is needed")
    return path


@dataclass(frozen=True, slots=True)
class SpoolSettings:
    """`[spool]`: the directories, and the pace."""

    dir: Path = setting(
        Path("/var/spool/md5s3stash"), directory, "where incoming/ and the other states are", "SPOOL_DIR"
    )
    jobs: int = setting(4, whole_number(1, 64), "files stashed at once")
    rescan_seconds: float = setting(10.0, seconds(0.1, 3600), "between scans when no event wakes the daemon")
    stop_seconds: float = setting(60.0, seconds(0, 3600), "for what is under way when the daemon is told to stop")
    probe_seconds: float = setting(1.0, seconds(0.01, 300), "before S3 or Redis is asked again after a fault; doubles")
    max_probe_seconds: float = setting(30.0, seconds(0.1, 3600), "the longest wait between two such questions")
    settle_seconds: float = setting(
        5.0,
        seconds(0, 3600),
        "how long size and time stamp must be still where nothing else tells that a file is complete",
    )
    first_delay_seconds: float = setting(
        5.0, seconds(0.1, 86400), "before a failed file is tried again; doubles each time"
    )
    max_delay_seconds: float = setting(3600.0, seconds(1, 7 * 86400), "the longest wait between two tries")


SECTIONS: Mapping[str, type] = {**CORE_SECTIONS, "spool": SpoolSettings}
