"""Sounds, shown by their cover or by a drawing of their loudness. Made as the stills of videos are."""

from __future__ import annotations

from md5s3stash_thumbnailer.stills.containers import SOUND
from md5s3stash_thumbnailer.stills.kind import kind_with_stills

TITLE = "Sound files"

is_begun_by, missing, prepare, opened = kind_with_stills(SOUND)
