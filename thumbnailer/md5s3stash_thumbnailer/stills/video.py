"""A frame of a video: the key frame at or before a tenth of its length, or a later one if that shows nothing."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from md5s3stash_thumbnailer.errors import NotAnImage, PartNotFound, RenderTimedOut, TooManyPixels
from md5s3stash_thumbnailer.stills.ffmpeg import Run

SPECIFIER = "specifier"
"""In a stream: how ffmpeg calls it, where that is not its index."""
MAX_STILL_PIXELS = 4096 * 4096
"""Frames with more pixels are reduced to this."""

# Shares of the length. Where none is good, the best one is shown.
_TRIES = (0.1, 0.2, 0.35, 0.5)
# Of 8-bit brightness: the tenth of the pixels that is brightest is darker than this, or all are about the same.
_BLACK_BELOW, _EMPTY_BELOW = 40, 12
# Of ffmpeg's blurdetect (the mean width of edges) in a picture that is as wide as `_JUDGED_WIDTH`, and not higher.
_BLURRED_FROM, _JUDGED_WIDTH, _LEAST_SIDE = 8.0, 640, 64
# A fade may hide all key frames of a short video. In one that is no longer than this, another frame costs little.
_SHORT_SECONDS = 30.0
# ffmpeg shows the first frame at or after a time, and there is none after the last one has begun. In MPEG it seeks only
# roughly, and may miss the last key frame. So: how much earlier the frame may be, and how much earlier ffmpeg begins to
# look for it.
_EARLIER = ((0.0, 0.0), (0.2, 0.2), (2.0, 2.0), (0.2, 15.0), (2.0, 15.0))
_PIPED = ("-f", "image2pipe", "pipe:1")
_OPAQUE = ("-frames:v", "1", "-c:v", "bmp", *_PIPED)
_TRANSPARENT = ("-frames:v", "1", "-c:v", "png", "-compression_level", "1", "-pix_fmt", "rgba", *_PIPED)
# The formats of pixels with transparency, and the decoders that give it, where others do not.
_WITH_ALPHA = re.compile("yuva|rgba|argb|bgra|abgr|gbrap|ya[0-9]")
_DECODERS_OF_ALPHA = {"vp8": "libvpx", "vp9": "libvpx-vp9"}
# blurdetect then gives no number.
_NO_EDGE = 500.0
# Score of a frame whose decoder reported an error: above a black frame, below a blurred one.
_DAMAGED = -600.0
# Raised for one frame. A frame that was found before is shown then.
_NO_FRAME = (NotAnImage, RenderTimedOut, TooManyPixels)
_HDR_TRANSFERS = ("smpte2084", "arib-std-b67")
_TO_SDR = (
    "zscale=t=linear:npl=100,format=gbrpf32le,zscale=p=bt709,tonemap=hable:desat=0,"
    "zscale=t=bt709:m=bt709:r=tv,format=yuv420p,"
)
_STATISTIC = re.compile(r"lavfi\.(signalstats\.YLOW|signalstats\.YHIGH|blur)=([0-9.]+)")


@dataclass(frozen=True, slots=True)
class Look:
    """A look at the key frame at or before that time of a file, with more options of ffmpeg for its input."""

    run: Run
    seconds: float
    options: tuple[str, ...] = ()


def still(
    run: Run,
    facts: dict[str, Any],
    stream: dict[str, Any],
    seconds: float | None,
    look: Callable[[float], Look] | None = None,
) -> bytes:
    """A frame of the stream as BMP, or as PNG where it is transparent: upright, with square pixels, in eight bits.
    `seconds` is its time; None leaves the choice to us, and `look` says how to look at what is at a share of the
    length. Raises PartNotFound for a time after the end, and what `Run.ffmpeg` raises.
    """
    length = duration(facts, stream)
    if seconds is not None:
        return _at(run, stream, seconds, length)
    is_whole = look is None
    look = look or (lambda share: Look(run, length * share))
    best: tuple[float, bytes] | None = None
    for share in _TRIES if length or not is_whole else (0.0,):
        try:
            frame, score = _judged(look(share), stream, is_whole)
        except _NO_FRAME as error:
            # A window on the file may have no key frame.
            if isinstance(error, NotAnImage) and not is_whole:
                continue
            if best is None:
                raise
            break
        if frame and (best is None or score > best[0]):
            best = score, frame
        if best and best[0] >= 0:
            return best[1]
    if is_whole and best and 0 < length <= _SHORT_SECONDS:
        best = max(best, _exact(run, stream, length * _TRIES[-1]))
    if best is None or best[0] == _DAMAGED:
        # The length may be a lie, or the end may be missing.
        try:
            frame, score = _judged(look(0.0), stream, is_whole)
            if best is None or score > best[0]:
                best = score, frame
        except _NO_FRAME:
            if best is None:
                raise
    if not best[1]:
        raise NotAnImage("ffmpeg finds no frame in the video")
    return best[1]


def _exact(run: Run, stream: dict[str, Any], seconds: float) -> tuple[float, bytes]:
    """How good the frame at this time is, key frame or not, and the frame; empty if there is no such frame."""
    try:
        frame, score = _judged(Look(run, seconds, ("-accurate_seek",)), stream, is_whole=True)
    except _NO_FRAME:
        return -math.inf, b""
    return (score, frame) if frame else (-math.inf, b"")


def duration(facts: dict[str, Any], stream: dict[str, Any]) -> float:
    """In seconds; 0 if it is not known."""
    for text in (facts.get("format", {}).get("duration"), stream.get("duration")):
        try:
            seconds = float(text or 0)
        except ValueError:
            continue
        if 0 < seconds < 1e8:
            return seconds
    return 0.0


def _at(run: Run, stream: dict[str, Any], seconds: float, length: float) -> bytes:
    decoder, written = _encoding(stream)
    for earlier, begun_earlier in _EARLIER if not length or seconds < length else ():
        begin = max(0.0, seconds - begun_earlier)
        graph = _graph(stream, judged=False, after_seconds=max(0.0, seconds - earlier - begin))
        frame, _ = run.ffmpeg("-filter_complex", graph, "-map", "[shown]", *written, before=(*decoder, *_from(begin)))
        if frame:
            return frame
    end = f": it is {length:.3f} seconds long" if length else ""
    raise PartNotFound(f"The video has no frame at {seconds:g} seconds{end}")


def _judged(look: Look, stream: dict[str, Any], is_whole: bool) -> tuple[bytes, float]:
    """The key frame, and how good it is: 0 or more if it is shown at once. Of parts of a file the decoder may lack the
    frames behind it, which are no errors then.
    """
    decoder, written = _encoding(stream)
    frame, said = look.run.ffmpeg(
        *("-filter_complex", _graph(stream, judged=True), "-map", "[shown]"),
        *written,
        *("-map", "[judged]", "-frames:v", "1", "-f", "null", "-"),
        before=("-noaccurate_seek", *decoder, *look.options, *_from(look.seconds)),
    )
    found = {name: float(value) for name, value in _STATISTIC.findall(said)}
    low, high = found.get("signalstats.YLOW", 0.0), found.get("signalstats.YHIGH", 0.0)
    if high < _BLACK_BELOW or high - low < _EMPTY_BELOW:
        return frame, -1000.0 + high - low
    if is_whole and re.search(rf"^\[(?:lib)?{stream.get('codec_name')} @", said, re.MULTILINE):
        # ffmpeg shows what it makes up for the damaged part.
        return frame, _DAMAGED
    return frame, min(0.0, _BLURRED_FROM - found.get("blur", _NO_EDGE))


def _encoding(stream: dict[str, Any]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Options of ffmpeg for the decoder of the stream, and for the frame that is written."""
    decoder = _DECODERS_OF_ALPHA.get(stream.get("codec_name", ""))
    if decoder and stream.get("tags", {}).get("alpha_mode") == "1":
        return ("-c:v", decoder), _TRANSPARENT
    return (), _TRANSPARENT if _WITH_ALPHA.match(stream.get("pix_fmt", "")) else _OPAQUE


def _from(seconds: float) -> tuple[str, ...]:
    return ("-ss", f"{seconds:.3f}") if seconds else ()


def _graph(stream: dict[str, Any], *, judged: bool, after_seconds: float = 0.0) -> str:
    to_sdr = _TO_SDR if stream.get("color_transfer") in _HDR_TRANSFERS else ""
    factor = f"min(1,sqrt({MAX_STILL_PIXELS}/(iw*sar*ih)))"
    square = f"scale=w='max(1,trunc(iw*sar*{factor}))':h='max(1,trunc(ih*{factor}))',setsar=1"
    first = f"trim=start={after_seconds:.3f},trim=end_frame=1" if after_seconds else "trim=end_frame=1"
    # Frames before the time that was sought have negative times, and ffmpeg would leave them out.
    shown = f"[0:{stream.get(SPECIFIER, stream['index'])}]{first},setpts=PTS-STARTPTS,{to_sdr}{square}"
    if not judged:
        return f"{shown}[shown]"
    # blurdetect damages memory where a side has only a few pixels.
    width, height = (
        f"clip(iw,{_LEAST_SIDE},{_JUDGED_WIDTH})",
        f"clip(2*round(ow*ih/iw/2),{_LEAST_SIDE},{_JUDGED_WIDTH})",
    )
    size = f"w='{width}':h='{height}'"
    judge = f"scale={size},format=gray,signalstats,blurdetect,metadata=print:file=pipe\\\\:2"
    return f"{shown},split[shown][raw];[raw]{judge}[judged]"
