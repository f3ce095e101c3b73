"""Renders the example pictures of docs/thumbnails.md from the samples, with the thumbnailer's own code.

No test compares them: another release of Pillow may write other bytes. `tools/manual --pictures` regenerates them.
"""

from __future__ import annotations

import re
from io import BytesIO
from pathlib import Path
from urllib.parse import parse_qsl, urlsplit

from md5s3stash.digest import digest_of
from md5s3stash_thumbnailer.render.pipeline import RenderLimits, render
from md5s3stash_thumbnailer.request import Bounds, parse_request

REPOSITORY = Path(__file__).resolve().parents[1]
PAGE = REPOSITORY / "docs" / "thumbnails.md"
PICTURES = REPOSITORY / "docs" / "pictures"

# Matches a row of the page: `| ![...](pictures/clip.jpg) | `/clip/160x160/0123...` |`.
_EXAMPLE = re.compile(r"\]\(pictures/([\w.-]+)\) \| `(/\w+/\d+x\d+/([0-9a-f]{32})[^`]*)`")


def examples() -> list[tuple[str, str, str]]:
    """The file of each picture on the page, the URL beside it, and the md5 of the original."""
    return [(found[1], found[2], found[3]) for found in _EXAMPLE.finditer(PAGE.read_text(encoding="utf-8"))]


def draw(url: str, original: bytes) -> bytes:
    """The server's answer to the URL."""
    parts = urlsplit(url)
    mode, size, md5 = parts.path.strip("/").split("/")
    width, _, height = size.partition("x")
    # Keeps the files small; the documentation needs no higher quality.
    defaults = {"quality": "80"}
    request = parse_request(mode, width, height, md5, dict(parse_qsl(parts.query)), defaults, Bounds())
    return render(BytesIO(original), request, RenderLimits()).body


def main() -> None:
    samples = {digest_of(path.read_bytes()).md5: path for path in (REPOSITORY / "samples").iterdir()}
    PICTURES.mkdir(exist_ok=True)
    for name, url, md5 in examples():
        (PICTURES / name).write_bytes(draw(url, samples[md5].read_bytes()))
        print(f"wrote docs/pictures/{name}")


if __name__ == "__main__":
    main()
