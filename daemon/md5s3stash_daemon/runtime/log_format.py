"""Formats log lines for a journal: each event on one line, whatever is in it, with its priority if journald reads."""

from __future__ import annotations

import logging
import os
from collections.abc import Mapping

LINE_FORMAT = "level=%(levelname)s logger=%(name)s %(message)s"


class LineFormatter(logging.Formatter):
    """`priorities`: begin each line with `<3>` or the like. journald reads it as the line's level and removes it
    (sd-daemon(3)).
    """

    def __init__(self, priorities: bool) -> None:
        super().__init__(LINE_FORMAT)
        self._priorities = priorities

    def format(self, record: logging.LogRecord) -> str:
        line = super().format(record)
        # Names in messages are repr'd already; this is for tracebacks and the messages of libraries.
        line = "".join(part if part.isprintable() else _escaped(part) for part in line)
        return f"<{_priority(record.levelno)}>{line}" if self._priorities else line


def _escaped(character: str) -> str:
    return character.encode("unicode_escape").decode("ascii")


def _priority(level: int) -> int:
    """The syslog priority of a level."""
    for least, priority in ((logging.CRITICAL, 2), (logging.ERROR, 3), (logging.WARNING, 4), (logging.INFO, 6)):
        if level >= least:
            return priority
    return 7


def is_journal(environ: Mapping[str, str], descriptor: int) -> bool:
    """Whether journald reads from the descriptor: JOURNAL_STREAM has its device and inode (systemd.exec(5)). The
    variable alone proves nothing: a child inherits it even if its output is redirected.
    """
    try:
        status = os.fstat(descriptor)
    except OSError:
        return False
    return environ.get("JOURNAL_STREAM") == f"{status.st_dev}:{status.st_ino}"


def set_line_format(environ: Mapping[str, str], descriptor: int) -> None:
    """Sets the format of all current handlers."""
    formatter = LineFormatter(is_journal(environ, descriptor))
    for handler in logging.getLogger().handlers:
        handler.setFormatter(formatter)
