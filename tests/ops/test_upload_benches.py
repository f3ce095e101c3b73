"""The upload benchmarks at a tiny size, so that they cannot rot, and what their figures stand on. No test asserts a
time.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
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
    page,
    plots,
    run,
    stack,
    upload_clients,
)
from bench.jpeg_files import FILE_BYTES, make_files
from bench.page import Section
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
    assert page.not_measured(rounds.missing) == "Not measured: c: it broke"
    with pytest.raises(RunFailed, match="c: it broke"):
        rounds.times_as_fast("c", "a")


@pytest.mark.parametrize("tls", [False, True], ids=["http", "tls"])
def test_drops_are_measured(tls: bool) -> None:
    results = drops.measure(drops.Plan(20, 1, [RCLONE], tls=tls))
    assert names_in(drops.table(results)) == [OURS, "rclone copy"]
    assert "s5cmd: not measured" in drops.aims(results)
    assert [name for name, _ in drops.plot(results).bars] == [OURS, "rclone copy"]


def test_drops_are_measured_against_a_real_server() -> None:
    results = drops.measure(drops.Plan(20, 1, [RCLONE], real_server=True))
    assert names_in(drops.table(results)) == [OURS, "rclone copy"]


def test_known_content_is_measured_near_and_far_and_beside_many_objects() -> None:
    peers = [peer for peer in known_content.PEERS if peer.again.name == known_content.BY_CONTENT]
    results = known_content.measure(20, 1, [0, 2000], peers)
    assert names_in(known_content.table(results)) == [OURS, known_content.BY_CONTENT, known_content.LIMIT]
    assert names_in(known_content.growth_table(results)) == [OURS, known_content.BY_CONTENT]
    assert len(known_content.plot(results).lines) == 2
    assert known_content.aims(results).count("\n") == 5


def test_large_files_are_measured() -> None:
    results = large_files.measure(large_files.Plan(2, 10, 1, [RCLONE]))
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
    assert [len(line.points) for line in growth.plot(costs).lines] == [2, 2]


def test_start_of_the_command_is_measured() -> None:
    results = cli_startup.measure(1, peers=[])
    assert names_in(cli_startup.table(results)) == [*cli_startup.HELPS, cli_startup.STASH]
    assert "Ahead of `aws s3 cp`: not measured" in cli_startup.aims(results)


def test_clients_of_the_adapter_are_measured() -> None:
    rows, missing = upload_clients.measure_all(10, 1, clients=["boto3", "libcurl"])
    assert [row.client for row in rows] == ["boto3", "libcurl"]
    assert rows[1].package.startswith("PycURL/")
    assert missing == {}


def test_a_client_that_fails_is_left_out_with_the_reason(monkeypatch: pytest.MonkeyPatch) -> None:
    # Of which the program that measures one knows nothing.
    monkeypatch.setitem(upload_clients.CLIENTS, "nobody", upload_clients.CLIENTS["boto3"])
    told = upload_clients.table(*upload_clients.measure_all(10, 1, clients=["nobody", "boto3"]))
    assert names_in(told) == ["boto3"]
    assert "Not measured: nobody: it ended with 2 in round 1" in told


def test_a_section_that_fails_leaves_the_page_what_it_had_and_stops_no_other(tmp_path: Path) -> None:
    def fails(full: bool) -> str:
        raise RuntimeError("no")

    output = tmp_path / "page.md"
    output.write_text(f"# Old\n\n## {run.SECTIONS[0].title}\n\nold one\n\n## Given up\n\nold two\n")
    failing = Section(run.SECTIONS[0].name, run.SECTIONS[0].title, fails)
    succeeding = Section(run.SECTIONS[1].name, run.SECTIONS[1].title, lambda full: f"new, {full=}")
    assert not run.measure([failing, succeeding], output, full=True)
    written = output.read_text()
    assert "old one" in written
    assert "new, full=True" in written
    assert "Machine: " in written
    assert "Given up" not in written
    assert run.measure([succeeding], output)


def test_plots_are_drawn_beside_the_page_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # What draws them is installed for a benchmark alone.
    script = tmp_path / "script.py"
    script.write_text("import pathlib, sys; pathlib.Path(sys.argv[1]).write_text('a plot')")
    monkeypatch.setattr(plots, "_SCRIPT", script)
    monkeypatch.setattr(plots, "python_environment", lambda *_: Path(sys.prefix))
    section = replace(run.SECTIONS[0], run=lambda full: plots.draw(plots.Bars("Title", "", [], ""), "of-a-test"))

    assert run.measure([section], tmp_path / "page.md")

    assert "![Title](pictures/bench-of-a-test.svg)" in (tmp_path / "page.md").read_text()
    assert (tmp_path / "pictures/bench-of-a-test.svg").read_text() == "a plot"
    assert not (REPOSITORY / "docs/pictures/bench-of-a-test.svg").exists()


def test_every_section_has_a_name_and_a_title_of_its_own() -> None:
    assert len({section.name for section in run.SECTIONS}) == len({section.title for section in run.SECTIONS})
    assert len({section.name for section in run.SECTIONS}) == len(run.SECTIONS)


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
