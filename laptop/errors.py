"""Errors that keep the appliance from running, worded for the person at the terminal."""

from __future__ import annotations


class LaptopError(Exception):
    """Its text is the whole explanation: what is wrong, and what to do."""


class StopRequested(BaseException):
    """Ctrl-C, SIGTERM or a closed terminal. Not an Exception, so that no error handler catches it."""
