"""Asks an IIIF server for tiles over many connections at once, each asking again as soon as it has its answer, whatever
that says. A process of its own; reads a `Crawl` as JSON on standard input, and prints how often each status came.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Crawl:
    """All connections are of one client, as a proxy names it."""

    port: int
    client: str
    paths: Sequence[str]
    connections: int
    seconds: float


def run(crawl: Crawl) -> Counter[int]:
    """The number of answers by status. After the last path it starts again with the first."""
    statuses: Counter[int] = Counter()
    counting = threading.Lock()
    deadline = time.monotonic() + crawl.seconds

    def ask_on(first: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", crawl.port, timeout=60)
        number = first
        while time.monotonic() < deadline:
            path = crawl.paths[number % len(crawl.paths)]
            connection.request("GET", path, headers={"X-Forwarded-For": crawl.client})
            response = connection.getresponse()
            response.read()
            with counting:
                statuses[response.status] += 1
            number += crawl.connections
        connection.close()

    threads = [threading.Thread(target=ask_on, args=(number,)) for number in range(crawl.connections)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return statuses


if __name__ == "__main__":
    print(json.dumps(run(Crawl(**json.load(sys.stdin)))))
