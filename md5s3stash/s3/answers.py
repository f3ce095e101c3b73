"""Answers of S3 as our values: libcurl's headers and boto3's dictionaries, read under the same names. Pure."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from typing import Any

from md5s3stash.audit import is_of_parts
from md5s3stash.digest import is_md5
from md5s3stash.errors import StoreUnavailable
from md5s3stash.objectstore import SHA256_METADATA, StoredObject
from md5s3stash.s3.curl import Answer
from md5s3stash.scheme import ObjectAddress

_BOTO_NAMES = {
    "content-length": "ContentLength",
    "etag": "ETag",
    "content-type": "ContentType",
    "cache-control": "CacheControl",
    "x-amz-checksum-sha256": "ChecksumSHA256",
    "x-amz-server-side-encryption": "ServerSideEncryption",
    "x-amz-server-side-encryption-customer-algorithm": "SSECustomerAlgorithm",
}


def as_boto(answer: Answer) -> dict[str, Any]:
    """The headers of libcurl's answer under boto3's names, for those that we read."""
    headers = answer.headers
    named = {boto_name: headers[name] for name, boto_name in _BOTO_NAMES.items() if name in headers}
    start = "x-amz-meta-"
    metadata = {name.removeprefix(start): value for name, value in headers.items() if name.startswith(start)}
    return {**named, "Metadata": metadata}


def stored_object(address: ObjectAddress, answer: Mapping[str, Any]) -> StoredObject:
    """The object that an answer to HEAD or GET describes. Raises StoreUnavailable if the answer is not from S3."""
    if "ETag" not in answer and "LastModified" not in answer:
        # For example the login page of a network, which answers 200 to everything. No file may fail because of it.
        raise StoreUnavailable(
            f"{address.s3_url}: what answers at the endpoint is not S3: neither ETag nor Last-Modified"
        )
    etag = etag_of(answer).lower()
    # Some stores change the case of metadata names.
    metadata = {name.lower(): value for name, value in answer.get("Metadata", {}).items()}
    encrypted = is_kms(answer) or "SSECustomerAlgorithm" in answer
    sha256 = _sha256_of(answer.get("ChecksumSHA256", "")) or metadata.get(SHA256_METADATA)
    return StoredObject(
        size_bytes=length_of(answer),
        md5=etag if is_md5(etag) and not encrypted else None,
        sha256=sha256,
        content_type=answer.get("ContentType"),
        cache_control=answer.get("CacheControl"),
        last_modified=modified.timestamp() if (modified := answer.get("LastModified")) else None,
        is_proof=is_md5(etag) or encrypted or is_of_parts(etag) or (etag != "" and sha256 is not None),
    )


def etag_of(answer: Mapping[str, Any]) -> str:
    """The ETag without its quotes; empty where the answer has none."""
    return str(answer.get("ETag", "")).strip('"')


def length_of(answer: Mapping[str, Any]) -> int:
    """The length of the body; 0 if the answer has none or an impossible one: botocore accepts any number of digits."""
    text = str(answer.get("ContentLength", 0))
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 20 else 0


def is_kms(answer: Mapping[str, Any]) -> bool:
    """Whether the object is encrypted with a KMS key, so that its ETag is not the md5."""
    return str(answer.get("ServerSideEncryption", "")).startswith("aws:kms")


def _sha256_of(checksum: str) -> str | None:
    """The digest in a checksum header; None if it is missing, or a digest of parts, which has a dash."""
    try:
        digest = base64.b64decode(checksum, validate=True)
    except ValueError:
        return None
    return digest.hex() if len(digest) == 32 else None
