"""The `fetch.txt` of a bag: files that the receiver is to get from URLs.

Those that did not come are dropped as a list of URLs. So they are fetched as any list is, politely and from permitted
addresses only, and each outcome is in the ledger log under its URL.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from md5s3stash_daemon.deliveries.manifest import inside
from md5s3stash_daemon.disk.beneath import Place, move
from md5s3stash_daemon.spool.entry import INCOMING
from md5s3stash_daemon.spool.spool import Spool

FETCH = "fetch.txt"

# About a hundred thousand lines.
MAX_FETCH_BYTES = 16 * 1024 * 1024

# Below incoming/: where the lists are dropped.
LISTS = "fetch"


class Fetched(NamedTuple):
    """A line: the URL of a file, and its name in the bag."""

    url: str
    name: str


def read_fetch(data: bytes) -> Iterator[Fetched | str]:
    """Each line of URL, length and name; or, as a text, what is wrong with it."""
    for number, raw in enumerate(data.splitlines(), 1):
        parts = os.fsdecode(raw).split(None, 2)
        if not parts:
            continue
        name = inside(os.path.normpath(parts[2].strip())) if len(parts) == 3 else None
        scheme = _scheme(parts[0])
        if name is None or not scheme:
            yield f"line {number} of fetch.txt is not a URL, a length and a name in the bag"
        elif scheme in ("http", "https") and parts[0].isprintable():
            # Others, such as ftp, are valid in a bag, but not fetched.
            yield Fetched(parts[0], name)


def _scheme(url: str) -> str:
    """Empty if it is not a URL with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc or parts.scheme == "file" else ""


def drop_list(spool: Spool, folder: str, delivery_id: str, urls: list[str]) -> None:
    """Drops the list. May be repeated. Raises OSError."""
    name = f"{delivery_id}.urls"
    temporary = f"{folder}/{name}"
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(f"{url}\n" for url in urls)
        file.flush()
        os.fsync(file.fileno())
    try:
        move(Place(folder, name), Place(spool.path_of(INCOMING), f"{LISTS}/{name}"))
    except FileExistsError:
        # Dropped by an earlier attempt, and not claimed yet.
        os.unlink(temporary)
