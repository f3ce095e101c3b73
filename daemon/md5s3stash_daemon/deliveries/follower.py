"""Follows the ledger log for the open deliveries, ends them, and publishes their receipts.

The log has each outcome once, synced before its file leaves the spool. The journal notes outcomes together with the
position in the log. So a crash at any point repeats a step and forgets none, and files that came before their manifest
are found in the log too.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace

from md5s3stash.errors import SourceRefused, StashError
from md5s3stash_daemon.config.settings import DeliverySettings, SpoolSettings
from md5s3stash_daemon.deliveries.bag import DECLARATION, Bag, bag_of, is_bag_manifest
from md5s3stash_daemon.deliveries.fetch import (
    FETCH,
    MAX_FETCH_BYTES,
    Fetched,
    drop_list,
    list_name,
    list_waits,
    read_fetch,
)
from md5s3stash_daemon.deliveries.intake import DeliveryIntake, folders_above
from md5s3stash_daemon.deliveries.journal import FOLDER, Journal
from md5s3stash_daemon.deliveries.judge import FETCHED, after, judged
from md5s3stash_daemon.deliveries.late_checks import Contents, LateChecks
from md5s3stash_daemon.deliveries.receipts.receipt import publish
from md5s3stash_daemon.deliveries.receipts.signing import ReceiptNotSigned
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import ALL_HERE, ASKED, BAD, STILL, Delivery
from md5s3stash_daemon.deliveries.waiting import waiting
from md5s3stash_daemon.disk.beneath import is_name
from md5s3stash_daemon.ledger.reader import LOG_BATCH, LedgerReader, LogEntry
from md5s3stash_daemon.runtime.liveness import ThreadLiveness
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.threads import spawn
from md5s3stash_daemon.spool.entry import collection_of
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)

THREAD = "deliveries"

_TICK_SECONDS = 1.0

# While files of a delivery wait, reading outcomes takes at most a fiftieth of a processor, and lags at most 30 seconds.
# It begins after as long: most bursts have ended by then.
_REST_FACTOR = 50.0
_MAX_REST_SECONDS = 30.0

# After the key could not be used; doubled each time. A key on a dead mount costs a minute at each attempt.
_FIRST_SIGNING_DELAY_SECONDS = 1.0
_MAX_SIGNING_DELAY_SECONDS = 30.0

# The files of a bag come by themselves, in any order: its end has to wait for the last of its manifests.
_BAG_SECONDS = 30.0


@dataclass(frozen=True, slots=True)
class _Ending:
    """Why a delivery ends, and the number of manifests that it had when this was decided."""

    by: str
    manifests: int


class DeliveryFollower:
    """One thread, from `start` to the daemon's shutdown."""

    def __init__(
        self, runtime: Runtime, spool: Spool, intake: DeliveryIntake, journal: Journal, ledger: LedgerReader,
        contents: Contents,
    ) -> None:  # fmt: skip
        self._runtime = runtime
        self._spool = spool
        self._intake = intake
        self._journal = journal
        self._ledger = ledger
        self._contents = contents
        # Why receipts cannot be published, for the operator; empty if they can.
        self.fault = ""
        self._sign_at = 0.0
        self._signing_delay = _FIRST_SIGNING_DELAY_SECONDS
        # When the outcomes of a delivery may be read again while its files wait.
        self._read_at: dict[int, float] = {}
        # A delivery is not still because this machine was off.
        self._started = time.time()

    def start(self) -> threading.Thread:
        return spawn(THREAD, self._run, self._runtime.liveness)

    @property
    def _still_seconds(self) -> float:
        return self._runtime.live.current[DeliverySettings].still_seconds

    def _run(self) -> None:
        liveness = ThreadLiveness(self._runtime.liveness, THREAD)
        while not self._runtime.stopping.wait(_TICK_SECONDS):
            for delivery in self._unpublished():
                liveness.beat()
                try:
                    with liveness.idle():  # S3, Redis and the disk may each take long
                        self.follow(delivery)
                except ReceiptNotSigned as error:
                    self._note_fault(str(error))
                except StashError as error:
                    # Redis or S3 is unavailable: the next look continues from here.
                    log.debug("delivery waits id=%s error=%r", delivery.id, str(error))
                except Exception:
                    # The disk, or a bug here: it concerns this delivery alone. Its files are stashed all the same.
                    log.exception("delivery cannot go on: trying again id=%s", delivery.id)
            liveness.set_idle()

    def _note_fault(self, fault: str) -> None:
        if fault != self.fault:
            log.error("%s", fault)
        self.fault = fault

    def _unpublished(self) -> Sequence[Delivery]:
        try:
            # Open ones first: they do not wait for a receipt that cannot be signed.
            return sorted(self._journal.unpublished(), key=lambda delivery: delivery.ended is not None)
        except sqlite3.Error as error:
            log.error("the journal of deliveries cannot be read error=%r", str(error))
            return []

    def follow(self, delivery: Delivery) -> None:
        """Does what can be done for a delivery now. Raises StashError, OSError, sqlite3.Error."""
        if delivery.ended is None:
            # Before the log is read: what has left the spool by now is in the log.
            is_waiting = self._is_waiting(delivery)
            if is_waiting and self._gives_way(delivery):
                return
            begun = time.thread_time()
            delivery = self._catch_up(delivery)
            self._rest(delivery, time.thread_time() - begun)
            contents = self._contents.in_collection(self._collection(delivery))
            checks = LateChecks(self._intake, self._journal, contents, delivery)
            if self._fetch(delivery, contents):
                return
            checks.check_objects(self._runtime.stopping.is_set)
            ending = self._ending(delivery, is_waiting)
            if ending is None or self._runtime.stopping.is_set():
                return
            if ending.by != ALL_HERE:
                checks.find_earlier(self._ledger)
                checks.match_other_forms(is_bag=self._journal.file(delivery.number, DECLARATION) is not None)
                checks.explain_missing(self._spool)
            ended = self._end(delivery, ending, bag_of(self._journal, delivery.number, contents))
            if ended is None:
                return
            delivery = ended
        if time.monotonic() >= self._sign_at:
            self._publish(delivery)

    def _publish(self, delivery: Delivery) -> None:
        collection = self._collection(delivery)
        place_of = self._contents.in_collection(collection).place
        key = self._runtime.live.current[DeliverySettings].signing_key
        try:
            path = publish(self._spool, self._journal, delivery, place_of, collection, key)
        except ReceiptNotSigned:
            self._sign_at = time.monotonic() + self._signing_delay
            self._signing_delay = min(2 * self._signing_delay, _MAX_SIGNING_DELAY_SECONDS)
            raise
        self.fault, self._signing_delay = "", _FIRST_SIGNING_DELAY_SECONDS
        with self._journal.transaction():
            self._journal.update(delivery.number, is_published=1, receipt=path.encode("utf-8", "surrogateescape"))
            self._journal.drop_files_of(delivery.number)
        self._read_at.pop(delivery.number, None)
        log.info(
            "delivery ended id=%s folder=%r verdict=%s by=%r counts=%s",
            delivery.id,
            delivery.folder,
            delivery.verdict,
            delivery.ended_by,
            delivery.counts,
        )

    def _gives_way(self, delivery: Delivery) -> bool:
        """Whether its outcomes are read later: while its files wait it cannot end, and a burst needs the processors."""
        return time.monotonic() < self._read_at.setdefault(delivery.number, time.monotonic() + _MAX_REST_SECONDS)

    def _rest(self, delivery: Delivery, cpu_seconds: float) -> None:
        self._read_at[delivery.number] = time.monotonic() + min(_REST_FACTOR * cpu_seconds, _MAX_REST_SECONDS)

    def _is_waiting(self, delivery: Delivery) -> bool:
        files = waiting(self._spool, delivery.folder, self._still_seconds, time.time())
        own_list = list_name(delivery.id, self._collection(delivery))
        return any(True for _ in files) or (bool(delivery.fetching) and list_waits(self._spool, own_list))

    def _collection(self, delivery: Delivery) -> str:
        """The collection that its files go to; empty if folders are not collections, or this one cannot be one."""
        by_folder = self._runtime.live.current[SpoolSettings].collections
        try:
            return collection_of(f"{delivery.folder}/", by_folder=by_folder)
        except SourceRefused:
            return ""

    # Outcomes.

    def _catch_up(self, delivery: Delivery) -> Delivery:
        position = delivery.position or self._first_position(delivery)
        while entries := self._ledger.batch_after(position):
            position = entries[-1].id
            mine = [entry for entry in entries if _is_below(delivery.folder, entry)]
            fetched = self._fetched(delivery, entries) if delivery.fetching else []
            touched = max([delivery.touched, *(entry.seconds for entry in [*mine, *fetched])])
            with self._intake.lock, self._journal.transaction():
                names = [entry.fields["name"][len(delivery.folder) + 1 :] for entry in mine]
                self._learn(delivery, list(zip(names, mine, strict=True)))
                for entry in fetched:
                    self._learn_fetched(delivery, entry)
                self._journal.update(delivery.number, position=position, touched=touched)
            delivery = replace(delivery, position=position, touched=touched)
            if len(entries) < LOG_BATCH:
                break
        return delivery

    def _learn(self, delivery: Delivery, outcomes: Sequence[tuple[str, LogEntry]]) -> None:
        names = [name for name, _ in outcomes]
        # After the log was read: a manifest in it was taken before it was stashed.
        manifests = self._journal.manifests_among(delivery.number, names)
        listed_of = self._journal.listed_of(delivery.number, names)
        stored, rows = self._journal.stored_of(delivery.number, names), []
        for name, entry in outcomes:
            listed = listed_of.get(name, [])
            if name in manifests:
                self._journal.note_manifest(delivery.number, name, entry.fields.get("md5", "") or "failed")
            # What belongs to a delivery further down is not unlisted here.
            elif not listed and any(
                len(folder) > len(delivery.folder) and folder in self._intake.open
                for folder in folders_above(entry.fields["name"])
            ):
                continue
            if listed or name not in manifests:
                row = stored[name] = after(stored.get(name), judged(name, entry, listed))
                rows.append(row)
        self._journal.put_files(delivery.number, rows)

    def _fetched(self, delivery: Delivery, entries: Sequence[LogEntry]) -> list[LogEntry]:
        """Those that are outcomes of URLs in its `fetch.txt`."""
        urls = [entry for entry in entries if "://" in entry.fields.get("name", "") and _is_outcome(entry)]
        return [entry for entry in urls if self._journal.names_of_url(delivery.number, entry.fields["name"])]

    def _learn_fetched(self, delivery: Delivery, entry: LogEntry) -> None:
        for name in self._journal.names_of_url(delivery.number, entry.fields["name"]):
            listed = self._journal.listed(delivery.number, name)
            known = self._journal.file(delivery.number, name)
            self._journal.put_file(delivery.number, after(known, judged(name, entry, listed, FETCHED)))

    def _fetch(self, delivery: Delivery, contents: Contents) -> bool:
        """Drops what the `fetch.txt` of a bag lists and has not come as a list of URLs; False if it did so before."""
        row = self._journal.file(delivery.number, FETCH)
        manifests = self._journal.manifests(delivery.number)
        has_manifest = any(manifest.name.startswith("manifest-") for manifest in manifests)
        is_bag = has_manifest and self._journal.file(delivery.number, DECLARATION) is not None
        if row is None or not row.md5 or row.md5 == delivery.fetching or not is_bag:
            return False
        # One that is too large is a problem of the bag.
        is_small = (row.size_bytes or 0) <= MAX_FETCH_BYTES
        lines = read_fetch((contents.read(row.md5, MAX_FETCH_BYTES) if is_small else None) or b"")
        with self._journal.transaction():
            self._journal.fetch(
                delivery.number, [line for line in lines if isinstance(line, Fetched) and line.is_fetched]
            )
        urls = self._journal.urls_to_fetch(delivery.number)
        if urls:
            name = list_name(delivery.id, self._collection(delivery))
            drop_list(self._spool, self._spool.path_of(FOLDER), name, urls)
            log.info("delivery fetches id=%s urls=%d", delivery.id, len(urls))
        with self._journal.transaction():
            # From now on, the position in the log is before any outcome of the list that is not considered yet.
            self._journal.update(delivery.number, fetching=row.md5)
        return True

    def _first_position(self, delivery: Delivery) -> str:
        """Before the first file of the delivery in the log: its files follow each other within `still_seconds`. An
        earlier delivery of the folder has its own.
        """
        floor = _sort_key(self._journal.last_position(delivery.folder) or "0-0")
        newest = first = ""
        edge = delivery.opened - self._still_seconds
        for entry in self._ledger.newest_first():
            newest = newest or entry.id
            if entry.seconds < edge or _sort_key(entry.id) <= floor:
                break
            if _is_below(delivery.folder, entry):
                first, edge = entry.id, min(edge, entry.seconds - self._still_seconds)
        return _before(first) if first else newest or "0-0"

    # The end.

    def _ending(self, delivery: Delivery, is_waiting: bool) -> _Ending | None:
        manifests = self._journal.manifests(delivery.number)
        # While a service is down, files that are here wait.
        if is_waiting or self._runtime.breaker.faults():
            return None
        if delivery.is_asked:
            return _Ending(ASKED, len(manifests))
        current = [manifest for manifest in manifests if not manifest.is_replaced]
        if not all(manifest.md5 for manifest in current):
            return None
        # Not if each file has a manifest of its own beside it: more pairs may come.
        has_list = any(not manifest.is_unreadable and not manifest.is_sidecar for manifest in current)
        is_bag = any(is_bag_manifest(manifest.name) for manifest in manifests)
        quiet_seconds = time.time() - max(delivery.touched, self._started)
        is_quiet = not is_bag or quiet_seconds >= min(_BAG_SECONDS, self._still_seconds)
        if has_list and is_quiet and not self._journal.has_any(delivery.number, BAD):
            return _Ending(ALL_HERE, len(manifests))
        if quiet_seconds >= self._still_seconds:
            return _Ending(STILL, len(manifests))
        return None

    def _end(self, delivery: Delivery, ending: _Ending, bag: Bag | None) -> Delivery | None:
        """The delivery, ended; None if another manifest has come since the decision."""
        with self._intake.lock:
            manifests = self._journal.manifests(delivery.number)
            if ending.by != ASKED and len(manifests) != ending.manifests:
                return None
            counts = self._journal.counts(delivery.number)
            bag_json = "" if bag is None else json.dumps(bag.as_dict())
            is_bad = any(counts.get(state) for state in BAD) or problems_of(manifests, counts, bag_json)
            verdict = "incomplete" if is_bad else "complete"
            ended = replace(
                delivery,
                ended=time.time(),
                ended_by=ending.by,
                verdict=verdict,
                counts=json.dumps(counts),
                bag=bag_json,
            )
            with self._journal.transaction():
                # A file that md5s3stashctl has dropped again since: see `ctl/moves.py`.
                if self._is_waiting(delivery):
                    return None
                self._journal.update(
                    delivery.number,
                    ended=ended.ended,
                    ended_by=ended.ended_by,
                    verdict=verdict,
                    counts=ended.counts,
                    bag=bag_json,
                )
            self._intake.open.pop(delivery.folder, None)
            return ended


def _is_below(folder: str, entry: LogEntry) -> bool:
    """Whether it is the outcome of a file below the folder. URLs are names too, and any program may write a log."""
    name = entry.fields.get("name", "")
    return name.startswith(f"{folder}/") and is_name(name) and _is_outcome(entry)


def _is_outcome(entry: LogEntry) -> bool:
    # The log may have entries of another kind, such as checks of fixity.
    return entry.fields.get("outcome") in ("stashed", "failed")


def _sort_key(entry_id: str) -> tuple[int, int]:
    milliseconds, _, number = entry_id.partition("-")
    return int(milliseconds), int(number or 0)


def _before(entry_id: str) -> str:
    """The largest id before this one."""
    milliseconds, number = _sort_key(entry_id)
    return f"{milliseconds}-{number - 1}" if number else f"{milliseconds - 1}-{2**64 - 1}"
