"""The writing half of the S3 adapter: sends a put with the given guards, and checks what the store received.

S3 itself refuses other bytes than those that were hashed, since their digests are in the headers. Stores differ in the
guards that they know (see docs/decisions/0004-put-guards.md), so the returned ETag is checked as well, and a large file
is sent only as it was hashed.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from md5s3stash.content import Content, Progress
from md5s3stash.digest import Digest, is_md5
from md5s3stash.errors import DigestMismatch, StashError, StoreError, StoreUnavailable
from md5s3stash.objectstore import IMMUTABLE, SHA256_METADATA
from md5s3stash.s3.answers import as_boto, etag_of, is_kms
from md5s3stash.s3.boto_errors import translating
from md5s3stash.s3.client import BOTO_ERRORS
from md5s3stash.s3.conditional_put import Guard
from md5s3stash.s3.connection import Connection, lives_elsewhere
from md5s3stash.s3.curl import Answer, CurlClient
from md5s3stash.s3.errors import Taken, is_unknown_header
from md5s3stash.s3.multipart import Part, PartsSender, SentPart, abort, etag_of_parts
from md5s3stash.s3.reader import S3Reader
from md5s3stash.scheme import ObjectAddress

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Put:
    """A content, its address, and the callback for the bytes sent."""

    address: ObjectAddress
    content: Content
    mime_type: str
    progress: Progress | None = None

    @property
    def digest(self) -> Digest:
        return self.content.digest


class S3Writer:
    """Sends contents, each in one request or in parts. Safe to share between threads."""

    def __init__(self, connection: Connection, single_put_max_bytes: int, part_bytes: int) -> None:
        self._connection = connection
        self._client = connection.client
        self._reader = S3Reader(connection)
        self._single_put_max_bytes = single_put_max_bytes
        self._part_bytes = part_bytes
        self._parts = PartsSender()
        self._warned_buckets: set[str] = set()

    def send(self, put: Put, left_out: frozenset[Guard]) -> None:
        """Stores the content. Raises Taken if the store refused to replace an object."""
        curl = self._connection.curl_for(put.address.bucket)
        data = put.content.data
        if data is not None:
            if curl is not None:
                self._put_by_curl(curl, put, data, left_out)
            else:
                self._put_by_boto(put, data, left_out)
            if put.progress is not None:
                put.progress(put.content.size_bytes)
        elif put.content.size_bytes > self._single_put_max_bytes:
            self._put_parts(put, left_out)
        elif curl is None or not self._put_file_by_curl(curl, put, left_out):
            with put.content.verifying_reader(put.progress) as body:
                self._put_by_boto(put, body, left_out)

    def _put_by_curl(self, curl: CurlClient, put: Put, data: bytes, left_out: frozenset[Guard]) -> None:
        headers = _curl_headers(put, left_out)
        if Guard.CHECKSUM not in left_out:
            headers |= {"x-amz-checksum-sha256": put.digest.sha256_base64, "x-amz-sdk-checksum-algorithm": "SHA256"}
        answer = curl.put(put.address, data, headers)
        if lives_elsewhere(answer):
            self._put_by_boto(put, data, left_out)
            self._connection.boto_buckets.add(put.address.bucket)
            return
        self._settle(put, answer)

    def _put_file_by_curl(self, curl: CurlClient, put: Put, left_out: frozenset[Guard]) -> bool:
        """False if boto3 must send it, because of another region or for a retry."""
        # S3 compares the body with x-amz-content-sha256. The same digest as a stored checksum would make the server
        # hash the body once more; the metadata holds it instead.
        headers = _curl_headers(put, left_out)
        try:
            with put.content.verifying_reader(put.progress) as body:
                answer = curl.send(put.address, body, headers)
        except StoreUnavailable as error:
            log.debug("%s", error)
            return False
        if lives_elsewhere(answer):
            self._connection.boto_buckets.add(put.address.bucket)
            return False
        settled = answer.status in (200, 412) or is_unknown_header(answer.status, answer.code)
        if not settled and answer.error_at(put.address).retryable:
            return False
        self._settle(put, answer)
        return True

    def _settle(self, put: Put, answer: Answer) -> None:
        if answer.status == 412:
            raise Taken
        if answer.status != 200:
            raise answer.error_at(put.address)
        self._check_put(put, as_boto(answer))

    def _put_by_boto(self, put: Put, body: Any, left_out: frozenset[Guard]) -> None:
        guards: dict[str, str] = {}
        if Guard.CHECKSUM not in left_out:
            guards |= {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": put.digest.sha256_base64}
        if Guard.CONDITION not in left_out:
            guards["IfNoneMatch"] = "*"
        with translating(put.address, is_put=True):
            answer = self._client.put_object(
                Bucket=put.address.bucket,
                Key=put.address.key,
                Body=body,
                ContentLength=put.digest.size_bytes,
                ContentMD5=put.digest.md5_base64,
                **guards,
                **_attributes(put),
            )
        self._check_put(put, answer)

    def _put_parts(self, put: Put, left_out: frozenset[Guard]) -> None:
        """For files too large for one request. Completed only if every part is as it was hashed."""
        upload = {"Bucket": put.address.bucket, "Key": put.address.key}
        with translating(put.address):
            answer = self._client.create_multipart_upload(**upload, **_attributes(put))
            upload["UploadId"] = answer["UploadId"]

        def send(part: Part, progress: Progress) -> SentPart:
            return self._send_part(put, upload, part, progress)

        try:
            parts = self._parts.send(put.content, self._part_bytes, send, put.progress)
            answer = self._complete(put, upload, parts, left_out)
        except BaseException:
            abort(self._client, upload)
            raise
        # S3's ETag is a digest of the parts' digests; rclone's server sends the md5 of the whole.
        self._check_put(put, answer, etag_of_parts([sent.part.md5 for sent in parts]))

    def _complete(
        self, put: Put, upload: Mapping[str, str], parts: list[SentPart], left_out: frozenset[Guard]
    ) -> Mapping[str, Any]:
        request = {**upload, "MultipartUpload": {"Parts": [sent.as_request() for sent in parts]}}
        if Guard.CONDITION not in left_out:
            try:
                with translating(put.address, is_put=True):
                    answer: Mapping[str, Any] = self._client.complete_multipart_upload(**request, IfNoneMatch="*")
                return answer
            except StoreError as error:
                # The parts are already there: they need not be sent again to find out.
                if not is_unknown_header(error.status, error.code):
                    raise
            if self._reader.has(put.address, put.digest, strict=True):
                raise Taken
        with translating(put.address):
            answer = self._client.complete_multipart_upload(**request)
        if Guard.CONDITION not in left_out:
            self._connection.guards.lacks(put.address.bucket, frozenset({Guard.CONDITION}))
        return answer

    def _send_part(self, put: Put, upload: Mapping[str, str], part: Part, progress: Progress) -> SentPart:
        curl = self._connection.curl_for(put.address.bucket)
        answer = None if curl is None else self._part_by_curl(curl, put, upload, part, progress)
        if answer is None:
            with translating(put.address), put.content.verifying_reader(progress, part.piece) as body:
                answer = self._client.upload_part(
                    **upload,
                    PartNumber=part.number,
                    Body=body,
                    ContentLength=len(part.piece),
                    ContentMD5=part.md5_base64,
                )
        etag = answer.get("ETag", "")
        if not etag:
            raise StoreUnavailable(f"{put.address.s3_url}: the store gave part {part.number} no ETag")
        # If it is not an md5, the whole object is read back at the end.
        if is_md5(etag_of(answer)):
            self._check_etag(put.address, answer, {part.md5.hex()})
        return SentPart(part, etag)

    def _part_by_curl(
        self, curl: CurlClient, put: Put, upload: Mapping[str, str], part: Part, progress: Progress
    ) -> Mapping[str, Any] | None:
        """None if boto3 must send it: another region, a retry, or an error to report."""
        query = f"?partNumber={part.number}&uploadId={quote(upload['UploadId'], safe='')}"
        headers = {"Content-MD5": part.md5_base64, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        try:
            with put.content.verifying_reader(progress, part.piece) as body:
                answer = curl.send(put.address, body, headers, query)
        except StoreUnavailable as error:
            log.debug("part=%d %s", part.number, error)
            return None
        return as_boto(answer) if answer.status == 200 else None

    def _check_put(self, put: Put, answer: Mapping[str, Any], expected: str | None = None) -> None:
        """Raises DigestMismatch if the store received other bytes. `expected` is an ETag that proves as much as the
        md5.
        """
        address, digest = put.address, put.digest
        if not etag_of(answer) and not is_kms(answer):
            # Ceph's answer to a repeated completion has no ETag. The object has one.
            answer = self._asked_again(address)
        try:
            self._check_etag(address, answer, {digest.md5, expected or digest.md5})
        except DigestMismatch:
            # An ETag that is not an md5 proves nothing. Stores that encrypt have such ETags. Then the bytes are read
            # back instead of deleted, because another box may already rely on the object and have removed its own file.
            if not is_md5(etag_of(answer)) and self._reads_back(address, digest):
                self._warn_once(address.bucket, "its ETags are not md5s: each new object is read back to be sure")
                return
            # If it stayed, the next try would accept it because of the SHA-256 in its metadata, which we sent.
            self._remove_wrong(address)
            raise

    def _asked_again(self, address: ObjectAddress) -> Mapping[str, Any]:
        """The HEAD of the object just stored; empty if there is no answer."""
        try:
            with translating(address):
                answer: Mapping[str, Any] = self._client.head_object(Bucket=address.bucket, Key=address.key)
            return answer
        except StashError as error:
            log.warning("%s: its ETag is not known: %s", address.s3_url, error)
            return {}

    def _reads_back(self, address: ObjectAddress, digest: Digest) -> bool:
        try:
            return self._reader.digest_at(address) == digest
        except StashError as error:
            log.warning("%s could not be read back: %s", address.s3_url, error)
            return False

    def _check_etag(self, address: ObjectAddress, answer: Mapping[str, Any], expected: set[str]) -> None:
        etag = etag_of(answer)
        if etag.lower() in expected:
            return
        if is_kms(answer):
            self._warn_once(
                address.bucket,
                "it encrypts with KMS: ETags are not md5s here; Content-MD5 and SHA-256 prove the content",
            )
            return
        shown = answer.get("ETag") or "none"
        raise DigestMismatch(f"{address.s3_url}: the store answered with the ETag {shown}, not the md5 it was sent")

    def _remove_wrong(self, address: ObjectAddress) -> None:
        """Deletes the object that we just put, of which a store without Content-MD5 accepted wrong bytes; S3 never
        does.
        """
        try:
            self._client.delete_object(Bucket=address.bucket, Key=address.key)
            log.error("removed wrong bytes from %s, which the store had taken without a check", address.s3_url)
        except BOTO_ERRORS as error:
            log.critical("%s holds wrong bytes and could not be removed: %s", address.s3_url, error)

    def _warn_once(self, bucket: str, message: str) -> None:
        if bucket not in self._warned_buckets:
            self._warned_buckets.add(bucket)
            log.warning("bucket=%s %s", bucket, message)


def _attributes(put: Put) -> dict[str, Any]:
    return {"ContentType": put.mime_type, "CacheControl": IMMUTABLE, "Metadata": {SHA256_METADATA: put.digest.sha256}}


def _curl_headers(put: Put, left_out: frozenset[Guard]) -> dict[str, str]:
    """The guards of a put, and the object's own metadata."""
    return {
        "Content-Type": put.mime_type,
        "Cache-Control": IMMUTABLE,
        "Content-MD5": put.digest.md5_base64,
        **({} if Guard.CONDITION in left_out else {"If-None-Match": "*"}),
        "x-amz-content-sha256": put.digest.sha256,
        f"x-amz-meta-{SHA256_METADATA}": put.digest.sha256,
    }
