"""Requests paths from an HTTP server with a number of concurrent clients, each with one request at a time.

Runs as a separate process, so that its CPU time is counted apart: reads a `Job` as JSON on standard input, prints a
`Load`. Every request uses a new connection, so that an idle process behind the port gets it. Kept-alive connections
stay with the process that accepted them: then one process may idle while another has a queue.
"""

from __future__ import annotations

import http.client
import json
import sys
import threading
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass

_TIMEOUT_SECONDS = 300


@dataclass(frozen=True)
class Job:
    """The server, the paths and the number of clients."""

    port: int
    paths: Sequence[str]
    clients: int


@dataclass(frozen=True)
class Load:
    """The result. `milliseconds` has for each path, in the order of the job, the time from connect to the last byte.
    The rate counts only the time in which every client was busy: at the end of the list fewer processes have work,
    which a steady load would not show.
    """

    requests_per_second: float
    milliseconds: Sequence[float]
    failures: Sequence[str]
    client_cpu_seconds: float


def run(job: Job) -> Load:
    """All paths of the job, each once, in order."""
    work = iter(enumerate(job.paths))
    taking = threading.Lock()
    milliseconds: dict[int, float] = {}
    failures: list[str] = []
    finished: list[float] = []
    last_taken = 0.0

    def take() -> tuple[int, str] | None:
        nonlocal last_taken
        with taking:
            task = next(work, None)
            if task:
                last_taken = time.perf_counter()
            return task

    def client() -> None:
        while task := take():
            number, path = task
            asked = time.perf_counter()
            failure = _failure(job.port, path)
            ended = time.perf_counter()
            finished.append(ended)
            milliseconds[number] = 1000 * (ended - asked)
            if failure:
                failures.append(f"{path}: {failure}")

    threads = [threading.Thread(target=client) for _ in range(job.clients)]
    started, cpu_started = time.perf_counter(), time.process_time()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    done = sum(when <= last_taken for when in finished)
    return Load(
        done / (last_taken - started),
        [milliseconds[number] for number in range(len(job.paths))],
        failures,
        time.process_time() - cpu_started,
    )


def _failure(port: int, path: str) -> str | None:
    """The error of the answer; None for a picture."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=_TIMEOUT_SECONDS)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = response.read()
    except (OSError, http.client.HTTPException) as error:
        return repr(error)
    finally:
        connection.close()
    if response.status != 200 or not body.startswith(b"\xff\xd8"):
        return f"{response.status} {body[:200]!r}"
    return None


if __name__ == "__main__":
    print(json.dumps(asdict(run(Job(**json.load(sys.stdin))))))
