"""Whether a file is complete where no event tells."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from md5s3stash_daemon import completion
from md5s3stash_daemon.completion import is_complete

SETTLE_SECONDS = 5.0


@pytest.fixture
def written(tmp_path: Path) -> Iterator[Path]:
    """A file that somebody holds open for writing."""
    path = tmp_path / "file"
    with open(path, "wb") as writer:
        writer.write(b"so far")
        writer.flush()
        yield path


def complete_after(path: Path, seconds: float) -> bool:
    status = os.stat(path)
    return is_complete(str(path), status, SETTLE_SECONDS, status.st_ctime + seconds)


def test_a_file_that_is_open_for_writing_is_not_complete_however_still(written: Path) -> None:
    assert not complete_after(written, 10 * SETTLE_SECONDS)


@pytest.mark.parametrize("filesystem", ["nfs4", "nfs", "cifs", "fuse.sshfs"])
def test_on_a_network_file_system_stillness_tells_and_no_lease_is_asked_for(
    written: Path, monkeypatch: pytest.MonkeyPatch, filesystem: str
) -> None:
    monkeypatch.setattr(completion, "_LEASES_TELL", {})
    monkeypatch.setattr(completion, "filesystem_type", lambda path: filesystem)

    assert not complete_after(written, SETTLE_SECONDS - 1)
    assert complete_after(written, SETTLE_SECONDS + 1)
