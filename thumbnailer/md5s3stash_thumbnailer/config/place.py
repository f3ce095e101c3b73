"""Where the originals are, by the environment variables that all programs share."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from typing import Self

from md5s3stash.errors import SettingsError, StashError, StoreRefused
from md5s3stash.s3.errors import are_refused
from md5s3stash.scheme import BucketBase, BucketScheme, KeyTemplate, address_to_http_url, parse_key_template
from md5s3stash.settings import key_prefixes

log = logging.getLogger(__name__)

_LOOKS, _PAUSE_SECONDS = 3, 1.0


@dataclass(frozen=True, slots=True)
class Stash:
    """The location of the originals. The scheme of the base is open if BUCKET_SCHEME is not set."""

    base: BucketBase
    endpoint: str | None
    is_scheme_open: bool = False

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """BUCKET_BASE, BUCKET_SCHEME, KEY_TEMPLATE, DERIVATIVE_PREFIXES and S3_ENDPOINT. Raises SettingsError."""
        base = environment.get("BUCKET_BASE")
        if not base:
            raise SettingsError(
                "BUCKET_BASE is not set: it names the bucket of the originals, for example my-bucket/prefix"
            )
        if "," in base:
            raise SettingsError(f"BUCKET_BASE is {base!r}: the thumbnail server reads from one base, so give only one")
        scheme = environment.get("BUCKET_SCHEME")
        keys = parse_key_template(environment.get("KEY_TEMPLATE") or KeyTemplate.DIGEST)
        try:
            derivatives = key_prefixes(environment.get("DERIVATIVE_PREFIXES", ""))
        except ValueError as error:
            raise SettingsError(f"DERIVATIVE_PREFIXES: {error}") from error
        parsed = replace(BucketBase.parse(base, scheme or BucketScheme.SIMPLE, keys), derivatives=derivatives)
        # Only one bucket can have a prefix.
        return cls(parsed, environment.get("S3_ENDPOINT") or None, not scheme and not parsed.prefix)

    def settled(self, check: Callable[[str], None], pause: Callable[[float], None] = time.sleep) -> Stash:
        """The open scheme becomes that of 2014, 36 buckets, if these exist and no bucket has the name of the base.

        `check` asks S3 for a bucket, and raises StashError. If the answer decides nothing, S3 is asked again after a
        pause, and in the end the open scheme becomes simple, which is a guess.
        """
        of_2014 = replace(self.base, scheme=BucketScheme.MULTIBUCKET)
        many: bool | None = None
        for look in range(_LOOKS):
            if look:
                pause(_PAUSE_SECONDS)
            one = _exists(check, self.base.buckets()[0])
            many = None if one is None else not one and _exists(check, of_2014.buckets()[0])
            if many is not None:
                break
        base = of_2014 if many else self.base
        log.warning(
            "event=bucket_scheme scheme=%s bucket=%s reason='BUCKET_SCHEME is not set%s: set simple for this bucket, "
            "or multibucket for the 36 such as %s'",
            *(base.scheme, self.base.base),
            ", and S3 gave no usable answer, so simple is a guess" if many is None else "",
            of_2014.buckets()[0],
        )
        return replace(self, base=base, is_scheme_open=False)

    def url_of(self, content: str) -> str:
        """The http URL of an original in the stash, which is named `{md5}` or `{collection}/{md5}`."""
        return address_to_http_url(self.base.address_of(content), self.base.scheme, self.endpoint)


def _exists(check: Callable[[str], None], bucket: str) -> bool | None:
    """None if S3 does not answer, or does not accept the credentials. A bucket that denies access exists."""
    try:
        check(bucket)
    except StoreRefused as error:
        return None if are_refused(error.code) else error.code != "NoSuchBucket"
    except StashError:
        return None
    return True
