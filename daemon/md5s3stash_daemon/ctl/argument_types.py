"""Arguments of `md5s3stashctl`, and their types."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime


def count(text: str) -> int:
    """A whole number from 0 on."""
    # The largest count that Redis accepts; str.isdigit would accept digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


def positive(text: str) -> int:
    """A whole number from 1 on."""
    if number := count(text):
        return number
    raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 on")


def day(text: str) -> float:
    """The beginning of a day in UTC, in seconds since the epoch."""
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC).timestamp()
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a day such as 2026-10-31") from None


def jobs(text: str) -> int:
    """How many things are done at once."""
    number = count(text)
    if not 1 <= number <= 36:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 1 to 36")
    return number


def add_fixity_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `md5s3stashctl fixity`."""
    actions = ["plan", "status", "history", "report", "acknowledge"]
    parser.add_argument("action", choices=actions, metavar="ACTION", help=f"{', '.join(actions[:-1])} or {actions[-1]}")
    parser.add_argument(
        "s3_urls", nargs="*", metavar="NAME", help="history: a name, URL or md5; acknowledge: S3 URLs of objects"
    )
    parser.add_argument("--period-days", type=positive, metavar="N", help="plan for this period (fixity.period_days)")
    parser.add_argument("--objects", type=count, metavar="N", help="plan for N objects, without a LIST of the buckets")
    parser.add_argument(
        "--mean-bytes", type=count, default=1_000_000, metavar="N", help="the mean size of these objects (1000000)"
    )
    parser.add_argument("--csv", action="store_true", help="print the report as CSV")


def add_json(parser: argparse.ArgumentParser) -> None:
    """For a command that can print JSON."""
    parser.add_argument("--json", action="store_true", help="print one JSON object per line")


def add_names(parser: argparse.ArgumentParser) -> None:
    """For a command that works on files."""
    parser.add_argument("names", nargs="*", metavar="NAME", help="a name as it was dropped")
    parser.add_argument("--all", action="store_true", help="every file to which the command applies")


def add_delivery_arguments(parser: argparse.ArgumentParser) -> None:
    """Those of `md5s3stashctl delivery`."""
    parser.add_argument("action", choices=["list", "show", "close"], metavar="ACTION", help="list, show or close")
    parser.add_argument("name", nargs="?", metavar="NAME", help="the folder of the delivery, or its number")
    parser.add_argument("--limit", type=count, default=20, metavar="N", help="show at most N deliveries or files (20)")
