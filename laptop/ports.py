"""Checks that the ports are free before any program starts, so that the error names the port and not a log file."""

from __future__ import annotations

import socket
from collections.abc import Iterable

from laptop.errors import LaptopError
from laptop.place import ADDRESS, Port


def refuse_taken(ports: Iterable[Port]) -> None:
    """Raises LaptopError for the first port that cannot be listened on."""
    for port in ports:
        reason = _why_not(port.number)
        if reason is not None:
            raise LaptopError(
                f"Port {port.number}, which {port.program} wants, {reason}: choose another, for example "
                f"{port.variable}={_one_nearby(port.number)} make run."
            )


def _why_not(number: int) -> str | None:
    with socket.socket() as probe:
        # As the servers do: an old connection in TIME_WAIT does not prevent listening.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((ADDRESS, number))
        except PermissionError:
            return "is for root only"
        except OSError:
            return "is taken by another program"
    return None


def _one_nearby(number: int) -> int:
    candidates = range(max(number, 1024) + 1, 65536)
    return next((candidate for candidate in candidates if _why_not(candidate) is None), 8888)
