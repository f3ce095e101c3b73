"""The `fetch.txt` of a bag: files that the receiver is to get from URLs.

Those that did not come are dropped as a list of URLs. So they are fetched as any list is, politely and from permitted
addresses only, and each outcome is in the ledger log under its URL.
"""

from __future__ import annotations

import os
import posixpath
import re
from collections.abc import Iterator
from typing import NamedTuple
from urllib.parse import urlsplit

from md5s3stash_daemon.deliveries.manifest import inside
from md5s3stash_daemon.disk.beneath import Place, move
from md5s3stash_daemon.spool.entry import ACTIVE, DEFERRED, INCOMING
from md5s3stash_daemon.spool.spool import Spool

FETCH = "fetch.txt"

# About a hundred thousand lines.
MAX_FETCH_BYTES = 16 * 1024 * 1024

# Below incoming/, or below the folder of a collection there: where the lists are dropped.
LISTS = "fetch"
_OWN_LIST = re.compile(rf"(?:[^/]+/)?{LISTS}/[0-9]{{8}}T[0-9]{{6}}Z-[0-9a-f]{{6}}\.urls")


class Fetched(NamedTuple):
    """A line: the URL of a file, and its name in the bag."""

    url: str
    name: str

    @property
    def is_fetched(self) -> bool:
        """Others, such as ftp, are valid in a bag, but not fetched."""
        return _scheme(self.url) in ("http", "https") and self.url.isprintable()


def read_fetch(data: bytes) -> Iterator[Fetched | str]:
    """Each line of URL, length and name; or, as a text, what is wrong with it."""
    for number, raw in enumerate(data.splitlines(), 1):
        parts = os.fsdecode(raw).split(None, 2)
        if not parts:
            continue
        name = inside(os.path.normpath(parts[2].strip())) if len(parts) == 3 else None
        if name is None or not _scheme(parts[0]):
            yield f"line {number} of fetch.txt is not a URL, a length and a name in the bag"
        else:
            yield Fetched(parts[0], name)


def _scheme(url: str) -> str:
    """Empty if it is not a URL with a host."""
    try:
        parts = urlsplit(url)
    except ValueError:
        return ""
    return parts.scheme if parts.netloc or parts.scheme == "file" else ""


def list_name(delivery_id: str, collection: str) -> str:
    """The name under which the list of a delivery is dropped."""
    return f"{collection}/{LISTS}/{delivery_id}.urls".removeprefix("/")


def is_own_list(name: str) -> bool:
    """Whether this is such a name."""
    return _OWN_LIST.fullmatch(name) is not None


def list_waits(spool: Spool, name: str) -> bool:
    """Whether the list is still in the spool."""
    return any(spool.find(state, name) for state in (INCOMING, ACTIVE, DEFERRED))


def drop_list(spool: Spool, folder: str, name: str, urls: list[str]) -> None:
    """Drops the list under its name. May be repeated. Raises OSError."""
    source = Place(folder, posixpath.basename(name))
    with open(f"{source.base}/{source.name}", "w", encoding="utf-8") as file:
        file.writelines(f"{url}\n" for url in urls)
        file.flush()
        os.fsync(file.fileno())
    try:
        move(source, Place(spool.path_of(INCOMING), name))
    except FileExistsError:
        # Dropped by an earlier attempt, and not claimed yet.
        os.unlink(f"{source.base}/{source.name}")
