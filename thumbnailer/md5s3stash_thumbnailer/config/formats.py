"""Which formats answers may have for clients that accept them, by names in a setting."""

from __future__ import annotations

from collections.abc import Sequence

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.request import AUTO_FORMATS

_ALL = "best"


def auto_formats(names: Sequence[str]) -> tuple[str, ...]:
    """In the order of AUTO_FORMATS. `best` stands for all that the installed Pillow writes. Raises SettingsError."""
    # --help does without Pillow.
    from PIL import features

    for name in names:
        if name not in (*AUTO_FORMATS, _ALL):
            raise SettingsError(f"auto_formats must be of {', '.join((*AUTO_FORMATS, _ALL))}, not {name}")
        if name != _ALL and not features.check(name):
            raise SettingsError(f"auto_formats must not have {name}: the installed Pillow does not write it")
    return tuple(name for name in AUTO_FORMATS if features.check(name) and {name, _ALL} & set(names))
