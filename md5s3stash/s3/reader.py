"""The reading half of the S3 adapter: which object is at an address, its bytes, and whether the bucket can be read."""

from __future__ import annotations

import io
import re
import sys
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

from botocore.exceptions import ClientError

from md5s3stash.digest import Digest, Hasher
from md5s3stash.errors import StoreError, StoreRefused, StoreUnavailable
from md5s3stash.objectstore import ObjectPart, Sink, StoredObject, require_at_most, require_same_content
from md5s3stash.s3.answers import as_boto, etag_of, length_of, stored_object
from md5s3stash.s3.boto_errors import code_of, status_of, translating
from md5s3stash.s3.conditional_put import Guard
from md5s3stash.s3.connection import Connection
from md5s3stash.s3.errors import store_error
from md5s3stash.scheme import ObjectAddress

_DOWNLOAD_BYTES = 256 * 1024
_CONTENT_RANGE = re.compile(r"bytes (\d{1,19})-(\d{1,19})/(\d{1,19})")


class S3Reader:
    """The methods of `ObjectStore` that read. `renew` makes the client search for credentials again."""

    def __init__(self, connection: Connection, renew: Callable[[], None] = lambda: None) -> None:
        self._connection = connection
        self._client = connection.client
        self._guards = connection.guards
        self._renew = renew

    def head(self, address: ObjectAddress) -> StoredObject | None:
        curl = self._connection.curl_for(address.bucket)
        if curl is None:
            return self._head_by_boto(address)
        without = Guard.CHECKSUM in self._guards.missing(address.bucket)
        answer = curl.head(address, {} if without else {"x-amz-checksum-mode": "ENABLED"})
        if answer.status == 200:
            return stored_object(address, as_boto(answer))
        if answer.status == 404:
            return None
        if answer.status == 403:
            raise answer.error_at(address)
        # boto3 handles retries and other regions. A HEAD has no body to say which of the two is needed: S3 sends 400
        # both for a signature of the wrong region and for an expired token.
        stored = self._head_by_boto(address)
        # Not if the store refused the checksum header.
        if answer.status in (301, 307, 400) and without == (Guard.CHECKSUM in self._guards.missing(address.bucket)):
            self._connection.boto_buckets.add(address.bucket)
        return stored

    def _head_by_boto(self, address: ObjectAddress) -> StoredObject | None:
        if Guard.CHECKSUM in self._guards.missing(address.bucket):
            return self._asked_by_boto(address)
        try:
            return self._asked_by_boto(address, ChecksumMode="ENABLED")
        except StoreError as error:
            if error.status not in (400, 501):
                raise
            # A HEAD has no body that would name the header. Any other error comes back without the header too.
            stored = self._asked_by_boto(address)
        self._guards.lacks(address.bucket, frozenset({Guard.CHECKSUM}))
        return stored

    def _asked_by_boto(self, address: ObjectAddress, **checksum_mode: str) -> StoredObject | None:
        with translating(address):
            try:
                answer = self._client.head_object(Bucket=address.bucket, Key=address.key, **checksum_mode)
            except ClientError as error:
                if status_of(error) == 404:
                    return None
                raise
            return stored_object(address, answer)

    def has(self, address: ObjectAddress, digest: Digest, *, strict: bool = False) -> bool:
        """Whether this content is at the address. Raises DigestCollision if another one is."""
        try:
            stored = self.head(address)
        except StoreRefused:
            if strict:
                raise
            # Without s3:ListBucket S3 answers 403 for a key that is not there: the conditional put will show it.
            return False
        if stored is not None and not stored.is_proof:
            stored = self._read_object(address)
        if stored is None:
            return False
        require_same_content(address, stored, digest)
        return True

    def _read_object(self, address: ObjectAddress) -> StoredObject | None:
        """What its bytes say, all of which it reads."""
        digest = self.digest_at(address)
        return None if digest is None else StoredObject(digest.size_bytes, digest.md5, digest.sha256)

    def get(self, address: ObjectAddress, max_bytes: int) -> bytes | None:
        buffer = io.BytesIO()
        return None if self.download(address, buffer, max_bytes) is None else buffer.getvalue()

    def download(self, address: ObjectAddress, sink: Sink, max_bytes: int) -> StoredObject | None:
        with translating(address):
            try:
                answer = self._client.get_object(Bucket=address.bucket, Key=address.key)
            except ClientError as error:
                if code_of(error) in ("NoSuchKey", "404"):
                    return None
                raise
        # Not `with answer["Body"]`: that gives urllib3's stream, whose errors botocore has not translated.
        with closing(answer["Body"]) as body:
            # An answer in chunks has no length.
            require_at_most(address, length_of(answer), max_bytes)
            size_bytes = 0
            for piece in _pieces(address, body):
                size_bytes += len(piece)
                require_at_most(address, size_bytes, max_bytes)
                sink.write(piece)
        with translating(address):
            return stored_object(address, {**answer, "ContentLength": size_bytes})

    def read_part(
        self, address: ObjectAddress, first: int, last: int, etag: str = "", check: Callable[[], None] = lambda: None
    ) -> ObjectPart | None:
        """The bytes from `first` to `last`, or to the end, of the object that has this ETag, if one is given; None if
        no object is there. Raises StoreUnavailable if another object is there by now, or the answer is not that part,
        and what `check` raises, which is called as the bytes arrive.
        """
        condition = {"IfMatch": f'"{etag}"'} if etag else {}
        with translating(address):
            try:
                answer = self._client.get_object(
                    Bucket=address.bucket, Key=address.key, Range=f"bytes={first}-{last}", **condition
                )
            except ClientError as error:
                if code_of(error) in ("NoSuchKey", "404"):
                    return None
                raise
        with closing(answer["Body"]) as body:
            found = _CONTENT_RANGE.fullmatch(str(answer.get("ContentRange", "")))
            size_bytes = int(found[3]) if found else 0
            if not found or int(found[1]) != first or int(found[2]) != min(last, size_bytes - 1):
                raise StoreUnavailable(f"{address.s3_url}: the store does not give the part that is asked for")
            pieces = []
            for piece in _pieces(address, body):
                pieces.append(piece)
                check()
        data = b"".join(pieces)
        if len(data) != int(found[2]) - first + 1 or (etag and etag_of(answer) != etag):
            raise StoreUnavailable(f"{address.s3_url}: the store gives another part than is asked for")
        with translating(address):
            return ObjectPart(data, etag_of(answer), stored_object(address, {**answer, "ContentLength": size_bytes}))

    def digest_at(self, address: ObjectAddress) -> Digest | None:
        """The digest of the bytes at the address, all of which it reads; None if no object is there."""
        hasher = Hasher()
        return None if self.download(address, hasher, sys.maxsize) is None else hasher.digest()

    def check(self, bucket: str) -> None:
        address = ObjectAddress(bucket, "")
        try:
            with translating(address):
                self._check(bucket, address)
        except StoreRefused:
            # Another role may be attached by now. Other requests notice refused credentials by themselves.
            self._renew()
            raise

    def _check(self, bucket: str, address: ObjectAddress) -> None:
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if status_of(error) == 404:
                raise store_error(address.s3_url, 404, "NoSuchBucket") from error
            if status_of(error) not in (400, 403):
                raise
            # A HEAD has no body that says which of rights, keys and clock is wrong. This needs the same right.
            self._client.list_objects_v2(Bucket=bucket, MaxKeys=1)

    def check_reading(self, address: ObjectAddress, *, exists: bool) -> None:
        """Raises as `download` does if objects cannot be read, whether or not one is there. If none is there, a role
        without s3:ListBucket is refused as well, so a refusal that does not name s3:GetObject means nothing.
        """
        try:
            with translating(address):
                self._client.get_object(Bucket=address.bucket, Key=address.key, Range="bytes=0-0")["Body"].close()
        except StoreError as error:
            if error.code in ("NoSuchKey", "InvalidRange") or error.status == 416:
                return
            if error.code == "AccessDenied" and not exists and "perform: s3:GetObject" not in str(error):
                return
            if isinstance(error, StoreRefused):
                self._renew()
            raise


def _pieces(address: ObjectAddress, body: Any) -> Iterator[bytes]:
    """The pieces of a body as it arrives. Errors of the caller are not translated."""
    with translating(address):
        yield from body.iter_chunks(_DOWNLOAD_BYTES)
