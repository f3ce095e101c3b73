"""`md5s3stashctl find`, `premis` and `rebuild --from-provenance`: what the index of provenance knows."""

from __future__ import annotations

import argparse
import csv
import functools
import heapq
import io
import itertools
import json
import shlex
import sys
import tempfile
import threading
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from md5s3stash import console
from md5s3stash.audit import FaultKind
from md5s3stash.errors import SettingsError, StashError
from md5s3stash.progress import ProgressState, state_display
from md5s3stash.scheme import BucketBase, split_name
from md5s3stash.settings import Settings, StashSettings
from md5s3stash_daemon.config.settings import ProvenanceSettings
from md5s3stash_daemon.ctl.connections import ledger_of
from md5s3stash_daemon.ledger.fixity_log import ACKNOWLEDGED, AND_LEDGER, BEGUN, INCOMPLETE
from md5s3stash_daemon.ledger.reader import LedgerReader, Mapped, any_case, digest_in
from md5s3stash_daemon.ledger.rebuild import RebuildCounts
from md5s3stash_daemon.ledger.restore import Restorer
from md5s3stash_daemon.provenance.event import Event, id_at
from md5s3stash_daemon.provenance.index import Index, reading
from md5s3stash_daemon.provenance.premis import CSV_COLUMNS, csv_row, premis, utc
from md5s3stash_daemon.provenance.search import names_with
from md5s3stash_daemon.provenance.snapshots import Snapshots

# The S3 URLs of a stashed event.
Places = Callable[[Event], Sequence[str]]

# What an export has beside the mapping.
EXPORTED = ("time", "size_bytes", "sha256", "via", "owner", "etag", "last_modified")


def index_of(settings: Settings) -> Path:
    """The index of provenance in the settings. Raises SettingsError."""
    index = settings[ProvenanceSettings].index
    if index is None:
        raise SettingsError("MD5S3STASH_PROVENANCE_INDEX is not set: there is no index of provenance")
    return index


def s3_urls_of(content: Mapped, bases: Sequence[BucketBase]) -> list[str]:
    """The recorded URL, which is that of the first base, and those of the other bases.

    Only the recorded one if the settings have changed since; if nothing is recorded, where the content would be.
    """
    configured = [base.moved(base.address(content.md5).s3_url, content.content) for base in bases]
    if not content.s3_url:
        return configured
    return [content.s3_url, *configured[1:]] if content.s3_url in configured[:1] else [content.s3_url]


def recorded_places(settings: Settings) -> Places:
    """The places of a stashed event; of one from before the index, those that the ledger has for its content."""

    @functools.cache
    def ledger() -> LedgerReader:
        return ledger_of(settings)

    @functools.cache
    def in_ledger(content: str) -> list[str]:
        # Once for each content: the events are read several times.
        try:
            [recorded] = ledger().placed([("", content)])
            if recorded.s3_url:
                return s3_urls_of(recorded, settings[StashSettings].bases())
        except StashError as error:
            console.complain(str(error))
        console.complain(f"{content}: its place is not recorded, so fixity checks are left out")
        return []

    return lambda event: event.s3_urls.split() or in_ledger(event.content)


def run_find(arguments: argparse.Namespace, settings: Settings) -> bool:
    """Runs `md5s3stashctl find`; False if there is no such name."""
    index = settings[ProvenanceSettings].index
    found = find(ledger_of(settings), index, arguments.word, arguments.limit, arguments.json)
    if not found:
        console.complain(f"{arguments.word}: no name contains this")
    return found


def run_premis(arguments: argparse.Namespace, settings: Settings) -> bool:
    """Runs `md5s3stashctl premis`; False if there are no events."""
    period, places = (arguments.since, arguments.until), recorded_places(settings)
    if None not in period and arguments.since >= arguments.until:
        raise SettingsError("the period is empty: --until is the day after its last day")
    found = print_premis(index_of(settings), arguments.word, *period, arguments.format, places)
    if not found:
        word = arguments.word or "the index"
        hint = f"; a name is the whole path below incoming/: md5s3stashctl find {shlex.quote(word)} lists names"
        console.complain(f"{word}: no events found{hint if arguments.word and digest_in(word) is None else ''}")
    return found


def find(ledger: LedgerReader, index: Path | None, word: str, limit: int, as_json: bool) -> bool:
    """Prints names that contain the word, at most `limit`; False if there is no such name."""
    pairs = names_with(index, word, limit, lambda: False)
    if pairs is None:
        pairs = _scanned(ledger, word, limit)
    for name, content in pairs:
        collection, md5 = split_name(content)
        record = {"name": name, "md5": md5, "collection": collection or None}
        console.write(json.dumps(record) if as_json else f"{content}  {console.printable(name)}")
    return bool(pairs)


def _scanned(ledger: LedgerReader, word: str, limit: int) -> list[tuple[str, str]]:
    found: dict[tuple[str, str], None] = {}
    for names in ledger.names_like(f"*{any_case(word)}*"):
        found.update(dict.fromkeys(names))
        if len(found) >= limit:
            break
    return list(found)[:limit]


class ExportedEvents:
    """The columns that an index adds to an export; none without an index."""

    def __init__(self, index: Index | None) -> None:
        self._index = index

    @property
    def columns(self) -> tuple[str, ...]:
        return () if self._index is None else EXPORTED

    def of(self, batch: Sequence[Mapped]) -> list[dict[str, Any]]:
        """For each mapping its values; None for what is not recorded of this content under this name."""
        if self._index is None:
            return [{} for _ in batch]
        events = self._index.latest_of([each.name for each in batch])
        found = [events.get(each.name) for each in batch]
        return [
            _values(event if event is not None and event.md5 == each.md5 else None)
            for each, event in zip(batch, found, strict=True)
        ]


NO_EVENTS = ExportedEvents(None)


def _values(event: Event | None) -> dict[str, Any]:
    if event is None:
        return dict.fromkeys(EXPORTED)
    values = {**asdict(event), "time": utc(event)}
    return {key: None if values[key] == "" else values[key] for key in EXPORTED}


def print_premis(
    path: Path, word: str | None, since: float | None, until: float | None, form: str, places: Places
) -> bool:
    """Prints the events of a name or an md5, or all, from `since` until before `until`; False if there are no events.
    Raises StashError.
    """
    with reading(path) as index:
        name, md5 = _named(index, word)
        after = -1 if since is None else id_at(since) - 1
        before = 2**63 - 1 if until is None else id_at(until)

        def events() -> Iterator[Event]:
            return _events(index, name, md5, after, before, places)

        def described(event: Event) -> Event:
            firsts = index.firsts_of(event.md5) if event.md5 else []
            urls = dict.fromkeys(url for first in firsts for url in places(first))
            best = firsts[0] if event.is_fixity and firsts else event
            return replace(best, s3_urls=" ".join(urls)) if urls else best

        if next(events(), None) is None:
            return False
        for after_id, before_id in index.gaps():
            console.complain(f"the log lacks outcomes between {after_id} and {before_id}")
        if form == "xml":
            for element in premis(events, described):
                console.write(element)
        else:
            _print_csv(events())
    return True


def _events(
    index: Index, name: str | None, md5: str | None, after: int, before: int, places: Places
) -> Iterator[Event]:
    own = _each(index.events(after, before, name=name, md5=md5))
    audits = [] if name is md5 is None else _audits(index, name, md5, places)
    merged = heapq.merge(own, *audits, key=lambda event: event.id)
    shown = (event for event in merged if after < event.id < before and not event.is_begin)
    # One audit has read all places of a content.
    return (next(same) for _, same in itertools.groupby(shown, key=lambda event: event.id))


def checks_of(path: Path, md5: str, places: Places) -> list[Event]:
    """The fixity checks of a content, and the faults that they have found, the oldest first. Raises StashError."""
    with reading(path) as index:
        return [event for event in _events(index, None, md5, -1, 2**63 - 1, places) if event.is_fixity]


def open_fault(path: Path, content: str, s3_url: str) -> Event | None:
    """The latest fault of an object, unless it was acknowledged, or a check has found it right since. Raises
    StashError.
    """
    collection, md5 = split_name(content)
    with reading(path) as index:
        faults = [event for event in _each(index.events(name=s3_url)) if event.is_fixity and event.error]
        if not faults or faults[-1].error == ACKNOWLEDGED:
            return None
        right = list(passed_audits(index, Event(0, s3_url, md5, collection=collection), s3_url))
        if faults[-1].error == FaultKind.NOT_STORED:
            right += _stashes(index, faults[-1].id, md5, s3_url)
    return None if any(event.id > faults[-1].id for event in right) else faults[-1]


def _each(pages: Iterator[list[Event]]) -> Iterator[Event]:
    for page in pages:
        yield from page


def _audits(index: Index, name: str | None, md5: str | None, places: Places) -> Iterator[Iterable[Event]]:
    """The events of audits of an object, from when it came, for each of its places."""
    known = list(index.latest_of([name]).values()) if name is not None else index.firsts_of(md5 or "")
    for stashed in known:
        urls = places(stashed)
        if name is not None:
            # Those of an md5 are among its own events.
            faults = _each(index.events(stashed.id, md5=stashed.md5))
            yield [event for event in faults if event.is_fixity and event.name in urls]
        for url in urls:
            yield passed_audits(index, stashed, url)


def passed_audits(index: Index, stashed: Event, url: str) -> Iterator[Event]:
    """The audits that have found no fault in the object at this URL, or no longer, and began after it came."""
    of_object = [event for event in _each(index.events(stashed.id, name=url)) if event.is_fixity]
    faults = [event for event in of_object if event.error]
    # It was right again.
    healed = [replace(event, md5=stashed.md5) for event in of_object if not event.error and not event.md5]
    back = [*healed]
    if any(fault.error == FaultKind.NOT_STORED for fault in faults):
        back += _stashes(index, stashed.id, stashed.md5, url)
    yield from heapq.merge(healed, _passed(index, stashed, url, faults, back), key=lambda event: event.id)


def _stashes(index: Index, after: int, md5: str, url: str) -> list[Event]:
    """When a content was stashed in this place."""
    events = _each(index.events(after, md5=md5))
    return [event for event in events if not event.error and url in event.s3_urls.split()]


def _passed(index: Index, stashed: Event, url: str, faults: Sequence[Event], back: Sequence[Event]) -> Iterator[Event]:
    """The audits of the whole base that have found no fault in it. `back` is when it was there again."""
    begun: dict[str, int] = {}
    there = 0
    # An audit is of a whole base, with all of its collections.
    for event in _each(index.events(stashed.id, name=url.removesuffix(stashed.content))):
        if event.is_begin:
            # Of two audits of a kind at once, the earlier one counts.
            begun.setdefault(event.via.removesuffix(BEGUN), event.id)
            continue
        start = begun.pop(event.via.removesuffix(INCOMPLETE), 0)
        if not start or not event.proves_each or any(start < fault.id < event.id for fault in faults):
            continue
        # An object that is not there has no fault either, but for an audit that compares with the ledger.
        gone = [fault.id for fault in faults if fault.error == FaultKind.NOT_STORED and fault.id < start]
        there = max(there, *(each.id for each in back if each.id < start), 0)
        if AND_LEDGER in event.via:
            there = max(there, start)
        if there >= max(gone, default=0):
            reason = f"{event.reason}, in other objects" if event.error else event.reason
            yield replace(event, md5=stashed.md5, error="", reason=reason)


def _named(index: Index, word: str | None) -> tuple[str | None, str | None]:
    """A word as a name or an md5; a name may look like an md5."""
    if word is None:
        return None, None
    md5 = digest_in(word)
    if md5 is None or next(index.events(name=word), None):
        return word, None
    return None, md5


def _print_csv(events: Iterator[Event]) -> None:
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(CSV_COLUMNS)
    for event in events:
        writer.writerow(csv_row(event))
        console.write(text.getvalue(), end="")
        text.seek(0)
        text.truncate()


def rebuild_from_provenance(path: Path, snapshots: Snapshots | None, restorer: Restorer) -> RebuildCounts:
    """Records the names, contents and validators of the index; if there is no index, of the snapshots."""
    counts = RebuildCounts()
    with _index_or_snapshots(path, snapshots) as index:
        total = index.count()

        def state() -> ProgressState:
            return ProgressState(counts.met, counts.met / total if total else 0.0, f"{counts.names:,} names recorded")

        with state_display(state, sys.stderr):
            for page in index.latest():
                names = restorer.add([Mapped(each.name, each.md5, collection=each.collection) for each in page]).names
                restorer.add_validators([(each.name, each.md5, each.etag, each.last_modified) for each in page])
                counts.add(RebuildCounts(len(page), names=names, known=len(page) - names))
            # Also contents whose names have others now: they are still in the bucket.
            for page in index.latest_of_contents():
                counts.contents += restorer.add([_described(event) for event in page]).contents
            for page in index.latest_of_records():
                ids = [Mapped("", each.md5, collection=each.collection, record=each.record) for each in page]
                counts.ids += restorer.add(ids).ids
    return counts


@contextmanager
def _index_or_snapshots(path: Path, snapshots: Snapshots | None) -> Iterator[Index]:
    if path.exists():
        with reading(path) as index:
            yield index
        return
    if snapshots is None:
        raise StashError(f"{path}: there is no index, and provenance.snapshots is not set")
    with (
        tempfile.TemporaryDirectory(prefix="md5s3stash-") as directory,
        closing(Index.create(Path(directory) / "index.sqlite")) as made,
    ):
        snapshots.read_into(made, threading.Event())
        yield made


def _described(event: Event) -> Mapped:
    """The content of an event."""
    width, height = (event.width, event.height) if event.mime_type else (None, None)
    return Mapped("", event.md5, event.s3_url, event.mime_type, width, height)
