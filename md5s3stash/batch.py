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
from typing import TYPE_CHECKING, Any, TypeVar

from md5s3stash.content import Progress
from md5s3stash.errors import RedisUnavailable, SourceError, StashError
from md5s3stash.fetch import Fetcher, FetchLimits
from md5s3stash.look.room import LookRoom
from md5s3stash.origins import OriginRules, read_headers
from md5s3stash.passwords import Passwords
from md5s3stash.progress import Display
from md5s3stash.s3.curl import Timeouts
from md5s3stash.s3.store import connect
from md5s3stash.settings import Faults, FetchSettings, RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash.stash import Auth, Caches, Stasher, StashResult

if TYPE_CHECKING:
    from md5s3stash.cache import RedisDict

log = logging.getLogger(__name__)

# How many sources each job may be ahead of the next answer: enough that one large file does not leave the other jobs
# idle, few enough that a list of a million names takes little memory.
_AHEAD = 16

# How long the end of a run waits for work in progress. A transfer stops at its next chunk of bytes; one that hangs in a
# silent connection ends with the process.
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

    def __init__(
        self,
        stashers: tuple[Stasher, ...],
        fetcher: Fetcher,
        components: RedisDict | None = None,
        look: LookRoom | None = None,
    ) -> None:
        self.components = components
        self._look = look
        self._stashers = stashers
        self._fetcher = fetcher

    def outcomes(self, source: str, auth: Auth | None, progress: Progress) -> list[SourceResult]:
        """One outcome for each bucket base, in the order of the settings. An error of the source itself is the last
        one.
        """
        outcomes: list[SourceResult] = []
        for stasher in self._stashers:
            outcomes.append(_attempt(stasher, source, auth, progress))
            if isinstance(outcomes[-1].error, SourceError):
                # The other bases would wait for the same time-outs and fail in the same way.
                break
        return outcomes

    def close(self) -> None:
        self._fetcher.close()
        if self._look is not None:
            self._look.close()


def open_stash(settings: Settings, collection: str = "") -> Stash:
    """Everything that a run needs, from its settings; all goes into one collection, or none. Raises SettingsError with
    a line for each error.
    """
    faults = Faults()
    with faults.noted():
        bases = [base.in_collection(collection) for base in settings[StashSettings].bases()]
    with faults.noted():
        of_s3 = settings[S3Settings]
        store = connect(
            of_s3.endpoint, timeouts=s3_timeouts(of_s3), conditions_required=of_s3.conditional_writes == "require"
        )
    with faults.noted():
        caches, components = _caches(settings[RedisSettings])
    with faults.noted():
        rules = origin_rules(settings[FetchSettings])
    faults.raise_any()
    fetcher = Fetcher(fetch_limits(settings[FetchSettings]), rules=rules)
    look = LookRoom()
    stashers = tuple(Stasher(base, store, fetcher, caches, look=look) for base in bases)
    return Stash(stashers, fetcher, components, look)


def _caches(settings: RedisSettings) -> tuple[Caches, RedisDict | None]:
    """Those of the stash, and that of components."""
    if settings.url is None:
        return Caches(), None
    # Importing redis takes as long as importing boto3.
    from md5s3stash.cache import RedisDict, connect_redis, redis_caches

    client = connect_redis(settings.url, settings.timeout_seconds)
    url_cache, hash_cache = redis_caches(client, settings.prefix)
    try:
        len(hash_cache)
    except RedisUnavailable as error:
        # Logged once, at a level that is always shown. No source then waits for a Redis that is down.
        log.error("nothing is looked up or recorded in this run: %s", error)
        return Caches(), None
    return Caches(url_cache, hash_cache), RedisDict(client, f"{settings.prefix}:components")


def fetch_limits(settings: FetchSettings) -> FetchLimits:
    """The limits of `[fetch]`."""
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
    """The time-outs of `[s3]`."""
    return Timeouts(
        connect_seconds=settings.connect_timeout_seconds,
        stall_seconds=settings.read_timeout_seconds,
        small_request_seconds=settings.request_timeout_seconds,
    )


def stash_all(
    stash: Stash, sources: Iterable[str], passwords: Passwords, jobs: int, display: Display
) -> Generator[SourceResult, None, None]:
    """The outcomes of all sources, in order. Up to `jobs` run at once; one that fails does not stop the others.

    Closing the generator aborts the transfers in progress.
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
    """Aborts a transfer whose outcome is no longer wanted."""


Item = TypeVar("Item")
Done = TypeVar("Done")


def in_order(
    work: Callable[[Item], Done], sources: Iterable[Item], jobs: int, stopping: threading.Event
) -> Generator[Done, None, None]:
    """The results of `work` for the sources, in order and each as soon as it is ready, from `jobs` threads.

    A separate thread reads the sources, a bounded number ahead, so that a list that arrives slowly delays no answer.
    Closing the iterator or an error sets `stopping`.
    """
    executor = ThreadPoolExecutor(jobs, thread_name_prefix="stash")
    # None ends the queue.
    ahead: Queue[Future[Done] | None] = Queue(jobs * _AHEAD)

    def begin(source: Item) -> Done:
        # A thread whose work has stopped may take the next source before that is cancelled.
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

    # A daemon thread, because a read from a terminal or a pipe cannot be interrupted.
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
