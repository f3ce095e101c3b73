"""Many sources for one command: opened from settings, several at a time, answered in the order given."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from md5s3stash.content import Progress
from md5s3stash.errors import StashError
from md5s3stash.fetch import Fetcher, FetchLimits
from md5s3stash.passwords import Passwords
from md5s3stash.progress import Display
from md5s3stash.s3 import connect
from md5s3stash.settings import FetchSettings, RedisSettings, S3Settings, Settings, StashSettings
from md5s3stash.stash import Auth, Caches, Stasher, StashResult

log = logging.getLogger(__name__)

# Sources that are read ahead of the answer that is printed next, for each job: enough that one large file does not
# leave the other jobs idle, and a list of a million names still takes no memory.
_AHEAD = 16


@dataclass(frozen=True, slots=True)
class Outcome:
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

    def outcomes(self, source: str, auth: Auth | None, progress: Progress) -> list[Outcome]:
        """One outcome for each bucket base, in the order of the settings."""
        return [_attempt(stasher, source, auth, progress) for stasher in self._stashers]

    def close(self) -> None:
        self._fetcher.close()


def open_stash(settings: Settings) -> Stash:
    """Everything that a run needs, from its settings. Raises SettingsError."""
    bases = settings[StashSettings].bases()
    store = connect(settings[S3Settings].endpoint)
    fetcher = Fetcher(fetch_limits(settings[FetchSettings]))
    redis_settings = settings[RedisSettings]
    caches = Caches()
    if redis_settings.url is not None:
        # Importing redis takes as long as importing boto3.
        from md5s3stash.cache import connect_redis, redis_caches

        caches = Caches(*redis_caches(connect_redis(redis_settings.url), redis_settings.prefix))
    return Stash(tuple(Stasher(base, store, fetcher, caches) for base in bases), fetcher)


def fetch_limits(settings: FetchSettings) -> FetchLimits:
    """The bounds of `[fetch]`."""
    return FetchLimits(
        max_bytes=settings.max_bytes,
        max_redirects=settings.max_redirects,
        connect_timeout_seconds=settings.connect_timeout_seconds,
        read_timeout_seconds=settings.read_timeout_seconds,
        total_timeout_seconds=settings.total_timeout_seconds,
    )


def stash_all(
    stash: Stash, sources: Iterable[str], passwords: Passwords, jobs: int, display: Display
) -> Iterator[Outcome]:
    """The outcomes of all sources, in order, up to `jobs` of them under way. One that fails does not stop the others."""

    def work(source: str) -> list[Outcome]:
        outcomes = stash.outcomes(source, passwords.for_source(source), display.bytes_done)
        display.source_done()
        return outcomes

    for outcomes in _in_order(work, sources, jobs):
        yield from outcomes


def _in_order(work: Callable[[str], list[Outcome]], sources: Iterable[str], jobs: int) -> Iterator[list[Outcome]]:
    if jobs == 1:
        yield from map(work, sources)
        return
    executor = ThreadPoolExecutor(jobs, thread_name_prefix="stash")
    waiting: deque[Future[list[Outcome]]] = deque()
    try:
        for source in sources:
            waiting.append(executor.submit(work, source))
            if len(waiting) >= jobs * _AHEAD:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        executor.shutdown(cancel_futures=True)


def _attempt(stasher: Stasher, source: str, auth: Auth | None, progress: Progress) -> Outcome:
    try:
        return Outcome(source, result=stasher.stash(source, auth, progress))
    except StashError as error:
        return Outcome(source, error=error)
    except OSError as error:
        # The temporary disk is full, say. The next source may be smaller.
        return Outcome(source, error=StashError(f"{error.strerror or error}"))
    except Exception as error:
        log.debug("unexpected", exc_info=True)
        return Outcome(
            source, error=StashError(f"unexpected {type(error).__name__}: {error} (--loglevel DEBUG shows more)")
        )
