"""What ffprobe says of the streams in a file."""

from __future__ import annotations

from typing import Any

from md5s3stash_thumbnailer.errors import NotAnImage

Stream = dict[str, Any]


def covers(facts: dict[str, Any]) -> list[Stream]:
    """The pictures that are embedded."""
    return [stream for stream in _pictures(facts) if stream.get("disposition", {}).get("attached_pic")]


def moving_streams(facts: dict[str, Any]) -> list[Stream]:
    """The others, which move."""
    embedded = covers(facts)
    return [stream for stream in _pictures(facts) if stream not in embedded and stream.get("width")]


def moving_stream(facts: dict[str, Any]) -> Stream:
    """The first of them. Raises NotAnImage."""
    for stream in moving_streams(facts):
        return stream
    raise NotAnImage("ffmpeg finds no moving picture in the file")


def sounds(facts: dict[str, Any]) -> list[Stream]:
    """Those that are heard."""
    return [stream for stream in facts["streams"] if stream.get("codec_type") == "audio"]


def _pictures(facts: dict[str, Any]) -> list[Stream]:
    return [stream for stream in facts["streams"] if stream.get("codec_type") == "video"]
