"""Dropped folders with a checksum manifest: each is a delivery, and has one receipt, which is right."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from tests.support import warm
from tests.support.daemon import Daemon, Site
from tests.support.mutated_bags import MutatedBag, mutated_bags
from tests.support.mutated_deliveries import MUTATIONS, ON, mutated, verdict_of_coreutils
from tests.support.origin import Origin, Reply
from tests.support.servers import RcloneS3, wait_until
from tests.support.stores import Keys
from tests.support.url_lists import OPEN

QUICK = {"MD5S3STASH_DELIVERIES_STILL_SECONDS": "1"}


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


@pytest.fixture
def daemon(site: Site) -> Iterator[Daemon]:
    with Daemon(site, ON) as running:
        running.wait_until_started()
        yield running


def md5(data: bytes) -> str:
    return hashlib.md5(data, usedforsecurity=False).hexdigest()


def md5sums(files: Mapping[str, bytes]) -> bytes:
    return "".join(f"{md5(data)}  {name}\n" for name, data in files.items()).encode()


def drop_folder(site: Site, folder: str, files: Mapping[str, bytes]) -> None:
    """Drops a whole folder with one rename."""
    outside = site.directory / f"outside-{folder.replace('/', '-')}"
    for name, data in files.items():
        (outside / name).parent.mkdir(parents=True, exist_ok=True)
        (outside / name).write_bytes(data)
    (site.incoming / folder).parent.mkdir(parents=True, exist_ok=True)
    outside.rename(site.incoming / folder)


def receipts(site: Site, folder: str) -> list[dict[str, Any]]:
    found = sorted((site.spool / "done").glob(f"{folder}.*.receipt.json"))
    return [json.loads(path.read_text()) for path in found]


def wait_for_receipt(site: Site, folder: str) -> dict[str, Any]:
    wait_until(lambda: receipts(site, folder) != [], f"receipt of {folder}")
    [receipt] = receipts(site, folder)
    return receipt


def ended(site: Site, folder: str) -> dict[str, Any]:
    """The receipt of a delivery that an operator closes, once its manifest was read."""
    wait_until(lambda: counts(site, folder) is not None, f"delivery of {folder}")
    with contextlib.closing(Journal(journal_path(site.spool))) as journal:
        journal.ask_to_end(dict(journal.open_folders())[folder])
    return wait_for_receipt(site, folder)


def counts(site: Site, folder: str) -> dict[str, int] | None:
    """State -> number of names of an open delivery; None if the folder does not have one."""
    if not os.path.exists(journal_path(site.spool)):
        return None
    with contextlib.closing(Journal(journal_path(site.spool))) as journal:
        number = dict(journal.open_folders()).get(folder)
        return None if number is None else journal.counts(number)


def close(site: Site, folder: str) -> dict[str, Any]:
    """Ends the delivery once everything that was dropped is settled."""
    close_all(site)
    return wait_for_receipt(site, folder)


def close_all(site: Site) -> None:
    wait_until(lambda: site.files("incoming", "active", "deferred") == [], "all settled")
    journal = Journal(journal_path(site.spool))
    for delivery in journal.unpublished():
        journal.ask_to_end(delivery.number)
    journal.close()


def states(receipt: Mapping[str, Any]) -> dict[str, str]:
    return {file["name"]: file["state"] for file in receipt["files"]}


def test_a_folder_with_its_manifest_ends_in_a_receipt_that_is_stashed_too(site: Site, daemon: Daemon) -> None:
    files = {"1.tif": b"one", "sub/2.tif": b"two"}
    drop_folder(site, "vendor/batch", files | {"checksums.md5": md5sums(files)})

    receipt = wait_for_receipt(site, "vendor/batch")

    assert (receipt["verdict"], receipt["ended_by"], receipt["folder"]) == ("complete", "all here", "vendor/batch")
    assert states(receipt) == {"1.tif": "right", "sub/2.tif": "right"}
    assert receipt["counts"]["right"] == 2
    assert receipt["bytes"] == {"right": 6}
    assert receipt["sender"]
    [manifest] = receipt["manifests"]
    assert (manifest["name"], manifest["lines"], manifest["malformed"]) == ("checksums.md5", 2, 0)
    one = receipt["files"][0]
    assert (one["md5"], one["size_bytes"], one["s3_url"]) == (md5(b"one"), 3, f"s3://{site.bucket}/{md5(b'one')}")
    # The manifest is stashed as any file, and so are both forms of the receipt.
    wait_until(lambda: sum(name.startswith("receipts/vendor/batch.") for name in site.names()) == 2, "receipts stashed")
    assert "vendor/batch/checksums.md5" in site.names()
    [path] = (site.spool / "done").glob("vendor/batch.*.receipt.json")
    assert path.read_bytes() in site.objects().values()


def test_a_file_with_another_digest_fails_and_is_not_stored(site: Site, daemon: Daemon) -> None:
    files = {"good.tif": b"good", "bad.tif": b"as it was", "missing.tif": b"missing"}
    manifest = md5sums(files)
    sent = {"good.tif": b"good", "bad.tif": b"as it came", "extra.tif": b"extra"}
    site.drop("batch/00.md5", manifest)
    wait_until(lambda: "batch/00.md5" in site.names(), "manifest stashed")
    for name, data in sent.items():
        site.drop(f"batch/{name}", data)

    receipt = close(site, "batch")

    assert receipt["verdict"] == "incomplete"
    assert states(receipt) == {
        "good.tif": "right",
        "bad.tif": "wrong",
        "missing.tif": "missing",
        "extra.tif": "unlisted",
    }
    assert md5(b"as it came") not in site.objects()
    assert (site.spool / "failed" / "batch" / "bad.tif").read_bytes() == b"as it came"
    report = json.loads((site.spool / "failed" / "batch" / "bad.tif.error.json").read_text())
    assert report["error"] == "ListedDigestDiffers"
    assert md5(b"as it was") in report["reason"]
    # A file sent now under the same name is compared with nothing.
    assert report["reason"].endswith("nothing was stored; have the file sent again, under the same name")
    [reason] = [file["reason"] for file in receipt["files"] if file["state"] == "wrong"]
    advice = "have the file sent with a manifest, as a new delivery"
    assert reason.endswith(f"nothing was stored; {advice}")
    [page] = (site.spool / "done").glob("batch.*.receipt.html")
    assert advice in page.read_text()
    assert "under the same name" not in page.read_text()


def test_other_algorithms_are_computed_of_small_and_large_files(site: Site, daemon: Daemon) -> None:
    small, large, bad = b"small", bytes(9 * 1024 * 1024), bytes(9 * 1024 * 1024 + 1)
    sent = {"small": small, "large": large}
    sha1 = "".join(f"{hashlib.sha1(data).hexdigest()} *{name}\n" for name, data in sent.items())
    sha512 = "".join(f"SHA512 ({name}) = {hashlib.sha512(data).hexdigest()}\n" for name, data in sent.items())
    drop_folder(site, "batch", {"SHA1SUMS": sha1.encode(), "x.sha512": sha512.encode()})
    wait_until(lambda: {"batch/SHA1SUMS", "batch/x.sha512"} <= set(site.names()), "manifests stashed")
    site.drop("batch/small", b"other")
    site.drop("batch/large", bad)
    wait_until(lambda: len(site.files("failed")) == 4, "both failed")

    # Sent again, under the same names.
    for name, data in sent.items():
        site.drop(f"batch/{name}", data)

    receipt = wait_for_receipt(site, "batch")
    [page] = (site.spool / "done").glob("batch.*.receipt.html")
    # What the sender listed and where it is, beside the md5.
    for wanted in (
        f"<code>md5 {md5(small)}</code><br>",
        f"<code>sha1 {hashlib.sha1(small).hexdigest()}</code> listed<br>",
        f"<code>sha512 {hashlib.sha512(large).hexdigest()}</code> listed<br>",
        f"<code>s3://{site.bucket}/{md5(large)}</code></td>",
    ):
        assert wanted in page.read_text()
    assert receipt["verdict"] == "complete"
    assert [file["drops"] for file in receipt["files"]] == [2, 2]
    assert [entry["sha512"] for entry in site.log() if entry["name"] == "batch/large" and "md5" in entry] == [
        hashlib.sha512(large).hexdigest()
    ]


@pytest.mark.parametrize("algorithm", ["md5", "sha256", "sha512"])
def test_files_that_come_before_their_manifest_are_judged_all_the_same(
    site: Site, daemon: Daemon, algorithm: str
) -> None:
    site.drop("batch/a", b"a")
    site.drop("batch/b", b"b, but changed")
    site.drop("batch/unlisted", b"unlisted")
    site.drop("elsewhere/a", b"a")
    wait_until(lambda: len(site.names()) == 4 and site.files() == [], "stashed")

    listed = {name: hashlib.new(algorithm, name.encode()).hexdigest() for name in ("a", "b", "c")}
    site.drop(f"batch/zz.{algorithm}", "".join(f"{digest}  {name}\n" for name, digest in listed.items()).encode())
    wait_until(lambda: f"batch/zz.{algorithm}" in site.names(), "manifest stashed")
    site.drop("batch/b", b"b")
    site.drop("batch/c", b"c")

    receipt = wait_for_receipt(site, "batch")
    assert states(receipt) == {"a": "right", "b": "right", "c": "right", "unlisted": "unlisted"}
    assert receipt["verdict"] == "complete"


def test_a_wrong_file_that_came_before_its_manifest_is_told(site: Site, daemon: Daemon) -> None:
    site.drop("batch/a", b"a, but changed")
    wait_until(lambda: "batch/a" in site.names() and site.files() == [], "stashed")
    site.drop("batch/zz.sha512", f"{hashlib.sha512(b'a').hexdigest()}  a\n".encode())

    receipt = close(site, "batch")

    assert receipt["verdict"] == "incomplete"
    [file] = receipt["files"]
    assert file["state"] == "wrong"
    assert "stored before its manifest came" in file["reason"]


def test_a_file_of_an_earlier_drop_is_told_apart_from_a_missing_one(site: Site, daemon: Daemon) -> None:
    files = {"a": b"a", "b": b"b", "c": b"c"}
    drop_folder(site, "batch", {"a": b"a", "b": b"another b", "first.md5": md5sums({"a": b"a", "b": b"another b"})})
    wait_for_receipt(site, "batch")
    for path in (site.spool / "done").glob("batch.*"):
        path.unlink()

    site.drop("batch/second.md5", md5sums(files))

    receipt = close(site, "batch")
    assert states(receipt) == {"a": "earlier", "b": "missing", "c": "missing"}
    assert [manifest["name"] for manifest in receipt["manifests"]] == ["second.md5"]


def test_an_incomplete_delivery_ends_when_it_has_been_still(site: Site) -> None:
    with Daemon(site, QUICK):
        site.drop("batch/x.md5", md5sums({"a": b"a", "b": b"b"}))

        receipt = wait_for_receipt(site, "batch")

    assert (receipt["verdict"], receipt["ended_by"]) == ("incomplete", "still")
    assert states(receipt) == {"a": "missing", "b": "missing"}


def test_without_a_manifest_nothing_is_a_delivery(site: Site, daemon: Daemon) -> None:
    site.drop("batch/photo.tif", b"photo")
    site.drop("batch/photo.tif.md5", md5(b"photo").encode())
    site.drop("loose.md5", md5sums({"photo.tif": b"other"}))
    wait_until(lambda: len(site.names()) == 3 and site.files() == [], "stashed")

    assert daemon.terminate() == 0
    assert "manifest read" not in daemon.output()
    assert all(set(entry) == {"name", "outcome", "md5", "mime_type", "size_bytes"} for entry in site.log())


def test_a_listed_name_that_leads_out_is_refused(site: Site, daemon: Daemon) -> None:
    site.drop("other/secret", b"secret")
    drop_folder(site, "batch", {"a": b"a", "x.md5": md5sums({"a": b"a", "../other/secret": b"secret"})})

    receipt = close(site, "batch")

    assert states(receipt) == {"a": "right", "../other/secret": "refused"}
    assert receipt["verdict"] == "incomplete"


def test_a_manifest_that_lists_itself_is_stored_and_says_that_this_line_cannot_be_right(
    site: Site, daemon: Daemon
) -> None:
    # As `md5sum * >x.md5` writes it the second time; `md5sum --check` says FAILED, whatever another manifest lists.
    manifest = md5sums({"a": b"a", "x.md5": b""})
    drop_folder(site, "batch", {"a": b"a", "x.md5": manifest, "y.md5": md5sums({"x.md5": manifest})})

    receipt = close(site, "batch")

    assert receipt["verdict"] == "incomplete"
    assert states(receipt) == {"./x.md5": "refused", "a": "right", "x.md5": "right"}
    [reason] = [file["reason"] for file in receipt["files"] if file["state"] == "refused"]
    assert reason == "a manifest cannot list itself: have it sent again without its line 2"
    assert md5(manifest) in site.objects()


def test_each_of_many_mutated_deliveries_has_the_verdict_of_md5sum(site: Site, tmp_path: Path) -> None:
    wanted = {}
    with Daemon(site, ON) as daemon:
        daemon.wait_until_started()
        for seed in range(len(MUTATIONS)):
            delivery = mutated(seed, ("md5", "sha256", "sha512")[seed % 3])
            delivery.files.pop("#hash", None)
            folder, manifest = tmp_path / f"mutated-{seed}", tmp_path / f"{seed}.manifest"
            folder.mkdir()
            delivery.write(folder)
            manifest.write_bytes(delivery.manifest)
            wanted[seed] = verdict_of_coreutils(delivery, folder, manifest)
            shutil.move(manifest, folder / f"sums.{delivery.algorithm}")
            folder.rename(site.incoming / folder.name)
        close_all(site)
        wait_until(lambda: len(list((site.spool / "done").glob("*.receipt.json"))) == len(wanted), "receipts")
        assert daemon.terminate() == 0

    found = {
        seed: [receipt["verdict"] == "complete" for receipt in receipts(site, f"mutated-{seed}")] for seed in wanted
    }
    assert found == {seed: [verdict] for seed, verdict in wanted.items()}


def test_each_of_many_mutated_bags_has_the_verdict_of_bagit(
    tmp_path: Path, redis_server: str, rclone_s3: RcloneS3
) -> None:
    site = Site(tmp_path, redis_server, rclone_s3.endpoint, keys=Keys.of(rclone_s3))
    bags = mutated_bags()
    site.incoming.mkdir(parents=True)
    for name, (bag, _) in bags.items():
        outside = tmp_path / "bags" / name
        bag.write(outside)
        outside.rename(site.incoming / name)
    with Daemon(site, ON) as daemon:
        close_all(site)
        wait_until(lambda: len(list((site.spool / "done").glob("*.receipt.json"))) >= len(bags), "receipts", 180)
        assert daemon.terminate() == 0

    found = {name: [receipt["verdict"] == "complete" for receipt in receipts(site, name)] for name in bags}
    assert {name: verdict for name, verdict in found.items() if verdict != [bags[name][1]]} == {}
    [receipt] = receipts(site, "valid 1.0")
    assert receipt["bag"] == {
        "version": "1.0",
        "info": {"Source-Organization": "A library", "Payload-Oxum": "2.3"},
        "problems": [],
    }
    [receipt] = receipts(site, "extra")
    assert receipt["bag"]["problems"] == [
        "'data/extra' is in the payload, but in no manifest",
        "Payload-Oxum is 2.3, but 4 files with 7 bytes are here and not wrong",
    ]


def test_what_a_bag_has_in_fetch_txt_is_fetched_and_judged(site: Site) -> None:
    payload = {name: name.encode() for name in ("data/here", "data/far", "data/changed", "data/gone", "data/pw")}
    with Origin() as origin, Daemon(site, ON | OPEN):
        far = origin.answer("/far", Reply(body=b"data/far"))
        changed = origin.answer("/changed", Reply(body=b"another content"))
        urls = {far: "data/far", changed: "data/changed", origin.url("/gone"): "data/gone", "ftp://h/x": "data/here"}
        urls["file:///etc/passwd"] = "data/pw"
        bag = MutatedBag(algorithms=("sha512",), payload=payload)
        bag.change("fetch.txt", "".join(f"{url} - {name}\n" for url, name in urls.items()).encode())
        for name in ("data/far", "data/changed", "data/gone", "data/pw"):
            del bag.files[name]
        drop_folder(site, "bag", bag.files)
        wait_until(lambda: any((site.spool / "done" / "fetch").glob("*.urls.tsv")), "list of URLs finished")

        receipt = close(site, "bag")

    assert {name: state for name, state in states(receipt).items() if name.startswith("data/")} == {
        "data/here": "right",
        "data/far": "right",
        "data/changed": "wrong",
        "data/gone": "failed",
        "data/pw": "missing",
    }
    assert receipt["bag"]["problems"] == [
        "Payload-Oxum is 45.5, but 2 files with 17 bytes are here and not wrong",
        "'data/pw' is missing: fetch.txt has it at 'file:///etc/passwd', and only http and https are fetched",
    ]
    [changed_file] = [file for file in receipt["files"] if file["name"] == "data/changed"]
    assert changed_file["reason"].endswith("is listed; it was fetched, and is stored under its own md5")


def test_a_fetch_txt_does_not_lead_into_this_network(site: Site) -> None:
    with Origin() as origin, Daemon(site, ON):
        url = origin.answer("/far", Reply(body=b"far"))
        bag = MutatedBag(payload={"data/far": b"far"})
        bag.change("fetch.txt", f"{url} 3 data/far\n".encode())
        del bag.files["data/far"]
        drop_folder(site, "bag", bag.files)
        wait_until(lambda: any((site.spool / "done" / "fetch").glob("*.urls.tsv")), "list of URLs finished")

        receipt = close(site, "bag")
        assert origin.requests == []

    assert states(receipt)["data/far"] == "failed"
    assert receipt["verdict"] == "incomplete"


def test_an_operator_lists_shows_and_closes_a_delivery(site: Site, daemon: Daemon) -> None:
    assert ctl(site, "list") == ""
    site.drop("batch/x.md5", md5sums({"a": b"a", "b": b"b"}))
    site.drop("batch/a", b"a")
    wait_until(lambda: "1 missing, 1 right" in ctl(site, "list"), "a is right")
    assert "missing   b" in ctl(site, "show", "batch")

    ctl(site, "close", "batch")

    receipt = wait_for_receipt(site, "batch")
    assert (receipt["verdict"], receipt["ended_by"]) == ("incomplete", "asked")
    wait_until(lambda: "receipt /" in ctl(site, "show", receipt["delivery"]), "published")
    [page] = (site.spool / "done").glob("batch.*.receipt.html")
    assert f"receipt {page}\n" in ctl(site, "show", receipt["delivery"])
    shown = json.loads(ctl(site, "show", "--json", "batch"))
    assert [(file["name"], file["state"]) for file in shown["files"]] == [("b", "missing")]
    assert (shown["verdict"], shown["counts"]["missing"]) == ("incomplete", 1)
    assert Path(shown["receipt"]).exists()
    ctl(site, "close", "batch", status=1)
    ctl(site, "show", "nowhere", status=1)
    ctl(site, "show", status=2)


def ctl(site: Site, *arguments: str, status: int = 0, command: str = "delivery") -> str:
    """What the command prints, its errors included."""
    environment = {**os.environ, **site.environment(), **ON}
    done = warm.run(["md5s3stash_daemon.ctl.main", command, *arguments], environment)
    assert done.returncode == status, done.stderr
    return os.fsdecode(done.stdout + done.stderr)


def test_a_page_of_the_receipt_shows_hostile_names_as_text(site: Site, daemon: Daemon) -> None:
    name = os.fsdecode(b"<script>\xff\xe2\x80\xae.tif")
    drop_folder(site, "batch", {"x.md5": md5(b"x").encode() + b"  " + os.fsencode(name) + b"\n"})

    close(site, "batch")

    [page] = (site.spool / "done").glob("batch.*.receipt.html")
    text = page.read_text("utf-8")
    assert "&lt;script&gt;\\xff\\u202e.tif" in text
    assert "<script>" not in text
    assert "Missing: 1" in text
