"""What S3 and the way to it can answer, as errors of our tree. Pure."""

from __future__ import annotations

from md5s3stash.errors import DigestMismatch, StashError, StoreRefused, StoreUnavailable

# S3 refuses a body whose Content-MD5 or checksum differs with these codes: the bytes changed on the way.
_DIGEST_CODES = frozenset({"BadDigest", "InvalidDigest", "XAmzContentSHA256Mismatch", "XAmzContentChecksumMismatch"})

# 409 is S3's "somebody else is writing this key right now"; it asks for another try.
_PASSING_STATUSES = frozenset({408, 409, 425, 429})
_PASSING_CODES = frozenset(
    {"SlowDown", "RequestTimeout", "RequestTimeTooSkewed", "Throttling", "ThrottlingException", "InternalError"}
)
_HINTS = {
    "NoSuchBucket": "create the bucket or correct BUCKET_BASE",
    "AccessDenied": "the credentials need s3:PutObject, s3:GetObject and s3:ListBucket on the bucket",
    "403": "the credentials need s3:PutObject, s3:GetObject and s3:ListBucket on the bucket",
    "InvalidAccessKeyId": "the access key is not known to the store",
    "SignatureDoesNotMatch": "the secret key is not the one that belongs to the access key",
    "ExpiredToken": "the session token has expired",
    "AuthorizationHeaderMalformed": "the region is not the bucket's: set AWS_DEFAULT_REGION",
    "PermanentRedirect": "the region is not the bucket's: set AWS_DEFAULT_REGION",
}


def store_error(s3_url: str, status: int, code: str) -> StashError:
    """The error for an answer that is not a success, with what to do where we know."""
    answer = f"{s3_url}: the store answered {status} {code}".rstrip()
    if code in _DIGEST_CODES:
        return DigestMismatch(f"{answer}: the bytes changed on the way, nothing was stored")
    if status >= 500 or status in _PASSING_STATUSES or code in _PASSING_CODES:
        return StoreUnavailable(answer)
    hint = _HINTS.get(code) or _HINTS.get(str(status))
    return StoreRefused(f"{answer}: {hint}" if hint else answer)
