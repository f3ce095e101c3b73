"""Damaged and hostile files of the kinds beside pictures: each is shown or refused, and the server lives on."""

from __future__ import annotations

import gzip
import random
import time
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from tests.thumbnailer import corpus, kind_files
from tests.thumbnailer.conftest import Thumbnailer, thumbnailer

PUT = Callable[[bytes], str]
# 300 of each were tried by hand.
MUTATIONS = 8
SHOWN_OR_REFUSED = {200, 404, 415, 422}


@pytest.fixture(scope="module")
def server(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    # They end where their memory does: on a busy machine a short time would end others too.
    limits = ("--render_timeout=100", "--queue_timeout=100", f"--worker_memory={256 * 1024 * 1024}")
    with thumbnailer(tmp_path_factory.mktemp("hostile"), s3_server, *limits) as running:
        yield running


@pytest.mark.parametrize("kind", ["epub", "heic", "pdf", "psd", "svg"])
def test_mutated_file_is_shown_or_refused(kind: str, server: Thumbnailer, put: PUT, tmp_path: Path) -> None:
    dice = random.Random(kind)
    original = _file(kind, tmp_path)
    for _ in range(MUTATIONS):
        answer = server.get(f"/clip/30x30/{put(_mutated(original, dice))}")
        assert answer.status in SHOWN_OR_REFUSED, answer.body


def _file(kind: str, directory: Path) -> bytes:
    card = corpus.card((90, 60))
    if kind == "heic":
        return kind_files.heic(card, directory)
    files = {
        "epub": kind_files.epub(corpus.encoded(card, "JPEG")),
        "pdf": kind_files.pdf(),
        "psd": kind_files.psd(card),
    }
    return files.get(kind) or kind_files.svg()


def _mutated(original: bytes, dice: random.Random) -> bytes:
    """With other bytes, with bytes taken out, or with bytes repeated. Its beginning stays, so that it is recognised."""
    data, kept = bytearray(original), 60
    for _ in range(dice.choice((1, 2, 8, 64))):
        place, how = dice.randrange(kept, len(data)), dice.randrange(10)
        if how == 0:
            del data[place : place + dice.randrange(1, 50)]
        elif how == 1:
            data[place:place] = data[place - kept : place]
        elif how == 2:
            data[place : place + 4] = dice.choice((b"\xff\xff\xff\xff", b"\x7f\xff\xff\xff", b"\0\0\0\0", b"9999"))
        else:
            data[place] = dice.choice((0, 255, dice.randrange(256), data[place] ^ 1 << dice.randrange(8)))
        if len(data) <= kept + 1:
            break
    return bytes(data)


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


BOMBS = (
    *(_drawing_of_uses, _drawing_of_entities, _drawing_of_blanks),
    *(_page_of_forms, _page_of_zeros, _tree_of_pages),
)


@pytest.mark.parametrize("bomb", BOMBS, ids=lambda bomb: bomb.__name__)
def test_bomb_is_shown_or_refused_and_the_server_answers(
    bomb: Callable[[], bytes], server: Thumbnailer, put: PUT
) -> None:
    assert server.get(f"/clip/30x30/{put(bomb())}").status in SHOWN_OR_REFUSED

    begun = time.monotonic()
    assert server.get("/healthz").status == 200
    assert time.monotonic() - begun < 5
    assert server.get(f"/clip/30x30/{put(kind_files.svg())}").status == 200
