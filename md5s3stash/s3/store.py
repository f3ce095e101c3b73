"""The S3 adapter: what is stored, found and read through a client of `client`.

A put is: look first where that saves a body, then one conditional request with the digests in its headers, so that S3
itself refuses bytes that are not the ones that were hashed. Stores differ in which of these guards they know (see
docs/decisions/0004-put-guards.md), so the ETag that comes back is checked as well, and of a large file nothing is sent
but what was hashed.
"""

from __future__ import annotations

import base64
import io
import logging
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

from botocore.exceptions import ClientError, CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

from md5s3stash.content import Content, Progress
from md5s3stash.digest import Digest, Hasher, digest_of, is_md5
from md5s3stash.errors import (
    DigestMismatch,
    SettingsError,
    SourceError,
    StashError,
    StoreError,
    StoreRefused,
    StoreUnavailable,
)
from md5s3stash.objectstore import (
    IMMUTABLE,
    SHA256_METADATA,
    PutOutcome,
    Sink,
    StoredObject,
    require_at_most,
    require_same_content,
)
from md5s3stash.s3.client import (
    ANSWER_ERRORS,
    BOTO_ERRORS,
    Session,
    core_session,
    curl_for,
    new_client,
    new_session,
    renewal_of,
    without_credentials,
)
from md5s3stash.s3.conditional_put import Guard, StoreGuards
from md5s3stash.s3.curl import Answer, CurlClient, Timeouts
from md5s3stash.s3.errors import is_unknown_header, shown, store_error
from md5s3stash.s3.multipart import Part, PartsSender, SentPart, etag_of_parts
from md5s3stash.scheme import ObjectAddress

log = logging.getLogger(__name__)

# The most that S3 takes in one request (AWS, "Multipart upload limits").
SINGLE_PUT_MAX_BYTES = 5 * 1024**3
PART_BYTES = 32 * 1024 * 1024

_DOWNLOAD_BYTES = 256 * 1024

# So many puts that were refused one after the other are no fault of theirs. After a while one may try again.
_REFUSALS_IN_A_ROW = 3
_REFUSED_SECONDS = 20.0

WRONG_REGION_CODES = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})


@dataclass(frozen=True, slots=True)
class S3Limits:
    """Where the adapter changes its way. Tests lower them; nobody else should need to.

    `head_first_bytes`: contents of at least this size are looked for before their body is sent. 0 always looks, which
    never sends a body twice; a caller that knows its contents to be new saves a request by raising it.
    `unseen_bytes`: as much is sent without a look where the store has shown that it honours conditional puts (see
    `conditional_put`); above that a body costs more than the request which may spare it.
    """

    head_first_bytes: int = 0
    unseen_bytes: int = 256 * 1024
    single_put_max_bytes: int = SINGLE_PUT_MAX_BYTES
    part_bytes: int = PART_BYTES


class _Taken(Exception):
    """S3's 412: something stands at the key already."""


class S3ObjectStore:
    """An `ObjectStore` on a boto3 client, with libcurl beside it where the connection is our own to make."""

    def __init__(
        self,
        client: Any,
        curl: CurlClient | None = None,
        limits: S3Limits | None = None,
        renew: Callable[[], None] = lambda: None,
        conditions_required: bool = False,
    ) -> None:
        self._client = client
        self._curl = curl
        # Has the credentials looked for again.
        self._renew = renew
        self._limits = limits or S3Limits()
        self._warned_buckets: set[str] = set()
        # In another region than the endpoint's: libcurl would be sent away each time, boto3 remembers where to go.
        self._boto_buckets: set[str] = set()
        self._guards = StoreGuards()
        self._conditions_required = conditions_required
        # The last refusals that no success came between, and the time of the newest.
        self._refusals: deque[StoreRefused] = deque(maxlen=_REFUSALS_IN_A_ROW)
        self._refused_at = 0.0
        self._parts = PartsSender()

    @property
    def endpoint_url(self) -> str:
        """Where requests go; of another endpoint nothing is known that is known of this one."""
        return str(self._client.meta.endpoint_url)

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        self.require_conditions(address)
        try:
            outcome = self._put(address, content, mime_type, progress)
        except StoreRefused as error:
            self._refusals.append(error)
            self._refused_at = time.monotonic()
            raise
        if outcome is PutOutcome.STORED:
            self._refusals.clear()
        return outcome

    def _put(self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None) -> PutOutcome:
        if self._looks_first(address, content) and self._stands(address, content.digest):
            return PutOutcome.ALREADY_THERE
        try:
            self._send_guarded(address, content, mime_type, progress)
        except _Taken:
            if self._stands(address, content.digest, strict=True):
                return PutOutcome.ALREADY_THERE
            raise StoreUnavailable(f"{address.s3_url}: an object stood there and then did not: try again") from None
        self._ask_for_conditional_puts(address, content, mime_type)
        return PutOutcome.STORED

    def head(self, address: ObjectAddress) -> StoredObject | None:
        curl = self._curl_for(address)
        if curl is None:
            return self._head_by_boto(address)
        without = Guard.CHECKSUM in self._guards.missing(address.bucket)
        answer = curl.head(address, {} if without else {"x-amz-checksum-mode": "ENABLED"})
        if answer.status == 200:
            return _stored_object(address, _as_boto(answer))
        if answer.status == 404:
            return None
        if answer.status == 403:
            raise _error_of(address, answer)
        # What needs another try or another region is boto3's. A HEAD has no body that would say which of the two: S3
        # sends 400 for a signature of the wrong region and for an expired token alike.
        stored = self._head_by_boto(address)
        # Not where it was the checksum header that the store refused.
        if answer.status in (301, 307, 400) and without == (Guard.CHECKSUM in self._guards.missing(address.bucket)):
            self._boto_buckets.add(address.bucket)
        return stored

    def _head_by_boto(self, address: ObjectAddress) -> StoredObject | None:
        if Guard.CHECKSUM in self._guards.missing(address.bucket):
            return self._asked_by_boto(address)
        try:
            return self._asked_by_boto(address, ChecksumMode="ENABLED")
        except StoreError as error:
            if error.status not in (400, 501):
                raise
            # A HEAD has no body that would name the header. Whatever else is wrong is wrong without it, too.
            stored = self._asked_by_boto(address)
        self._guards.lacks(address.bucket, frozenset({Guard.CHECKSUM}))
        return stored

    def _asked_by_boto(self, address: ObjectAddress, **checksum_mode: str) -> StoredObject | None:
        with _translating(address):
            try:
                answer = self._client.head_object(Bucket=address.bucket, Key=address.key, **checksum_mode)
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
            return _stored_object(address, answer)

    def get(self, address: ObjectAddress, max_bytes: int) -> bytes | None:
        buffer = io.BytesIO()
        return None if self.download(address, buffer, max_bytes) is None else buffer.getvalue()

    def download(self, address: ObjectAddress, sink: Sink, max_bytes: int) -> StoredObject | None:
        with _translating(address):
            try:
                answer = self._client.get_object(Bucket=address.bucket, Key=address.key)
            except ClientError as error:
                if _code(error) in ("NoSuchKey", "404"):
                    return None
                raise
        # Not `with answer["Body"]`: that gives urllib3's stream, whose errors botocore has not translated.
        with closing(answer["Body"]) as body:
            # An answer in chunks has no length.
            require_at_most(address, _length_in(answer), max_bytes)
            size_bytes = 0
            for piece in _pieces(address, body):
                size_bytes += len(piece)
                require_at_most(address, size_bytes, max_bytes)
                sink.write(piece)
        with _translating(address):
            return _stored_object(address, {**answer, "ContentLength": size_bytes})

    def digest_at(self, address: ObjectAddress) -> Digest | None:
        """The digest of the bytes at the address, read to the last; None where nothing stands there."""
        hasher = Hasher()
        return None if self.download(address, hasher, sys.maxsize) is None else hasher.digest()

    def check(self, bucket: str) -> None:
        address = ObjectAddress(bucket, "")
        try:
            with _translating(address):
                self._check(bucket, address)
        except StoreRefused:
            # Another role may be attached by now; other refusals are noticed with every request.
            self._renew()
            raise

    def _check(self, bucket: str, address: ObjectAddress) -> None:
        try:
            self._client.head_bucket(Bucket=bucket)
        except ClientError as error:
            if _status(error) == 404:
                raise store_error(address.s3_url, 404, "NoSuchBucket") from error
            if _status(error) not in (400, 403):
                raise
            # A HEAD has no body that says which of rights, keys and clock is wrong. This needs the same right.
            self._client.list_objects_v2(Bucket=bucket, MaxKeys=1)

    def check_reading(self, address: ObjectAddress, stands: bool) -> None:
        """Raises as `download` does where objects cannot be read, whether or not one stands there. Where none does, a
        role without s3:ListBucket is refused as well, and a refusal that does not name s3:GetObject says nothing.
        """
        try:
            with _translating(address):
                self._client.get_object(Bucket=address.bucket, Key=address.key, Range="bytes=0-0")["Body"].close()
        except StoreError as error:
            if error.code in ("NoSuchKey", "InvalidRange") or error.status == 416:
                return
            if error.code == "AccessDenied" and not stands and "perform: s3:GetObject" not in str(error):
                return
            if isinstance(error, StoreRefused):
                self._renew()
            raise

    def require_conditions(self, address: ObjectAddress) -> None:
        """Where conditional writes are required: raises StoreRefused unless the bucket has them. To find out, the empty
        content is put twice beside the address, under the same condition; no other object could be replaced.
        """
        if not self._conditions_required or self._guards.are_honoured(address.bucket):
            return
        if Guard.CONDITION not in self._guards.missing(address.bucket):
            empty = Content(digest_of(b""), None, data=b"")
            beside = ObjectAddress(address.bucket, f"{address.key.rpartition('/')[0]}/{empty.digest.md5}".lstrip("/"))
            self._guards.answered(address.bucket, self._honours_conditions(beside, empty))
        if not self._guards.are_honoured(address.bucket):
            raise StoreRefused(
                f"{address.s3_url}: the store has no conditional writes (If-None-Match), and s3.conditional_writes is "
                "'require': use another store, or set 'prefer'"
            )

    def _honours_conditions(self, address: ObjectAddress, content: Content) -> bool:
        left_out = self._guards.missing(address.bucket)
        for without in (left_out, left_out | {Guard.CHECKSUM}):
            try:
                for _ in range(2):
                    self._send(address, content, "application/octet-stream", None, without)
                return False
            except _Taken:
                return True
            except StoreError as error:
                if not is_unknown_header(error.status, error.code):
                    raise
        return False

    def refuses_puts(self) -> StoreRefused | None:
        """The last refusal, where the store has just answered several puts with nothing else: it is full, or the rights
        to write are missing, while a look at the bucket finds nothing wrong.
        """
        if len(self._refusals) < _REFUSALS_IN_A_ROW or time.monotonic() > self._refused_at + _REFUSED_SECONDS:
            return None
        return self._refusals[-1]

    def weaker_promises(self) -> list[str]:
        """Which guards the stores lack that were written to, a sentence each."""
        return self._guards.weaker_promises()

    def _curl_for(self, address: ObjectAddress) -> CurlClient | None:
        return None if address.bucket in self._boto_buckets else self._curl

    def _stands(self, address: ObjectAddress, digest: Digest, strict: bool = False) -> bool:
        """Whether this very content stands there already. Raises DigestCollision where another one does."""
        try:
            stored = self.head(address)
        except StoreRefused:
            if strict:
                raise
            # Without s3:ListBucket S3 answers 403 for a key that is not there: the conditional put will tell.
            return False
        if stored is None:
            return False
        require_same_content(address, stored, digest)
        return True

    def _looks_first(self, address: ObjectAddress, content: Content) -> bool:
        if Guard.CONDITION in self._guards.missing(address.bucket):
            # The look comes right before the body.
            return False
        if content.size_bytes < self._limits.unseen_bytes and self._guards.are_honoured(address.bucket):
            return False
        return content.size_bytes >= self._limits.head_first_bytes

    def _ask_for_conditional_puts(self, address: ObjectAddress, content: Content, mime_type: str) -> None:
        """After a content was stored, which stands there whatever comes of this."""
        # A caller's client is for one content; to its next one nothing would be known.
        if self._curl is None or content.size_bytes >= self._limits.unseen_bytes:
            return
        if not self._guards.should_ask(address.bucket):
            return
        honoured: bool | None = None
        try:
            self._send(address, content, mime_type, None, self._guards.missing(address.bucket))
            honoured = False
        except _Taken:
            honoured = True
        except StashError as error:
            log.debug("bucket=%s did not tell whether it honours conditional puts: %s", address.bucket, error)
        finally:
            self._guards.answered(address.bucket, honoured)

    def _send_guarded(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None
    ) -> None:
        """With every guard that the store takes."""
        known = self._guards.missing(address.bucket)
        refused: StoreError | None = None
        for left_out in self._guards.left_out(address.bucket):
            if self._conditions_required and Guard.CONDITION in left_out:
                break
            if Guard.CONDITION in left_out and self._stands(address, content.digest, strict=True):
                raise _Taken
            try:
                self._send(address, content, mime_type, progress, left_out)
            except StoreError as error:
                if not is_unknown_header(error.status, error.code):
                    raise
                refused = refused or error
            else:
                if left_out != known:
                    self._guards.lacks(address.bucket, left_out)
                return
        assert refused is not None, "there is always a first try"
        raise refused

    def _send(
        self,
        address: ObjectAddress,
        content: Content,
        mime_type: str,
        progress: Progress | None,
        left_out: frozenset[Guard],
    ) -> None:
        if content.data is not None:
            curl = self._curl_for(address)
            if curl is not None:
                self._put_by_curl(curl, address, content.data, content.digest, mime_type, left_out)
            else:
                self._put_by_boto(address, content.data, content.digest, mime_type, left_out)
            if progress is not None:
                progress(content.size_bytes)
        elif content.size_bytes <= self._limits.single_put_max_bytes:
            self._put_file(address, content, mime_type, progress, left_out)
        else:
            self._put_parts(address, content, mime_type, progress, left_out)

    def _put_by_curl(
        self,
        curl: CurlClient,
        address: ObjectAddress,
        data: bytes,
        digest: Digest,
        mime_type: str,
        left_out: frozenset[Guard],
    ) -> None:
        headers = _curl_headers(digest, mime_type, left_out)
        if Guard.CHECKSUM not in left_out:
            headers |= {"x-amz-checksum-sha256": digest.sha256_base64, "x-amz-sdk-checksum-algorithm": "SHA256"}
        answer = curl.put(address, data, headers)
        if self._lives_elsewhere(answer):
            self._put_by_boto(address, data, digest, mime_type, left_out)
            self._boto_buckets.add(address.bucket)
            return
        self._settle(address, answer, digest)

    def _put_file(
        self,
        address: ObjectAddress,
        content: Content,
        mime_type: str,
        progress: Progress | None,
        left_out: frozenset[Guard],
    ) -> None:
        curl = self._curl_for(address)
        if curl is None or not self._put_file_by_curl(curl, address, content, mime_type, progress, left_out):
            with content.verifying_reader(progress) as body:
                self._put_by_boto(address, body, content.digest, mime_type, left_out)

    def _put_file_by_curl(
        self,
        curl: CurlClient,
        address: ObjectAddress,
        content: Content,
        mime_type: str,
        progress: Progress | None,
        left_out: frozenset[Guard],
    ) -> bool:
        """False where it is boto3's, which knows other regions and tries again."""
        # S3 compares the body with x-amz-content-sha256. The same digest as a checksum of the object, which it would
        # keep, has the server hash it all once more; what is kept is in the metadata.
        headers = _curl_headers(content.digest, mime_type, left_out)
        try:
            with content.verifying_reader(progress) as body:
                answer = curl.send(address, body, headers)
        except StoreUnavailable as error:
            log.debug("%s", error)
            return False
        if self._lives_elsewhere(answer):
            self._boto_buckets.add(address.bucket)
            return False
        settled = answer.status in (200, 412) or is_unknown_header(answer.status, answer.code)
        if not settled and _error_of(address, answer).retryable:
            return False
        self._settle(address, answer, content.digest)
        return True

    def _lives_elsewhere(self, answer: Answer) -> bool:
        """Whether the bucket is one of another region, which boto3 knows how to find."""
        return answer.status in (301, 307) or answer.code in WRONG_REGION_CODES

    def _settle(self, address: ObjectAddress, answer: Answer, digest: Digest) -> None:
        if answer.status == 412:
            raise _Taken
        if answer.status != 200:
            raise _error_of(address, answer)
        self._check_put(address, _as_boto(answer), digest)

    def _put_by_boto(
        self, address: ObjectAddress, body: Any, digest: Digest, mime_type: str, left_out: frozenset[Guard]
    ) -> None:
        guards: dict[str, str] = {}
        if Guard.CHECKSUM not in left_out:
            guards |= {"ChecksumAlgorithm": "SHA256", "ChecksumSHA256": digest.sha256_base64}
        if Guard.CONDITION not in left_out:
            guards["IfNoneMatch"] = "*"
        with _translating(address, is_put=True):
            answer = self._client.put_object(
                Bucket=address.bucket,
                Key=address.key,
                Body=body,
                ContentLength=digest.size_bytes,
                ContentMD5=digest.md5_base64,
                **guards,
                **_attributes(digest, mime_type),
            )
        self._check_put(address, answer, digest)

    def _put_parts(
        self,
        address: ObjectAddress,
        content: Content,
        mime_type: str,
        progress: Progress | None,
        left_out: frozenset[Guard],
    ) -> None:
        """Above what one request may hold: completed only if every part is what was hashed."""
        target = {"Bucket": address.bucket, "Key": address.key}
        with _translating(address):
            upload = self._client.create_multipart_upload(**target, **_attributes(content.digest, mime_type))
            target["UploadId"] = upload["UploadId"]

        def send(part: Part, progress: Progress) -> SentPart:
            return self._send_part(target, address, content, part, progress)

        try:
            parts = self._parts.send(content, self._limits.part_bytes, send, progress)
            answer = self._complete(target, address, content.digest, parts, left_out)
        except BaseException:
            self._abort(target)
            raise
        # S3 hashes the digests of the parts, rclone's server the whole.
        self._check_put(address, answer, content.digest, etag_of_parts(parts))

    def _complete(
        self,
        target: Mapping[str, str],
        address: ObjectAddress,
        digest: Digest,
        parts: list[SentPart],
        left_out: frozenset[Guard],
    ) -> Mapping[str, Any]:
        request = {**target, "MultipartUpload": {"Parts": [sent.as_request() for sent in parts]}}
        if Guard.CONDITION not in left_out:
            try:
                with _translating(address, is_put=True):
                    answer: Mapping[str, Any] = self._client.complete_multipart_upload(**request, IfNoneMatch="*")
                return answer
            except StoreError as error:
                # The parts stand there: they need not travel again to find out.
                if not is_unknown_header(error.status, error.code):
                    raise
            if self._stands(address, digest, strict=True):
                raise _Taken
        with _translating(address):
            answer = self._client.complete_multipart_upload(**request)
        if Guard.CONDITION not in left_out:
            self._guards.lacks(address.bucket, frozenset({Guard.CONDITION}))
        return answer

    def _send_part(
        self, target: Mapping[str, str], address: ObjectAddress, content: Content, part: Part, progress: Progress
    ) -> SentPart:
        curl = self._curl_for(address)
        answer = None if curl is None else self._part_by_curl(curl, target, address, content, part, progress)
        if answer is None:
            with _translating(address), content.verifying_reader(progress, part.piece) as body:
                answer = self._client.upload_part(
                    **target,
                    PartNumber=part.number,
                    Body=body,
                    ContentLength=len(part.piece),
                    ContentMD5=part.md5_base64,
                )
        etag = answer.get("ETag", "")
        if not etag:
            raise StoreUnavailable(f"{address.s3_url}: the store gave part {part.number} no ETag")
        # Where it is not an md5, the object is read back in the end.
        if is_md5(etag.strip('"')):
            self._check_etag(address, answer, {part.md5.hex()})
        return SentPart(part, etag)

    def _part_by_curl(
        self,
        curl: CurlClient,
        target: Mapping[str, str],
        address: ObjectAddress,
        content: Content,
        part: Part,
        progress: Progress,
    ) -> Mapping[str, Any] | None:
        """None where it is boto3's: another region, another try, or an error to tell."""
        query = f"?partNumber={part.number}&uploadId={quote(target['UploadId'], safe='')}"
        headers = {"Content-MD5": part.md5_base64, "x-amz-content-sha256": "UNSIGNED-PAYLOAD"}
        try:
            with content.verifying_reader(progress, part.piece) as body:
                answer = curl.send(address, body, headers, query)
        except StoreUnavailable as error:
            log.debug("part=%d %s", part.number, error)
            return None
        return _as_boto(answer) if answer.status == 200 else None

    def _abort(self, target: Mapping[str, str]) -> None:
        try:
            self._client.abort_multipart_upload(**target)
        except BOTO_ERRORS as error:
            # The error that brought us here matters more; the bucket's lifecycle rule removes stale parts.
            log.warning(
                "abort of a multipart upload failed bucket=%s key=%s: %s", target["Bucket"], target["Key"], error
            )

    def _check_put(
        self, address: ObjectAddress, answer: Mapping[str, Any], digest: Digest, expected: str | None = None
    ) -> None:
        """Raises DigestMismatch where the store took other bytes. `expected` is an ETag that is as good as the md5."""
        if not answer.get("ETag", "").strip('"') and not is_kms(answer):
            # Ceph's answer to a completion that is repeated. The object has one.
            answer = self._asked_again(address)
        try:
            self._check_etag(address, answer, {digest.md5, expected or digest.md5})
        except DigestMismatch:
            # An ETag that is no md5 accuses nobody. Some stores encrypt and have such ETags: then the bytes must speak,
            # for another box may have found the object already and let its own file go.
            if not is_md5(answer.get("ETag", "").strip('"')) and self._reads_back(address, digest):
                self._warn_once(address.bucket, "its ETags are no md5s: each new object is read back to be sure")
                return
            # Left standing, it would vouch for itself at the next try with the SHA-256 that we sent along.
            self._remove_wrong(address)
            raise

    def _asked_again(self, address: ObjectAddress) -> Mapping[str, Any]:
        """What a HEAD answers about what was just stored; nothing where it does not answer."""
        try:
            with _translating(address):
                answer: Mapping[str, Any] = self._client.head_object(Bucket=address.bucket, Key=address.key)
            return answer
        except StashError as error:
            log.warning("%s: its ETag is not known: %s", address.s3_url, error)
            return {}

    def _reads_back(self, address: ObjectAddress, digest: Digest) -> bool:
        try:
            return self.digest_at(address) == digest
        except StashError as error:
            log.warning("%s could not be read back: %s", address.s3_url, error)
            return False

    def _check_etag(self, address: ObjectAddress, answer: Mapping[str, Any], expected: set[str]) -> None:
        etag = answer.get("ETag", "")
        if etag.strip('"').lower() in expected:
            return
        if is_kms(answer):
            self._warn_once(
                address.bucket, "it encrypts with KMS: ETags are no md5s here, Content-MD5 and SHA-256 vouch"
            )
            return
        raise DigestMismatch(
            f"{address.s3_url}: the store answered with the ETag {etag or 'none'}, not the md5 it was sent"
        )

    def _remove_wrong(self, address: ObjectAddress) -> None:
        """Takes back what we put a moment ago and what a store without Content-MD5 took wrongly; S3 itself never
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


def connect(
    endpoint: str | None = None,
    session: Session | None = None,
    limits: S3Limits | None = None,
    timeouts: Timeouts | None = None,
    attempts: int = 4,
    conditions_required: bool = False,
) -> S3ObjectStore:
    """A store for many contents, with the credentials of the ordinary boto3 chain: environment, profile, container, the
    box's IAM role (IMDSv2).

    `endpoint` is a bare host (`s3-us-west-2.amazonaws.com`) or a URL (`http://127.0.0.1:9000`, with the bucket in the
    path); None is Amazon's for the region of the chain. Raises SettingsError where it is neither.
    `attempts` are those of boto3's requests; libcurl's have one. `conditions_required`: nothing is put where the store
    has no conditional writes.
    """
    timeouts = timeouts or Timeouts()
    session = session or core_session()
    client = new_client(endpoint, session, timeouts, attempts)
    curl, renew = curl_for(client, session, timeouts), renewal_of(session)
    return S3ObjectStore(client, curl, limits, renew, conditions_required)


def store_for(conn: Any = None, endpoint: str | None = None) -> S3ObjectStore:
    """The store behind what callers of the library pass as `conn`: None, a boto3 session, or a boto3 S3 client.

    A client is used as it is for everything, so that its region, endpoint, credentials, proxies and hooks hold. All of
    it is boto3, whichever they pass: a store for one content gains nothing from a second connection, and what the
    callers' tests put in place of boto3's transport (moto's mock_aws) is never gone round.
    """
    import boto3

    if conn is None or isinstance(conn, boto3.Session):
        return S3ObjectStore(new_client(endpoint, conn or new_session()))
    if not hasattr(conn, "put_object"):
        raise SettingsError(f"conn is a {type(conn).__name__}: pass a boto3 S3 client, a boto3 session, or nothing")
    return S3ObjectStore(conn)


def _attributes(digest: Digest, mime_type: str) -> dict[str, Any]:
    return {"ContentType": mime_type, "CacheControl": IMMUTABLE, "Metadata": {SHA256_METADATA: digest.sha256}}


def _curl_headers(digest: Digest, mime_type: str, left_out: frozenset[Guard]) -> dict[str, str]:
    """The guards of a put and what the object is to say of itself."""
    return {
        "Content-Type": mime_type,
        "Cache-Control": IMMUTABLE,
        "Content-MD5": digest.md5_base64,
        **({} if Guard.CONDITION in left_out else {"If-None-Match": "*"}),
        "x-amz-content-sha256": digest.sha256,
        f"x-amz-meta-{SHA256_METADATA}": digest.sha256,
    }


def _error_of(address: ObjectAddress, answer: Answer) -> StoreError:
    return store_error(address.s3_url, answer.status, answer.code, answer.message)


def _stored_object(address: ObjectAddress, answer: Mapping[str, Any]) -> StoredObject:
    if "ETag" not in answer and "LastModified" not in answer:
        # A login page of the network, say, which is no other content: its 200 to everything must fail no file.
        raise StoreUnavailable(
            f"{address.s3_url}: what answers at the endpoint is not S3: neither ETag nor Last-Modified"
        )
    etag = answer.get("ETag", "").strip('"').lower()
    # Some stores change the case of metadata names.
    metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    encrypted = is_kms(answer) or "SSECustomerAlgorithm" in answer
    return StoredObject(
        size_bytes=_length_in(answer),
        md5=etag if is_md5(etag) and not encrypted else None,
        sha256=_sha256_of(answer.get("ChecksumSHA256", "")) or metadata.get(SHA256_METADATA),
        content_type=answer.get("ContentType"),
        cache_control=answer.get("CacheControl"),
        last_modified=modified.timestamp() if (modified := answer.get("LastModified")) else None,
    )


def _sha256_of(checksum: str) -> str | None:
    """The digest in a checksum header; None where it is one of parts, which has a dash, or none at all."""
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None


def _as_boto(answer: Answer) -> dict[str, Any]:
    """The headers of libcurl's answer under the names that boto3 gives to those we read."""
    headers = answer.headers
    named = {boto_name: headers[name] for name, boto_name in _BOTO_NAMES.items() if name in headers}
    start = "x-amz-meta-"
    metadata = {name.removeprefix(start): value for name, value in headers.items() if name.startswith(start)}
    return {**named, "ContentLength": _length_of(headers.get("content-length", "0")), "Metadata": metadata}


def _length_in(answer: Mapping[str, Any]) -> int:
    """botocore takes any number of digits, of which no object has so many bytes."""
    length: int = answer.get("ContentLength", 0)
    return length if 0 <= length < 10**19 else 0


def _length_of(text: str) -> int:
    # libcurl has refused what is not a number.
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


_BOTO_NAMES = {
    "etag": "ETag",
    "content-type": "ContentType",
    "cache-control": "CacheControl",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}


def is_kms(answer: Mapping[str, Any]) -> bool:
    """Whether the object is encrypted with a KMS key, which makes its ETag something else than the md5."""
    return str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")


def _status(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def _code(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _pieces(address: ObjectAddress, body: Any) -> Iterator[bytes]:
    """Those of a body as it arrives; the errors of whoever takes them are not translated."""
    with _translating(address):
        yield from body.iter_chunks(_DOWNLOAD_BYTES)


@contextmanager
def _translating(address: ObjectAddress, is_put: bool = False) -> Iterator[None]:
    """Errors of boto3 become ours; 412 to a put becomes `_Taken`."""
    try:
        yield
    except ANSWER_ERRORS as error:
        if is_put and isinstance(error, ClientError) and _status(error) == 412:
            raise _Taken from error
        raise translated(error, address.s3_url) from error


def translated(error: Exception, s3_url: str) -> StashError:
    """The error of our tree for one of `BOTO_ERRORS`."""
    if isinstance(error, ClientError):
        return store_error(
            s3_url, _status(error), _code(error), str(error.response.get("Error", {}).get("Message", ""))
        )
    # botocore wraps what the reader of a body raises.
    of_source = _source_error(error)
    if of_source is not None:
        return of_source
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, RuntimeError)):
        return without_credentials(error)
    if isinstance(error, BOTO_ERRORS):
        return StoreUnavailable(f"{s3_url}: no answer from the store: {shown(str(error))}")
    return StoreUnavailable(f"{s3_url}: the answer of the store cannot be read: {shown(repr(error))}")


def _source_error(error: BaseException) -> SourceError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, SourceError):
        seen = seen.__cause__ or seen.__context__
    return seen
