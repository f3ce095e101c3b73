"""Answers of S3, and of proxies before it, as errors of our tree. Pure."""

from __future__ import annotations

import re
from html import unescape

from md5s3stash.errors import DigestMismatch, StoreError, StoreRefused, StoreUnavailable

# S3 refuses a body whose Content-MD5 or checksum differs with these codes: the bytes changed on the way.
_DIGEST_CODES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})

# 409 is S3's "another client is writing this key right now"; it asks for a retry.
_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_PASSING_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "InternalError"}
)
# Credentials that are not accepted: others may have been provided since. Codes of SQS and STS are included.
_CREDENTIAL_CODES = frozenset(
    {
        "AuthFailure",
        "ExpiredToken",
        "ExpiredTokenException",
        "InvalidAccessKeyId",
        "InvalidClientTokenId",
        "InvalidToken",
        "SignatureDoesNotMatch",
        "TokenRefreshRequired",
        "UnrecognizedClientException",
    }
)
# How stores refuse a header that they do not know: 501 as Amazon does, 400 as Backblaze B2 does.
_HEADER_CODES = frozenset({"NotImplemented", "InvalidArgument", "InvalidRequest"})

_RIGHTS = "the credentials need s3:PutObject, s3:GetObject and s3:ListBucket on the bucket"
_FULL = "the store's quota is used up: raise it or free space"
_HINTS = {
    "NoSuchBucket": "create the bucket or correct BUCKET_BASE",
    "AccessDenied": _RIGHTS,
    "InvalidAccessKeyId": "the access key is not known to the store",
    "SignatureDoesNotMatch": "the secret key is not the one that belongs to the access key",
    "ExpiredToken": "the session token has expired",
    "InvalidToken": "the session token is not valid",
    "AuthorizationHeaderMalformed": "the region is not the bucket's: set AWS_DEFAULT_REGION",
    "PermanentRedirect": "the region is not the bucket's: set AWS_DEFAULT_REGION",
    "RequestTimeTooSkewed": "the clock of this machine is wrong",
    "QuotaExceeded": _FULL,
    "StorageCapExceeded": _FULL,
    "XMinioAdminBucketQuotaExceeded": _FULL,
    "XMinioStorageFull": "the store's disks are full",
    "InvalidObjectState": "the object is archived: restore it first",
    "UserDisable": "the provider has disabled the account: ask the provider",
    "AllAccessDisabled": "the provider has disabled the bucket: ask the provider",
    "AccountProblem": "the provider has a problem with the account: ask the provider",
}
# As with missing rights, waiting does not help, whatever the status.
_FULL_CODES = frozenset(code for code, hint in _HINTS.items() if hint == _FULL) | {"XMinioStorageFull"}
# For an answer without a code, as to a HEAD.
_HINTS_OF_STATUS = {403: _RIGHTS}

MAX_MESSAGE_CHARACTERS = 300
_CODE = re.compile(rb"<Code>\s*([A-Za-z0-9._:-]{1,100})\s*</Code>")
_PLAIN_CODE = re.compile(r"[A-Za-z0-9._:-]{1,100}")
_MESSAGE = re.compile(rb"<Message>([^<]*)")
_SECRET = re.compile(r"(?i)((?:signature|token|secret)[a-z-]*\s*[=:]\s*)[^\s&,;]+")


class Taken(Exception):
    """S3's 412: an object is at the key already."""


def store_error(s3_url: str, status: int, code: str, message: str = "") -> StoreError:
    """The error for an answer that is not a success, with the store's own words, and what to do if we know it."""
    # boto3 accepts any text as a code.
    code = code if _PLAIN_CODE.fullmatch(code) else ""
    # boto3 gives the status as the code of an answer without one.
    answer = f"{s3_url}: the store answered {status} {code if code != str(status) else ''}".rstrip()
    if code in _DIGEST_CODES:
        return DigestMismatch(f"{answer}: the bytes changed on the way, nothing was stored", status, code)
    hint = _HINTS.get(code) or (_HINTS_OF_STATUS.get(status, "") if not code or code == str(status) else "")
    words = shown(message)
    text = ": ".join(part for part in (answer, hint, words and f'the store says "{words}"') if part)
    if code not in _FULL_CODES and (status >= 500 or status in _PASSING_STATUSES or code in _PASSING_CODES):
        return StoreUnavailable(text, status, code)
    return StoreRefused(text, status, code)


def are_refused(code: str) -> bool:
    """Whether the store does not accept the credentials."""
    return code in _CREDENTIAL_CODES


def is_unknown_header(status: int, code: str) -> bool:
    """Whether the answer may mean that the store does not know one of the headers it was sent."""
    return status in (400, 501) and code in _HEADER_CODES


def code_of(body: bytes | bytearray) -> str:
    """The error code in an answer of S3; empty where there is none."""
    found = _CODE.search(body)
    return found[1].decode("ascii") if found else ""


def message_of(body: bytes | bytearray) -> str:
    """The error message in the store's answer."""
    found = _MESSAGE.search(body)
    return unescape(found[1][: 8 * MAX_MESSAGE_CHARACTERS].decode("utf-8", "replace")) if found else ""


def shown(message: str) -> str:
    """The store's words on one line: shortened, printable, and without signatures and tokens."""
    printed = "".join(char if char.isprintable() else " " for char in message[: 8 * MAX_MESSAGE_CHARACTERS])
    words = _SECRET.sub(r"\1…", " ".join(printed.split()))
    return words if len(words) <= MAX_MESSAGE_CHARACTERS else words[: MAX_MESSAGE_CHARACTERS - 1] + "…"
