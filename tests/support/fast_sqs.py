"""A process that serves the part of SQS that we use, for tens of thousands of messages: moto visits every message of a
queue for each request.

`python -m tests.support.fast_sqs PORT ADDRESS`. It passes the same contract tests as moto's.
"""

from __future__ import annotations

import asyncio
import contextlib
import hashlib
import heapq
import itertools
import json
import subprocess
import sys
import time
import uuid
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.support.servers import free_port, running


@contextlib.contextmanager
def fast_sqs(directory: Path, address: str = "127.0.0.1") -> Iterator[str]:
    """Yields the endpoint URL."""
    with running_sqs(directory, address) as (endpoint, _):
        yield endpoint


@contextlib.contextmanager
def running_sqs(directory: Path, address: str = "127.0.0.1") -> Iterator[tuple[str, subprocess.Popen[bytes]]]:
    """The endpoint URL, and the process."""
    port = free_port()
    command = [sys.executable, "-m", "tests.support.fast_sqs", str(port), address]
    with running(command, port, directory / "sqs.log", address=address) as process:
        yield f"http://{address}:{port}", process


class Refused(Exception):
    """A client error, by its code."""


class _Message:
    def __init__(self, body: str) -> None:
        self.id = str(uuid.uuid4())
        self.body = body
        self.sent_ms = int(time.time() * 1000)
        self.deliveries = 0
        self.receipt = ""
        # Of the valid entry in the heap; older entries are skipped.
        self.entry = -1


class _Queue:
    def __init__(self, url: str) -> None:
        self.url = url
        self.attributes: dict[str, str] = {}
        self.ready: deque[_Message] = deque()
        self.held: dict[str, _Message] = {}
        self.invisible: list[tuple[float, int, _Message]] = []
        self.came = asyncio.Event()
        self._entries = itertools.count()

    def put(self, message: _Message) -> None:
        self.ready.append(message)
        self.came.set()

    def take(self, most: int, visibility_seconds: float, dead: _Queue | None, max_deliveries: int) -> list[_Message]:
        self.show_expired()
        taken: list[_Message] = []
        while self.ready and len(taken) < most:
            message = self.ready.popleft()
            if dead is not None and message.deliveries >= max_deliveries:
                dead.put(message)
                continue
            message.deliveries += 1
            message.receipt = uuid.uuid4().hex
            self.held[message.receipt] = message
            self.hide(message, visibility_seconds)
            taken.append(message)
        return taken

    def hide(self, message: _Message, seconds: float) -> None:
        message.entry = next(self._entries)
        heapq.heappush(self.invisible, (time.monotonic() + seconds, message.entry, message))
        if seconds <= 0:
            self.show_expired()

    def show_expired(self) -> None:
        while self.invisible and self.invisible[0][0] <= time.monotonic():
            _, entry, message = heapq.heappop(self.invisible)
            if entry == message.entry and self.held.pop(message.receipt, None) is not None:
                self.put(message)


class FastSqs:
    """Answers requests of the JSON protocol."""

    def __init__(self, endpoint: str) -> None:
        self._endpoint = endpoint
        self._queues: dict[str, _Queue] = {}

    async def answer(self, operation: str, request: dict[str, Any]) -> dict[str, Any]:
        if operation == "CreateQueue":
            return self._create(request)
        queue = self._queues.get(request["QueueUrl"].rsplit("/", 1)[-1])
        if queue is None:
            raise Refused("AWS.SimpleQueueService.NonExistentQueue")
        if operation == "ReceiveMessage":
            return await self._receive(queue, request)
        if operation == "GetQueueAttributes":
            return {"Attributes": self._attributes_of(queue)}
        one = {
            "SendMessageBatch": self._send,
            "DeleteMessageBatch": self._delete,
            "ChangeMessageVisibilityBatch": self._change,
        }[operation]
        done: list[dict[str, Any]] = []
        failed: list[dict[str, Any]] = []
        for entry in request["Entries"]:
            try:
                done.append({"Id": entry["Id"], **one(queue, entry)})
            except Refused as error:
                failed.append({"Id": entry["Id"], "Code": str(error), "SenderFault": True})
        return {"Successful": done, "Failed": failed}

    def _create(self, request: dict[str, Any]) -> dict[str, Any]:
        name = request["QueueName"]
        queue = self._queues.setdefault(name, _Queue(f"{self._endpoint}/123456789012/{name}"))
        queue.attributes.update(request.get("Attributes") or {})
        return {"QueueUrl": queue.url}

    def _attributes_of(self, queue: _Queue) -> dict[str, str]:
        queue.show_expired()
        return {
            **queue.attributes,
            "QueueArn": f"arn:aws:sqs:us-east-1:123456789012:{queue.url.rsplit('/', 1)[-1]}",
            "ApproximateNumberOfMessages": str(len(queue.ready)),
            "ApproximateNumberOfMessagesNotVisible": str(len(queue.held)),
        }

    async def _receive(self, queue: _Queue, request: dict[str, Any]) -> dict[str, Any]:
        policy = json.loads(queue.attributes.get("RedrivePolicy", "{}"))
        dead = self._queues[policy["deadLetterTargetArn"].rsplit(":", 1)[-1]] if policy else None
        deadline = time.monotonic() + request.get("WaitTimeSeconds", 0)
        while True:
            taken = queue.take(
                request.get("MaxNumberOfMessages", 1),
                request.get("VisibilityTimeout", 30),
                dead,
                int(policy.get("maxReceiveCount", 0)),
            )
            left = deadline - time.monotonic()
            if taken or left <= 0:
                return {"Messages": [_as_json(message) for message in taken]}
            if queue.invisible:
                left = min(left, max(0.001, queue.invisible[0][0] - time.monotonic()))
            queue.came.clear()
            with contextlib.suppress(TimeoutError):
                await asyncio.wait_for(queue.came.wait(), left)

    def _send(self, queue: _Queue, entry: dict[str, Any]) -> dict[str, Any]:
        message = _Message(entry["MessageBody"])
        queue.put(message)
        return {"MessageId": message.id, "MD5OfMessageBody": _md5(message.body)}

    def _delete(self, queue: _Queue, entry: dict[str, Any]) -> dict[str, Any]:
        queue.show_expired()
        message = queue.held.pop(entry["ReceiptHandle"], None)
        if message is not None:
            message.entry = -1
        return {}

    def _change(self, queue: _Queue, entry: dict[str, Any]) -> dict[str, Any]:
        queue.show_expired()
        message = queue.held.get(entry["ReceiptHandle"])
        if message is None:
            raise Refused("ReceiptHandleIsInvalid")
        queue.hide(message, entry["VisibilityTimeout"])
        return {}


def _as_json(message: _Message) -> dict[str, Any]:
    return {
        "MessageId": message.id,
        "ReceiptHandle": message.receipt,
        "Body": message.body,
        "MD5OfBody": _md5(message.body),
        "Attributes": {"SentTimestamp": str(message.sent_ms), "ApproximateReceiveCount": str(message.deliveries)},
    }


def _md5(text: str) -> str:
    return hashlib.md5(text.encode(), usedforsecurity=False).hexdigest()


async def _serve(port: int, address: str) -> None:
    sqs = FastSqs(f"http://{address}:{port}")

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(asyncio.IncompleteReadError, ConnectionError), contextlib.closing(writer):
            while True:
                head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
                headers = dict(line.lower().split(": ", 1) for line in head.split("\r\n")[1:] if ": " in line)
                request = json.loads(await reader.readexactly(int(headers.get("content-length", "0"))) or b"{}")
                operation = next(line for line in head.split("\r\n") if line.lower().startswith("x-amz-target")).split(
                    "."
                )[1]
                status, extra = "200 OK", ""
                try:
                    answer = await sqs.answer(operation, request)
                except Refused as error:
                    status, extra = "400 Bad Request", f"x-amzn-query-error: {error};Sender\r\n"
                    answer = {"__type": f"com.amazonaws.sqs#{error}"}
                body = json.dumps(answer).encode()
                writer.write(
                    f"HTTP/1.1 {status}\r\nContent-Type: application/x-amz-json-1.0\r\n{extra}"
                    f"Content-Length: {len(body)}\r\n\r\n".encode()
                    + body
                )
                await writer.drain()

    server = await asyncio.start_server(connected, address, port, limit=2**20)
    await server.serve_forever()


if __name__ == "__main__":
    asyncio.run(_serve(int(sys.argv[1]), sys.argv[2]))
