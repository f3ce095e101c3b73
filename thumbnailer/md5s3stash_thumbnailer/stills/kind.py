"""What a module of `render/kinds/` has, where ffmpeg makes the pictures."""

from __future__ import annotations

from collections.abc import Callable
from typing import BinaryIO, NamedTuple, NoReturn

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.stills.containers import kind_of
from md5s3stash_thumbnailer.stills.ffmpeg import Ffmpeg


class StillKind(NamedTuple):
    """The functions of `render.kinds.Kind`."""

    is_begun_by: Callable[[bytes], bool]
    missing: Callable[[], str]
    prepare: Callable[[], None]
    opened: Callable[[BinaryIO, str, int], NoReturn]


def kind_with_stills(name: str) -> StillKind:
    """Those of the kind of this name."""
    return StillKind(lambda prefix: kind_of(prefix) == name, _missing, lambda: None, _opened)


def _missing() -> str:
    return "" if Ffmpeg.installed() else "ffmpeg is not installed, or does not run"


def _opened(file: BinaryIO, part: str, max_pixels: int) -> NoReturn:
    raise NotAnImage("No still was made of the file")
