"""Copies an object inside the store, through libcurl if possible, and in parts if it is too large for one request.

Two conditions go with each copy: the source is still the object that was listed (x-amz-copy-source-if-match), and the
target has no such object (If-None-Match, which S3 accepts for copies since October 2025; if a store answers 501 to it,
the LIST must be enough). Content-Type, Cache-Control and metadata are kept, and S3 is asked to store the SHA-256.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any
from urllib.parse import quote

from botocore.exceptions import ClientError

from md5s3stash.digest import digest_of
from md5s3stash.errors import StoreUnavailable
from md5s3stash.s3.answers import as_boto, etag_of, is_kms
from md5s3stash.s3.boto_errors import code_of, status_of, translated
from md5s3stash.s3.client import ANSWER_ERRORS, curl_for, new_client
from md5s3stash.s3.conditional_put import Guard
from md5s3stash.s3.connection import Connection, lives_elsewhere
from md5s3stash.s3.curl import Answer
from md5s3stash.s3.errors import is_unknown_header, store_error
from md5s3stash.s3.multipart import SINGLE_PUT_MAX_BYTES
from md5s3stash.scheme import ObjectAddress
from md5s3stash_migrate.listing import Stored
from md5s3stash_migrate.s3_parts import PartLimits, copy_in_parts

_ETAG = re.compile(rb"<ETag>(?:&quot;|&#34;|\")?([^<&\"]+)")
_THROTTLED_STATUSES = frozenset({429, 503})
_THROTTLED_CODES = frozenset({"SlowDown", "Throttling", "ThrottlingException", "RequestLimitExceeded"})
_EMPTY = digest_of(b"")


class Throttled(StoreUnavailable):
    """The store asks to slow down."""


class Copied(StrEnum):
    """How a copy ended. `TAKEN`: the target has an object, or the source has changed since it was listed: S3's 412
    means either. `WRONG`: the copy has another md5.
    """

    DONE = "done"
    TAKEN = "taken"
    SOURCE_GONE = "source gone"
    WRONG = "wrong"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: int
    code: str
    etag: str = ""
    kms: bool = False


@dataclass(frozen=True, slots=True)
class CopyLimits:
    """`single_copy_max_bytes`: above it an object is copied in parts. Only tests should need other values."""

    single_copy_max_bytes: int = SINGLE_PUT_MAX_BYTES
    parts: PartLimits = field(default_factory=PartLimits)


class Copier:
    """Copies each object once; the caller retries. Safe to share between threads.

    `endpoint` is what S3_ENDPOINT may be, `session` a boto3 session.
    """

    def __init__(self, endpoint: str | None, session: Any, limits: CopyLimits | None = None) -> None:
        client = new_client(endpoint, session)
        self._connection = Connection(client, curl_for(client, session))
        self._limits = limits or CopyLimits()

    def copy(self, source: Stored, target: ObjectAddress) -> Copied:
        """Raises Throttled, StoreUnavailable and StoreRefused."""
        if source.size_bytes > self._limits.single_copy_max_bytes:
            answer = self._in_parts(source, target)
        else:
            answer = self._in_one(source, target)
        return _outcome(answer, source, target)

    def _in_one(self, source: Stored, target: ObjectAddress) -> _Answer:
        first: _Answer | None = None
        for left_out in self._connection.guards.left_out(target.bucket):
            answer = self._ask(source, target, left_out)
            if not is_unknown_header(answer.status, answer.code):
                if answer.status == 200 and first is not None:
                    self._connection.guards.lacks(target.bucket, left_out)
                return answer
            first = first or answer
        assert first is not None, "there is always a first try"
        return first

    def _ask(self, source: Stored, target: ObjectAddress, left_out: frozenset[Guard]) -> _Answer:
        curl = self._connection.curl_for(target.bucket)
        if curl is not None:
            answer = curl.put(target, b"", _curl_headers(source, left_out))
            if not lives_elsewhere(answer):
                return _of_curl(answer)
            self._connection.boto_buckets.add(target.bucket)
        return self._by_boto(source, target, left_out)

    def _by_boto(self, source: Stored, target: ObjectAddress, left_out: frozenset[Guard]) -> _Answer:
        try:
            answer = self._connection.client.copy_object(
                Bucket=target.bucket,
                Key=target.key,
                CopySource={"Bucket": source.address.bucket, "Key": source.address.key},
                CopySourceIfMatch=f'"{source.etag}"',
                MetadataDirective="COPY",
                **({} if Guard.CHECKSUM in left_out else {"ChecksumAlgorithm": "SHA256"}),
                **({} if Guard.CONDITION in left_out else {"IfNoneMatch": "*"}),
            )
        except ANSWER_ERRORS as error:
            return _refused(error, target)
        return _Answer(200, "", etag_of(answer["CopyObjectResult"]), is_kms(answer))

    def _in_parts(self, source: Stored, target: ObjectAddress) -> _Answer:
        try:
            answer = copy_in_parts(self._connection.client, source, target, self._limits.parts)
        except ANSWER_ERRORS as error:
            return _refused(error, target)
        # Its ETag is that of a multipart object and was checked against the parts; only a copy in one request has the
        # md5.
        return _Answer(200, "", source.etag, is_kms(answer))


def _curl_headers(source: Stored, left_out: frozenset[Guard]) -> dict[str, str]:
    return {
        # libcurl would send the type of a form.
        "Content-Type": "",
        "x-amz-content-sha256": _EMPTY.sha256,
        "x-amz-copy-source": quote(f"{source.address.bucket}/{source.address.key}", safe="/-_.~"),
        "x-amz-copy-source-if-match": f'"{source.etag}"',
        "x-amz-metadata-directive": "COPY",
        **({} if Guard.CHECKSUM in left_out else {"x-amz-checksum-algorithm": "SHA256"}),
        **({} if Guard.CONDITION in left_out else {"If-None-Match": "*"}),
    }


def _of_curl(answer: Answer) -> _Answer:
    etag = _ETAG.search(answer.body)
    return _Answer(
        answer.status, answer.code, etag[1].decode("utf-8", "replace") if etag else "", is_kms(as_boto(answer))
    )


def _refused(error: Exception, target: ObjectAddress) -> _Answer:
    if not isinstance(error, ClientError):
        raise translated(error, target.s3_url) from error
    return _Answer(status_of(error), code_of(error))


def _outcome(answer: _Answer, source: Stored, target: ObjectAddress) -> Copied:
    if answer.status == 200 and not answer.code:
        # Other stores than S3 may keep the source's multipart ETag. In a bucket that encrypts with KMS the ETag is not
        # an md5.
        right = answer.kms or answer.etag.lower() in (source.md5, source.etag)
        return Copied.DONE if right else Copied.WRONG
    if answer.status == 412:
        return Copied.TAKEN
    if answer.status == 404 and answer.code in ("NoSuchKey", "404"):
        return Copied.SOURCE_GONE
    if answer.status in _THROTTLED_STATUSES or answer.code in _THROTTLED_CODES:
        raise Throttled(f"{target.s3_url}: the store answered {answer.status} {answer.code}".rstrip())
    # If a copy fails after it began, the body of a 200 says so (AWS, "CopyObject").
    raise store_error(target.s3_url, 500 if answer.status == 200 else answer.status, answer.code)
