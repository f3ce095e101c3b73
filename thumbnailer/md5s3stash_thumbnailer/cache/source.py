"""What an answer is made from."""

from __future__ import annotations

import enum
from dataclasses import dataclass
from typing import BinaryIO

from md5s3stash_thumbnailer.render.pipeline import Thumbnail


class Kind(enum.Enum):
    """What is in the file of a source."""

    ORIGINAL = "original"
    REDUCED = "reduced"
    PYRAMID = "pyramid"
    STILL = "still"
    """A picture that is shown for an original of another kind, such as a video, and for the requested part."""
    DAMAGED = "damaged"
    """An original of which no pyramid can be made. It is shown as far as it goes, if at all."""


@dataclass(frozen=True, slots=True)
class Source:
    """A file that is open. Who has it closes it."""

    file: BinaryIO
    kind: Kind = Kind.ORIGINAL
    answer: Thumbnail | None = None
    """What is asked for, where the file has it as it is to be sent."""
