"""What is in a folder, a list or a message may belong to a collection, and all that is recorded knows it."""

from __future__ import annotations

import contextlib
import hashlib
import json
from pathlib import Path

import pytest
from lxml import etree  # type: ignore[import-untyped]

from md5s3stash.errors import SettingsError
from md5s3stash.s3.listing import Lister
from md5s3stash.scheme import BucketBase, KeyTemplate, name_in
from md5s3stash.settings import RISKS
from md5s3stash.stash import StashReport
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.ctl.main import main
from md5s3stash_daemon.ledger import rebuild as rebuild_module
from md5s3stash_daemon.ledger.fixity_log import BY_LIST, FixityLog
from md5s3stash_daemon.ledger.ledger import Outcome, RedisLedger
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.provenance import index as index_module
from md5s3stash_daemon.provenance.event import event_of
from md5s3stash_daemon.provenance.index import Index
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.web.search import search
from tests.daemon.test_ctl import run
from tests.daemon.test_deliveries import drop_folder, ended, states, wait_for_receipt
from tests.support.daemon import Daemon, Site
from tests.support.digest_s3 import DigestS3
from tests.support.mutated_bags import MutatedBag
from tests.support.mutated_deliveries import ON
from tests.support.origin import Origin, Reply
from tests.support.queues import TestQueue
from tests.support.servers import wait_until
from tests.support.url_lists import OPEN, drop_list, wait_for_report

TEMPLATE = {"KEY_TEMPLATE": "{collection}/{md5}"}
BY_FOLDER = {**TEMPLATE, "MD5S3STASH_SPOOL_COLLECTIONS": "true"}
DATA = b"one content of two collections"
MD5 = hashlib.md5(DATA).hexdigest()


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def place(site: Site, name: str) -> str:
    return f"s3://{site.bucket}/{name}"


def recorded_place(site: Site, digest: str) -> str:
    entry = site.redis.hget(f"{site.prefix}:hash_cache", digest)
    return str(json.loads(entry)[0])  # type: ignore[arg-type]


def test_files_lists_and_messages_go_to_their_collections(site: Site, s3_server: str, origin: Origin) -> None:
    queue = TestQueue(s3_server)
    listed, queued = origin.answer("/listed", Reply(body=DATA)), origin.answer("/queued", Reply(body=b"queued"))
    with Daemon(site, {**queue.environment(), **BY_FOLDER}) as daemon:
        daemon.wait_until_started()
        site.drop("26094/deep/a.txt", DATA)
        site.drop("exhibitions/b.txt", DATA)
        site.drop("c.txt", DATA)
        site.drop("Box 7/d.txt", b"no collection")
        drop_list(site, "4891/harvest.urls", [listed])
        drop_list(site, "Box 7/harvest.urls", [listed])
        queue.send(json.dumps({"url": queued, "id": "ark:/13030/kt1", "collection": "26094"}))
        rows = wait_for_report(site, "4891/harvest.urls")
        refused = wait_for_report(site, "Box 7/harvest.urls")
        wait_until(lambda: queue.is_empty() and not site.files(), "all is stashed or failed")
        assert daemon.terminate() == 0

    assert [row["s3_url"] for row in rows] == [place(site, f"4891/{MD5}")]
    assert [row["outcome"] for row in refused] == ["failed"]
    assert site.objects() == {
        f"26094/{MD5}": DATA,
        f"exhibitions/{MD5}": DATA,
        MD5: DATA,
        f"4891/{MD5}": DATA,
        f"26094/{md5(b'queued')}": b"queued",
    }
    assert "the folder 'Box 7' is not a collection" in (site.spool / "failed/Box 7/d.txt.error.json").read_text()
    collections = {entry["name"]: entry.get("collection") for entry in site.log() if entry["outcome"] == "stashed"}
    assert collections == {
        "26094/deep/a.txt": "26094",
        "exhibitions/b.txt": "exhibitions",
        "c.txt": None,
        listed: "4891",
        queued: "26094",
    }
    assert site.redis.hgetall(f"{site.prefix}:ids") == {b"ark:/13030/kt1": f"26094/{md5(b'queued')}".encode()}
    places = {name: place(site, key) for name, key in site.names().items()}
    assert places == {
        "26094/deep/a.txt": place(site, f"26094/{MD5}"),
        "exhibitions/b.txt": place(site, f"exhibitions/{MD5}"),
        "c.txt": place(site, MD5),
        listed: place(site, f"4891/{MD5}"),
        queued: place(site, f"26094/{md5(b'queued')}"),
    }
    places["ark:/13030/kt1"] = places[queued]
    assert {name: shown_places(site, name) for name in places} == {name: [at] for name, at in places.items()}
    assert set(shown_places(site, MD5)) == {at for at in places.values() if at.endswith(MD5)}
    assert exported_places(site) == places


def shown_places(site: Site, word: str) -> list[str]:
    found = json.loads(run(site, "lookup", "--json", word, **TEMPLATE).stdout)
    return list(found["s3_urls"])


def exported_places(site: Site) -> dict[str, str]:
    """By name, or by the id of a record."""
    records = [json.loads(line) for line in run(site, "export", **TEMPLATE).stdout.splitlines()]
    return {record["name"] or record["record"]: record["s3_url"] for record in records}


def record_outcomes(site: Site) -> None:
    """One content in three places, of which that in 9 is the last, and another content; two records."""
    ledger = RedisLedger(site.redis, site.prefix, "spool", accepted_risks=RISKS, provenance=True)
    drops = [("4891/a", DATA, "ark:/1"), ("b", DATA, ""), ("1/d", b"other", ""), ("9/c", DATA, "2")]
    for number, (name, data, record_id) in enumerate(drops):
        collection = name.rpartition("/")[0]
        key = name_in(collection, md5(data))
        site.client.put_object(Bucket=site.bucket, Key=key, Body=data)
        report = StashReport(name, md5(data), place(site, key), "text/plain", (0, 0))
        ledger.record([Outcome(f"drop {number}", name, (report,), collection=collection, record_id=record_id)])


def all_recorded(site: Site) -> dict[str, dict[bytes, bytes]]:
    return {name: site._hash(name) for name in ("names", "ids", "hash_cache")}


def rebuilt(capsys: pytest.CaptureFixture[str], *arguments: str) -> dict[str, int]:
    """In this process, so that its batches can be small."""
    assert main(["rebuild", "--json", *arguments]) == 0
    counts: dict[str, int] = json.loads(capsys.readouterr().out)
    return counts


FORMS = ["LIST", "export", "provenance"]
PAGES = Lister.pages


@pytest.mark.parametrize("form", FORMS)
def test_a_dry_run_counts_as_the_run_does_and_that_gives_back_what_was_lost(
    site: Site, form: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    Spool(site.spool).create()
    record_outcomes(site)
    before, places = all_recorded(site), exported_places(site)
    export, index = site.directory / "export.jsonl", site.directory / "index.sqlite"
    export.write_text(run(site, "export", **TEMPLATE).stdout)
    with contextlib.closing(Index.create(index)) as made:
        made.add([event for entry in LedgerReader(site.redis, site.prefix).last(9) if (event := event_of(entry))])
    arguments = {"LIST": [], "export": ["--from-export", str(export)], "provenance": ["--from-provenance"]}[form]
    for name, value in {**site.environment(), **TEMPLATE, "MD5S3STASH_PROVENANCE_INDEX": str(index)}.items():
        monkeypatch.setenv(name, value)
    for key in site.redis.keys(f"{site.prefix}:*"):
        site.redis.delete(key)

    # What comes again is in another batch.
    monkeypatch.setattr(rebuild_module, "LINES_AT_ONCE", 1)
    monkeypatch.setattr(index_module, "PAGE", 1)
    monkeypatch.setattr(Lister, "pages", lambda *arguments: ([found] for page in PAGES(*arguments) for found in page))

    drafted = rebuilt(capsys, *arguments, "--dry-run")
    empty = all_recorded(site)
    written = rebuilt(capsys, *arguments)
    again = rebuilt(capsys, *arguments)

    assert empty == {"names": {}, "ids": {}, "hash_cache": {}}
    assert drafted == written
    assert (written["contents"], written["names"], written["ids"]) == ((2, 0, 0) if form == "LIST" else (2, 4, 2))
    assert (again["contents"], again["names"], again["ids"]) == (0, 0, 0)
    if form == "LIST":
        return
    after = all_recorded(site)
    assert (after["names"], after["ids"]) == (before["names"], before["ids"])
    assert exported_places(site) == places
    if form == "provenance":
        # An export does not say which place was the last one; the index does.
        assert after["hash_cache"] == before["hash_cache"]
        assert recorded_place(site, MD5) == place(site, f"9/{MD5}")


def premis_of(site: Site, index: Path, word: str) -> tuple[list[str], list[str]]:
    """Outcomes of the events, and places of the objects."""
    done = run(site, "premis", word, MD5S3STASH_PROVENANCE_INDEX=str(index))
    assert done.returncode == 0, done.stderr
    document = etree.fromstring(done.stdout.encode())
    outcomes, places = (
        [str(found.text) for found in document.iter(f"{{http://www.loc.gov/premis/v3}}{name}")]
        for name in ("eventOutcome", "contentLocationValue")
    )
    return outcomes, places


def test_premis_has_every_place_of_a_content_and_the_audits_of_its_collections(site: Site, tmp_path: Path) -> None:
    record_outcomes(site)
    audit, bucket, index = FixityLog(site.redis, site.prefix, BY_LIST), place(site, ""), tmp_path / "index.sqlite"
    audit.begun(bucket)
    audit.fault(place(site, f"9/{MD5}"), MD5, "wrong-etag", "its ETag is another")
    audit.checked(bucket, "4 objects, 1 faults", 1, 0)
    with contextlib.closing(Index.create(index)) as made:
        made.add([event for entry in LedgerReader(site.redis, site.prefix).last(9) if (event := event_of(entry))])
    places = [place(site, name) for name in (f"4891/{MD5}", MD5, f"9/{MD5}")]

    assert premis_of(site, index, "4891/a") == (["success", "success"], places)
    assert premis_of(site, index, "b") == (["success", "success"], places)
    assert premis_of(site, index, "9/c") == (["success", "failure"], places)
    # Three ingestions, the fault of one place, and the audit that found none in the others.
    assert premis_of(site, index, MD5) == (["success", "success", "success", "failure", "success"], places)


def test_a_search_shows_each_name_with_the_place_of_its_collection(site: Site, tmp_path: Path) -> None:
    record_outcomes(site)
    base = BucketBase.parse(site.bucket, keys=KeyTemplate.COLLECTION)
    ledger = LedgerReader(site.redis, site.prefix, base)
    index = tmp_path / "index.sqlite"
    with contextlib.closing(Index.create(index)) as made:
        made.add([event for entry in ledger.last(9) if (event := event_of(entry))], filled="yes")
    expected = {"4891/a": f"4891/{MD5}", "b": MD5, "9/c": f"9/{MD5}"}

    for at in (None, index):
        found = [search(ledger, word, index=at).contents for word in (*expected, MD5)]

        assert [[(each.name, each.content) for each in contents] for contents in found[:-1]] == [
            [pair] for pair in expected.items()
        ]
        assert {each.name: each.content for each in found[-1]} == expected
        assert {each.s3_url for each in found[-1]} == {place(site, name) for name in expected.values()}


def test_a_confirmation_of_one_collection_says_nothing_about_another(tmp_path: Path, redis_server: str) -> None:
    with DigestS3() as s3:
        s3.buckets |= {"bucket", "other"}
        site = Site(tmp_path, redis_server, s3.endpoint, bucket="bucket")
        bases = {"BUCKET_BASE": "bucket,other/pre"}
        with Daemon(site, {**BY_FOLDER, **bases, "MD5S3STASH_SPOOL_JOBS": "1"}) as daemon:
            daemon.wait_until_started()
            for number, name in enumerate(("1/a", "2/b", "1/c", "2/d", "e"), 1):
                site.drop(name, DATA)
                wait_until(lambda at=number: len(site.log()) == at and not site.files(), name)  # type: ignore[misc]
            assert daemon.terminate() == 0
        puts = sorted(each.target for each in s3.requests if each.method == "PUT" and MD5 in each.target)

    assert puts == sorted(f"/{at}/{name}" for at in ("bucket", "other/pre") for name in (f"1/{MD5}", f"2/{MD5}", MD5))


def test_the_audit_and_the_ledger_are_compared_collection_by_collection(site: Site) -> None:
    names = [f"9/{md5(b'0')}", f"1/{md5(b'1')}", f"1/{md5(b'2')}", md5(b"3")]
    for name, data in zip(names, (b"0", b"1", b"2", b"3"), strict=True):
        site.client.put_object(Bucket=site.bucket, Key=name, Body=data)
    site.client.put_object(Bucket=site.bucket, Key=f"x/y/{md5(b'4')}", Body=b"4")

    plain = run(site, "verify", "--json")
    run(site, "rebuild", **TEMPLATE)
    good = run(site, "verify", "--ledger", **TEMPLATE)
    site.client.delete_object(Bucket=site.bucket, Key=names[0])
    site.client.put_object(Bucket=site.bucket, Key=f"9/{md5(b'5')}", Body=b"5")
    # The ledger has the content in the collection 1.
    site.client.put_object(Bucket=site.bucket, Key=f"2/{md5(b'1')}", Body=b"1")
    bad = run(site, "verify", "--ledger", **TEMPLATE)

    assert sum("foreign-key" in line for line in plain.stdout.splitlines()) == 4
    assert [recorded_place(site, name[-32:]) for name in names] == [place(site, name) for name in names]
    foreign = f"{place(site, 'x/y/' + md5(b'4'))}: its key is not an md5 in lower-case hex after a collection"
    assert good.stdout.splitlines() == [foreign, "5 objects, 5 bytes, 1 fault"]
    assert sorted(bad.stdout.splitlines()[:-1]) == sorted(
        [
            foreign,
            f"{place(site, names[0])}: recorded but not stored",
            f"{place(site, '9/' + md5(b'5'))}: stored but not recorded",
        ]
    )


def test_pictures_made_of_contents_are_neither_faults_nor_recorded(site: Site) -> None:
    made, whole = f"thumbnails/26094/{md5(b'a video')}", f"thumbnails/26094/{md5(b'a picture')}"
    site.client.put_object(Bucket=site.bucket, Key=made, Body=b"its poster")
    site.client.put_object(Bucket=site.bucket, Key=whole, Body=b"a picture")
    site.redis.hset(f"{site.prefix}:hash_cache", whole[-32:], json.dumps([place(site, whole), "image/png", [1, 1]]))
    settings = {**TEMPLATE, "BUCKET_BASE": f"{site.bucket}/thumbnails"}

    strict = run(site, "verify", **settings)
    done = run(site, "verify", "--ledger", "--deep", **settings, DERIVATIVE_PREFIXES="thumbnails/26094/")
    run(site, "rebuild", **settings, DERIVATIVE_PREFIXES="thumbnails/")

    assert strict.stdout.startswith(f"{place(site, made)}: its ETag is ")
    assert (done.returncode, done.stdout) == (0, "2 objects, 19 bytes, 0 faults\n")
    assert list(site.redis.hkeys(f"{site.prefix}:hash_cache")) == [whole[-32:].encode()]


GOOD = {"BUCKET_BASE": "b", "REDIS_URL": "redis://127.0.0.1:1/0"}


def test_folders_are_no_collections_where_keys_have_none() -> None:
    with pytest.raises(SettingsError, match=r"spool.collections is true: set stash.key_template \(KEY_TEMPLATE\)"):
        read_settings({**GOOD, "MD5S3STASH_SPOOL_COLLECTIONS": "true"}, None)


def test_deliveries_are_compared_and_stashed_in_their_collections(site: Site, origin: Origin) -> None:
    far = origin.answer("/far", Reply(body=b"far"))
    bag = MutatedBag(algorithms=("sha512",), payload={"data/a": b"a", "data/far": b"far"})
    bag.change("fetch.txt", f"{far} - data/far\n".encode())
    files = {"early": b"early", "late": b"late"}
    manifest = "".join(f"{hashlib.sha512(data).hexdigest()}  {name}\n" for name, data in files.items()).encode()
    with Daemon(site, {**BY_FOLDER, **OPEN, **ON}) as daemon:
        daemon.wait_until_started()
        # To be read again from its collection: only that has it.
        site.drop("4891/early", files["early"])
        wait_until(lambda: "4891/early" in site.names(), "stashed before its manifest")
        drop_folder(site, "26094/bag", {name: data for name, data in bag.files.items() if name != "data/far"})
        drop_folder(site, "4891", {"late": files["late"], "list.sha512": manifest})
        drop_folder(site, "Box 7", {"late": files["late"], "list.sha512": manifest})
        of_folder = wait_for_receipt(site, "4891")
        wait_until(lambda: far in site.names(), "fetched")
        in_collection, in_none = ended(site, "26094/bag"), ended(site, "Box 7")
        wait_until(lambda: sum("/receipts/" in name for name in site.names()) == 4, "receipts stashed")
        assert daemon.terminate() == 0

    assert in_collection["problems"] == []
    assert {file["state"] for file in in_collection["files"]} == {"right"}
    assert (in_collection["verdict"], of_folder["verdict"], in_none["verdict"]) == (
        "complete",
        "complete",
        "incomplete",
    )
    assert states(of_folder) == {"early": "right", "late": "right"}
    assert states(in_none) == {"early": "missing", "late": "failed"}
    digest = md5(b"far")
    assert [file["s3_url"] for file in in_collection["files"] if file["name"] == "data/far"] == [
        place(site, f"26094/{digest}")
    ]
    assert f"26094/{digest}" in site.objects()
    names = sorted(name.partition(".")[0] for name in site.names() if "/receipts/" in name)
    assert names == ["26094/receipts/bag", "26094/receipts/bag", "4891/receipts/4891", "4891/receipts/4891"]


@pytest.mark.parametrize("prefixes", ["thumbnails", "/thumbnails/", "a b/"])
def test_a_prefix_of_derivatives_ends_with_a_slash(prefixes: str) -> None:
    with pytest.raises(SettingsError, match="prefixes of keys such as thumbnails/ are needed"):
        read_settings({**GOOD, "DERIVATIVE_PREFIXES": prefixes}, None)
