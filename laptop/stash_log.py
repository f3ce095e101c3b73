"""Reads the outcome of each drop from Redis, in the order in which the daemon records them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import redis

LOG_KEY = "md5s3stash:log"
_FROM_THE_START = "0-0"


@dataclass(frozen=True, slots=True)
class Outcome:
    """One entry of the log. `name` is the path below incoming/; `reason` is set for a failed file."""

    name: str
    stashed: bool
    md5: str
    mime_type: str
    reason: str
    collection: str = ""

    @property
    def content(self) -> str:
        """How a URL of the thumbnail server names the content: `{collection}/{md5}` or `{md5}`."""
        return f"{self.collection}/{self.md5}" if self.collection else self.md5

    @property
    def is_picture(self) -> bool:
        """Whether the thumbnail server shows it."""
        is_shown = self.mime_type.startswith(("image/", "video/", "audio/")) or self.mime_type == "application/pdf"
        return self.stashed and is_shown


class StashLog:
    """The stream from now on; returns each outcome once."""

    def __init__(self, redis_url: str) -> None:
        # A file name that is not UTF-8 must not end the display of all others: replace its bytes.
        # Any: redis-py annotates every reply that a command has in any protocol, bytes and text alike.
        self._redis: Any = redis.Redis.from_url(
            redis_url, decode_responses=True, encoding_errors="replace", socket_timeout=10
        )
        newest = self._redis.xrevrange(LOG_KEY, count=1)
        self._position = str(newest[0][0]) if newest else _FROM_THE_START

    def wait(self, milliseconds: int) -> Iterator[Outcome]:
        """The outcomes since the last call; waits at most `milliseconds` for the first. Raises redis.RedisError."""
        for _, entries in self._redis.xread({LOG_KEY: self._position}, count=1000, block=milliseconds) or ():
            for position, fields in entries:
                self._position = position
                # The log also has the results of audits.
                if fields.get("outcome") in ("stashed", "failed"):
                    yield _outcome(fields)


def _outcome(fields: Mapping[str, str]) -> Outcome:
    return Outcome(
        name=fields.get("name", ""),
        stashed=fields.get("outcome") == "stashed",
        md5=fields.get("md5", ""),
        mime_type=fields.get("mime_type", ""),
        reason=fields.get("reason", ""),
        collection=fields.get("collection", ""),
    )
