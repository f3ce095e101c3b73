"""The S3 adapter: which guards a put has, and what a refusal means; `reader` reads, `writer` sends.

A put is a HEAD first if that may save a body, then one conditional request, then another HEAD if the store refused to
replace an object (see docs/decisions/0004-put-guards.md).
"""

from __future__ import annotations

import dataclasses
import logging
import time
from collections import deque
from collections.abc import Callable
from typing import Any

from md5s3stash.content import Content, Progress
from md5s3stash.digest import digest_of
from md5s3stash.errors import SettingsError, StashError, StoreError, StoreRefused, StoreUnavailable
from md5s3stash.objectstore import PutOutcome
from md5s3stash.s3.client import Session, core_session, curl_for, new_client, new_session, renewal_of
from md5s3stash.s3.conditional_put import Guard
from md5s3stash.s3.connection import Connection
from md5s3stash.s3.curl import CurlClient, Timeouts
from md5s3stash.s3.errors import Taken, is_unknown_header
from md5s3stash.s3.multipart import PART_BYTES, SINGLE_PUT_MAX_BYTES
from md5s3stash.s3.reader import S3Reader
from md5s3stash.s3.writer import Put, S3Writer
from md5s3stash.scheme import ObjectAddress

log = logging.getLogger(__name__)

# After this many refused puts in a row the contents are not the cause. The refusal counts for this long.
_REFUSALS_IN_A_ROW = 3
_REFUSED_SECONDS = 20.0


@dataclasses.dataclass(frozen=True, slots=True)
class S3Limits:
    """Sizes at which the adapter changes its method. Only tests should need other values.

    `head_first_bytes`: contents of at least this size are looked for before their body is sent. 0 always looks, so no
    body is sent twice; a caller that knows its contents to be new saves a request by raising it. `unseen_bytes`:
    smaller contents are sent without a look if the store has shown that it honours conditional puts (see
    `conditional_put`); a larger body costs more than the request that may save it.
    """

    head_first_bytes: int = 0
    unseen_bytes: int = 256 * 1024
    single_put_max_bytes: int = SINGLE_PUT_MAX_BYTES
    part_bytes: int = PART_BYTES


class S3ObjectStore(S3Reader):
    """An `ObjectStore` on a boto3 client, with libcurl beside it if we make the connection."""

    def __init__(
        self,
        client: Any,
        curl: CurlClient | None = None,
        limits: S3Limits | None = None,
        renew: Callable[[], None] = lambda: None,
        *,
        conditions_required: bool = False,
    ) -> None:
        super().__init__(Connection(client, curl), renew)
        self._limits = limits or S3Limits()
        self._writer = S3Writer(self._connection, self._limits.single_put_max_bytes, self._limits.part_bytes)
        self._conditions_required = conditions_required
        # The last refusals since a success, and the time of the newest.
        self._refusals: deque[StoreRefused] = deque(maxlen=_REFUSALS_IN_A_ROW)
        self._refused_at = 0.0

    @property
    def endpoint_url(self) -> str:
        """Where requests go. What is known about objects here says nothing about another endpoint."""
        return str(self._client.meta.endpoint_url)

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        self.require_conditions(address)
        try:
            outcome = self._put(Put(address, content, mime_type, progress))
        except StoreRefused as error:
            self._refusals.append(error)
            self._refused_at = time.monotonic()
            raise
        if outcome is PutOutcome.STORED:
            self._refusals.clear()
        return outcome

    def _put(self, put: Put) -> PutOutcome:
        if self._looks_first(put) and self.has(put.address, put.digest):
            return PutOutcome.ALREADY_THERE
        try:
            self._send_guarded(put)
        except Taken:
            if self.has(put.address, put.digest, strict=True):
                return PutOutcome.ALREADY_THERE
            raise StoreUnavailable(f"{put.address.s3_url}: an object was there and then was not: try again") from None
        self._ask_for_conditional_puts(put)
        return PutOutcome.STORED

    def require_conditions(self, address: ObjectAddress) -> None:
        """If conditional writes are required, raises StoreRefused unless the bucket has them. To find out, the empty
        content is put twice beside the address under the same condition; this cannot replace any other object.
        """
        if not self._conditions_required or self._guards.are_honoured(address.bucket):
            return
        if Guard.CONDITION not in self._guards.missing(address.bucket):
            empty = Content(digest_of(b""), None, data=b"")
            beside = ObjectAddress(address.bucket, f"{address.key.rpartition('/')[0]}/{empty.digest.md5}".lstrip("/"))
            self._guards.answered(
                address.bucket, self._honours_conditions(Put(beside, empty, "application/octet-stream"))
            )
        if not self._guards.are_honoured(address.bucket):
            raise StoreRefused(
                f"{address.s3_url}: the store has no conditional writes (If-None-Match), and s3.conditional_writes is "
                "'require': use another store, or set 'prefer'"
            )

    def _honours_conditions(self, put: Put) -> bool:
        left_out = self._guards.missing(put.address.bucket)
        for without in (left_out, left_out | {Guard.CHECKSUM}):
            try:
                for _ in range(2):
                    self._writer.send(put, without)
                return False
            except Taken:
                return True
            except StoreError as error:
                if not is_unknown_header(error.status, error.code):
                    raise
        return False

    def refuses_puts(self) -> StoreRefused | None:
        """The last refusal, if the store has just refused several puts in a row: it is full, or the rights to write are
        missing, although the check of the bucket finds nothing wrong.
        """
        if len(self._refusals) < _REFUSALS_IN_A_ROW or time.monotonic() > self._refused_at + _REFUSED_SECONDS:
            return None
        return self._refusals[-1]

    def weaker_promises(self) -> list[str]:
        """The guards that the stores written to lack, a sentence each."""
        return self._guards.weaker_promises()

    def _looks_first(self, put: Put) -> bool:
        if Guard.CONDITION in self._guards.missing(put.address.bucket):
            # `_send_guarded` looks right before the body.
            return False
        if put.content.size_bytes < self._limits.unseen_bytes and self._guards.are_honoured(put.address.bucket):
            return False
        return put.content.size_bytes >= self._limits.head_first_bytes

    def _ask_for_conditional_puts(self, put: Put) -> None:
        """Called after a content was stored, which stays there whatever the result."""
        bucket = put.address.bucket
        # A caller's client stores one content, so an answer would be of no use.
        if self._connection.curl is None or put.content.size_bytes >= self._limits.unseen_bytes:
            return
        if not self._guards.should_ask(bucket):
            return
        honoured: bool | None = None
        try:
            self._writer.send(dataclasses.replace(put, progress=None), self._guards.missing(bucket))
            honoured = False
        except Taken:
            honoured = True
        except StashError as error:
            log.debug("bucket=%s did not show whether it honours conditional puts: %s", bucket, error)
        finally:
            self._guards.answered(bucket, honoured)

    def _send_guarded(self, put: Put) -> None:
        """Sends with every guard that the store accepts."""
        bucket = put.address.bucket
        known = self._guards.missing(bucket)
        refused: StoreError | None = None
        for left_out in self._guards.left_out(bucket):
            if self._conditions_required and Guard.CONDITION in left_out:
                break
            if Guard.CONDITION in left_out and self.has(put.address, put.digest, strict=True):
                raise Taken
            try:
                self._writer.send(put, left_out)
            except StoreError as error:
                if not is_unknown_header(error.status, error.code):
                    raise
                refused = refused or error
            else:
                if left_out != known:
                    self._guards.lacks(bucket, left_out)
                return
        assert refused is not None, "there is always a first try"
        raise refused


def connect(
    endpoint: str | None = None,
    session: Session | None = None,
    limits: S3Limits | None = None,
    timeouts: Timeouts | None = None,
    attempts: int = 4,
    *,
    conditions_required: bool = False,
) -> S3ObjectStore:
    """A store for many contents, with the credentials of the ordinary boto3 chain: environment, profile, container, the
    box's IAM role (IMDSv2).

    `endpoint` is a bare host (`s3-us-west-2.amazonaws.com`) or a URL (`http://127.0.0.1:9000`, with the bucket in the
    path); None is Amazon's for the region of the chain. Raises SettingsError if it is neither. `attempts` counts for
    boto3's requests; libcurl's have one. `conditions_required`: nothing is put if the store has no conditional writes.
    """
    timeouts = timeouts or Timeouts()
    session = session or core_session()
    client = new_client(endpoint, session, timeouts, attempts)
    curl, renew = curl_for(client, session, timeouts), renewal_of(session)
    return S3ObjectStore(client, curl, limits, renew, conditions_required=conditions_required)


def store_for(conn: Any = None, endpoint: str | None = None) -> S3ObjectStore:
    """The store for the `conn` that callers of the library pass: None, a boto3 session, or a boto3 S3 client.

    A client is used as it is, so that its region, endpoint, credentials, proxies and hooks hold. Every request goes
    through boto3, never libcurl: a store for one content gains nothing from a second connection, and a caller's test
    that replaces boto3's transport (moto's mock_aws) sees every request.
    """
    import boto3

    if conn is None or isinstance(conn, boto3.Session):
        return S3ObjectStore(new_client(endpoint, conn or new_session()))
    if not hasattr(conn, "put_object"):
        raise SettingsError(f"conn is a {type(conn).__name__}: pass a boto3 S3 client, a boto3 session, or nothing")
    return S3ObjectStore(conn)
