"""The objects of a bucket, by LIST alone: a thousand per request, and no object is read.

Separate from the rest of the S3 adapter, because an audit stores nothing.
"""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import Executor
from typing import Any, NamedTuple

from md5s3stash.errors import StoreRefused
from md5s3stash.s3.boto_errors import translated
from md5s3stash.s3.client import ANSWER_ERRORS, CoreSession, core_session, new_client, new_session
from md5s3stash.s3.curl import Timeouts

# The most that a LIST answers with (AWS, "ListObjectsV2").
LISTED_AT_ONCE = 1000

# One failed page would waste hours of listing.
_ATTEMPTS = 10


class ListedObject(NamedTuple):
    """An entry of a LIST; `etag` is in lower case, without its quotes."""

    key: str
    size_bytes: int
    etag: str


Page = list[ListedObject]


class Lister:
    """Lists buckets, with the credentials of the ordinary boto3 chain. Safe to share between threads.

    `endpoint` is what S3_ENDPOINT may be; see `s3.connect`. Raises SettingsError if it is neither a host nor a URL.
    `attempts` counts for each request in all.
    """

    def __init__(
        self, endpoint: str | None = None, timeouts: Timeouts | None = None, attempts: int = _ATTEMPTS
    ) -> None:
        self._client: Any = new_client(endpoint, new_session(_without_dates()), timeouts, attempts)

    def pages(self, bucket: str, prefix: str = "", after: str = "") -> Iterator[Page]:
        """The objects whose keys begin with the prefix and are beyond `after`, in the order of their keys as UTF-8, a
        page at a time.

        Raises StoreUnavailable and StoreRefused, the latter also for a store that lists in another order.
        """
        last, beyond = after.encode(), {"StartAfter": after} if after else {}
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix, **beyond):
                found = [
                    ListedObject(each["Key"], each["Size"], each.get("ETag", "").strip('"').lower())
                    for each in page.get("Contents", [])
                ]
                last = _require_order(f"s3://{bucket}/{prefix}", last, found)
                yield found
        except ANSWER_ERRORS as error:
            raise translated(error, f"s3://{bucket}/{prefix}") from error


def _without_dates() -> CoreSession:
    """A session that leaves dates as text: they are not used here, and parsing them takes three quarters of a LIST's
    time.
    """
    session = core_session()
    session.get_component("response_parser_factory").set_parser_defaults(timestamp_parser=str)
    return session


def _require_order(s3_url: str, last: bytes, page: Page) -> bytes:
    """Returns the last key of the page. Raises StoreRefused if the keys are not in order: directory buckets list in
    none, and a join of two lists would miss objects.
    """
    for each in page:
        key = each.key.encode()
        if key <= last:
            raise StoreRefused(f"{s3_url}: LIST is not in the order of the keys (a directory bucket?)")
        last = key
    return last


def ahead(pages: Iterator[Page], executor: Executor) -> Iterator[Page]:
    """The same pages. The executor requests each while the one before is processed, and the first at once."""
    following = executor.submit(next, pages, None)

    def rest() -> Iterator[Page]:
        nonlocal following
        while (page := following.result()) is not None:
            following = executor.submit(next, pages, None)
            yield page

    return rest()
