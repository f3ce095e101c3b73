"""A copy in parts, for objects too large for one request. Server-side like any other copy.

The parts get the sizes of the source's parts, if those can be found out: the copy then has the source's ETag, and every
later LIST shows that the two are the same.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from botocore.exceptions import ClientError

from md5s3stash.audit import is_of_parts
from md5s3stash.digest import is_md5
from md5s3stash.errors import DigestMismatch
from md5s3stash.s3.answers import etag_of, is_kms
from md5s3stash.s3.boto_errors import code_of, status_of
from md5s3stash.s3.errors import is_unknown_header
from md5s3stash.s3.multipart import MAX_PARTS, SINGLE_PUT_MAX_BYTES, abort, etag_of_parts
from md5s3stash.scheme import ObjectAddress
from md5s3stash_migrate.listing import Stored

_PARTS_AT_ONCE = 8

# CopyObject keeps all of these by itself; an upload has to set them.
_KEPT = (
    "ContentType",
    "CacheControl",
    "ContentDisposition",
    "ContentEncoding",
    "ContentLanguage",
    "Expires",
    "Metadata",
    "StorageClass",
    "WebsiteRedirectLocation",
)


@dataclass(frozen=True, slots=True)
class PartLimits:
    """`part_bytes`: the size of a part if the source's own cannot be kept."""

    part_bytes: int = 512 * 1024**2
    min_part_bytes: int = 5 * 1024**2
    max_part_bytes: int = SINGLE_PUT_MAX_BYTES


def copy_in_parts(client: Any, source: Stored, target: ObjectAddress, limits: PartLimits) -> Mapping[str, Any]:
    """The answer to the completion. After an error no parts remain. Raises botocore's errors, and DigestMismatch if the
    ETag is not that of the parts.
    """
    place = {"Bucket": source.address.bucket, "Key": source.address.key}
    head = client.head_object(**place, IfMatch=f'"{source.etag}"')
    part_bytes = _part_bytes(client, place, source, limits)
    upload = {"Bucket": target.bucket, "Key": target.key}
    attributes = {name: head[name] for name in _KEPT if name in head}
    upload["UploadId"] = client.create_multipart_upload(**upload, **attributes)["UploadId"]
    try:
        parts = _copy_parts(client, source, upload, part_bytes)
        answer = _complete(client, upload, parts)
    except BaseException:
        abort(client, upload)
        raise
    if not etag_of(answer):
        # Ceph's answer to a repeated completion has no ETag.
        answer = client.head_object(Bucket=target.bucket, Key=target.key)
    _require_etag_of(parts, answer, target)
    return answer


def _complete(client: Any, upload: Mapping[str, str], parts: list[dict[str, Any]]) -> Mapping[str, Any]:
    request = {**upload, "MultipartUpload": {"Parts": parts}}
    try:
        answer: Mapping[str, Any] = client.complete_multipart_upload(**request, IfNoneMatch="*")
        return answer
    except ClientError as error:
        if not is_unknown_header(status_of(error), code_of(error)):
            raise
    # The store has no conditional copy: the LIST must be enough.
    unconditional: Mapping[str, Any] = client.complete_multipart_upload(**request)
    return unconditional


def _part_bytes(client: Any, place: Mapping[str, str], source: Stored, limits: PartLimits) -> int:
    usual = max(limits.part_bytes, -(-source.size_bytes // MAX_PARTS))
    if not is_of_parts(source.etag):
        return usual
    first = client.head_object(**place, PartNumber=1)
    own: int = first["ContentLength"]
    fits = limits.min_part_bytes <= own <= limits.max_part_bytes
    return own if fits and -(-source.size_bytes // own) == first.get("PartsCount") else usual


def ranges(size_bytes: int, part_bytes: int) -> Iterator[str]:
    """The ranges of the parts, in the form of x-amz-copy-source-range."""
    for start in range(0, size_bytes, part_bytes):
        yield f"bytes={start}-{min(start + part_bytes, size_bytes) - 1}"


def _copy_parts(client: Any, source: Stored, upload: Mapping[str, str], part_bytes: int) -> list[dict[str, Any]]:
    def copy(numbered: tuple[int, str]) -> dict[str, Any]:
        number, part_range = numbered
        answer = client.upload_part_copy(
            **upload,
            PartNumber=number,
            CopySource={"Bucket": source.address.bucket, "Key": source.address.key},
            CopySourceIfMatch=f'"{source.etag}"',
            CopySourceRange=part_range,
        )
        return {"PartNumber": number, "ETag": answer["CopyPartResult"]["ETag"]}

    with ThreadPoolExecutor(_PARTS_AT_ONCE, thread_name_prefix="parts") as pool:
        return list(pool.map(copy, enumerate(ranges(source.size_bytes, part_bytes), start=1)))


def _require_etag_of(parts: list[dict[str, Any]], answer: Mapping[str, Any], target: ObjectAddress) -> None:
    etags = [etag_of(part) for part in parts]
    if is_kms(answer) or not all(is_md5(etag) for etag in etags):
        return
    if etag_of(answer) != etag_of_parts([bytes.fromhex(etag) for etag in etags]):
        raise DigestMismatch(
            f"{target.s3_url}: the store answered with the ETag {answer['ETag']}, not that of the parts"
        )
