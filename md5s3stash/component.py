"""The record of a harvested content that Calisphere's harvester writes (rikolti, content_harvester/by_record.py).

    {"mimetype": "image/jpeg", "path": "s3://bucket/thumbnails/26094/3e25...", "dimensions": [640, 480],
     "component_content_harvest_metadata": {"md5": "3e25...", "src_content-type": "image/jpeg", "mapped_mimetype": null,
     "src_size": 1946, "date_content_component_created": "2026-11-29T12:00:00.123456"}, "from-cache": false}

What the harvester derives from a PDF or a video, the thumbnail server draws: `path` is that of the content itself.
"""

from __future__ import annotations

from collections.abc import Iterator, MutableMapping
from datetime import datetime
from typing import Any

from md5s3stash.library import stash_once
from md5s3stash.scheme import BucketBase, KeyTemplate
from md5s3stash.stash import Caches, StashResult

Component = dict[str, Any]
Cache = MutableMapping[str, Any]

_METADATA = "component_content_harvest_metadata"


def stash_component(
    url: str,
    bucket_base: str,
    conn: Any = None,
    url_auth: tuple[str, str] | None = None,
    cache: Cache | None = None,
    *,
    collection: str | int = "",
    mapped_mimetype: str | None = None,
) -> Component:
    """Stashes as `md5s3stash` does, and raises the same errors; returns the component of the content.

    `cache` is any dict-like object of JSON values, for all URLs and collections. With it, an origin that answers 304 is
    not read again, and its component comes back as it was, with `from-cache`. `mapped_mimetype` is what the record says
    of the URL.
    """
    parts = [None if cache is None else _Part(cache, name) for name in ("url", "hash", "component")]
    base = BucketBase.parse(bucket_base, keys=KeyTemplate.COLLECTION).in_collection(str(collection))
    result = stash_once(url, base, conn, url_auth, Caches(*parts[:2]))
    return component_of(result, mapped_mimetype, parts[2], datetime.now())


def component_of(result: StashResult, mapped_mimetype: str | None, cache: Cache | None, now: datetime) -> Component:
    """The component of a result. If the origin sent no content, because it has not changed, it is that of the cache.

    `now` has no time zone: the harvester compares dates without one.
    """
    report = result.report
    key = f"{report.s3_url} {report.url}"
    cached = None if cache is None or result.size_bytes is not None else cache.get(key)
    if isinstance(cached, dict) and isinstance(cached.get(_METADATA), dict):
        return {**cached, "from-cache": True}
    component: Component = {
        "mimetype": report.mime_type,
        "path": report.s3_url,
        "dimensions": None if report.dimensions == (0, 0) else list(report.dimensions),
        _METADATA: {
            "md5": report.md5,
            "src_content-type": result.declared_type,
            "mapped_mimetype": mapped_mimetype,
            "src_size": result.size_bytes,
            "date_content_component_created": now.isoformat(),
        },
    }
    if cache is not None:
        cache[key] = component
    return {**component, "from-cache": False}


class _Part(Cache):
    """The entries of a cache with one prefix."""

    def __init__(self, cache: Cache, name: str) -> None:
        self._cache = cache
        self._prefix = f"{name} "

    def __getitem__(self, key: str) -> Any:
        return self._cache[self._prefix + key]

    def __setitem__(self, key: str, value: Any) -> None:
        self._cache[self._prefix + key] = value

    def __delitem__(self, key: str) -> None:
        del self._cache[self._prefix + key]

    def __iter__(self) -> Iterator[str]:
        return (key.removeprefix(self._prefix) for key in self._cache if key.startswith(self._prefix))

    def __len__(self) -> int:
        return sum(1 for _ in self)
