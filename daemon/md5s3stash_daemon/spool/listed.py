"""What is wrong with the digests that are listed for one file. Pure."""

from __future__ import annotations

from collections.abc import Iterable

# Begins the reason of a file that no content can satisfy.
DISAGREE = "the manifests of its delivery disagree"


def disagreement(listed: Iterable[tuple[str, str]]) -> str:
    """In words, that (algorithm, digest) pairs have two digests of one algorithm; empty if they do not."""
    found: dict[str, str] = {}
    for algorithm, digest in listed:
        if found.setdefault(algorithm, digest) != digest:
            return (
                f"{DISAGREE}: they list the {algorithm} {found[algorithm]} and the {algorithm} {digest}, so no file "
                "can be right; have a corrected manifest sent, under the same name as the wrong one"
            )
    return ""
