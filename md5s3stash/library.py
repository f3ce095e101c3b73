"""The function of the original module, for programs that have used it since 2014."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from md5s3stash.errors import SourceError
from md5s3stash.fetch import Fetcher, FetchLimits
from md5s3stash.s3.store import store_for
from md5s3stash.scheme import BucketBase, KeyTemplate
from md5s3stash.stash import Caches, Stasher, StashReport, StashResult


def md5s3stash(
    url: str,
    bucket_base: str,
    conn: Any = None,
    url_auth: tuple[str, str] | None = None,
    url_cache: MutableMapping[str, Any] | None = None,
    hash_cache: MutableMapping[str, Any] | None = None,
    bucket_scheme: str = "simple",
    *,
    collection: str | int = "",
) -> StashReport:
    """Stashes the bytes of `url` (a path, or a `file`, `http` or `https` URL) under their md5.

    `conn` is a boto3 S3 client, whose region, endpoint and credentials are used, or a boto3 session; None takes the
    ordinary boto3 chain, and S3_ENDPOINT from the environment. `url_auth` is (user name, password) for Basic
    authentication; it is sent over https alone, never to S3 and never to another host than the URL's. The caches are
    any dict-like objects and may be shared between bucket bases and calls (see `md5s3stash.cache`). With a `collection`
    (digits or a short name), the key is `{collection}/{md5}`.

    Raises `md5s3stash.errors.StashError`: nothing was stored under a wrong digest, and `error.retryable` says whether a
    retry makes sense. A SourceError is an OSError and a TypeError as well: in 2014 a missing file raised IOError and a
    dead link TypeError, which callers catch so that one dead link does not end a collection.
    """
    base = BucketBase.parse(bucket_base, bucket_scheme, KeyTemplate.COLLECTION).in_collection(str(collection))
    return stash_once(url, base, conn, url_auth, Caches(url_cache, hash_cache)).report


def stash_once(url: str, base: BucketBase, conn: Any, url_auth: tuple[str, str] | None, caches: Caches) -> StashResult:
    """One call of the library; see `md5s3stash`."""
    store = store_for(conn, os.environ.get("S3_ENDPOINT"))
    fetcher = Fetcher(FetchLimits())
    try:
        return Stasher(base, store, fetcher, caches).stash(url, url_auth)
    except SourceError as error:
        raise _as_caught_in_2014(error).with_traceback(error.__traceback__) from error.__cause__
    finally:
        fetcher.close()


def _as_caught_in_2014(error: SourceError) -> SourceError:
    """The same error in a subclass of its class. Only here: inside, `except OSError` means the machine's own files."""
    return _rebuilt(type(error), error.args, error.__dict__)


def _rebuilt(kind: type[SourceError], arguments: tuple[Any, ...], attributes: dict[str, Any]) -> SourceError:
    class_of_2014 = _with_classes_of_2014(kind)
    error = class_of_2014.__new__(class_of_2014)
    error.args = arguments
    error.__dict__.update(attributes)
    return error


def _with_classes_of_2014(kind: type[SourceError]) -> type[SourceError]:
    def reduce(error: SourceError) -> tuple[Any, ...]:
        return _rebuilt, (kind, error.args, error.__dict__)

    bases: tuple[type, ...] = (kind, OSError, TypeError)
    return type(kind.__name__, bases, {"__module__": kind.__module__, "__doc__": kind.__doc__, "__reduce__": reduce})
