"""Names of files that file managers, network clients and file systems leave behind; the daemon ignores them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from fnmatch import translate

DEFAULT_PATTERNS = (
    # Windows: Explorer, Office, downloads, and the folders of a volume.
    "Thumbs.db",
    "ehthumbs*.db",
    "desktop.ini",
    "~$*",
    "*:Zone.Identifier",
    "$RECYCLE.BIN",
    "RECYCLER",
    "System Volume Information",
    # macOS, and servers that keep its metadata beside each file.
    ".DS_Store",
    "._*",
    ".AppleDouble",
    ".AppleDB",
    ".AppleDesktop",
    ".Spotlight-V100",
    ".fseventsd",
    ".TemporaryItems",
    # Trash of both and of Linux desktops, network storage, and ext4.
    ".Trash*",
    "@eaDir",
    "#recycle",
    "lost+found",
)


class Ignored:
    """Matches each part of a name against shell patterns, ignoring case."""

    def __init__(self, patterns: Sequence[str] = DEFAULT_PATTERNS) -> None:
        self._matches = re.compile("|".join(translate(pattern.lower()) for pattern in patterns) or r"(?!)").match

    def __call__(self, name: str) -> bool:
        return any(map(self._matches, name.lower().split("/")))
