"""The kinds beside pictures: what all of them promise, whatever the kind."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from md5s3stash_thumbnailer.render import kinds
from tests.thumbnailer import kind_files
from tests.thumbnailer.conftest import ROOT, environment, thumbnailer

PUT = Callable[[bytes], str]
KIND_NAMES = sorted(kinds.every())

# Draws a PDF and a JPEG in a package from which a module was removed.
DRAW = """
import io, json, sys
import PIL.Image
from md5s3stash_thumbnailer.errors import ThumbnailError
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, prepare_process, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
limits = RenderLimits(kinds=kinds.chosen("all")[0])
prepare_process(limits)
outcomes = {}
for name in sys.argv[1:]:
    try:
        with open(name, "rb") as file:
            outcomes[name] = render(file, ThumbnailRequest("clip", 60, 60, "0" * 32), limits).kind
    except ThumbnailError as error:
        outcomes[name] = str(error)
print(json.dumps([limits.kinds, outcomes]))
"""


@pytest.fixture(scope="module")
def server(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> object:
    with thumbnailer(tmp_path_factory.mktemp("kinds"), s3_server) as running:
        yield running


@pytest.mark.parametrize("removed", [*KIND_NAMES, "*"])
def test_a_kind_is_removed_with_its_module_alone(removed: str, tmp_path: Path) -> None:
    package = tmp_path / "md5s3stash_thumbnailer"
    shutil.copytree(ROOT / "thumbnailer/md5s3stash_thumbnailer", package)
    gone = KIND_NAMES if removed == "*" else [removed]
    for name in gone:
        (package / f"render/kinds/{name}.py").unlink()
    (tmp_path / "a.pdf").write_bytes(kind_files.pdf())
    shutil.copy(ROOT / "samples/gradient.jpg", tmp_path / "b.jpg")
    path = f"{tmp_path}:{ROOT}"

    found = subprocess.run(
        [sys.executable, "-c", DRAW, "a.pdf", "b.jpg"],
        cwd=tmp_path,
        env={**environment(None), "PYTHONPATH": path},
        capture_output=True,
        check=True,
    )

    shown, outcomes = json.loads(found.stdout)
    assert shown == [name for name in KIND_NAMES if name not in gone]
    assert outcomes["b.jpg"] == ""
    assert outcomes["a.pdf"] == ("pdf" if "pdf" in shown else "File is not an image of a kind that is shown")
