"""What an outcome in the ledger log means for a name that a manifest lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from md5s3stash.digest import is_md5
from md5s3stash.errors import ListedDigestDiffers
from md5s3stash_daemon.deliveries.journal import FileRow, State
from md5s3stash_daemon.deliveries.manifest import HEX_DIGITS
from md5s3stash_daemon.ledger.reader import LogEntry

# (algorithm, digest, times)
Listed = Sequence[tuple[str, str, int]]


def judged(name: str, entry: LogEntry, listed: Listed) -> FileRow:
    """What the outcome says about the name, which is relative to the delivery's folder."""
    fields = entry.fields
    size = fields.get("size_bytes", "")
    row = FileRow(
        name,
        State.UNLISTED,
        fields.get("md5", ""),
        int(size) if size.isascii() and size.isdecimal() and len(size) < 19 else None,
        entry.seconds,
        drops=1,
    )
    if fields.get("outcome") != "stashed" or not is_md5(row.md5):
        differs = fields.get("error") == ListedDigestDiffers.__name__
        state = State.UNLISTED if not listed else State.WRONG if differs else State.FAILED
        return replace(row, state=state, md5="", reason=fields.get("reason", ""))
    known = {algorithm: fields[algorithm] for algorithm in HEX_DIGITS if fields.get(algorithm)}
    return compared(row, listed, known) if listed else row


def compared(row: FileRow, listed: Listed, known: Mapping[str, str]) -> FileRow:
    """The row of a stashed file, judged by the digests that are known of it."""
    for algorithm, digest, _ in listed:
        if algorithm in known and known[algorithm] != digest:
            reason = f"its {algorithm} is {known[algorithm]}, but {digest} is listed; it was stored before its manifest"
            return replace(row, state=State.WRONG, reason=f"{reason} came")
    is_known = all(algorithm in known for algorithm, _, _ in listed)
    return replace(row, state=State.RIGHT if is_known else State.UNCHECKED, reason="")
