"""Stashes a file much larger than the memory limit with the command, in a separate process.

The short form lowers S3's limit for one PUT to half a GiB. A larger file is uploaded in parts too, and is more than
twice the allowed memory. `make soak` uses the real limit, 5 GiB (LARGE_FILE_GIB).
"""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from md5s3stash.s3.multipart import SINGLE_PUT_MAX_BYTES
from tests.support.digest_s3 import DigestS3

GIB = 1024**3
MIB = 1024**2
LIMIT_GIB = os.environ.get("LARGE_FILE_GIB", "0.5")
LIMIT_BYTES = int(float(LIMIT_GIB) * GIB)
# Four bytes above the limit of one PUT.
SIZE_BYTES = LIMIT_BYTES + 4
# The md5 as printed by md5sum, and the md5 of the parts' md5s: so the server, which hashes each part, need not hash the
# whole file.
MD5, ETAG = {
    "0.5": ("7d3a161660f2b039d269ff9bc733f4c1", "32a89859f8c54279015b5f1804b886f7-17"),
    "5": ("b1ecbc5d72144b3029c381d3400a0201", "dc7b9521a22389347b0aa32d293b4186-161"),
}[LIMIT_GIB]
DEADLINE_SECONDS = 900.0
# VmHWM is the peak of the program itself. wait4(2) would include the test runner's memory, which the child shares
# between fork and exec.
COMMAND = """
import os, re, sys
from md5s3stash.cli import main
from md5s3stash.s3 import store
limits = store.S3Limits
store.S3Limits = lambda: limits(single_put_max_bytes=int(os.environ["LIMIT_BYTES"]))
status = main()
peak = re.search(r"VmHWM:\\s+([0-9]+) kB", open("/proc/self/status").read())
open(os.environ["PEAK_FILE"], "w").write(peak[1])
sys.exit(status)
"""


@pytest.mark.slow
def test_more_than_one_put_may_hold_goes_through_with_less_than_200_mib_of_memory(tmp_path: Path) -> None:
    assert SINGLE_PUT_MAX_BYTES == 5 * GIB
    path = tmp_path / "sparse.bin"
    with open(path, "wb") as file:
        file.truncate(SIZE_BYTES)
        # Makes its parts different.
        for position in (0, LIMIT_BYTES * 2 // 5, SIZE_BYTES - 4):
            file.seek(position)
            file.write(b"mark")

    with DigestS3() as server:
        server.buckets.add("bucket")
        status, output = run_to_its_end(
            [sys.executable, "-c", COMMAND, "-b", "bucket/large", str(path)],
            {
                **os.environ,
                "S3_ENDPOINT": server.endpoint,
                "PEAK_FILE": str(tmp_path / "peak"),
                "LIMIT_BYTES": str(LIMIT_BYTES),
            },
        )

        assert (status, output.count("\n")) == (0, 1), output
        _, md5, s3_url, _ = output.rstrip("\n").split("\t")
        assert (md5, s3_url) == (MD5, f"s3://bucket/large/{MD5}")
        kept = server.objects[f"bucket/large/{MD5}"]
        # The server's md5 of each received part, in order.
        assert (kept.etag, kept.size_bytes) == (ETAG, SIZE_BYTES)
        assert server.uploads == {}
    peak_bytes = int((tmp_path / "peak").read_text()) * 1024
    assert 10 * MIB < peak_bytes < 200 * MIB


def run_to_its_end(command: list[str], environment: dict[str, str]) -> tuple[int, str]:
    """(exit status, output) of a child with a timeout."""
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
