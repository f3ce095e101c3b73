"""A delivery ends in one receipt, which is right, wherever the daemon dies on the way."""

from __future__ import annotations

import builtins
import contextlib
import hashlib
import itertools
import json
import os
import uuid
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import pytest
import redis

from md5s3stash.stash import StashReport
from md5s3stash_daemon.deliveries import follower as follower_module
from md5s3stash_daemon.deliveries.follower import DeliveryFollower
from md5s3stash_daemon.deliveries.intake import DeliveryIntake
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.receipts import receipt as receipts
from md5s3stash_daemon.deliveries.receipts.signing import ReceiptNotSigned
from md5s3stash_daemon.disk import beneath, reserve
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger
from md5s3stash_daemon.ledger.reader import LedgerReader, LogEntry
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.spool import Spool
from tests.support.daemon import Daemon, Site
from tests.support.mutated_deliveries import ON
from tests.support.runtime import runtime_of
from tests.support.servers import wait_until

FILES = 150


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def test_kills_of_the_daemon_leave_one_receipt_with_each_file(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    contents = {f"{number}.tif": b"content %d" % number for number in range(FILES)}
    outside = tmp_path / "batch"
    outside.mkdir()
    for name, data in contents.items():
        (outside / name).write_bytes(data)
    (outside / "7.tif").write_bytes(b"another content")
    (outside / "150.md5").write_text("".join(f"{md5(data)}  {name}\n" for name, data in contents.items()))
    site.incoming.mkdir(parents=True)
    outside.rename(site.incoming / "batch")
    # It ends because all is here: only after the wrong file was sent again.
    for part in (1, 2, 3):
        with Daemon(site, ON) as daemon:
            wait_until(
                lambda part=part: site.redis.xlen(f"{site.prefix}:log") >= FILES * part / 4,  # type: ignore[misc]
                f"part {part}",
            )
            daemon.kill()
    with Daemon(site, ON) as daemon:
        wait_until(lambda: site.files("incoming", "active", "deferred") == [], "all settled")
        site.drop("batch/7.tif", contents["7.tif"])
        wait_until(lambda: any((site.spool / "done").glob("batch.*.json")), "receipt")
        assert daemon.terminate() == 0

    [path] = (site.spool / "done").glob("batch.*.json")
    receipt = json.loads(path.read_text())
    assert receipt["verdict"] == "complete"
    assert {file["name"]: file["state"] for file in receipt["files"]} == dict.fromkeys(contents, "right")
    # The wrong content of 7.tif is stored if the file was claimed before the manifest.
    logged = [entry["name"] for entry in site.log() if entry["outcome"] == "stashed" and entry["name"] != "batch/7.tif"]
    assert sorted(name for name in logged if name.startswith("batch/")) == sorted(
        f"batch/{name}" for name in {*contents, "150.md5"} - {"7.tif"}
    )


class Crash(BaseException):
    """The process dies here."""


class CrashPoints:
    """Raises before the n-th call that changes something."""

    def __init__(self, crash_at: int) -> None:
        self._left = crash_at

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def wrapped(*arguments: Any, **options: Any) -> Any:
            self.step()
            return function(*arguments, **options)

        return wrapped

    def step(self) -> None:
        self._left -= 1
        if self._left == 0:
            raise Crash

    def install(self, patch: pytest.MonkeyPatch) -> None:
        for name in ("link", "unlink", "fsync", "mkdir"):
            patch.setattr(os, name, self.around(getattr(os, name)))
        patch.setattr(beneath, "rename_to_new", self.around(beneath.rename_to_new))
        patch.setattr(receipts, "open", self.around(builtins.open), raising=False)
        transaction = Journal.transaction

        @contextlib.contextmanager
        def crashing(journal: Journal) -> Iterator[None]:
            with transaction(journal):
                yield
                self.step()
            self.step()

        patch.setattr(Journal, "transaction", crashing)


class NoContents:
    """No content is stored."""

    def digests(self, md5: str, algorithms: Collection[str]) -> Mapping[str, str] | None:
        return None

    def read(self, md5: str, max_bytes: int) -> bytes | None:
        return None

    def in_collection(self, collection: str) -> Self:
        return self

    def place(self, md5: str) -> str:
        return f"s3://b/{md5}"


class Box:
    """A spool with a delivery of three names, of which one came and one is wrong, and its ledger."""

    def __init__(self, directory: Path, redis_url: str) -> None:
        self.spool = Spool(directory)
        self.spool.create()
        self.client = redis.Redis.from_url(redis_url)
        self.prefix = f"test-{uuid.uuid4().hex[:8]}"
        self.manifest = b"".join(f"{md5(name.encode())}  {name}\n".encode() for name in ("a", "b", "c"))
        # Not in active/: a delivery does not end while a file of it is there.
        (directory / "claimed" / "1.0" / "batch").mkdir(parents=True)
        path = directory / "claimed" / "1.0" / "batch" / "x.md5"
        path.write_bytes(self.manifest)
        self.entry = Entry("batch/x.md5", str(path), "1")

    def record(self) -> None:
        ledger = RedisLedger(self.client, self.prefix, "spool", accepted_risks=("unknown",))
        outcomes = [
            Outcome(
                f"1/batch/{name}", f"batch/{name}", (StashReport(name, md5(data), f"s3://b/{name}", "", (0, 0)),), 1
            )
            for name, data in (("a", b"a"), ("x.md5", self.manifest))
        ]
        ledger.record([*outcomes, Outcome("1/batch/b", "batch/b", error="ListedDigestDiffers", reason="differs")])

    def take_and_record(self, intake: DeliveryIntake, name: str, data: bytes) -> None:
        """What the daemon does with another manifest."""
        path = self.spool.directory / "claimed" / "1.0" / name
        path.write_bytes(data)
        intake.with_listed([Entry(name, str(path), name)])
        report = StashReport(name, md5(data), f"s3://b/{name}", "", (0, 0))
        ledger = RedisLedger(self.client, self.prefix, "spool", accepted_risks=("unknown",))
        ledger.record([Outcome(f"1/{name}", name, (report,), 1)])

    def run(self) -> None:
        """One life of the daemon's part, until there is nothing to do."""
        os.makedirs(self.spool.path_of("deliveries"), exist_ok=True)
        journal = Journal(journal_path(self.spool.directory))
        try:
            intake = DeliveryIntake(self.spool, journal)
            intake.with_listed([self.entry])
            reader = LedgerReader(self.client, self.prefix)
            follower = DeliveryFollower(runtime_of(), self.spool, intake, journal, reader, NoContents())
            for delivery in journal.unpublished():
                journal.ask_to_end(delivery.number)
                follower.follow(delivery)
            for delivery in journal.unpublished():
                follower.follow(delivery)
        finally:
            journal.close()

    def results(self) -> dict[str, bytes]:
        """Name -> content of everything published or dropped."""
        found = [
            path
            for folder in ("done", "incoming", "deliveries")
            for path in (self.spool.directory / folder).rglob("*")
            if path.is_file() and not path.name.startswith("journal.sqlite")
        ]
        return {str(path.relative_to(self.spool.directory)): path.read_bytes() for path in found}


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_crash_before_any_step_of_a_delivery_leaves_one_receipt(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Two spare files are as good as 128, and each takes an fsync.
    monkeypatch.setattr(reserve, "_MAX_SPARES", 2)
    for crash_at in itertools.count(1):
        box = Box(tmp_path / str(crash_at), redis_server)
        box.record()
        crashed = False
        with monkeypatch.context() as patch:
            CrashPoints(crash_at).install(patch)
            try:
                box.run()
            except Crash:
                crashed = True
        box.run()
        box.run()

        results = box.results()
        assert sorted(name.rpartition(".")[2] for name in results) == ["html", "html", "json", "json"], crash_at
        by_place = {name.split("/")[0]: json.loads(data) for name, data in results.items() if name.endswith("json")}
        assert by_place["done"] == by_place["incoming"]
        assert {file["name"]: file["state"] for file in by_place["done"]["files"]} == {
            "a": "right",
            "b": "wrong",
            "c": "missing",
        }
        # A manifest that comes again after a crash is handed on, and opens no second delivery.
        assert Path(box.entry.path).exists()
        if not crashed:
            break
    assert crash_at > 20


def test_a_manifest_that_is_taken_while_the_log_is_followed_is_no_file_of_the_delivery(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path, redis_server)
    box.record()
    intakes: list[DeliveryIntake] = []
    with_listed, after = DeliveryIntake.with_listed, LedgerReader.batch_after

    def noting(intake: DeliveryIntake, entries: Sequence[Entry]) -> Sequence[Entry]:
        intakes.append(intake)
        return with_listed(intake, entries)

    def taking_another(reader: LedgerReader, position: str) -> list[LogEntry]:
        if len(intakes) == 1:
            box.take_and_record(intakes[0], "batch/y.md5", f"{md5(b'a')}  a\n".encode())
        return after(reader, position)

    monkeypatch.setattr(DeliveryIntake, "with_listed", noting)
    monkeypatch.setattr(LedgerReader, "batch_after", taking_another)

    box.run()

    [receipt] = (json.loads(path.read_text()) for path in (box.spool.directory / "done").rglob("*.json"))
    assert [file["name"] for file in receipt["files"]] == ["a", "b", "c"]
    assert {manifest["name"] for manifest in receipt["manifests"]} == {"x.md5", "y.md5"}


def test_while_files_wait_the_log_is_read_seldom(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box = Box(tmp_path, redis_server)
    os.makedirs(box.spool.path_of("deliveries"))
    with contextlib.closing(Journal(journal_path(box.spool.directory))) as journal:
        intake = DeliveryIntake(box.spool, journal)
        intake.with_listed([box.entry])
        reader = LedgerReader(box.client, box.prefix)
        follower = DeliveryFollower(runtime_of(), box.spool, intake, journal, reader, NoContents())
        box.record()
        waiting = tmp_path / "incoming" / "batch" / "c"
        waiting.parent.mkdir(parents=True, exist_ok=True)
        waiting.write_bytes(b"c")

        def follow() -> dict[str, int]:
            [delivery] = journal.unpublished()
            follower.follow(delivery)
            return journal.counts(delivery.number)

        assert follow() == {"missing": 3}
        waiting.unlink()
        known = follow()
        waiting.write_bytes(b"c")
        # It has read so little that it need not rest.
        monkeypatch.setattr("md5s3stash_daemon.deliveries.follower._REST_FACTOR", 0.0)
        box.client.xadd(f"{box.prefix}:log", {"name": "batch/c", "outcome": "failed", "reason": "it is odd"})
        follower._read_at.clear()
        assert follow() == known
        monkeypatch.setattr("md5s3stash_daemon.deliveries.follower._MAX_REST_SECONDS", -1.0)
        follower._read_at.clear()

        assert known == {"missing": 1, "wrong": 1, "right": 1}
        assert follow() == {"failed": 1, "wrong": 1, "right": 1}


def test_a_key_that_cannot_be_used_is_not_tried_at_each_look_and_open_deliveries_come_first(
    tmp_path: Path, redis_server: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    box, attempts, published = Box(tmp_path, redis_server), [0], receipts.publish

    def refused(*arguments: Any) -> str:
        attempts[0] += 1
        raise ReceiptNotSigned("no key")

    monkeypatch.setattr(follower_module, "publish", refused)
    monkeypatch.setattr(follower_module, "_FIRST_SIGNING_DELAY_SECONDS", 3600.0)
    os.makedirs(box.spool.path_of("deliveries"))
    with contextlib.closing(Journal(journal_path(box.spool.directory))) as journal:
        intake = DeliveryIntake(box.spool, journal)
        intake.with_listed([box.entry])
        reader = LedgerReader(box.client, box.prefix)
        follower = DeliveryFollower(runtime_of(), box.spool, intake, journal, reader, NoContents())
        [delivery] = journal.unpublished()
        journal.ask_to_end(delivery.number)
        with pytest.raises(ReceiptNotSigned):
            follower.follow(journal.unpublished()[0])
        with journal.transaction():
            journal.open("20261129T122000Z-a1b2c3", "later", "later", 0.0)

        opened, ended = follower._unpublished()
        follower.follow(ended)
        assert (opened.folder, attempts) == ("later", [1])

        monkeypatch.setattr(follower_module, "publish", published)
        follower._sign_at = 0.0
        follower.follow(ended)
        assert [each.folder for each in journal.unpublished()] == ["later"]
