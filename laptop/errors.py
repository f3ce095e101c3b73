"""What keeps the appliance from running here, as a sentence for the person at the terminal."""

from __future__ import annotations


class LaptopError(Exception):
    """Its text is the whole explanation: what is wrong, and what to do."""


class StopRequested(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal. Not an Exception, so that no handler for failures takes it for one."""
