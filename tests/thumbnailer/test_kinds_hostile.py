"""Bombs of every kind of file: each is shown or refused, and the server lives on."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator

import pytest

from tests.thumbnailer import kind_files
from tests.thumbnailer.conftest import Thumbnailer, thumbnailer
from tests.thumbnailer.hostile_files import BOMBS

PUT = Callable[[bytes], str]
SHOWN_OR_REFUSED = {200, 404, 415, 422}


@pytest.fixture(scope="module")
def server(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    # They end where their memory does: on a busy machine a short time would end others too.
    limits = ("--render_timeout=100", "--queue_timeout=100", f"--worker_memory={256 * 1024 * 1024}")
    with thumbnailer(tmp_path_factory.mktemp("hostile"), s3_server, *limits) as running:
        yield running


@pytest.mark.parametrize("bomb", BOMBS)
def test_bomb_is_shown_or_refused_and_the_server_answers(bomb: str, server: Thumbnailer, put: PUT) -> None:
    assert server.get(f"/clip/30x30/{put(BOMBS[bomb]())}").status in SHOWN_OR_REFUSED

    begun = time.monotonic()
    assert server.get("/healthz").status == 200
    assert time.monotonic() - begun < 5
    assert server.get(f"/clip/30x30/{put(kind_files.svg())}").status == 200
