"""md5s3stash: content-addressed storage in S3.

from md5s3stash import md5s3stash
report = md5s3stash("file:///tmp/a.jpg", "my-bucket/prefix")
print(report.md5, report.s3_url)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from md5s3stash.component import stash_component
    from md5s3stash.errors import StashError
    from md5s3stash.library import md5s3stash
    from md5s3stash.scheme import is_s3_url, md5_to_bucket_shard, md5_to_http_url, md5_to_s3_url
    from md5s3stash.stash import StashReport

__all__ = [
    "StashError",
    "StashReport",
    "is_s3_url",
    "md5_to_bucket_shard",
    "md5_to_http_url",
    "md5_to_s3_url",
    "md5s3stash",
    "stash_component",
]

_HOMES = {
    "StashError": "errors",
    "StashReport": "stash",
    "is_s3_url": "scheme",
    "md5_to_bucket_shard": "scheme",
    "md5_to_http_url": "scheme",
    "md5_to_s3_url": "scheme",
    "md5s3stash": "library",
    "stash_component": "component",
}


def __getattr__(name: str) -> Any:
    # Imported on first use (PEP 562): importing boto3, requests and Pillow takes a third of a second, which `--help`
    # does not need.
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    from importlib import import_module

    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
