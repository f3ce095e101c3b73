"""A notice, and what it says: of a delivery that has ended, or of objects that the standing check has found wrong.

Names come from strangers and are shortened: a notice has at most some 100 KB, and the receipt has everything.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import socket
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from md5s3stash.console import printable
from md5s3stash_daemon.deliveries.journal import Journal
from md5s3stash_daemon.deliveries.receipts.receipt import bad_files, counts_of, page_beside, utc
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import Delivery, FileRow, State
from md5s3stash_daemon.fixity.state import WrongObject

# Of files, problems and wrong objects.
_SHOWN = 20
_MAX_TEXT = 300
_MAX_NAME = 100

# The first names of an object, by its S3 URL.
Names = Callable[[str], Sequence[str]]


@dataclass(frozen=True, slots=True)
class Notice:
    """`id` is the same whenever this is sent again; `at` is when it happened, in seconds since the epoch; `text` is for
    people, `fields` for programs.
    """

    id: str
    at: float
    subject: str
    text: str
    fields: Mapping[str, Any]

    def as_json(self) -> bytes:
        """The notice for programs."""
        head = {"md5s3stash": "notice", "version": 1, "id": self.id, "at": utc(self.at), "host": socket.gethostname()}
        return json.dumps({**head, **self.fields}, ensure_ascii=False).encode()


def of_delivery(journal: Journal, delivery: Delivery) -> Notice:
    """For a delivery whose receipt is published. Raises sqlite3.Error."""
    counts = counts_of(journal, delivery)
    manifests = journal.manifests(delivery.number, unreadable=True)
    problems = [_short(problem) for problem in problems_of(manifests, counts, delivery.bag)]
    files = _files(journal, delivery, counts)
    good = counts[State.RIGHT] + counts[State.EARLIER]
    listed = sum(count for state, count in counts.items() if state != State.UNLISTED)
    at = delivery.ended or delivery.opened
    fields = {
        "type": "delivery",
        "delivery": delivery.id,
        "folder": _short(delivery.folder),
        "verdict": delivery.verdict,
        "ended_by": delivery.ended_by,
        "sender": _short(delivery.sender),
        "opened": utc(delivery.opened),
        "ended": utc(at),
        "counts": counts,
        "problems": problems[:_SHOWN],
        "more_problems": max(0, len(problems) - _SHOWN),
        "not_right": [_file(row) for row in files],
        "receipt": _short(delivery.receipt),
    }
    named = [f"{count:,} {state}" for state, count in counts.items() if count and state not in (State.RIGHT,)]
    lines = [
        f"Delivery {fields['folder']} is {delivery.verdict}: {good:,} of {listed:,} listed files are here and right.",
        *([f"Also: {', '.join(named)}."] if named else []),
        *(f"Problem: {problem}" for problem in problems[:_SHOWN]),
        *(f"{row.state.value}: {_short(row.name)}{f' ({_short(row.reason)})' if row.reason else ''}" for row in files),
        "",
        f"Number: {delivery.id}",
        f"Sent by: {fields['sender']}, from {fields['opened']} to {fields['ended']}",
        f"Receipt on {socket.gethostname()}: {_short(page_beside(delivery.receipt))}",
        f"The same for programs: {fields['receipt']}",
        f"To see all files that are not right: md5s3stashctl delivery show {delivery.id}",
    ]
    subject = f"{delivery.verdict}: delivery {fields['folder']}, {good:,} of {listed:,} files right"
    return Notice(f"delivery-{delivery.id}", at, subject, "\n".join(lines), fields)


def _files(journal: Journal, delivery: Delivery, counts: Mapping[str, int]) -> Sequence[FileRow]:
    """The first that are not right."""
    if any(count for state, count in counts.items() if state not in (State.RIGHT, State.EARLIER)):
        # An operator may have removed the receipt.
        with contextlib.suppress(OSError, ValueError):
            return list(bad_files(journal, delivery, _SHOWN))
    return []


def _file(row: FileRow) -> Mapping[str, str]:
    return {"state": row.state.value, "name": _short(row.name), "reason": _short(row.reason)}


def of_wrong_objects(found: Sequence[WrongObject], names_of: Names = lambda s3_url: ()) -> Notice:
    """For one wrong object or more."""
    objects = sorted(found, key=lambda wrong: (wrong.first_seen, wrong.s3_url))
    names = "\n".join(f"{wrong.kind.value} {wrong.s3_url} {wrong.first_seen}" for wrong in objects)
    shown: list[dict[str, Any]] = [
        {
            "s3_url": _short(wrong.s3_url),
            "kind": wrong.kind.value,
            "reason": _short(wrong.reason),
            "found_md5": wrong.found_md5,
            "first_seen": utc(wrong.first_seen),
            "names": [_short(name, _MAX_NAME) for name in names_of(wrong.s3_url)],
        }
        for wrong in objects[:_SHOWN]
    ]
    count = f"{len(objects):,} wrong object{'' if len(objects) == 1 else 's'}"
    lines = [f"The standing check has found {count}."]
    for each in shown:
        lines += [f"{each['kind']}: {each['s3_url']} ({each['reason']})", *(f"    {name}" for name in each["names"])]
    lines += [f"and {len(objects) - _SHOWN:,} more"] if len(objects) > _SHOWN else []
    lines += ["", f"What to do, on {socket.gethostname()}: md5s3stashctl fixity report"]
    fields = {"type": "fixity", "wrong": len(objects), "objects": shown}
    id = f"fixity-{hashlib.sha256(names.encode('utf-8', 'surrogateescape')).hexdigest()[:32]}"
    return Notice(id, objects[0].first_seen, f"fixity: {count}", "\n".join(lines), fields)


def _short(text: str, limit: int = _MAX_TEXT) -> str:
    """On one line, and valid Unicode."""
    line = printable(text)
    return line if len(line) <= limit else f"{line[: limit - 1]}…"
