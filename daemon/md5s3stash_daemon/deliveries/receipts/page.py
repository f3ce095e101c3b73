"""The receipt as a page to read and to print: one HTML file that needs no other."""

from __future__ import annotations

import html
import json
import time
from collections.abc import Callable, Sequence
from typing import TextIO

from md5s3stash.console import printable
from md5s3stash.digest import is_md5
from md5s3stash_daemon.deliveries.journal import Journal
from md5s3stash_daemon.deliveries.judge import after_the_end
from md5s3stash_daemon.deliveries.receipts.verdict import problems_of
from md5s3stash_daemon.deliveries.records import ALL_HERE, ASKED, STILL, Delivery, FileRow, Manifest, State

# Names of each state. The JSON has them all.
_SHOWN = 2000

_HEADINGS = {
    State.WRONG: ("Wrong", "The content is not the one that the manifest lists."),
    State.MISSING: (
        "Missing",
        "Listed, but did not come. If it comes now, send it with a manifest, as a new delivery.",
    ),
    State.FAILED: ("Failed", "Came, but could not be stored."),
    State.REFUSED: ("Refused lines", "The manifest lists a name outside of the delivery, or itself."),
    State.UNCHECKED: ("Not checked", "Stored before the manifest came, and not read again yet."),
    State.UNLISTED: ("Not listed", "Came, but no manifest lists it: nothing shows whether it is right."),
    State.EARLIER: ("Here since an earlier drop", "Did not come now; the content is stored under this name."),
    State.RIGHT: ("Right", "Stored, with every digest that is listed."),
}

_ENDINGS = {
    ALL_HERE: "everything listed had come",
    STILL: "no further file had come for some time",
    ASKED: "an operator closed it",
}

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; max-width: 60rem; margin: 2rem auto; padding: 0 1rem;
  color: #1b1b1b; background: #fff }
h1 { font-size: 1.6rem } h2 { font-size: 1.15rem; margin: 2rem 0 .25rem }
.verdict { padding: .75rem 1rem; border-left: .5rem solid; font-size: 1.1rem }
.complete { border-color: #1a7f37; background: #e9f7ee } .incomplete { border-color: #b3261e; background: #fdeceb }
table { border-collapse: collapse; table-layout: fixed; width: 100%; font-size: .85rem }
th:first-child { width: 40% } th.number { width: 20% }
th, td { text-align: left; vertical-align: top; padding: .25rem .5rem; border-bottom: 1px solid #d0d0d0;
  overflow-wrap: anywhere }
td:first-child { white-space: pre-wrap }
.number { text-align: right; white-space: nowrap } code { font-size: .8rem }
dl { display: grid; grid-template-columns: max-content 1fr; gap: .2rem 1rem } dt { color: #555 } dd { margin: 0 }
@page { margin: 15mm }
@media print { body { margin: 0; padding: 0; max-width: none; font-size: 11px }
  table, code { font-size: 10px } th.number { width: 14% }
  tr { break-inside: avoid } h1, .verdict, h2, h2 + p { break-after: avoid } }
"""


def write_page(file: TextIO, journal: Journal, delivery: Delivery, place_of: Callable[[str], str]) -> None:
    """Writes the page; `place_of` gives the s3 URL of an md5."""
    counts = json.loads(delivery.counts)
    listed = sum(count for state, count in counts.items() if state != State.UNLISTED)
    good = counts.get(State.RIGHT, 0) + counts.get(State.EARLIER, 0)
    title = f"Delivery {delivery.folder}"
    manifests = journal.manifests(delivery.number)
    problems = problems_of(manifests, counts, delivery.bag)
    words = "Complete" if delivery.verdict == "complete" else "Not complete"
    but = (
        f", but there {'is a problem' if len(problems) == 1 else f'are {len(problems):,} problems'}:"
        if problems
        else "."
    )
    file.write(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width">\n'
        f"<title>{_shown(title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n<h1>{_shown(title)}</h1>\n"
        f'<p class="verdict {html.escape(delivery.verdict)}"><strong>{words}:</strong> '
        f"{good:,} of {listed:,} listed files are here and right{but}</p>\n"
    )
    if problems:
        file.write("<ul>\n")
        file.writelines(f"<li>{_shown(problem)}</li>\n" for problem in problems)
        file.write("</ul>\n")
    file.write("<dl>\n")
    facts = [
        ("Number", delivery.id),
        ("Sent by", delivery.sender),
        ("From", _clock(delivery.opened)),
        ("To", f"{_clock(delivery.ended or delivery.opened)}, when {_ENDINGS.get(delivery.ended_by, '')}"),
    ]
    facts += [("Manifest", _of_manifest(manifest)) for manifest in manifests[:_SHOWN]]
    if len(manifests) > _SHOWN:
        facts.append(("Manifest", f"and {len(manifests) - _SHOWN:,} more: the JSON of this receipt has all"))
    if delivery.bag:
        bag = json.loads(delivery.bag)
        facts.append(("Bag", f"BagIt {bag['version']}"))
        facts += [(name, value) for name, value in bag["info"].items()][:_SHOWN]
    for name, value in facts:
        file.write(f"<dt>{_shown(name)}</dt><dd>{_shown(value)}</dd>\n")
    file.write("</dl>\n")
    for state, (heading, meaning) in _HEADINGS.items():
        if counts.get(state):
            _write_heading(file, f"{heading}: {counts[state]:,}", meaning)
            shown = 0
            for row in journal.files(delivery.number, (state,), _SHOWN):
                shown += 1
                digests = [(algorithm, digest) for algorithm, digest, _ in journal.listed(delivery.number, row.name)]
                _write_row(file, row, digests, place_of)
            file.write("</tbody>\n</table>\n")
            if shown == _SHOWN:
                file.write(f"<p>This page shows the first {_SHOWN:,} at most. The JSON of this receipt has all.</p>\n")
    file.write("</main>\n</body>\n</html>\n")


def _of_manifest(manifest: Manifest) -> str:
    malformed = f", of which {manifest.malformed:,} cannot be read" if manifest.malformed else ""
    md5 = f"md5 {manifest.md5}" if is_md5(manifest.md5) else "not stored"
    replaced = "; replaced by a later one of this name" if manifest.is_replaced else ""
    name = visible(manifest.name)
    return f"{name} ({manifest.algorithm}, {manifest.lines:,} lines{malformed}), {md5}{replaced}"


def _write_heading(file: TextIO, heading: str, meaning: str) -> None:
    file.write(
        f"<h2>{heading}</h2>\n<p>{meaning}</p>\n<table>\n<thead><tr><th>Name</th>"
        '<th class="number">Bytes</th><th>Digest, place or reason</th></tr></thead>\n<tbody>\n'
    )


def _write_row(file: TextIO, row: FileRow, digests: Sequence[tuple[str, str]], place_of: Callable[[str], str]) -> None:
    """`digests` are those that manifests list."""
    reason = after_the_end(row.reason)
    found = [f"<code>md5 {html.escape(row.md5)}</code>"] if row.md5 else []
    found += [
        f"<code>{algorithm} {digest}</code> listed"
        for algorithm, digest in digests
        if digest != row.md5 and digest not in reason
    ]
    found += [f"<code>{_shown(place_of(row.md5))}</code>"] if row.md5 else []
    detail = "<br>".join([*found, *([_shown(reason)] if reason else [])])
    name = _shown(visible(row.name))
    file.write(f'<tr><td>{name}</td><td class="number">{_size(row)}</td><td>{detail}</td></tr>\n')


def _size(row: FileRow) -> str:
    return "" if row.size_bytes is None else f"{row.size_bytes:,}"


def _shown(text: str) -> str:
    """On one line, with every character visible: names are hostile input."""
    return html.escape(printable(text)).encode("utf-8", "replace").decode()


def visible(name: str) -> str:
    """The name, in quotes if it begins or ends with a blank, or has several together: a page does not show them."""
    return name if name == " ".join(name.split()) else f'"{name}"'


def _clock(seconds: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M:%S UTC", time.gmtime(seconds))
