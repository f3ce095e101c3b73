"""Parsers of settings that several sections share."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from md5s3stash.settings import text


def directory(value: Any) -> Path:
    """An absolute path."""
    path = Path(text(value))
    if not path.is_absolute():
        raise ValueError("an absolute path is needed")
    return path


def optional_file(value: Any) -> Path | None:
    """An absolute path; an empty text means not set."""
    return directory(value) if text(value) else None
