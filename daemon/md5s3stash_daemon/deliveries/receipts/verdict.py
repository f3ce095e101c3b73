"""What is wrong with a delivery beyond its files. Pure."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence

from md5s3stash_daemon.deliveries.bag import is_bag_manifest
from md5s3stash_daemon.deliveries.records import Manifest, State


def problems_of(manifests: Sequence[Manifest], counts: Mapping[str, int], bag: str) -> list[str]:
    """In words, each thing that makes the delivery incomplete though each listed file may be right. `bag` is the JSON
    of a `Bag`, empty if it is not one: there, `bagit.py` decides what the manifests of a bag must be.
    """
    found = [
        f"{manifest.name}: {manifest.problem}"
        for manifest in manifests
        if manifest.is_unreadable and not (bag and is_bag_manifest(manifest.name))
    ]
    if bag:
        return [*found, *json.loads(bag)["problems"]]
    nothing_listed = not any(count for state, count in counts.items() if state != State.UNLISTED)
    return found or (["no manifest lists a file"] if nothing_listed else [])
