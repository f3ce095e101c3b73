"""Headers, content negotiation, the placeholder, metrics, and wrong options."""

from __future__ import annotations

import email.utils
import re
import socket
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from urllib.parse import quote

import pytest

from md5s3stash.version import running_version
from tests.support import servers
from tests.support.nginx import nginx_before
from tests.support.servers import REPOSITORY
from tests.thumbnailer.conftest import Thumbnailer, picture, thumbnailer
from tests.thumbnailer.test_server import refused_in_one_line, start

Put = Callable[[bytes], str]
UNKNOWN = "f" * 32


@pytest.fixture(scope="module")
def placeholder(put: Put) -> str:
    return put(picture((90, 90), "PNG"))


@pytest.fixture(scope="module")
def special(s3_server: str, placeholder: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    options = (f"--placeholder={placeholder.upper()}", "--webp=true", "--debug")
    with thumbnailer(tmp_path_factory.mktemp("special"), s3_server, *options) as server:
        yield server


def test_date_of_the_object_is_told_and_head_answers_as_get(server: Thumbnailer, put: Put) -> None:
    path = f"/clip/100x100/{put(picture())}"
    got, asked = server.get(path), server.request(path, "HEAD")
    assert email.utils.parsedate_to_datetime(got.headers["Last-Modified"]).year > 2020
    assert asked.body == b""
    for name in ("Last-Modified", "ETag", "Content-Length", "Content-Type", "Cache-Control"):
        assert asked.headers[name] == got.headers[name]


OF_PILBOX = {
    "w=30&h=20&mode=crop": ((30, 20), "JPEG"),
    "w=30&h=30": ((30, 15), "JPEG"),
    "w=50": ((50, 25), "JPEG"),
    "h=20&mode=clip": ((40, 20), "JPEG"),
    "h=20&w=20&fmt=png&mode=fill&bg=ff0000": ((20, 20), "PNG"),
}


def test_addresses_of_pilbox_are_answered_behind_the_documented_rewrite(
    server: Thumbnailer, put: Put, tmp_path: Path
) -> None:
    page = (REPOSITORY / "docs" / "coming-from.md").read_text()
    [shown] = re.findall(r"```text\n(location = / \{.*?^\})\n```", page, re.M | re.S)
    url = f"https://origin.example.org/originals/{put(picture((200, 100)))}"
    with nginx_before(server.port, tmp_path / "nginx", shown.replace(":8888;", f":{server.port};")) as port:
        behind = Thumbnailer(port, server.process, server.log_path)
        answers = {
            (query, at): behind.get(f"/?url={at}&{query}") for query in OF_PILBOX for at in (url, quote(url, safe=""))
        }
        missing = behind.get("/?url=https://origin.example.org/1.jpg&w=5&h=5")

    assert {asked: answer.status for asked, answer in answers.items()} == dict.fromkeys(answers, 200)
    for (query, _), answer in answers.items():
        assert (answer.image.size, answer.image.format) == OF_PILBOX[query], query
    assert missing.status == 404


def test_the_older_name_of_the_setting_for_webp_means_the_same(special: Thumbnailer, put: Put) -> None:
    path = f"/clip/100x100/{put(picture())}"
    webp, jpeg = special.get(path, Accept="image/avif,image/webp,*/*;q=0.8"), special.get(path, Accept="*/*")
    assert (webp.image.format, jpeg.image.format) == ("WEBP", "JPEG")
    assert webp.headers["Vary"] == jpeg.headers["Vary"] == "Accept"
    assert webp.headers["ETag"] != jpeg.headers["ETag"]
    assert special.get(path, Accept="image/webp;q=0").image.format == "JPEG"
    assert special.get(f"{path}?fmt=png", Accept="image/webp").image.format == "PNG"
    assert special.get(path, Accept="image/webp", If_None_Match=webp.headers["ETag"]).headers["Vary"] == "Accept"


def test_webp_is_off_unless_switched_on(server: Thumbnailer, put: Put) -> None:
    answer = server.get(f"/clip/100x100/{put(picture())}", Accept="image/webp")
    assert (answer.image.format, answer.headers["Vary"]) == ("JPEG", None)


@pytest.mark.parametrize("name", [UNKNOWN, "None", "null", "undefined", "nil"])
def test_placeholder_is_shown_for_an_unknown_digest_and_for_none(name: str, special: Thumbnailer) -> None:
    answer = special.get(f"/clip/30x30/{name}")
    assert (answer.status, answer.headers["Cache-Control"]) == (404, "public, max-age=60")
    assert (answer.image.size, answer.headers["ETag"]) == ((30, 30), None)


def test_placeholder_is_not_shown_for_what_is_wrong(special: Thumbnailer, server: Thumbnailer, put: Put) -> None:
    assert server.get("/clip/30x30/None").json["status_code"] == 400
    assert special.get("/clip/0x0/None").json["status_code"] == 400
    assert special.get(f"/clip/30x30/{UNKNOWN[:-1]}").json["status_code"] == 400
    assert special.get(f"/clip/30x30/{put(b'no picture')}").json["status_code"] == 415


def test_metrics_tell_what_happened_to_who_asks_from_this_box(server: Thumbnailer, put: Put) -> None:
    path = f"/clip/100x100/{put(picture())}"
    assert [server.get(path).status, server.get(path).status, server.get(f"/clip/1x1/{UNKNOWN}").status] == [
        200,
        200,
        404,
    ]
    text = server.get("/metrics").body.decode()
    values = {name: float(value) for name, value in re.findall(r"^(md5s3stash_thumbnailer_\S+) (\S+)$", text, re.M)}
    at_least = {
        'requests_total{status="200"}': 2,
        'requests_total{status="404"}': 1,
        "seconds_count": 3,
        'cache_lookups_total{result="hit"}': 1,
        'cache_lookups_total{result="miss"}': 1,
        "cache_bytes": 1,
        'workers_replaced_total{reason="timeout"}': 0,
        'waiting{stage="worker"}': 0,
        "workers_busy": 0,
    }
    assert {name: least for name, least in at_least.items() if values[f"md5s3stash_thumbnailer_{name}"] < least} == {}
    assert server.get("/metrics", X_Forwarded_For="192.0.2.1").status == 404


def test_request_whose_client_went_away_is_not_rendered(s3_server: str, put: Put, tmp_path: Path) -> None:
    md5 = put(picture((400, 300), "PNG"))
    with thumbnailer(tmp_path, s3_server, "--render_timeout=3") as server:
        assert server.get(f"/clip/10x10/{md5}").status == 200
        clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
        for client in clients:
            client.sendall(f"GET /scale/4000x4000/{md5}?opt=1 HTTP/1.1\r\nHost: x\r\n\r\n".encode())
        servers.wait_until(lambda: b'waiting{stage="worker"} 19.0' in server.get("/metrics").body, "in line")
        for client in clients:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            client.close()
        servers.wait_until(lambda: b'waiting{stage="worker"} 0.0' in server.get("/metrics").body, "line left")
        assert "status=500" not in server.log
        assert server.get(f"/clip/10x10/{md5}").status == 200


@pytest.mark.parametrize(
    "option",
    [
        "--port=70000",
        "--timeout=0",
        "--timeout=nan",
        "--max_requests=0",
        "--max_queue=0",
        "--workers=-1",
        "--worker_memory=1000",
        "--cache_bytes=1000",
        "--placeholder=abc",
        "--mode=stretch",
        "--operation=melt",
        "--allowed_operations=melt",
        "--allowed_operations=noop",
        "--logging=loud",
        "--max_original_bytes=many",
        "--config=/no/such/file",
        "--cache_dir=/dev/null",
        "stray",
    ],
)
def test_wrong_option_is_one_line_and_exit_2(option: str) -> None:
    result = start(option, endpoint="http://127.0.0.1:1")
    name = option.lstrip("-").partition("=")[0]
    assert re.search(name.replace("_", "[-_]").replace("config", "file"), result.stderr), result.stderr
    refused_in_one_line(result, 2, "md5s3stash-thumbnailer: ")


@pytest.mark.parametrize("path", ["/healthz", "/metrics", "/nowhere", f"/clip/1x1/{UNKNOWN}"])
def test_every_answer_says_which_release_runs(server: Thumbnailer, path: str) -> None:
    assert server.get(path).headers["Server"] == f"md5s3stash-thumbnailer/{running_version()}"
    metrics = server.get("/metrics").body.decode()
    assert re.search(rf'^md5s3stash_thumbnailer_build_info{{.*version="{running_version()}"', metrics, re.M)
