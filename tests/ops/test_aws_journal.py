"""The journal of a box on EC2 is sent to CloudWatch Logs: all of it, in order, and once unless something fails."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import boto3
import pytest
from moto import mock_aws

from aws.image import journal_logs
from aws.image.journal_logs import Line

# What `journalctl --output=json` prints of this file, one entry a line; the cursor of an entry is its number.
JOURNALCTL = """
import sys
after = next((word.partition("=")[2] for word in sys.argv if word.startswith("--after-cursor=")), "-1")
lines = open(sys.argv[1]).readlines()
if after != "-1" and not after.isdecimal():
    sys.exit("Failed to seek to cursor: Invalid argument")
after = int(after)
sys.stdout.writelines(lines[after + 1 :])
sys.exit(int("broken" in sys.argv))
"""
NOW_MS = int(time.time() * 1000)


class Box:
    """A box with a journal, whose log group is at moto's CloudWatch."""

    def __init__(self, directory: Path) -> None:
        self.directory, self.entries = directory, list[dict[str, Any]]()
        (directory / "instance-id").write_text("i-0123456789abcdef0\n")
        self.client = boto3.client("logs", region_name="us-east-1")
        self.client.create_log_group(logGroupName="stash")

    def log(self, message: Any, milliseconds: int = NOW_MS, **fields: Any) -> None:
        place = {"__CURSOR": str(len(self.entries)), "__REALTIME_TIMESTAMP": str(milliseconds * 1000)}
        self.entries.append({**place, "MESSAGE": message, **fields})

    def send(self, *options: str) -> int:
        journal = self.directory / "journal"
        journal.write_text("".join(json.dumps(entry) + "\n" for entry in self.entries))
        told = {"LOG_GROUP": "stash", "SIGNAL_RESOURCE": "SpoolGroup", "STATE_DIRECTORY": str(self.directory)}
        journalctl = [sys.executable, "-IS", "-c", JOURNALCTL, str(journal), *options]
        return journal_logs.main(told, journalctl, self.directory / "instance-id")

    def sent(self) -> Sequence[str]:
        stream = {"logGroupName": "stash", "logStreamName": "SpoolGroup/i-0123456789abcdef0"}
        events = self.client.get_log_events(**stream, startFromHead=True)["events"]
        return [event["message"] for event in events]


@pytest.fixture
def box(tmp_path: Path) -> Iterator[Box]:
    with mock_aws():
        yield Box(tmp_path)


def test_each_line_is_sent_once_with_its_level_and_its_unit(box: Box) -> None:
    box.log("stashed name=a.tif", PRIORITY="6", _SYSTEMD_UNIT="md5s3stashd.service")
    box.log("oom-kill", PRIORITY="3", SYSLOG_IDENTIFIER="kernel")
    assert box.send() == 0
    box.log("stashed name=b.tif", PRIORITY="6", _SYSTEMD_UNIT="md5s3stashd.service")

    assert (box.send(), box.send()) == (0, 0)
    assert box.sent() == [
        "info md5s3stashd.service: stashed name=a.tif",
        "err kernel: oom-kill",
        "info md5s3stashd.service: stashed name=b.tif",
    ]


def test_what_could_not_be_sent_is_sent_by_the_next_run(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.log("before")
    box.client.delete_log_group(logGroupName="stash")

    assert box.send() == 1
    assert "cannot send the journal to CloudWatch Logs: " in capsys.readouterr().err
    box.client.create_log_group(logGroupName="stash")
    assert box.send() == 0
    assert box.sent() == ["info kernel: before"]


def test_a_journal_that_cannot_be_read_is_an_error_and_what_was_read_is_not_sent_twice(
    box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.log("read")

    assert box.send("broken") == 1
    assert "non-zero exit status" in capsys.readouterr().err
    assert box.sent() == ["info kernel: read"]
    assert box.send() == 0
    assert box.sent() == ["info kernel: read"]


def test_a_clock_that_is_set_back_does_not_stop_the_log(box: Box) -> None:
    box.log("later")
    box.log("earlier", NOW_MS - 60_000)

    assert box.send() == 0
    assert box.sent() == ["info kernel: earlier", "info kernel: later"]


@pytest.mark.parametrize(
    ("message", "text"),
    [
        ([0x67, 0x72, 0xFC, 0x6E], "gr\N{REPLACEMENT CHARACTER}n"),
        (["two", "fields"], "two fields"),
        (None, ""),
        ([], ""),
        ("\N{SNOWMAN}" * 100_000, "\N{SNOWMAN}" * 66_660),
    ],
    ids=["bytes", "several fields", "nothing", "no bytes", "long"],
)
def test_every_kind_of_field_becomes_a_line(message: Any, text: str) -> None:
    line = journal_logs.line_of({"__CURSOR": "s=1", "__REALTIME_TIMESTAMP": "1000", "MESSAGE": message})

    assert line.text.startswith(f"info kernel: {text}")
    assert line.size <= journal_logs.MAX_LINE_BYTES + journal_logs.EVENT_BYTES


@pytest.mark.parametrize("value", [["6", "3"], "9", "", "\N{SUPERSCRIPT TWO}", None, [54, 255], [[54, 255], "3"], []])
@pytest.mark.parametrize("field", ["PRIORITY", "_SYSTEMD_UNIT", "SYSLOG_IDENTIFIER"])
def test_a_field_of_any_kind_that_a_local_program_wrote_becomes_a_line(field: str, value: Any) -> None:
    entry = {"__CURSOR": "s=1", "__REALTIME_TIMESTAMP": "1000", "MESSAGE": "still here"}

    text = journal_logs.line_of({**entry, field: value}).text

    assert text.endswith(": still here")
    assert field != "PRIORITY" or text == "info kernel: still here"


@pytest.mark.parametrize("entry", [b'{"MESSAGE": "cut', b"\xff", b"[]", b"{}", b'{"__CURSOR": "1"}'])
def test_an_entry_that_cannot_be_read_does_not_keep_the_others_back(
    entry: bytes, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = b'{"__CURSOR": "2", "__REALTIME_TIMESTAMP": "1000", "MESSAGE": "good"}'
    (tmp_path / "journal").write_bytes(entry + b"\n" + good + b"\n")

    lines = list(journal_logs.read(["cat", str(tmp_path / "journal")], tmp_path / "cursor"))

    assert [line.text for line in lines] == ["info kernel: good"]
    assert "left out a line of the journal" in capsys.readouterr().err


@pytest.mark.parametrize("cursor", [b"", b"\0\0\0", b"unknown", b"\xff"])
def test_a_cursor_that_a_power_cut_has_damaged_does_not_stop_the_log(
    cursor: bytes, box: Box, capsys: pytest.CaptureFixture[str]
) -> None:
    box.log("first")
    (box.directory / "cursor").write_bytes(cursor)

    assert box.send() == 0
    assert box.sent() == ["info kernel: first"]
    assert (box.directory / "cursor").read_text() == "0"
    is_refused = "does not accept the saved cursor" in capsys.readouterr().err
    assert is_refused == bool(cursor.strip(b"\0"))


def test_the_real_journalctl_names_a_cursor_that_it_does_not_accept(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "cursor").write_text("unknown")

    list(journal_logs.read([*journal_logs.JOURNALCTL, f"--directory={tmp_path}"], tmp_path / "cursor"))

    assert "does not accept the saved cursor" in capsys.readouterr().err
    assert not (tmp_path / "cursor").exists()


def test_lines_that_cloudwatch_refuses_by_their_time_are_reported(box: Box, capsys: pytest.CaptureFixture[str]) -> None:
    box.log("old", NOW_MS - 15 * 24 * 3600 * 1000)
    box.log("new")

    assert box.send() == 0
    assert box.sent() == ["info kernel: new"]
    assert "CloudWatch Logs refused lines by their time: " in capsys.readouterr().err


def test_a_request_is_never_larger_or_longer_than_cloudwatch_accepts() -> None:
    hour = 3600 * 1000
    many = [Line(str(number), 0, "x") for number in range(25_000)]
    large = [Line(str(number), 0, "x" * 150_000) for number in range(20)]
    slow = [Line(str(number), number * 10 * hour, "x") for number in range(10)]
    back = [Line("a", 100 * hour, "x"), Line("b", 0, "x"), Line("c", 24 * hour, "x")]

    for lines in (many, large, slow, back):
        batches = list(journal_logs.batches(iter(lines)))
        assert [line for batch in batches for line in batch] == lines
        for batch in batches:
            times = [line.milliseconds for line in batch]
            assert len(batch) <= 10_000
            assert sum(line.size for line in batch) <= 1_048_576
            assert max(times) - min(times) < 24 * hour


def test_a_box_whose_settings_name_no_group_sends_nothing() -> None:
    assert journal_logs.main({"LOG_GROUP": ""}, ["false"]) == 0


def test_the_real_journalctl_takes_these_options() -> None:
    command = [*journal_logs.JOURNALCTL, "--lines=0"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)

    assert "unrecognized option" not in done.stderr
    assert "invalid option" not in done.stderr
