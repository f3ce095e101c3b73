"""`md5s3stash-enqueue` against a real queue: it sends all of a list, whatever fails on the way."""

from __future__ import annotations

import json
import os
import pty
import signal
import subprocess
import sys
import termios
import threading
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from md5s3stash.errors import QueueUnavailable
from md5s3stash.s3.client import new_session
from md5s3stash_daemon.intake.sqs.client import Queue, connect_queue
from tests.support import warm
from tests.support.daemon import IMPORT_PATH
from tests.support.faulty_s3 import Fault, FaultyS3
from tests.support.origin import Origin, Reply, Request
from tests.support.queues import TestQueue
from tests.support.servers import wait_until

PROGRAM = ("md5s3stash_daemon.enqueue.main",)


@pytest.fixture
def queue(quick_sqs: str) -> TestQueue:
    return TestQueue(quick_sqs)


def command(queue_url: str, *arguments: str) -> list[str]:
    return [sys.executable, "-m", *PROGRAM, "--queue", queue_url, *arguments]


def environment() -> dict[str, str]:
    return {**os.environ, "PYTHONPATH": IMPORT_PATH}


def enqueue(queue_url: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return warm.run([*PROGRAM, "--queue", queue_url, *arguments], environment())


def enqueue_from(stdin: bytes, queue_url: str, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run(
        command(queue_url, *arguments), env=environment(), input=stdin, capture_output=True, timeout=60, check=False
    )


def a_list(path: Path, urls: Sequence[str]) -> Path:
    path.write_text("".join(f"{url}\n" for url in urls))
    return path


def urls(count: int) -> list[str]:
    return [f"https://example.org/{number}" for number in range(count)]


def test_every_url_of_a_list_is_in_the_queue_once(queue: TestQueue, tmp_path: Path) -> None:
    ours = a_list(tmp_path / "x.urls", urls(237))

    done = enqueue(queue.url, str(ours))

    assert done.returncode == 0, done.stderr
    assert b"sent 237 URLs; 0 lines were not URLs" in done.stdout
    assert sorted(queue.bodies()) == sorted(urls(237))
    assert list(tmp_path.iterdir()) == [ours]


def test_lines_that_are_no_urls_are_named_and_not_sent(queue: TestQueue) -> None:
    lines = [
        "# a list",
        "https://a.example/",
        "",
        "file:///etc/passwd",
        "https://u:hunter2@b.example/",
        "https://c/\uffff",
    ]

    done = enqueue_from("\n".join(lines).encode(), queue.url, "-")

    assert done.returncode == 1
    assert queue.bodies() == ["https://a.example/"]
    told = done.stderr.decode().splitlines()
    assert [line.split(":")[1].strip() for line in told] == ["line 4", "line 5", "line 6"]
    assert "hunter2" not in done.stderr.decode()


def test_a_profile_is_named_in_each_message(queue: TestQueue) -> None:
    assert enqueue_from(b"https://a.example/\n", queue.url, "--auth-profile", "museum", "-").returncode == 0

    [body] = queue.bodies()
    assert json.loads(body) == {"url": "https://a.example/", "auth-profile": "museum"}


class Flaky:
    """A relay before the queue's server that can refuse requests."""

    def __init__(self, origin: Origin, queue: TestQueue) -> None:
        self.origin = origin
        self.sent = 0
        self._queue = queue
        self.refuse_after = sys.maxsize
        self.partial_every = 0
        # After some batches, answers take their time until this file exists, and then wait for the release.
        self.hold_at: Path | None = None
        self.released = threading.Event()
        path = "/" + queue.url.split("/", 3)[3]
        origin.answer("/", self._answer)
        self.url = origin.url(path)

    def _answer(self, request: Request) -> Reply:
        entries = json.loads(request.body)["Entries"]
        self.sent += 1
        if self.hold_at and self.sent > 20:
            self.released.wait(None if self.hold_at.exists() else 0.5)
        if self.sent > self.refuse_after:
            return Reply(
                403, b'{"__type": "com.amazonaws.sqs#AccessDenied"}', {"x-amzn-query-error": "AccessDenied;Sender"}
            )
        kept = entries
        if self.partial_every and self.sent % self.partial_every == 0:
            kept = entries[: len(entries) // 2]
        answer = self._queue.client.send_message_batch(QueueUrl=self._queue.url, Entries=kept)
        failed = [{"Id": entry["Id"], "SenderFault": False, "Code": "InternalError"} for entry in entries[len(kept) :]]
        return Reply(
            body=json.dumps({"Successful": answer["Successful"], "Failed": failed}).encode(),
            headers={"Content-Type": "application/x-amz-json-1.0"},
        )


def test_what_a_batch_leaves_out_is_sent_again(queue: TestQueue, tmp_path: Path) -> None:
    with Origin() as origin:
        flaky = Flaky(origin, queue)
        flaky.partial_every = 3
        ours = a_list(tmp_path / "x.urls", urls(100))
        done = enqueue(flaky.url, str(ours))
    assert done.returncode == 0, done.stderr
    assert sorted(queue.bodies()) == sorted(urls(100))


def test_it_goes_on_where_a_refusal_stopped_it(queue: TestQueue, tmp_path: Path) -> None:
    ours = a_list(tmp_path / "x.urls", urls(500))
    with Origin() as origin:
        flaky = Flaky(origin, queue)
        flaky.refuse_after = 20
        refused = enqueue(flaky.url, "--jobs", "2", str(ours))
        assert refused.returncode == 1
        assert b"the role needs sqs:" in refused.stderr
        assert b"Traceback" not in refused.stderr
        flaky.refuse_after = sys.maxsize
        done = enqueue(flaky.url, "--jobs", "2", str(ours))

    assert done.returncode == 0, done.stderr
    assert b"resuming after line " in done.stderr
    assert b"sent 500 URLs;" in done.stdout
    bodies = queue.bodies()
    assert set(bodies) == set(urls(500))
    assert len(bodies) <= 500 + 3 * 10


@pytest.mark.parametrize("way", ["file", "pipe"])
def test_a_kill_sends_a_few_again_and_skips_none(queue: TestQueue, tmp_path: Path, way: str) -> None:
    ours = a_list(tmp_path / "x.urls", urls(1000))
    cursor = tmp_path / "x.cursor"
    with Origin() as origin:
        flaky = Flaky(origin, queue)
        flaky.hold_at = cursor
        run = command(flaky.url, "--cursor", str(cursor), "--jobs", "2", str(ours) if way == "file" else "-")
        with open(ours, "rb") as stdin:
            process = subprocess.Popen(run, env=environment(), stdin=stdin, stdout=subprocess.DEVNULL)
            wait_until(cursor.exists, "under way")
            process.send_signal(signal.SIGKILL)
            process.wait()
        assert cursor.exists()
        flaky.released.set()
        with open(ours, "rb") as stdin:
            done = subprocess.run(run, env=environment(), stdin=stdin, capture_output=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert b"sent 1,000 URLs;" in done.stdout
    assert not cursor.exists()
    bodies = queue.bodies()
    assert set(bodies) == set(urls(1000))
    # The few batches that were sent since the cursor; from the first line, they would be 20 more.
    assert len(bodies) <= 1000 + 10 * 10


def test_an_interrupt_keeps_the_cursor(queue: TestQueue, tmp_path: Path) -> None:
    ours = a_list(tmp_path / "x.urls", urls(1000))
    cursor = tmp_path / "x.urls.cursor"
    with Origin() as origin:
        flaky = Flaky(origin, queue)
        flaky.hold_at = cursor
        run = [*PROGRAM, "--queue", flaky.url, "--jobs", "2", str(ours)]
        process = warm.start(run, environment(), tmp_path / "output")
        wait_until(cursor.exists, "under way")
        process.send_signal(signal.SIGINT)
        flaky.released.set()
        assert process.wait(30) == 130
    told = (tmp_path / "output").read_bytes()
    assert b"interrupted" in told
    assert b"Traceback" not in told
    assert json.loads(cursor.read_text())["lines"] > 0


def test_a_cursor_of_another_list_or_queue_is_refused(queue: TestQueue, tmp_path: Path) -> None:
    ours = a_list(tmp_path / "x.urls", urls(20))
    cursor = tmp_path / "x.urls.cursor"
    mine = {"lines": 1, "offset": 5, "sha256": "0" * 64, "urls": 1, "faults": 0, "queue": queue.url}
    for content, words in [
        (json.dumps(mine), b"belongs to another list"),
        (json.dumps({**mine, "queue": "https://elsewhere/1/x"}), b"belongs to another queue"),
        ("[]", b"is not a cursor file"),
        ('{"queue": 1, "lines": "x"}', b"is not a cursor file"),
    ]:
        cursor.write_text(content)
        done = enqueue(queue.url, str(ours))
        assert (done.returncode, words in done.stderr, b"Traceback" in done.stderr) == (2, True, False), done.stderr
    assert queue.bodies() == []


@pytest.mark.parametrize(
    ("arguments", "status", "words"),
    [
        (["/nowhere.urls"], 1, b"/nowhere.urls: No such file"),
        (["--jobs", "0", "-"], 2, b"--jobs"),
        (["--queue", "nonsense", "-"], 2, b"a queue's URL"),
        ([], 2, b"required: LIST"),
    ],
)
def test_wrong_arguments_are_told_in_one_line(
    queue: TestQueue, arguments: list[str], status: int, words: bytes
) -> None:
    done = enqueue(queue.url, *arguments)

    assert done.returncode == status
    assert words in done.stderr
    assert len(done.stderr.splitlines()) == 1


def test_a_terminal_sees_a_bar(queue: TestQueue, tmp_path: Path) -> None:
    ours = a_list(tmp_path / "x.urls", urls(10_000))
    ours_end, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 80))
    process = subprocess.Popen(
        command(queue.url, str(ours)), env=environment(), stderr=theirs, stdout=subprocess.DEVNULL
    )
    os.close(theirs)
    shown = b""
    while True:
        try:
            shown += os.read(ours_end, 65536)
        except OSError:
            break
    assert process.wait(60) == 0
    assert b" URLs/s" in shown


@pytest.mark.parametrize(
    "ask",
    [
        lambda queue: queue.send(["https://a.example/"]),
        lambda queue: queue.receive(1, 0, 1),
        lambda queue: queue.delete(["receipt"]),
        lambda queue: queue.set_visibility([("receipt", 1)]),
        lambda queue: queue.facts(),
    ],
    ids=["send", "receive", "delete", "set_visibility", "facts"],
)
def test_a_web_page_is_no_answer_of_sqs(
    queue: TestQueue, monkeypatch: pytest.MonkeyPatch, ask: Callable[[Queue], object]
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    with FaultyS3(queue.url.rpartition("/")[0]) as portal:
        portal.break_down(Fault.PORTAL)
        asked = connect_queue(f"{portal.endpoint}/1/q", new_session())

        with pytest.raises(QueueUnavailable, match="not SQS"):
            ask(asked)
