"""Runs the upload benchmarks at a tiny size, so that they keep working; tests the parts on which their figures depend.
No test asserts a time.
"""

from __future__ import annotations

import base64
import hashlib
import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import requests
from PIL import Image

from bench import (
    cli_startup,
    drops,
    growth,
    known_content,
    large_files,
    latency,
    migrate,
    page,
    run,
    stack,
    upload_clients,
)
from bench.jpeg_files import FILE_BYTES, make_files
from bench.page import Block, Figures
from bench.sink_store import Bucket, Stored
from bench.timing import Command, Cost, RunFailed, in_rounds, timed
from bench.upload_peers import RCLONE
from bench.uploads import OURS
from tests.support.servers import REPOSITORY


def names_in(table: str) -> list[str]:
    """The first cells of the rows of a table."""
    return [line.split(" | ")[0].removeprefix("| ") for line in table.splitlines()[2:] if line.startswith("|")]


@pytest.fixture
def url(tmp_path: Path) -> Iterator[str]:
    with stack.sink(tmp_path) as sink:
        yield sink.endpoint.url


def test_sink_refuses_what_was_changed_on_its_way_and_what_it_has(url: str) -> None:
    data = b"some bytes"
    md5 = base64.b64encode(hashlib.md5(data, usedforsecurity=False).digest()).decode()
    sha256 = base64.b64encode(hashlib.sha256(data).digest()).decode()
    right = {"Content-MD5": md5, "x-amz-checksum-sha256": sha256, "If-None-Match": "*", "x-amz-meta-a": "b"}
    for wrong in ({"Content-MD5": sha256}, {"Content-MD5": "!"}, {"x-amz-checksum-sha256": md5}):
        assert requests.put(f"{url}/bucket/key", data, headers={**right, **wrong}).status_code == 400
    assert requests.head(f"{url}/bucket/key").status_code == 404
    assert requests.put(f"{url}/bucket/key", data, headers=right).status_code == 200
    assert requests.put(f"{url}/bucket/key", data, headers=right).status_code == 412
    told = requests.head(f"{url}/bucket/key").headers
    assert told["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
    assert (told["Content-Length"], told["x-amz-meta-a"]) == ("10", "b")


def test_sink_reads_bodies_in_chunks_and_takes_parts_together(url: str) -> None:
    parts = [b"a" * 70_000, b"b" * 10]
    upload_id = requests.post(f"{url}/bucket/key?uploads").text.partition("<UploadId>")[2].partition("<")[0]
    for number, data in enumerate(parts, 1):
        chunks = b"%x;chunk-signature=0\r\n%s\r\n0\r\nx-amz-checksum-crc32: 0\r\n\r\n" % (len(data), data)
        pieces = (chunks[at : at + 1000] for at in range(0, len(chunks), 1000))
        headers = {"Content-Encoding": "aws-chunked"}
        answer = requests.put(f"{url}/bucket/key?partNumber={number}&uploadId={upload_id}", pieces, headers=headers)
        assert answer.headers["ETag"].strip('"') == hashlib.md5(data, usedforsecurity=False).hexdigest()
    requests.post(f"{url}/bucket/key?uploadId={upload_id}")
    whole = hashlib.md5(
        b"".join(hashlib.md5(data, usedforsecurity=False).digest() for data in parts), usedforsecurity=False
    )
    assert requests.head(f"{url}/bucket/key").headers["ETag"] == f'"{whole.hexdigest()}-2"'
    assert requests.head(f"{url}/bucket/key").headers["Content-Length"] == "70010"


def test_listing_shows_every_object_once_and_those_that_are_made_up() -> None:
    bucket = Bucket()
    bucket.objects = {f"{number:04x}.jpg": Stored("0", 1, 0, b"") for number in range(0, 65_536, 60)}
    bucket.made_up = 2500
    seen: list[str] = []
    while found := bucket.listed(seen[-1] if seen else "", "", 1000):
        seen += [entry.key for entry in found]
    assert len(seen) == len(set(seen)) == 2500 + len(bucket.objects)
    assert seen == sorted(seen)
    assert [entry.key for entry in bucket.listed("", "003c", 1000) if "." in entry.key] == ["003c.jpg"]


def test_files_are_pictures_of_one_size_and_no_two_are_alike(tmp_path: Path) -> None:
    make_files(tmp_path / "files", 20)
    contents = [path.read_bytes() for path in (tmp_path / "files").iterdir()]
    assert len(set(contents)) == 20
    assert {len(data) for data in contents} == {FILE_BYTES}
    with Image.open(tmp_path / "files" / "0000019.jpg") as picture:
        picture.load()


def test_cost_is_that_of_all_children_and_a_failure_says_what_was_said() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nx = b'1' * (64 << 20)"
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    cost = timed(Command([sys.executable, "-c", start, burn], {}))
    assert cost.cpu_seconds >= 0.2
    assert cost.peak_mib > 64
    with pytest.raises(RunFailed, match="ended with 3: oh"):
        timed(Command([sys.executable, "-c", "import sys; print('oh'); sys.exit(3)"], {}))


def test_aim_says_by_how_much_it_is_missed() -> None:
    assert page.at_least("Fast", 2.0, 2.5) == "- Fast: 2.00 times, missed by 20%."
    assert page.at_least("Fast", 2.499, 2.5) == "- Fast: 2.50 times, missed by less than 1%."
    assert page.at_least("Fast", 2.5, 2.5) == "- Fast: 2.50 times, reached."
    assert page.at_least("Fast", None, 2.5) == "- Fast: not measured."
    assert page.at_most("Short", 75, 50, "ms") == "- Short: 75.0 ms, missed by 50%."


def test_row_that_fails_is_left_out_and_named() -> None:
    def fails() -> Cost:
        raise RunFailed("it broke")

    seconds = iter((2.0, 4.0, 6.0))
    rounds = in_rounds({"a": lambda: Cost(1, 1, 1), "b": lambda: Cost(next(seconds), 1, 1), "c": fails}, rounds=3)
    assert rounds.times_as_fast("a", "b") == 4
    assert rounds.times_as_fast("a", "c") is None
    assert page.notes(rounds.missing) == "Not measured: c: it broke"
    with pytest.raises(RunFailed, match="c: it broke"):
        rounds.times_as_fast("c", "a")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_drops_are_measured(tls: bool) -> None:
    results = drops.measure(drops.Plan(20, 1, tls=tls), [RCLONE])
    assert names_in(drops.table(results)) == [OURS, "rclone copy"]
    assert "s5cmd: not measured" in drops.aims(results)


def test_drops_are_measured_against_a_real_server() -> None:
    results = drops.measure(drops.Plan(20, 1, real_server=True), [RCLONE])
    assert names_in(drops.table(results)) == [OURS, "rclone copy"]


def test_known_content_is_measured_near_and_far_and_beside_many_objects() -> None:
    peers = [peer for peer in known_content.PEERS if peer.again.name == known_content.BY_CONTENT]
    results = known_content.measure(known_content.Plan(20, 1), peers)
    assert names_in(known_content.table(results)) == [OURS, known_content.BY_CONTENT, known_content.LIMIT]
    assert known_content.aims(results).count("\n") == 4
    by_objects = known_content.measure_objects(known_content.Plan(20, 1, (0, 2000)), peers)
    assert names_in(known_content.objects_table(20, by_objects)) == [OURS, known_content.BY_CONTENT]
    assert known_content.objects_aim(by_objects).startswith("- As quick")


def test_large_files_are_measured() -> None:
    results = large_files.measure(large_files.Plan(2, 10, 1), [RCLONE])
    assert names_in(large_files.table(results)) == [OURS, "rclone copy", large_files.MD5, large_files.PUT]
    assert large_files.aims(results).count("\n") == 1


def test_latency_is_measured() -> None:
    results = latency.measure(3)
    assert len(results.drops) == len(results.round_trips) == 3
    assert "drop to recorded" in latency.table(results)
    assert latency.aims(results).count("\n") == 1


def test_growth_is_measured() -> None:
    costs = growth.measure([10, 20])
    assert names_in(growth.table(costs)) == ["10", "20"]
    assert growth.aims(costs).count("\n") == 1


def test_start_of_the_command_is_measured() -> None:
    rounds, _ = cli_startup.measure(cli_startup.Plan(1), peers=[])
    assert names_in(cli_startup.table(rounds)) == [*cli_startup.HELPS, cli_startup.STASH]
    assert "Ahead of `aws s3 cp`: not measured" in cli_startup.aims(rounds)


def test_migration_is_measured_into_an_empty_bucket_and_again() -> None:
    told = migrate.report(migrate.Plan(50), ["md5s3stash-migrate"])
    [cells] = [line.strip("| ").split(" | ") for line in told.text.splitlines()[2:]]
    assert cells[0] == "md5s3stash-migrate"
    # One LIST, and a copy of each; the second time no copies.
    assert 50 < int(cells[3]) < 150
    assert int(cells[5]) < 50


def test_clients_of_the_adapter_are_measured() -> None:
    rounds = upload_clients.measure(upload_clients.Plan(10, 1), ["boto3", "libcurl"])
    assert names_in(upload_clients.table(upload_clients.Plan(10, 1), rounds)) == ["boto3", "libcurl"]
    assert upload_clients.describe_package("pycurl").startswith("PycURL/")
    assert rounds.missing == {}


def test_a_client_that_fails_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # The program that measures one block does not know it.
    monkeypatch.setitem(upload_clients.CLIENTS, "unheard of", upload_clients.CLIENTS["boto3"])
    rounds = upload_clients.measure(upload_clients.Plan(10, 1), ["unheard of", "boto3"])
    assert list(rounds.costs) == ["boto3"]
    assert rounds.missing == {"unheard of": "it ended with 2"}


@dataclass(frozen=True)
class Plan:
    files: int = 5
    rounds: tuple[int, ...] = (1, 2)
    beside: str = "all"
    tls: bool = False


def test_a_block_that_fails_leaves_the_page_what_it_had_and_stops_no_other(tmp_path: Path) -> None:
    def fails(plan: Plan) -> Figures:
        raise RuntimeError("no")

    def succeeds(plan: Plan) -> Figures:
        return Figures(f"new, {plan.files} files", "notes")

    output = tmp_path / "page.md"
    marks = (f"<!-- measured: {name} -->\n\nold {name}\n\n<!-- end -->" for name in ("a", "b", "b: run", "c"))
    output.write_text("# By hand\n\n" + "\n\n".join(marks))
    succeeding = Block("b", succeeds, Plan(), Plan(50, tls=True))
    assert not run.measure([Block("a", fails, Plan()), succeeding], output, full=True)
    written = output.read_text()
    assert "# By hand" in written
    assert "old a\n" in written
    assert "<!-- measured: b -->\n\nnew, 50 files\n\n<!-- end -->" in written
    command = f"`python -m {__name__} --files 50 --rounds 1 2 --tls`"
    assert f"<!-- measured: b: run -->\n\nnotes\n\n{command} ({run.machine()}, " in written
    assert run.measure([Block("c", succeeds, Plan())], output)
    # Another block names the machine, but the head of the page does not.
    assert written.count(run.machine()) == 1
    assert output.read_text().count(run.machine()) == 2
    output.write_text(output.read_text().replace("# By hand", f"# By hand, on {run.machine()}."))
    assert run.measure([Block("c", succeeds, Plan())], output)
    assert re.search(r"\nnew, 5 files\n\nnotes\n\n`[^`]*` \(20[-0-9]*, others [0-9]+%\)\n", output.read_text())
    assert not run.measure([Block("not on the page", succeeds, Plan())], output)


def test_the_page_has_each_block_once_and_no_other() -> None:
    names = [block.name for block in run.BLOCKS]
    marked = re.findall(r"<!-- measured: (.*?) -->", run.PAGE.read_text())
    assert sorted(name for name in marked if not name.endswith(": run")) == sorted(names)
    assert len(set(marked)) == len(marked)


def test_a_name_stands_for_the_blocks_below_it_as_well() -> None:
    assert [block.name for block in run.chosen(["drops"], full=False)] == ["drops", "drops/tls", "drops/real"]
    assert "drops_many" not in {block.name for block in run.chosen([], full=False)}
    assert run.chosen([], full=True) == list(run.BLOCKS)


@pytest.mark.parametrize("module", ["drops", "growth", "known_content", "ledger_rate", "fleet", "proof"])
def test_a_benchmark_has_an_option_for_each_field_of_its_plan(module: str) -> None:
    command = [sys.executable, "-m", f"bench.{module}", "--help"]
    told = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert {"drops": "--real-server", "fleet": "--answer-seconds"}.get(module, "") in told
    assert "usage:" in told


def test_s5cmd_by_md5_uploads_each_file_under_its_md5(tmp_path: Path) -> None:
    make_files(tmp_path / "files", 5)
    stand_in = tmp_path / "s5cmd"
    stand_in.write_text('#!/bin/sh\nls "$6"\n')
    stand_in.chmod(0o755)
    wanted = sorted(hashlib.md5(path.read_bytes()).hexdigest() for path in (tmp_path / "files").iterdir())
    for how in ("loop", "quick"):
        (tmp_path / how).mkdir()
        script = stack.ROOT / "bench" / "peers" / "s5cmd_by_md5.sh"
        command = [str(script), how, sys.executable, str(stand_in), "http://unused", "bucket", str(tmp_path / "files")]
        said = subprocess.run(command, cwd=tmp_path / how, capture_output=True, text=True, check=True).stdout
        assert said.split() == wanted
