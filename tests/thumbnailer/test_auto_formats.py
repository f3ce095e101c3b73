"""Thumbnails in the formats that a client accepts: which one, its pixels, the headers for caches, and its cost."""

from __future__ import annotations

import hashlib
import http.client
import io
import random
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import PIL.Image
import PIL.ImageDraw
import pytest

from md5s3stash_thumbnailer.render import output
from md5s3stash_thumbnailer.render.encoding import auto_formats
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, Thumbnail, render
from md5s3stash_thumbnailer.request import (
    AUTO_FORMATS,
    RENDERING_REVISION,
    USUAL,
    Bounds,
    ThumbnailRequest,
    parse_request,
)
from md5s3stash_thumbnailer.server.accept import accepted_formats
from tests.support.nginx import nginx_before
from tests.support.servers import REPOSITORY
from tests.thumbnailer.conftest import Answer, Thumbnailer, thumbnailer
from tests.thumbnailer.ssim import ssim

Put = Callable[[bytes], str]
MD5 = hashlib.md5(b"").hexdigest()
LIMITS = RenderLimits()

# --- the header -------------------------------------------------------------------------------------------------------

BOTH, AVIF, WEBP, NONE = ("avif", "webp", USUAL), ("avif", USUAL), ("webp", USUAL), ()
ACCEPTED = {
    "": NONE,
    "*/*": NONE,
    "image/*": NONE,
    "image/*,*/*;q=0.8": NONE,
    "image/jpeg": NONE,
    "text/html": NONE,
    # Chrome, Firefox and Safari, of pictures and of pages.
    "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8": BOTH,
    "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5": BOTH,
    "image/avif,image/webp,*/*": BOTH,
    "image/webp,image/avif,image/jxl,image/heic,image/heic-sequence,video/*;q=0.8,image/png,image/svg+xml,"
    "image/*;q=0.8,*/*;q=0.5": BOTH,
    "text/html,application/xhtml+xml,application/xml;q=0.9,image/avif,image/webp,*/*;q=0.8": BOTH,
    "image/webp,*/*;q=0.8": WEBP,
    "IMAGE/AVIF , */* ; Q=0.1": AVIF,
    # Weights.
    "image/avif;q=0,image/webp,*/*": WEBP,
    "image/avif;q=0.0,image/webp;q=0.000,*/*": NONE,
    "image/avif;q=.0,*/*": NONE,
    "image/avif;q=0.5,image/webp;q=0.9,*/*;q=0.1": WEBP,
    "image/avif;q=0.5,image/webp;q=0.5,*/*;q=0.5": BOTH,
    "image/webp;q=0.5,*/*": NONE,
    "image/webp;q=0.5,image/jpeg": NONE,
    "image/webp;q=0.5,image/png": NONE,
    "image/webp;q=0.5,image/*;q=0.4,*/*": WEBP,
    "image/webp;q=.9,*/*;q=.2": WEBP,
    "image/webp;q=0.9999,*/*;q=0.2": WEBP,
    "image/webp;v=1;q=0.9,*/*;q=0.2": WEBP,
    "image/webp;q=1.000 ,*/*;q=1.0": WEBP,
    # What is sent without negotiation is not accepted.
    "image/avif": ("avif",),
    "image/webp,image/avif": ("avif", "webp"),
    "image/webp,text/html": ("webp",),
    "image/webp,image/*;q=0": ("webp",),
    "image/webp,image/jpeg;q=0,image/png;q=0,*/*": ("webp",),
    # Weights that are wrong, and other things that no browser sends.
    "image/webp;q=,*/*": NONE,
    "image/webp;q=nan,*/*": NONE,
    "image/webp;q=-1,*/*": NONE,
    "image/webp;q=1e400,*/*": NONE,
    "image/webp;q=7,*/*": WEBP,
    "image/webp;q=0;q=1,*/*": WEBP,
    "image/webp,image/webp;q=0,*/*": NONE,
    'text/html;a="image/avif,image/webp",*/*': NONE,
    'text/html;a="\\",image/webp,*/*': WEBP,
    "image/webp image/avif": NONE,
    "image/webpx,ximage/avif,image/,/webp,;,,": NONE,
    "image/avif,image/webp,*/*" + " " * 1000: NONE,
}


@pytest.mark.parametrize(("accept", "formats"), ACCEPTED.items(), ids=lambda value: str(value)[:60])
def test_a_header_names_formats(accept: str, formats: tuple[str, ...]) -> None:
    assert accepted_formats(accept, AUTO_FORMATS) == formats
    assert accepted_formats(accept, ()) == ()
    if formats not in (BOTH, AVIF, WEBP):
        return
    # A format that the server does not offer is as if it were not named, but its weight does not count either.
    offered = accepted_formats(accept, ("webp",))
    assert offered == (WEBP if "webp" in formats else NONE)


def odd_headers(count: int) -> Iterator[str]:
    numbers = random.Random(60)
    words = [*("image/avif", "image/webp", "image/jpeg", "image/*", "*/*", "text/html", "image/webp;q=0.", "image/jxl")]
    words += [*(";q=0", ";q=1", ";q=0.5", ";q=", ",", ",,", ";", '"', '\\"', " ", "=", "\t", "q", "\xe9", "0", ".")]
    for number in range(count):
        yield ",".join(numbers.choice(words) + numbers.choice(words) for _ in range(1 + number % 7)) + f";n={number}"


def test_any_header_is_one_of_a_few() -> None:
    found = {accepted_formats(header, AUTO_FORMATS) for header in odd_headers(2000)}

    assert found == {NONE, AVIF, WEBP, BOTH, ("avif",), ("webp",), ("avif", "webp")}


# --- the request ------------------------------------------------------------------------------------------------------


def asked(**query: str) -> ThumbnailRequest:
    return parse_request("clip", "100", "50", MD5, query, {}, Bounds())


def test_what_is_not_negotiated_keeps_its_etag() -> None:
    identity = repr((RENDERING_REVISION, "Pillow", "clip", 100, 50, MD5, (("quality", "80"),)))
    plain = asked(q="80")

    assert plain.etag("Pillow") == f'"{hashlib.sha256(identity.encode()).hexdigest()[:32]}"'
    assert len({replace(plain, formats=formats).etag("Pillow") for formats in (NONE, AVIF, WEBP, BOTH)}) == 4


def test_what_names_a_format_or_is_sent_as_it_is_cannot_be_negotiated() -> None:
    assert asked().is_negotiable
    assert asked(q="70", exif="1").is_negotiable
    assert not any(asked(**query).is_negotiable for query in ({"fmt": "jpg"}, {"op": "noop"}, {"q": "keep"}))


# --- the pictures -----------------------------------------------------------------------------------------------------


def photo(mode: str = "RGB") -> PIL.Image.Image:
    """Smooth and rough parts, with edges and colours."""
    size = (420, 300)
    noise = PIL.Image.effect_noise((105, 75), 40).resize(size, PIL.Image.Resampling.BICUBIC)
    ramp = PIL.Image.linear_gradient("L").resize(size)
    image = PIL.Image.merge("RGB", (PIL.Image.blend(noise, ramp, 0.5), ramp, noise))
    draw = PIL.ImageDraw.Draw(image)
    draw.ellipse((40, 40, 220, 200), fill=(180, 40, 30))
    draw.rectangle((250, 90, 400, 280), fill=(30, 60, 160))
    return image.convert(mode)


def with_hole() -> PIL.Image.Image:
    image = photo("RGBA")
    alpha = PIL.Image.new("L", image.size, 255)
    PIL.ImageDraw.Draw(alpha).ellipse((100, 100, 300, 250), fill=0)
    image.putalpha(alpha)
    return image


def drawing() -> PIL.Image.Image:
    """Flat colours, as in a chart, in the size in which it is shown."""
    image = PIL.Image.new("RGB", (150, 100), "white")
    draw = PIL.ImageDraw.Draw(image)
    for number in range(12):
        draw.rectangle((5 + 12 * number, 95 - 7 * number, 13 + 12 * number, 95), fill=("red", "navy")[number % 2])
    return image


def saved(image: PIL.Image.Image, image_format: str, **options: Any) -> bytes:
    out = io.BytesIO()
    image.save(out, image_format, **options)
    return out.getvalue()


def shown(data: bytes, formats: tuple[str, ...] = (), **options: str) -> Thumbnail:
    request = ThumbnailRequest("clip", 160, 160, MD5, tuple(sorted(options.items())), formats=formats)
    return render(io.BytesIO(data), request, LIMITS)


def opened(thumbnail: Thumbnail) -> PIL.Image.Image:
    return PIL.Image.open(io.BytesIO(thumbnail.body))


PHOTOS = {
    "JPEG": saved(photo(), "JPEG", quality=95),
    "JPEG 4:4:4": saved(photo(), "JPEG", quality=95, subsampling=0),
    "grey JPEG": saved(photo("L"), "JPEG", quality=95),
    "CMYK JPEG": saved(photo("CMYK"), "JPEG", quality=95),
    "TIFF": saved(photo(), "TIFF"),
    "TIFF with alpha": saved(with_hole(), "TIFF"),
    "PNG": saved(photo(), "PNG"),
    "WebP": saved(photo(), "WEBP", quality=95),
}


@pytest.mark.parametrize("name", PHOTOS)
def test_every_format_shows_the_same_as_well_as_the_usual_one(name: str) -> None:
    usual = shown(PHOTOS[name])
    wanted = opened(shown(PHOTOS[name], format="png")).convert("RGBA")
    white = PIL.Image.new("RGBA", wanted.size, "white")
    white.alpha_composite(wanted)
    # A JPEG with the colours that the usual one has.
    as_jpeg = ssim(opened(shown(PHOTOS[name], format="jpg")), white)
    for formats in (("avif",), ("webp",), BOTH):
        found = shown(PHOTOS[name], formats)

        assert opened(found).size == opened(usual).size
        assert opened(found).convert("RGBA").getchannel("A").getextrema() == (255, 255)
        assert ssim(opened(found), white) >= min(as_jpeg, 0.99) - 0.01, formats
        assert found.mime_type == f"image/{formats[0]}" or formats == BOTH or name == "WebP"
        if formats == BOTH:
            assert len(found.body) <= len(usual.body)
            assert found.saved_bytes == len(usual.body) - len(found.body)


@pytest.mark.parametrize("formats", [("avif",), ("webp",), BOTH])
@pytest.mark.parametrize("image_format", ["PNG", "GIF", "WEBP"])
def test_transparency_is_kept(image_format: str, formats: tuple[str, ...]) -> None:
    data = saved(with_hole(), image_format)
    found, usual = (opened(shown(data, each)).convert("RGBA") for each in (formats, ()))

    alphas = [each.getchannel("A") for each in (found, usual)]
    assert [alpha.getpixel((80, 70)) for alpha in alphas] == [0, 0]
    assert [alpha.getpixel((5, 5)) for alpha in alphas] == [255, 255]
    if image_format != "GIF":
        assert ssim(*alphas) > 0.97


def test_a_drawing_of_flat_colours_stays_exact_in_webp() -> None:
    data = saved(drawing(), "PNG")
    found, usual = shown(data, WEBP), shown(data)

    assert (found.mime_type, usual.mime_type) == ("image/webp", "image/png")
    assert opened(found).convert("RGB").tobytes() == opened(usual).convert("RGB").tobytes()
    assert len(found.body) < len(usual.body)


def test_the_smallest_is_sent_and_no_format_that_is_larger_than_the_usual_one() -> None:
    data = PHOTOS["JPEG"]
    alone = {each: shown(data, (each,)) for each in AUTO_FORMATS}
    best = shown(data, BOTH)
    assert len(best.body) == min(len(each.body) for each in alone.values())
    assert [name for name, _ in best.encoder_costs] == ["JPEG", "AVIF", "WEBP"]
    assert all(cost > 0 for _, cost in best.encoder_costs)

    # The box of an AVIF alone is larger than a PNG of one pixel.
    request = ThumbnailRequest("clip", 1, 1, MD5, formats=AVIF)
    assert render(io.BytesIO(saved(drawing(), "PNG")), request, LIMITS).mime_type == "image/png"


def test_a_lower_quality_asked_for_is_one_in_every_format() -> None:
    for formats in (("avif",), ("webp",)):
        sizes = [len(shown(PHOTOS["JPEG"], formats, quality=str(quality)).body) for quality in (20, 60, 90, 100)]
        assert sizes == sorted(set(sizes))


@pytest.mark.parametrize("image_format", ["AVIF", "WEBP"])
def test_qualities_rise_from_the_lowest_to_the_highest(image_format: str) -> None:
    qualities = [auto_formats.equal_quality(image_format, quality) for quality in range(101)]

    assert qualities == sorted(qualities)
    assert 0 <= qualities[0] <= qualities[100] <= 100


def test_exif_is_kept_in_every_format_if_it_is_asked_for() -> None:
    exif = PIL.Image.Exif()
    exif[0x010E], exif[0x0112] = "a title", 6
    data = saved(photo(), "JPEG", exif=exif.tobytes())
    for formats in (("avif",), ("webp",)):
        found = opened(shown(data, formats, preserve_exif="1"))
        assert (found.getexif()[0x010E], found.getexif().get(0x0112, 1)) == ("a title", 1)
        assert found.height > found.width
        assert not opened(shown(data, formats)).getexif()


def test_what_a_format_cannot_hold_is_sent_as_usual(monkeypatch: pytest.MonkeyPatch) -> None:
    wide = ThumbnailRequest("scale", 17_000, 20, MD5, formats=("webp",))
    assert render(io.BytesIO(PHOTOS["JPEG"]), wide, LIMITS).mime_type == "image/jpeg"

    monkeypatch.setattr(auto_formats, "MOST_PIXELS", 1000)
    assert shown(PHOTOS["JPEG"], BOTH).mime_type == "image/jpeg"


def test_without_the_memory_to_compare_the_usual_format_is_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> float:
        raise MemoryError

    monkeypatch.setattr(auto_formats, "ssim", fail)
    assert shown(PHOTOS["JPEG"], BOTH).mime_type == "image/jpeg"


def test_what_has_only_the_usual_format_is_not_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    compared = []

    def comparing(*pictures: PIL.Image.Image) -> float:
        compared.append(pictures)
        return 1.0

    monkeypatch.setattr(auto_formats, "ssim", comparing)
    shown(PHOTOS["WebP"], WEBP)
    monkeypatch.setattr(auto_formats, "MOST_PIXELS", 1000)
    shown(PHOTOS["JPEG"], BOTH)
    assert compared == []


@pytest.mark.parametrize(("most_raised", "tries"), [(1024 * 1024, 3), (1000, 1)])
def test_the_quality_of_a_large_thumbnail_is_not_raised(
    most_raised: int, tries: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The usual one is like the drawing, and no other is.
    similarities, encoded, encode = iter([1.0]), Counter[str](), output.encode

    def counting(image: PIL.Image.Image, original: Any, options: Any, image_format: str, *more: Any) -> bytes:
        encoded[image_format] += 1
        return encode(image, original, options, image_format, *more)

    monkeypatch.setattr(auto_formats, "ssim", lambda *_: next(similarities, 0.0))
    monkeypatch.setattr(output, "encode", counting)
    monkeypatch.setattr(auto_formats, "MOST_RAISED_PIXELS", most_raised)
    assert shown(PHOTOS["JPEG"], ("avif",)).mime_type == "image/avif"
    assert encoded == {"JPEG": 1, "AVIF": tries}


# --- the server -------------------------------------------------------------------------------------------------------

CHROME = "image/avif,image/webp,image/apng,image/svg+xml,image/*,*/*;q=0.8"


@pytest.fixture(scope="module")
def best(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    # The first request waits for a worker to start, which takes long on a busy machine.
    patient = ("--queue_timeout=100", "--render_timeout=100")
    options = ("--auto_formats=best", "--presets=card=clip/60x60,sheet=clip/60x60?fmt=png", *patient)
    with thumbnailer(tmp_path_factory.mktemp("best"), s3_server, *options) as server:
        yield server


@pytest.fixture(scope="module")
def photograph(put: Put) -> str:
    """The md5 of one."""
    return put(PHOTOS["JPEG"])


def test_the_answer_is_in_a_format_that_the_client_accepts(best: Thumbnailer, photograph: str) -> None:
    types = {"image/avif,*/*;q=0.5": "image/avif", "image/webp,*/*;q=0.5": "image/webp", "*/*": "image/jpeg"}
    for path in (f"/clip/100x100/{photograph}", f"/p/card/{photograph}"):
        answers = {accept: best.get(path, Accept=accept) for accept in types}
        assert {accept: answer.headers["Content-Type"] for accept, answer in answers.items()} == types
        assert len({answer.headers["ETag"] for answer in answers.values()}) == 3
        smallest = best.get(path, Accept=CHROME)
        assert len(smallest.body) == min(len(answer.body) for answer in answers.values())
    for path in (f"/clip/100x100/{photograph}?fmt=png", f"/p/sheet/{photograph}"):
        assert best.get(path, Accept=CHROME).headers["Content-Type"] == "image/png"


def test_caches_are_told_that_every_answer_depends_on_the_header(best: Thumbnailer, put: Put, photograph: str) -> None:
    path = f"/clip/100x100/{photograph}"
    got = best.get(path, Accept=CHROME)
    head = best.request(path, "HEAD", {"Accept": CHROME})
    same = best.get(path, Accept=CHROME, If_None_Match=got.headers["ETag"])
    other = best.get(path, Accept="*/*", If_None_Match=got.headers["ETag"])
    answers: list[tuple[int, Answer]] = [
        (200, got),
        (200, head),
        (304, same),
        (200, other),
        (304, best.get(path, Accept=CHROME, If_None_Match="*")),
        (200, best.get(path)),
        (200, best.get(f"{path}?fmt=png", Accept=CHROME)),
        (200, best.get(f"{path}?op=noop", Accept=CHROME)),
        (400, best.get(f"/clip/0x0/{photograph}", Accept=CHROME)),
        (400, best.get(f"{path}?q=101", Accept=CHROME)),
        (404, best.get(f"/clip/9x9/{'f' * 32}", Accept=CHROME)),
        (404, best.get(f"/p/none/{photograph}", Accept=CHROME)),
        (405, best.request(path, "POST", {"Accept": CHROME})),
        (415, best.get(f"/clip/9x9/{put(b'no picture')}", Accept=CHROME)),
    ]

    assert [(answer.status, answer.headers["Vary"]) for _, answer in answers] == [
        (status, "Accept") for status, _ in answers
    ]
    for name in ("Content-Type", "Content-Length", "ETag", "Cache-Control"):
        assert head.headers[name] == got.headers[name]
    assert same.headers["ETag"] == got.headers["ETag"] != other.headers["ETag"]


def test_without_the_setting_no_answer_depends_on_the_header(
    server: Thumbnailer, best: Thumbnailer, photograph: str
) -> None:
    path = f"/clip/100x100/{photograph}"
    plain, asked_for = server.get(path), server.get(path, Accept=CHROME)
    usual = best.get(path, Accept="image/*")

    assert (plain.body, plain.headers["ETag"], plain.headers["Vary"]) == (
        *(asked_for.body, asked_for.headers["ETag"]),
        None,
    )
    assert (usual.body, usual.headers["ETag"]) == (plain.body, plain.headers["ETag"])


def test_odd_headers_make_no_cache_keep_more(best: Thumbnailer, photograph: str) -> None:
    path = f"/crop/20x20/{photograph}"
    one_each = ["*/*", "image/avif,*/*", "image/webp,*/*", CHROME, "image/avif", "image/webp", "image/avif,image/webp"]
    known = {best.get(path, Accept=accept).headers["ETag"] for accept in one_each}
    cache = best.log_path.parent / f"cache-{best.port}"
    files = sorted(cache.rglob("*"))
    found = set()
    connection = http.client.HTTPConnection("127.0.0.1", best.port, timeout=60)
    for accept in odd_headers(1000):
        # All that a cache may have: whatever is not among it would be drawn, with another tag.
        headers: dict[str, str | bytes] = {"Accept": accept.encode("latin-1"), "If-None-Match": ", ".join(known)}
        connection.request("GET", path, headers=headers)
        with connection.getresponse() as answer:
            answer.read()
            found.add((answer.status, answer.headers["ETag"]))
    connection.close()

    assert len(known) == len(one_each)
    assert found <= {(304, etag) for etag in known}
    assert sorted(cache.rglob("*")) == files


def test_metrics_say_what_the_formats_cost_and_save(best: Thumbnailer, photograph: str) -> None:
    def values() -> dict[str, float]:
        text = best.get("/metrics").body.decode()
        return {name: float(value) for name, value in re.findall(r"^\S+?(auto_format\S+_total\S*) (\S+)$", text, re.M)}

    path = f"/clip/90x90/{photograph}"
    usual, before = best.get(path), values()
    sent = best.get(path, Accept="image/webp,*/*")
    grown = {name: value - before.get(name, 0) for name, value in values().items()}

    webp, jpeg = '{type="image/webp"}', '{type="image/jpeg"}'
    assert grown[f"auto_format_answers_total{webp}"] == 1
    assert grown[f"auto_format_saved_bytes_total{webp}"] == len(usual.body) - len(sent.body) > 0
    assert grown[f"auto_format_cpu_seconds_total{webp}"] > 0
    assert grown[f"auto_format_cpu_seconds_total{jpeg}"] > 0


NGINX = """
location /clip/ {{
    proxy_pass http://127.0.0.1:{port};
    proxy_cache pictures;
    add_header X-Cache $upstream_cache_status always;
    {documented}
}}
"""


def test_the_documented_nginx_keeps_one_picture_for_each_set_of_formats(
    best: Thumbnailer, photograph: str, tmp_path: Path
) -> None:
    page = (REPOSITORY / "docs" / "deploy.md").read_text().partition("### AVIF and WebP behind a cache")[2]
    maps, documented = re.findall(r"```text\n(.*?)```", page, re.S)
    location = NGINX.format(port=best.port, documented=documented)
    with nginx_before(best.port, tmp_path / "nginx", location, maps) as port:
        behind = Thumbnailer(port, best.process, best.log_path)
        answers = [
            behind.get(f"/clip/70x70/{photograph}", Accept=accept)
            for accept in (
                *("image/webp,*/*", "image/*,image/webp", "image/avif;q=0, image/webp;q=0.9", "IMAGE/WEBP"),
                *("*/*", "image/webp;q=0.0,*/*", "image/webp; q=0", "text/html", ""),
                *(CHROME, "image/webp,image/avif"),
            )
        ]

    assert [answer.headers["X-Cache"] for answer in answers] == [
        *("MISS", "HIT", "HIT", "HIT"),
        *("MISS", "HIT", "HIT", "HIT", "HIT"),
        *("MISS", "HIT"),
    ]
    assert [answer.headers["Content-Type"] for answer in answers[:9]] == ["image/webp"] * 4 + ["image/jpeg"] * 5
