"""The servers of the thumbnail benchmark: how to start each, and its URL for a thumbnail.

All have the originals on a local disk, except for plain pilbox, which fetches each original from a server on this
machine, because it accepts only URLs. No server caches results.
"""

from __future__ import annotations

import contextlib
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from urllib.parse import urlencode

from bench import process_tree
from bench.peer_packages import node_packages, python_environment
from bench.picture_corpus import Original
from tests.support import servers

ROOT = Path(__file__).resolve().parent.parent
WORKERS = os.cpu_count() or 1
OURS_WITH_COPIES = "md5s3stash with reduced copies"
_BUCKET = "originals"
# Each original is also there, for paths such as /clip/500x500/26094/{md5}.
COLLECTION = "26094"
# Pillow's default is 75, sharp's and thumbor's 80, pilbox's 90.
QUALITY = 80
# Longer than any queue of the benchmark, so that no server drops requests.
_PATIENCE_SECONDS = 300


@dataclass(frozen=True, slots=True)
class Shape:
    """A thumbnail to request: `crop` fills the box, `clip` fits into it."""

    mode: str
    side: int

    def __str__(self) -> str:
        return f"{self.mode} {self.side}x{self.side}"


@dataclass(frozen=True)
class Site:
    """The surroundings of the servers."""

    directory: Path
    corpus: Path
    s3: servers.RcloneS3
    origin_port: int


@dataclass(frozen=True)
class Program:
    """One start of a server."""

    command: Sequence[str | Path]
    versions: str
    path: Callable[[Original, Shape], str]
    environment: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Running:
    """A running server."""

    name: str
    versions: str
    port: int
    pid: int
    path: Callable[[Original, Shape], str]


def md5s3stash_program(site: Site, port: int) -> Program:
    """Every thumbnail from its original."""
    return _md5s3stash(site, port, site.directory / "cache", "--reduced_side=0")


def with_copies_program(site: Site, port: int) -> Program:
    """With default settings, and without copies of earlier runs."""
    return _md5s3stash(site, port, _fresh(site.directory / "cache-with-copies"))


def _md5s3stash(site: Site, port: int, cache: Path, *options: str) -> Program:
    def path(original: Original, shape: Shape) -> str:
        return f"/{shape.mode}/{shape.side}x{shape.side}/{original.md5}?fmt=jpg&q={QUALITY}"

    return Program(
        [
            *(sys.executable, "-m", "md5s3stash_thumbnailer", "--address=127.0.0.1", f"--port={port}"),
            *(f"--workers={WORKERS}", f"--timeout={_PATIENCE_SECONDS}", f"--queue_timeout={_PATIENCE_SECONDS}"),
            *(f"--cache_dir={cache}", "--logging=warning", *options),
        ],
        f"md5s3stash {version('md5s3stash')}, {_python_versions('pilbox', 'pillow', 'tornado')}",
        path,
        {
            "BUCKET_BASE": _BUCKET,
            "KEY_TEMPLATE": "{collection}/{md5}",
            "S3_ENDPOINT": site.s3.endpoint,
            "AWS_ACCESS_KEY_ID": site.s3.access_key,
            "AWS_SECRET_ACCESS_KEY": site.s3.secret_key,
            "AWS_DEFAULT_REGION": "us-east-1",
            "PYTHONPATH": os.pathsep.join((str(ROOT), str(ROOT / "thumbnailer"))),
        },
    )


def pilbox_program(site: Site, port: int) -> Program:
    def path(original: Original, shape: Shape) -> str:
        url = f"http://127.0.0.1:{site.origin_port}/{original.path.name}"
        query = {"url": url, "mode": shape.mode, "w": shape.side, "h": shape.side, "fmt": "jpg", "q": QUALITY}
        return f"/?{urlencode(query)}"

    # `python -m pilbox.app` with the one name that current Pillow lacks.
    start = (
        "import runpy, PIL.Image; PIL.Image.ANTIALIAS = PIL.Image.Resampling.LANCZOS; "
        "runpy.run_module('pilbox.app', run_name='__main__', alter_sys=True)"
    )
    options = [f"--port={port}", f"--workers={WORKERS}", f"--timeout={_PATIENCE_SECONDS}", "--logging=warning"]
    return Program([sys.executable, "-c", start, *options], _python_versions("pilbox", "pillow", "tornado"), path)


def thumbor_program(site: Site, port: int) -> Program:
    def path(original: Original, shape: Shape) -> str:
        fit = "fit-in/" if shape.mode == "clip" else ""
        filters = f"filters:quality({QUALITY}):format(jpeg)"
        return f"/unsafe/{fit}{shape.side}x{shape.side}/{filters}/{original.path.name}"

    home = python_environment("thumbor", site.directory)
    configuration = site.directory / "thumbor.conf"
    configuration.write_text(
        "LOADER = 'thumbor.loaders.file_loader'\n"
        f"FILE_LOADER_ROOT_PATH = {str(site.corpus)!r}\n"
        "STORAGE = 'thumbor.storages.no_storage'\n"
        "RESULT_STORAGE = None\n"
        # As the others write it; thumbor's default is more expensive.
        "PROGRESSIVE_JPEG = False\n"
    )
    command: list[str | Path] = [home / "bin/thumbor", f"--port={port}", "--ip=127.0.0.1", f"--conf={configuration}"]
    command += [f"--processes={WORKERS}", "--log-level=error"]
    names = ("thumbor", "pillow", "tornado")
    ask = f"from importlib.metadata import version; print(', '.join(f'{{n}} {{version(n)}}' for n in {names}))"
    return Program(command, _output([home / "bin/python", "-c", ask]), path)


def ipx_program(site: Site, port: int) -> Program:
    def path(original: Original, shape: Shape) -> str:
        fit = "fit_inside," if shape.mode == "clip" else ""
        return f"/{fit}s_{shape.side}x{shape.side},q_{QUALITY},f_jpeg/{original.path.name}"

    home = node_packages(site.directory)
    command: list[str | Path] = [home / "node_modules/.bin/ipx", "serve", "--dir", site.corpus, "--port", str(port)]
    return Program(
        [*command, "--host", "127.0.0.1"], f"ipx {_node_version(home, 'ipx')}, {_sharp_versions(home)}", path
    )


def sharp_program(site: Site, port: int) -> Program:
    def path(original: Original, shape: Shape) -> str:
        fit = {"crop": "cover", "clip": "inside"}[shape.mode]
        return f"/{fit}/{shape.side}/{shape.side}/{QUALITY}/{original.path.name}"

    home = node_packages(site.directory)
    return Program(["node", home / "sharp_server.mjs", str(port), site.corpus], _sharp_versions(home), path)


PROGRAMS: dict[str, Callable[[Site, int], Program]] = {
    "md5s3stash": md5s3stash_program,
    OURS_WITH_COPIES: with_copies_program,
    "pilbox": pilbox_program,
    "thumbor": thumbor_program,
    "sharp through ipx": ipx_program,
    "sharp alone": sharp_program,
}


@contextlib.contextmanager
def site_for(originals: Sequence[Original], directory: Path) -> Iterator[Site]:
    """An S3 server and a web server with the originals."""
    corpus = originals[0].path.parent
    port = servers.free_port()
    serve: list[str | Path] = [sys.executable, ROOT / "bench/file_origin.py", str(port), corpus]
    with servers.rclone_s3(_fresh(directory / "s3")) as s3, servers.running(serve, port, directory / "origin.log"):
        bucket = s3.directory / _BUCKET
        (bucket / COLLECTION).mkdir(parents=True)
        for original in originals:
            os.link(original.path, bucket / original.md5)
            os.link(original.path, bucket / COLLECTION / original.md5)
        yield Site(directory, corpus, s3, port)


@contextlib.contextmanager
def running(name: str, site: Site) -> Iterator[Running]:
    """The server of that name. Raises PeerMissing."""
    port = servers.free_port()
    program = PROGRAMS[name](site, port)
    log_path = site.directory / f"{name.replace(' ', '-')}.log"
    with servers.running(program.command, port, log_path, program.environment) as process:
        try:
            yield Running(name, program.versions, port, process.pid, program.path)
        finally:
            _end_children(process.pid)


def _end_children(pid: int) -> None:
    # Processes that tornado forked outlive their parent.
    for child in reversed(process_tree.tree(pid)[1:]):
        with contextlib.suppress(ProcessLookupError):
            os.kill(child, 15)


def _fresh(directory: Path) -> Path:
    shutil.rmtree(directory, ignore_errors=True)
    directory.mkdir(mode=0o700, parents=True)
    return directory


def _python_versions(*names: str) -> str:
    return ", ".join(f"{name} {version(name)}" for name in names)


def _node_version(home: Path, package: str) -> str:
    return _output(["node", "-p", f"require('./node_modules/{package}/package.json').version"], home)


def _sharp_versions(home: Path) -> str:
    libvips = _output(["node", "-p", "require('sharp').versions.vips"], home)
    return f"sharp {_node_version(home, 'sharp')}, libvips {libvips}, node {_output(['node', '--version'])[1:]}"


def _output(command: Sequence[str | Path], directory: Path | None = None) -> str:
    return subprocess.run(command, cwd=directory, capture_output=True, text=True, check=True).stdout.strip()
