"""Sends the journal of this box to CloudWatch Logs, so that it can be read after the box is gone.

Sends what is new since the last run, in order, and remembers how far it came only after CloudWatch has accepted it: a
line may be sent twice, and none is left out while the journal has it. Does nothing on a box whose settings name no
group of logs.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

INSTANCE_ID = Path("/var/lib/cloud/data/instance-id")
# --all: a long line is not left out.
JOURNALCTL = ("journalctl", "--quiet", "--all", "--output=json")

# The limits of PutLogEvents.
MAX_EVENTS, MAX_BYTES, MAX_SPAN_MS = 10_000, 1_000_000, 23 * 3600 * 1000
EVENT_BYTES = 26
MAX_LINE_BYTES = 200_000

_PRIORITIES = ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug")


@dataclass(frozen=True, slots=True)
class Line:
    """A line of the journal, and the cursor that stands for its place there."""

    cursor: str
    milliseconds: int
    text: str

    @property
    def size(self) -> int:
        return len(self.text.encode()) + EVENT_BYTES


def main(
    environment: Mapping[str, str] = os.environ, journalctl: Sequence[str] = JOURNALCTL, instance_id: Path = INSTANCE_ID
) -> int:
    """0 when everything new was sent or no group is set, 1 after an error: the next run sends the rest."""
    group = environment.get("LOG_GROUP")
    if not group:
        return 0
    cursor = Path(environment["STATE_DIRECTORY"]) / "cursor"
    try:
        stream = f"{environment['SIGNAL_RESOURCE']}/{instance_id.read_text().strip()}"
        client = boto3.client("logs")
        for batch in batches(read(journalctl, cursor)):
            send(client, group, stream, batch)
            remember(cursor, batch[-1].cursor)
    except (OSError, ValueError, subprocess.CalledProcessError, BotoCoreError, ClientError) as error:
        print(f"cannot send the journal to CloudWatch Logs: {error}", file=sys.stderr)
        return 1
    return 0


def read(journalctl: Sequence[str], cursor: Path) -> Iterator[Line]:
    """The lines after the cursor; without one, all. Raises CalledProcessError."""
    after = [f"--after-cursor={cursor.read_text()}"] if cursor.exists() else []
    command = [*journalctl, *after]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None
        for entry in process.stdout:
            yield line_of(json.loads(entry))
    if process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def line_of(entry: Mapping[str, Any]) -> Line:
    """Level, unit and message. A field is a string, a list of bytes if it is not text, or a list of several fields."""
    level = _PRIORITIES[int(entry.get("PRIORITY", 6))]
    sender = entry.get("_SYSTEMD_UNIT") or entry.get("SYSLOG_IDENTIFIER") or "kernel"
    message = entry.get("MESSAGE") or ""
    if isinstance(message, list):
        is_bytes = isinstance(message[0], int)
        message = bytes(message).decode(errors="replace") if is_bytes else " ".join(map(str, message))
    text = f"{level} {sender}: {message}".encode()[:MAX_LINE_BYTES].decode(errors="ignore")
    return Line(entry["__CURSOR"], int(entry["__REALTIME_TIMESTAMP"]) // 1000, text)


def batches(lines: Iterator[Line]) -> Iterator[Sequence[Line]]:
    """As many lines at a time as one request may have."""
    batch: list[Line] = []
    size, first, last = 0, 0, 0
    for line in lines:
        first, last = min(first, line.milliseconds), max(last, line.milliseconds)
        if batch and (len(batch) == MAX_EVENTS or size + line.size > MAX_BYTES or last - first > MAX_SPAN_MS):
            yield batch
            batch = []
        if not batch:
            size, first, last = 0, line.milliseconds, line.milliseconds
        batch.append(line)
        size += line.size
    if batch:
        yield batch


def send(client: Any, group: str, stream: str, batch: Sequence[Line]) -> None:
    # The clock may have been set back; a request has to be in order of time.
    in_order = sorted(batch, key=lambda line: line.milliseconds)
    events = [{"timestamp": line.milliseconds, "message": line.text} for line in in_order]
    request = {"logGroupName": group, "logStreamName": stream, "logEvents": events}
    try:
        client.put_log_events(**request)
    except client.exceptions.ResourceNotFoundException:
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_stream(logGroupName=group, logStreamName=stream)
        client.put_log_events(**request)


def remember(cursor: Path, place: str) -> None:
    new = cursor.with_name("cursor.new")
    new.write_text(place)
    new.rename(cursor)


if __name__ == "__main__":
    raise SystemExit(main())
