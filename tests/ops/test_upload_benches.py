"""The upload benchmarks at a tiny size, so that they cannot rot, and what their figures stand on. No test asserts a
time.
"""

from __future__ import annotations

import base64
import hashlib
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import requests
from PIL import Image

from bench import drops, page, stack
from bench.jpeg_files import FILE_BYTES, make_files
from bench.sink_store import Bucket, Stored
from bench.timing import Command, Cost, RunFailed, in_rounds, timed
from bench.upload_peers import RCLONE


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
    with Image.open(tmp_path / "files" / "000019.jpg") as picture:
        picture.load()


def test_cost_is_that_of_all_children_and_a_failure_says_what_was_said() -> None:
    burn = "import time\nwhile time.process_time() < 0.2: pass\nx = b'1' * (64 << 20)"
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    cost = timed(Command([sys.executable, "-c", start, burn], {}))
    assert cost.cpu_seconds >= 0.2
    assert cost.peak_mib > 64
    with pytest.raises(RunFailed, match="ended with 3: oh"):
        timed(Command([sys.executable, "-c", "import sys; print('oh'); sys.exit(3)"], {}))


def test_row_that_fails_is_left_out_and_named() -> None:
    def fails() -> Cost:
        raise RunFailed("it broke")

    seconds = iter((2.0, 4.0, 6.0))
    rounds = in_rounds({"a": lambda: Cost(1, 1, 1), "b": lambda: Cost(next(seconds), 1, 1), "c": fails}, rounds=3)
    assert rounds.times_as_fast("a", "b") == 4
    assert rounds.times_as_fast("a", "c") is None
    assert page.not_measured(rounds.missing) == "Not measured: c: it broke"


@pytest.mark.parametrize(
    "plan", [drops.Plan(20, 1, [RCLONE]), drops.Plan(20, 1, [RCLONE], tls=True)], ids=["http", "tls"]
)
def test_drops_are_measured(plan: drops.Plan) -> None:
    table = drops.table(drops.measure(plan))
    assert [line.split(" |")[0] for line in table.splitlines()[2:]] == [f"| {drops.OURS}", "| rclone copy"]


def test_drops_are_measured_against_a_real_server() -> None:
    results = drops.measure(drops.Plan(20, 1, [], real_server=True))
    assert list(results.rounds.costs) == [drops.OURS]


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
