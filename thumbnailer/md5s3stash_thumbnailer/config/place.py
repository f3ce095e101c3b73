"""Where the originals are, by the environment variables that all programs share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Self

from md5s3stash.errors import SettingsError
from md5s3stash.scheme import BucketBase, BucketScheme, KeyTemplate, address_to_http_url, parse_key_template
from md5s3stash.settings import key_prefixes


@dataclass(frozen=True, slots=True)
class Stash:
    """The location of the originals."""

    base: BucketBase
    endpoint: str | None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> Self:
        """BUCKET_BASE, BUCKET_SCHEME, KEY_TEMPLATE, DERIVATIVE_PREFIXES and S3_ENDPOINT. Raises SettingsError."""
        base = environment.get("BUCKET_BASE")
        if not base:
            raise SettingsError(
                "BUCKET_BASE is not set: it names the bucket of the originals, for example my-bucket/prefix"
            )
        scheme = environment.get("BUCKET_SCHEME") or BucketScheme.SIMPLE
        keys = parse_key_template(environment.get("KEY_TEMPLATE") or KeyTemplate.DIGEST)
        try:
            derivatives = key_prefixes(environment.get("DERIVATIVE_PREFIXES", ""))
        except ValueError as error:
            raise SettingsError(f"DERIVATIVE_PREFIXES: {error}") from error
        parsed = replace(BucketBase.parse(base, scheme, keys), derivatives=derivatives)
        return cls(parsed, environment.get("S3_ENDPOINT") or None)

    def url_of(self, content: str) -> str:
        """The http URL of an original in the stash, which is named `{md5}` or `{collection}/{md5}`."""
        return address_to_http_url(self.base.address_of(content), self.base.scheme, self.endpoint)
