"""Publishes the receipt of a delivery: as JSON and as a page, in done/ and as files to be stashed.

Both are made from the journal alone, so a crash repeats them byte by byte. Their names contain the id of the delivery:
no other file has them, and none is replaced.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import os
import re
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TextIO

from md5s3stash.digest import is_md5
from md5s3stash_daemon.deliveries.journal import FOLDER, Journal
from md5s3stash_daemon.deliveries.judge import after_the_end
from md5s3stash_daemon.deliveries.receipts.page import write_page
from md5s3stash_daemon.deliveries.receipts.signing import SUFFIX, signature_of
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import Delivery, FileRow, State
from md5s3stash_daemon.disk.beneath import Place, folder_of, move, sync_folders
from md5s3stash_daemon.spool.entry import INCOMING
from md5s3stash_daemon.spool.spool import Spool

DONE = "done"

# Below incoming/, or below the folder of a collection there: where receipts are dropped.
RECEIPTS = "receipts"

_NAME = re.compile(rf"(?:[^/]+/)?{RECEIPTS}/.+\.receipt\.(?:html|json)(?:{re.escape(SUFFIX)})?", re.DOTALL)

_NOT_RIGHT = tuple(state for state in State if state not in (State.RIGHT, State.EARLIER))

# Of the 255 bytes of a file name, what id, suffix and a number leave.
_MAX_STEM_BYTES = 180


def publish(
    spool: Spool,
    journal: Journal,
    delivery: Delivery,
    place_of: Callable[[str], str],
    collection: str = "",
    signing_key: Path | None = None,
) -> str:
    """Writes the receipt; `place_of` gives the s3 URL of an md5, `collection` is the one that the receipt is stashed
    in. Returns the path of the JSON in done/. May be repeated. Raises OSError, ReceiptNotSigned.
    """
    os.makedirs(spool.path_of(DONE), exist_ok=True)
    written = []
    for suffix, write in ((".html", write_page), (".json", _write_json)):
        temporary = f"{spool.path_of(FOLDER)}/{delivery.id}{suffix}"
        with _synced(temporary) as file:
            write(file, journal, delivery, place_of)
        if signing_key is not None:
            # First, so that no empty file stays if the key cannot be used.
            signature = signature_of(temporary, signing_key).decode("ascii")
            with _synced(f"{temporary}{SUFFIX}") as file:
                file.write(signature)
            # Before what it signs: a receipt that is there has its signature.
            written.append(f"{suffix}{SUFFIX}")
        written.append(suffix)
    for suffix in written:
        place = _publish_file(spool, delivery, suffix, collection)
    return f"{place.base}/{place.name}"


@contextlib.contextmanager
def _synced(path: str) -> Iterator[TextIO]:
    with open(path, "w", encoding="utf-8", errors="surrogateescape", newline="") as file:
        yield file
        file.flush()
        os.fsync(file.fileno())


def _publish_file(spool: Spool, delivery: Delivery, suffix: str, collection: str) -> Place:
    temporary = f"{spool.path_of(FOLDER)}/{delivery.id}{suffix}"
    try:
        place = _link(temporary, spool.path_of(DONE), f"{_stem(delivery.folder)}.{delivery.id}.receipt{suffix}")
    except (FileExistsError, NotADirectoryError):
        # A file has the folder's name.
        flat = _stem(delivery.folder.replace("/", "_"))
        place = _link(temporary, spool.path_of(DONE), f"{flat}.{delivery.id}.receipt{suffix}")
    name = place.name.removeprefix(f"{collection}/") if collection else place.name
    target = f"{collection}/{RECEIPTS}/{name}".removeprefix("/")
    _drop(spool, Place(spool.path_of(FOLDER), f"{delivery.id}{suffix}"), target)
    return place


def _stem(folder: str) -> str:
    above, last = os.path.split(folder)
    return os.path.join(above, os.fsdecode(os.fsencode(last)[:_MAX_STEM_BYTES]))


def _link(temporary: str, root: str, name: str) -> Place:
    place = Place(root, name)
    with folder_of(place, create=True) as (folder, last):
        with contextlib.suppress(FileNotFoundError):
            # Of an earlier attempt, of the same delivery.
            os.unlink(last, dir_fd=folder)
        os.link(temporary, last, dst_dir_fd=folder)
    sync_folders(place)
    return place


def _drop(spool: Spool, source: Place, name: str) -> None:
    target = Place(spool.path_of(INCOMING), name)
    try:
        move(source, target)
        sync_folders(target)
    except FileExistsError:
        # Dropped by an earlier attempt, and not claimed yet.
        os.unlink(f"{source.base}/{source.name}")


def page_beside(receipt: str) -> str:
    """The path of the page, for that of the JSON."""
    return f"{receipt.removesuffix('.json')}.html"


def is_receipt(name: str) -> bool:
    """Whether a file of this name below incoming/ is a receipt, or the signature of one."""
    return _NAME.fullmatch(name) is not None


def as_json(journal: Journal, delivery: Delivery) -> dict[str, Any]:
    """Everything but the files."""
    manifests, counts = journal.manifests(delivery.number), counts_of(journal, delivery)
    # While it is open, files and manifests may still come.
    problems = [] if delivery.ended is None else problems_of(manifests, counts, delivery.bag)
    return {
        "delivery": delivery.id,
        "folder": delivery.folder,
        "verdict": delivery.verdict or None,
        "ended_by": delivery.ended_by or None,
        "sender": delivery.sender,
        "opened": utc(delivery.opened),
        "ended": None if delivery.ended is None else utc(delivery.ended),
        **({"bag": json.loads(delivery.bag)} if delivery.bag else {}),
        "problems": problems,
        "counts": counts,
        "bytes": dict(journal.sums(delivery.number)),
        "manifests": [
            {
                "name": manifest.name,
                # Not if it could not be stored.
                "md5": manifest.md5 if is_md5(manifest.md5) else None,
                "algorithm": manifest.algorithm,
                "lines": manifest.lines,
                "malformed": manifest.malformed,
                **({"problem": manifest.problem} if manifest.problem else {}),
                **({"replaced": True} if manifest.is_replaced else {}),
            }
            for manifest in manifests
        ],
    }


def counts_of(journal: Journal, delivery: Delivery) -> dict[str, int]:
    """State -> number of names, with a zero for each other state but `unchecked`."""
    counts = json.loads(delivery.counts) if delivery.ended is not None else journal.counts(delivery.number)
    return {state.value: counts.get(state, 0) for state in State if state is not State.UNCHECKED or counts.get(state)}


def _write_json(file: TextIO, journal: Journal, delivery: Delivery, place_of: Callable[[str], str]) -> None:
    head = json.dumps({"md5s3stash": "receipt of a delivery", "version": 1, **as_json(journal, delivery)}, indent=1)
    file.write(f'{head.removesuffix("}").rstrip()},\n "files": [')
    for number, row in enumerate(journal.files(delivery.number)):
        file.write(",\n  " if number else "\n  ")
        file.write(json.dumps(_file(journal, delivery, row, place_of)))
    file.write("\n ]\n}\n")


def _file(journal: Journal, delivery: Delivery, row: FileRow, place_of: Callable[[str], str]) -> dict[str, Any]:
    listed: dict[str, list[str]] = {}
    times = 1
    for algorithm, digest, count in journal.listed(delivery.number, row.name):
        listed.setdefault(algorithm, []).append(digest)
        times = max(times, count)
    found: dict[str, Any] = {"name": row.name, "state": row.state.value}
    if listed:
        found["listed"] = listed
    # In the manifest more than once, or dropped more than once.
    if times > 1 or any(len(digests) > 1 for digests in listed.values()):
        found["duplicate"] = True
    if row.drops > 1:
        found["drops"] = row.drops
    if row.md5:
        found["md5"] = row.md5
        found["s3_url"] = place_of(row.md5)
        found["size_bytes"] = row.size_bytes
    if row.at is not None:
        found["at"] = utc(row.at)
    if row.reason:
        found["reason"] = after_the_end(row.reason)
    return found


def utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def bad_files(journal: Journal, delivery: Delivery, count: int) -> Iterator[FileRow]:
    """The first names that are not right: from the journal, or once the delivery has ended, from its receipt. Raises
    OSError if that was removed.
    """
    if not delivery.receipt:
        return journal.files(delivery.number, _NOT_RIGHT, count)
    return itertools.islice(_published(delivery.receipt), count)


def _published(path: str) -> Iterator[FileRow]:
    with open(path, encoding="utf-8", errors="surrogateescape") as file:
        for line in file:
            # As `_write_json` writes it: a file on each line.
            if line.startswith('  {"name": '):
                found = json.loads(line.rstrip().removesuffix(","))
                if found["state"] in _NOT_RIGHT:
                    yield FileRow(found["name"], State(found["state"]), reason=found.get("reason", ""))
