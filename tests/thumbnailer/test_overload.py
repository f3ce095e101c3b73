"""Ten times the server's capacity: the excess gets 503 at once, memory does not grow, and it recovers afterwards."""

from __future__ import annotations

import os
import time
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from bench import process_tree
from tests.support import servers
from tests.thumbnailer.conftest import TWO_WORKERS, Thumbnailer, picture, thumbnailer
from tests.thumbnailer.load import health_watched

Put = Callable[[bytes], str]

# `OVERLOAD_SECONDS=600 pytest tests/thumbnailer/test_overload.py` for longer.
SECONDS = float(os.environ.get("OVERLOAD_SECONDS", "3"))
MAX_QUEUE = 4
WORKERS = 2
# Clients wait this long after a 503; otherwise they would use all of the machine.
PAUSE_SECONDS = 0.1


@pytest.mark.slow
def test_ten_times_its_capacity_gives_200_or_503_and_nothing_else(s3_server: str, put: Put, tmp_path: Path) -> None:
    path = f"/scale/1000x1000/{put(picture((1000, 800)))}"
    with thumbnailer(tmp_path, s3_server, TWO_WORKERS, f"--max_queue={MAX_QUEUE}") as server:
        # Both workers have seen it, so that their permanent memory is included in the baseline.
        with ThreadPoolExecutor(WORKERS) as threads:
            assert {answer.status for answer in threads.map(server.get, [path] * 8)} == {200}
        before = process_tree.resident_mib(server.process.pid)
        deadline = time.monotonic() + SECONDS
        clients = 10 * (WORKERS + MAX_QUEUE)
        with health_watched(server), ThreadPoolExecutor(clients) as threads:
            loads = [threads.submit(_ask_until, deadline, server, path) for _ in range(clients)]
            statuses = sum((load.result() for load in loads), Counter[int]())
        assert set(statuses) == {200, 503}
        servers.wait_until(lambda: server.get(path).status == 200, "well again")
        assert process_tree.resident_mib(server.process.pid) < before + 100


def _ask_until(deadline: float, server: Thumbnailer, path: str) -> Counter[int]:
    statuses: Counter[int] = Counter()
    while time.monotonic() < deadline:
        answer = server.get(path)
        statuses[answer.status] += 1
        if answer.status == 503:
            assert int(answer.headers["Retry-After"]) > 0
            assert answer.json["error_code"] == 401
            time.sleep(PAUSE_SECONDS)
    return statuses
