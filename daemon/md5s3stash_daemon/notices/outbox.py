"""What a channel still has to send. There is no queue: the journal of deliveries and the wrong objects of the standing
check say what has happened, and a small file says which of that has been sent.

The file is written after a notice was accepted. So a crash sends the last notice once more, and forgets none.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import logging
import os
import sqlite3
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.records import Delivery
from md5s3stash_daemon.disk.durable import open_directory, replace_durably
from md5s3stash_daemon.fixity.state import StateFolder, WrongObject
from md5s3stash_daemon.notices.notice import Names, Notice, of_delivery, of_wrong_objects

log = logging.getLogger(__name__)

FOLDER = "notices"

_VERSION = 1

# The wrong objects are read again after this many times the duration of the last read.
_REST_FACTOR = 50.0


@dataclass(slots=True)
class Sent:
    """What was sent: each delivery up to number `floor`, whose id is `floor_id`, the ids in `deliveries`, and the
    wrong objects in `objects`, by their `_mark`.
    """

    floor: int = 0
    floor_id: str = ""
    deliveries: list[str] = field(default_factory=list)
    objects: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pending:
    """Something to send. A notice of wrong objects has no delivery."""

    key: str
    at: float
    delivery: Delivery | None = None
    objects: tuple[WrongObject, ...] = ()


class Outbox:
    """Of one channel, for one thread. Make it before a delivery can end. Raises OSError; methods also sqlite3.Error."""

    def __init__(self, spool: Path, channel: str, names_of: Names = lambda s3_url: ()) -> None:
        self._journal = journal_path(spool)
        self._fixity = StateFolder(spool)
        self._folder = spool / FOLDER
        self._file = f"{channel}.json"
        self._names_of = names_of
        self._wrong: tuple[WrongObject, ...] = ()
        self._look_at = float("-inf")
        self._sent = self._read() or self._begin()

    def pending(self) -> Sequence[Pending]:
        """What is to be sent, the oldest first."""
        sent, known = self._sent, set(self._sent.deliveries)
        found = [
            Pending(f"delivery-{delivery.id}", delivery.ended or delivery.opened, delivery)
            for delivery in self._deliveries(sent)
            if delivery.receipt and delivery.id not in known
        ]
        told = set(sent.objects)
        if wrong := [each for each in self._wrong_objects() if _mark(each) not in told]:
            found.append(Pending("fixity", min(each.first_seen for each in wrong), None, tuple(wrong)))
        return sorted(found, key=lambda pending: pending.at)

    def notice(self, pending: Pending) -> Notice:
        if pending.delivery is None:
            return of_wrong_objects(pending.objects, self._names_of)
        with self._opened() as journal:
            assert journal is not None, "the journal is never removed"
            return of_delivery(journal, pending.delivery)

    def settle(self, pending: Pending) -> None:
        """Notes that it needs no more attempts."""
        sent = self._sent
        if pending.delivery is not None:
            sent.deliveries.append(pending.delivery.id)
            self._raise_floor(sent)
        # Those that are right again need no mark.
        marks = [_mark(each) for each in pending.objects]
        there = {_mark(each) for each in self._wrong}
        sent.objects = sorted(there & {*sent.objects, *marks})
        self._write(sent)

    def _begin(self) -> Sent:
        """Deliveries that ended before the channel was set up are not news."""
        sent = Sent()
        # If the journal cannot be read now, all its deliveries are sent later.
        with contextlib.suppress(sqlite3.Error):
            sent.deliveries = [delivery.id for delivery in self._deliveries(sent) if delivery.receipt]
            self._raise_floor(sent)
        self._write(sent)
        return sent

    def _deliveries(self, sent: Sent) -> Sequence[Delivery]:
        with self._opened() as journal:
            if journal is None:
                return []
            # The last one that is below the floor shows whether this is still the same journal.
            found = journal.since(sent.floor)
            if sent.floor and (not found or found[0].id != sent.floor_id):
                log.warning("the journal of deliveries is a new one: notices of all its deliveries are sent")
                sent.floor, sent.floor_id, sent.deliveries = 0, "", []
                found = journal.since(0)
            return [delivery for delivery in found if delivery.number > sent.floor]

    def _raise_floor(self, sent: Sent) -> None:
        known = set(sent.deliveries)
        deliveries = self._deliveries(sent)
        for delivery in deliveries:
            if delivery.id not in known:
                break
            sent.floor, sent.floor_id = delivery.number, delivery.id
        sent.deliveries = [each.id for each in deliveries if each.id in known and each.number > sent.floor]

    def _wrong_objects(self) -> Sequence[WrongObject]:
        begun = time.monotonic()
        if begun >= self._look_at:
            self._wrong = tuple(self._fixity.wrong.all())
            ended = time.monotonic()
            self._look_at = ended + _REST_FACTOR * (ended - begun)
        return self._wrong

    @contextlib.contextmanager
    def _opened(self) -> Iterator[Journal | None]:
        if not os.path.exists(self._journal):
            yield None
            return
        with contextlib.closing(Journal(self._journal)) as journal:
            yield journal

    def _read(self) -> Sent | None:
        try:
            fields = json.loads((self._folder / self._file).read_bytes())
            if fields.pop("version") != _VERSION:
                raise ValueError("another version")
            return Sent(**fields)
        except FileNotFoundError:
            return None
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            # Rather twice than never.
            log.warning("what was sent is not readable: sending all again file=%s error=%r", self._file, str(error))
            return Sent()

    def _write(self, sent: Sent) -> None:
        self._folder.mkdir(exist_ok=True)
        descriptor = open_directory(self._folder)
        try:
            replace_durably(descriptor, self._file, json.dumps({"version": _VERSION, **asdict(sent)}).encode())
        finally:
            os.close(descriptor)


def forget_others(spool: Path, channels: Sequence[str]) -> None:
    """Removes what was sent by channels that are no longer set up: set up again, they begin as new ones."""
    for path in (spool / FOLDER).glob("*.json"):
        if path.stem not in channels:
            path.unlink(missing_ok=True)


def _mark(wrong: WrongObject) -> str:
    """The same until the object is right again, or wrong in another way."""
    text = f"{wrong.kind.value} {wrong.s3_url} {wrong.first_seen}"
    return hashlib.sha256(text.encode("utf-8", "surrogateescape")).hexdigest()[:16]
