"""Deliveries with names and manifests that are easily taken for something else: what the receipt says of them is true.

All share one daemon; each has a folder of its own.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import time
import unicodedata
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash_daemon.deliveries.intake import DeliveryIntake
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.spool.entry import Entry
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.web.deliveries import shown_deliveries
from tests.daemon.test_deliveries import (
    counts,
    ctl,
    drop_folder,
    ended,
    md5,
    md5sums,
    receipts,
    states,
    wait_for_receipt,
)
from tests.support.daemon import Daemon, Site
from tests.support.mutated_bags import MutatedBag
from tests.support.mutated_deliveries import ON
from tests.support.servers import wait_until

LIST = b"http://127.0.0.1:9/picture.tif\n"


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path_factory.mktemp("site"), redis_server, s3_server)


@pytest.fixture(scope="module")
def daemon(site: Site) -> Iterator[Daemon]:
    with Daemon(site, ON) as running:
        running.wait_until_started()
        yield running


def reasons(receipt: dict[str, object]) -> dict[str, str]:
    return {file["name"]: file.get("reason", "") for file in receipt["files"]}  # type: ignore[attr-defined]


def page_of(site: Site, folder: str) -> str:
    [page] = (site.spool / "done").glob(f"{folder}.*.receipt.html")
    return page.read_text("utf-8")


def test_lists_of_urls_in_a_delivery_are_files_as_any_other(site: Site, daemon: Daemon) -> None:
    files = {"0.urls": LIST, "a.tif": b"a"}
    drop_folder(site, "lists", files | {"sub/other.urls": LIST + b"#", "x.md5": md5sums(files)})

    receipt = wait_for_receipt(site, "lists")

    assert states(receipt) == {"0.urls": "right", "a.tif": "right", "sub/other.urls": "unlisted"}
    assert site.objects()[md5(LIST)] == LIST
    assert not list((site.spool / "done").glob("lists/**/*.urls.tsv"))


def test_a_list_that_came_before_its_manifest_is_missing_with_the_reason(site: Site, daemon: Daemon) -> None:
    site.drop("early/a.urls", b"# a list without URLs\n")
    wait_until(lambda: (site.spool / "done" / "early" / "a.urls.tsv").exists(), "list finished")
    site.drop("early/x.md5", md5sums({"a.urls": LIST}))

    receipt = ended(site, "early")

    assert states(receipt) == {"a.urls": "missing"}
    assert "taken as a list of URLs (report done/early/a.urls.tsv)" in reasons(receipt)["a.urls"]


@pytest.fixture
def spool(tmp_path: Path) -> Spool:
    spool = Spool(tmp_path)
    spool.create()
    return spool


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[Journal]:
    (tmp_path / "deliveries").mkdir()
    with contextlib.closing(Journal(journal_path(tmp_path))) as journal:
        yield journal


@pytest.mark.parametrize("state", ["incoming/batch", "deferred/1.1.9999999999/batch"])
def test_a_list_is_a_file_while_a_manifest_of_its_folder_waits(spool: Spool, journal: Journal, state: str) -> None:
    directory = spool.directory
    intake = DeliveryIntake(spool, journal)
    entry = Entry("batch/sub/a.urls", "/unused", "1")
    (directory / state).mkdir(parents=True)
    (directory / state / "a.urls.md5").write_text(md5(LIST))
    assert not intake.keeps(entry)

    (directory / state / "x.md5").write_bytes(md5sums({"sub/a.urls": LIST}))

    intake.with_listed([])
    assert intake.keeps(entry)
    assert not intake.keeps(entry._replace(name="elsewhere/a.urls"))
    assert not intake.keeps(entry._replace(name="a.urls"))


def test_a_manifest_that_is_being_written_is_read_before_it_is_stashed(spool: Spool, journal: Journal) -> None:
    directory = spool.directory
    intake = DeliveryIntake(spool, journal)
    path = directory / "active" / "1.0" / "batch" / "x.md5"
    path.parent.mkdir(parents=True)
    path.write_bytes(md5sums({"a": b"a"}))
    with path.open("r+b"):
        assert intake.with_listed([Entry("batch/x.md5", str(path), "1")]) == []

    [entry] = spool.entries("deferred")

    assert entry.name == "batch/x.md5"
    assert intake.with_listed([entry]) == [entry]
    assert list(intake.open) == ["batch"]


def test_a_file_has_the_digests_of_each_delivery_that_it_is_in(spool: Spool, journal: Journal) -> None:
    box = spool.directory / "active" / "1.0"
    (box / "batch" / "sub").mkdir(parents=True)
    (box / "batch" / "x.md5").write_bytes(md5sums({"a": b"a", "sub/b": b"b"}))
    (box / "batch" / "sub" / "y.sha1").write_text(f"{'0' * 40}  b\n")
    names = ["batch/x.md5", "batch/sub/y.sha1", "batch/a", "batch/sub/b", "batch/sub/c", "elsewhere/a", "a"]

    found = DeliveryIntake(spool, journal).with_listed([Entry(name, str(box / name), "1") for name in names])

    assert [entry.name for entry in found] == names
    assert {entry.name: entry.listed for entry in found if entry.listed} == {
        "batch/a": (("md5", md5(b"a")),),
        "batch/sub/b": (("md5", md5(b"b")), ("sha1", "0" * 40)),
    }


def test_a_name_with_very_many_digests_hides_no_other(journal: Journal) -> None:
    line = ("photo.tif", md5(b"photo"))
    with journal.transaction():
        journal.list_names(1, "md5", [line, *(("many.tif", f"{number:032x}") for number in range(5000)), line], "x.md5")

    listed = journal.listed_of(1, ["many.tif", "photo.tif", "other.tif"])

    assert listed["photo.tif"] == [("md5", md5(b"photo"), 2)]
    assert {name: len(digests) for name, digests in listed.items()} == {"many.tif": 32, "photo.tif": 1}


def test_a_retried_wrong_file_never_replaces_the_right_one(site: Site, daemon: Daemon) -> None:
    site.drop("retried/x.md5", md5sums({"a": b"right", "b": b"b"}))
    wait_until(lambda: "retried/x.md5" in site.names(), "manifest stashed")
    failed = site.spool / "failed" / "retried" / "a"
    site.drop("retried/a", b"wrong")
    wait_until(failed.exists, "failed")
    site.drop("retried/a", b"right")
    wait_until(lambda: site.names().get("retried/a") == md5(b"right"), "right one stashed")

    # While the delivery is open, the manifest refuses it again.
    ctl(site, "retried/a", command="retry")
    wait_until(failed.exists, "failed again")
    receipt = ended(site, "retried")

    assert states(receipt) == {"a": "right", "b": "missing"}
    assert "a later file of this name was not stored: its md5 is" in reasons(receipt)["a"]
    assert "no open delivery lists it" in ctl(site, "retried/a", command="retry", status=1)
    assert "no open delivery lists it" in ctl(site, "--all", command="retry", status=1)
    assert failed.exists()
    assert site.names()["retried/a"] == md5(b"right")


def test_a_delivery_that_is_closed_waits_for_its_files_in_the_spool(site: Site, daemon: Daemon) -> None:
    files = {"a": b"a", "late": b"late"}
    (site.directory / "box" / "closed").mkdir(parents=True)
    (site.directory / "box" / "closed" / "late").write_bytes(b"late")
    (site.directory / "box").rename(site.spool / "deferred" / f"late.0.{int(time.time()) + 86400}")
    site.drop("closed/x.md5", md5sums(files | {"never": b"never"}))
    site.drop("closed/a", b"a")
    wait_until(lambda: {"closed/a", "closed/x.md5"} <= set(site.names()), "stashed")

    assert "1 file of it still in the spool, such as closed/late" in ctl(site, "close", "closed")

    # The daemon looks at all deliveries in turn: when this one has ended, it has looked at the other.
    drop_folder(site, "other", {"a": b"a", "x.md5": md5sums({"a": b"a"})})
    wait_for_receipt(site, "other")
    assert receipts(site, "closed") == []
    assert "it is to end as soon as no file of it waits" in ctl(site, "show", "closed")
    ctl(site, "closed/late", command="retry")
    assert states(wait_for_receipt(site, "closed")) == {"a": "right", "late": "right", "never": "missing"}


@pytest.mark.parametrize(
    ("folder", "manifest", "problem"),
    [
        ("utf16", md5sums({"a": b"a"}).decode().encode("utf-16"), "it is not plain text, such as UTF-16"),
        ("csv", f"a;{md5(b'a')}\n".encode(), f"the first is a;{md5(b'a')}"),
        ("empty", b"", "it lists no file"),
    ],
)
def test_a_manifest_that_cannot_be_read_makes_a_delivery_that_says_so(
    site: Site, daemon: Daemon, folder: str, manifest: bytes, problem: str
) -> None:
    drop_folder(site, folder, {"a": b"a", "list.md5": manifest})
    wait_until(lambda: {f"{folder}/a", f"{folder}/list.md5"} <= set(site.names()), "stashed")

    assert problem in daemon.output()
    assert problem in ctl(site, "show", folder)
    [shown] = [shown for shown in shown_deliveries(Spool(site.spool)).shown if shown.folder == folder]
    assert "1 manifest cannot be read" in shown.others
    receipt = ended(site, folder)

    assert (receipt["verdict"], states(receipt)) == ("incomplete", {"a": "unlisted"})
    assert [entry.startswith("list.md5: ") and problem in entry for entry in receipt["problems"]] == [True]
    assert problem in page_of(site, folder)


def test_listed_files_that_came_and_are_not_stashed_have_the_reason(site: Site, daemon: Daemon) -> None:
    names = (".DS_Store", "Thumbs.db", "x.tmp", ".hidden", "held", "  never ")
    held = site.spool / "hold" / "1.0" / "left"
    held.mkdir(parents=True)
    (held / "held").touch()
    folder = site.incoming / "left"
    folder.mkdir()
    for name in names[:4]:
        (folder / name).touch()
        # Not a transfer in progress.
        os.utime(folder / name, (0, 0))
    site.drop("left/x.md5", md5sums(dict.fromkeys(names, b"")))
    wait_until(lambda: "left/x.md5" in site.names(), "manifest stashed")

    receipt = ended(site, "left")

    assert set(states(receipt).values()) == {"missing"}
    why = reasons(receipt)
    assert "spool.ignore" in why[".DS_Store"]
    assert "spool.ignore" in why["Thumbs.db"]
    assert "unfinished transfer" in why["x.tmp"]
    assert "unfinished transfer" in why[".hidden"]
    assert "hold/" in why["held"]
    assert why["  never "] == ""
    # Blanks that a page does not show.
    assert "<td>&quot;  never &quot;</td>" in page_of(site, "left")
    assert 'missing   "  never "' in ctl(site, "show", "left")


def test_an_unfinished_transfer_is_named_with_how_long_the_end_waits_for_it(site: Site, daemon: Daemon) -> None:
    drop_folder(site, "part", {"x.tmp": b"x", "x.md5": md5sums({"x": b"x"})})
    wait_until(lambda: "part/x.md5" in site.names(), "manifest stashed")
    wait_until(lambda: "still in the spool" not in ctl(site, "show", "part"), "manifest no longer in the spool")
    words = "1 file under the name of an unfinished transfer, such as part/x.tmp, until 3,600 seconds after"

    assert words in ctl(site, "show", "part")
    assert words in ctl(site, "close", "part")
    os.utime(site.incoming / "part" / "x.tmp", (0, 0))

    assert states(wait_for_receipt(site, "part")) == {"x": "missing"}


def test_what_failed_before_its_manifest_came_has_failed(site: Site, daemon: Daemon) -> None:
    site.drop("links/x.md5", md5sums({"other": b"other"}))
    wait_until(lambda: counts(site, "links") is not None, "manifest read")
    (site.incoming / "links").mkdir(exist_ok=True)
    for name in ("a", "b"):
        (site.directory / name).symlink_to("nowhere")
        (site.directory / name).rename(site.incoming / "links" / name)
    wait_until(lambda: (counts(site, "links") or {}).get("unlisted") == 2, "failed, and not listed yet")
    site.drop("links/y.md5", md5sums({"a": b"a"}))
    wait_until(lambda: "links/y.md5" in site.names(), "manifest stashed")

    receipt = ended(site, "links")

    assert states(receipt) == {"a": "failed", "b": "unlisted", "other": "missing"}
    assert "a symbolic link" in reasons(receipt)["a"]
    assert "a symbolic link" in reasons(receipt)["b"]


def test_a_manifest_of_one_file_ends_as_one_of_many_unless_more_pairs_may_come(site: Site, daemon: Daemon) -> None:
    drop_folder(site, "pair", {"a.tif": b"a", "a.tif.md5": md5sums({"a.tif": b"a"})})
    drop_folder(site, "one", {"a.tif": b"a", "checksums.md5": md5sums({"a.tif": b"a"})})

    receipt = wait_for_receipt(site, "one")

    assert (receipt["verdict"], receipt["ended_by"]) == ("complete", "all here")
    assert receipts(site, "pair") == []
    assert ended(site, "pair")["verdict"] == "complete"


def test_an_incomplete_bag_says_all_that_is_wrong_with_it(site: Site, daemon: Daemon) -> None:
    bag = MutatedBag()
    bag.change("bag-info.txt", b"one\nPayload-Oxum: 1.1\ntwo\n")
    bag.change("bagit.txt", bag.files["bagit.txt"] + b"three\nfour\n")
    drop_folder(site, "bag", bag.files | {"data/x": b"x", "data/y": b"y"})
    wait_until(lambda: {f"bag/{name}" for name in bag.files} <= set(site.names()), "stashed")

    receipt = ended(site, "bag")

    assert receipt["verdict"] == "incomplete"
    assert receipt["problems"] == [
        "bagit.txt has the line 'three'",
        "bagit.txt has the line 'four'",
        "bag-info.txt has the line 'one'",
        "bag-info.txt has the line 'two'",
        "'data/x' is in the payload, but in no manifest",
        "'data/y' is in the payload, but in no manifest",
        "Payload-Oxum is 1.1, but 5 files with 4 bytes are here and not wrong",
    ]
    assert re.search(r"Not complete:</strong> 6 of 6 .* but there are 7 problems:</p>\s*<ul>", page_of(site, "bag"))
    shown = ctl(site, "show", "bag")
    assert "problem   'data/y' is in the payload, but in no manifest" in shown
    assert "unlisted  data/x" in shown
    assert "7 problems" in ctl(site, "list")


def test_a_corrected_manifest_under_the_same_name_replaces_the_first(site: Site, daemon: Daemon) -> None:
    site.drop("corrected/x.md5", md5sums({"a": b"other", "b": b"b", "gone": b"gone", "../out": b""}))
    wait_until(lambda: "corrected/x.md5" in site.names(), "manifest stashed")
    site.drop("corrected/a", b"a")
    site.drop("corrected/b", b"b")
    wait_until(
        lambda: counts(site, "corrected") == {"wrong": 1, "right": 1, "missing": 1, "refused": 1},
        "compared with the first",
    )
    wait_until((site.spool / "failed" / "corrected" / "a").exists, "failed")

    site.drop("corrected/x.md5", md5sums({"a": b"a", "b": b"b"}))
    wait_until(lambda: counts(site, "corrected") == {"wrong": 1, "right": 1}, "replaced")
    assert "the manifest was replaced since: md5s3stashctl retry" in ctl(site, "show", "corrected")
    ctl(site, "corrected/a", command="retry")
    receipt = wait_for_receipt(site, "corrected")

    assert (receipt["verdict"], receipt["ended_by"]) == ("complete", "all here")
    assert states(receipt) == {"a": "right", "b": "right"}
    assert [manifest.get("replaced", False) for manifest in receipt["manifests"]] == [True, False]
    assert "replaced by a later one" in page_of(site, "corrected")


def test_manifests_that_disagree_are_the_reason_and_not_the_file(site: Site, daemon: Daemon) -> None:
    site.drop("apart/x.md5", md5sums({"a": b"a", "b": b"b", "never": b"1"}))
    site.drop("apart/y.md5", md5sums({"a": b"other", "never": b"2"}))
    site.drop("apart/z.sha1", b"0" * 40 + b"  b\n")
    wait_until(lambda: {"apart/x.md5", "apart/y.md5", "apart/z.sha1"} <= set(site.names()), "manifests stashed")
    for name in ("a", "b"):
        site.drop(f"apart/{name}", name.encode())
        wait_until((site.spool / "failed" / "apart" / name).exists, "failed")
    wait_until(lambda: (counts(site, "apart") or {}).get("wrong") == 2, "both in the journal")

    shown = ctl(site, "show", "apart")
    assert shown.count("the manifests of its delivery disagree: they list the md5") == 2
    assert "sent again" not in shown
    assert "its md5 is as listed, so have a corrected manifest sent" in shown

    # While one of the two wrong ones is corrected, what it says of the file is not the last word.
    site.drop("apart/y.md5", md5sums({"a": b"a", "never": b"2"}))
    wait_until(lambda: "md5s3stashctl retry compares it again" in ctl(site, "show", "apart"), "replaced")
    ctl(site, "apart/a", command="retry")
    wait_until(lambda: (counts(site, "apart") or {}).get("right") == 1, "right")
    receipt = ended(site, "apart")

    assert states(receipt) == {"a": "right", "b": "wrong", "never": "missing"}
    assert "the manifests of its delivery disagree" in reasons(receipt)["never"]
    assert reasons(receipt)["b"].endswith("have the file sent with a corrected manifest, as a new delivery")


def test_names_with_backslashes_are_those_of_windows(site: Site, daemon: Daemon) -> None:
    listed = {r"Dir\a.tif": b"a", r"Dir\sub\b.tif": b"b", r"back\slash": b"c"}
    manifest = md5sums(listed).replace(b"\n", b"\r\n")
    site.drop("windows/list.md5", manifest)
    wait_until(lambda: "windows/list.md5" in site.names(), "manifest stashed")
    site.drop("windows/Dir/a.tif", b"a")
    site.drop("windows/Dir/sub/b.tif", b"not b")
    # What md5sum --check on Linux would take.
    site.drop(r"windows/back\slash", b"c")
    wait_until(lambda: sum(entry["name"].startswith("windows/") for entry in site.log()) == 4, "settled")

    receipt = ended(site, "windows")

    assert states(receipt) == {"Dir/a.tif": "right", "Dir/sub/b.tif": "wrong", "back/slash": "right"}
    assert md5(b"not b") not in site.objects()


def test_names_that_are_not_text_do_not_stop_a_delivery(site: Site, daemon: Daemon) -> None:
    name = b"latin-\xe9\\a"
    site.drop("latin/x.md5", md5(b"a").encode() + b"  " + name + b"\n")
    wait_until(lambda: "latin/x.md5" in site.names(), "manifest stashed")

    receipt = ended(site, "latin")

    assert states(receipt) == {os.fsdecode(b"latin-\xe9/a"): "missing"}
    assert json.dumps(reasons(receipt)) != "{}"


def test_a_name_that_only_looks_the_same_is_missing_with_the_reason(site: Site, daemon: Daemon) -> None:
    composed, decomposed = unicodedata.normalize("NFC", "é"), unicodedata.normalize("NFD", "é")
    drop_folder(site, "looks", {"A.TIF": b"a", composed: b"e", "x.md5": md5sums({"a.tif": b"a", decomposed: b"e"})})

    receipt = ended(site, "looks")

    assert states(receipt) == {"A.TIF": "unlisted", composed: "unlisted", "a.tif": "missing", decomposed: "missing"}
    why = reasons(receipt)
    assert why["a.tif"].startswith("A.TIF came, which differs in upper and lower case")
    assert why[decomposed].startswith(f"{composed} came")
