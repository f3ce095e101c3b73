"""Icons of what no decoder shows: only where they are asked for, and never for a damaged picture."""

from __future__ import annotations

import errno
import io
import os
import random
import struct
import tarfile
import time
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator

import PIL.Image
import PIL.ImageChops
import pytest

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.render import file_types, icons
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import ThumbnailRequest
from tests.thumbnailer import kind_files
from tests.thumbnailer.conftest import Thumbnailer, picture, thumbnailer

PUT = Callable[[bytes], str]
MINUTES = "public, max-age=300"
OLE = b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1"


def zipped(*names: str, first: str = "", stored: bytes = b"") -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        if first:
            archive.writestr(first, stored)
        for name in names:
            archive.writestr(name, "text " * 20, zipfile.ZIP_DEFLATED)
    return out.getvalue()


def ole(stream: str) -> bytes:
    """A compound file whose directory is in its sector 3."""
    head = bytearray(512)
    head[:8] = OLE
    struct.pack_into("<H", head, 30, 9)
    struct.pack_into("<I", head, 48, 3)
    return (
        bytes(head)
        + bytes(3 * 512)
        + "Root Entry".encode("utf-16-le").ljust(128, b"\0")
        + f"{stream}\0".encode("utf-16-le")
    )


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("a"), io.BytesIO())
    return out.getvalue()


# Behind a picture of more than what is looked at, at the beginning and at the end.
LATE = zipped("ppt/presentation.xml", first="media/1.jpg", stored=random.Random(1).randbytes(200_000))

FILES = {
    "DOCX": [zipped("[Content_Types].xml", "_rels/.rels", "word/document.xml")],
    "XLSX": [zipped("docProps/app.xml", "xl/workbook.xml")],
    "PPTX": [zipped("[Content_Types].xml", "ppt/presentation.xml"), LATE],
    "ODT": [zipped("content.xml", first="mimetype", stored=b"application/vnd.oasis.opendocument.text")],
    "ODS": [zipped("content.xml", first="mimetype", stored=b"application/vnd.oasis.opendocument.spreadsheet")],
    "ZIP": [zipped("a.txt"), b"PK\3\4", b"PK\3\4" + b"\xff" * 26],
    "JAR": [zipped("META-INF/MANIFEST.MF")],
    "DOC": [ole("WordDocument")],
    "XLS": [ole("Workbook"), ole("Book")],
    "PPT": [ole("PowerPoint Document")],
    "FILE": [b"", b"\n", OLE, ole("Other"), b"\0", bytes(range(256)), b"text\0more", OLE + b"\xff" * 600],
    "TAR": [tarred()],
    "GZ": [b"\x1f\x8b\x08" + bytes(20)],
    "7Z": [b"7z\xbc\xaf\x27\x1c" + bytes(20)],
    "RTF": [b"{\\rtf1 text}"],
    "FONT": [
        *(b"wOF2" + bytes(40), b"OTTO\0\x0a" + bytes(20), b"\0\1\0\0\0\x0f" + bytes(20)),
        *(b"true\0\x0a" + bytes(20), b"ttcf\0\1\0\0" + bytes(20), b"%!PS-AdobeFont-1.0: Symbol\n"),
    ],
    "PS": [b"%!PS-Adobe-3.0\n%%Pages: 1\n", b"%!PS\n"],
    "EPS": [b"%!PS-Adobe-3.0 EPSF-3.0\n", b"%!PS-Adobe-2.0 EPSF-1.2\n", b"\xc5\xd0\xd3\xc6" + bytes(26)],
    "EXE": [b"MZ\x90\0\3\0"],
    "MBOX": [b"From anne@example.org Mon Jan  5 10:00:00 2026\n"],
    "3D": [
        b"glTF\2\0\0\0",
        b"ply\nformat ascii 1.0\n",
        b"solid box\n facet normal 0 0 1\n",
        bytes(80) + struct.pack("<I", 2) + bytes(100),
        b"# a box\no Box\nv 0.0 0.0 1.0\nv 1 0 -1e-5\nv 1 1 1\n",
        zipped("[Content_Types].xml", "3D/3dmodel.model"),
    ],
    "CSV": [
        b"name,year\nAnne,1901\nBen,1902\n",
        b'\xef\xbb\xbfa;b\r\n"x;y";2\r\n',
        "Größe,Jahr\n1,2\n".encode("latin-1"),
    ],
    "TSV": [b"name\tyear\nAnne\t1901\n"],
    "TXT": [
        *(b"Dear all,\nthis is a letter.\n", "Grüße".encode(), "\ufeffWide".encode("utf-16-le"), b"a,b"),
        *(b"OTTO von Guericke\n", b"true story\n", b"typ1 and typ2\n", b"MZ is Mozambique\n"),
        *(b"[2026-11-29 10:00] begun\n[2026-11-29 10:01] ended\n", b"[10:00:01] begun\n", b"[29, November] begun\n"),
        *(b"[1] A footnote\n[2] Another\n", b"[1]\nA footnote\n", b"[ ] A task\n", b"[[A link]]\n", b"[-] none\n"),
    ],
    "HTML": [b"<!DOCTYPE html><title>x</title>", b'\n<?xml version="1.0"?>\n<!DOCTYPE html PUBLIC "x">'],
    "XML": [b'<?xml version="1.0"?><mets/>'],
    "JSON": [
        *(b'{"a": 1}', b"{}", b"[1, 2]", b"[1.5e3,\n-2]", b"[-1 , null]", b"[1]\n", b"[]", b"[ ]\n", b'["a"]'),
        *(b'[\n  {"a": 1}\n]', b"[[1, 2], [3, 4]]", b"[[], [1]]", b"[[1], [2]]", b"[[[0.5, 1]]]"),
    ],
    "MIDI": [b"MThd\0\0\0\6"],
    "JXL": [b"\xff\x0a\xfa"],
    "EPUB": [zipped("META-INF/x.xml", first="mimetype", stored=b"application/epub+zip")],
}


@pytest.mark.parametrize("name", sorted(FILES.keys() - {"EPUB"}))
def test_the_name_of_a_type_is_that_of_what_is_in_the_file(name: str) -> None:
    assert [file_types.name_of(io.BytesIO(data)) for data in FILES[name]] == [name] * len(FILES[name])


def test_a_file_of_any_bytes_has_a_name() -> None:
    chance = random.Random(22)
    whole = [data for files in FILES.values() for data in files]
    for _ in range(300):
        data = bytearray(chance.choice(whole)[: chance.randrange(1, 3000)] or b"a")
        for _ in range(chance.randrange(8)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        assert file_types.NAME.fullmatch(file_types.name_of(io.BytesIO(data)))


@pytest.mark.parametrize(
    "mark", ["[Content_Types].xml" * 3000, '<?xml version="1.0"?>' + "<!--" * 15_000, "v 1 1 " * 10_000]
)
def test_a_file_that_is_written_for_it_takes_no_time(mark: str) -> None:
    """It would hang for minutes if a pattern went back and forth."""
    for text in (mark, "#" * 60_000, "#\n" * 30_000, "o \n" * 20_000, "{" * 60_000, '"' * 60_000, "<a " * 20_000):
        file_types.name_of(io.BytesIO(text.encode()))


@pytest.mark.parametrize(
    "data",
    [
        *(b"From " + b"@" * 65_000, b"From " + b"a" * 65_000, b"From " + b"a@" * 32_000),
        *(b"[" * 65_000, b"[ " * 32_000, b"[" + b" " * 65_000, b"[" + b"1" * 65_000, b"[1" + b" " * 65_000),
        *(b"[1." + b"1" * 65_000, b"[1]" + b" " * 65_000 + b"x", b"v 1 1 1" + b"\n" * 65_000 + b"v"),
        *(b"v" + b" 1" * 32_000, b"v " + b"1" * 65_000, b"solid a\n" + b" " * 65_000),
        *(b"<?xml ?>" + b"<!---->" * 9_000, b"<?xml ?>" + b" " * 65_000, b"<?xml ?><!--" + b"--> " * 16_000),
    ],
    ids=lambda data: str(data[:12]),
)
def test_a_file_that_makes_a_pattern_go_back_costs_little(data: bytes) -> None:
    begun = time.thread_time()
    file_types.name_of(io.BytesIO(data))

    assert time.thread_time() - begun < 1


def test_directory_that_is_far_behind_the_end_of_the_file_is_not_looked_for() -> None:
    class File(io.BytesIO):
        """Of a file system that has no such place."""

        def seek(self, place: int, whence: int = io.SEEK_SET, /) -> int:
            if place > 10_000:
                raise OSError(errno.EINVAL, os.strerror(errno.EINVAL))
            return super().seek(place, whence)

    data = bytearray(ole("WordDocument"))
    struct.pack_into("<I", data, 48, 0xFFFF_FFF0)
    assert file_types.name_of(File(data)) == "FILE"


def test_long_names_in_an_archive_take_no_memory() -> None:
    """Each of 65,535 bytes, and 30 bytes after the beginning of the one before."""
    data = (b"PK\3\4" + bytes(22) + b"\xff" * 4) * 4_400
    tracemalloc.start()
    try:
        assert file_types.name_of(io.BytesIO(data)) == "ZIP"
        assert tracemalloc.get_traced_memory()[1] < 20_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("side", [50, 500])
def test_an_icon_is_drawn_at_its_size_and_its_name_can_be_told(side: int) -> None:
    drawn = {name: icons.drawn(name, (side, side)) for name in ("DOCX", "ZIP", "CSV", "FONT", "3D")}

    for image in drawn.values():
        histogram = image.histogram()
        # Ink, paper and background are pure over most of it: edges are sharp.
        assert sum(histogram[grey] for grey in (icons.INK, icons.PAPER, icons.BACKGROUND)) > 0.7 * side * side
        assert image.getpixel((1, 1)) == icons.BACKGROUND
        # Light letters in the band.
        band = image.crop((side // 8, side // 2, side - side // 8, side * 8 // 10)).point(lambda grey: grey > 0xC0)
        assert 0.04 < band.histogram()[1] / band.width / band.height < 0.3
    images = list(drawn.values())
    assert all(PIL.ImageChops.difference(images[0], other).getbbox() for other in images[1:])


@pytest.fixture(scope="module")
def server(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    options = ("--icons", "--kinds=svg,epub,video", "--presets=card=crop/40x30", "--webp", "--truncated")
    # On a busy machine.
    patience = ("--queue_timeout=300", "--render_timeout=300", "--timeout=300")
    with thumbnailer(tmp_path_factory.mktemp("icons"), s3_server, *options, *patience) as running:
        yield running


def drawn_icons(server: Thumbnailer) -> float:
    start = 'md5s3stash_thumbnailer_kinds_drawn_total{kind="icon"} '
    lines = server.get("/metrics").body.decode().splitlines()
    return next((float(line.removeprefix(start)) for line in lines if line.startswith(start)), 0.0)


@pytest.mark.parametrize(
    ("path", "size"),
    [
        ("/clip/50x50/{}", (50, 50)),
        ("/clip/500x300/{}", (500, 300)),
        ("/crop/60x20/{}?pos=face", (60, 20)),
        ("/fill/60x20/{}?bg=ff0000", (60, 20)),
        ("/scale/0x40/{}", (40, 40)),
        ("/adapt/30x0/{}?rect=5,5,9000,9000&op=region,resize", (30, 30)),
        ("/p/card/{}", (40, 30)),
    ],
)
def test_an_icon_fills_the_size_that_is_asked_for_and_may_be_kept_for_minutes(
    server: Thumbnailer, put: PUT, path: str, size: tuple[int, int]
) -> None:
    path, before = path.format(put(FILES["DOCX"][0])), drawn_icons(server)
    answer = server.get(path)

    assert (answer.status, answer.headers["Content-Type"], answer.image.size) == (200, "image/png", size)
    assert (answer.headers["X-Icon"], answer.headers["Cache-Control"]) == ("DOCX", MINUTES)
    assert answer.headers["Last-Modified"] is None
    assert drawn_icons(server) == before + 1
    head = server.request(path, "HEAD")
    names = ("Content-Length", "Content-Type", "ETag", "X-Icon", "Cache-Control")
    assert [head.headers[name] for name in names] == [answer.headers[name] for name in names]
    again = server.get(path, If_None_Match=answer.headers["ETag"])
    assert (again.status, again.headers["ETag"], again.headers["Cache-Control"]) == (
        304,
        answer.headers["ETag"],
        MINUTES,
    )


def test_an_icon_has_the_format_that_is_asked_for(server: Thumbnailer, put: PUT) -> None:
    md5 = put(FILES["CSV"][0])

    assert server.get(f"/clip/50x50/{md5}?fmt=jpg&q=50").headers["Content-Type"] == "image/jpeg"
    assert server.get(f"/clip/50x50/{md5}", Accept="image/webp").headers["Content-Type"] == "image/webp"


def test_a_kind_that_is_off_and_one_that_shows_nothing_get_an_icon(server: Thumbnailer, put: PUT) -> None:
    names = {
        name: server.get(f"/clip/50x50/{put(data)}").headers["X-Icon"]
        for name, data in {
            "PDF": kind_files.pdf(),
            "EPUB": kind_files.epub(None),
            "PSD": kind_files.psd(PIL.Image.new("RGB", (9, 9))),
        }.items()
    }

    assert names == {name: name for name in names}


def test_damaged_pictures_and_what_is_not_stashed_get_no_icon(server: Thumbnailer, put: PUT) -> None:
    encoded = {name: picture(image_format=name) for name in ("JPEG", "PNG", "GIF", "WEBP", "BMP", "TIFF", "JPEG2000")}
    damaged = [data[:40] for data in encoded.values()]
    damaged += [bytes([data[0] ^ 1]) + data[1:] for name, data in encoded.items() if name in ("JPEG", "PNG", "WEBP")]
    damaged.append(kind_files.svg()[:-10])

    answers = [server.get(f"/clip/50x50/{put(data)}") for data in damaged]

    assert {(answer.status, answer.headers["X-Icon"]) for answer in answers} == {(415, None)}
    assert server.get(f"/clip/50x50/{'0' * 32}").status == 404


@pytest.mark.parametrize(
    "path", ["/clip/50x50/{}?op=noop", "/iiif/3/{}/info.json", "/iiif/3/{}/full/50,/0/default.jpg"]
)
def test_the_file_itself_and_iiif_have_no_icon(server: Thumbnailer, put: PUT, path: str) -> None:
    """A manifest would show an icon in the place of a work."""
    assert server.get(path.format(put(FILES["ZIP"][0]))).status == 415


@pytest.mark.parametrize(("part", "status"), [("page=2", 404), ("t=1", 404)])
def test_a_part_that_a_file_has_not_is_no_icon(server: Thumbnailer, put: PUT, part: str, status: int) -> None:
    assert server.get(f"/clip/50x50/{put(FILES['ZIP'][0])}?{part}").status == status


def test_without_the_setting_there_are_no_icons() -> None:
    request = ThumbnailRequest("clip", 50, 50, "0" * 32)
    with pytest.raises(NotAnImage, match="File is not an image of a kind that is shown"):
        render(io.BytesIO(FILES["ZIP"][0]), request, RenderLimits())
    assert render(io.BytesIO(FILES["ZIP"][0]), request, RenderLimits(icons=True)).icon == "ZIP"
