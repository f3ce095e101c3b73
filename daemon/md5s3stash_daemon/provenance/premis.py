"""Events as PREMIS 3.0, the Library of Congress's XML for preservation metadata, and as CSV.

The schema wants all objects before all events, and all agents last. So `premis` takes a function that reads the events
once more each time it is called: memory does not grow with their number, but for a digest of 16 bytes for each object.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator
from xml.sax.saxutils import escape

from md5s3stash.version import running_version
from md5s3stash_daemon.provenance.event import Event

Events = Callable[[], Iterable[Event]]

CSV_COLUMNS = (
    "time",
    "event",
    "outcome",
    "name",
    "md5",
    "sha256",
    "size_bytes",
    "mime_type",
    "s3_urls",
    "via",
    "owner",
    "etag",
    "last_modified",
    "detail",
)

_HEAD = """<?xml version="1.0" encoding="UTF-8"?>
<premis xmlns="http://www.loc.gov/premis/v3" xmlns:xsi="http://www.w3.org/2001/XMLSchema-instance"
 xsi:schemaLocation="http://www.loc.gov/premis/v3 https://www.loc.gov/standards/premis/premis.xsd" version="3.0">"""
_EVENT_TYPES = "http://id.loc.gov/vocabulary/preservation/eventType"
_PROGRAM = "md5s3stash"
_UNKNOWN_TIME = "unknown"


def csv_row(event: Event) -> list[str]:
    """The values of CSV_COLUMNS."""
    size_bytes = "" if event.size_bytes is None else str(event.size_bytes)
    content = [event.md5, event.sha256, size_bytes, event.mime_type, event.s3_urls]
    origin = [event.via, event.owner, event.etag, event.last_modified]
    return [utc(event), _kind(event), _outcome(event), event.name, *content, *origin, _note(event)]


def premis(events: Events, described: Callable[[Event], Event] = lambda event: event) -> Iterator[str]:
    """The document, an element at a time. There must be an event, because the schema requires an object. `described`
    gives the event that describes the object of an event best, with all of its places.
    """
    yield _HEAD
    seen: set[bytes] = set()
    for event in events():
        key = bytes.fromhex(event.md5) or event.name.encode("utf-8", "surrogatepass")
        if key not in seen:
            seen.add(key)
            yield _object(described(event))
    owners: set[str] = set()
    for event in events():
        owners.add(event.owner)
        yield _event(event)
    yield _agent("software", _PROGRAM, "software", running_version())
    for owner in sorted(owners - {""}):
        yield _agent("account", owner, "person")
    yield "</premis>"


def utc(event: Event) -> str:
    """The time of the event; empty if unknown."""
    return "" if event.seconds is None else time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(event.seconds))


def _object(event: Event) -> str:
    if not event.md5:
        return f'<object xsi:type="intellectualEntity">{_identifier("object", "name", event.name)}</object>'
    fixity = _fixity("MD5", event.md5) + (_fixity("SHA-256", event.sha256) if event.sha256 else "")
    size = "" if event.size_bytes is None else _element("size", str(event.size_bytes))
    name = _element("formatName", event.mime_type or "unknown")
    places = "".join(
        "<storage><contentLocation>"
        f"{_element('contentLocationType', 'URI')}{_element('contentLocationValue', place)}"
        "</contentLocation></storage>"
        for place in event.s3_urls.split()
    )
    return (
        f'<object xsi:type="file">{_identifier("object", "md5", event.md5)}'
        f"<objectCharacteristics>{fixity}{size}<format><formatDesignation>{name}</formatDesignation></format>"
        f"</objectCharacteristics>{_element('originalName', event.name)}{places}</object>"
    )


def _event(event: Event) -> str:
    detail = "; ".join(
        f"{label}: {value}"
        for label, value in (
            ("name", event.name),
            ("via", event.via),
            ("ETag", event.etag),
            ("Last-Modified", event.last_modified),
        )
        if value
    )
    note = _note(event)
    noted = f"<eventOutcomeDetail>{_element('eventOutcomeDetailNote', note)}</eventOutcomeDetail>" if note else ""
    agents = _link("Agent", "software", _PROGRAM, "executing program")
    agents += _link("Agent", "account", event.owner, "source") if event.owner else ""
    what = ("md5", event.md5) if event.md5 else ("name", event.name)
    return (
        f"<event>{_identifier('event', 'md5s3stash', f'{event.id:016x}')}"
        f'<eventType authorityURI="{_EVENT_TYPES}">{_kind(event)}</eventType>'
        f"{_element('eventDateTime', utc(event) or _UNKNOWN_TIME)}"
        f"<eventDetailInformation>{_element('eventDetail', detail)}</eventDetailInformation>"
        f"<eventOutcomeInformation>{_element('eventOutcome', _outcome(event))}{noted}</eventOutcomeInformation>"
        f"{agents}{_link('Object', *what)}</event>"
    )


def _agent(kind: str, value: str, agent_type: str, version: str = "") -> str:
    told = _element("agentVersion", version) if version else ""
    return (
        f"<agent>{_identifier('agent', kind, value)}{_element('agentName', value)}"
        f"{_element('agentType', agent_type)}{told}</agent>"
    )


def _kind(event: Event) -> str:
    return "fixity check" if event.is_fixity else "ingestion"


def _outcome(event: Event) -> str:
    return "failure" if event.error else "success"


def _note(event: Event) -> str:
    return ": ".join(filter(None, (event.error, event.reason)))


def _identifier(of: str, kind: str, value: str) -> str:
    inner = _element(f"{of}IdentifierType", kind) + _element(f"{of}IdentifierValue", value)
    return f"<{of}Identifier>{inner}</{of}Identifier>"


def _link(to: str, kind: str, value: str, role: str = "") -> str:
    name = f"linking{to}Identifier"
    inner = _element(f"{name}Type", kind) + _element(f"{name}Value", value)
    inner += _element(f"linking{to}Role", role) if role else ""
    return f"<{name}>{inner}</{name}>"


def _fixity(algorithm: str, digest: str) -> str:
    inner = _element("messageDigestAlgorithm", algorithm) + _element("messageDigest", digest)
    return f"<fixity>{inner}{_element('messageDigestOriginator', _PROGRAM)}</fixity>"


def _element(name: str, text: str) -> str:
    return f"<{name}>{_text(text)}</{name}>"


def _text(text: str) -> str:
    """Text for XML, which has no control characters and no bytes that are not UTF-8. Two names never become one."""
    return escape("".join(char if _is_plain(char) else _escaped(char) for char in text))


def _escaped(char: str) -> str:
    if "\udc80" <= char <= "\udcff":
        # A byte of a name that is not UTF-8.
        return f"\\x{ord(char) - 0xDC00:02x}"
    # As a byte is `\x85`, this control character is `\u0085`.
    return f"\\u{ord(char):04x}" if 0x80 <= ord(char) < 0xA0 else repr(char)[1:-1]


def _is_plain(char: str) -> bool:
    # XML 1.0, section 2.2, without control characters. The backslash is that of the escapes.
    code = ord(char)
    is_control = code < 0x20 or 0x7F <= code < 0xA0
    return not is_control and char != "\\" and (code < 0xD800 or 0xE000 <= code < 0xFFFE or code > 0xFFFF)
