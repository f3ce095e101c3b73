"""Handles one message: stashes the URL or the objects that it names, with the retry rules of URL lists."""

from __future__ import annotations

import logging
import random
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import IO
from urllib.parse import urlsplit

from md5s3stash.errors import RedisUnavailable, SourceNotFound, SourceRefused
from md5s3stash.objectstore import ObjectStore
from md5s3stash.passwords import Passwords
from md5s3stash.scheme import ObjectAddress
from md5s3stash.settings import Faults
from md5s3stash.stash import Auth
from md5s3stash_daemon.config.settings import UrlSettings
from md5s3stash_daemon.downloads.politeness import Politeness
from md5s3stash_daemon.downloads.url_lines import Line
from md5s3stash_daemon.downloads.url_stasher import TryAgain, UrlStasher
from md5s3stash_daemon.intake.sqs.leases import Lease
from md5s3stash_daemon.intake.sqs.message_body import Job, ObjectJob, UrlJob
from md5s3stash_daemon.intake.sqs.message_ledger import QueueLedger, message_drop_id
from md5s3stash_daemon.ledger.ledger import Outcome
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.runtime.shutdown import Shutdown

log = logging.getLogger(__name__)

# By profile name: host -> user name and password.
Profiles = Mapping[str, Mapping[str, Auth]]


@dataclass(frozen=True, slots=True)
class ReturnMessage:
    """Return the message to SQS, to be delivered again after `seconds`."""

    seconds: float
    reason: str


@dataclass(frozen=True, slots=True)
class Drops:
    """Access to dropped objects: the store, the buckets that may be read, and the maximum size of an object."""

    store: ObjectStore
    buckets: tuple[str, ...]
    max_bytes: int


class MessageHandler:
    """Safe to share between threads."""

    def __init__(
        self,
        runtime: Runtime,
        stasher: UrlStasher,
        ledger: QueueLedger,
        politeness: Politeness,
        profiles: Profiles,
        drops: Drops,
    ) -> None:
        self._runtime = runtime
        self.stasher = stasher
        self._ledger = ledger
        self._politeness = politeness
        self._profiles = profiles
        self._drops = drops

    def handle(self, lease: Lease) -> list[Outcome] | ReturnMessage:
        """An outcome for each job, or ReturnMessage. Raises Stopped if the daemon stops first."""
        results = [self._do(job, message_drop_id(lease.message, number)) for number, job in enumerate(lease.jobs)]
        failed = [result for result in results if isinstance(result, TryAgain)]
        if not failed:
            return [result for result in results if isinstance(result, Outcome)]
        return self._after_failure(lease, results, failed)

    def _do(self, job: Job, drop_id: str) -> Outcome | TryAgain:
        if isinstance(job, ObjectJob):
            line = Line(0, job.name)
            return self.stasher.judged(lambda: self._stash_object(job, drop_id), line, drop_id)
        if job.line.fault:
            return Outcome(drop_id, job.name, error="SourceRefused", reason=job.line.fault)
        try:
            auth = self._auth(job)
        except SourceRefused as error:
            return Outcome(drop_id, job.name, error="SourceRefused", reason=str(error))
        result = self.stasher.handle(job.line, drop_id, auth, job.collection)
        return replace(result, name=job.name, record_id=job.record_id) if isinstance(result, Outcome) else result

    def _after_failure(
        self, lease: Lease, results: Sequence[Outcome | TryAgain], failed: Sequence[TryAgain]
    ) -> list[Outcome] | ReturnMessage:
        """Returns the message, or fails its jobs if it has had all its attempts."""
        attempts = 0
        if any(again.counts for again in failed):
            try:
                attempts = self._ledger.count_attempt(message_drop_id(lease.message, 0))
            except RedisUnavailable as error:
                log.debug("attempt not counted: %s", error)
        if attempts >= self._runtime.live.current[UrlSettings].attempts:
            return [
                result
                if isinstance(result, Outcome)
                else Outcome(
                    message_drop_id(lease.message, number),
                    lease.jobs[number].name,
                    error=result.error,
                    reason=f"{result.reason} (tried {attempts} times)",
                )
                for number, result in enumerate(results)
            ]
        delay = self.stasher.delays.delay_seconds(attempts or lease.message.deliveries, random.random())
        return ReturnMessage(max(delay, self._politeness.paused_seconds(lease.host)), failed[0].reason)

    def _auth(self, job: UrlJob) -> Auth | None:
        """Raises SourceRefused if the message asks for a password that is not for this URL."""
        if job.auth_profile is None:
            return None
        by_host = self._profiles.get(job.auth_profile)
        if by_host is None:
            raise SourceRefused(f"auth-profile {job.auth_profile!r} is not among queue.auth_profiles")
        if urlsplit(job.line.url).scheme.lower() != "https":
            raise SourceRefused("passwords are sent over https only")
        auth = by_host.get(job.line.host)
        if auth is None:
            # The author of a message must not choose which host gets a password.
            raise SourceRefused(f"auth-profile {job.auth_profile!r} has no entry for {job.line.host}")
        return auth

    def _stash_object(self, job: ObjectJob, drop_id: str) -> Outcome:
        if job.bucket not in self._drops.buckets:
            # The role may have access to more buckets than the author of a message.
            raise SourceRefused(f"the bucket {job.bucket} is not among queue.drop_buckets")
        with tempfile.NamedTemporaryFile(prefix="md5s3stash-drop-") as file:
            sink = _Stoppable(file.file, self._runtime.shutdown)
            if self._drops.store.download(ObjectAddress(job.bucket, job.key), sink, self._drops.max_bytes) is None:
                raise SourceNotFound("the object no longer exists")
            file.flush()
            outcome = self.stasher.stash(file.name, drop_id)
        reports = tuple(report._replace(url=job.name) for report in outcome.reports)
        return replace(outcome, name=job.name, reports=reports)


class _Stoppable:
    """A file that raises Stopped on writes after the shutdown deadline."""

    def __init__(self, file: IO[bytes], stop: Shutdown) -> None:
        self._file = file
        self._stop = stop

    def write(self, data: bytes, /) -> object:
        self._stop.check()
        return self._file.write(data)


def read_profiles(entries: Sequence[str]) -> Profiles:
    """The profiles of `queue.auth_profiles`. Raises SettingsError with a line for each unreadable one."""
    profiles: dict[str, Mapping[str, Auth]] = {}
    faults = Faults()
    for entry in entries:
        name, _, file = entry.partition("=")
        with faults.noted():
            # A `default` entry would apply to any host, so it is ignored.
            profiles[name] = Passwords.from_options(None, None, file, {}).by_host
    faults.raise_any()
    return profiles
