"""What the running daemon reports about itself: its /healthz, as `md5s3stashctl status` shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from md5s3stash_daemon.config.settings import HttpSettings
from md5s3stash_daemon.spool.waiting import REASONS

_ANSWER_SECONDS = 2.0
_MAX_ANSWER_BYTES = 64 * 1024
_MAX_VERSION = 100


@dataclass(frozen=True, slots=True)
class Told:
    """`faults`: why the daemon stashes nothing now, empty while all goes well. `notices`: which promises are weaker.
    `version`: its release. `warnings`: what somebody has to mend. `waiting`: how many files it leaves in incoming/, by
    reason.
    """

    faults: list[str]
    notices: list[str]
    version: str
    warnings: list[str]
    waiting: dict[str, int]


def told_by_daemon(settings: HttpSettings) -> Told | None:
    """None where nobody answers, or the daemon serves no /healthz."""
    if settings.port == 0:
        return None
    # Half of what `md5s3stashctl --help` imported.
    import http.client

    # Not urllib: a proxy of the environment does not know this machine's loopback.
    connection = http.client.HTTPConnection(settings.address, settings.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        answer = connection.getresponse()
        told = json.loads(answer.read(_MAX_ANSWER_BYTES))
        version = answer.getheader("Server", "").partition("/")[2][:_MAX_VERSION]
        waiting = told.get("waiting", {})
        return Told(
            list(map(str, told["reasons"])),
            list(map(str, told.get("notices", []))),
            version,
            list(map(str, told.get("warnings", []))),
            {reason: int(waiting.get(reason, 0)) for reason in REASONS},
        )
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError, AttributeError):
        # Whoever listens there is no daemon of ours.
        return None
    finally:
        connection.close()
