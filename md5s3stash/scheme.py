"""Where a digest is stored: bucket, key, s3 URL and http URL. Pure. The formulas date from 2014 and must not change."""

from __future__ import annotations

import re
from dataclasses import dataclass
from enum import StrEnum
from urllib.parse import urlsplit

from md5s3stash.errors import SettingsError

SHARD_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
DEFAULT_ENDPOINT = "s3.amazonaws.com"

# Wide enough for the names that S3 gave out before 2018 (upper case, underscores); no character that has a meaning in a
# URL.
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
_S3_HOST = re.compile(r"s3.*\.amazonaws\.com(\.cn)?\.?", re.IGNORECASE)


class BucketScheme(StrEnum):
    """`simple`: one bucket, perhaps with a key prefix. `multibucket`: 36 buckets, chosen by the digest."""

    SIMPLE = "simple"
    MULTIBUCKET = "multibucket"


# The original command line misspelt the second scheme, and scripts still pass it.
_SCHEME_NAMES = {
    "simple": BucketScheme.SIMPLE,
    "multibucket": BucketScheme.MULTIBUCKET,
    "multivalue": BucketScheme.MULTIBUCKET,
}


@dataclass(frozen=True, slots=True)
class ObjectAddress:
    """A place in S3."""

    bucket: str
    key: str

    @property
    def s3_url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class BucketBase:
    """Where a stash is: the base name, and the scheme that spreads digests over it."""

    base: str
    scheme: BucketScheme

    @classmethod
    def parse(cls, base: str, scheme: str = BucketScheme.SIMPLE) -> BucketBase:
        """Checks both. Raises SettingsError that says what is allowed."""
        parsed_scheme = parse_scheme(scheme)
        stripped = base.strip().rstrip("/")
        bucket, slash, prefix = stripped.partition("/")
        if "://" in base:
            raise SettingsError(f"the bucket base {base!r} is a URL: give the name alone, for example my-bucket/prefix")
        if not _BUCKET_NAME.fullmatch(bucket):
            raise SettingsError(f"the bucket base {base!r} is not a bucket name: letters, digits, dots and dashes")
        if not _KEY_PREFIX.fullmatch(prefix) or any(part in ("", ".", "..") for part in prefix.split("/") if slash):
            raise SettingsError(
                f"the key prefix in the bucket base {base!r} may hold letters, digits and ! _ . * ' ( ) - /"
            )
        if slash and parsed_scheme is BucketScheme.MULTIBUCKET:
            raise SettingsError(f"the bucket base {base!r} has a key prefix, which only the scheme 'simple' can have")
        return cls(stripped, parsed_scheme)

    def address(self, md5: str) -> ObjectAddress:
        """The place of a digest."""
        if self.scheme is BucketScheme.MULTIBUCKET:
            return ObjectAddress(f"{md5_to_bucket_shard(md5)}.{self.base}", md5)
        bucket, slash, prefix = self.base.partition("/")
        return ObjectAddress(bucket, f"{prefix}{slash}{md5}")

    def buckets(self) -> tuple[str, ...]:
        """Every bucket that the scheme can choose."""
        if self.scheme is BucketScheme.MULTIBUCKET:
            return tuple(f"{shard}.{self.base}" for shard in SHARD_ALPHABET)
        return (self.base.partition("/")[0],)


def parse_scheme(name: str) -> BucketScheme:
    """`simple`, `multibucket`, or its old name `multivalue`."""
    try:
        return _SCHEME_NAMES[name]
    except KeyError:
        raise SettingsError(f"the bucket scheme {name!r} is not one of: simple, multibucket") from None


def md5_to_bucket_shard(md5: str) -> str:
    """The shard label of a digest: `ALPHABET[(int(md5[0], 16) + 10 * int(md5[1], 16)) % 36]`.

    One would expect a 16 instead of the 10, but millions of objects are already stored by this formula.
    """
    return SHARD_ALPHABET[(int(md5[0], 16) + 10 * int(md5[1], 16)) % len(SHARD_ALPHABET)]


def md5_to_s3_url(md5: str, bucket_base: str, bucket_scheme: str = "multibucket") -> str:
    """`s3://{base}/{md5}` for simple, `s3://{shard}.{base}/{md5}` for multibucket, the default since 2014."""
    return BucketBase.parse(bucket_base, bucket_scheme).address(md5).s3_url


def md5_to_http_url(
    md5: str, bucket_base: str, bucket_scheme: str = "multibucket", s3_endpoint: str | None = DEFAULT_ENDPOINT
) -> str:
    """`http://{endpoint}/{base}/{md5}` for simple, `http://{shard}.{base}.{endpoint}/{md5}` for multibucket.

    An endpoint that is a URL (`http://127.0.0.1:9000`) has no host per bucket: the bucket is then part of the path.
    None, as from an unset variable, is Amazon's.
    """
    s3_endpoint = s3_endpoint or DEFAULT_ENDPOINT
    base = BucketBase.parse(bucket_base, bucket_scheme)
    address = base.address(md5)
    if "://" in s3_endpoint:
        return f"{s3_endpoint.rstrip('/')}/{address.bucket}/{address.key}"
    if base.scheme is BucketScheme.MULTIBUCKET:
        return f"http://{address.bucket}.{s3_endpoint}/{address.key}"
    return f"http://{s3_endpoint}/{address.bucket}/{address.key}"


def is_s3_url(url: str) -> bool:
    """Whether the host is one of Amazon S3's, which answers 400 to a Basic Authorization header."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return False
    return host is not None and _S3_HOST.search(host) is not None
