"""Where a digest is stored: bucket, key, s3 URL and http URL. Pure. The formulas date from 2014 and must not change.

Where the key template has a collection, a content is named `{collection}/{md5}`, or `{md5}` alone if it is in none.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from enum import StrEnum
from urllib.parse import urlsplit

from md5s3stash.digest import is_md5
from md5s3stash.errors import SettingsError

SHARD_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
DEFAULT_ENDPOINT = "s3.amazonaws.com"

# Wide enough for the names that S3 gave out before 2018 (upper case, underscores); no character that has a meaning in a
# URL.
_BUCKET_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,254}")
_KEY_PREFIX = re.compile(r"[A-Za-z0-9!_.*'()/-]*")
_S3_HOST = re.compile(r"s3.*\.amazonaws\.com(\.cn)?\.?", re.IGNORECASE)

# Shorter than an md5, so that no collection looks like one.
COLLECTION = r"[a-z0-9][a-z0-9_-]{0,30}"
_COLLECTION = re.compile(COLLECTION)


class KeyTemplate(StrEnum):
    """What a key is made of, after the prefix of the base."""

    DIGEST = "{md5}"
    COLLECTION = "{collection}/{md5}"


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

    @classmethod
    def of(cls, s3_url: str) -> ObjectAddress:
        """The place that an s3:// URL names."""
        bucket, _, key = s3_url.removeprefix("s3://").partition("/")
        return cls(bucket, key)

    @property
    def s3_url(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


@dataclass(frozen=True, slots=True)
class BucketBase:
    """Where a stash is: the base name, the scheme that spreads digests over it, and one of its collections, or none.

    `derivatives` are prefixes of keys: objects below them are not the contents whose md5 they have as their key.
    """

    base: str
    scheme: BucketScheme
    keys: KeyTemplate = KeyTemplate.DIGEST
    collection: str = ""
    derivatives: tuple[str, ...] = ()

    @classmethod
    def parse(cls, base: str, scheme: str = BucketScheme.SIMPLE, keys: KeyTemplate = KeyTemplate.DIGEST) -> BucketBase:
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
        return cls(stripped, parsed_scheme, keys)

    def in_collection(self, collection: str) -> BucketBase:
        """The same, for the contents of one collection; empty for those in none. Raises SettingsError."""
        if collection and self.keys is not KeyTemplate.COLLECTION:
            raise SettingsError(
                f"the collection {collection!r} has no place in the keys: set stash.key_template (KEY_TEMPLATE) to "
                f"'{KeyTemplate.COLLECTION}'"
            )
        return self if collection == self.collection else replace(self, collection=parse_collection(collection))

    def address(self, md5: str) -> ObjectAddress:
        """The place of a digest."""
        name = name_in(self.collection, md5)
        if self.scheme is BucketScheme.MULTIBUCKET:
            return ObjectAddress(f"{md5_to_bucket_shard(md5)}.{self.base}", name)
        bucket, slash, prefix = self.base.partition("/")
        return ObjectAddress(bucket, f"{prefix}{slash}{name}")

    def address_of(self, name: str) -> ObjectAddress:
        """The place of `{collection}/{md5}` or `{md5}`."""
        collection, md5 = split_name(name)
        return self.in_collection(collection).address(md5)

    @property
    def prefix(self) -> str:
        """The prefix that all keys have, whichever collection they are in."""
        return self.base.partition("/")[2] + "/" if "/" in self.base else ""

    def name_at(self, key: str) -> str | None:
        """`{collection}/{md5}` or `{md5}` of a key in a bucket of this base; None if it is not a key of ours."""
        name = key.removeprefix(self.prefix)
        collection, md5 = split_name(name)
        if not is_md5(md5) or md5 != md5.lower() or (self.prefix and name == key):
            return None
        if "/" in name and (self.keys is not KeyTemplate.COLLECTION or not is_collection(collection)):
            return None
        return name

    def name_of(self, s3_url: str) -> str | None:
        """`{collection}/{md5}` or `{md5}` of an object of this base, by its s3 URL; None for any other object."""
        address = ObjectAddress.of(s3_url)
        name = self.name_at(address.key)
        is_here = name is not None and self.address_of(name).bucket == address.bucket
        return name if is_here else None

    def moved(self, s3_url: str, name: str) -> str:
        """The s3 URL of `{collection}/{md5}` or `{md5}`, by that of the same content in any collection of this base. A
        URL outside of the base stays as it is.
        """
        known = self.name_of(s3_url)
        return s3_url if known is None else s3_url.removesuffix(known) + name

    def is_derivative(self, key: str) -> bool:
        """Whether an object with this key need not have the md5 that its key says."""
        return bool(self.derivatives) and key.startswith(self.derivatives)

    @property
    def place(self) -> str:
        """Scheme, base and collection as one text, for keys in Redis."""
        return f"{self.scheme}:{self.base}/{self.collection}" if self.collection else f"{self.scheme}:{self.base}"

    def buckets(self) -> tuple[str, ...]:
        """Every bucket that the scheme can choose."""
        if self.scheme is BucketScheme.MULTIBUCKET:
            return tuple(f"{shard}.{self.base}" for shard in SHARD_ALPHABET)
        return (self.base.partition("/")[0],)


def name_in_any(bases: Iterable[BucketBase], s3_url: str) -> str | None:
    """`{collection}/{md5}` or `{md5}` of an object of any of these bases; None for any other object."""
    return next((name for base in bases if (name := base.name_of(s3_url))), None)


def name_in(collection: str, md5: str) -> str:
    """`{collection}/{md5}`, or `{md5}` for a content in none."""
    return f"{collection}/{md5}" if collection else md5


def split_name(name: str) -> tuple[str, str]:
    """(collection, md5) of `{collection}/{md5}` or `{md5}`; neither is checked."""
    collection, _, md5 = name.rpartition("/")
    return collection, md5


def parse_name(text: str) -> str | None:
    """`{collection}/{md5}` or `{md5}` as a client may write it, with the md5 in lower case; None if it is neither."""
    collection, md5 = split_name(text)
    if not is_md5(md5) or ("/" in text and not is_collection(collection)):
        return None
    return name_in(collection, md5.lower())


def is_collection(text: str) -> bool:
    """Whether it can be the name of a collection."""
    return _COLLECTION.fullmatch(text) is not None


def parse_collection(text: str) -> str:
    """A collection, or empty for none. Raises SettingsError."""
    if text and not is_collection(text):
        raise SettingsError(
            f"{text!r} is not a collection: up to 31 lower-case letters, digits, - and _, such as 26094 or exhibitions"
        )
    return text


def parse_key_template(text: str) -> KeyTemplate:
    """Raises SettingsError."""
    try:
        return KeyTemplate(text)
    except ValueError:
        raise SettingsError(f"the key template {text!r} is not one of: {', '.join(KeyTemplate)}") from None


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
    base = BucketBase.parse(bucket_base, bucket_scheme)
    return address_to_http_url(base.address(md5), base.scheme, s3_endpoint)


def address_to_http_url(address: ObjectAddress, scheme: BucketScheme, s3_endpoint: str | None) -> str:
    """The same for any object."""
    s3_endpoint = s3_endpoint or DEFAULT_ENDPOINT
    if "://" in s3_endpoint:
        return f"{s3_endpoint.rstrip('/')}/{address.bucket}/{address.key}"
    if scheme is BucketScheme.MULTIBUCKET:
        return f"http://{address.bucket}.{s3_endpoint}/{address.key}"
    return f"http://{s3_endpoint}/{address.bucket}/{address.key}"


def is_s3_url(url: str) -> bool:
    """Whether the host is one of Amazon S3's, which answers 400 to a Basic Authorization header."""
    try:
        host = urlsplit(url if "//" in url else f"//{url}").hostname
    except ValueError:
        return False
    return host is not None and _S3_HOST.search(host) is not None
