"""A reduced copy of a large original: which thumbnails are cut from it, and how it is stored beside the originals.

Decoding is most of the cost of a thumbnail, and sites ask for several sizes of each picture. The copy holds raw pixels,
because decoding another JPEG would cost most of what is saved. If the original stores brightness and colours
separately, and colours at half the resolution, so does the copy: half as many values are read, resized and kept.

A thumbnail that can be cut from a copy always is: if the cache has none, the copy is made in memory first. So the same
request gives the same bytes, whatever the cache holds. A copy is not synced to the disk, so it is used only if its
checksum is right.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import BinaryIO, Self

import PIL.Image
import xxhash

from md5s3stash_thumbnailer._pilbox import RENDERER, DrawOptions
from md5s3stash_thumbnailer.errors import ReducedDamaged
from md5s3stash_thumbnailer.render import geometry
from md5s3stash_thumbnailer.render.decoders.raster import MIME_TYPES, Original
from md5s3stash_thumbnailer.render.geometry import Cut, Size
from md5s3stash_thumbnailer.render.picture import Picture, upright
from md5s3stash_thumbnailer.request import ThumbnailRequest, thumbnail_size

# The least pixels of the copy, along a side, for each pixel of the thumbnail; and the least that averages leave to the
# filter. With fewer the SSIM to a thumbnail of the original can fall to 0.97, on hard edges first.
_LEAST_LEFT, _LEFT_TO_FILTER = 1.75, 1.6
# Bicubic takes two thirds of the time of Lanczos, and is good enough if no averages come before it.
_FILTER, _FILTER_AFTER_AVERAGES = PIL.Image.Resampling.BICUBIC, PIL.Image.Resampling.LANCZOS
# Half the time of bicubic. Its blur is visible in brightness (SSIM of line art: 0.96), but not in colours.
_FILTER_OF_COLOURS = PIL.Image.Resampling.HAMMING
# Only originals that are this many times larger, along a side, get a copy. Others are decoded quickly enough.
_LEAST_DIVISOR = 2

_BYTES_A_PIXEL = {"L": 1, "LA": 2, "RGB": 3, "RGBA": 4}
# Pillow's name. The pixels of such a copy are three planes: brightness, then two colour planes with sides half as long.
_PLANES = "YCbCr"
# Originals in other modes (16 bits, CMYK, Lab) get no copy: their colours are converted later.
_MODES_OF_ORIGINALS = frozenset({"L", "P", "RGB", "RGBA"})
_MAX_PROFILE_BYTES = 64 * 1024

_MAGIC = b"MSR5"
# Magic, checksum of everything after it, facts as JSON padded with blanks. Then the profile and the pixels.
_FACTS_BYTES = 500
_HEAD = struct.Struct(f">4sQ{_FACTS_BYTES}s")


@dataclass(frozen=True, slots=True)
class Facts:
    """The description of a copy. `side` and `renderer` are those of the server that made it."""

    side: int
    renderer: str
    stored_width: int
    stored_height: int
    orientation: int
    shrink: float
    format: str
    sampling: int | None
    mode: str
    width: int
    height: int
    profile_bytes: int

    @property
    def stored_size(self) -> Size:
        return self.stored_width, self.stored_height

    @property
    def size(self) -> Size:
        """Size of the upright original."""
        return upright(self.stored_size, self.orientation)

    @property
    def planes(self) -> tuple[tuple[str, Size], ...]:
        """Mode and size of each plane of the copy."""
        if self.mode != _PLANES:
            return ((self.mode, (self.width, self.height)),)
        half = -(-self.width // 2), -(-self.height // 2)
        return ("L", (self.width, self.height)), ("L", half), ("L", half)

    @property
    def plane_bytes(self) -> list[int]:
        return [width * height * _BYTES_A_PIXEL[mode] for mode, (width, height) in self.planes]

    @property
    def pixel_bytes(self) -> int:
        return sum(self.plane_bytes)

    @property
    def file_bytes(self) -> int:
        return _HEAD.size + self.profile_bytes + self.pixel_bytes

    def serves(self, request: ThumbnailRequest, side: int) -> bool:
        """Whether a server with that setting cuts the thumbnail from this copy."""
        if (self.side, self.renderer) != (side, RENDERER):
            return False
        options = DrawOptions.of(dict(request.options))
        return is_cut_from_copies(request, options) and leaves_enough(self.size, self.shrink, request, options)


class Reduced(Picture):
    """A copy in memory."""

    oversampling = _LEFT_TO_FILTER

    def __init__(self, planes: Sequence[PIL.Image.Image], profile: bytes, facts: Facts) -> None:
        """`planes` must match the facts."""
        super().__init__(planes[0], facts.stored_size, facts.orientation, facts.shrink)
        self.image.info = {"icc_profile": profile} if profile else {}
        self._colours = planes[1:]
        self.facts = facts

    @property
    def format(self) -> str:
        return self.facts.format

    @property
    def sampling(self) -> int | None:
        return self.facts.sampling

    def cut(self, cut: Cut, resampling: PIL.Image.Resampling) -> PIL.Image.Image:
        has_averages = cut.reduction / self.shrink >= 2 * _LEFT_TO_FILTER
        image = super().cut(cut, _FILTER_AFTER_AVERAGES if has_averages else _FILTER)
        if not self._colours:
            return image
        colours = (self._resampled(plane, cut, _FILTER_OF_COLOURS, 2 * self.shrink) for plane in self._colours)
        return PIL.Image.merge(_PLANES, (image, *colours))

    @classmethod
    def of(cls, original: Original, side: int, divisor: int) -> Self:
        """Makes a copy: decodes the original."""
        image_format, sampling, profile = original.format, original.sampling, _profile(original)
        image, shrink = original.reduced(divisor)
        brightness, *colours = image.split() if image.mode == _PLANES else (image,)
        planes = [brightness, *(plane.reduce(2) for plane in colours)]
        facts = Facts(
            side=side,
            renderer=RENDERER,
            stored_width=original.stored_size[0],
            stored_height=original.stored_size[1],
            orientation=original.orientation,
            shrink=shrink,
            format=image_format,
            sampling=sampling,
            mode=image.mode,
            width=image.width,
            height=image.height,
            profile_bytes=len(profile),
        )
        return cls(planes, profile, facts)

    @classmethod
    def read(cls, file: BinaryIO) -> Self:
        """Raises ReducedDamaged if a single bit differs from what was written."""
        facts = read_facts(file)
        try:
            file.seek(0)
            _, checksum, text = _HEAD.unpack(file.read(_HEAD.size))
            profile, *planes = (file.read(size) for size in (facts.profile_bytes, *facts.plane_bytes))
        except OSError as error:
            raise ReducedDamaged("The reduced copy cannot be read") from error
        if list(map(len, planes)) != facts.plane_bytes or _checksum(text, profile, *planes) != checksum:
            raise ReducedDamaged("The reduced copy is damaged")
        # Grey planes are not even copied in memory.
        images = [
            PIL.Image.frombuffer(mode, size, pixels, "raw", mode, 0, 1)
            for (mode, size), pixels in zip(facts.planes, planes, strict=True)
        ]
        return cls(images, profile, facts)

    def write(self, file: BinaryIO) -> None:
        """Raises the OSError of the disk."""
        text = json.dumps(asdict(self.facts)).encode().ljust(_FACTS_BYTES)
        parts = [self.image.info.get("icc_profile", b"")]
        parts += [plane.tobytes() for plane in (self.image, *self._colours)]
        file.write(_HEAD.pack(_MAGIC, _checksum(text, *parts), text))
        for part in parts:
            file.write(part)


def read_facts(file: BinaryIO) -> Facts:
    """The head of a file; its checksum is not checked here. Raises ReducedDamaged."""
    file.seek(0)
    try:
        magic, _, text = _HEAD.unpack(file.read(_HEAD.size))
        facts = Facts(**json.loads(text))
        is_sound = magic == _MAGIC and facts.format in MIME_TYPES and min(facts.size) > 0 and facts.shrink > 0
        is_sound = is_sound and {type(n) for n in (facts.width, facts.height, facts.profile_bytes)} == {int}
        # A wrong size would be read into memory.
        if is_sound and 0 < facts.pixel_bytes <= 4 * facts.side**2 and 0 <= facts.profile_bytes <= _MAX_PROFILE_BYTES:
            return facts
    except (struct.error, ValueError, TypeError, LookupError):
        pass  # the damage may raise any of these
    raise ReducedDamaged("The reduced copy is damaged")


def is_cut_from_copies(request: ThumbnailRequest, options: DrawOptions) -> bool:
    """Whether a copy can answer a request for a picture that is large enough. Faces are searched in the original, other
    filters need its pixels, and metadata is not copied.
    """
    finds_faces = options.position is None and request.mode in ("adapt", "crop")
    is_default = options.resampling == PIL.Image.Resampling.LANCZOS and options.quality is not None
    return request.operations == ("resize",) and is_default and not finds_faces and not options.preserve_exif


def leaves_enough(original: Size, shrink: float, request: ThumbnailRequest, options: DrawOptions) -> bool:
    """Whether one pixel for `shrink` pixels of the original is enough for the thumbnail."""
    size = thumbnail_size(original, request)
    mode = geometry.plain_mode(request.mode, original, size, options.retain_percent)
    return geometry.fitted(mode, original, size).reduction >= shrink * _LEAST_LEFT


def divisor_for(original: Original, side: int) -> int | None:
    """The factor that reduces an original to a copy whose longest side is at most `side`; None: no copy."""
    longest = max(original.size)
    if not side or longest < side * _LEAST_DIVISOR or original.image.mode not in _MODES_OF_ORIGINALS:
        return None
    if len(_profile(original)) > _MAX_PROFILE_BYTES:
        return None
    needed = -(-longest // side)
    largest = original.divisors[-1]
    return next((divisor for divisor in original.divisors if divisor >= needed), -(-needed // largest) * largest)


def _checksum(*parts: bytes) -> int:
    # Saves a quarter of a millisecond per copy against CRC-32; a thumbnail from a copy takes four in all.
    checksum = xxhash.xxh3_64()
    for part in parts:
        checksum.update(part)
    return checksum.intdigest()


def _profile(original: Original) -> bytes:
    profile = original.image.info.get("icc_profile")
    return profile if isinstance(profile, bytes) else b""
