"""Readers of the ledger survive any content of Redis: they skip an odd entry or show it as far as possible, and raise
only our own errors, which name the refused value.
"""

from __future__ import annotations

import contextlib
import io
import json
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from unittest.mock import patch
from urllib.parse import quote

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from md5s3stash.errors import StashError
from md5s3stash.retry import RetryPolicy
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.ctl.lookup import export, lookup, print_log
from md5s3stash_daemon.intake.files.supervisor import forget_gone
from md5s3stash_daemon.ledger.confirmations import drop_confirmations
from md5s3stash_daemon.ledger.ledger import RedisLedger
from md5s3stash_daemon.ledger.reader import LOG_BATCH, LedgerReader
from md5s3stash_daemon.ledger.rebuild import RebuildCounts, import_export
from md5s3stash_daemon.ledger.restore import Restorer
from md5s3stash_daemon.monitoring.health import Health
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.runtime.circuit_breaker import CircuitBreaker
from md5s3stash_daemon.runtime.liveness import Liveness
from md5s3stash_daemon.spool.spool import Spool
from md5s3stash_daemon.web.page import StatusPage
from tests.support.junk import BYTES, JSON, TEXTS

MD5, OTHER = "00000000000000000000000000000001", "00000000000000000000000000000002"
GOOD = json.dumps(["s3://bucket/x", "image/png", [3, 4]])
BASES = (BucketBase.parse("bucket", "simple"),)

MD5S = st.sampled_from([MD5.encode(), OTHER.encode(), MD5.upper().encode()])
CONTENTS = st.one_of(
    BYTES, st.tuples(JSON, JSON, JSON).map(lambda parts: f'["s3://b/x",{parts[0]},[{parts[1]},{parts[2]}]]'.encode())
)
HASHES = {
    "names": st.dictionaries(BYTES, st.one_of(BYTES, MD5S), max_size=4),
    "hash_cache": st.dictionaries(st.one_of(MD5S, BYTES), CONTENTS, max_size=4),
    "url_cache": st.dictionaries(
        BYTES, st.one_of(BYTES, JSON.map(lambda text: f'{{"md5":{text}}}'.encode())), max_size=4
    ),
    "open:spool": st.dictionaries(BYTES, BYTES, max_size=4),
    "confirmed:place": st.dictionaries(BYTES, BYTES, max_size=4),
}
LOGS = st.lists(st.dictionaries(st.one_of(BYTES, st.just(b"md5")), BYTES, min_size=1, max_size=4), max_size=4)
LOG_IDS = st.sampled_from([1, 2**40, 2**63, 2**64 - 10])
KEYS = (*HASHES, "log")
QUICK = settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture
def client(redis_server: str) -> redis.Redis:
    return redis.Redis.from_url(redis_server)


@pytest.fixture
def page(tmp_path: Path, redis_server: str) -> StatusPage:
    Spool(tmp_path / "spool").create()
    chosen = read_settings(
        {"BUCKET_BASE": "bucket", "REDIS_URL": redis_server, "SPOOL_DIR": str(tmp_path / "spool"), **PREFIX}, None
    )
    metrics = Metrics()
    return StatusPage(chosen, Health(Liveness(), CircuitBreaker({}, RetryPolicy), metrics, lambda: 60.0), metrics)


PREFIX = {"MD5S3STASH_REDIS_PREFIX": "junk", "MD5S3STASH_HTTP_THUMBNAILS_URL": "https://thumbs.example.org"}


def put(client: redis.Redis, ledger: dict[str, Any], log: Sequence[dict[bytes, bytes]], first_id: int) -> None:
    """Stores the junk, and one valid entry in each key."""
    for key in KEYS:
        client.delete(f"junk:{key}")
    for key, entries in ledger.items():
        if entries:
            client.hset(f"junk:{key}", mapping=entries)
    for number, fields in enumerate(log):
        client.xadd("junk:log", fields, id=f"{first_id + number}-1")  # type: ignore[arg-type]
    client.hset("junk:names", "good", OTHER)
    client.hset("junk:hash_cache", OTHER, GOOD)


@contextlib.contextmanager
def printed() -> Iterator[io.BytesIO]:
    """Captures standard output."""
    output = io.BytesIO()
    with patch.object(sys, "stdout", SimpleNamespace(buffer=output, flush=output.flush)):
        yield output


@QUICK
@given(st.fixed_dictionaries(HASHES), LOGS, LOG_IDS, TEXTS)
def test_odd_entries_are_left_out_and_the_rest_goes_on(
    client: redis.Redis,
    page: StatusPage,
    tmp_path: Path,
    ledger: dict[str, Any],
    log: list[dict[bytes, bytes]],
    first_id: int,
    word: str,
) -> None:
    put(client, ledger, log, first_id)
    reader = LedgerReader(client, "junk")
    for form in ("jsonl", "csv"):
        with printed() as output:
            export(reader, form)
        assert (
            f'"good", "md5": "{OTHER}"'.encode() in output.getvalue() or f"good,{OTHER}".encode() in output.getvalue()
        )
    names = [name.decode("utf-8", "surrogateescape") for name in (*ledger["names"], *ledger["url_cache"])]
    for asked in (*names, MD5, OTHER, word, "good"):
        for as_json in (True, False):
            with printed() as output:
                lookup(reader, asked, BASES, 20, as_json)
    assert b"image/png" in output.getvalue()
    for as_json in (True, False):
        with printed():
            print_log(reader, 20, as_json)
    for asked in ("", "good", MD5, *names[:2], word):
        answer = page.answer("/", f"q={quote(asked.encode('utf-8', 'surrogatepass'))}", "127.0.0.1")
        assert answer is not None
        assert answer.status == 200
    restore(client, [MD5, OTHER])
    forget_gone(RedisLedger(client, "junk", "spool"), Spool(tmp_path / "spool"))
    drop_confirmations(client, "junk", [MD5])
    drop_confirmations(client, "junk", None)


def test_a_batch_of_the_log_has_the_same_entries_whatever_bytes_are_in_them(client: redis.Redis) -> None:
    odd = [
        b"",
        b"a\xff\xc3",
        b'"\\/\x00\x1f\x7f',
        "\u2028\U0001f5bc\ud7ff".encode(),
        b"\xed\xa0\x80",
        b"1e5",
        b"[]",
        b"\\u0041",
    ]
    reader = LedgerReader(client, "batch")
    assert reader.batch_after("0-0") == []
    for value in odd:
        client.xadd("batch:log", {b"name": value, value or b"empty": b"x"})
    for number in range(LOG_BATCH):
        client.xadd("batch:log", {"name": str(number)})

    first = reader.batch_after("0-0")

    assert len(first) == LOG_BATCH
    assert [*first, *reader.batch_after(first[-1].id)] == reader.after("0-0", 0.001)
    client.set("other:log", "a text")
    with pytest.raises(StashError, match="log"):
        LedgerReader(client, "other").batch_after("0-0")


@QUICK
@given(st.sampled_from(KEYS), st.sampled_from(["string", "list", "set", "zset", "hash", "stream"]))
def test_a_key_of_another_type_is_an_error_of_our_own(
    client: redis.Redis, page: StatusPage, tmp_path: Path, key: str, kind: str
) -> None:
    put(client, {}, [], 1)
    name = f"junk:{key}"
    client.delete(name)
    fill = {
        "string": ("SET", name, "x"),
        "list": ("RPUSH", name, "x"),
        "set": ("SADD", name, "x"),
        "zset": ("ZADD", name, "1", "x"),
        "hash": ("HSET", name, "x", "x"),
        "stream": ("XADD", name, "*", "x", "x"),
    }
    client.execute_command(*fill[kind])  # type: ignore[no-untyped-call]
    reader = LedgerReader(client, "junk")

    for call in (
        reader.sizes,
        lambda: export(reader, "jsonl"),
        lambda: lookup(reader, "good", BASES, 20, True),
        lambda: lookup(reader, OTHER, BASES, 20, True),
        lambda: print_log(reader, 20, False),
        lambda: restore(client, [MD5]),
        lambda: forget_gone(RedisLedger(client, "junk", "spool"), Spool(tmp_path / "spool")),
        lambda: drop_confirmations(client, "junk", None),
    ):
        with printed(), contextlib.suppress(StashError):
            call()
    for query in ("", "q=good", f"q={OTHER}"):
        answer = page.answer("/", query, "127.0.0.1")
        assert answer is not None
        assert answer.status == 200


@QUICK
@given(st.lists(st.one_of(BYTES, JSON.map(lambda text: f'{{"name":"n","md5":"{MD5}","width":{text}}}'.encode()))))
def test_odd_lines_of_an_export_are_left_out_and_the_rest_is_recorded(client: redis.Redis, lines: list[bytes]) -> None:
    put(client, {}, [], 1)
    good = json.dumps({"name": "of the export", "md5": OTHER, "s3_url": "s3://bucket/x"}).encode()

    bad = list(import_export(io.BytesIO(b"\n".join([*lines, good])), Restorer(client, "junk"), RebuildCounts()))

    assert len(bad) <= b"\n".join([*lines, good]).count(b"\n") + 1
    assert client.hget("junk:names", "of the export") == OTHER.encode()
    # The record of it can be read back.
    with printed() as output:
        export(LedgerReader(client, "junk"), "jsonl")
    assert b"of the export" in output.getvalue()


def restore(client: redis.Redis, md5s: Sequence[str]) -> None:
    restorer = Restorer(client, "junk")
    restorer.add([*restorer.known(md5s).values()])
