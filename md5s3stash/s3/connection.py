"""The two clients that reach one store, and what they have learned of its buckets."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from md5s3stash.s3.conditional_put import StoreGuards
from md5s3stash.s3.curl import Answer, CurlClient

_WRONG_REGION_CODES = frozenset({"PermanentRedirect", "TemporaryRedirect", "AuthorizationHeaderMalformed"})


@dataclass(frozen=True, slots=True)
class Connection:
    """A boto3 client, and libcurl beside it if we make the connection. Safe to share between threads."""

    client: Any
    curl: CurlClient | None = None
    guards: StoreGuards = field(default_factory=StoreGuards)
    # Buckets in another region than the endpoint's: libcurl would be redirected each time, boto3 remembers where to go.
    boto_buckets: set[str] = field(default_factory=set)

    def curl_for(self, bucket: str) -> CurlClient | None:
        """None if boto3 sends the requests of this bucket."""
        return None if bucket in self.boto_buckets else self.curl


def lives_elsewhere(answer: Answer) -> bool:
    """Whether the bucket is in another region, which boto3 knows how to find."""
    return answer.status in (301, 307) or answer.code in _WRONG_REGION_CODES
