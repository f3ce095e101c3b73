"""A file far larger than what the stash may keep in memory, through the command, in a process of its own."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from md5s3stash.s3 import PART_BYTES, SINGLE_PUT_MAX_BYTES
from tests.support.digest_s3 import DigestS3

GIB = 1024**3
MIB = 1024**2
DEADLINE_SECONDS = 900.0
# VmHWM is the peak of the program itself. What wait4(2) tells would include the test runner's own memory, of which the
# child is a copy between fork and exec.
COMMAND = """
import os, re, sys
from md5s3stash.cli import main
status = main()
peak = re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())
open(os.environ["PEAK_FILE"], "w").write(peak[1])
sys.exit(status)
"""


@pytest.mark.slow
def test_six_gibibytes_go_through_with_less_than_200_mib_of_memory(tmp_path: Path) -> None:
    path = tmp_path / "sparse.bin"
    with open(path, "wb") as file:
        file.truncate(6 * GIB)
        # Something to tell its parts apart by.
        for position in (0, 2 * GIB, 6 * GIB - 4):
            file.seek(position)
            file.write(b"mark")
    assert path.stat().st_size > SINGLE_PUT_MAX_BYTES

    with DigestS3() as server:
        server.buckets.add("bucket")
        status, output = run_to_its_end(
            [sys.executable, "-c", COMMAND, "-b", "bucket/large", str(path)],
            {**os.environ, "S3_ENDPOINT": server.endpoint, "PEAK_FILE": str(tmp_path / "peak")},
        )

        assert (status, output.count("\n")) == (0, 1), output
        _, md5, s3_url, _ = output.rstrip("\n").split("\t")
        assert s3_url == f"s3://bucket/large/{md5}"
        kept = server.objects[f"bucket/large/{md5}"]
        # The server's own md5 of what arrived, in order.
        assert (kept.md5, kept.size_bytes) == (md5, 6 * GIB)
        assert kept.etag.endswith(f"-{6 * GIB // PART_BYTES}")
        assert server.uploads == {}
    peak_bytes = int((tmp_path / "peak").read_text()) * 1024
    assert 10 * MIB < peak_bytes < 200 * MIB


def run_to_its_end(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """(exit status, output) of a child that is bounded in time."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        alarm = threading.Timer(DEADLINE_SECONDS, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read()
            status = process.wait()
        finally:
            alarm.cancel()
            alarm.join()
    return status, output
