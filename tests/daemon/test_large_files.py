"""Large files in the spool: hashed a few at a time with lower priority; a daemon that stops abandons them."""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from md5s3stash.content import IN_MEMORY_BYTES, Content
from md5s3stash.errors import SourceTooLarge
from md5s3stash_daemon.intake.files.large_files import LargeFiles

SIZE_BYTES = 40 * 1024 * 1024


@pytest.fixture
def paths(tmp_path: Path) -> list[Path]:
    paths = [tmp_path / str(number) for number in range(4)]
    for path in paths:
        path.write_bytes(os.urandom(1024) * (SIZE_BYTES // 1024))
    return paths


def nice_values(prefix: str) -> list[int]:
    """Of the threads of this process whose names begin with the prefix."""
    found = []
    for thread in threading.enumerate():
        if thread.name.startswith(prefix) and thread.native_id is not None:
            with contextlib.suppress(ProcessLookupError):
                found.append(os.getpriority(os.PRIO_PROCESS, thread.native_id))
    return found


def opened(large: LargeFiles, path: Path) -> Content | None:
    return large.open(os.open(path, os.O_RDONLY), path.name)


def test_large_files_are_hashed_one_after_the_other_and_give_way(paths: list[Path]) -> None:
    large = LargeFiles(1, SIZE_BYTES, threading.Event())
    ours = os.getpriority(os.PRIO_PROCESS, 0)
    most, helpers = 0, set[int]()
    with ThreadPoolExecutor(len(paths)) as jobs:
        # On a busy machine it may be done before this thread looks.
        while not helpers:
            futures = [jobs.submit(opened, large, path) for path in paths]
            while not all(future.done() for future in futures):
                values = nice_values("sha256")
                most = max(most, len(values))
                helpers.update(values)
            for future, path in zip(futures, paths, strict=True):
                content = future.result()
                assert content is not None
                with content:
                    assert content.digest.md5 == hashlib.md5(path.read_bytes()).hexdigest()

    assert most == 1
    assert nice_values("large") == [ours + 5]
    assert helpers == {ours + 5}
    assert os.getpriority(os.PRIO_PROCESS, 0) == ours


def test_file_that_is_too_large_is_refused_as_ever(paths: list[Path]) -> None:
    with pytest.raises(SourceTooLarge):
        opened(LargeFiles(1, IN_MEMORY_BYTES, threading.Event()), paths[0])


def test_daemon_that_stops_hashes_no_further_file(paths: list[Path]) -> None:
    stopping = threading.Event()
    stopping.set()

    assert opened(LargeFiles(1, SIZE_BYTES, stopping), paths[0]) is None
