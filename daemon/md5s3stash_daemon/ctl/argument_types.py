"""Types of arguments of `md5s3stashctl`."""

from __future__ import annotations

import argparse
from datetime import UTC, datetime


def count(text: str) -> int:
    """A whole number from 0 on."""
    # The largest count that Redis accepts; str.isdigit would accept digits of other scripts.
    if not (text.isascii() and text.isdecimal() and len(text) <= 15):
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number from 0 on")
    return int(text)


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
