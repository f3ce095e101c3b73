"""What an outcome in the ledger log means for a name that a manifest lists. Pure."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

from md5s3stash.digest import is_md5
from md5s3stash.errors import ListedDigestDiffers
from md5s3stash_daemon.deliveries.manifest import HEX_DIGITS
from md5s3stash_daemon.deliveries.records import FileRow, State
from md5s3stash_daemon.ledger.reader import LogEntry
from md5s3stash_daemon.spool.entry import DISAGREE, SEND_FILE, SEND_MANIFEST, disagreement

# (algorithm, digest, times)
Listed = Sequence[tuple[str, str, int]]


# Where a wrong content is that could not be compared before it was stored.
BEFORE_MANIFEST = "it was stored before its manifest came"
FETCHED = "it was fetched, and is stored under its own md5"
OTHER_FORM = "its name came in another form than it is listed, so it was stored before it could be compared"

_REPLACED = "the manifest was replaced since"
_RETRY = ": md5s3stashctl retry compares it again"

# Advice in a reason -> the advice after the end, from when on a file of this name is compared with nothing.
_AFTER_THE_END = (
    (SEND_FILE, "have the file sent with a manifest, as a new delivery"),
    (f"{SEND_MANIFEST} as the wrong one", SEND_MANIFEST),
    (SEND_MANIFEST, "have the file sent with a corrected manifest, as a new delivery"),
    (f"{_REPLACED}{_RETRY}", _REPLACED),
)


def judged(name: str, entry: LogEntry, listed: Listed, stored: str = BEFORE_MANIFEST) -> FileRow:
    """What the outcome says about the name, which is relative to the delivery's folder. `stored` says how a wrong
    content came to be stored.
    """
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
        return with_replaced(replace(row, state=state, md5="", reason=fields.get("reason", "")), listed)
    known = {algorithm: fields[algorithm] for algorithm in HEX_DIGITS if fields.get(algorithm)}
    return compared(row, listed, known, stored) if listed else row


def with_replaced(row: FileRow, listed: Listed) -> FileRow:
    """Adds to the reason of a refused file that its manifest was replaced since, if it names another digest."""
    if row.state is not State.WRONG or row.md5:
        return row
    is_current = (
        bool(disagreement_of(listed))
        if row.reason.startswith(DISAGREE)
        else any(f"lists {digest}" in row.reason for _, digest, _ in listed)
    )
    if is_current:
        return row
    return replace(row, reason=f"{row.reason}; {_REPLACED}{_RETRY}")


def after_the_end(reason: str) -> str:
    """The reason, with advice that holds once the delivery has ended."""
    for advice, later in _AFTER_THE_END:
        reason = reason.replace(advice, later)
    return reason


def after(row: FileRow | None, later: FileRow) -> FileRow:
    """What is known of a name after a further outcome. If that stored nothing, the name still leads to what was stored
    under it before.
    """
    if row is None or not row.md5 or later.md5:
        return later
    reason = f"a later file of this name was not stored: {later.reason}"
    return replace(row, drops=later.drops, reason=row.reason or reason)


def disagreement_of(listed: Listed) -> str:
    """In words, that no file can be right; empty if one can."""
    return disagreement((algorithm, digest) for algorithm, digest, _ in listed)


def compared(row: FileRow, listed: Listed, known: Mapping[str, str], stored: str) -> FileRow:
    """The row of a stashed file, judged by the digests that are known of it."""
    for algorithm, digest, _ in listed:
        if algorithm in known and known[algorithm] != digest:
            problem = disagreement_of(listed)
            reason = f"{problem or f'its {algorithm} is {known[algorithm]}, but {digest} is listed'}; {stored}"
            return replace(row, state=State.WRONG, reason=reason)
    is_known = all(algorithm in known for algorithm, _, _ in listed)
    # What is to be read again keeps how it came to be stored.
    state, reason = (State.RIGHT, "") if is_known else (State.UNCHECKED, stored)
    return replace(row, state=state, reason=reason)
