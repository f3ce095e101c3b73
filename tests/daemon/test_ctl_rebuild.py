"""`md5s3stashctl rebuild` restores records lost by Redis from the buckets and from an export, on real servers."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import time
from pathlib import Path

import pytest

from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.ledger.reader import LedgerReader, Mapped
from md5s3stash_daemon.ledger.rebuild import MAX_LINE_BYTES
from md5s3stash_daemon.ledger.restore import Restored, Restorer, completed
from md5s3stash_daemon.spool.spool import Spool
from tests.daemon.test_ctl import ODD_NAMES, PROGRAM, run
from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.digest_s3 import DigestS3
from tests.support.servers import RcloneS3, free_port, wait_until
from tests.support.shards import assert_lists_at_once
from tests.support.stores import Keys


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    site = Site(tmp_path, redis_server, s3_server)
    Spool(site.spool).create()
    return site


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def put(site: Site, data: bytes, content_type: str = "text/plain", key: str = "", bucket: str = "") -> str:
    key = key or md5(data)
    site.client.put_object(Bucket=bucket or site.bucket, Key=key, Body=data, ContentType=content_type)
    return key


def lose_redis(site: Site) -> None:
    """Deletes the keys of this test, like `flushall`."""
    for key in site.redis.keys(f"{site.prefix}:*"):
        site.redis.delete(key)


def hash_cache(site: Site) -> dict[str, object]:
    found = site.redis.hgetall(f"{site.prefix}:hash_cache")
    return {key.decode(): json.loads(value) for key, value in found.items()}  # type: ignore[union-attr]


def record(site: Site, key: str, *entry: object) -> None:
    site.redis.hset(f"{site.prefix}:hash_cache", key, json.dumps(entry))


def test_export_flush_and_both_kinds_of_rebuilding_give_back_what_a_lookup_tells(site: Site) -> None:
    names = [os.fsdecode(name) for name in ODD_NAMES] + ["album/größe.txt"]
    with Daemon(site) as daemon:
        daemon.wait_until_started()
        for number, name in enumerate(names):
            (site.directory / "new").write_bytes(b"%d" % number)
            (site.incoming / name).parent.mkdir(exist_ok=True)
            (site.directory / "new").rename(site.incoming / name)
        wait_until(lambda: len(site.names()) == len(names), "all stashed")
        assert daemon.terminate() == 0
    # A URL stashed by the command.
    url, its_md5 = "https://example.org/x.txt", md5(b"0")
    site.redis.hset(f"{site.prefix}:url_cache", url, json.dumps({"md5": its_md5, "If-None-Match": '"x"'}))
    asked = [*names[:3], "album/größe.txt", url, its_md5]
    before = [run(site, "lookup", "--json", "--", word).stdout for word in asked[:-1]]
    digest_before = sorted(json.loads(run(site, "lookup", "--json", its_md5).stdout)["names"])
    export = site.directory / "export.jsonl"
    export.write_text(run(site, "export", "--format", "jsonl").stdout)
    cache = hash_cache(site)

    lose_redis(site)
    from_buckets = run(site, "rebuild")
    from_export = run(site, "rebuild", "--from-export", str(export))

    count = len(names)
    assert (from_buckets.returncode, from_buckets.stderr) == (0, "")
    assert from_buckets.stdout == f"{count} objects, {count} contents recorded, 0 known already, 0 left out\n"
    assert (from_export.returncode, from_export.stderr) == (0, "")
    assert from_export.stdout == (
        f"{count + 1} lines, {count} contents recorded, {count + 1} names recorded, 0 known already, 0 left out\n"
    )
    assert hash_cache(site) == cache
    assert [run(site, "lookup", "--json", "--", word).stdout for word in asked[:-1]] == before
    found = json.loads(run(site, "lookup", "--json", its_md5).stdout)["names"]
    assert sorted(found) == sorted({*digest_before, url})


def test_a_list_alone_records_places_and_says_null_for_what_it_cannot_know(site: Site) -> None:
    key = put(site, b"words")

    assert run(site, "rebuild").returncode == 0

    assert hash_cache(site) == {key: [f"s3://{site.bucket}/{key}", None, None]}
    told = run(site, "lookup", key).stdout.split()
    assert told == ["md5", key, "s3_url", f"s3://{site.bucket}/{key}"]
    [line] = [json.loads(run(site, "lookup", "--json", key).stdout)]
    assert (line["mime_type"], line["width"]) == (None, None)


def test_an_entry_with_gaps_is_none_to_the_stash_which_fills_them(site: Site) -> None:
    picture = (Path(__file__).parents[2] / "samples/test-card.png").read_bytes()
    key = put(site, picture, "image/png")
    run(site, "rebuild", "--head")
    assert hash_cache(site) == {key: [f"s3://{site.bucket}/{key}", "image/png", None]}
    (site.directory / "picture").write_bytes(picture)

    command = ["md5s3stash", "--json", "-b", site.bucket, str(site.directory / "picture")]
    done = warm.run(command, {**os.environ, **site.environment()})

    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert (report["mime_type"], report["md5"]) == ("image/png", key)
    assert hash_cache(site) == {key: [f"s3://{site.bucket}/{key}", "image/png", [800, 600]]}


def test_head_asks_for_types_where_none_is_recorded(site: Site) -> None:
    text = put(site, b"text")
    untyped = put(site, b"untyped", "binary/octet-stream")
    known = put(site, b"known")
    record(site, known, f"s3://{site.bucket}/{known}", "text/x-known", [0, 0])

    done = run(site, "rebuild", "--head")

    assert done.stdout == "3 objects, 2 contents recorded, 1 known already, 0 left out\n"
    assert hash_cache(site) == {
        text: [f"s3://{site.bucket}/{text}", "text/plain", [0, 0]],
        untyped: [f"s3://{site.bucket}/{untyped}", None, None],
        known: [f"s3://{site.bucket}/{known}", "text/x-known", [0, 0]],
    }
    # A second run only asks again about the object without a type.
    assert run(site, "rebuild", "--head").stdout == "3 objects, 0 contents recorded, 3 known already, 0 left out\n"


def test_what_is_not_what_its_key_says_is_left_out_and_told(site: Site) -> None:
    good = put(site, b"good")
    put(site, b"other bytes", key=md5(b"expected"))
    put(site, b"x", key="notes.txt")

    done = run(site, "rebuild")

    assert done.returncode == 1
    assert list(hash_cache(site)) == [good]
    assert done.stdout == "3 objects, 1 contents recorded, 0 known already, 2 left out\n"
    assert sorted(line.partition(": not recorded: ")[2] for line in done.stderr.splitlines()) == [
        f"its ETag is {md5(b'other bytes')}",
        "its key is not an md5 in lower-case hex",
    ]


def test_36_buckets_are_read_and_a_missing_one_is_told(site: Site) -> None:
    base = BucketBase.parse(site.bucket, "multibucket")
    for bucket in base.buckets()[:-1]:
        site.client.create_bucket(Bucket=bucket)
    contents = [b"%d" % number for number in range(60)]
    stored = [data for data in contents if base.address(md5(data)).bucket != base.buckets()[-1]]
    for data in stored:
        put(site, data, bucket=base.address(md5(data)).bucket)

    done = run(site, "rebuild", "--jobs", "36", "--json", BUCKET_SCHEME="multibucket")

    assert done.returncode == 1
    assert "NoSuchBucket" in done.stderr
    nothing = {"names": 0, "ids": 0, "known": 0, "faults": 0}
    count = len(stored)
    assert json.loads(done.stdout) == {"objects": count, "contents": count, **nothing, "unread_buckets": 1}
    assert hash_cache(site) == {md5(data): [base.address(md5(data)).s3_url, None, None] for data in stored}


def test_only_the_first_base_is_recorded_and_what_lies_below_it_of_others_is_not_its(site: Site) -> None:
    mine = put(site, b"mine")
    put(site, b"theirs", key=f"pre/{md5(b'theirs')}")

    done = run(site, "rebuild", BUCKET_BASE=f"{site.bucket},{site.bucket}/pre")

    assert (done.returncode, list(hash_cache(site))) == (0, [mine])


def test_buckets_are_listed_side_by_side(tmp_path: Path, redis_server: str) -> None:
    with DigestS3() as server:
        site = Site(tmp_path, redis_server, server.endpoint)

        assert_lists_at_once([*PROGRAM, "rebuild", "--jobs", "5"], 5, server, site)


def test_rclones_server_is_rebuilt_from_by_pages(tmp_path: Path, redis_server: str, rclone_s3: RcloneS3) -> None:
    site = Site(tmp_path, redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
    for number in range(1001):
        # Its objects are files, which are faster to create than to put.
        (rclone_s3.directory / site.bucket / md5(b"%d" % number)).write_bytes(b"%d" % number)

    assert run(site, "rebuild", "--dry-run").stdout == (
        "1001 objects, 1001 contents to be recorded, 0 known already, 0 left out\n"
    )
    assert hash_cache(site) == {}
    assert run(site, "rebuild").returncode == 0
    assert len(hash_cache(site)) == 1001


def test_an_import_keeps_what_was_recorded_since_and_fills_gaps(site: Site) -> None:
    new, old = md5(b"new"), md5(b"old")
    export = site.directory / "export.jsonl"
    lines = [
        {"name": "a", "md5": old, "s3_url": f"s3://b/{old}", "mime_type": "text/plain", "width": 0, "height": 0},
        {"name": "b", "md5": old, "s3_url": f"s3://b/{old}", "mime_type": "text/plain", "width": 0, "height": 0},
        {"name": "c", "md5": md5(b"c"), "s3_url": None, "mime_type": None, "width": None, "height": None},
    ]
    export.write_text("".join(json.dumps(line) + "\n" for line in lines))
    site.redis.hset(f"{site.prefix}:names", "a", new)
    record(site, old, f"s3://{site.bucket}/{old}", None, None)

    rehearsed = run(site, "rebuild", "--from-export", str(export), "--dry-run")
    assert site.names() == {"a": new}
    done = run(site, "rebuild", "--from-export", str(export))

    assert done.stdout == "3 lines, 1 contents recorded, 2 names recorded, 1 known already, 0 left out\n"
    assert rehearsed.stdout == done.stdout.replace("recorded", "to be recorded")
    assert site.names() == {"a": new, "b": old, "c": md5(b"c")}
    assert hash_cache(site) == {old: [f"s3://{site.bucket}/{old}", "text/plain", [0, 0]]}


def test_bad_lines_are_told_with_their_numbers_and_the_others_are_recorded(site: Site) -> None:
    good = json.dumps({"name": "good", "md5": md5(b"x")})
    lines = [
        good.encode(),
        b"no json",
        b"[1]",
        json.dumps({"name": "x", "md5": "short"}).encode(),
        json.dumps({"name": "", "md5": md5(b"x")}).encode(),
        json.dumps({"name": "half \ud800", "md5": md5(b"x")}).encode(),
        b'{"name": "' + b"x" * 2 * MAX_LINE_BYTES + b'"}',
        good.replace("good", "last").encode(),
        good.encode()[:20],
    ]
    export = site.directory / "export.jsonl"
    export.write_bytes(b"\n".join(lines))

    done = run(site, "rebuild", "--from-export", str(export))

    assert done.returncode == 1
    assert site.names() == {"good": md5(b"x"), "last": md5(b"x")}
    assert [line.partition("line ")[2] for line in done.stderr.splitlines()] == [
        "2: not valid JSON",
        "3: not a JSON object",
        "4: the md5 is not an md5",
        "5: the name is not a file name or URL",
        "6: the name is not a file name or URL",
        "7: the line is too long",
        "9: not valid JSON: the export is cut off",
    ]


def test_a_file_that_is_no_export_is_noticed_soon(site: Site) -> None:
    export = site.directory / "picture"
    export.write_bytes(b"\xff\x00\n" * 10_000)

    done = run(site, "rebuild", "--from-export", str(export))

    assert done.returncode == 1
    assert len(done.stderr.splitlines()) == 101
    assert "is it an export" in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    ("arguments", "status", "told"),
    [
        (("--from-export", "/nowhere/x"), 1, "No such file"),
        (("--from-export", "x", "--head"), 2, "--from-export"),
        (("--jobs", "0"), 2, "1 to 36"),
    ],
)
def test_what_cannot_be_done_is_one_line(site: Site, arguments: tuple[str, ...], status: int, told: str) -> None:
    done = run(site, "rebuild", *arguments)

    assert done.returncode == status
    [line] = done.stderr.splitlines()
    assert told in line


def test_without_redis_it_ends_with_one_line(site: Site) -> None:
    put(site, b"x")

    done = run(site, "rebuild", REDIS_URL=f"redis://127.0.0.1:{free_port()}/0")

    assert done.returncode == 1
    [line] = done.stderr.splitlines()
    assert "Redis does not answer" in line


def test_what_somebody_recorded_between_look_and_write_stays(site: Site) -> None:
    restorer = Restorer(site.redis, site.prefix)
    key = md5(b"x")

    class Racing(Restorer):
        def _entries(self, md5s: object) -> dict[str, bytes]:
            record(site, key, "s3://newer", "text/plain", [0, 0])
            return {}

    assert Racing(site.redis, site.prefix).add([Mapped("", key, "s3://older")]) == Restored(0, 0)
    assert hash_cache(site) == {key: ["s3://newer", "text/plain", [0, 0]]}
    assert restorer.add([Mapped("", key, "s3://older")]) == Restored(0, 0)


def test_gaps_are_filled_and_nothing_else_is_changed() -> None:
    place, whole = Mapped("", "m", "s3://a"), Mapped("n", "m", "s3://b", "image/png", 1, 2)

    assert completed(None, whole) == Mapped("", "m", "s3://b", "image/png", 1, 2)
    assert completed(place, whole) == Mapped("", "m", "s3://a", "image/png", 1, 2)
    assert completed(whole, place) == whole


def test_a_hundred_thousand_lines_are_imported_in_little_memory(site: Site) -> None:
    export = site.directory / "export.jsonl"
    with open(export, "w") as file:
        for number in range(100_000):
            key = f"{number:032x}"
            file.write(json.dumps({"name": f"name-{number}", "md5": key, "s3_url": f"s3://b/{key}"}) + "\n")
    begun = time.monotonic()

    done = subprocess.run(
        ["/usr/bin/env", *PROGRAM, "rebuild", "--from-export", str(export)],
        env={**os.environ, **site.environment()},
        capture_output=True,
        check=True,
    )

    assert b"100000 names recorded" in done.stdout
    assert time.monotonic() - begun < 60
    assert LedgerReader(site.redis, site.prefix).sizes()["contents"] == 100_000
