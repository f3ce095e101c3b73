"""Sends the journal of this box to CloudWatch Logs, so that it can be read after the box is gone.

Sends what is new since the last run, in order, and remembers how far it came only after CloudWatch has accepted it: a
line may be sent twice. CloudWatch refuses lines that are older than 14 days, or more than two hours in the future: they
stay in the journal alone, and standard error says so. All others are sent while the journal has them. Does
nothing on a box whose settings name no log group.
"""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import boto3
from botocore.exceptions import BotoCoreError, ClientError

INSTANCE_ID = Path("/var/lib/cloud/data/instance-id")
# --all: a long line is not left out.
_FIELDS = "--output-fields=PRIORITY,_SYSTEMD_UNIT,SYSLOG_IDENTIFIER,MESSAGE"
JOURNALCTL = ("journalctl", "--quiet", "--all", "--output=json", _FIELDS)

# The limits of PutLogEvents.
MAX_EVENTS, MAX_BYTES, MAX_SPAN_MS = 10_000, 1_000_000, 23 * 3600 * 1000
EVENT_BYTES = 26
MAX_LINE_BYTES = 200_000

_LEVELS = dict(zip("01234567", ("emerg", "alert", "crit", "err", "warning", "notice", "info", "debug"), strict=True))


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
    """The lines after the cursor; without one that journalctl accepts, all. Raises CalledProcessError at the end."""
    # After a power cut a file may be empty, or have zeros.
    place = cursor.read_text(errors="replace").replace("\0", "") if cursor.exists() else ""
    command = [*journalctl, f"--after-cursor={place}"] if place else journalctl
    with tempfile.TemporaryFile() as complaints:
        with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=complaints) as process:
            assert process.stdout is not None
            for entry in process.stdout:
                try:
                    yield line_of(json.loads(entry))
                except (ValueError, TypeError, KeyError, AttributeError) as error:
                    print(f"left out a line of the journal, which cannot be read: {error!r}", file=sys.stderr)
        complaints.seek(0)
        said = complaints.read().decode(errors="replace")
    print(said, end="", file=sys.stderr)
    if process.returncode and place and "seek to cursor" in said:
        cursor.unlink()
        print("journalctl does not accept the saved cursor: sending the whole journal again", file=sys.stderr)
        yield from read(journalctl, cursor)
    elif process.returncode:
        raise subprocess.CalledProcessError(process.returncode, command)


def line_of(entry: Mapping[str, Any]) -> Line:
    """Level, unit and message. Raises ValueError, TypeError, KeyError."""
    level = _LEVELS.get(_text(entry.get("PRIORITY")), "info")
    sender = _text(entry.get("_SYSTEMD_UNIT")) or _text(entry.get("SYSLOG_IDENTIFIER")) or "kernel"
    text = f"{level} {sender}: {_text(entry.get('MESSAGE'))}".encode(errors="replace")
    return Line(
        entry["__CURSOR"], int(entry["__REALTIME_TIMESTAMP"]) // 1000, text[:MAX_LINE_BYTES].decode(errors="ignore")
    )


def _text(field: Any) -> str:
    """A field is a string, a list of bytes if it is not text, or a list of several. Any program may write one."""
    if isinstance(field, list):
        is_bytes = all(isinstance(each, int) for each in field)
        return bytes(field).decode(errors="replace") if is_bytes else " ".join(map(_text, field))
    return "" if field is None else str(field)


def batches(lines: Iterator[Line]) -> Iterator[Sequence[Line]]:
    """As many lines at a time as one request may have."""
    batch: list[Line] = []
    size, first, last = 0, 0, 0
    try:
        for line in lines:
            first, last = min(first, line.milliseconds), max(last, line.milliseconds)
            if batch and (len(batch) == MAX_EVENTS or size + line.size > MAX_BYTES or last - first > MAX_SPAN_MS):
                yield batch
                batch = []
            if not batch:
                size, first, last = 0, line.milliseconds, line.milliseconds
            batch.append(line)
            size += line.size
    except subprocess.CalledProcessError:
        # A damaged file of the journal: what was read before it is sent first.
        if batch:
            yield batch
        raise
    if batch:
        yield batch


def send(client: Any, group: str, stream: str, batch: Sequence[Line]) -> None:
    # The clock may have been set back; a request has to be in order of time.
    in_order = sorted(batch, key=lambda line: line.milliseconds)
    events = [{"timestamp": line.milliseconds, "message": line.text} for line in in_order]
    request = {"logGroupName": group, "logStreamName": stream, "logEvents": events}
    try:
        answer = client.put_log_events(**request)
    except client.exceptions.ResourceNotFoundException:
        with contextlib.suppress(client.exceptions.ResourceAlreadyExistsException):
            client.create_log_stream(logGroupName=group, logStreamName=stream)
        answer = client.put_log_events(**request)
    if refused := answer.get("rejectedLogEventsInfo"):
        print(f"CloudWatch Logs refused lines by their time: {refused}", file=sys.stderr)


def remember(cursor: Path, place: str) -> None:
    new = cursor.with_name("cursor.new")
    with new.open("w") as file:
        file.write(place)
        file.flush()
        os.fsync(file.fileno())
    new.rename(cursor)


if __name__ == "__main__":
    raise SystemExit(main())
