"""A fork of the warm process is what the same program is when it is started as a command."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from md5s3stash.s3.store import _REFUSED_SECONDS
from tests.support import warm
from tests.support.servers import REPOSITORY, is_alive, wait_until

SECONDS = 60
# Runs until it is ended.
SERVER = ["http.server", "0", "--bind", "127.0.0.1"]


@pytest.mark.parametrize(
    ("line", "bucket_base"),
    [
        ("md5s3stash_daemon --check-config", "bucket/originals"),
        ("md5s3stash_daemon --check-config", "NO BUCKET"),
        ("md5s3stash_daemon.ctl.main status", "bucket/originals"),
        ("md5s3stash not-there", "bucket/originals"),
        ("md5s3stash_thumbnailer --no-such-option", "bucket/originals"),
    ],
)
def test_fork_ends_and_prints_as_the_command_does(tmp_path: Path, line: str, bucket_base: str) -> None:
    arguments = line.split()
    settings = {"BUCKET_BASE": bucket_base, "REDIS_URL": "redis://127.0.0.1:1/0", "SPOOL_DIR": str(tmp_path / "spool")}
    environment = {**os.environ, **settings, "PYTHONPATH": warm.IMPORT_PATH}

    fork = warm.run(arguments, environment, tmp_path)

    command = [sys.executable, "-m", *arguments]
    cold = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, timeout=SECONDS, check=False)
    assert (fork.returncode, fork.stdout, fork.stderr) == (cold.returncode, cold.stdout, cold.stderr)


def test_fork_is_waited_for_and_ended_as_any_process(tmp_path: Path) -> None:
    fork = warm.start(SERVER, os.environ, tmp_path / "log")
    with pytest.raises(subprocess.TimeoutExpired):
        fork.wait(0.01)
    assert fork.poll() is None

    fork.terminate()

    assert fork.wait(SECONDS) == -signal.SIGTERM
    assert not is_alive(fork.pid)
    # Its number may be another process's by now.
    fork.kill()


def test_constant_has_its_value_in_the_fork_alone(tmp_path: Path) -> None:
    asked = ["timeit", "-n1", "-r1", "from md5s3stash.s3 import store; print('value', store._REFUSED_SECONDS)"]
    path = "md5s3stash.s3.store._REFUSED_SECONDS"

    changed = warm.run(asked, {**os.environ, path: "0.5"}, tmp_path)
    next_one = warm.run(asked, os.environ, tmp_path)

    assert b"value 0.5\n" in changed.stdout
    assert f"value {_REFUSED_SECONDS}\n".encode() in next_one.stdout
    assert warm.run(asked, {**os.environ, "md5s3stash.s3.store.NOT_THERE": "1"}, tmp_path).returncode == 1


def test_no_fork_outlives_the_tests_that_started_it(tmp_path: Path) -> None:
    tests = (
        "import os, pathlib, signal\n"
        "from tests.support import warm\n"
        f"print(warm.start({SERVER!r}, os.environ, pathlib.Path({str(tmp_path / 'log')!r})).pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", tests], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True, timeout=SECONDS, check=False
    )

    assert killed.returncode == -signal.SIGKILL
    wait_until(lambda: not is_alive(int(killed.stdout)), "the fork has ended")
