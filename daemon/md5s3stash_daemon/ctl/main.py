"""The program `md5s3stashctl`: an operator's view of the spool, the ledger and the buckets; the daemon need not run."""

from __future__ import annotations

import argparse
import contextlib
import os
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from md5s3stash import console
from md5s3stash.digest import is_md5
from md5s3stash.errors import SettingsError
from md5s3stash.scheme import BucketBase
from md5s3stash.settings import S3Settings, Settings, StashSettings, load
from md5s3stash_daemon.config.settings import (
    SECTIONS,
    DeliverySettings,
    HttpSettings,
    ProvenanceSettings,
    SpoolSettings,
)
from md5s3stash_daemon.ctl import moves, status
from md5s3stash_daemon.ctl.argument_types import (
    add_delivery_arguments,
    add_fixity_arguments,
    add_json,
    add_names,
    count,
    day,
    jobs,
)
from md5s3stash_daemon.ctl.connections import ledger_of, probe_of, redis_of, spool_of
from md5s3stash_daemon.spool.entry import STATES
from md5s3stash_daemon.spool.spool import Spool

if TYPE_CHECKING:
    from md5s3stash_daemon.ledger.restore import Restorer

# Redis and boto3 each take half a second to import, so only the commands that need them do it.

PROGRAM = "md5s3stashctl"

_EPILOG = """\
examples:
  md5s3stashctl status
  md5s3stashctl COMMAND --help

A name is the path below incoming/, as it was dropped. The settings are those of md5s3stashd.

exit status: 0 success, 1 something is wrong, refused or not found, 2 the arguments or settings are wrong,
130 interrupted.
"""

# Returns whether it succeeded.
Run = Callable[[argparse.Namespace, Settings], bool]


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns the exit status."""
    return console.run(PROGRAM, lambda: _run(_parsed(argv)))


def _parsed(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = build_parser()
    arguments, rest = parser.parse_known_args(argv)
    # argparse gives up an optional name if an option stands before it: `delivery show --json NAME`.
    if rest and not rest[0].startswith("-") and getattr(arguments, "name", "") is None:
        arguments.name = rest.pop(0)
    if rest:
        parser.error(f"unrecognized arguments: {' '.join(rest)}")
    return arguments


def _run(arguments: argparse.Namespace) -> int:
    # All programs share the file, so it may have sections of others.
    settings = load(SECTIONS, os.environ, arguments.config, others_allowed=True)
    run: Run = arguments.run
    return 0 if run(arguments, settings) else 1


def build_parser() -> argparse.ArgumentParser:
    """The commands and their options."""
    parser = console.Parser(
        prog=PROGRAM,
        description="inspect and manage the spool, the ledger and the buckets of md5s3stashd",
        epilog=_EPILOG,
    )
    parser.add_version()
    parser.add_argument("--config", type=Path, metavar="FILE", help="settings file to read")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)

    def command(name: str, run: Run, help: str, *examples: str, aliases: Sequence[str] = ()) -> argparse.ArgumentParser:
        added = commands.add_parser(
            name,
            aliases=aliases,
            help=help,
            description=help,
            epilog="\n".join(("examples:", *(f"  {PROGRAM} {name} {example}".rstrip() for example in examples))),
        )
        # Allowed before or after the command; the later one wins.
        added.add_argument("--config", type=Path, metavar="FILE", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
        added.set_defaults(run=run)
        return added

    status = command("status", _status, "show the state of the daemon, the spool and Redis", "--json")
    add_json(status)

    # `queue` is its old name: remove it with the next release.
    files = command("list", _list, "list the files in the spool", "--state failed --limit 20", aliases=["queue"])
    files.add_argument("--state", choices=STATES, action="append", help="show only this state; may be repeated")
    files.add_argument("--limit", type=count, metavar="N", help="show at most N files")
    add_json(files)

    add_names(command("retry", _retry, "drop failed files again, and retry deferred ones now", "album/1.tif", "--all"))
    add_names(command("hold", _hold, "hold files that are in incoming/ or deferred/", "album/1.tif"))
    add_names(command("release", _release, "retry held files now", "--all"))

    add_names(command("remove-ignored", _remove_ignored, "delete files in incoming/ that spool.ignore lists", "--all"))

    delivery = command(
        "delivery",
        _delivery,
        "list the deliveries, show one, or close one that is open",
        "list",
        "show vendor/batch7",
        "close 20261129T122000Z-a1b2c3",
    )
    add_delivery_arguments(delivery)
    add_json(delivery)

    lookup = command(
        "lookup",
        _lookup,
        "show the record of a file name, a URL or an md5",
        "album/1.tif",
        "3e25960a79dbc69b674cd4ec67a72c62",
    )
    lookup.add_argument("word", metavar="WORD", help="the name, URL or md5; also an S3 or thumbnail URL")
    lookup.add_argument("--limit", type=count, default=20, metavar="N", help="show at most N names of an md5 (20)")
    add_json(lookup)

    log = command("log", _log, "print the newest outcomes", "--follow")
    log.add_argument("--follow", action="store_true", help="then print each new outcome")
    log.add_argument("--count", type=count, default=20, metavar="N", help="number of outcomes to begin with (20)")
    add_json(log)

    export = command("export", _export, "print every recorded mapping", "--format csv >mappings.csv")
    export.add_argument("--format", choices=["csv", "jsonl"], default="jsonl", help="output format (jsonl)")

    find = command("find", _find, "list the names that contain a word", "letter_0042")
    find.add_argument("word", metavar="WORD", help="a part of a name; ASCII letters match in either case")
    find.add_argument("--limit", type=count, default=50, metavar="N", help="show at most N names (50)")
    add_json(find)

    premis = command(
        "premis",
        _premis,
        "print events of the index of provenance as PREMIS 3.0 or CSV",
        "album/1.tif",
        "--since 2026-10-01 --until 2026-11-01 >october.xml",
    )
    premis.add_argument("word", nargs="?", metavar="WORD", help="a name, a URL or an md5; all if it is left out")
    premis.add_argument("--since", type=day, metavar="DAY", help="from this day on, as 2026-10-31, in UTC")
    premis.add_argument("--until", type=day, metavar="DAY", help="before this day")
    premis.add_argument("--format", choices=["xml", "csv"], default="xml", help="output format (xml)")

    forget = command(
        "forget",
        _forget,
        "forget cached confirmations, so that S3 is asked again (after objects were deleted)",
        "3e25960a79dbc69b674cd4ec67a72c62",
        "--all",
    )
    forget.add_argument("md5s", nargs="*", metavar="MD5", help="the md5 of a content")
    forget.add_argument("--all", action="store_true", help="every content")

    rebuild = command(
        "rebuild",
        _rebuild,
        "restore lost records to Redis, from the buckets, an export or the index of provenance",
        "--from-export mappings.jsonl",
    )
    rebuild.add_argument(
        "--from-export", type=Path, metavar="FILE", help="read the output of an earlier export as jsonl, with names"
    )
    rebuild.add_argument(
        "--from-provenance", action="store_true", help="read the index of provenance; if it is lost, its snapshots"
    )
    rebuild.add_argument("--head", action="store_true", help="get the type of each object with a HEAD request each")
    rebuild.add_argument("--jobs", type=jobs, default=8, metavar="N", help="buckets read at once, 1 to 36 (8)")
    rebuild.add_argument("--dry-run", action="store_true", help="only print what would be recorded")
    add_json(rebuild)

    verify = command("verify", _verify, "audit the buckets by LIST: is the md5 of each object its key", "--ledger")
    verify.add_argument("--deep", action="store_true", help="read objects whose ETag proves nothing")
    verify.add_argument("--ledger", action="store_true", help="compare the buckets with the ledger")
    verify.add_argument("--jobs", type=jobs, default=8, metavar="N", help="buckets read at once, 1 to 36 (8)")
    add_json(verify)

    fixity = command(
        "fixity",
        _fixity,
        "plan the standing check, show how far it is and when an object was read, report or acknowledge wrong objects",
        "history scans/1.tif",
        "report --csv >wrong.csv",
        "acknowledge s3://my-bucket/3e25960a79dbc69b674cd4ec67a72c62",
    )
    add_fixity_arguments(fixity)
    add_json(fixity)
    return parser


def _status(arguments: argparse.Namespace, settings: Settings) -> bool:
    # First, because a wrong setting is reported before a missing spool.
    ledger, probe = ledger_of(settings), probe_of(settings)
    spool = spool_of(settings)
    found = status.read_status(spool, ledger, probe, settings[HttpSettings])
    now = time.time()
    if arguments.json:
        console.write(status.status_as_json(spool, found, now))
    else:
        status.print_status(spool, found, now)
    return found.is_fine


def _list(arguments: argparse.Namespace, settings: Settings) -> bool:
    states = [state for state in STATES if state in (arguments.state or STATES)]
    status.print_files(spool_of(settings), states, arguments.limit, time.time(), arguments.json)
    return True


def _retry(arguments: argparse.Namespace, settings: Settings) -> bool:
    compares = settings[DeliverySettings].still_seconds > 0
    return _move(arguments, settings, lambda spool: moves.retry(spool, compares=compares))


def _hold(arguments: argparse.Namespace, settings: Settings) -> bool:
    return _move(arguments, settings, lambda spool: moves.hold(spool, settings[SpoolSettings]))


def _release(arguments: argparse.Namespace, settings: Settings) -> bool:
    return _move(arguments, settings, moves.release)


def _remove_ignored(arguments: argparse.Namespace, settings: Settings) -> bool:
    return _move(arguments, settings, moves.remove_ignored)


def _move(arguments: argparse.Namespace, settings: Settings, command_for: Callable[[Spool], moves.Command]) -> bool:
    if arguments.all == bool(arguments.names):
        raise SettingsError("give either names or --all")
    spool = spool_of(settings)
    command = command_for(spool)
    return moves.move_all(spool, command) if arguments.all else moves.move_named(spool, command, arguments.names)


def _delivery(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import delivery

    if (arguments.action == "list") != (arguments.name is None):
        raise SettingsError("give the name of a delivery to show or close, and none to list")
    spool, still_seconds = spool_of(settings), settings[DeliverySettings].still_seconds
    journal = delivery.opened(spool)
    if arguments.action == "list":
        return delivery.print_list(journal, arguments.limit, arguments.json)
    if arguments.action == "show":
        return delivery.print_one(journal, arguments.name, arguments.limit, arguments.json, spool, still_seconds)
    return delivery.close(journal, arguments.name, spool, still_seconds)


def _lookup(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import lookup

    ledger = ledger_of(settings)
    # Without a bucket base only the recorded place is known.
    bases: tuple[BucketBase, ...] = settings[StashSettings].bases() if settings[StashSettings].bucket_base else ()
    found = lookup.lookup(ledger, arguments.word, bases, arguments.limit, arguments.json)
    if not found:
        console.complain(f"{arguments.word}: no record found")
    return found


def _log(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import lookup

    ledger = ledger_of(settings)
    last = lookup.print_log(ledger, arguments.count, arguments.json)
    if arguments.follow:
        lookup.follow_log(ledger, last, arguments.json)
    return True


def _export(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import lookup
    from md5s3stash_daemon.ctl.provenance import ExportedEvents
    from md5s3stash_daemon.provenance.index import reading

    path = settings[ProvenanceSettings].index
    is_lost = path is not None and not os.path.exists(path)
    with contextlib.nullcontext() if path is None or is_lost else reading(path) as index:
        lookup.export(ledger_of(settings), arguments.format, ExportedEvents(index))
    if is_lost:
        console.complain(
            f"{path}: no index of provenance that this user can read, so the export has only what Redis has: start the "
            "daemon, which fills a new one, and export again"
        )
    return not is_lost


def _find(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import provenance

    return provenance.run_find(arguments, settings)


def _premis(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import provenance

    return provenance.run_premis(arguments, settings)


def _forget(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.fixity.summary import number_of
    from md5s3stash_daemon.ledger.confirmations import drop_confirmations, forget_presence

    if arguments.all == bool(arguments.md5s):
        raise SettingsError("give either md5s or --all")
    wrong = [md5 for md5 in arguments.md5s if not is_md5(md5)]
    if wrong:
        raise SettingsError(f"{wrong[0]!r} is not an md5 of 32 hexadecimal digits")
    dropped = drop_confirmations(*redis_of(settings), arguments.md5s or None)
    for md5 in arguments.md5s:
        forget_presence(*redis_of(settings), md5)
    console.write(f"{number_of(dropped, 'confirmation')} dropped")
    return True


def _rebuild(arguments: argparse.Namespace, settings: Settings) -> bool:
    from concurrent.futures import ThreadPoolExecutor

    from md5s3stash.s3.listing import Lister
    from md5s3stash.s3.store import connect
    from md5s3stash_daemon.ctl.rebuild import HEADS, rebuild, rebuild_from_export
    from md5s3stash_daemon.ledger.rebuild import Rebuilder
    from md5s3stash_daemon.ledger.restore import Restorer

    restorer = Restorer(*redis_of(settings), arguments.dry_run)
    if arguments.head and (arguments.from_export is not None or arguments.from_provenance):
        raise SettingsError("--head cannot be used with --from-export or --from-provenance: it reads objects")
    if arguments.from_provenance:
        return _rebuild_from_provenance(arguments, settings, restorer)
    if arguments.from_export is not None:
        return rebuild_from_export(arguments.from_export, restorer, arguments.dry_run, arguments.json)
    bases = settings[StashSettings].bases() + settings[ProvenanceSettings].snapshot_bases()
    endpoint = settings[S3Settings].endpoint
    with ThreadPoolExecutor(HEADS, thread_name_prefix="head") as heads:
        rebuilder = Rebuilder(Lister(endpoint), connect(endpoint), restorer, heads, arguments.head)
        return rebuild(rebuilder, bases, arguments.jobs, arguments.dry_run, arguments.json)


def _rebuild_from_provenance(arguments: argparse.Namespace, settings: Settings, restorer: Restorer) -> bool:
    from md5s3stash_daemon.ctl.provenance import index_of, rebuild_from_provenance
    from md5s3stash_daemon.ctl.rebuild import sum_up
    from md5s3stash_daemon.provenance.snapshots import snapshots_of

    counts = rebuild_from_provenance(index_of(settings), snapshots_of(settings), restorer)
    sum_up(counts, "names", arguments.dry_run, arguments.json)
    return True


def _verify(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import verify

    return verify.run(arguments, settings)


def _fixity(arguments: argparse.Namespace, settings: Settings) -> bool:
    from md5s3stash_daemon.ctl import fixity

    return fixity.run(arguments, settings)


if __name__ == "__main__":
    sys.exit(main())
