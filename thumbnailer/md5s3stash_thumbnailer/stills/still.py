"""One picture of a file that is a video or a sound."""

from __future__ import annotations

from dataclasses import dataclass
from typing import BinaryIO

from md5s3stash_thumbnailer.errors import NotAnImage, PartNotFound
from md5s3stash_thumbnailer.stills import sound, video
from md5s3stash_thumbnailer.stills.containers import demuxer_of_file
from md5s3stash_thumbnailer.stills.ffmpeg import Bounds, Ffmpeg, Run
from md5s3stash_thumbnailer.stills.streams import covers, moving_streams, sounds

VIDEO, COVER, WAVEFORM = KINDS = ("video", "cover", "waveform")


@dataclass(frozen=True, slots=True)
class Still:
    """A file of a picture that `render/decoders` can read, and what it is, one of `KINDS`."""

    kind: str
    picture: bytes


def make_still(programs: Ffmpeg, file: BinaryIO, seconds: float | None, bounds: Bounds) -> Still:
    """A frame of a video; the cover or the waveform of a sound. `seconds` says which frame. Raises NotAnImage,
    PartNotFound, TooManyPixels, RenderTimedOut, or RenderFailed if ffmpeg does not start.
    """
    demuxer = demuxer_of_file(file)
    if demuxer is None:
        raise NotAnImage("The file is neither a video nor a sound")
    run = Run(programs, file, demuxer, bounds)
    facts = run.facts()
    for stream in moving_streams(facts):
        return Still(VIDEO, video.still(run, facts, stream, seconds))
    if seconds is not None:
        raise PartNotFound("The original has no frames: it is a sound")
    for stream in covers(facts):
        return Still(COVER, sound.cover(run, stream))
    for stream in sounds(facts):
        return Still(WAVEFORM, sound.waveform(run, stream, video.duration(facts, stream)))
    raise NotAnImage("ffmpeg finds neither pictures nor sound in the file")
