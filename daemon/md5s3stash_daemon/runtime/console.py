"""What md5s3stashctl prints: lines that any name fits into and any reader may stop reading."""

from __future__ import annotations

import contextlib
import os
import select
import sys
from unicodedata import combining, east_asian_width

from md5s3stash.errors import StashError

PROGRAM = "md5s3stashctl"


class OutputClosed(StashError):
    """Nobody reads standard output any more."""


class OutputFailed(StashError):
    """Standard output takes no more."""


def write(line: str) -> None:
    """A line to standard output; bytes of names that are no UTF-8 go out as they came in. Raises OutputClosed or
    OutputFailed.
    """
    _to_stdout(line + "\n")


def write_raw(text: str) -> None:
    """As `write`, without the end of the line."""
    _to_stdout(text)


def flush() -> None:
    """Makes sure that what was written has left. Raises OutputClosed or OutputFailed."""
    _to_stdout(None)


def complain(message: str) -> None:
    """One line to standard error."""
    # Where nobody listens for errors, the exit status has to do.
    with contextlib.suppress(OSError, AttributeError):
        sys.stderr.buffer.write(f"{PROGRAM}: {printable(message)}\n".encode())
        sys.stderr.buffer.flush()


def is_stdout_open() -> bool:
    """Whether somebody still reads what we print; told without writing."""
    if sys.stdout is None:
        return True
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return not any(event & select.POLLERR for _, event in poller.poll(0))


def terminal_columns() -> int | None:
    """The width of the terminal that standard output is; None where it is none, and nothing needs to be cut."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except (OSError, AttributeError):
        return None


def printable(text: str) -> str:
    """The text on one line: whatever would move the cursor, reorder what is around it or is no character is written as
    in Python.
    """
    return "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    # A byte of a name that is no UTF-8.
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else repr(char)[1:-1]


def columns_of(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, columns: int | None) -> str:
    """The text in so many columns at most, its end left out."""
    if columns is None or columns_of(text) <= columns:
        return text
    return _start_of(text, columns - 1) + "…" if columns > 0 else ""


def cut_middle(text: str, columns: int | None) -> str:
    """The text in so many columns at most, its middle left out: names differ at their ends, where the kind is too."""
    if columns is None or columns_of(text) <= columns:
        return text
    if columns <= 0:
        return ""
    start = _start_of(text, (columns - 1) // 2)
    end = _start_of(text[::-1], columns - 1 - columns_of(start))[::-1]
    return f"{start}…{end}"


def padded(text: str, columns: int) -> str:
    """The text with blanks behind it."""
    return text + " " * (columns - columns_of(text))


def duration(seconds: float) -> str:
    """About how long, in one unit and at most five columns."""
    seconds = max(0.0, seconds)
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= 2 * length:
            return f"{int(seconds // length)}{unit}"
    return f"{int(seconds)}s"


def size(size_bytes: int) -> str:
    """About how many bytes, in binary units."""
    amount = float(size_bytes)
    for unit in ("", "K", "M", "G", "T"):
        if amount < 1024:
            return f"{amount:.1f}{unit}" if unit and amount < 10 else f"{int(amount)}{unit}"
        amount /= 1024
    return f"{int(amount)}P"


def _start_of(text: str, columns: int) -> str:
    taken = 0
    for at, char in enumerate(text):
        taken += columns_of(char)
        if taken > columns:
            return text[:at]
    return text


def _encoded(text: str) -> bytes:
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        # Half a surrogate pair, which only somebody else's JSON can have brought here.
        return text.encode("utf-8", "backslashreplace")


def _to_stdout(text: str | None) -> None:
    if sys.stdout is None:
        return
    try:
        if text is None:
            sys.stdout.buffer.flush()
        else:
            sys.stdout.buffer.write(_encoded(text))
    except OSError as error:
        # What is still buffered would be tried again at the end of the interpreter, which then complains in its own
        # words.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise OutputClosed("nobody reads standard output") from error
        raise OutputFailed(f"standard output cannot be written: {error.strerror}") from error
