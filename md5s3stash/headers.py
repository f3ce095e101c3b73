"""What the headers of an origin's answer say. Pure; whatever they hold, nothing here raises."""

from __future__ import annotations

import email.utils
import re
from collections.abc import Mapping
from dataclasses import dataclass

_MEDIA_TYPE = re.compile(r"[a-z0-9][a-z0-9!#$&^_.+-]{0,126}/[a-z0-9][a-z0-9!#$&^_.+-]{0,126}")
# An ETag has a few dozen bytes and a date 29. One byte of a header is one character here.
_VALIDATOR = re.compile(r"[\x21-\x7e\xa1-\xff]([\x20-\x7e\xa0-\xff]{0,254}[\x21-\x7e\xa1-\xff])?")

# It matches the representation that is there now, whichever that is: the origin would never send another.
_ANY_ETAG = re.compile(r"(?:^|,)\s*(?:W/)?\*\s*(?:,|$)")

# Of several in a list, the first counts.
_SECONDS = re.compile(r"([0-9]+(?:\.[0-9]*)?)\s*(?:,|$)")

# An origin that asks for more than a day would only be forgotten; the daemon defers what it is told.
_MAX_RETRY_AFTER_SECONDS = 86_400.0


@dataclass(frozen=True, slots=True)
class Validators:
    """Values that the origin compares to decide whether its content has changed (RFC 9110, section 8.8)."""

    etag: str | None = None
    last_modified: str | None = None

    @classmethod
    def usable(cls, etag: object, last_modified: object) -> Validators:
        """Without those that would take more memory than they are worth, or that no request can hold."""
        short_etag = _short_text(etag)
        if short_etag is not None and _ANY_ETAG.search(short_etag):
            short_etag = None
        return cls(short_etag, _short_text(last_modified))

    def without_date(self) -> Validators:
        """What may be asked of another resource: an ETag names a content, a date does not."""
        return Validators(self.etag)


def retry_after_seconds(header: str | None, now: float) -> float | None:
    """The wait that a Retry-After header (a number or a date) asks for, from 0 to a day; None if it is not valid."""
    text = (header or "").strip()
    if number := _SECONDS.match(text):
        seconds = float(number[1])
    else:
        try:
            seconds = email.utils.parsedate_to_datetime(text).timestamp() - now
        except (ValueError, OverflowError, OSError):
            return None
    return min(max(seconds, 0.0), _MAX_RETRY_AFTER_SECONDS)


def media_type(headers: Mapping[str, str]) -> str | None:
    """The declared MIME type; None if it is missing or not valid."""
    declared = headers.get("Content-Type", "").partition(";")[0].strip().lower()
    return declared if _MEDIA_TYPE.fullmatch(declared) else None


def _short_text(value: object) -> str | None:
    return value if isinstance(value, str) and _VALIDATOR.fullmatch(value) else None
