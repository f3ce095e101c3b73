"""Hundreds of files that are not pictures, or hostile: each gets a status below 500, and affects no other request."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.support.digest_s3 import DigestS3
from tests.thumbnailer.conftest import TWO_WORKERS, Thumbnailer, picture, thumbnailer
from tests.thumbnailer.hostile_files import png_of_zeros
from tests.thumbnailer.load import health_watched
from tests.thumbnailer.test_faults import stash

Put = Callable[[bytes], str]

OBJECTS = 250
SEED = 20140501


def hostile_objects() -> list[bytes]:
    chance = random.Random(SEED)
    whole = [picture((64, 48), image_format) for image_format in ("JPEG", "PNG", "GIF", "TIFF", "WEBP")]
    plain = [
        b"",
        b"text, no picture",
        b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script></svg>',
        b"%PDF-1.7\n%%EOF",
        b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 10 10\n(/etc/passwd) (r) file\n",
        png_of_zeros(),
    ]
    while len(plain) < OBJECTS:
        data = bytearray(chance.choice(whole))
        if chance.random() < 0.4:
            del data[chance.randrange(1, len(data)) :]
        for _ in range(chance.randrange(1, 20)):
            data[chance.randrange(len(data))] = chance.randrange(256)
        plain.append(bytes(data))
    return plain


def test_hostile_objects_cost_an_answer_each_and_no_worker(tmp_path: Path) -> None:
    with DigestS3() as s3, thumbnailer(tmp_path, s3.endpoint, TWO_WORKERS) as server:
        good = stash(s3, picture())
        paths = [f"/crop/32x32/{stash(s3, data)}" for data in hostile_objects()]
        assert server.get(f"/clip/100x100/{good}").status == 200
        with health_watched(server), ThreadPoolExecutor(4) as threads:
            statuses = Counter(answer.status for answer in threads.map(server.get, paths))
        # Some mutations leave a valid picture.
        assert set(statuses) <= {200, 415, 422}, statuses
        assert statuses[415] > OBJECTS / 10
        assert "worker_replaced" not in server.log
        assert server.get(f"/clip/100x100/{good}").status == 200


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/", 404),
        ("/favicon.ico", 404),
        ("/clip/100x100", 404),
        ("/clip/100x100/%2e%2e%2f%2e%2e%2fetc%2fpasswd", 400),
        ("/clip/100x100/" + "a" * 4000, 400),
        ("/clip/100x100/" + "0" * 32 + "/more", 404),
        ("/clip/99999999999999999999x1/" + "0" * 32, 400),
        ("/clip/-1x1/" + "0" * 32, 400),
        ("/clip/1x1/" + "0" * 31 + "%00", 400),
        ("/clip/1x1/" + "0" * 32 + "?q=%ff%fe", 400),
        ("/clip/1x1/" + "0" * 32 + "?pos=nan,nan", 400),
        ("/clip/1x1/" + "0" * 32 + "?op=" + "rotate," * 2000, 400),
        ("/clip/1x1/" + "0" * 32 + "?url=http://169.254.169.254/&w=9999999", 404),
    ],
)
def test_hostile_path_is_refused_with_the_json_body(server: Thumbnailer, put: Put, path: str, status: int) -> None:
    put(b"so that there is a bucket")
    answer = server.get(path)
    assert (answer.status, answer.json["status_code"]) == (status, status), answer.body
    assert answer.headers["Cache-Control"] == "no-store"


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
def test_other_methods_are_405_with_the_json_body(server: Thumbnailer, method: str) -> None:
    for path in (f"/clip/1x1/{'0' * 32}", "/healthz"):
        answer = server.request(path, method)
        assert (answer.status, answer.json["status_code"], answer.headers["Allow"]) == (405, 405, "GET, HEAD")
