"""How the commands print and end: each line stays one line, whatever names it contains; each error has its exit status.

A command is `sys.exit(run(...))`. Within it `write` prints to standard output and `complain` to standard error.
"""

from __future__ import annotations

import argparse
import contextlib
import os
import re
import select
import sys
from collections.abc import Callable, Iterator
from typing import Any, NoReturn
from unicodedata import combining, east_asian_width

from md5s3stash.errors import SettingsError, StashError

INTERRUPTED = 130

# In the repr of an argument or a variable, a byte that is not UTF-8 is half a surrogate pair.
_QUOTED_BYTE = re.compile(r"(?<!\\)((?:\\\\)*)\\udc([89a-f][0-9a-f])")

_program = "md5s3stash"


class OutputFailed(StashError):
    """Standard output cannot be written."""


class OutputClosed(OutputFailed):
    """The reader of standard output (`head`, for example) has closed it."""


class Parser(argparse.ArgumentParser):
    """The arguments of a command. An error in them is one line, as every other error is."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, **options)

    def add_version(self) -> None:
        self.add_argument("--version", action=_Version, nargs=0, help="show the version and exit")

    def error(self, message: str) -> NoReturn:
        raise SettingsError(f"{printable(message)} (see {self.prog} --help)")


class _Version(argparse.Action):
    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        write(version_line(parser.prog))
        parser.exit()


def version_line(program: str) -> str:
    """What --version prints."""
    # Only when it is asked for: this reads the metadata of what is installed.
    from md5s3stash.version import UNKNOWN, distribution_version

    version = distribution_version()
    return f"{program} {'(not installed)' if version == UNKNOWN else version}"


def run(program: str, work: Callable[[], int], interrupted: str = "") -> int:
    """Runs `work` and returns its exit status. An error is printed and ends the process at once with the error's
    status: a normal exit waits for every thread, and one may hang in a silent connection.
    """
    global _program
    _program = program
    _fill_standard_streams()
    try:
        try:
            status = work()
        except SystemExit as ended:
            # After --help and --version.
            status = int(ended.code or 0)
        flush()
        return status
    except OutputClosed:
        exit_now(1)
    except SettingsError as error:
        exit_now(error.exit_code, _QUOTED_BYTE.sub(r"\1\\x\2", str(error)))
    except StashError as error:
        exit_now(error.exit_code, str(error))
    except OSError as error:
        where = f"{os.fsdecode(error.filename)}: " if isinstance(error.filename, (str, bytes)) else ""
        exit_now(1, f"{where}{error.strerror or error}")
    except KeyboardInterrupt:
        exit_now(INTERRUPTED, interrupted)


def exit_now(status: int, message: str = "") -> NoReturn:
    """Ends the process at once, after a line on standard error for each line of the message."""
    for line in message.splitlines():
        complain(line)
    with contextlib.suppress(OutputFailed):
        flush()
    os._exit(status)


def write(line: str, end: str = "\n") -> None:
    """A line to standard output; bytes of names that are not UTF-8 go out as they came in. Raises OutputFailed."""
    with _to_stdout():
        sys.stdout.buffer.write(_encoded(line + end))


def flush() -> None:
    """Makes sure that everything written has left the process. Raises OutputFailed."""
    with _to_stdout():
        sys.stdout.flush()


def complain(message: str) -> None:
    """One line to standard error."""
    # If standard error is closed, only the exit status shows the error.
    with contextlib.suppress(OSError):
        sys.stderr.buffer.write(_encoded(f"{_program}: {printable(message)}\n"))
        sys.stderr.buffer.flush()


def is_stdout_open() -> bool:
    """Whether standard output still has a reader. Writes nothing."""
    poller = select.poll()
    poller.register(sys.stdout.fileno(), 0)
    return not any(event & select.POLLERR for _, event in poller.poll(0))


@contextlib.contextmanager
def _to_stdout() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        # At exit the interpreter would try again to write what is buffered, and print an error of its own.
        with contextlib.suppress(OSError):
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        if isinstance(error, BrokenPipeError):
            raise OutputClosed("standard output was closed") from error
        raise OutputFailed(f"standard output cannot be written: {error.strerror}") from error


def _encoded(text: str) -> bytes:
    try:
        return os.fsencode(text)
    except UnicodeEncodeError:
        # Half a surrogate pair, which can only come from other programs' JSON, or a locale that is not UTF-8.
        return text.encode("utf-8", "backslashreplace")


def _fill_standard_streams() -> None:
    """Opens the standard streams that the caller has closed (`2>&-`): Python's stream is then None, and a socket would
    get its number.
    """
    for descriptor, name in enumerate(("stdin", "stdout", "stderr")):
        if getattr(sys, name) is None:
            # The lowest number that is free is the one that was closed.
            os.open(os.devnull, os.O_RDWR)
            setattr(sys, name, open(descriptor, "r" if descriptor == 0 else "w", closefd=False))  # noqa: SIM115


def printable(text: str) -> str:
    """The text on one line. Characters that are not printable (that move the cursor or reorder text, say) become Python
    escapes.
    """
    return text if text.isprintable() else "".join(char if char.isprintable() else _escaped(char) for char in text)


def _escaped(char: str) -> str:
    # A byte of a name that is not UTF-8.
    return f"\\x{ord(char) - 0xDC00:02x}" if "\udc80" <= char <= "\udcff" else repr(char)[1:-1]


def without_password(source: str) -> str:
    """The source without user name and password: a web URL that has them is refused, and the password is not shown."""
    return re.sub(r"(?i)^(https?://)[^/?#]*@", r"\1", source)


def terminal_columns() -> int | None:
    """The width of the terminal on standard output; None if that is not a terminal, and nothing needs to be cut."""
    try:
        return os.get_terminal_size(sys.stdout.fileno()).columns or None
    except OSError:
        return None


def columns_of(text: str) -> int:
    """How many columns of a terminal a printable text takes."""
    return sum(0 if combining(char) else 2 if east_asian_width(char) in "WF" else 1 for char in text)


def cut(text: str, columns: int | None) -> str:
    """The text in at most this number of columns, cut at its end."""
    if columns is None or columns_of(text) <= columns:
        return text
    return _start_of(text, columns - 1) + "…" if columns > 0 else ""


def cut_middle(text: str, columns: int | None) -> str:
    """As `cut`, but in the middle: names differ at their ends, and their suffix is there."""
    if columns is None or columns_of(text) <= columns:
        return text
    if columns <= 0:
        return ""
    start = _start_of(text, (columns - 1) // 2)
    end = _start_of(text[::-1], columns - 1 - columns_of(start))[::-1]
    return f"{start}…{end}"


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
