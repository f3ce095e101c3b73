"""The cover that is embedded in a file, or a drawing of its sound: the loudness over time."""

from __future__ import annotations

import io
from typing import Any

import PIL.Image
import PIL.ImageDraw

from md5s3stash_thumbnailer.errors import NotAnImage
from md5s3stash_thumbnailer.stills.ffmpeg import Run

WIDTH, HEIGHT = 1200, 300
_BACKGROUND, _WAVE = (255, 255, 255), (31, 78, 121)
# Unsigned bytes: the highest and lowest of them are found without a library. Enough to draw loudness.
_SAMPLES_PER_SECOND, _SILENCE = 8000, 128
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


def waveform(run: Run, stream: dict[str, Any]) -> bytes:
    """A drawing of the sound, as PNG; of no more than its first two hours. Raises what `Run.ffmpeg` raises."""
    sound = ("-ac", "1", "-ar", str(_SAMPLES_PER_SECOND), "-c:a", "pcm_u8", "-f", "u8")
    samples, _ = run.ffmpeg("-map", f"0:{stream['index']}", "-t", str(_MAX_SECONDS), *sound, "pipe:1")
    if not samples:
        raise NotAnImage("ffmpeg finds no sound in the file")
    return _drawn(samples)


def _drawn(samples: bytes) -> bytes:
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


def _highest_and_lowest(samples: bytes, x: int) -> tuple[int, int]:
    """Of what is drawn in this column."""
    begin, end = x * len(samples) // WIDTH, (x + 1) * len(samples) // WIDTH
    column = samples[begin : max(begin + 1, end) : max(1, (end - begin) // _SAMPLES_OF_COLUMN)]
    return max(column) - _SILENCE, min(column) - _SILENCE
