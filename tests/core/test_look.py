"""The look at a content in a sealed process: the same answers as without, and no content that stops it."""

from __future__ import annotations

import io
import json
import os
import random
import re
import shlex
import signal
import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import PIL.Image
import pytest

from md5s3stash import media
from md5s3stash.errors import SourceOutOfReach
from md5s3stash.look import here, room
from md5s3stash.look.room import LookRoom
from md5s3stash.media import LookFailed, describe
from tests.support import damaged_pictures, odd_metadata, sealed_attempts
from tests.support.reachable import SECRET, reachable, unrefused
from tests.support.servers import is_alive, wait_until
from tests.support.stores import content_of

PDF = b"%PDF-1.4\n1 0 obj\n<<>>\nendobj\ntrailer\n<<>>\n%%EOF\n"
_RULES = ("/usr/lib/file/magic.mgc", "/usr/share/misc/magic.mgc", "/usr/share/file/magic.mgc")
_DICE = random.Random(11)


@pytest.fixture(scope="module")
def look() -> Iterator[LookRoom]:
    look = LookRoom()
    yield look
    look.close()


@pytest.fixture
def fresh() -> Iterator[LookRoom]:
    look = LookRoom()
    yield look
    look.close()


def picture(image_format: str, size: tuple[int, int] = (31, 17), mode: str = "RGB", **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new(mode, size).save(buffer, image_format, **options)
    return buffer.getvalue()


def noisy(image_format: str, size: tuple[int, int], **options: Any) -> bytes:
    buffer = io.BytesIO()
    PIL.Image.effect_noise(size, 80).convert("RGB").save(buffer, image_format, **options)
    return buffer.getvalue()


def tiff_with_its_directory_at_the_end(size: tuple[int, int], pixels: bytes) -> bytes:
    tags = {256: size[0], 257: size[1], 258: 8, 259: 1, 262: 1, 273: 8, 277: 1, 278: size[1], 279: len(pixels)}
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    return struct.pack("<2sHI", b"II", 42, 8 + len(pixels)) + pixels + directory


def unsealed(data: bytes) -> Any:
    """In the tests a warning would be an error, after which Pillow's answer is another."""
    with warnings.catch_warnings(action="ignore"):
        return here.look(io.BytesIO(data))


def of_two_pictures() -> bytes:
    buffer = io.BytesIO()
    PIL.Image.new("RGB", (20, 10)).save(buffer, "MPO", save_all=True, append_images=[PIL.Image.new("RGB", (5, 5))])
    return buffer.getvalue()


OTHERS = {
    "nothing": b"",
    "one byte": b"x",
    "PDF": PDF,
    "HTML": b"<!DOCTYPE html><html><head><title>404</title></head></html>",
    "text": b"just words\n" * 3000,
    "long text": b"just words\n" * 60_000,
    "JSON": b'{"a": [1, 2, 3]}',
    "CSV": b"a,b,c\n1,2,3\n4,5,6\n",
    "XML": b"<?xml version='1.0'?><svg xmlns='http://www.w3.org/2000/svg'/>",
    "noise": _DICE.randbytes(20_000),
    "long noise": _DICE.randbytes(400_000),
    "ZIP": b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(100),
    "gzip": b"\x1f\x8b\x08\0\0\0\0\0\0\x03" + bytes(50),
    "ELF": Path(sys.executable).resolve().read_bytes()[:300_000],
    "MP4": b"\0\0\0\x18ftypmp42\0\0\0\0mp42isom" + bytes(1000),
    "WAV": b"RIFF\x24\0\0\0WAVEfmt \x10\0\0\0" + bytes(40),
    "OLE": b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1" + bytes(600),
    "PSD": b"8BPS\0\x01\0\0\0\0\0\0\0\x03\0\0\0\x11\0\0\0\x1f\0\x08\0\x03" + bytes(500),
    "MPO": of_two_pictures(),
    "ICO": picture("ICO", (48, 32)),
    # Larger than what comes with the request.
    "large TIFF": noisy("TIFF", (400, 300)),
    "TIFF with its directory at the end": tiff_with_its_directory_at_the_end((500, 400), bytes(200_000)),
    "large BMP": noisy("BMP", (400, 300)),
    "large WebP": noisy("WEBP", (300, 300), lossless=True, method=0),
    "large AVIF": noisy("AVIF", (400, 300), quality=100, speed=10),
    "large GIF": noisy("GIF", (400, 300)),
}


def mutated(data: bytes, dice: random.Random) -> bytes:
    changed = bytearray(data)
    for _ in range(dice.randint(1, 6)):
        # Headers are at the ends.
        place = dice.choice([dice.randrange(min(len(data), 80)), dice.randrange(len(data))])
        changed[place] = dice.choice([0, 1, 0x7F, 0x80, 0xFF, dice.randrange(256)])
    return bytes(changed[: dice.choice([len(changed), len(changed), dice.randrange(len(changed))])])


def corpus() -> Iterator[tuple[str, bytes]]:
    yield from OTHERS.items()
    # Here, since it takes a second, which every process of pytest would spend.
    yield "huge WebP", picture("WEBP", (6000, 6000), method=0)
    yield from odd_metadata.pictures()
    dice = random.Random(12)
    for kind in damaged_pictures.WHOLE:
        whole = damaged_pictures.whole(kind)
        yield kind, whole
        for number in range(4):
            yield f"{kind} {number}", mutated(whole, dice)
    for name in ("PDF", "ICO", "PSD", "OLE", "MP4"):
        for number in range(6):
            yield f"{name} {number}", mutated(OTHERS[name], dice)


def test_sealed_and_unsealed_looks_find_the_same(look: LookRoom) -> None:
    differing = {}
    started_once = None
    for name, data in corpus():
        inside, outside = look(io.BytesIO(data)), unsealed(data)
        if inside != outside:
            differing[name] = inside, outside
        started_once = started_once or look._looker
    assert differing == {}
    assert look._looker is started_once, "a content has ended the process"


def test_a_jpeg_that_this_process_reads_itself_is_what_pillow_finds_in_it() -> None:
    dice, read = random.Random(13), 0
    jpegs = [data for _, data in corpus() if data.startswith(b"\xff\xd8\xff")]
    for data in [*jpegs, *(mutated(dice.choice(jpegs), dice) for _ in range(300))]:
        found = describe(content_of(data), lambda reader: ("it/looked", (0, 0)))
        if found[0] != "it/looked":
            read += 1
            assert found == unsealed(data)
    assert read > 100


def refused(reader: object) -> Any:
    raise AssertionError


@pytest.mark.parametrize("image_format", ["JPEG", "PNG", "MPO"])
def test_an_ordinary_jpeg_or_png_needs_no_look(image_format: str) -> None:
    data = of_two_pictures() if image_format == "MPO" else picture(image_format, (20, 10))
    assert describe(content_of(data), refused)[1] == (20, 10)


def with_fill(count: int) -> bytes:
    """A JPEG with so many fill bytes before its last segments."""
    jpeg = picture("JPEG", (20, 10))
    return jpeg[:20] + b"\xff" * count + jpeg[20:]


@pytest.mark.parametrize("count", [1, 2, 1000, media._MOST_FILL_BYTES])
def test_fill_bytes_before_a_segment_of_a_jpeg_need_no_look(count: int) -> None:
    data = with_fill(count)
    assert describe(content_of(data), refused) == unsealed(data) == ("image/jpeg", (20, 10))


OVERLONG = {
    "fill bytes": with_fill(media._MOST_FILL_BYTES + 1),
    "fill bytes in several places": b"\xff\xd8" + (b"\xff" * 40_000 + b"\xe0\0\2") * 5 + bytes(10),
    "fill bytes alone": b"\xff\xd8" + b"\xff" * 9_000_000 + b"1234",
    "segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 3_000_000,
}


@pytest.mark.parametrize("data", OVERLONG.values(), ids=OVERLONG)
def test_a_jpeg_with_an_overlong_header_is_a_jpeg_and_needs_no_look(data: bytes) -> None:
    assert describe(content_of(data), refused) == ("image/jpeg", (0, 0))


_EMPTY_CHUNK = b"\0\0\0\0tEXt" + zlib.crc32(b"tEXt").to_bytes(4)
# Pillow alone reads each of them at least 100,000 times.
SLOW = {
    "JPEG with junk": b"\xff\xd8\xff\xe0\0\2" + b"x" * 200_000,
    "JPEG with escaped bytes": b"\xff\xd8\xff\xe0\0\2" + b"\xff\0" * 200_000,
    "JPEG with fill bytes": b"\xff\xd8" + b"\xff" * 200_000 + b"1234",
    "JPEG with segments": b"\xff\xd8" + b"\xff\xe0\0\2" * 200_000,
    "JPEG 2000 with boxes": b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x08free" * 200_000,
    "PNG with chunks": b"\x89PNG\r\n\x1a\n" + _EMPTY_CHUNK * 200_000,
    "GIF with comments": b"GIF89a\1\0\1\0\0\0\0!\xfe" + b"\1a" * 200_000,
}


class Counting(io.BytesIO):
    reads = 0

    def read(self, most_bytes: int | None = -1, /) -> bytes:
        self.reads += 1
        return super().read(most_bytes)


@pytest.mark.parametrize("data", SLOW.values(), ids=SLOW)
def test_a_header_that_takes_pillow_too_many_reads_is_given_up(data: bytes) -> None:
    reader = Counting(data)
    here.look(reader)
    assert reader.reads < 100_000


def test_every_type_that_libmagic_knows_may_be_answered() -> None:
    (rules, *_) = (path.read_bytes() for path in map(Path, _RULES) if path.exists())
    kinds = b"application|audio|biosig|chemical|font|image|message|model|multipart|rinex|text|video|x-epoc"
    names = [name.decode() for name in re.findall(rb"\0((?:%s)/[!-~]{3,79})\0" % kinds, rules)]
    assert len(names) > 500
    # The one with ${ is a rule: what it makes is `x-sharedlib`, for example.
    assert {name for name in names if "${" not in name and not room._MIME_TYPE.fullmatch(name)} == set()


# Says that it is ready, and for each packet does what its argument says.
LIAR = """
import json, os, signal, socket, sys, time
end = socket.socket(fileno=int(sys.argv[2]))
end.send(b'{"has_libmagic": true}')
while end.recv(200_000):
    exec(sys.argv[1])
"""
ENDINGS = {
    "a crash": ("os.kill(os.getpid(), signal.SIGSEGV)", "status -11"),
    "an exit": ("os._exit(0)", "status 0"),
    "a closed channel": ("end.close(); time.sleep(100)", "closed its channel"),
    "a loop": ("while True: pass", "seconds of CPU time"),
    "a loop that asks": (
        'while True: end.send(b\'{"from": 0, "bytes": 1}\'); end.recv(1); sum(range(10**6))',
        "seconds of CPU time",
    ),
    "requests without end": ('while True: end.send(b\'{"from": 0, "bytes": 1}\'); end.recv(1)', "more than"),
    "requests unread": ('while True: end.send(b\'{"from": 0, "bytes": 90000}\')', "does not read"),
    "no JSON": ("end.send(b'{')", "may not say"),
    "a list": ("end.send(b'[]')", "may not say"),
    "a long answer": ("end.send(b' ' * 1000 + b'{}')", "may not say"),
    "nothing": ("end.send(b'{}')", "may not say"),
    "a line in the type": ("end.send(json.dumps({'type': 'a/b\\nc', 'size': [0, 0]}).encode())", "may not say"),
    "another alphabet": ("end.send(json.dumps({'type': 'a/b\\u0661', 'size': [0, 0]}).encode())", "may not say"),
    "no type": ("end.send(json.dumps({'type': 5, 'size': [0, 0]}).encode())", "may not say"),
    "one side": ("end.send(json.dumps({'type': 'a/b', 'size': [1]}).encode())", "may not say"),
    "a negative side": ("end.send(json.dumps({'type': 'a/b', 'size': [-1, 1]}).encode())", "may not say"),
    "a side that is true": ("end.send(json.dumps({'type': 'a/b', 'size': [True, 1]}).encode())", "may not say"),
    "bytes behind the end": ("end.send(json.dumps({'from': 10**9, 'bytes': 1}).encode())", "may not say"),
    "all bytes at once": ("end.send(json.dumps({'from': 0, 'bytes': 10**9}).encode())", "may not say"),
}


@pytest.mark.parametrize(("does", "reason"), ENDINGS.values(), ids=ENDINGS)
def test_a_content_that_ends_or_takes_over_the_process_has_no_known_type(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, does: str, reason: str
) -> None:
    monkeypatch.setattr(room, "LOOKER", [sys.executable, "-I", "-S", "-c", LIAR, does])
    monkeypatch.setattr(room, "_STOP_SECONDS", 60.0 if "status" in reason else 0.1)
    monkeypatch.setattr(room, "CPU_SECONDS", 0.1 if "CPU" in reason else 60.0)
    monkeypatch.setattr(room, "_WAIT_SECONDS", 600.0)
    monkeypatch.setattr(room, "_MOST_REQUESTS", 100)
    # The one that asks is never silent for long.
    monkeypatch.setattr(room, "_SLICE_SECONDS", 0.9 if "recv" in does else 0.2)
    content = content_of(PDF * 3000, "application/x-declared")
    assert describe(content, fresh) == ("application/x-declared", (0, 0))
    assert reason in caplog.text
    assert caplog.text.count(f"look_failed md5={content.digest.md5} ") == 1
    assert fresh._looker is None


def test_a_picture_whose_size_takes_too_long_keeps_its_type(fresh: LookRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(io.BytesIO(PDF))
    monkeypatch.setattr(room, "CPU_SECONDS", 0.05)
    monkeypatch.setattr(room, "_SLICE_SECONDS", 0.02)
    # Pillow takes a second or two to read the offsets of two million strips.
    strips = 2_000_000
    tags = {256: (4, 1, 31), 257: (4, 1, strips), 259: (3, 1, 1), 262: (3, 1, 1), 273: (4, strips, 8), 278: (3, 1, 1)}
    entries = b"".join(struct.pack("<HHII", tag, *value) for tag, value in tags.items())
    directory = struct.pack("<H", len(tags)) + entries + bytes(4)
    data = struct.pack("<2sHI", b"II", 42, 8 + 4 * strips) + bytes(4 * strips) + directory
    assert fresh(io.BytesIO(data)) == ("image/tiff", (0, 0))
    assert fresh(io.BytesIO(PDF)) == ("application/pdf", (0, 0))


def test_after_a_content_that_has_ended_it_the_next_one_is_looked_at(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patched:
        patched.setattr(room, "LOOKER", [sys.executable, "-I", "-S", "-c", LIAR, "os._exit(1)"])
        with pytest.raises(LookFailed, match="status 1"):
            fresh(io.BytesIO(PDF))
    assert fresh(io.BytesIO(PDF)) == ("application/pdf", (0, 0))


def test_a_process_that_was_killed_between_two_looks_is_replaced(look: LookRoom) -> None:
    look(io.BytesIO(PDF))
    assert look._looker is not None
    before = look._looker._process
    before.send_signal(signal.SIGKILL)
    os.waitid(os.P_PID, before.pid, os.WEXITED | os.WNOWAIT)
    assert look(io.BytesIO(PDF)) == ("application/pdf", (0, 0))


def test_a_look_whose_process_is_killed_from_outside_is_repeated(look: LookRoom) -> None:
    class Killing(io.BytesIO):
        """Its process is killed when it asks for more."""

        kills = 0

        def seek(self, offset: int, whence: int = 0, /) -> int:
            if whence == 0 and offset and not self.kills:
                self.kills += 1
                assert look._looker is not None
                look._looker._process.send_signal(signal.SIGKILL)
            return super().seek(offset, whence)

    content = Killing(OTHERS["TIFF with its directory at the end"])
    assert look(content) == ("image/tiff", (500, 400))
    assert content.kills == 1


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGXCPU])
def test_a_process_that_is_killed_twice_is_an_error_that_passes(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch, number: signal.Signals
) -> None:
    monkeypatch.setattr(room, "_STOP_SECONDS", 60.0)
    with monkeypatch.context() as patched:
        does = f"os.kill(os.getpid(), {int(number)})"
        patched.setattr(room, "LOOKER", [sys.executable, "-I", "-S", "-c", LIAR, does])
        with pytest.raises(SourceOutOfReach, match=f"killed twice: .* status -{int(number)}"):
            fresh(io.BytesIO(PDF))
    assert fresh(io.BytesIO(PDF)) == ("application/pdf", (0, 0))


def test_a_process_that_gets_no_cpu_is_an_error_that_passes(fresh: LookRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(io.BytesIO(PDF))
    assert fresh._looker is not None
    fresh._looker._process.send_signal(signal.SIGSTOP)
    with monkeypatch.context() as patched:
        patched.setattr(room, "_WAIT_SECONDS", 0.5)
        with pytest.raises(SourceOutOfReach, match="did not answer in time"):
            fresh(io.BytesIO(PDF))
    assert fresh(io.BytesIO(PDF)) == ("application/pdf", (0, 0))


def test_a_file_that_cannot_be_read_is_an_error_of_the_file(look: LookRoom) -> None:
    class Failing(io.BytesIO):
        def seek(self, offset: int, whence: int = 0, /) -> int:
            if whence == 0 and offset:
                raise OSError(5, "Input/output error")
            return super().seek(offset, whence)

    with pytest.raises(OSError, match="Input/output error"):
        look(Failing(OTHERS["TIFF with its directory at the end"]))
    assert look(io.BytesIO(PDF)) == ("application/pdf", (0, 0))


def test_a_process_that_does_not_start_is_an_error_that_passes(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_STOP_SECONDS", 60.0)
    for command in (["/nonexistent"], [sys.executable, "-I", "-S", "-c", "import nonexistent"]):
        monkeypatch.setattr(room, "LOOKER", command)
        with pytest.raises(SourceOutOfReach, match="cannot start the process that finds MIME types") as raised:
            fresh(io.BytesIO(PDF))
        assert raised.value.retryable


def test_without_proc_the_process_says_in_one_line_why_it_does_not_start(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    code = (
        "import pathlib\nfrom md5s3stash.look import process\n"
        "process.Path = lambda name: pathlib.Path('/nonexistent' + name)\nprocess.main()\n"
    )
    monkeypatch.setattr(room, "LOOKER", [sys.executable, "-P", "-S", "-c", code])
    with pytest.raises(SourceOutOfReach, match="cannot start the process that finds MIME types"):
        fresh(io.BytesIO(PDF))
    (line,) = capfd.readouterr().err.splitlines()
    assert line.startswith("cannot seal the process that finds MIME types: ")
    assert "/proc/self/" in line


def test_the_process_keeps_hard_limits_that_are_below_its_own() -> None:
    code = (
        "import io\nfrom md5s3stash.look.room import LookRoom\nlook = LookRoom()\n"
        "print(look(io.BytesIO(b'%PDF-1.4')))\n"
        "print(open(f'/proc/{look._looker._process.pid}/limits').read())"
    )
    limited = f"ulimit -t 50; ulimit -v 300000; exec {shlex.quote(sys.executable)} -c {shlex.quote(code)}"
    result = subprocess.run(["sh", "-c", limited], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 0, result.stderr
    assert "application/pdf" in result.stdout
    assert re.search(r"Max cpu time +50 +50 ", result.stdout)
    address_space = re.search(r"Max address space +(\d+) ", result.stdout)
    assert address_space is not None
    assert int(address_space[1]) <= 300_000 * 1024


def test_a_process_that_has_computed_for_long_is_replaced(fresh: LookRoom, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh(io.BytesIO(PDF))
    first = fresh._looker
    fresh(io.BytesIO(PDF))
    assert fresh._looker is first
    monkeypatch.setattr(room, "LIFE_SECONDS", 0.0)
    assert fresh(io.BytesIO(PDF)) == ("application/pdf", (0, 0))
    assert fresh._looker is not first


def test_code_in_the_process_is_refused_everything(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv(*SECRET)
    # Their answer is long.
    monkeypatch.setattr(room, "_ANSWER_BYTES", 100_000)
    monkeypatch.setattr(room, "_MIME_TYPE", re.compile("(?s).*"))
    with reachable(tmp_path / "reach", os.getpid()) as reach:
        monkeypatch.setattr(room, "LOOKER", [sys.executable, sealed_attempts.__file__, "look", reach.described])
        ended: dict[str, str] = json.loads(fresh(io.BytesIO(PDF))[0])
        assert unrefused(ended) == {}
        assert len(ended) > 60
        # The standard ones, and its channel.
        assert len(ended["descriptors"].split(",")) == 4
        assert reach.is_untouched()


def test_the_process_starts_without_the_credentials_of_the_program_and_bounded(
    fresh: LookRoom, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(*SECRET)
    fresh(io.BytesIO(PDF))
    assert fresh._looker is not None
    process = Path("/proc", str(fresh._looker._process.pid))
    assert SECRET[1] not in (process / "cmdline").read_text() + (process / "environ").read_text()
    limits = (process / "limits").read_text()
    assert re.search(r"Max cpu time +65 +65 ", limits)
    assert re.search(r"Max file size +0 +0 ", limits)
    assert (process / "oom_score_adj").read_text() == "1000\n"
    address_space = re.search(r"Max address space +(\d+) ", limits)
    assert address_space is not None
    assert int(address_space[1]) < 2**30
    assert os.readlink(process / "fd/2") == os.devnull


def test_the_process_ends_with_the_program_which_imports_neither_pillow_nor_libmagic() -> None:
    code = (
        "import io, os, signal, sys\nfrom md5s3stash.look.room import LookRoom\nlook = LookRoom()\n"
        "look(io.BytesIO(b'%PDF-1.4'))\nassert not {'PIL', 'magic'} & set(sys.modules)\n"
        "print(look._looker._process.pid, flush=True)\n"
        "os.kill(os.getpid(), signal.SIGKILL)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == -signal.SIGKILL, result.stderr
    wait_until(lambda: not is_alive(int(result.stdout)), "the end of the process")
