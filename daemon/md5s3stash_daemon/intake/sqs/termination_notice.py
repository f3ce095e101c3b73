"""Is this EC2 instance to be taken away soon? The metadata service (IMDSv2) is asked every few seconds.

Spot tells two minutes ahead; an Auto Scaling group tells the state that it wants, as long as a lifecycle hook waits.
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

# AWS recommends this pace for spot notices.
POLL_SECONDS = 5.0

_ANSWER_SECONDS = 2.0
_TOKEN_SECONDS = 21_600
_MAX_ANSWER_BYTES = 4096
_LEAVING_STATES = ("Terminated", "Stopped", "Hibernated")

# No proxy knows the way to the metadata service.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Metadata:
    """What the metadata service tells. For one thread."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        self._token: str | None = None

    def notice(self) -> str | None:
        """Why the instance is to go, in words; None where nothing says so, or nobody answers."""
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
        """None where there is no such thing, which is the usual answer."""
        for _ in range(2):
            self._token = self._token or self._ask(
                "PUT", "/latest/api/token", {"X-aws-ec2-metadata-token-ttl-seconds": str(_TOKEN_SECONDS)}
            )
            try:
                return self._ask("GET", f"/latest/meta-data/{path}", {"X-aws-ec2-metadata-token": self._token})
            except urllib.error.HTTPError as error:
                if error.code != 401:
                    return None
                # The token's time is over.
                self._token = None
        return None

    def _ask(self, method: str, path: str, headers: dict[str, str]) -> str:
        request = urllib.request.Request(self._url + path, method=method, headers=headers)
        with _OPENER.open(request, timeout=_ANSWER_SECONDS) as answer:
            found: bytes = answer.read(_MAX_ANSWER_BYTES)
        return found.decode("utf-8", "replace").strip()


def watch_for_notice(
    metadata: Metadata, leave: Callable[[], object], ending: threading.Event, poll_seconds: float = POLL_SECONDS
) -> None:
    """Calls `leave` once the instance is to go; returns then, or when `ending` is set."""
    while not ending.wait(poll_seconds):
        notice = metadata.notice()
        if notice is not None:
            log.warning("leaving: no more messages are taken reason=%r", notice)
            leave()
            return


def _action(text: str) -> str:
    try:
        found = json.loads(text)
        return f"{found['action']} at {found['time']}"
    except (ValueError, TypeError, KeyError, RecursionError):
        return "interruption"
