"""The kinds of originals that are shown beside the pictures of `decoders/raster.py`: one module each, such as `pdf`.

A module is found because it is in this folder, and can be removed without a change elsewhere. `--kinds` and the metrics
call it as it is called here. The server imports all of them, but reads no such file. So each imports its library in
`prepare`, which runs when a worker starts. Later a worker may not open files.
"""

from __future__ import annotations

import functools
import importlib
import importlib.util
import logging
import pkgutil
from collections.abc import Collection
from typing import BinaryIO, Protocol, cast

import PIL.Image

from md5s3stash.errors import SettingsError
from md5s3stash_thumbnailer.errors import NotAnImage, NotShown, ThumbnailError
from md5s3stash_thumbnailer.render.decoders.raster import Original

PREFIX_BYTES = 32 * 1024
"""As many bytes as a kind looks at: a drawing may begin with a licence."""
_MAX_REASON = 200

log = logging.getLogger(__name__)


class Kind(Protocol):
    """What a module has."""

    TITLE: str
    """How an error calls such files."""

    def is_begun_by(self, prefix: bytes) -> bool:
        """Whether a file that begins with these bytes, its first `PREFIX_BYTES`, is of this kind. Pictures are asked
        later.
        """

    def missing(self) -> str:
        """What is not installed that it needs, or empty. Imports nothing."""

    def prepare(self) -> None:
        """Imports what it needs, and reads the files that it needs. Raises any error."""

    def opened(self, file: BinaryIO, part: str, max_pixels: int) -> Original:
        """The picture, such as a `Drawn`, of at most that many pixels: what has no pixels of its own is made smaller.

        Raises NotAnImage, NotShown, TooManyPixels, PartNotFound, or any error of its library for broken data.
        """


@functools.cache
def every() -> dict[str, Kind]:
    """All that are there, by name."""
    names = sorted(module.name for module in pkgutil.iter_modules(__path__))
    return {name: cast(Kind, importlib.import_module(f"{__name__}.{name}")) for name in names}


def chosen(setting: str) -> tuple[tuple[str, ...], dict[str, str]]:
    """The names of the kinds that are shown with the setting: `all`, `none`, or names. Of those that are not shown only
    because something is not installed, this by their names; each is logged as well. Raises SettingsError.
    """
    names = {"all": list(every()), "none": []}.get(setting, setting.split(","))
    unknown = set(names) - set(every())
    if unknown:
        raise SettingsError(f"kinds must be all, none or of {', '.join(every())}, not {setting!r}")
    missing = {name: reason for name in names if (reason := every()[name].missing())}
    for name, reason in missing.items():
        log.warning("event=kind_off kind=%s reason='%s'", name, reason)
    return tuple(name for name in names if name not in missing), missing


def kind_of(file: BinaryIO) -> str | None:
    """The name of the kind of a file; None: a picture, or something that is not shown."""
    file.seek(0)
    prefix = file.read(PREFIX_BYTES)
    file.seek(0)
    return next((name for name, kind in every().items() if kind.is_begun_by(prefix)), None)


# The kinds that this process can show, and why it cannot show others. The reason is empty if the setting does not name
# one.
_ready: set[str] = set()
_off: dict[str, str] = {}


def prepare(names: Collection[str]) -> None:
    """Prepares this process for these kinds. One that fails is not shown."""
    for name, kind in every().items():
        if name not in names:
            _off[name] = kind.missing()
            continue
        try:
            kind.prepare()
            _ready.add(name)
        except Exception as error:
            _off[name] = f"{type(error).__name__}: {error}"


def opened(name: str, file: BinaryIO, part: str, shown: Collection[str], max_pixels: int) -> Original:
    """An original of this kind, if it is among those that are `shown` and this process is prepared; likewise
    (`Kind.opened`).
    """
    kind = every()[name]
    if name not in shown or name not in _ready:
        reason = _off.get(name)
        raise NotShown(f"{kind.TITLE} are not shown by this server{f': {reason}' if reason else ''}")
    try:
        original = kind.opened(file, part, max_pixels)
    except (ThumbnailError, MemoryError, PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning):
        raise
    except Exception as error:
        # The modules read strings and numbers out of the file, too: what they raise is no bug of theirs.
        raise NotAnImage(f"File cannot be read as an image: {type(error).__name__}: {error}"[:_MAX_REASON]) from error
    original.kind = name
    return original


def missing_package(module: str, package: str) -> str:
    """For `Kind.missing`."""
    return "" if importlib.util.find_spec(module) else f"the package {package} is not installed"
