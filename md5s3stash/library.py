"""The seed's call, for programs that have used it since 2014."""

from __future__ import annotations

import os
from collections.abc import MutableMapping
from typing import Any

from md5s3stash.fetch import Fetcher, FetchLimits
from md5s3stash.s3.store import store_for
from md5s3stash.scheme import BucketBase
from md5s3stash.stash import Caches, Stasher, StashReport


def md5s3stash(
    url: str,
    bucket_base: str,
    conn: Any = None,
    url_auth: tuple[str, str] | None = None,
    url_cache: MutableMapping[str, Any] | None = None,
    hash_cache: MutableMapping[str, Any] | None = None,
    bucket_scheme: str = "simple",
) -> StashReport:
    """Stashes what `url` (a path, or a `file`, `http` or `https` URL) gives, under the md5 of its bytes.

    `conn` is a boto3 S3 client, whose region, endpoint and credentials are used, or a boto3 session; None takes the
    ordinary boto3 chain, and S3_ENDPOINT from the environment. `url_auth` is (user name, password) for Basic
    authentication; it is sent over https alone, never to S3 and never to another host than the URL's. The caches are
    any dict-like objects and may be shared between bucket bases and calls (see `md5s3stash.cache`).

    Raises `md5s3stash.errors.StashError`: nothing was stored under a wrong digest, and `error.retryable` tells whether
    another try makes sense.
    """
    base = BucketBase.parse(bucket_base, bucket_scheme)
    store = store_for(conn, os.environ.get("S3_ENDPOINT"))
    fetcher = Fetcher(FetchLimits())
    try:
        return Stasher(base, store, fetcher, Caches(url_cache, hash_cache)).stash(url, url_auth).report
    finally:
        fetcher.close()
