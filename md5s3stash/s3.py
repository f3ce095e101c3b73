"""The S3 adapter; the only importer of boto3.

A put is: look first where that saves a body, then one conditional request with the digests in its headers, so that S3
itself refuses bytes that are not the ones that were hashed. Stores differ in which of these guards they know (see
docs/decisions/0004-put-guards.md), so the ETag that comes back is checked as well, and of a large file nothing is sent
but what was hashed.
"""

from __future__ import annotations

import base64
import io
import logging
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeAlias
from urllib.parse import quote

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.parsers import ResponseParserError
from botocore.session import Session as BotocoreSession

from md5s3stash.content import Content, Progress
from md5s3stash.digest import Digest, Hasher, is_md5
from md5s3stash.errors import (
    DigestMismatch,
    SettingsError,
    SourceError,
    StashError,
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
from md5s3stash.s3_conditional import ConditionalPuts
from md5s3stash.s3_curl import Answer, Credentials, CurlClient, Endpoint, Timeouts
from md5s3stash.s3_errors import store_error
from md5s3stash.s3_parts import Part, PartsSender, SentPart, etag_of_parts
from md5s3stash.scheme import ObjectAddress

if TYPE_CHECKING:
    import boto3

# boto3's session is one of botocore's with more on top, which takes a sixth of the command's start to import.
Session: TypeAlias = "boto3.Session | BotocoreSession"
CoreSession: TypeAlias = BotocoreSession

log = logging.getLogger(__name__)

# The most that S3 takes in one request (AWS, "Multipart upload limits").
SINGLE_PUT_MAX_BYTES = 5 * 1024**3
PART_BYTES = 32 * 1024 * 1024

_DOWNLOAD_BYTES = 256 * 1024

_AWS_HOST = re.compile(r"s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com(?:\.cn)?")
_AWS_NAME = re.compile(r"https?://[A-Za-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
WRONG_REGION_CODES = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})

# A role's credentials that could not be renewed come as a RuntimeError, an answer that is no XML as the parser's error.
BOTO_ERRORS = (ClientError, BotoCoreError, ResponseParserError, RuntimeError)


@dataclass(frozen=True, slots=True)
class S3Limits:
    """Where the adapter changes its way. Tests lower them; nobody else should need to.

    `head_first_bytes`: contents of at least this size are looked for before their body is sent. 0 always looks, which
    never sends a body twice; a caller that knows its contents to be new saves a request by raising it.
    `unseen_bytes`: as much is sent without a look where the store has shown that it honours conditional puts (see
    `s3_conditional`); above that a body costs more than the request which may spare it.
    """

    head_first_bytes: int = 0
    unseen_bytes: int = 256 * 1024
    single_put_max_bytes: int = SINGLE_PUT_MAX_BYTES
    part_bytes: int = PART_BYTES


class _Taken(Exception):
    """S3's 412: something stands at the key already."""


class S3ObjectStore:
    """An `ObjectStore` on a boto3 client, with libcurl beside it where the connection is our own to make."""

    def __init__(self, client: Any, curl: CurlClient | None = None, limits: S3Limits | None = None) -> None:
        self._client = client
        self._curl = curl
        self._limits = limits or S3Limits()
        self._warned_buckets: set[str] = set()
        # In another region than the endpoint's: libcurl would be sent away each time, boto3 remembers where to go.
        self._boto_buckets: set[str] = set()
        self._conditional = ConditionalPuts()
        self._parts = PartsSender()

    @property
    def endpoint_url(self) -> str:
        """Where requests go; of another endpoint nothing is known that is known of this one."""
        return str(self._client.meta.endpoint_url)

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        if self._looks_first(address, content) and self._stands(address, content.digest):
            return PutOutcome.ALREADY_THERE
        try:
            self._send(address, content, mime_type, progress)
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
        answer = curl.head(address, {"x-amz-checksum-mode": "ENABLED"})
        if answer.status == 200:
            return _stored_object(_as_boto(answer))
        if answer.status == 404:
            return None
        if answer.status == 403:
            raise store_error(address.s3_url, answer.status, answer.code)
        # What needs another try or another region is boto3's. A HEAD has no body that would say which of the two: S3
        # sends 400 for a signature of the wrong region and for an expired token alike.
        stored = self._head_by_boto(address)
        if answer.status in (301, 307, 400):
            self._boto_buckets.add(address.bucket)
        return stored

    def _head_by_boto(self, address: ObjectAddress) -> StoredObject | None:
        with _translating(address):
            try:
                answer = self._client.head_object(Bucket=address.bucket, Key=address.key, ChecksumMode="ENABLED")
            except ClientError as error:
                if _status(error) == 404:
                    return None
                raise
        return _stored_object(answer)

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
                require_at_most(address, answer["ContentLength"], max_bytes)
                size_bytes = 0
                for piece in body.iter_chunks(_DOWNLOAD_BYTES):
                    size_bytes += len(piece)
                    require_at_most(address, size_bytes, max_bytes)
                    sink.write(piece)
        return _stored_object(answer)

    def digest_at(self, address: ObjectAddress) -> Digest | None:
        """The digest of the bytes at the address, read to the last; None where nothing stands there."""
        hasher = Hasher()
        return None if self.download(address, hasher, sys.maxsize) is None else hasher.digest()

    def check(self, bucket: str) -> None:
        address = ObjectAddress(bucket, "")
        with _translating(address):
            try:
                self._client.head_bucket(Bucket=bucket)
            except ClientError as error:
                # A HEAD has no body that could name the fault.
                code = {404: "NoSuchBucket", 403: "AccessDenied"}.get(_status(error), _code(error))
                raise store_error(address.s3_url, _status(error), code) from error

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
        if content.size_bytes < self._limits.unseen_bytes and self._conditional.are_honoured(address.bucket):
            return False
        return content.size_bytes >= self._limits.head_first_bytes

    def _ask_for_conditional_puts(self, address: ObjectAddress, content: Content, mime_type: str) -> None:
        """After a content was stored, which stands there whatever comes of this."""
        # A caller's client is for one content; to its next one nothing would be known.
        if self._curl is None or content.size_bytes >= self._limits.unseen_bytes:
            return
        if not self._conditional.should_ask(address.bucket):
            return
        honoured: bool | None = None
        try:
            self._send(address, content, mime_type, None)
            honoured = False
        except _Taken:
            honoured = True
        except StashError as error:
            log.debug("bucket=%s did not tell whether it honours conditional puts: %s", address.bucket, error)
        finally:
            self._conditional.answered(address.bucket, honoured)

    def _send(self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None) -> None:
        if content.data is not None:
            curl = self._curl_for(address)
            if curl is not None:
                self._put_by_curl(curl, address, content.data, content.digest, mime_type)
            else:
                self._put_by_boto(address, content.data, content.digest, mime_type)
            if progress is not None:
                progress(content.size_bytes)
        elif content.size_bytes <= self._limits.single_put_max_bytes:
            self._put_file(address, content, mime_type, progress)
        else:
            self._put_parts(address, content, mime_type, progress)

    def _put_by_curl(
        self, curl: CurlClient, address: ObjectAddress, data: bytes, digest: Digest, mime_type: str
    ) -> None:
        checksum = {"x-amz-checksum-sha256": digest.sha256_base64, "x-amz-sdk-checksum-algorithm": "SHA256"}
        answer = curl.put(address, data, {**_curl_headers(digest, mime_type), **checksum})
        if self._lives_elsewhere(answer):
            self._put_by_boto(address, data, digest, mime_type)
            self._boto_buckets.add(address.bucket)
            return
        self._settle(address, answer, digest)

    def _put_file(self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None) -> None:
        curl = self._curl_for(address)
        if curl is None or not self._put_file_by_curl(curl, address, content, mime_type, progress):
            with content.verifying_reader(progress) as body:
                self._put_by_boto(address, body, content.digest, mime_type)

    def _put_file_by_curl(
        self, curl: CurlClient, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None
    ) -> bool:
        """False where it is boto3's, which knows other regions and tries again."""
        # S3 compares the body with x-amz-content-sha256. The same digest as a checksum of the object, which it would
        # keep, has the server hash it all once more; what is kept is in the metadata.
        headers = _curl_headers(content.digest, mime_type)
        try:
            with content.verifying_reader(progress) as body:
                answer = curl.send(address, body, headers)
        except StoreUnavailable as error:
            log.debug("%s", error)
            return False
        if self._lives_elsewhere(answer):
            self._boto_buckets.add(address.bucket)
            return False
        if answer.status not in (200, 412) and store_error(address.s3_url, answer.status, answer.code).retryable:
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
            raise store_error(address.s3_url, answer.status, answer.code)
        self._check_put(address, _as_boto(answer), digest)

    def _put_by_boto(self, address: ObjectAddress, body: Any, digest: Digest, mime_type: str) -> None:
        with _translating(address):
            answer = self._client.put_object(
                Bucket=address.bucket,
                Key=address.key,
                Body=body,
                ContentLength=digest.size_bytes,
                ContentMD5=digest.md5_base64,
                ChecksumAlgorithm="SHA256",
                ChecksumSHA256=digest.sha256_base64,
                IfNoneMatch="*",
                **_attributes(digest, mime_type),
            )
        self._check_put(address, answer, digest)

    def _put_parts(self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None) -> None:
        """Above what one request may hold: completed only if every part is what was hashed."""
        target = {"Bucket": address.bucket, "Key": address.key}
        with _translating(address):
            upload = self._client.create_multipart_upload(**target, **_attributes(content.digest, mime_type))
            target["UploadId"] = upload["UploadId"]

        def send(part: Part, progress: Progress) -> SentPart:
            return self._send_part(target, address, content, part, progress)

        try:
            parts = self._parts.send(content, self._limits.part_bytes, send, progress)
            with _translating(address):
                answer = self._client.complete_multipart_upload(
                    **target, MultipartUpload={"Parts": [sent.as_request() for sent in parts]}, IfNoneMatch="*"
                )
        except BaseException:
            self._abort(target)
            raise
        # S3 hashes the digests of the parts, rclone's server the whole.
        self._check_put(address, answer, content.digest, etag_of_parts(parts))

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
        self._check_etag(address, answer, {part.md5.hex()})
        return SentPart(part, answer["ETag"])

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
) -> S3ObjectStore:
    """A store for many contents, with the credentials of the ordinary boto3 chain: environment, profile, container, the
    box's IAM role (IMDSv2).

    `endpoint` is a bare host (`s3-us-west-2.amazonaws.com`) or a URL (`http://127.0.0.1:9000`, with the bucket in the
    path); None is Amazon's for the region of the chain. Raises SettingsError where it is neither.
    `attempts` are those of boto3's requests; libcurl's have one.
    """
    timeouts = timeouts or Timeouts()
    session = session or core_session()
    client = new_client(endpoint, session, timeouts, attempts)
    return S3ObjectStore(client, curl_for(client, session, timeouts), limits)


def curl_for(client: Any, session: Session, timeouts: Timeouts | None = None) -> CurlClient:
    """libcurl beside a boto3 client: the same endpoint, and the credentials of the same session."""
    return CurlClient(endpoint_of(client), lambda: _credentials(session), timeouts)


def endpoint_of(client: Any) -> Endpoint:
    """Where a client of ours sends its requests, and how."""
    url, region = client.meta.endpoint_url.rstrip("/"), client.meta.region_name
    return Endpoint(
        url=url,
        # boto3's name for "no region was given" signs as the first one.
        region="us-east-1" if region == "aws-global" else region,
        # AWS_ENDPOINT_URL can have put another store here, whose buckets are no host names.
        virtual_hosts=_AWS_NAME.fullmatch(url) is not None,
    )


def new_session(core: BotocoreSession | None = None) -> boto3.Session:
    """A session of the ordinary chain, on a botocore session if one was prepared. Raises SettingsError where the AWS
    settings cannot be read.
    """
    import boto3

    try:
        return boto3.Session(botocore_session=core)
    except BotoCoreError as error:
        raise SettingsError(f"the AWS settings are wrong: {error}") from error


def core_session() -> CoreSession:
    """The same chain without what boto3 has on top, for stores of our own."""
    return BotocoreSession()


def new_client(endpoint: str | None, session: Session, timeouts: Timeouts | None = None, attempts: int = 4) -> Any:
    """An S3 client for many threads; `endpoint` as for `connect`, `attempts` for each request in all."""
    timeouts = timeouts or Timeouts()
    url, region = parse_endpoint(endpoint)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=timeouts.connect_seconds,
        read_timeout=timeouts.stall_seconds,
        max_pool_connections=64,
        # Content-MD5 and SHA-256 are headers, and signed: to hash a body once more for the signature proves nothing.
        s3={"payload_signing_enabled": False, **({"addressing_style": "path"} if url else {})},
    )
    try:
        make = session.create_client if isinstance(session, BotocoreSession) else session.client
        return make("s3", endpoint_url=url, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"no S3 client can be made from the AWS settings: {error}") from error


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


def parse_endpoint(endpoint: str | None) -> tuple[str | None, str | None]:
    """(endpoint URL, region) for boto3; None leaves the choice to it."""
    if not endpoint:
        return None, None
    if "://" in endpoint:
        if not re.fullmatch(r"https?://[A-Za-z0-9.\-\[\]:]+/?", endpoint):
            raise SettingsError(f"S3_ENDPOINT {endpoint!r} is not a URL of the form http://host:port")
        return endpoint.rstrip("/"), None
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", endpoint):
        raise SettingsError(f"S3_ENDPOINT {endpoint!r} is neither a host name nor a URL")
    amazon = _AWS_HOST.fullmatch(endpoint)
    if amazon:
        return None, amazon["region"]
    return f"https://{endpoint}", None


def _credentials(session: Session) -> Credentials:
    """The chain's credentials of this moment: a role's are renewed by botocore before they expire."""
    try:
        found = session.get_credentials()
        if found is None:
            raise StoreRefused(_NO_CREDENTIALS)
        frozen = found.get_frozen_credentials()
    except PartialCredentialsError as error:
        raise StoreRefused(_NO_CREDENTIALS) from error
    except BOTO_ERRORS as error:
        raise StoreUnavailable(f"the AWS credentials could not be had: {error}") from error
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


_NO_CREDENTIALS = (
    "no AWS credentials were found: on EC2 attach an IAM role, elsewhere set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY"
)


def _attributes(digest: Digest, mime_type: str) -> dict[str, Any]:
    return {"ContentType": mime_type, "CacheControl": IMMUTABLE, "Metadata": {SHA256_METADATA: digest.sha256}}


def _curl_headers(digest: Digest, mime_type: str) -> dict[str, str]:
    """The guards of a put and what the object is to say of itself."""
    return {
        "Content-Type": mime_type,
        "Cache-Control": IMMUTABLE,
        "Content-MD5": digest.md5_base64,
        "If-None-Match": "*",
        "x-amz-content-sha256": digest.sha256,
        f"x-amz-meta-{SHA256_METADATA}": digest.sha256,
    }


def _stored_object(answer: Mapping[str, Any]) -> StoredObject:
    etag = answer.get("ETag", "").strip('"').lower()
    # Some stores change the case of metadata names.
    metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    checksum = answer.get("ChecksumSHA256", "")
    encrypted = is_kms(answer) or "SSECustomerAlgorithm" in answer
    return StoredObject(
        size_bytes=answer["ContentLength"],
        md5=etag if is_md5(etag) and not encrypted else None,
        # With a dash it is the checksum of the parts' checksums.
        sha256=base64.b64decode(checksum).hex() if checksum and "-" not in checksum else metadata.get(SHA256_METADATA),
        content_type=answer.get("ContentType"),
        cache_control=answer.get("CacheControl"),
        last_modified=modified.timestamp() if (modified := answer.get("LastModified")) else None,
    )


def _as_boto(answer: Answer) -> dict[str, Any]:
    """The headers of libcurl's answer under the names that boto3 gives to those we read."""
    headers = answer.headers
    named = {boto_name: headers[name] for name, boto_name in _BOTO_NAMES.items() if name in headers}
    start = "x-amz-meta-"
    metadata = {name.removeprefix(start): value for name, value in headers.items() if name.startswith(start)}
    return {**named, "ContentLength": int(headers.get("content-length", "0")), "Metadata": metadata}


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


@contextmanager
def _translating(address: ObjectAddress) -> Iterator[None]:
    """Errors of boto3: 412 becomes `_Taken`, the rest one of ours."""
    try:
        yield
    except BOTO_ERRORS as error:
        if isinstance(error, ClientError) and _status(error) == 412:
            raise _Taken from error
        raise translated(error, address.s3_url) from error


def translated(error: Exception, s3_url: str) -> StashError:
    """The error of our tree for one of `BOTO_ERRORS`."""
    if isinstance(error, ClientError):
        return store_error(s3_url, _status(error), _code(error))
    # botocore wraps what the reader of a body raises.
    of_source = _source_error(error)
    if of_source is not None:
        return of_source
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return StoreRefused(_NO_CREDENTIALS)
    return StoreUnavailable(f"{s3_url}: no answer from the store: {error}")


def _source_error(error: BaseException) -> SourceError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, SourceError):
        seen = seen.__cause__ or seen.__context__
    return seen
