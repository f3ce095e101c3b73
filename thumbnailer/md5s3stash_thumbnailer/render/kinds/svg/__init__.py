"""A drawing in SVG, plain or gzipped, drawn by resvg at the size that is needed.

A drawing has proportions and no pixels: its longest side is said to have 2,048. resvg runs no script and has no
network. It would read pictures from files that a drawing names: while it parses one, this process cannot open files.
"""

from __future__ import annotations

import codecs
import io
import os
import re
import resource
import xml.parsers.expat
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, BinaryIO

import PIL.Image

from md5s3stash_thumbnailer.errors import NotAnImage, TooManyPixels
from md5s3stash_thumbnailer.part import require_first
from md5s3stash_thumbnailer.render import kinds
from md5s3stash_thumbnailer.render.decoders.drawn import Drawn, within
from md5s3stash_thumbnailer.render.geometry import Size
from md5s3stash_thumbnailer.render.kinds.svg import fonts

TITLE = "SVG drawings"

_LONGEST_SIDE = 2048
# A megabyte of drawing takes about a hundred of memory.
_MAX_BYTES = 16 * 1024 * 1024
_MAX_DEPTH = 500
_GZIP, _GZIP_WINDOW = b"\x1f\x8b", 31
# What may be before the first element. Possessive: a file may be written to make this slow.
_QUOTED = rb"\"[^\"]*+\"|'[^']*+'"
_DECLARED_IN = rb"\[(?:[^\]\"'<]++|" + _QUOTED + rb"|<!--.*?-->|<(?!!--))*+\]\s*+"
_DOCTYPE = rb"<!DOCTYPE(?:[^\[>\"']++|" + _QUOTED + rb")*+(?:" + _DECLARED_IN + rb")?+>"
_BEFORE = re.compile(rb"(?:\s++|<\?.*?\?>|<!--.*?-->|" + _DOCTYPE + rb")*+", re.DOTALL)
_FIRST_ELEMENT = re.compile(rb"<(?:[\w.-]{1,40}:)?svg[\s/>]")
_DECLARED = re.compile(rb"<\?xml[^>]{1,100}?encoding\s*=\s*[\"']([\w.-]{1,40})")
_ENCODINGS = ("ascii", "cp1252", "iso8859-1", "iso8859-15", "utf-8", "utf-16-le", "utf-16-be")
_UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_NUMBER = re.compile(r"\s*([0-9]{1,9}(?:\.[0-9]{1,9})?)(?:px)?\s*")


def is_begun_by(prefix: bytes) -> bool:
    if prefix.startswith(_GZIP):
        try:
            prefix = zlib.decompressobj(_GZIP_WINDOW).decompress(prefix, kinds.PREFIX_BYTES)
        except zlib.error:
            return False
    if prefix[:2] in _UTF_16:
        prefix = prefix[2:].decode(_UTF_16[prefix[:2]], "replace").encode()
    prefix = prefix.removeprefix(codecs.BOM_UTF8)
    before = _BEFORE.match(prefix)
    return bool(_FIRST_ELEMENT.match(prefix, before.end() if before else 0))


def missing() -> str:
    if not fonts.are_installed():
        return f"the system's package {fonts.PACKAGE} is not installed"
    return kinds.missing_package("resvg", "resvg")


_prepared: Any = None


def prepare() -> None:
    from resvg import usvg

    # It would write where in its source it found an error.
    os.environ["RUST_BACKTRACE"] = "0"
    options = usvg.Options.default()
    for font in fonts.fonts():
        options.load_font_data(font)
    # A sealed worker cannot import.
    for name in _ENCODINGS:
        codecs.lookup(name)
    global _prepared
    _prepared = options
    _drawn(
        usvg.Tree.from_str('<svg xmlns="http://www.w3.org/2000/svg" width="1" height="1"/>', options), (1, 1), (1, 1)
    )


def opened(file: BinaryIO, part: str, max_pixels: int) -> Drawn:
    from resvg import usvg

    require_first(part)
    text = _text(_plain(file))
    attributes = _first_attributes(text)
    with _no_files(), _panics_raised():
        tree = usvg.Tree.from_str(text, _prepared)
    user_units = _exact_size(attributes, tree.int_size())
    factor = _LONGEST_SIDE / max(user_units)
    size = within((user_units[0] * factor, user_units[1] * factor), _LONGEST_SIDE, max_pixels)
    return Drawn(file, size, lambda size: _drawn(tree, user_units, size), "RGBA", "PNG")


def _plain(file: BinaryIO) -> bytes:
    data = file.read(_MAX_BYTES + 1)
    if data.startswith(_GZIP):
        data = zlib.decompressobj(_GZIP_WINDOW).decompress(data, _MAX_BYTES + 1)
    if len(data) > _MAX_BYTES:
        raise TooManyPixels(f"The drawing has more than {_MAX_BYTES} bytes")
    return data


def _text(data: bytes) -> str:
    if data[:2] in _UTF_16:
        return data[2:].decode(_UTF_16[data[:2]])
    declared = _DECLARED.match(data)
    name = codecs.lookup(declared[1].decode()).name if declared else "utf-8"
    if name not in _ENCODINGS:
        raise NotAnImage(f"The drawing is written in {name}, which is not read")
    return data.removeprefix(codecs.BOM_UTF8).decode(name)


@contextmanager
def _no_files() -> Iterator[None]:
    """This process cannot open files or connections: the kernel refuses it another descriptor. One that is sealed
    cannot change its limits, and needs not. Raises NotAnImage if it can open files all the same.
    """
    limits = resource.getrlimit(resource.RLIMIT_NOFILE)
    try:
        resource.setrlimit(resource.RLIMIT_NOFILE, (0, limits[1]))
    except (OSError, ValueError):
        _require_seal()
        yield
        return
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, limits)


def _require_seal() -> None:
    try:
        os.close(os.open(__file__, os.O_RDONLY))
    except OSError:
        return
    raise NotAnImage("SVG drawings are not shown by this server: a worker could open files while it draws one")


@contextmanager
def _panics_raised() -> Iterator[None]:
    """Raises NotAnImage where resvg reports an error in the way of Rust."""
    try:
        yield
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        raise NotAnImage("File cannot be read as an image: the drawing is damaged, or has no size") from None


def _first_attributes(text: str) -> dict[str, str]:
    """Those of the first element. Raises NotAnImage for what is not XML, or nests so deep that resvg would crash."""
    attributes: dict[str, str] = {}
    depth = 0

    def begin(_: str, found: dict[str, str]) -> None:
        nonlocal depth
        if not depth:
            attributes.update(found)
        depth += 1
        if depth > _MAX_DEPTH:
            raise NotAnImage(f"The drawing nests more than {_MAX_DEPTH} elements")

    def end(_: str) -> None:
        nonlocal depth
        depth -= 1

    parser = xml.parsers.expat.ParserCreate("utf-8")
    parser.StartElementHandler, parser.EndElementHandler = begin, end
    try:
        parser.Parse(text.encode(), True)
    except xml.parsers.expat.ExpatError as error:
        raise NotAnImage(f"File cannot be read as an image: {error}") from error
    return attributes


def _exact_size(attributes: dict[str, str], rounded: Size) -> tuple[float, float]:
    """Width and height in user units. resvg rounds them, which makes a small drawing another shape.
    Those of the first element are taken if they are plain numbers that agree with it.
    """
    view = attributes.get("viewBox", "").replace(",", " ").split()
    for sides in ((attributes.get("width"), attributes.get("height")), view[2:]):
        numbers = [float(found[1]) for side in sides if side and (found := _NUMBER.fullmatch(side))]
        if len(numbers) == 2 and all(abs(whole - side) <= 0.5 for side, whole in zip(numbers, rounded, strict=True)):
            return numbers[0], numbers[1]
    return rounded


def _drawn(tree: Any, user_units: tuple[float, float], size: Size) -> PIL.Image.Image:
    import resvg

    # The six numbers of an affine transform, by rows.
    scale = (size[0] / user_units[0], 0.0, 0.0, 0.0, size[1] / user_units[1], 0.0)
    with _panics_raised():
        png = resvg.render(tree, scale, None, None, size, (0, 0, 0, 0))
    image = PIL.Image.open(io.BytesIO(png), formats=("PNG",))
    image.load()
    return image.convert("RGBA")
