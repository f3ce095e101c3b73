"""Compares a file with the digests that the manifests of its delivery list, before any of it is stored."""

from __future__ import annotations

from collections.abc import Mapping

from md5s3stash.content import Content
from md5s3stash.errors import ListedDigestDiffers
from md5s3stash_daemon.spool.entry import SEND_FILE, SEND_MANIFEST, Entry, disagreement

# Those that are computed of every file.
_OF_EVERY_FILE = frozenset({"md5", "sha256"})


def further_algorithms(entry: Entry) -> tuple[str, ...]:
    """The algorithms to compute for this file besides md5 and SHA-256."""
    if not entry.listed:
        return ()
    return tuple(sorted({algorithm for algorithm, _ in entry.listed} - _OF_EVERY_FILE))


def refuse_other_than_listed(entry: Entry, content: Content) -> None:
    """Raises ListedDigestDiffers, and closes the content, if it differs from any listed digest."""
    found = _digests(content)
    differs = [(algorithm, digest) for algorithm, digest in entry.listed if found[algorithm] != digest]
    if not differs:
        return
    content.close()
    if problem := disagreement(entry.listed):
        raise ListedDigestDiffers(f"{problem}; nothing was stored")
    algorithm, digest = differs[0]
    right = next((each for each in entry.listed if each not in differs), None)
    what_to_do = SEND_FILE if right is None else f"its {right[0]} is as listed, so {SEND_MANIFEST}"
    raise ListedDigestDiffers(
        f"its {algorithm} is {found[algorithm]}, but the manifest of its delivery lists {digest}: nothing was stored; "
        f"{what_to_do}"
    )


def checked_digests(entry: Entry) -> tuple[tuple[str, str], ...]:
    """The listed digests beyond md5, which is recorded for every file. They are right: no other file is stored."""
    return tuple(sorted({pair for pair in entry.listed if pair[0] != "md5"})) if entry.listed else ()


def _digests(content: Content) -> Mapping[str, str]:
    return {"md5": content.digest.md5, "sha256": content.digest.sha256, **(content.further or {})}
