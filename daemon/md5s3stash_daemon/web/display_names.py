"""Formats file names for the status page: a producer may put any bytes into them."""

from __future__ import annotations

import os
import shlex
import time


def shell_word(text: str) -> str:
    """The text as one word of bash, zsh and ksh, safe to copy: nothing in it moves the cursor, ends the line or hides
    text. Pasted into a shell, it gives the exact bytes of the name.
    """
    if text.isprintable():
        return shlex.quote(text)
    return f"$'{''.join(map(_ansi_c, os.fsencode(text)))}'"


def retry_command(name: str) -> str:
    """The command that drops a failed file again."""
    dashes = "-- " if name.startswith("-") else ""
    return f"md5s3stashctl retry {dashes}{shell_word(name)}"


def clock_time(seconds: float, now: float) -> str:
    """A time in UTC: the time of day within the last 24 hours, with its date before that."""
    return time.strftime("%H:%M:%S" if 0 <= now - seconds < 86400 else "%d %b %Y %H:%M", time.gmtime(seconds))


def iso_time(seconds: float) -> str:
    """For the `datetime` attribute of HTML."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(seconds))


def _ansi_c(byte: int) -> str:
    char = chr(byte)
    if char in "'\\":
        return f"\\{char}"
    return char if 0x20 <= byte < 0x7F else f"\\x{byte:02x}"
