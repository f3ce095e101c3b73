"""`md5s3stashctl fixity`: what the standing check will cost, how far it is, when it read an object, what is wrong."""

from __future__ import annotations

import argparse
import csv
import io
import itertools
import json
import shlex
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from md5s3stash import console
from md5s3stash.audit import FaultKind
from md5s3stash.errors import SettingsError, StashError
from md5s3stash.s3.listing import Lister
from md5s3stash.scheme import BucketBase, ObjectAddress, name_in_any, split_name
from md5s3stash.settings import S3Settings, Settings, StashSettings
from md5s3stash_daemon.config.settings import FixitySettings, ProvenanceSettings
from md5s3stash_daemon.ctl.connections import ledger_of, redis_of, spool_of
from md5s3stash_daemon.fixity.costs import Plan
from md5s3stash_daemon.fixity.ports import Place, limits_of, places_of
from md5s3stash_daemon.fixity.progress import NEVER
from md5s3stash_daemon.fixity.state import State, StateFolder, WrongObject
from md5s3stash_daemon.fixity.summary import Summary, number_of, summary_of

if TYPE_CHECKING:
    from md5s3stash_daemon.fixity.findings import LedgerRecord
    from md5s3stash_daemon.provenance.event import Event

_CSV_COLUMNS = ("s3_url", "kind", "reason", "found_md5", "size_bytes", "first_seen", "last_seen", "names")

# Of a wrong object.
_NAMES = 5


def run(arguments: argparse.Namespace, settings: Settings) -> bool:
    """Runs the action; False if something is wrong. Raises StashError."""
    if (arguments.action in ("acknowledge", "history")) != bool(arguments.s3_urls):
        raise SettingsError("history takes names, acknowledge takes S3 URLs; the other actions take no arguments")
    period_days = arguments.period_days or settings[FixitySettings].period_days
    if not period_days and arguments.action in ("plan", "status"):
        raise SettingsError("fixity.period_days is 0, so there is no standing check: set it; plan has --period-days")
    if arguments.action == "plan":
        return _plan(arguments, settings, period_days)
    spool = spool_of(settings).directory
    if arguments.action == "status":
        return print_status(summary_of(spool, period_days), arguments.json)
    if arguments.action == "report":
        return print_report(StateFolder(spool), settings, arguments.csv)
    if arguments.action == "history":
        # Each is printed, also after one that is wrong.
        known = [_history(StateFolder(spool), settings, word, arguments.json) for word in arguments.s3_urls]
        return all(known)
    return acknowledge(StateFolder(spool), arguments.s3_urls, _record_of(settings))


def _history(folder: StateFolder, settings: Settings, word: str, as_json: bool) -> bool:
    """Prints when the check passed the objects of a name, URL or md5; False if one is wrong, or nothing is known."""
    # Redis takes half a second to import, and only those with an index need SQLite.
    from md5s3stash_daemon.ctl.lookup import places_of_word

    md5, s3_urls = places_of_word(ledger_of(settings), word, settings[StashSettings].bases())
    if not md5:
        hint = "a file that a manifest lists and that never came is in md5s3stashctl delivery show"
        console.complain(f"{console.printable(word)}: nothing was stored under this name; {hint}")
        return False
    wrong = {each.s3_url: each for each in folder.wrong.all() if each.s3_url in s3_urls}
    state = folder.read()
    passed = {s3_url: NEVER if state is None else _last_passed(state, s3_url) for s3_url in s3_urls}
    index = settings[ProvenanceSettings].index
    checks: Sequence[Event] = []
    faults: dict[str, Event] = {}
    if index is not None:
        from md5s3stash_daemon.ctl.provenance import checks_of, recorded_places

        checks = checks_of(index, md5, recorded_places(settings))
        faults = _open_faults(index, settings[StashSettings].bases(), passed, wrong)
    if as_json:
        objects = [
            {"s3_url": s3_url, "passed_since": None if seconds == NEVER else _utc(seconds)}
            | ({"wrong": asdict(wrong[s3_url])} if s3_url in wrong else {})
            | ({"fault": _as_json(faults[s3_url])} if s3_url in faults else {})
            for s3_url, seconds in passed.items()
        ]
        console.write(json.dumps({"md5": md5, "objects": objects, "checks": list(map(_as_json, checks))}))
        return not wrong and not faults
    for s3_url, seconds in passed.items():
        for line in (s3_url, *(f"    {line}" for line in _found(wrong.get(s3_url), faults.get(s3_url), seconds))):
            console.write(console.printable(line))
    for check in checks:
        when = "" if check.seconds is None else _utc(check.seconds)
        line = f"{when}  {check.via}  {check.error or 'right'}  {check.name}  {check.reason}"
        console.write(console.printable(line.rstrip()))
    if index is None:
        console.write("earlier checks are not known, because provenance.index is not set")
    return not wrong and not faults


def _as_json(check: Event) -> dict[str, str | None]:
    at = None if check.seconds is None else _utc(check.seconds)
    return {"at": at, "via": check.via, "s3_url": check.name, "error": check.error, "reason": check.reason}


def _open_faults(
    index: Path, bases: Sequence[BucketBase], passed: Mapping[str, float], wrong: Mapping[str, WrongObject]
) -> dict[str, Event]:
    """The faults of the objects that are not wrong for the standing check, and that it has not read since then."""
    from md5s3stash_daemon.ctl.provenance import open_fault

    found = {}
    for s3_url, seconds in passed.items():
        fault = open_fault(index, _content_of(s3_url, bases), s3_url) if s3_url not in wrong else None
        # An object that was not there was not read either.
        if fault is not None and ((fault.seconds or 0) >= seconds or fault.error == FaultKind.NOT_STORED):
            found[s3_url] = fault
    return found


def _found(wrong: WrongObject | None, fault: Event | None, seconds: float) -> list[str]:
    """The open fault of an object. A wrong object has no open fault if it was acknowledged, or if it was stored after
    the check passed its key.
    """
    if wrong is not None:
        return [f"{wrong.kind.value} since {_utc(wrong.first_seen)}: {wrong.reason}", *_times(wrong)]
    if fault is not None:
        at = "" if fault.seconds is None else f" at {_utc(fault.seconds)}"
        return [f"{fault.error}, found by {fault.via.removeprefix('fixity ')}{at}: {fault.reason}"]
    if seconds == NEVER:
        return ["not read yet by the standing check"]
    return [f"no open fault; the check last passed its key at {_utc(seconds)} or later"]


def _last_passed(state: State, s3_url: str) -> float:
    """When the standing check has passed the key, or up to some hours earlier; NEVER if it has not."""
    found = [place for place in state.progress.places if s3_url.startswith(place)]
    if not found:
        return NEVER
    place = max(found, key=len)
    return state.progress.last_read(list(state.progress.places).index(place), ObjectAddress.of(s3_url).key)


def _record_of(settings: Settings) -> LedgerRecord | None:
    """Where acknowledgements are recorded, with an index of provenance."""
    if settings[ProvenanceSettings].index is None:
        return None
    # Redis takes half a second to import.
    from md5s3stash_daemon.fixity.findings import LedgerRecord
    from md5s3stash_daemon.ledger.fixity_log import STANDING, FixityLog

    client, prefix = redis_of(settings)
    return LedgerRecord(client, prefix, FixityLog(client, prefix, STANDING))


def _plan(arguments: argparse.Namespace, settings: Settings, period_days: float) -> bool:
    places = places_of(settings[StashSettings].bases(), settings[ProvenanceSettings].snapshot_bases())
    if arguments.objects:
        objects, size_bytes = arguments.objects, arguments.objects * arguments.mean_bytes
    else:
        objects, size_bytes = counted(Lister(settings[S3Settings].endpoint), places)
    limits = limits_of(settings[FixitySettings], period_days)
    return print_plan(Plan(objects, size_bytes, len(places), limits), arguments.json)


def counted(lister: Lister, places: Sequence[Place]) -> tuple[int, int]:
    """The objects in the buckets and their size, by LIST. Raises StoreError."""
    objects = size_bytes = 0
    for place in places:
        for page in lister.pages(place.bucket, place.base.prefix):
            sizes = [found.size_bytes for found in page if place.has_content(found.key)]
            objects += len(sizes)
            size_bytes += sum(sizes)
    return objects, size_bytes


def print_plan(plan: Plan, as_json: bool) -> bool:
    """Prints what a pass costs; False if the period cannot be kept."""
    if as_json:
        names = ("pass_days", "lists", "requests_per_day", "bytes_per_day", "dollars", "dollars_per_year")
        values = {name: getattr(plan, name) for name in (*names, "shortest_days", "fits")}
        console.write(json.dumps({"objects": plan.objects, "size_bytes": plan.size_bytes, **values}))
        return plan.fits
    days = number_of(plan.limits.period / 86400, "day")
    objects, places = number_of(plan.objects, "object"), number_of(plan.places, "bucket")
    console.write(f"{objects}, {_size(plan.size_bytes)}, in {places}")
    pass_days = number_of(round(plan.pass_days, 6), "day")
    console.write(f"period {days}: a pass is to take {pass_days}, the rest is for outages and drops")
    console.write(f"each day {number_of(round(plan.requests_per_day), 'request')} and {_size(plan.bytes_per_day)}")
    console.write(
        f"a pass costs ${plan.dollars:,.2f}, a year ${plan.dollars_per_year:,.2f}, for requests to S3 Standard"
    )
    console.write(
        "nothing else is charged from EC2 in the same region; see docs/fixity.md for other classes and places"
    )
    if not plan.fits:
        console.complain(f"this cannot be done in {days}: set a period of {plan.shortest_days:.1f} days or more")
    return plan.fits


def print_status(summary: Summary, as_json: bool) -> bool:
    """Prints how far the check is; False if something is wrong or it cannot read."""
    numbers, state, waits = summary.numbers(), summary.state, summary.waits
    is_fine = not waits and not any(summary.wrong.values())
    if as_json:
        console.write(json.dumps({**numbers, "waits": waits, "gives_way_to": summary.gives_way_to}))
        return is_fine
    console.write(f"objects {summary.words()}")
    if state is not None:
        console.write(f"this pass: {state.progress.fraction:.1%}, {console.duration(summary.late_seconds)} late")
        totals = state.totals
        console.write(f"read: {number_of(totals.objects, 'object')}, {_size(totals.size_bytes)}")
    not_right = f"wrong: {numbers['wrong-bytes']:g}, not readable: {numbers['unreadable']:g}"
    console.write(f"{not_right}, missing: {numbers['not-stored']:g}")
    if summary.gives_way_to:
        console.write(f"gives way to {number_of(summary.gives_way_to, 'drop')}")
    if waits:
        console.complain(f"waits for S3: {waits}")
    return is_fine


def print_report(folder: StateFolder, settings: Settings, as_csv: bool) -> bool:
    """Prints the wrong objects with some of their names, and what to do; False if there are any."""
    found = sorted(folder.wrong.all(), key=lambda wrong: (wrong.first_seen, wrong.s3_url))
    names = _names_of([wrong.s3_url for wrong in found], settings)
    if as_csv:
        text = io.StringIO()
        writer = csv.writer(text, lineterminator="\r\n")
        writer.writerow(_CSV_COLUMNS)
        for wrong in found:
            times = {"first_seen": _utc(wrong.first_seen), "last_seen": _utc(wrong.last_seen)}
            fields = asdict(wrong) | times | {"names": "\n".join(names[wrong.s3_url])}
            writer.writerow([fields[column] for column in _CSV_COLUMNS])
        console.write(text.getvalue(), end="")
        return not found
    for wrong in found:
        console.write(console.printable(f"{wrong.s3_url}: {wrong.kind.value} since {_utc(wrong.first_seen)}"))
        for line in [*(f"name: {name}" for name in names[wrong.s3_url]), *_advice(wrong, folder, settings)]:
            console.write(console.printable(f"    {line}"))
    if not found:
        console.write("no object is wrong")
    return not found


def _names_of(s3_urls: Sequence[str], settings: Settings) -> dict[str, list[str]]:
    """Some names of each object: from the index, otherwise all names in Redis are read once."""
    found: dict[str, list[str]] = {s3_url: [] for s3_url in s3_urls}
    bases, index = settings[StashSettings].bases(), settings[ProvenanceSettings].index
    if index is not None:
        from md5s3stash_daemon.provenance.search import names_of_object

        return {s3_url: names_of_object(index, bases, s3_url, _NAMES) for s3_url in s3_urls}
    by_content: dict[str, list[list[str]]] = {}
    for s3_url, names in found.items():
        by_content.setdefault(_content_of(s3_url, bases), []).append(names)
    try:
        for name, content in itertools.chain.from_iterable(ledger_of(settings).names_like() if s3_urls else ()):
            for names in by_content.get(content, ()):
                if len(names) < _NAMES and name not in names:
                    names.append(name)
    except StashError as error:
        console.complain(f"the names of the objects are not known: {error}")
    return found


def _content_of(s3_url: str, bases: Sequence[BucketBase]) -> str:
    """`{collection}/{md5}` or `{md5}`."""
    return name_in_any(bases, s3_url) or split_name(s3_url)[1]


def _advice(wrong: WrongObject, folder: StateFolder, settings: Settings) -> list[str]:
    address, bases = ObjectAddress.of(wrong.s3_url), settings[StashSettings].bases()
    lines, key = [wrong.reason, *_times(wrong)], shlex.quote(address.key)
    lines += [f"another copy: {line}" for line in _other_copies(wrong, folder, bases)] or [
        "no other bucket base has it"
    ]
    return [
        *lines,
        f"earlier versions: {_aws('list-object-versions', settings)} --bucket {address.bucket} --prefix {key}",
        "a right copy has the md5 of the key. The daemon itself overwrites nothing; to put a copy back:",
        f"  {_aws('put-object', settings)} --bucket {address.bucket} --key {key} --content-type TYPE --body FILE",
        f"then wait until it is read again, or: md5s3stashctl fixity acknowledge {shlex.quote(wrong.s3_url)}",
    ]


def _aws(command: str, settings: Settings) -> str:
    endpoint = settings[S3Settings].endpoint
    return f"aws s3api {command}" + (f" --endpoint-url {shlex.quote(endpoint)}" if endpoint else "")


def _times(wrong: WrongObject) -> list[str]:
    read = [] if wrong.kind is FaultKind.UNREADABLE else [f"last read {_utc(wrong.last_seen)}"]
    tried = max(wrong.last_seen, wrong.last_tried)
    return read if read and tried == wrong.last_seen else [*read, f"last tried {_utc(tried)}, without a read"]


def _other_copies(wrong: WrongObject, folder: StateFolder, bases: Sequence[BucketBase]) -> list[str]:
    """Where the other bases keep this content, and when it was read there."""
    state, known = folder.read(), {each.s3_url for each in folder.wrong.all()}
    name = name_in_any(bases, wrong.s3_url)
    lines: list[str] = []
    if name is None:
        return lines
    for base in bases:
        address = base.address_of(name)
        if address.s3_url == wrong.s3_url:
            continue
        place, read = ObjectAddress(address.bucket, base.prefix).s3_url, NEVER
        if state is not None and place in state.progress.places:
            read = state.progress.last_read(list(state.progress.places).index(place), address.key)
        said = "is wrong too" if address.s3_url in known else "not read yet" if read == NEVER else f"read {_utc(read)}"
        lines.append(f"{address.s3_url} ({said})")
    return lines


def acknowledge(folder: StateFolder, s3_urls: Sequence[str], record: LedgerRecord | None) -> bool:
    """Forgets these wrong objects; False if one is not known."""
    all_known = True
    for s3_url in s3_urls:
        try:
            wrong = folder.wrong.remove(s3_url)
        except OSError as error:
            raise StashError(f"{error}: run this as the user of the daemon") from error
        if wrong is None:
            console.complain(f"{s3_url}: is not among the wrong objects; see md5s3stashctl fixity report")
            all_known = False
        elif record is not None:
            record.acknowledged(wrong)
    return all_known


def _size(size_bytes: float) -> str:
    """In decimal units, as S3 is sold and `max_bytes_per_day` is set."""
    for unit, bytes_each in (("PB", 1e15), ("TB", 1e12), ("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if size_bytes >= bytes_each:
            return f"{size_bytes / bytes_each:,.3g} {unit}"
    return number_of(round(size_bytes), "byte")


def _utc(seconds: float) -> str:
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))
