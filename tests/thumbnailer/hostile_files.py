"""Hostile files: mutated ones of every kind, and bombs. They are the same in every run."""

from __future__ import annotations

import gzip
import io
import random
import struct
import tempfile
import zipfile
import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from tests.support.clips import SOUNDS, VIDEOS, Clips, run
from tests.support.png_files import SIGNATURE, chunk
from tests.thumbnailer import corpus, kind_files

DRAWN = ("epub", "heic", "pdf", "psd", "svg")
STILLS = ("sound", "video")
"""Kinds of files beside pictures: those that workers draw, and those of which ffmpeg makes a still."""

# What says of which kind a file is. So much stays, or most would be refused before a decoder sees them.
_KEPT = {"epub": 58, "sound": 4, "video": 8}
_KEPT_OF_OTHERS = 8
# As long as the tables of most formats, which are at the beginning or at the end.
_EDGE = 1000


class MutatedFiles:
    """Number N of a kind, one of `DRAWN`, `STILLS` or `corpus.KINDS`, is always the same."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._originals: dict[str, Sequence[bytes]] = {}

    def file(self, kind: str, number: int) -> bytes:
        """The files of which it is made take turns."""
        if kind not in self._originals:
            self._originals[kind] = self._made(kind)
        originals, dice = self._originals[kind], random.Random(f"{kind} {number}")
        original = originals[number % len(originals)]
        if kind == "epub" and dice.random() < 0.7:
            return _with_mutated_member(original, dice)
        return mutated(original, dice, _KEPT.get(kind, _KEPT_OF_OTHERS))

    def _made(self, kind: str) -> Sequence[bytes]:
        card = corpus.card((90, 60))
        if kind == "epub":
            return [kind_files.epub(corpus.encoded(card, "JPEG")), kind_files.epub(corpus.encoded(card, "PNG"))]
        if kind == "heic":
            return [kind_files.heic(card, self._directory)]
        if kind == "pdf":
            return [kind_files.pdf([corpus.CORNERS] * 2), kind_files.pdf(encrypted=True)]
        if kind == "psd":
            return [kind_files.psd(card.convert(mode)) for mode in ("RGB", "L", "RGBA", "CMYK")]
        if kind == "svg":
            return [kind_files.svg(), gzip.compress(kind_files.svg(), mtime=0)]
        if kind in STILLS:
            return [path.read_bytes() for path in self._clips(kind)]
        return [corpus.samples()[kind].data]

    def _clips(self, kind: str) -> Sequence[Path]:
        clips = Clips(self._directory)
        if kind == "video":
            return [clips.video(ending) for ending in VIDEOS]
        cover = self._directory / "cover.jpg"
        cover.write_bytes(corpus.encoded(corpus.card((90, 60)), "JPEG"))
        covered = [clips.with_cover(ending, cover) for ending in ("mp3", "flac", "m4a")]
        return [*map(clips.sound, SOUNDS), *covered]


def mutated(original: bytes, dice: random.Random, kept: int) -> bytes:
    """With other bytes, with bytes taken out or repeated, or without its end. The first `kept` bytes stay."""
    data = bytearray(original)
    for _ in range(dice.choice((1, 2, 8, 64))):
        if len(data) <= kept + 1:
            break
        first, last = dice.choice(((kept, kept + _EDGE), (len(data) - _EDGE, len(data)), (kept, len(data))))
        place, how = dice.randrange(max(kept, first), min(last, len(data))), dice.randrange(20)
        if how == 0:
            del data[place : place + dice.randrange(1, 50)]
        elif how == 1:
            data[place:place] = data[max(0, place - 60) : place]
        elif how == 2:
            data[place : place + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"9999"))
        else:
            data[place] = dice.choice((0, 255, dice.randrange(256), data[place] ^ 1 << dice.randrange(8)))
    return bytes(data[: dice.randrange(kept, len(data))] if dice.random() < 0.1 else data)


def _with_mutated_member(book: bytes, dice: random.Random) -> bytes:
    """A checksum of the archive would give the others away."""
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(book)) as old, zipfile.ZipFile(out, "w") as new:
        first, *others = old.infolist()
        chosen = dice.choice(others)
        for info in (first, *others):
            data = old.read(info)
            new.writestr(info, mutated(data, dice, 0) if info is chosen else data)
    return out.getvalue()


def png_of_zeros(side: int = 40_000) -> bytes:
    """A PNG of that many by that many pixels, 40,000 in 200 kilobytes: one deflate block again and again."""
    row_bytes = 1 + side // 8
    packer = zlib.compressobj()
    first, again = (packer.compress(bytes(1000 * row_bytes)) + packer.flush(zlib.Z_FULL_FLUSH) for _ in range(2))
    blocks = side // 1000
    # Adler-32 of zeros, one for each byte that is unpacked.
    checksum = (1000 * blocks * row_bytes % 65521) << 16 | 1
    pixels = first + (blocks - 1) * again + b"\3\0" + checksum.to_bytes(4)
    header = struct.pack(">IIBBBBB", side, 1000 * blocks, 1, 0, 0, 0, 0)
    return SIGNATURE + chunk(b"IHDR", header) + chunk(b"IDAT", pixels) + chunk(b"IEND", b"")


def _drawing_of_uses() -> bytes:
    uses = (f'<use href="#g{n}"/>' * 10 for n in range(11))
    groups = "".join(f'<g id="g{n}">{ten}</g>' for n, ten in enumerate(uses, 1))
    return kind_files.svg(inner=f'<defs><rect id="g0" width="1" height="1"/>{groups}</defs><use href="#g11"/>')


def _drawing_of_entities() -> bytes:
    tens = (f"&e{n};" * 10 for n in range(11))
    entities = "".join(f'<!ENTITY e{n} "{ten}">' for n, ten in enumerate(tens, 1))
    return kind_files.svg(head=f'<!DOCTYPE svg [<!ENTITY e0 "e">{entities}]>', inner="<text>&e11;</text>")


def _drawing_of_blanks() -> bytes:
    return gzip.compress(kind_files.svg(inner=" " * 100_000_000), 1)


def _page(*objects: bytes) -> bytes:
    page = b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 90 60]/Contents 4 0 R/Resources<</XObject<</X 5 0 R>>>>>>"
    return kind_files.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", b"<</Type/Pages/Count 1/Kids[3 0 R]>>", page, *objects])


def _stream(data: bytes, facts: bytes = b"") -> bytes:
    return b"<</Length %d%b>>stream\n%b\nendstream" % (len(data), facts, data)


def _page_of_forms() -> bytes:
    """Each form has ten of the next."""
    facts = b"/Type/XObject/Subtype/Form/BBox[0 0 90 60]/Resources<</XObject<</X %d 0 R>>>>"
    forms = [_stream(b"/X Do " * 10, facts % (number + 1)) for number in range(5, 17)]
    return _page(_stream(b"/X Do"), *forms, _stream(b"0 0 9 9 re f", b"/Type/XObject/Subtype/Form/BBox[0 0 90 60]"))


def _page_of_zeros() -> bytes:
    image = b"/Type/XObject/Subtype/Image/Width 90000/Height 90000/BitsPerComponent 8/ColorSpace/DeviceRGB"
    data = zlib.compress(bytes(50_000_000))
    return _page(_stream(b"90 0 0 60 0 0 cm /X Do"), _stream(data, image + b"/Filter/FlateDecode"))


def _tree_of_pages() -> bytes:
    nodes = [b"<</Type/Pages/Count 1/Kids[%d 0 R]/Parent %d 0 R>>" % (n + 3, n + 1) for n in range(5000)]
    return kind_files.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", *nodes, b"<</Type/Page/Parent 5001 0 R>>"])


def _million_of_objects() -> bytes:
    """Each is a page, and no table says where it is, so all have to be searched for."""
    kids = b" ".join(b"%d 0 R" % number for number in range(3, 1_000_003))
    tree = b"<</Type/Pages/Count 1000000/MediaBox[0 0 90 60]/Kids[%b]>>" % kids
    pages = (b"%d 0 obj<</Type/Page/Parent 2 0 R>>endobj\n" % number for number in range(3, 1_000_003))
    return kind_files.pdf_of([b"<</Type/Catalog/Pages 2 0 R>>", tree]) + b"".join(pages)


def _film_of_zeros() -> bytes:
    """ffmpeg itself makes none with frames of 32,000 by 32,000 pixels."""
    with tempfile.TemporaryDirectory() as directory:
        frame, film = Path(directory, "frame.png"), Path(directory, "film.mkv")
        frame.write_bytes(png_of_zeros(16_000))
        run("-f", "image2pipe", "-c:v", "png", "-video_size", "16000x16000", "-i", str(frame), "-c", "copy", str(film))
        return film.read_bytes()


BOMBS: Mapping[str, Callable[[], bytes]] = {
    bomb.__name__.strip("_"): bomb
    for bomb in (
        *(_drawing_of_uses, _drawing_of_entities, _drawing_of_blanks),
        *(_page_of_forms, _page_of_zeros, _tree_of_pages, _million_of_objects),
        *(png_of_zeros, _film_of_zeros),
    )
}
