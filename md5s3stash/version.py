"""Which release runs, for status, page, metrics and headers."""

from __future__ import annotations

import functools
import importlib.metadata
import platform
import sys
from pathlib import Path

UNKNOWN = "unknown"


@functools.cache
def running_version() -> str:
    """`VERSION-SUM` where the playbook installed this release, else the version of the distribution.

    The first answer is kept while the process runs: the files on the disk may be replaced under it.
    """
    environment = Path(sys.prefix)
    return environment.name if environment.parent.name == "releases" else distribution_version()


def distribution_version() -> str:
    """`UNKNOWN` in a checkout that is not installed."""
    try:
        return importlib.metadata.version("md5s3stash")
    except importlib.metadata.PackageNotFoundError:
        return UNKNOWN


def build_info() -> dict[str, str]:
    """The labels of a build_info metric."""
    return {"version": running_version(), "python": platform.python_version()}
