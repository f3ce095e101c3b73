"""Builds the parts that handle deliveries."""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
from collections.abc import Sequence
from dataclasses import dataclass

from md5s3stash.objectstore import ObjectStore
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.deliveries.follower import DeliveryFollower
from md5s3stash_daemon.deliveries.intake import DeliveryIntake
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.stored_digests import StoredContents
from md5s3stash_daemon.ledger.reader import LedgerReader
from md5s3stash_daemon.runtime.runtime import Runtime
from md5s3stash_daemon.spool.spool import Spool

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Deliveries:
    """The part for the main loop, and the thread."""

    intake: DeliveryIntake
    follower: DeliveryFollower


def build_deliveries(
    runtime: Runtime, spool: Spool, ledger: LedgerReader, store: ObjectStore, bases: Sequence[BucketBase]
) -> Deliveries:
    """Opens the journal of the spool, which must be locked. Raises OSError."""
    journal = _opened(journal_path(spool.directory))
    intake = DeliveryIntake(spool, journal)
    return Deliveries(intake, DeliveryFollower(runtime, spool, intake, journal, ledger, StoredContents(store, bases)))


def _opened(path: str) -> Journal:
    os.makedirs(os.path.dirname(path), exist_ok=True)
    try:
        with contextlib.ExitStack() as on_error:
            journal = on_error.enter_context(contextlib.closing(Journal(path)))
            journal.unpublished()
            on_error.pop_all()
        return journal
    except sqlite3.OperationalError as error:
        raise OSError(f"{path} cannot be opened: {error}") from error
    except sqlite3.DatabaseError as error:
        # A disk that lost bytes. No file depends on the journal, so the daemon starts without it.
        log.error(
            "the journal of deliveries is damaged: open deliveries are lost error=%r kept=%s.damaged", error, path
        )
        os.replace(path, f"{path}.damaged")
        return Journal(path)
