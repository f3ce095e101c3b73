"""Polls the instance metadata service (IMDSv2) for notice that this EC2 instance will be terminated.

Spot gives two minutes' notice; an Auto Scaling group publishes the target state while a lifecycle hook waits.
"""

from __future__ import annotations

import http.client
import json
import logging
import threading
import urllib.error
import urllib.request
from collections.abc import Callable

log = logging.getLogger(__name__)

# The interval that AWS recommends for spot notices.
POLL_SECONDS = 5.0

_ANSWER_SECONDS = 2.0
_TOKEN_SECONDS = 21_600
_MAX_ANSWER_BYTES = 4096
_LEAVING_STATES = ("Terminated", "Stopped", "Hibernated")

# The metadata service cannot be reached through a proxy.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Metadata:
    """A client of the metadata service. For one thread."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._token: str | None = None

    def notice(self) -> str | None:
        """The reason for the termination, as text; None if there is no notice, or the service does not answer."""
        try:
            spot = self._get("spot/instance-action")
            if spot is not None:
                return f"spot: {_action(spot)}"
            state = self._get("autoscaling/target-lifecycle-state")
        except (OSError, http.client.HTTPException, ValueError) as error:
            log.debug("metadata service: %s", error)
            return None
        return f"Auto Scaling: target state {state}" if state in _LEAVING_STATES else None

    def _get(self, path: str) -> str | None:
        """None if the path does not exist, which is the usual case."""
        for _ in range(2):
            self._token = self._token or self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            )
            try:
                return self._ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                with error:
                    if error.code != 401:
                        return None
                # The token has expired.
                self._token = None
        return None

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._url + path, method=method, headers=headers)
        with _OPENER.open(request, timeout=_ANSWER_SECONDS) as answer:
            found: bytes = answer.read(_MAX_ANSWER_BYTES)
        return found.decode("utf-8", "replace").strip()


def watch_for_notice(
    metadata: Metadata, drain: Callable[[], object], ending: threading.Event, poll_seconds: float = POLL_SECONDS
) -> None:
    """Calls `drain` after a termination notice; returns then, or when `ending` is set."""
    while not ending.wait(poll_seconds):
        notice = metadata.notice()
        if notice is not None:
            log.warning("leaving: receiving no more messages reason=%r", notice)
            drain()
            return


def _action(text: str) -> str:
    try:
        found = json.loads(text)
        return f"{found['action']} at {found['time']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "interruption"
