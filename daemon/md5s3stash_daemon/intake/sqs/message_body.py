"""What the body of a queue's message asks for. Pure; nothing in a body can make this raise anything but Unreadable.

    https://example.org/1.jpg                                         one URL
    {"url": "https://...", "name": "...", "auth-profile": "museum"}   one, with what it is to be called, and a password
    {"Records": [{"eventName": "ObjectCreated:Put", "s3": ...}]}      S3 says that an object landed in a bucket

The last may come wrapped by SNS. A body never holds a credential: a profile is the name of one that the settings know.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any
from urllib.parse import unquote_plus

from md5s3stash_daemon.downloads.url_lines import MAX_LINE_BYTES, Line, line_of

MAX_NAME_CHARACTERS = 1024
MAX_RECORDS = 100

_SCHEME = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*:/")
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_MAX_KEY_BYTES = 1024
_SHOWN_CHARACTERS = 100


class Unreadable(Exception):
    """The body asks for nothing that we know; the words say why."""


@dataclass(frozen=True, slots=True)
class UrlJob:
    """A URL to stash. `line.fault` says why it is none that is ever fetched; empty if it is."""

    line: Line
    name: str
    auth_profile: str | None = None


@dataclass(frozen=True, slots=True)
class ObjectJob:
    """An object in a bucket where objects are dropped."""

    bucket: str
    key: str

    @property
    def name(self) -> str:
        return f"s3://{self.bucket}/{self.key}"


Job = UrlJob | ObjectJob


def parse_body(body: str) -> tuple[Job, ...]:
    """The jobs, either one of a URL or some of objects; none where the message only tells that something is so."""
    text = body.strip()
    if text.startswith("{"):
        return _of_json(_unwrapped(_json(text)))
    if not text or "\n" in text or not _SCHEME.match(text):
        # Not shown: whoever wrote it may have put a password where none belongs.
        raise Unreadable("neither a URL nor JSON")
    return (_url_job(text, text, None),)


def _json(text: str) -> Mapping[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise Unreadable(f"not JSON: {error}") from error
    if not isinstance(found, dict):
        raise Unreadable("JSON, but no object")
    return found


def _unwrapped(found: Mapping[str, Any]) -> Mapping[str, Any]:
    if found.get("Type") != "Notification" or not isinstance(found.get("Message"), str):
        return found
    return _json(found["Message"])


def _of_json(found: Mapping[str, Any]) -> tuple[Job, ...]:
    if found.get("Event") == "s3:TestEvent":
        # What S3 sends when a notification is set up.
        return ()
    if "Records" in found:
        return _object_jobs(found["Records"])
    unknown = found.keys() - {"url", "name", "auth-profile"}
    if unknown or "url" not in found:
        # Strictly: a password in a key that we pass over would lie in a queue, and nobody would notice.
        wrong = ", ".join(sorted(map(repr, unknown))) or "no url"
        raise Unreadable(f"keys are url, name and auth-profile; there is {wrong[:_SHOWN_CHARACTERS]}")
    url, name, profile = (_text(found, key) for key in ("url", "name", "auth-profile"))
    return (_url_job(url.strip(), name or url.strip(), profile or None),)


def _text(found: Mapping[str, Any], key: str) -> str:
    value = found.get(key) or ""
    if not isinstance(value, str) or (key != "url" and len(value) > MAX_NAME_CHARACTERS):
        raise Unreadable(f"{key} is not a text of at most {MAX_NAME_CHARACTERS} characters")
    return value


def _url_job(url: str, name: str, profile: str | None) -> UrlJob:
    raw = url.encode("utf-8", "surrogatepass")
    if not url or len(raw) > MAX_LINE_BYTES:
        raise Unreadable(f"the URL is empty or longer than {MAX_LINE_BYTES} bytes")
    try:
        name.encode()
    except UnicodeEncodeError:
        raise Unreadable("the name is no Unicode text") from None
    return UrlJob(line_of(0, raw), name, profile)


def _object_jobs(records: Any) -> tuple[Job, ...]:
    if not isinstance(records, list) or len(records) > MAX_RECORDS:
        raise Unreadable(f"Records is not a list of at most {MAX_RECORDS}")
    return tuple(job for record in records if (job := _object_job(record)) is not None)


def _object_job(record: Any) -> ObjectJob | None:
    """None for an event that brings no object."""
    try:
        name, bucket, key = record["eventName"], record["s3"]["bucket"]["name"], record["s3"]["object"]["key"]
        if not name.removeprefix("s3:").startswith("ObjectCreated:"):
            return None
        # S3 spells keys in notifications as in a query.
        key = unquote_plus(key, errors="strict")
        size_bytes = len(key.encode())
    except (TypeError, KeyError, AttributeError, UnicodeError) as error:
        shown = ascii(str(error))[:_SHOWN_CHARACTERS]
        raise Unreadable(f"a record that is no event of S3: {type(error).__name__}: {shown}") from error
    if not isinstance(bucket, str) or not _BUCKET.fullmatch(bucket) or not 0 < size_bytes <= _MAX_KEY_BYTES:
        raise Unreadable("a record with an impossible bucket or key")
    return ObjectJob(bucket, key)
