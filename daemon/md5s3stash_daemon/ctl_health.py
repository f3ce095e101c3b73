"""What the running daemon reports about itself: its /healthz, as `md5s3stashctl status` shows it."""

from __future__ import annotations

import json
from dataclasses import dataclass

from md5s3stash_daemon.settings import HttpSettings

_ANSWER_SECONDS = 2.0
_MAX_ANSWER_BYTES = 64 * 1024


@dataclass(frozen=True, slots=True)
class DaemonHealth:
    """`faults`: why it stashes nothing now, empty while all is well. `notices`: which promises are weaker."""

    faults: list[str]
    notices: list[str]


def health_of_daemon(settings: HttpSettings) -> DaemonHealth | None:
    """None where nobody answers, or it serves no /healthz."""
    if settings.port == 0:
        return None
    # Half of what `md5s3stashctl --help` imported.
    import http.client

    # Not urllib: a proxy of the environment does not know this machine's loopback.
    connection = http.client.HTTPConnection(settings.address, settings.port, timeout=_ANSWER_SECONDS)
    try:
        connection.request("GET", "/healthz")
        told = json.loads(connection.getresponse().read(_MAX_ANSWER_BYTES))
        return DaemonHealth(list(map(str, told["reasons"])), list(map(str, told.get("notices", []))))
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        # Whoever listens there is no daemon of ours.
        return None
    finally:
        connection.close()
