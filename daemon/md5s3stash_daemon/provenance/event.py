"""An outcome in the ledger log as a value: what happened to a dropped file, a line or a message, and when."""

from __future__ import annotations

import json
import re
from dataclasses import asdict, dataclass
from typing import Any

from md5s3stash.digest import is_md5
from md5s3stash.scheme import is_collection, name_in
from md5s3stash_daemon.ledger.fixity_log import BEGUN, FIXITY, INCOMPLETE
from md5s3stash_daemon.ledger.reader import LogEntry, is_size

# An id in Redis is milliseconds and a number. In the index it is one integer of 63 bits.
_NUMBER_BITS = 20
_MAX_MILLISECONDS = 2**42

# Ids below belong to names that were recorded before the index was made: their time is unknown.
FIRST_TIMED_ID = 1_000_000_000_000 << _NUMBER_BITS

_SHA256 = re.compile(r"[0-9a-f]{64}")
_MAX_BYTES = 2**62


@dataclass(frozen=True, slots=True)
class Event:
    """An outcome; a failure has an error. Other values are empty or None if they are not recorded.

    `via` is how it came ("drop", "list NAME" or "queue NAME"), `owner` the account that owned the file or list, `etag`
    and `last_modified` are what the origin of a URL sent, and `record` is the id that a message gave. If `via` begins
    with "fixity", it is a result of an audit: a fault of the object whose URL is `name`, or a check of all objects
    whose URLs begin with it.
    """

    id: int
    name: str
    md5: str = ""
    sha256: str = ""
    size_bytes: int | None = None
    mime_type: str = ""
    width: int | None = None
    height: int | None = None
    s3_urls: str = ""
    via: str = ""
    owner: str = ""
    etag: str = ""
    last_modified: str = ""
    error: str = ""
    reason: str = ""
    collection: str = ""
    record: str = ""

    @property
    def content(self) -> str:
        """`{collection}/{md5}` or `{md5}`."""
        return name_in(self.collection, self.md5)

    @property
    def seconds(self) -> float | None:
        """When it was recorded, since the epoch; None if unknown."""
        return (self.id >> _NUMBER_BITS) / 1000 if self.id >= FIRST_TIMED_ID else None

    @property
    def is_fixity(self) -> bool:
        """Whether it is a result of an audit."""
        return self.via.startswith(FIXITY)

    @property
    def proves_each(self) -> bool:
        """Whether an audit has checked every object of its place, so that one without a fault is right."""
        return self.is_fixity and not self.via.endswith((BEGUN, INCOMPLETE))

    @property
    def is_begin(self) -> bool:
        """Whether an audit begins: nothing is known yet."""
        return self.is_fixity and self.via.endswith(BEGUN)

    @property
    def s3_url(self) -> str:
        """The place under the first bucket base."""
        return self.s3_urls.partition(" ")[0]


def id_at(seconds: float) -> int:
    """The lowest id of that time, since the epoch."""
    return int(seconds * 1000) << _NUMBER_BITS


def event_of(entry: LogEntry) -> Event | None:
    """The event of a log entry; None if another program wrote it."""
    milliseconds, _, number = entry.id.partition("-")
    event_id = int(milliseconds) << _NUMBER_BITS | int(number or 0)
    if int(milliseconds) >= _MAX_MILLISECONDS or int(number or 0) >= 1 << _NUMBER_BITS or event_id < FIRST_TIMED_ID:
        return None
    fields: dict[str, Any] = dict(entry.fields)
    width, _, height = fields.get("dimensions", "").partition("x")
    fields |= {"width": _number(width), "height": _number(height), "size_bytes": _number(fields.get("size_bytes", ""))}
    return _parsed(event_id, fields)


def as_line(event: Event) -> str:
    """The event as a line of JSON, without unknown values."""
    return json.dumps({key: value for key, value in asdict(event).items() if value not in ("", None)})


def event_in(line: bytes) -> Event | None:
    """The event in a line; None if the line has another form."""
    try:
        fields = json.loads(line)
    except (ValueError, RecursionError):
        return None
    if not isinstance(fields, dict) or not isinstance(event_id := fields.get("id"), int):
        return None
    return _parsed(event_id, fields) if 0 < event_id < 2**63 else None


def _parsed(event_id: int, fields: dict[str, Any]) -> Event | None:
    name, md5 = _text(fields, "name"), _text(fields, "md5").lower()
    says = md5 or _text(fields, "error") or _text(fields, "via").startswith(FIXITY)
    if not name or not says or (md5 and not is_md5(md5)):
        return None
    width, height, size_bytes = fields.get("width"), fields.get("height"), fields.get("size_bytes")
    sized = is_size(width) and is_size(height)
    sha256 = _text(fields, "sha256")
    others = ("mime_type", "s3_urls", "via", "owner", "etag", "last_modified", "error", "reason", "record")
    collection = _text(fields, "collection")
    return Event(
        event_id,
        name,
        md5,
        sha256 if _SHA256.fullmatch(sha256) else "",
        size_bytes if isinstance(size_bytes, int) and 0 <= size_bytes < _MAX_BYTES else None,
        width=width if sized else None,
        height=height if sized else None,
        collection=collection if is_collection(collection) else "",
        **{key: _text(fields, key) for key in others},
    )


def _number(text: str) -> int | None:
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None


def _text(fields: dict[str, Any], key: str) -> str:
    value = fields.get(key)
    return value if isinstance(value, str) else ""
