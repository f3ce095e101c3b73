"""`md5s3stashctl lookup`, `log` and `export`: print the ledger for a person or a program."""

from __future__ import annotations

import csv
import io
import itertools
import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, fields
from typing import Any

from md5s3stash import console
from md5s3stash.errors import RedisUnavailable
from md5s3stash.scheme import BucketBase
from md5s3stash_daemon.ctl.provenance import NO_EVENTS, ExportedEvents, s3_urls_of
from md5s3stash_daemon.ledger.reader import LedgerReader, LogEntry, Mapped, digest_in

# How long Redis waits for the next entry, and so how soon we notice that standard output was closed.
FOLLOW_SECONDS = 1.0
RECONNECT_SECONDS = 0.5

# To find the collections of a content.
_NAMES_LOOKED_AT = 1000

CSV_COLUMNS = tuple(each.name for each in fields(Mapped))


def lookup(ledger: LedgerReader, word: str, bases: Sequence[BucketBase], limit: int, as_json: bool) -> bool:
    """Prints the record of a name, a URL, or a digest (alone, or at the end of an S3 or thumbnail URL); False if there
    is none.
    """
    found = ledger.find(word)
    if found is not None:
        _print_found([found], [word], False, bases, as_json)
        return True
    md5 = digest_in(word)
    if md5 is None:
        return False
    # One more than we print, to know whether there are more.
    names = list(itertools.islice(_each_once(ledger.names_of(md5)), limit + 1))
    if not names and not ledger.knows(md5):
        return False
    contents = _contents(ledger, md5, names[:limit])
    _print_found(contents, [name for name, _ in names[:limit]], len(names) > limit, bases, as_json)
    return True


def _contents(ledger: LedgerReader, md5: str, names: Sequence[tuple[str, str]]) -> Sequence[Mapped]:
    """One content, in all collections that these names are in."""
    recorded, placed = ledger.recorded([("", md5)]), ledger.placed(names)
    return [*recorded, *placed] if recorded[0].s3_url or not placed else placed


def places_of_word(ledger: LedgerReader, word: str, bases: Sequence[BucketBase]) -> tuple[str, list[str]]:
    """The md5 of a name, a URL or a digest, and the S3 URLs of its objects; both are empty if nothing is known."""
    found = ledger.find(word)
    md5 = found.md5 if found is not None else digest_in(word)
    if md5 is None:
        return "", []
    if word.startswith("s3://") and found is None:
        return md5, [word]
    contents = [found] if found is not None else []
    if not contents:
        # This reads all names in Redis.
        names = list(itertools.islice(_each_once(ledger.names_of(md5)), _NAMES_LOOKED_AT))
        if not names and not ledger.knows(md5):
            return "", []
        contents = list(_contents(ledger, md5, names))
    return md5, list(dict.fromkeys(url for each in contents for url in s3_urls_of(each, bases)))


def _print_found(
    contents: Sequence[Mapped], names: Sequence[str], more: bool, bases: Sequence[BucketBase], as_json: bool
) -> None:
    """Prints one content, with the places of all its collections."""
    content, md5 = contents[0], contents[0].md5
    urls = list(dict.fromkeys(url for each in contents for url in s3_urls_of(each, bases)))
    if as_json:
        found: dict[str, Any] = {"md5": md5, "s3_urls": urls, "mime_type": content.mime_type or None}
        found |= {"width": content.width, "height": content.height, "names": list(names), "more_names": more}
        console.write(json.dumps(found))
        return
    lines = [("name", console.printable(name)) for name in names]
    lines += [("name", "and more: see --limit")] if more else []
    lines += [("md5", md5), *(("s3_url", console.printable(url)) for url in urls)]
    lines += [("mime_type", console.printable(content.mime_type))] if content.mime_type else []
    lines += [("dimensions", f"{content.width}x{content.height}")] if content.width and content.height else []
    for label, value in lines:
        console.write(f"{label:<12}{value}")


def _each_once(names: Iterator[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    seen: set[str] = set()
    for name, content in names:
        if name not in seen:
            seen.add(name)
            yield name, content


def print_log(ledger: LedgerReader, count: int, as_json: bool) -> str:
    """Prints the newest entries in order of time; returns the id of the last one, for `follow_log`."""
    last = "0-0"
    for entry in ledger.last(max(1, count)):
        if count:
            _print_entry(entry, as_json)
        last = entry.id
    console.flush()
    return last


def follow_log(ledger: LedgerReader, last: str, as_json: bool) -> None:
    """Prints each new entry until standard output is closed. Waits while Redis is unavailable.

    Raises LedgerRefused, OutputClosed.
    """
    away = False
    while console.is_stdout_open():
        try:
            entries = ledger.after(last, FOLLOW_SECONDS)
        except RedisUnavailable as error:
            if not away:
                console.complain(f"{error}: retrying")
            away = True
            time.sleep(RECONNECT_SECONDS)
            continue
        if away:
            console.complain("Redis is available again")
            away = False
        for entry in entries:
            _print_entry(entry, as_json)
            last = entry.id
        console.flush()


def _print_entry(entry: LogEntry, as_json: bool) -> None:
    if as_json:
        console.write(json.dumps({"id": entry.id, "time": _utc(entry.seconds), **entry.fields}))
        return
    outcome, name = entry.fields.get("outcome", ""), entry.fields.get("name", "")
    md5, error, reason = (entry.fields.get(key, "") for key in ("md5", "error", "reason"))
    detail = md5 or f"{error}: {reason}"
    # Audits are in the log too. They are not outcomes of a file.
    if outcome == "begun":
        outcome, detail = "audit", "begun"
    elif outcome == "checked":
        outcome, detail = "audit", f"ended: {reason}"
    elif outcome == "fault":
        detail = f"{error}: {reason}"
    console.write(console.printable(f"{_utc(entry.seconds)}  {outcome:<8}  {name}  {detail}"))


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def export(ledger: LedgerReader, form: str, events: ExportedEvents = NO_EVENTS) -> None:
    """Prints every mapping as a line or a CSV record, in the order of Redis, with what is known of its event."""
    write = EXPORTERS[form]
    if form == "csv":
        _write_csv([(*CSV_COLUMNS, *events.columns)])
    for batch in ledger.mappings():
        write([_as_record(mapped) | more for mapped, more in zip(batch, events.of(batch), strict=True)])


def _export_jsonl(records: Sequence[dict[str, Any]]) -> None:
    for record in records:
        console.write(json.dumps(record))


def _export_csv(records: Sequence[dict[str, Any]]) -> None:
    _write_csv([list(record.values()) for record in records])


def _as_record(mapped: Mapped) -> dict[str, Any]:
    # Unknown values are null in JSON, and empty in CSV.
    return {name: value if value != "" else None for name, value in asdict(mapped).items()}


def _write_csv(rows: Sequence[Sequence[Any]]) -> None:
    text = io.StringIO()
    # RFC 4180; this line end also makes the module quote a name with a lone carriage return.
    csv.writer(text, lineterminator="\r\n").writerows(rows)
    console.write(text.getvalue(), end="")


EXPORTERS: dict[str, Callable[[Sequence[dict[str, Any]]], None]] = {"jsonl": _export_jsonl, "csv": _export_csv}
