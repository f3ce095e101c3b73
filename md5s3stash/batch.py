"""Many sources for one command: opened from settings, several at a time, answered in the order given."""

from __future__ import annotations

import contextlib
import errno
import logging
import tempfile
import threading
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from queue import Empty, Queue
from typing import Any, TypeVar

from md5s3stash.content import Progress
from md5s3stash.errors import RedisUnavailable, SourceError, StashError
from md5s3stash.fetch import Fetcher, FetchLimits
from md5s3stash.origins import OriginRules, read_headers
from md5s3stash.passwords import Passwords
from md5s3stash.progress import Display
from md5s3stash.s3.curl import Timeouts
from md5s3stash.s3.store import connect
from md5s3stash.settings import Faults, FetchSettings, RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash.stash import Auth, Caches, Stasher, StashResult

log = logging.getLogger(__name__)

# Sources that are read ahead of the answer that is printed next, for each job: enough that one large file does not
# leave the other jobs idle, and a list of a million names still takes no memory.
_AHEAD = 16

# How long the end of a run waits for work that is under way. It stops with the next chunk of bytes; what hangs in a
# silent connection is left to the end of the process.
_STOP_SECONDS = 3.0

_DISK_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG})


@dataclass(frozen=True, slots=True)
class SourceResult:
    """What became of one source under one bucket base: a result or an error."""

    source: str
    result: StashResult | None = None
    error: StashError | None = None

    def as_json(self) -> dict[str, Any]:
        """The object that --json prints."""
        if self.result is None:
            error = {"type": type(self.error).__name__, "message": str(self.error)}
            return {"url": self.source, "error": error | {"retryable": self.error is not None and self.error.retryable}}
        report = self.result.report._asdict()
        return report | {"outcome": self.result.outcome.value, "size_bytes": self.result.size_bytes}


class Stash:
    """The bucket bases of the settings, with what they share."""

    def __init__(self, stashers: tuple[Stasher, ...], fetcher: Fetcher) -> None:
        self._stashers = stashers
        self._fetcher = fetcher

    def outcomes(self, source: str, auth: Auth | None, progress: Progress) -> list[SourceResult]:
        """One outcome for each bucket base, in the order of the settings, up to a source that cannot be had."""
        outcomes: list[SourceResult] = []
        for stasher in self._stashers:
            outcomes.append(_attempt(stasher, source, auth, progress))
            if isinstance(outcomes[-1].error, SourceError):
                # Its fault, not the base's: the others would wait out the same time-outs to say the same.
                break
        return outcomes

    def close(self) -> None:
        self._fetcher.close()


def open_stash(settings: Settings) -> Stash:
    """Everything that a run needs, from its settings. Raises SettingsError with a line for each fault."""
    faults = Faults()
    with faults.noted():
        bases = settings[StashSettings].bases()
    with faults.noted():
        of_s3 = settings[S3Settings]
        store = connect(
            of_s3.endpoint, timeouts=s3_timeouts(of_s3), conditions_required=of_s3.conditional_writes == "require"
        )
    with faults.noted():
        caches = _caches(settings[RedisSettings])
    with faults.noted():
        rules = origin_rules(settings[FetchSettings])
    faults.tell()
    fetcher = Fetcher(fetch_limits(settings[FetchSettings]), rules=rules)
    return Stash(tuple(Stasher(base, store, fetcher, caches) for base in bases), fetcher)


def _caches(settings: RedisSettings) -> Caches:
    if settings.url is None:
        return Caches()
    # Importing redis takes as long as importing boto3.
    from md5s3stash.cache import connect_redis, redis_caches

    url_cache, hash_cache = redis_caches(connect_redis(settings.url, settings.timeout_seconds), settings.prefix)
    try:
        len(hash_cache)
    except RedisUnavailable as error:
        # Told once, where it is seen at every log level; and no source waits for a Redis that is not there.
        log.error("nothing is looked up or recorded in this run: %s", error)
        return Caches()
    return Caches(url_cache, hash_cache)


def fetch_limits(settings: FetchSettings) -> FetchLimits:
    """The bounds of `[fetch]`."""
    return FetchLimits(
        max_bytes=settings.max_bytes,
        max_redirects=settings.max_redirects,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        read_timeout_seconds=settings.read_timeout_seconds,
        total_timeout_seconds=settings.total_timeout_seconds,
        min_bytes_per_second=settings.min_bytes_per_second,
    )


def origin_rules(settings: FetchSettings) -> OriginRules:
    """The rules for origins in `[fetch]`. Raises SettingsError if the headers file is invalid."""
    return OriginRules(settings.contact, read_headers(settings.headers_file), frozenset(settings.old_cipher_hosts))


def s3_timeouts(settings: S3Settings) -> Timeouts:
    """The waits of `[s3]`."""
    return Timeouts(
        connect_seconds=settings.connect_timeout_seconds,
        stall_seconds=settings.read_timeout_seconds,
        small_request_seconds=settings.request_timeout_seconds,
    )


def stash_all(
    stash: Stash, sources: Iterable[str], passwords: Passwords, jobs: int, display: Display
) -> Generator[SourceResult, None, None]:
    """The outcomes of all sources, in order, up to `jobs` of them under way; one that fails does not stop the others.

    Closing it breaks off what is under way.
    """
    stopping = threading.Event()

    def progress(count: int) -> None:
        if stopping.is_set():
            raise _Stopped
        display.bytes_done(count)

    def work(source: str) -> list[SourceResult]:
        outcomes = stash.outcomes(source, passwords.for_source(source), progress)
        display.source_done()
        return outcomes

    with contextlib.closing(in_order(work, sources, jobs, stopping)) as all_outcomes:
        for outcomes in all_outcomes:
            yield from outcomes


class _Stopped(Exception):
    """Breaks off a transfer from within: its outcome is no longer wanted."""


Item = TypeVar("Item")
Done = TypeVar("Done")


def in_order(
    work: Callable[[Item], Done], sources: Iterable[Item], jobs: int, stopping: threading.Event
) -> Generator[Done, None, None]:
    """What `work` makes of each source, in order and as soon as it is there, from `jobs` threads.

    The sources are read by a thread of their own, so that a list which comes in slowly holds up no answer; it stays a
    bounded number of them ahead. Closing the iterator sets `stopping`, and so does an error.
    """
    executor = ThreadPoolExecutor(jobs, thread_name_prefix="stash")
    # None ends the queue.
    ahead: Queue[Future[Done] | None] = Queue(jobs * _AHEAD)

    def begin(source: Item) -> Done:
        # What ends the work under way lets the threads take up what has not been cancelled yet.
        if stopping.is_set():
            raise _Stopped
        return work(source)

    def read() -> None:
        try:
            for source in sources:
                ahead.put(executor.submit(begin, source))
        except Exception as error:
            if stopping.is_set():
                return  # the executor takes no more, and the answers are no longer read
            failed: Future[Done] = Future()
            failed.set_exception(error)
            ahead.put(failed)
        ahead.put(None)

    # A daemon, for a read from a terminal or a pipe cannot be broken off.
    threading.Thread(target=read, name="sources", daemon=True).start()
    current: Future[Done] | None = None
    try:
        while (current := ahead.get()) is not None:
            yield current.result()
    finally:
        stopping.set()
        executor.shutdown(wait=False, cancel_futures=True)
        left: list[Future[Done] | None] = [current]
        with contextlib.suppress(Empty):
            while True:
                left.append(ahead.get_nowait())
        wait([future for future in left if future is not None and not future.cancelled()], _STOP_SECONDS)


def _attempt(stasher: Stasher, source: str, auth: Auth | None, progress: Progress) -> SourceResult:
    try:
        return SourceResult(source, result=stasher.stash(source, auth, progress))
    except StashError as error:
        return SourceResult(source, error=error)
    except OSError as error:
        # The next source may be smaller.
        hint = f": downloads go through {tempfile.gettempdir()}, choose a larger disk with -t"
        message = f"{error.strerror or error}{hint if error.errno in _DISK_FULL else ''}"
        return SourceResult(source, error=StashError(message))
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        return SourceResult(
            source, error=StashError(f"unexpected {type(error).__name__}: {error} (--loglevel DEBUG shows more)")
        )
