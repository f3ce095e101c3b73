"""Short videos and sounds, made with ffmpeg as they are asked for, and ffmpeg's own picture of a moment in one."""

from __future__ import annotations

import io
import struct
import subprocess
from pathlib import Path

import PIL.Image

SECONDS = 5
"""The length of each, of `endings` too."""
SIZE = (320, 180)

RATE = 10
_FAST = ("-preset", "ultrafast", "-g", str(RATE))
_H264 = ("-c:v", "libx264", *_FAST)
# Numbers and moving parts: no two frames are alike, and each is sharp.
_CARD = f"testsrc2=size={SIZE[0]}x{SIZE[1]}:rate={RATE}:duration={SECONDS}"
_TONE = f"sine=frequency=330:duration={SECONDS}"
_PQ = "colorprim=bt2020:transfer=smpte2084:colormatrix=bt2020nc:log-level=error"

# Matrices of a track (ISO 14496-12, 8.3.2): as it is, and turned by a quarter.
_UNTURNED = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
_TURNED = struct.pack(">9i", 0, -1 << 16, 0, 1 << 16, 0, 0, 0, 0, 1 << 30)

VIDEOS: dict[str, tuple[str, ...]] = {
    "mp4": _H264,
    "mov": (*_H264, "-pix_fmt", "yuv420p"),
    "mkv": _H264,
    "webm": ("-c:v", "libvpx", "-deadline", "realtime", "-cpu-used", "16", "-threads", "1", "-g", str(RATE)),
    "avi": ("-c:v", "mpeg4", "-g", str(RATE), "-q:v", "3"),
    "mpg": ("-c:v", "mpeg2video", "-g", "25", "-r", "25", "-q:v", "3"),
    "ts": ("-c:v", "mpeg2video", "-g", "25", "-r", "25", "-q:v", "3"),
}
"""Arguments of ffmpeg, by the ending of the name."""
SOUNDS = ("mp3", "flac", "ogg", "opus", "m4a", "wav", "aiff")


class Clips:
    """Each is made once, in a directory."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def video(self, ending: str) -> Path:
        """The test card, moving."""
        return self._made(f"card.{ending}", "-f", "lavfi", "-i", _CARD, *VIDEOS[ending])

    def noise(self) -> Path:
        """Twelve seconds that do not compress: 11 MB."""
        source = f"{_CARD.rpartition(':')[0]}:duration=12,noise=alls=90:allf=t"
        return self._made("noise.ts", "-f", "lavfi", "-i", source, "-c:v", "mpeg2video", "-g", "10", "-q:v", "2")

    def with_one_key_frame(self, ending: str, *filters: str) -> Path:
        """The test card with these filters, of whose frames the first one alone stands for itself."""
        name = f"one-{'-'.join(filters).partition('=')[0]}.{ending}"
        # No new key frame where the picture changes: each encoder has its own number for that.
        h264 = ("-c:v", "libx264", "-preset", "ultrafast", "-sc_threshold", "0")
        codec = h264 if ending == "mp4" else ("-c:v", "mpeg2video", "-r", "25", "-sc_threshold", "1000000000")
        graph = ",".join((_CARD, *filters))
        return self._made(name, "-f", "lavfi", "-i", graph, *codec, "-g", "600")

    def cut(self) -> Path:
        """Noise from a moment on, as editors cut: the frames before it are in the file, and are not shown."""
        whole = self.with_one_key_frame("mp4", "noise=alls=90:allf=t")
        return self._made("cut.mp4", "-ss", "3.05", "-i", str(whole), "-c", "copy")

    def dvd(self) -> Path:
        """Six seconds that do not compress, with sound that comes first."""
        source = f"{_CARD.rpartition(':')[0]}:duration=6,noise=alls=90:allf=t"
        video = ("-f", "lavfi", "-i", source, "-c:v", "mpeg2video", "-r", "25", "-g", "5", "-q:v", "2")
        sound = ("-f", "lavfi", "-i", _TONE, "-c:a", "ac3", "-map", "1", "-map", "0", "-muxrate", "30000000")
        return self._made("dvd.vob", *video[:4], *sound[:4], *video[4:], *sound[4:], "-f", "vob")

    def sound(self, ending: str) -> Path:
        """A tone, in the second half of the time much louder."""
        louder = f"volume='if(lt(t,{SECONDS / 2}),0.1,4)':eval=frame"
        return self._made(f"tone.{ending}", "-f", "lavfi", "-i", _TONE, "-af", louder)

    def of_samples(self, expression: str) -> Path:
        """A sound of two channels, each by its formula."""
        source = f"aevalsrc={expression}:duration={SECONDS}:sample_rate=44100"
        return self._made("samples.wav", "-f", "lavfi", "-i", source, "-c:a", "pcm_s16le")

    def with_cover(self, ending: str, cover: Path) -> Path:
        """The same sound, with a picture in the file."""
        streams = ("-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic")
        return self._made(f"cover.{ending}", "-i", str(self.sound(ending)), "-i", str(cover), *streams)

    def turned(self) -> Path:
        """As a phone that is held upright writes it: on its side, with the rotation beside it."""
        path = self._directory / "turned.mp4"
        if not path.exists():
            data = self.video("mp4").read_bytes()
            at = data.index(_UNTURNED, data.index(b"tkhd"))
            path.write_bytes(data[:at] + _TURNED + data[at + len(_UNTURNED) :])
        return path

    def with_wide_pixels(self) -> Path:
        """Each pixel is twice as wide as high."""
        return self._made("wide.mp4", "-f", "lavfi", "-i", f"{_CARD},setsar=2", *_H264)

    def in_hdr(self) -> Path:
        """Ten bits, with the transfer function of HDR10."""
        tagged = ("-color_trc", "smpte2084", "-color_primaries", "bt2020", "-colorspace", "bt2020nc")
        encoded = ("-c:v", "libx265", *_FAST, "-x265-params", _PQ, "-pix_fmt", "yuv420p10le", *tagged)
        return self._made("hdr.mp4", "-f", "lavfi", "-i", _CARD, *encoded)

    def transparent(self) -> Path:
        """Red in the left half, and nothing in the right one."""
        half = "geq=lum='lum(X,Y)':cb='cb(X,Y)':cr='cr(X,Y)':a='255*lt(X,160)'"
        graph = f"color=red:size={SIZE[0]}x{SIZE[1]}:rate=1:duration=1,format=yuva420p,{half}"
        return self._made("half.webm", "-f", "lavfi", "-i", graph, "-c:v", "libvpx-vp9", "-cpu-used", "8")

    def flat(self) -> Path:
        """A stripe of the test card."""
        graph = "testsrc2=size=8192x16:rate=1:duration=1"
        return self._made("flat.avi", "-f", "lavfi", "-i", graph, "-c:v", "mjpeg", "-pix_fmt", "yuvj420p")

    def after(self, before: str) -> Path:
        """The first two seconds are not the test card but what this filter makes of it."""
        graph = f"{_CARD},split[a][b];[a]trim=0:2,{before}[c];[b]trim=2,setpts=PTS-STARTPTS[d];[c][d]concat"
        return self._made(f"after-{before.partition('=')[0]}.mp4", "-f", "lavfi", "-i", graph, *_H264)

    def _made(self, name: str, *arguments: str) -> Path:
        path = self._directory / name
        if not path.exists():
            run(*arguments, str(path))
        return path


def frame_at(path: Path, seconds: float) -> PIL.Image.Image:
    """ffmpeg's own picture, without any option of ours."""
    png = run("-ss", str(seconds), "-i", str(path), "-frames:v", "1", "-c:v", "png", "-f", "image2pipe", "pipe:1")
    return PIL.Image.open(io.BytesIO(png))


def run(*arguments: str) -> bytes:
    """ffmpeg, with these arguments; what it writes to standard output."""
    command = ["ffmpeg", "-v", "error", "-nostdin", "-y", *arguments]
    return subprocess.run(command, check=True, capture_output=True, timeout=120).stdout
