"""The cover that is embedded in a file, or a drawing of its sound: the loudness over time."""

from __future__ import annotations

import io
import sys
from typing import Any

import PIL.Image
import PIL.ImageDraw

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.stills.ffmpeg import Run

WIDTH, HEIGHT = 1200, 300
_BACKGROUND, _WAVE = (255, 255, 255), (31, 78, 121)
# Two channels, since one in antiphase to the other would silence both. Their 16 bits show quiet sound, too.
_CHANNELS, _SAMPLE_BYTES = 2, 2
# As many samples a second as there is room for, so that high tones of a short sound are there.
_ROOM_BYTES, _MOST_PER_SECOND = 60_000_000, 48_000
# Thousands of a column show its loudness as well as all of an hour.
_SAMPLES_OF_COLUMN = 4096
_MAX_SECONDS = 2 * 3600


def cover(run: Run, stream: dict[str, Any]) -> bytes:
    """The embedded picture as it was embedded. Raises what `Run.ffmpeg` raises."""
    picture, _ = run.ffmpeg(
        "-map", f"0:{stream['index']}", "-c", "copy", "-frames:v", "1", "-f", "image2pipe", "pipe:1"
    )
    if not picture:
        raise NotAnImage("The embedded picture is empty")
    return picture


def waveform(run: Run, stream: dict[str, Any], seconds: float) -> bytes:
    """A drawing of the sound, as PNG; of no more than its first two hours. `seconds` is its length, as far as it is
    known. Raises what `Run.ffmpeg` raises.
    """
    length = min(seconds or _MAX_SECONDS, _MAX_SECONDS)
    rate = min(_MOST_PER_SECOND, int(_ROOM_BYTES / (_CHANNELS * _SAMPLE_BYTES * length)))
    sound = (
        "-ac",
        str(_CHANNELS),
        "-ar",
        str(rate),
        "-c:a",
        f"pcm_s16{sys.byteorder[0]}e",
        "-f",
        f"s16{sys.byteorder[0]}e",
    )
    # The length may be a lie.
    bounds = ("-t", str(_MAX_SECONDS), "-fs", str(_ROOM_BYTES))
    data, _ = run.ffmpeg("-map", f"0:{stream['index']}", *bounds, *sound, "pipe:1")
    samples = memoryview(data)[: len(data) // _SAMPLE_BYTES * _SAMPLE_BYTES].cast("h")
    if not samples:
        raise NotAnImage("ffmpeg finds no sound in the file")
    return _drawn(samples)


def _drawn(samples: memoryview[int]) -> bytes:
    # Column by column, since max() of them all would keep the other threads of the server from running.
    columns = [_highest_and_lowest(samples, x) for x in range(WIDTH)]
    loudest = max(1, *(abs(level) for column in columns for level in column))
    image = PIL.Image.new("RGB", (WIDTH, HEIGHT), _BACKGROUND)
    draw = PIL.ImageDraw.Draw(image)
    half = (HEIGHT - 1) / 2
    for x, column in enumerate(columns):
        top, bottom = (round(half - level / loudest * half) for level in column)
        draw.line((x, top, x, bottom), fill=_WAVE)
    file = io.BytesIO()
    image.save(file, "PNG")
    return file.getvalue()


def _highest_and_lowest(samples: memoryview[int], x: int) -> tuple[int, int]:
    """Of what is drawn in this column."""
    begin, end = x * len(samples) // WIDTH, (x + 1) * len(samples) // WIDTH
    # An odd step, so that both channels are looked at.
    column = samples[begin : max(begin + 1, end) : (end - begin) // _SAMPLES_OF_COLUMN | 1]
    return max(column), min(column)
