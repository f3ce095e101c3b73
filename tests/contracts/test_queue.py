"""The contract of the daemon's SQS adapter, on moto's server and on the fast one of larger tests."""

from __future__ import annotations

import threading
import time

import pytest

from md5s3stash.errors import QueueRefused, QueueUnavailable
from md5s3stash.s3.client import new_session
from md5s3stash_daemon.intake.sqs.client import Queue, connect_queue
from tests.support.queues import TestQueue
from tests.support.servers import free_port, wait_until


@pytest.fixture(params=["moto", "quick"])
def ours(request: pytest.FixtureRequest, s3_server: str, quick_sqs: str) -> TestQueue:
    return TestQueue(s3_server if request.param == "moto" else quick_sqs, max_deliveries=3)


@pytest.fixture
def queue(ours: TestQueue) -> Queue:
    return connect_queue(ours.url, new_session())


def test_what_is_sent_is_received_once_and_gone_when_deleted(queue: Queue, ours: TestQueue) -> None:
    sent_at = time.time()
    assert queue.send(["a", "é\u2028b"]) == []

    found = queue.receive(10, 0, 60)

    assert sorted(message.body for message in found) == ["a", "é\u2028b"]
    assert {message.deliveries for message in found} == {1}
    assert all(abs(message.sent_seconds - sent_at) < 60 for message in found)
    assert queue.receive(10, 0, 60) == []
    assert ours.counts() == (0, 2)
    queue.delete([message.receipt for message in found])
    assert ours.is_empty()


def test_a_message_comes_again_when_its_visibility_is_over_or_given_up(queue: Queue) -> None:
    queue.send(["a"])
    [first] = queue.receive(10, 0, 1)
    [second] = queue.receive(10, 5, 60)
    queue.set_visibility([(second.receipt, 0)])
    [third] = queue.receive(10, 5, 60)

    assert first.id == second.id == third.id
    assert [message.deliveries for message in (first, second, third)] == [1, 2, 3]


def test_a_heartbeat_keeps_a_message_hidden(queue: Queue) -> None:
    queue.send(["a"])
    [message] = queue.receive(10, 0, 2)
    queue.set_visibility([(message.receipt, 60)])

    assert queue.receive(10, 3, 60) == []


def test_a_receipt_that_is_no_longer_good_is_no_error(queue: Queue) -> None:
    queue.send(["a"])
    [message] = queue.receive(10, 0, 60)
    queue.delete([message.receipt])

    queue.delete([message.receipt])
    queue.set_visibility([(message.receipt, 60)])


def test_what_is_delivered_too_often_goes_to_the_dead_letter_queue(queue: Queue, ours: TestQueue) -> None:
    queue.send(["poison"])
    for _ in range(3):
        [message] = queue.receive(10, 5, 60)
        queue.set_visibility([(message.receipt, 0)])

    assert queue.receive(10, 1, 60) == []
    assert ours.dead() == ["poison"]
    assert queue.facts().max_deliveries == 3


def test_a_message_that_is_waited_for_comes_at_once(queue: Queue) -> None:
    threading.Timer(0.5, lambda: queue.send(["a"])).start()
    begun = time.monotonic()

    assert [message.body for message in queue.receive(10, 10, 60)] == ["a"]
    assert time.monotonic() - begun < 8


def test_a_queue_that_is_not_there_is_refused_and_a_server_that_is_not_there_unavailable(ours: TestQueue) -> None:
    with pytest.raises(QueueRefused, match="no such queue"):
        connect_queue(ours.url + "-not", new_session()).receive(1, 0, 60)
    with pytest.raises(QueueUnavailable):
        connect_queue(f"http://127.0.0.1:{free_port()}/1/x", new_session()).receive(1, 0, 60)
    wait_until(ours.is_empty, "nothing happened")
