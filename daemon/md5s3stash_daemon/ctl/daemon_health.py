"""Reads the /healthz of the running daemon for `md5s3stashctl status`."""

from __future__ import annotations

import json
from dataclasses import dataclass

from md5s3stash_daemon.config.settings import HttpSettings
from md5s3stash_daemon.spool.waiting import REASONS

_ANSWER_SECONDS = 2.0
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_VERSION = 100


@dataclass(frozen=True, slots=True)
class DaemonReport:
    """`faults`: why the daemon stashes nothing now, empty if it is healthy. `notices`: which promises are weaker.
    `version`: its release. `warnings`: problems that an operator has to fix. `waiting`: number of files that it cannot
    claim from incoming/, by reason.
    """

    faults: list[str]
    notices: list[str]
    version: str
    warnings: list[str]
    waiting: dict[str, int]


def reported_by_daemon(settings: HttpSettings) -> DaemonReport | None:
    """None if nothing answers, or the daemon serves no /healthz."""
    if settings.port == 0:
        return None
    # Here: at the top it would double the imports of `md5s3stashctl --help`.
    import http.client

    # Not urllib: it would use a proxy from the environment, which cannot reach this machine's loopback.
    connection = http.client.HTTPConnection(settings.address, settings.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        health = json.loads(answer.read(_MAX_ANSWER_BYTES))
        version = answer.getheader("Server", "").partition("/")[2][:_MAX_VERSION]
        waiting = health.get("waiting", {})
        return DaemonReport(
            list(map(str, health["reasons"])),
            list(map(str, health.get("notices", []))),
            version,
            list(map(str, health.get("warnings", []))),
            {reason: int(waiting.get(reason, 0)) for reason in REASONS},
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        # Another program listens there.
        return None
    finally:
        connection.close()
