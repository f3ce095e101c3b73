"""IIIF beside Debian's iipsrv: CPU of tiles and regions, and how many a second at 1, 8 and 64 clients, one core each.

    python -m bench.iiif

needs the packages iipimage-server, nginx-core and wrk. Both servers have the same pictures of 80 megapixels: a TIFF,
which is a pyramid of JPEG tiles of 512 pixels, and a JPEG 2000 of six resolutions and no tiles. iipsrv is asked through
nginx; the CPU of both is shown, and that of iipsrv alone. wrk asks from the other core, on connections that stay open,
as a proxy or a browser does. At first there is a JPEG of as many pixels, of which the coarsest tile is asked for; the
cache is empty.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import PIL.Image

from bench import page, process_tree
from bench.peer_packages import PeerMissing
from bench.picture_corpus import photograph
from bench.thumbnails import DIRECTORY
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.grid import TILE, Tile, level_size, scale_factors, tile_region
from tests.support import servers

ROOT = Path(__file__).resolve().parent.parent
SIZE = (10_000, 8_000)
CLIENTS = (1, 8, 64)
_OURS = "md5s3stash"
_IIPSRV = "/usr/lib/iipimage-server/iipsrv.fcgi"
_SERVERS_CORE, _CLIENTS_CORE = (str(core % (os.cpu_count() or 1)) for core in (1, 0))
_BUCKET = "originals"
_SCRIPT = """
local paths, requests, number = {{
{paths}
}}, {{}}, 0
function init() for i, path in ipairs(paths) do requests[i] = wrk.format("GET", path) end end
function request() number = number % #requests + 1; return requests[number] end
function done(all)
  local e = all.errors
  print(all.requests, all.duration, e.connect + e.read + e.write + e.status + e.timeout)
end
"""


@dataclass(frozen=True, slots=True)
class Plan:
    seconds: int = 4
    places: int = 400


@dataclass(frozen=True)
class Server:
    """A server that answers: its processes, and where a picture is."""

    name: str
    port: int
    pids: Sequence[int]
    base: str

    def cpu_seconds(self, pids: Sequence[int] | None = None) -> float:
        return sum(process_tree.cpu_seconds(pid) for pid in pids or self.pids)


def make_originals(tiff: Path, jpeg2000: Path, jpeg: Path) -> None:
    """All of them, if they are not there yet."""
    if jpeg.exists():
        return
    import pyvips

    quarter = photograph((SIZE[0] // 2, SIZE[1] // 2), "iiif")
    pixels = pyvips.Image.new_from_memory(quarter.tobytes(), *quarter.size, 3, "uchar").copy(interpretation="srgb")
    pixels.replicate(2, 2).tiffsave(
        str(tiff), compression="jpeg", Q=90, tile=True, pyramid=True, tile_width=TILE, tile_height=TILE
    )
    whole = PIL.Image.new("RGB", SIZE)
    for left, top in ((0, 0), (SIZE[0] // 2, 0), (0, SIZE[1] // 2), (SIZE[0] // 2, SIZE[1] // 2)):
        whole.paste(quarter, (left, top))
    whole.save(jpeg2000, irreversible=True, quality_mode="rates", quality_layers=[16])
    whole.save(jpeg, quality=90)


def tiles(count: int) -> list[str]:
    """Places of the grid that info.json announces, of all levels in proportion to their tiles."""
    every = list(_grid(SIZE))
    chosen = random.Random(1).choices(every, k=count)
    return [_path(*tile_region(SIZE, tile), level_size(tile_region(SIZE, tile)[2:], tile.factor)) for tile in chosen]


def regions(count: int) -> list[str]:
    """Places anywhere, reduced by 1 to 8, as 500 by 400 pixels."""
    dice = random.Random(2)
    found = []
    for _ in range(count):
        reduction = dice.uniform(1, 8)
        width, height = int(500 * reduction), int(400 * reduction)
        left, top = dice.randrange(SIZE[0] - width), dice.randrange(SIZE[1] - height)
        found.append(_path(left, top, width, height, (500, 400)))
    return found


def _grid(size: Size) -> Iterator[Tile]:
    for factor in scale_factors(size):
        width, height = level_size(size, factor)
        for row in range(-(-height // TILE)):
            yield from (Tile(factor, column, row) for column in range(-(-width // TILE)))


def _path(left: int, top: int, width: int, height: int, size: Size) -> str:
    return f"/{left},{top},{width},{height}/{size[0]},{size[1]}/0/default.jpg"


@contextlib.contextmanager
def ours(original: Path, directory: Path) -> Iterator[Server]:
    """The thumbnail server with one worker, an empty cache, and an S3 server that has the original."""
    md5 = hashlib.md5(original.read_bytes(), usedforsecurity=False).hexdigest()
    cache = directory / "cache"
    for place in (cache, directory / "s3"):
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir(mode=0o700)
    port = servers.free_port()
    with servers.rclone_s3(directory / "s3") as s3:
        (s3.directory / _BUCKET).mkdir()
        os.link(original, s3.directory / _BUCKET / md5)
        environment = {
            "BUCKET_BASE": _BUCKET,
            "S3_ENDPOINT": s3.endpoint,
            "AWS_ACCESS_KEY_ID": s3.access_key,
            "AWS_SECRET_ACCESS_KEY": s3.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "thumbnailer"))),
        }
        command = [
            *("taskset", "-c", _SERVERS_CORE, sys.executable, "-m", "md5s3stash_thumbnailer", "--address=127.0.0.1"),
            *(f"--port={port}", "--workers=1", f"--cache_dir={cache}", "--logging=warning"),
        ]
        with servers.running(command, port, directory / "ours.log", environment) as process:
            yield Server(_OURS, port, [process.pid], f"/iiif/3/{md5}")


@contextlib.contextmanager
def iipsrv(original: Path, directory: Path) -> Iterator[Server]:
    """iipsrv with its defaults, behind nginx with one worker."""
    fastcgi, port = servers.free_port(), servers.free_port()
    configuration = directory / "nginx.conf"
    configuration.write_text(f"""
daemon off; worker_processes 1; pid {directory}/nginx.pid; error_log {directory}/nginx-error.log;
events {{ worker_connections 256; }}
http {{
  access_log off;
  server {{
    listen 127.0.0.1:{port} backlog=512;
    location ~ ^/iiif/(.*)$ {{
      fastcgi_pass 127.0.0.1:{fastcgi};
      fastcgi_param QUERY_STRING IIIF=$1;
      fastcgi_param REQUEST_METHOD GET;
    }}
  }}
}}
""")
    environment = {"FILESYSTEM_PREFIX": f"{original.parent}/", "MAX_CVT": "10000", "JPEG_QUALITY": "90"}
    pinned = ["taskset", "-c", _SERVERS_CORE]
    fcgi = [*pinned, _IIPSRV, "--bind", f"127.0.0.1:{fastcgi}"]
    nginx = [*pinned, "nginx", "-c", str(configuration)]
    with (
        servers.running(fcgi, fastcgi, directory / "iipsrv.log", environment) as first,
        servers.running(nginx, port, directory / "nginx.log") as second,
    ):
        yield Server("iipsrv", port, [first.pid, second.pid], f"/iiif/{original.name}")


@dataclass(frozen=True, slots=True)
class Load:
    """What wrk has counted. `errors` are answers of 400 and more, and requests without an answer."""

    requests: int
    seconds: float
    errors: int


def load(server: Server, paths: Sequence[str], clients: int, seconds: int) -> Load:
    """Asks for the paths in turn for that time, with a request at a time from each client."""
    with tempfile.TemporaryDirectory() as directory:
        script = Path(directory) / "paths.lua"
        script.write_text(_SCRIPT.format(paths=",\n".join(json.dumps(server.base + path) for path in paths)))
        command = [
            *("taskset", "-c", _CLIENTS_CORE, "wrk", "--threads=1", f"--connections={clients}"),
            *(f"--duration={seconds}s", "--timeout=60s", f"--script={script}", f"http://127.0.0.1:{server.port}"),
        ]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
    requests, microseconds, errors = map(int, done.stdout.splitlines()[-1].split())
    return Load(requests, microseconds / 1e6, errors)


def measure(server: Server, picture: str, count: int, seconds: int) -> dict[tuple[str, int], Found]:
    """Prints a line for each kind of request and number of clients."""
    every = {}
    for kind, paths in (("tiles", tiles(count)), ("regions", regions(count))):
        print(f"{server.name:12} {picture:4} {kind:9} first {1000 * first(server, paths[0]).seconds:.0f} ms")
        for clients in CLIENTS:
            every[kind, clients] = asked(server, f"{picture:4} {kind:9}", paths, clients, seconds)
    return every


@dataclass(frozen=True, slots=True)
class Found:
    """What requests have taken: CPU is of all processes of the server, for each of them."""

    a_second: float
    cpu_ms: float


Results = dict[tuple[str, str], dict[tuple[str, int], Found]]
"""By the name of the server and the picture; then by the kind of request and the number of clients."""


def asked(server: Server, name: str, paths: Sequence[str], clients: int, seconds: int) -> Found:
    """Prints a line."""
    before, before_first = server.cpu_seconds(), server.cpu_seconds(server.pids[:1])
    found = load(server, paths, clients, seconds)
    if not found.requests:
        raise SystemExit(f"{server.name} has not answered a request in {seconds} seconds: the machine is too busy")
    used, used_first = server.cpu_seconds() - before, server.cpu_seconds(server.pids[:1]) - before_first
    print(
        f"{server.name:12} {name} {clients:3} clients "
        f"{found.requests / found.seconds:7.0f} a second, CPU ms {1000 * used / found.requests:6.2f} "
        f"({1000 * used_first / found.requests:.2f} without a front), core busy {used / found.seconds:4.0%}"
        + (f", {found.errors} ERRORS" if found.errors else ""),
        flush=True,
    )
    return Found(found.requests / found.seconds, 1000 * used / found.requests)


@dataclass(frozen=True, slots=True)
class First:
    """One request, from its sending to the end of the answer; and the CPU of the server."""

    seconds: float
    cpu_seconds: float


def first(server: Server, path: str) -> First:
    used, begun = server.cpu_seconds(), time.perf_counter()
    with urllib.request.urlopen(f"http://127.0.0.1:{server.port}{server.base}{path}") as answer:
        answer.read()
    return First(time.perf_counter() - begun, server.cpu_seconds() - used)


def cold_tile(original: Path, directory: Path, rounds: int = 3) -> First:
    """The middle one of several servers, each with an empty cache: fetched, made a pyramid of, and answered."""
    every = []
    for _ in range(rounds):
        with ours(original, directory) as server:
            # The worker starts.
            with contextlib.suppress(urllib.error.HTTPError):
                urllib.request.urlopen(f"http://127.0.0.1:{server.port}/iiif/3/{'0' * 32}/info.json")
            every.append(first(server, _path(0, 0, *SIZE, level_size(SIZE, scale_factors(SIZE)[-1]))))
    found = sorted(every, key=lambda each: each.seconds)[rounds // 2]
    print(f"{_OURS:12} {original.name}, cold: {found.seconds:.2f} s, CPU {found.cpu_seconds:.2f} s", flush=True)
    return found


def limits(found: Results) -> Iterator[str]:
    """What is promised beside iipsrv, as lines."""
    for picture, most in (("tif", 2.0), ("jp2", 1.5)):
        own, other = found[_OURS, picture], found["iipsrv", picture]
        for clients in CLIENTS:
            one, two = own["tiles", clients], other["tiles", clients]
            where = f"{picture}, {clients} clients"
            yield page.at_most(f"CPU of a tile ({where})", one.cpu_ms / two.cpu_ms, 0.5, "times iipsrv's")
            if clients > 1:
                yield page.at_least(f"tiles a second ({where})", one.a_second / two.a_second, 2.0, "times iipsrv's")
            ratio = own["regions", clients].cpu_ms / other["regions", clients].cpu_ms
            yield page.at_most(f"CPU of a region ({where})", ratio, most, "times iipsrv's")


def table(found: Results) -> str:
    """A row for each server, picture and kind of request."""
    rows = [
        (
            *(server, picture, kind),
            *(f"{every[kind, clients].cpu_ms:.1f}" for clients in CLIENTS),
            *(f"{every[kind, clients].a_second:,.0f}" for clients in CLIENTS),
        )
        for (server, picture), every in found.items()
        for kind in ("tiles", "regions")
    ]
    columns = [f">{what}, {clients}" for what in ("CPU ms", "a second") for clients in CLIENTS]
    return page.table(("server", "picture", "requests", *columns), rows)


def report(plan: Plan) -> page.Figures:
    """All of it."""
    if missing := [each for each in (_IIPSRV, "nginx", "wrk") if not shutil.which(each)]:
        raise PeerMissing(f"not installed: {', '.join(missing)}")
    directory = DIRECTORY / "iiif"
    directory.mkdir(parents=True, exist_ok=True)
    tiff, jpeg2000, jpeg = (directory / name for name in ("80.tif", "80.jp2", "80.jpg"))
    make_originals(tiff, jpeg2000, jpeg)
    cold = cold_tile(jpeg, directory)
    found: Results = {}
    starts: list[Callable[[Path, Path], contextlib.AbstractContextManager[Server]]] = [iipsrv, ours]
    for original in (tiff, jpeg2000):
        for start in starts:
            with start(original, directory) as server:
                picture = original.suffix[1:]
                found[server.name, picture] = measure(server, picture, plan.places, plan.seconds)
                if start is ours and original is tiff:
                    thumbnail = thumbnails(server, plan.seconds)
    more = (
        page.at_most("thumbnail of 400 pixels of the TIFF", thumbnail.cpu_ms, 30, "ms of CPU"),
        page.at_most("first tile of a cold JPEG", cold.seconds, 3, "seconds"),
    )
    return page.Figures(page.paragraphs(table(found), "\n".join((*limits(found), *more))))


def thumbnails(server: Server, seconds: int) -> Found:
    """The same one of 400 pixels each time; no server keeps results."""
    of_thumbnails = replace(server, base=f"/clip/400x400{server.base.removeprefix('/iiif/3')}")
    first(of_thumbnails, "")
    return asked(of_thumbnails, "tif  thumbnail", [""], 1, seconds)


BLOCKS = (page.Block("iiif", report, Plan()),)

if __name__ == "__main__":
    page.main(report, Plan(), __doc__)
