"""Lists of URLs on a test's site: settings that allow this machine's addresses, and the outcomes of lines."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path

from tests.support.daemon import Site
from tests.support.servers import wait_until

# Without waits for politeness or a full disk, unless a test is about them.
OPEN = {
    "MD5S3STASH_URLS_ALLOWED_NETWORKS": "127.0.0.0/8",
    "MD5S3STASH_URLS_HOST_DELAY_SECONDS": "0",
    "MD5S3STASH_SPOOL_MIN_FREE_BYTES": "0",
}


def drop_list(site: Site, name: str, urls: Sequence[str]) -> None:
    site.drop(name, "".join(f"{url}\n" for url in urls).encode())


def report_path(site: Site, name: str) -> Path:
    return site.spool / "done" / f"{name}.tsv"


def wait_for_report(site: Site, name: str, seconds: float = 30.0) -> list[dict[str, str]]:
    """Waits until the list and its files are gone from the spool; returns the rows of its report."""

    def finished() -> bool:
        return report_path(site, name).exists() and site.files("incoming", "active", "deferred", "progress") == []

    wait_until(finished, f"{name} finished", seconds)
    return read_report(report_path(site, name))


def read_report(path: Path) -> list[dict[str, str]]:
    with open(path, newline="", errors="surrogateescape") as file:
        return list(csv.DictReader(file, delimiter="\t", quoting=csv.QUOTE_NONE))


def failed_list(site: Site, name: str) -> str:
    """The content of a list's file in failed/."""
    return (site.spool / "failed" / name).read_text(errors="surrogateescape")
