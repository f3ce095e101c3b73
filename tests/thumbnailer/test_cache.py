"""The cache of originals: limited, shared by processes, only whole files, and its errors never affect answers."""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.cache.disk import MEMORY_BYTES, DiskCache, NoRoom, open_cache

KIB = 1024


def store(cache: DiskCache, data: bytes, modified: float | None = None) -> str:
    md5 = hashlib.md5(data).hexdigest()
    with cache.incoming() as incoming:
        incoming.write(data)
        incoming.file.flush()
        cache.keep(incoming, md5, modified)
    return md5


def contents(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def read(cache: DiskCache, md5: str) -> bytes | None:
    file = cache.open(md5)
    if file is None:
        return None
    with file:
        return file.read()


def test_what_was_kept_is_read_back_with_the_date_of_the_object(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100 * KIB)
    md5 = store(cache, b"picture", modified=1_000_000_000.0)
    assert read(cache, md5) == b"picture"
    assert (tmp_path / md5).stat().st_mtime == 1_000_000_000.0
    assert contents(tmp_path) == {md5}
    assert read(cache, "0" * 32) is None
    assert (cache.counts.hits, cache.counts.misses) == (1, 1)


def test_what_was_used_last_longest_ago_goes_first(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * KIB)
    first, second = store(cache, os.urandom(4 * KIB)), store(cache, os.urandom(4 * KIB))
    assert read(cache, first) is not None
    third = store(cache, os.urandom(4 * KIB))
    assert contents(tmp_path) == {first, third}
    assert (cache.counts.evictions, cache.counts.bytes) == (1, 8 * KIB)
    assert read(cache, second) is None


def test_an_evicted_file_can_still_be_read_by_who_has_it_open(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * KIB)
    data = os.urandom(6 * KIB)
    file = cache.open(store(cache, data))
    assert file is not None
    with file:
        other = store(cache, os.urandom(6 * KIB))
        assert contents(tmp_path) == {other}
        assert file.read() == data


def test_files_of_another_process_count_and_other_files_stay(tmp_path: Path) -> None:
    ours = DiskCache(tmp_path, 10 * KIB)
    theirs = DiskCache(tmp_path, 10 * KIB)
    (tmp_path / "README").write_bytes(bytes(20 * KIB))
    for _ in range(8):
        store(ours, os.urandom(2 * KIB))
        store(theirs, os.urandom(2 * KIB))
    assert sum(path.stat().st_size for path in tmp_path.iterdir() if path.name != "README") <= 10 * KIB
    assert (tmp_path / "README").exists()


def test_many_threads_of_two_caches_agree_with_an_eviction_at_every_step(tmp_path: Path) -> None:
    caches = [DiskCache(tmp_path, 12 * KIB), DiskCache(tmp_path, 12 * KIB)]
    pictures = [os.urandom(KIB) for _ in range(40)]
    names = [hashlib.md5(data).hexdigest() for data in pictures]

    def use(number: int) -> None:
        cache, data = caches[number % 2], pictures[number % 40]
        found = read(cache, names[number % 40])
        assert found in (None, data)
        if found is None:
            store(cache, data)

    with ThreadPoolExecutor(8) as threads:
        list(threads.map(use, range(400)))
    assert contents(tmp_path) <= set(names)
    assert caches[0].counts.faults == caches[1].counts.faults == 0


def test_leftovers_of_a_dead_writer_go_and_those_of_a_living_one_stay(tmp_path: Path) -> None:
    code = (
        "import os, pathlib, sys\nfrom md5s3stash_thumbnailer.cache.disk import DiskCache\n"
        "incoming = DiskCache(pathlib.Path(sys.argv[1]), 9999).incoming()\nincoming.write(b'half')\n"
        "incoming.file.flush()\nos._exit(9)\n"
    )
    path = os.pathsep.join(sys.path)
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], env={"PYTHONPATH": path}, timeout=30, check=False)
    (left,) = contents(tmp_path)
    os.utime(tmp_path / left, (0, 0))
    living = DiskCache(tmp_path, 100 * KIB)
    assert contents(tmp_path) == set()
    with living.incoming() as incoming:
        os.utime(incoming.file.fileno(), (0, 0))
        DiskCache(tmp_path, 100 * KIB)
        assert len(contents(tmp_path)) == 1
    assert contents(tmp_path) == set()


def test_what_was_not_kept_leaves_nothing(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 100 * KIB)
    with cache.incoming() as incoming:
        incoming.write(b"other bytes than promised")
    assert contents(tmp_path) == set()


def test_all_that_arrives_at_once_has_a_bound_on_disk_and_in_memory(tmp_path: Path) -> None:
    cache = DiskCache(tmp_path, 10 * KIB)
    with cache.incoming() as first, cache.incoming() as second:
        first.write(bytes(8 * KIB))
        with pytest.raises(NoRoom):
            second.write(bytes(8 * KIB))
    with cache.incoming() as third:
        third.write(bytes(8 * KIB))
    with cache.in_memory() as memory, pytest.raises(NoRoom):
        memory.write(bytes(MEMORY_BYTES + 1))


def test_readers_of_an_original_in_memory_do_not_share_a_position(tmp_path: Path) -> None:
    with DiskCache(tmp_path, 10 * KIB).in_memory() as incoming:
        incoming.write(b"picture")
        with incoming.reader() as one, incoming.reader() as other:
            assert (one.read(3), other.read()) == (b"pic", b"picture")


def test_directory_that_others_can_write_to_is_refused(tmp_path: Path) -> None:
    directory = tmp_path / "shared"
    directory.mkdir()
    directory.chmod(0o777)
    with pytest.raises(SettingsError, match="only this user"):
        open_cache(directory, KIB)
    (tmp_path / "link").symlink_to(tmp_path)
    with pytest.raises(SettingsError, match="only this user"):
        open_cache(tmp_path / "link", KIB)


def test_directory_that_cannot_be_made_is_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(SettingsError, match="cannot be used: Not a directory"):
        open_cache(tmp_path / "file" / "cache", KIB)


def test_a_new_directory_belongs_to_us_alone(tmp_path: Path) -> None:
    open_cache(tmp_path / "new" / "cache", KIB)
    assert (tmp_path / "new" / "cache").stat().st_mode & 0o777 == 0o700
