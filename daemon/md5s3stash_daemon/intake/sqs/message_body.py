"""Parses the body of a message. Pure; whatever the body, it raises nothing but Unreadable.

    https://example.org/1.jpg                                         one URL
    {"url": "https://...", "name": "...", "auth-profile": "museum"}   one URL with a name and a password profile
    {"url": "https://...", "id": "...", "collection": "26094"}        one URL with the id of its record, in a collection
    {"Records": [{"eventName": "ObjectCreated:Put", "s3": ...}]}      S3's notification of an object in a bucket

The last may be wrapped by SNS. A body never holds a credential: a profile is the name of one in the settings.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import unquote_plus

from md5s3stash.scheme import is_collection
from md5s3stash_daemon.downloads.url_lines import MAX_LINE_BYTES, Line, line_of

_KEYS = ("url", "name", "auth-profile", "id", "collection")
_KEYS_OF_NUMBERS = ("name", "id", "collection")
MAX_NAME_CHARACTERS = 1024
MAX_RECORDS = 100

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1024
_SHOWN_CHARACTERS = 100


class Unreadable(Exception):
    """The body is not a known request; the text is the reason."""


@dataclass(frozen=True, slots=True)
class UrlJob:
    """A URL to stash. `line.fault` is the reason why it is never fetched; empty if it may be."""

    line: Line
    name: str
    auth_profile: str | None = None
    record_id: str = ""
    collection: str = ""


@dataclass(frozen=True, slots=True)
class ObjectJob:
    """An object in a drop bucket."""

    bucket: str
    key: str

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


Job = UrlJob | ObjectJob


def parse_body(body: str) -> tuple[Job, ...]:
    """The jobs: one for a URL, or one per object. Empty if there is nothing to stash. Raises Unreadable."""
    text = body.strip()
    if text.startswith("{"):
        return _of_json(_unwrapped(_json(text)))
    if not text or "\n" in text or not _SCHEME.match(text):
        # The text is not shown: it may contain a password.
        raise Unreadable("neither a URL nor JSON")
    return (_url_job(text, text, None),)


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Unreadable("JSON, but not an object")
    return found


def _unwrapped(found: Mapping[str, Any]) -> Mapping[str, Any]:
    if found.get("Type") != "Notification" or not isinstance(found.get("Message"), str):
        return found
    return _json(found["Message"])


def _of_json(found: Mapping[str, Any]) -> tuple[Job, ...]:
    if found.get("Event") == "s3:TestEvent":
        # S3 sends this when a notification is configured.
        return ()
    if "Records" in found:
        return _object_jobs(found["Records"])
    unknown = found.keys() - set(_KEYS)
    if unknown or "url" not in found:
        # Unknown keys are errors: if they were ignored, a password in one would stay in the queue unnoticed.
        wrong = ", ".join(sorted(map(repr, unknown))) or "no url"
        raise Unreadable(f"the keys must be of {', '.join(_KEYS)}; found {wrong[:_SHOWN_CHARACTERS]}")
    url, name, profile, collection = (_text(found, key) for key in ("url", "name", "auth-profile", "collection"))
    if collection and not is_collection(collection):
        raise Unreadable("the collection is not up to 31 lower-case letters, digits, - and _")
    record_id = _text(found, "id")
    if not _is_unicode(record_id):
        raise Unreadable("the id is not valid Unicode")
    job = _url_job(url.strip(), name or url.strip(), profile or None)
    return (replace(job, record_id=record_id, collection=collection),)


def _text(found: Mapping[str, Any], key: str) -> str:
    value, kind = found.get(key), "string"
    if key in _KEYS_OF_NUMBERS:
        kind = "string or whole number"
        # A boolean is an int to isinstance.
        value = str(value) if type(value) is int else value
    if value is None:
        return ""
    if not isinstance(value, str) or (key != "url" and len(value) > MAX_NAME_CHARACTERS):
        raise Unreadable(f"{key} is not a {kind} of at most {MAX_NAME_CHARACTERS} characters")
    return value


def _url_job(url: str, name: str, profile: str | None) -> UrlJob:
    raw = url.encode("utf-8", "surrogatepass")
    if not url or len(raw) > MAX_LINE_BYTES:
        raise Unreadable(f"the URL is empty or longer than {MAX_LINE_BYTES} bytes")
    if not _is_unicode(name):
        raise Unreadable("the name is not valid Unicode")
    return UrlJob(line_of(0, raw), name, profile)


def _is_unicode(text: str) -> bool:
    """Whether it has no half of a surrogate pair, which JSON can express."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _object_jobs(records: Any) -> tuple[Job, ...]:
    if not isinstance(records, list) or len(records) > MAX_RECORDS:
        raise Unreadable(f"Records is not a list of at most {MAX_RECORDS}")
    return tuple(job for record in records if (job := _object_job(record)) is not None)


def _object_job(record: Any) -> ObjectJob | None:
    """None for an event other than the creation of an object."""
    try:
        name, bucket, key = record["eventName"], record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
        if not name.removeprefix("s3:").startswith("ObjectCreated:"):
            return None
        # In notifications, S3 encodes keys as in a query string.
        key = unquote_plus(key, errors="strict")
        size_bytes = len(key.encode())
    except (TypeError, KeyError, AttributeError, UnicodeError) as error:
        shown = ascii(str(error))[:_SHOWN_CHARACTERS]
        raise Unreadable(f"a record is not an S3 event: {type(error).__name__}: {shown}") from error
    if not isinstance(bucket, str) or not _BUCKET.fullmatch(bucket) or not 0 < size_bytes <= _MAX_KEY_BYTES:
        raise Unreadable("a record has an invalid bucket or key")
    return ObjectJob(bucket, key)
