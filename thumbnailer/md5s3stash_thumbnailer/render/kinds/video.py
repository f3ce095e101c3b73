"""Videos. The server has ffmpeg make a still (`stills/`, `cache/stills.py`). A worker gets that, not the video."""

from __future__ import annotations

from md5s3stash_thumbnailer.stills.containers import VIDEO
from md5s3stash_thumbnailer.stills.kind import kind_with_stills

TITLE = "Videos"

is_begun_by, missing, prepare, opened = kind_with_stills(VIDEO)
