"""Which of ffmpeg's demuxers reads a file, by its first bytes. An explicit list: without one ffmpeg would also try
playlists, which name other files.
"""

from __future__ import annotations

import functools
from typing import BinaryIO

HEAD_BYTES = 512
"""As many bytes as are looked at."""

VIDEO, SOUND = "video", "sound"
DEMUXERS = {
    **dict.fromkeys(("avi", "matroska", "mov", "mpeg", "mpegts", "mpegvideo"), VIDEO),
    **dict.fromkeys(("aac", "aiff", "flac", "mp3", "ogg", "wav"), SOUND),
}
"""Each by its name, and the kind of file (render/kinds/) that it mostly reads."""

_ISO_TYPES = (b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip", b"pnot")
# Pictures in the same container, and Canon's raw files.
_BRANDS_OF_PICTURES = frozenset(
    {b"avif", b"avis", b"heic", b"heix", b"heim", b"heis", b"hevc", b"hevx", b"mif1", b"mif2", b"msf1", b"crx "}
)
_BRANDS_OF_SOUNDS = frozenset({b"M4A ", b"M4B "})
_BY_START = (
    (b"\x1aE\xdf\xa3", "matroska"),
    (b"\0\0\x01\xba", "mpeg"),
    (b"\0\0\x01\xb3", "mpegvideo"),
    (b"OggS", "ogg"),
    (b"fLaC", "flac"),
    (b"ID3", "mp3"),
)
_TAG, _TAG_HEAD_BYTES, _MOST_TAGS = b"ID3", 10, 4
_BEHIND_TAGS = ("aac", "flac")
_RIFF = {b"AVI ": "avi", b"WAVE": "wav"}
_TS_PACKET, _M2TS_PACKET, _TS_SYNC = 188, 192, 0x47
# MPEG audio (ISO 11172-3, 2.4.2.3): layer III or II, and no value that is reserved.
_LAYERS = (1, 2)


def demuxer_of(head: bytes) -> str | None:
    """ffmpeg's name of the demuxer for a file that begins with these bytes; None if it is neither video nor sound."""
    if head[4:8] in _ISO_TYPES:
        is_picture = head[4:8] == b"ftyp" and head[8:12] in _BRANDS_OF_PICTURES
        return None if is_picture else "mov"
    for start, demuxer in _BY_START:
        if head.startswith(start):
            return demuxer
    if head[:4] in (b"RIFF", b"RF64"):
        return _RIFF.get(head[8:12])
    if head[:4] == b"FORM":
        return "aiff" if head[8:12] in (b"AIFF", b"AIFC") else None
    if _has_ts_packets(head, 0, _TS_PACKET) or _has_ts_packets(head, 4, _M2TS_PACKET):
        return "mpegts"
    return _of_mpeg_audio(head)


def kind_of(head: bytes) -> str | None:
    """The kind of a file that begins with these bytes; None likewise."""
    if head[4:8] == b"ftyp" and head[8:12] in _BRANDS_OF_SOUNDS:
        return SOUND
    return DEMUXERS.get(demuxer_of(head) or "")


def kind_of_file(file: BinaryIO) -> str | None:
    """Likewise of a file."""
    return kind_of(head_of(file))


def head_of(file: BinaryIO) -> bytes:
    """As many bytes as the others look at."""
    file.seek(0)
    return file.read(HEAD_BYTES)


def demuxer_of_file(file: BinaryIO) -> str | None:
    """As `demuxer_of`. Tags may be before any sound: what is behind them counts."""
    place = 0
    for _ in range(_MOST_TAGS):
        file.seek(place)
        head = file.read(HEAD_BYTES)
        if not head.startswith(_TAG) or len(head) < _TAG_HEAD_BYTES:
            break
        # Seven bits of each byte (ID3v2.4, 3.1).
        size_bytes = functools.reduce(lambda size, byte: size << 7 | byte & 0x7F, head[6:10], 0)
        place += _TAG_HEAD_BYTES + size_bytes
    behind = demuxer_of(head)
    return behind if behind in _BEHIND_TAGS else demuxer_of(head_of(file))


def _has_ts_packets(head: bytes, first: int, packet_bytes: int) -> bool:
    starts = range(first, HEAD_BYTES, packet_bytes)
    return len(head) >= HEAD_BYTES and all(head[start] == _TS_SYNC for start in starts)


def _of_mpeg_audio(head: bytes) -> str | None:
    if len(head) < 4 or head[0] != 0xFF or head[1] & 0xE0 != 0xE0:
        return None
    if head[1] & 0xF6 == 0xF0:
        return "aac"
    version, layer = head[1] >> 3 & 3, head[1] >> 1 & 3
    bitrate, sample_rate = head[2] >> 4, head[2] >> 2 & 3
    is_sound = version != 1 and layer in _LAYERS and bitrate not in (0, 15) and sample_rate != 3
    return "mp3" if is_sound else None
