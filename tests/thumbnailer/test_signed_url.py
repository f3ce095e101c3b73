"""A signed URL is valid for one path and query until it expires; pilbox's signature still works for old callers."""

from __future__ import annotations

import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pilbox.signature import sign as sign_as_pilbox

from md5s3stash_thumbnailer.signed_url import SignatureRefused, check, is_signed, sign
from tests.thumbnailer.conftest import ROOT, Thumbnailer, environment, picture
from tests.thumbnailer.test_server import refused_in_one_line, start, thumbnailer

Put = Callable[[bytes], str]
KEY, NEXT_KEY, GUESS = "a key of the thumbnails", "the key that comes after", "a key that is guessed"
TARGET = "/clip/300x300/0123456789abcdef0123456789abcdef"
NOW, EXPIRES = 1_900_000_000.0, 1_900_000_060


def with_one_character_changed(text: str) -> Iterator[str]:
    for place, character in enumerate(text):
        yield text[:place] + ("1" if character != "1" else "2") + text[place + 1 :]


def refuses(target: str, *keys: str, now: float = NOW) -> bool:
    try:
        check(target, keys or (KEY,), now)
    except SignatureRefused:
        return True
    return False


# --- the signature ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("query", ["", "?q=80", "?pos=0.5,0.5&q=80", "?op=region%2Cresize&rect=1,2,3,4", "?"])
@pytest.mark.parametrize("origin", ["", "https://thumbs.example.org", "http://[::1]:8888"])
def test_what_was_signed_holds_until_it_expires(origin: str, query: str) -> None:
    url = sign(f"{origin}{TARGET}{query}", KEY, EXPIRES)
    target = url.removeprefix(origin)
    assert url.startswith(f"{origin}{TARGET}{query}")
    assert check(target, [KEY], NOW) == EXPIRES
    assert refuses(target, now=EXPIRES)


def test_signature_is_the_one_that_openssl_makes() -> None:
    signed = f"{TARGET}?expires={EXPIRES}&q=80"
    made = subprocess.run(
        ["openssl", "dgst", "-sha256", "-hmac", KEY, "-r"], input=signed.encode(), capture_output=True, check=True
    ).stdout.split()[0]
    assert sign(f"{TARGET}?q=80", KEY, EXPIRES) == f"{TARGET}?q=80&expires={EXPIRES}&signature={made.decode()}"


def test_every_character_of_path_and_query_is_covered() -> None:
    target = sign(f"{TARGET}?fmt=png&q=80", KEY, EXPIRES)
    assert [changed for changed in with_one_character_changed(target) if not refuses(changed)] == []


def test_nothing_can_be_added_taken_away_or_repeated() -> None:
    target = sign(f"{TARGET}?fmt=png&q=80", KEY, EXPIRES)
    path, _, query = target.partition("?")
    added = [f"{target}&{more}" for more in ("", "deg=90", "expires=9999999999", "signature=0", f"expires={EXPIRES}")]
    less = [f"{path}?{'&'.join(pair for pair in query.split('&') if pair != gone)}" for gone in query.split("&")]
    spelled = [target.replace("expires", "%65xpires"), target.replace("signature", "Signature"), target + "#", path]
    assert [changed for changed in (*added, *less, *spelled) if not refuses(changed)] == []


def test_order_of_the_parameters_is_free() -> None:
    path, _, query = sign(f"{TARGET}?fmt=png&q=80", KEY, EXPIRES).partition("?")
    assert check(f"{path}?{'&'.join(sorted(query.split('&'), reverse=True))}", [KEY], NOW) == EXPIRES


def test_keys_can_be_changed_one_after_the_other() -> None:
    target = sign(TARGET, NEXT_KEY, EXPIRES)
    assert check(target, [KEY, NEXT_KEY], NOW) == EXPIRES
    assert refuses(target, KEY)
    assert refuses(sign(TARGET, GUESS, EXPIRES), KEY, NEXT_KEY)


@pytest.mark.parametrize(
    "url",
    [
        "",
        "clip/300x300/abc",
        "ftp://x/clip",
        f"https://x{TARGET}#part",
        f"{TARGET}?pos=ü",
        f"{TARGET}?pos=a b",
        f"{TARGET}?expires=1",
        f"{TARGET}?signature=1",
        "http://x",
        f"{TARGET}\n",
    ],
)
def test_what_cannot_be_asked_for_is_not_signed(url: str) -> None:
    with pytest.raises(ValueError, match="URL"):
        sign(url, KEY, EXPIRES)


@pytest.mark.parametrize(("key", "expires"), [("", EXPIRES), (KEY, -1), (KEY, 10**13)])
def test_wrong_key_or_time_is_not_signed_with(key: str, expires: int) -> None:
    with pytest.raises(ValueError, match=r"key|time"):
        sign(TARGET, key, expires)


def test_signing_needs_nothing_of_the_server() -> None:
    program = (
        "import sys, md5s3stash_thumbnailer.signed_url; print({'tornado', 'pilbox', 'PIL', 'boto3'} & {*sys.modules})"
    )
    result = subprocess.run(
        [sys.executable, "-c", program], env=environment(None), cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert result.stdout == "set()\n"


# Any characters of a request, including lone surrogates, NUL, control characters and bidi marks.
_HOSTILE = st.text(st.characters(), max_size=40) | st.sampled_from(
    ["\ud800", "\0", "\u202e", "9" * 4000, "[" * 2000, "%", "%zz", "%ff", "signature=", "&expires=1", "?&&"]
)


@settings(max_examples=300, deadline=None, derandomize=True)
@given(st.lists(_HOSTILE, max_size=4), _HOSTILE, _HOSTILE)
def test_any_target_is_refused_and_breaks_nothing(parts: list[str], expires: str, signature: str) -> None:
    for target in ("&".join(parts), f"{TARGET}?{'&'.join(parts)}&expires={expires}&signature={signature}"):
        assert is_signed(target) in (True, False)
        assert refuses(target)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.text(st.characters(min_codepoint=33, max_codepoint=126, exclude_characters="#?"), max_size=40), st.data())
def test_whatever_is_signed_holds_and_with_a_change_does_not(rest: str, data: st.DataObject) -> None:
    try:
        target = sign(f"/{rest}?{data.draw(st.text('ab=&%', max_size=10))}", KEY, EXPIRES)
    except ValueError:
        return
    assert check(target, [KEY], NOW) == EXPIRES
    place = data.draw(st.integers(0, len(target) - 1))
    assert refuses(target[:place] + "~" + target[place + 1 :]) or target[place] == "~"


# --- the server -------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def signed(s3_server: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Thumbnailer]:
    directory = tmp_path_factory.mktemp("signed")
    settings = f"url_keys = [{KEY!r}, {NEXT_KEY!r}]\npresets = 'card=clip/50x50'\nauto_formats = 'webp'\n"
    (directory / "secret.conf").write_text(settings)
    with thumbnailer(directory, s3_server, f"--config={directory / 'secret.conf'}") as server:
        yield server


def in_a_minute() -> int:
    return int(time.time()) + 60


def refusal(server: Thumbnailer, target: str) -> tuple[int, int, str]:
    answer = server.get(target)
    return answer.status, answer.json["error_code"], answer.json["error"]


def test_signed_url_is_served_as_long_as_it_holds(signed: Thumbnailer, put: Put) -> None:
    target = f"/clip/100x100/{put(picture())}?fmt=png"
    for key in (KEY, NEXT_KEY):
        answer = signed.get(sign(target, key, in_a_minute()))
        assert (answer.status, answer.image.format) == (200, "PNG")
        maximum = int(answer.headers["Cache-Control"].partition("max-age=")[2].partition(",")[0])
        assert 0 <= maximum <= 60, "a cache would show the picture after the URL has expired"
        again = signed.get(sign(target, key, in_a_minute()), If_None_Match=answer.headers["ETag"])
        assert (again.status, again.headers["Cache-Control"][:15]) == (304, "public, max-age")
    assert "signature=" not in signed.log


def test_a_signature_holds_for_every_format(signed: Thumbnailer, put: Put) -> None:
    target = sign(f"/clip/100x100/{put(picture((300, 200)))}", KEY, in_a_minute())
    answers = [signed.get(target, Accept=accept) for accept in ("image/webp,*/*", "*/*")]
    refused = signed.get(target.partition("?")[0], Accept="image/webp")

    assert [answer.headers["Content-Type"] for answer in answers] == ["image/webp", "image/jpeg"]
    assert (refused.status, refused.headers["Vary"]) == (403, "Accept")


def test_url_without_a_valid_signature_is_403(signed: Thumbnailer, put: Put) -> None:
    target, other = (f"/clip/{size}/{put(picture())}" for size in ("100x100", "101x101"))
    query = sign(target, KEY, in_a_minute()).partition("?")[2]
    assert refusal(signed, target)[:2] == (403, 101)
    assert refusal(signed, f"{other}?{query}") == (403, 101, "Invalid signature")
    assert refusal(signed, f"{target}?{query}&q=1") == (403, 101, "Invalid signature")
    assert refusal(signed, sign(target, KEY, int(time.time()) - 1)) == (403, 101, "The signature has expired")
    assert refusal(signed, sign(target, GUESS, in_a_minute()))[:2] == (403, 101)
    assert refusal(signed, f"{target}?{sign_as_pilbox(KEY, 'q=80')}")[:2] == (403, 101)
    assert signed.get(f"{target}?{query}", If_None_Match="*").status == 304
    assert signed.get(target, If_None_Match="*").status == 403
    assert signed.get("/healthz").status == 200


def test_preset_is_signed_as_any_path(signed: Thumbnailer, put: Put) -> None:
    target = f"/p/card/{put(picture())}"
    other = target.replace("card", "other")
    assert signed.get(target).status == 403
    assert signed.get(sign(target, KEY, in_a_minute())).image.size == (50, 38)
    # Only a client that may ask learns which presets there are.
    assert refusal(signed, other)[:2] == (403, 101)
    assert refusal(signed, sign(other, KEY, in_a_minute()))[::2] == (404, "No such preset: the presets are card")


def test_a_client_without_a_signature_learns_no_preset_of_a_server_of_presets(s3_server: str, tmp_path: Path) -> None:
    with thumbnailer(tmp_path, s3_server, f"--url_keys={KEY}", "--presets=card=clip/50x50", "--presets_only") as server:
        refused = [server.get(path).body for path in (f"/clip/50x50/{'0' * 32}", "/p/card", f"/p/other/{'0' * 32}")]
    assert [b"card" in body for body in refused] == [False] * 3


def test_full_url_is_checked_as_its_path_is(signed: Thumbnailer, put: Put) -> None:
    target = sign(f"/clip/100x100/{put(picture())}", KEY, in_a_minute())
    assert signed.get(f"http://thumbs.example.org{target}").status == 200


def test_pilbox_signature_stays_for_old_callers(s3_server: str, put: Put, tmp_path: Path) -> None:
    target = f"/clip/100x100/{put(picture())}"
    with thumbnailer(tmp_path, s3_server, "--client_key=old", f"--url_keys={KEY}") as server:
        assert server.get(f"{target}?{sign_as_pilbox('old', 'q=80')}").status == 200
        assert server.get(sign(target, KEY, in_a_minute())).status == 200
        assert refusal(server, f"{target}?{sign_as_pilbox(KEY, 'q=80')}")[:2] == (403, 101)
        assert refusal(server, sign(target, "old", in_a_minute()))[:2] == (403, 101)
        # A request with a new signature is checked by it, even if it also has a valid old one.
        beside = sign(target, GUESS, in_a_minute())
        assert refusal(server, f"{target}?{sign_as_pilbox('old', beside.partition('?')[2])}")[:2] == (403, 101)
        for sig in ("", "%ff", "%00", "%C3%A4", "0" * 40):
            assert server.get(f"{target}?q=80&sig={sig}").status == 403


def test_no_signature_is_asked_for_unless_there_is_a_key(server: Thumbnailer, put: Put) -> None:
    answer = server.get(f"/clip/100x100/{put(picture())}?signature=x&expires=1")
    assert (answer.status, answer.headers["Cache-Control"]) == (200, "public, max-age=31536000, immutable")


def test_short_key_is_refused_at_the_start_and_not_shown() -> None:
    result = start(f"--url_keys={KEY},guessable", endpoint="http://127.0.0.1:1")
    refused_in_one_line(result, 2, "md5s3stash-thumbnailer: url_keys")
    assert "guessable" not in result.stderr
