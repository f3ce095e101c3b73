"""The parts on which the figures of the thumbnail benchmark depend; `make bench-thumbnails` runs the benchmark."""

from __future__ import annotations

import http.server
import io
import os
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from bench import process_tree, site_load, thumbnail_costs, thumbnails
from bench.http_load import Job, Load
from bench.http_load import run as run_load
from bench.picture_corpus import KINDS, Original, photograph
from bench.thumbnail_quality import Quality, quality, reference
from bench.thumbnail_servers import OURS_WITH_COPIES, Shape
from bench.thumbnails import SHAPES
from md5s3stash_thumbnailer.render.encoding.similarity import ssim
from tests.support.servers import REPOSITORY


class _Pictures(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"\xff\xd8 a picture" if self.path == "/picture" else b"none"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def port() -> Iterator[int]:
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), _Pictures) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server.server_port
        server.shutdown()
        thread.join()


def test_load_asks_for_each_path_once_and_names_what_was_no_picture(port: int) -> None:
    load = run_load(Job(port, ["/picture"] * 20 + ["/other"], clients=4))
    assert len(load.milliseconds) == 21
    assert min(load.milliseconds) > 0
    assert load.requests_per_second > 0
    assert [failure.partition(":")[0] for failure in load.failures] == ["/other"]


def test_cpu_time_and_memory_of_children_count() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass\nx = b'1' * (64 << 20)\nprint(1, flush=True)\ninput()"
    start = "import subprocess, sys; subprocess.run([sys.executable, '-c', sys.argv[1]])"
    with subprocess.Popen(
        [sys.executable, "-c", start, burn], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdout.readline()
        assert len(process_tree.tree(process.pid)) == 2
        assert process_tree.cpu_seconds(process.pid) >= 0.3
        assert process_tree.peak_mib(process.pid) > 64
        process.stdin.write(b"\n")
        process.stdin.flush()
    assert process.pid not in process_tree.tree(os.getpid())


def test_cpu_time_is_told_finer_than_in_ticks() -> None:
    for _ in range(5):
        before, end = process_tree.cpu_seconds(os.getpid()), time.process_time() + 0.003
        while time.process_time() < end:
            pass
        assert process_tree.cpu_seconds(os.getpid()) - before >= 0.003


def test_cpu_time_of_one_who_outlives_its_parent_counts_once_orphans_are_adopted() -> None:
    burn = "import time\nwhile time.process_time() < 0.3: pass"
    # The parent ends at once; its pipe stays open until its child ends.
    parent = "import subprocess, sys; subprocess.Popen([sys.executable, '-c', sys.argv[1]])"
    program = f"""
import os, subprocess, sys
from bench import process_tree
process_tree.adopt_orphans()
subprocess.run([sys.executable, "-c", {parent!r}, {burn!r}], stdout=subprocess.PIPE, check=True)
print(process_tree.cpu_seconds(os.getpid()))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True, cwd=REPOSITORY, text=True)
    assert float(done.stdout) >= 0.3


def test_what_others_take_of_the_machine_is_told_apart_from_what_we_do() -> None:
    burn = "import time\nwhile time.process_time() < 0.5: pass"
    others = process_tree.watch_others()
    before = process_tree.machine_seconds()
    subprocess.run([sys.executable, "-c", burn], check=True)
    spent = process_tree.machine_seconds() - before
    assert 0 <= others() <= (spent.busy - 0.4) / spent.total


def test_ssim_is_1_for_the_same_and_less_the_more_is_lost() -> None:
    picture = photograph((400, 300), seed="ssim")
    halved = picture.resize((200, 150)).resize(picture.size)
    quartered = picture.resize((100, 75)).resize(picture.size)
    assert ssim(picture, picture) == pytest.approx(1)
    assert 1 > ssim(picture, halved) > ssim(picture, quartered) > 0


def test_thumbnail_of_another_size_is_no_comparison() -> None:
    wanted = reference(photograph((400, 300), seed="size"), Shape("crop", 64))
    assert wanted.size == (64, 64)
    with pytest.raises(ValueError, match="instead of"):
        quality([_jpeg(wanted.resize((32, 32)))], [wanted])
    assert quality([_jpeg(wanted)], [wanted]).least_ssim > 0.8


def test_photograph_is_the_same_each_time_and_costs_what_a_photograph_does() -> None:
    picture = photograph((1200, 800), seed="a")
    assert picture.tobytes() == photograph((1200, 800), seed="a").tobytes()
    assert 1.5 < 8 * len(_jpeg(picture, quality=90)) / (1200 * 800) < 3


def test_the_dearest_kind_is_told_beside_the_corpus_as_it_is_mixed() -> None:
    costs = {(shape, kind): [thumbnail_costs.Cost(1.0, 1.0)] for shape in SHAPES for kind in KINDS}
    costs[SHAPES[0], KINDS[3]] = [thumbnail_costs.Cost(2.7, 1.0)]
    aims = thumbnail_costs.aims(costs)
    assert f"{SHAPES[0]}, the dearest kind ({KINDS[3].name}): 2.70 times the bare parts, missed" in aims
    assert f"{SHAPES[1]}, the dearest kind" in aims


def test_bare_parts_are_measured_in_a_process_of_their_own(tmp_path: Path) -> None:
    photograph((1200, 800), seed="bare").save(tmp_path / "one.jpg")
    assert thumbnail_costs.bare_cpu_milliseconds([tmp_path / "one.jpg"] * 20, SHAPES[0]) > 0.1


def test_servers_are_compared_in_rate_and_in_the_slowest_of_a_hundred() -> None:
    rates = {"md5s3stash": 40.0, OURS_WITH_COPIES: 130.0, "pilbox": 10.0, "sharp alone": 32.0}
    phases = {
        thumbnails.Case(name, shape, level): [thumbnails.Phase(Load(rate, [1000 / rate], [], 0.0), 0.02)]
        for name, rate in rates.items()
        for shape in SHAPES
        for level in thumbnails.LEVELS
    }
    qualities = {(name, shape): Quality(10_000, 0.95, 0.93) for name in rates for shape in SHAPES}
    versions = dict.fromkeys(rates, "1.0")
    results = thumbnails.Results(versions, {}, qualities, phases, dict.fromkeys(rates, 300.0), [], rounds=1)

    assert f"| {SHAPES[0]}, 8 clients | 40.0, 25 | 130.0, 8 | 10.0, 100 | 32.0, 31 |" in thumbnails.table(results)
    assert thumbnails.aims(results).splitlines() == [
        f"- {SHAPES[0]}, 8 clients, md5s3stash: the rate to pilbox's: 4.00 times, reached.",
        f"- {SHAPES[0]}, 8 clients, {OURS_WITH_COPIES}: the rate to pilbox's: 13.0 times, reached.",
        f"- {SHAPES[0]}, the least of all levels: the rate to that of any other: 1.25 times, reached.",
        f"- {SHAPES[0]}, the least of all levels: p99 of any other to ours: 1.25 times, reached.",
    ]
    one = "20.0 | 10,000 | 0.950 | 0.930"
    assert f"| pilbox | {one} | {one} | 300 |" in thumbnails.server_table(results)


def test_a_site_asks_for_each_original_once_while_cold_and_in_its_proportions() -> None:
    originals = [Original(kind, Path(f"{kind.name} {number}")) for kind in site_load.SITE_KINDS for number in range(6)]
    asked = site_load.requests(originals[:24], number=0)

    assert [original.path for original, _ in asked[site_load.COLD]] != [original.path for original in originals[:24]]
    assert {original.path for original, _ in asked[site_load.COLD]} == {original.path for original in originals[:24]}
    for state, passes in ((site_load.COLD, 1), (site_load.WARM, 4)):
        shapes = [str(shape) for _, shape in asked[state]]
        assert Counter(shapes) == {"clip 500x500": 12 * passes, "crop 120x120": 6 * passes, "crop 210x210": 6 * passes}
    assert site_load.requests(originals[:24], number=0) == asked


def test_a_site_s_load_is_compared_in_the_same_round() -> None:
    def phases(*rates: float) -> list[thumbnails.Phase]:
        return [thumbnails.Phase(Load(rate, [1000 / rate], [], 0.0), 0.02) for rate in rates]

    rates = {"cold": ((20.0, 10.0), (10.0, 10.0)), "warm": ((60.0, 20.0), (20.0, 10.0))}
    found = {
        (name, state): phases(*of_state[place])
        for state, of_state in rates.items()
        for place, name in enumerate((OURS_WITH_COPIES, "pilbox"))
    }
    results = site_load.Results(found, {})

    assert "| warm | 40.0 | 50 | 20.0 | 15.0 | 100 | 20.0 | 2.50 | 1.00 |" in site_load.table(results)
    assert site_load.aims(results).splitlines() == [
        "- cold, 8 clients: the rate to pilbox's: 1.50 times, reached.",
        "- warm, 8 clients: the rate to pilbox's: 2.50 times, reached.",
    ]


def _jpeg(picture: Image.Image, quality: int = 95) -> bytes:
    out = io.BytesIO()
    picture.save(out, "JPEG", quality=quality)
    return out.getvalue()
