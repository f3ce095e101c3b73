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
DEADLINE_SECONDS = 300.0
COMMAND = "import sys; from md5s3stash.cli import main; sys.exit(main())"


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
        status, peak_bytes, output = run_to_its_end(
            [sys.executable, "-c", COMMAND, "-b", "bucket/large", str(path)],
            {**os.environ, "S3_ENDPOINT": server.endpoint},
        )

        assert (status, output.count("\n")) == (0, 1), output
        _, md5, s3_url, _ = output.rstrip("\n").split("\t")
        assert s3_url == f"s3://bucket/large/{md5}"
        kept = server.objects[f"bucket/large/{md5}"]
        # The server's own md5 of what arrived, in order.
        assert (kept.md5, kept.size_bytes) == (md5, 6 * GIB)
        assert kept.etag.endswith(f"-{6 * GIB // PART_BYTES}")
        assert server.uploads == {}
    assert peak_bytes < 200 * MIB


def run_to_its_end(command: list[str], environment: dict[str, str]) -> tuple[int, int, str]:
    """(exit status, peak resident memory in bytes, output) of this one child."""
    root = Path(__file__).parents[2]
    with subprocess.Popen(
        command, cwd=root, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    ) as process:
        alarm = threading.Timer(DEADLINE_SECONDS, process.kill)
        alarm.start()
        try:
            assert process.stdout is not None
            output = process.stdout.read()
            # wait4 tells of this child alone; RUSAGE_CHILDREN would keep the largest of all that ever ran.
            _, wait_status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(wait_status)
        finally:
            alarm.cancel()
            alarm.join()
    return process.returncode, usage.ru_maxrss * 1024, output
