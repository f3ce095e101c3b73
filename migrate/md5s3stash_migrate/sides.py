"""Source and target of a migration, as the command line names them: `{scheme}:{bucket base}`."""

from __future__ import annotations

from md5s3stash.audit import nested_prefixes
from md5s3stash.errors import SettingsError
from md5s3stash.scheme import BucketBase


def parse_side(option: str, text: str) -> BucketBase:
    """The base behind `multibucket:BASE` or `simple:BUCKET/prefix`. Raises SettingsError that says what is allowed."""
    scheme, colon, base = text.partition(":")
    if not colon:
        raise SettingsError(f"{option} {text!r}: write multibucket:BASE or simple:BUCKET/prefix")
    try:
        return BucketBase.parse(base, scheme)
    except SettingsError as error:
        raise SettingsError(f"{option} {text!r}: {error}") from error


def require_apart(source: BucketBase, target: BucketBase) -> None:
    """Raises SettingsError if both are the same place."""
    if source == target:
        raise SettingsError("--from and --to are the same place: there is nothing to migrate")


def not_of_source(source: BucketBase, target: BucketBase) -> tuple[str, ...]:
    """Key prefixes in the source's bucket that belong to the target: objects copied there must not be copied again."""
    return nested_prefixes(source, (target,))
