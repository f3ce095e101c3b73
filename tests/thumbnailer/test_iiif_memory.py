"""A picture that does not fit in the memory of a worker is 422 in every format, and ends no worker."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from md5s3stash_thumbnailer.render.region_request import FORMATS
from tests.thumbnailer.conftest import picture, thumbnailer

_LEAST_WORKER_MEMORY = 64 * 1024 * 1024


@pytest.mark.parametrize("side", [1000, 1600, 2200])
def test_picture_beyond_the_memory_of_a_worker_is_refused_in_every_format(
    s3_server: str, put: Callable[[bytes], str], tmp_path: Path, side: int
) -> None:
    md5 = put(picture((side, side)))
    with thumbnailer(tmp_path, s3_server, f"--worker_memory={_LEAST_WORKER_MEMORY}") as server:
        paths = [f"/iiif/3/{md5}/full/max/{turn}/default.{name}" for name in FORMATS for turn in (0, 30)]
        paths += [f"/scale/{side}x{side}/{md5}?fmt={name}" for name in ("webp", "gif", "tiff")]
        statuses = {path: server.get(path).status for path in paths}
        replaced = server.log.count("event=worker_replaced")

    assert {path: status for path, status in statuses.items() if status not in (200, 422)} == {}
    assert replaced == 0
    assert side < 2200 or 422 in statuses.values()
