"""The errors of a request for a thumbnail, as a branch of the project's error tree.

    StashError
    └── ThumbnailError
        ├── RequestRefused       the request itself is wrong; nothing was fetched
        ├── OriginalNotFound     no object has the digest
        ├── FetchTimedOut        S3 did not give the original in time
        ├── PartNotFound         the original has no such page
        ├── ShownInParts         the original is a large video, of which parts are read; handled within the server
        ├── TooManyBytes         too much of a large video would have to be read for a frame
        ├── NotAnImage           the original is not a picture, is broken, or has a format that is not shown
        │   └── NotShown         it is not broken, as far as is known
        ├── TooManyPixels        the original or the thumbnail would be too large to hold in memory
        ├── Overloaded           too many requests: the client should retry later
        ├── TooManyRequests      one client asks for more than its share
        ├── RenderTimedOut       the picture took longer to draw than is allowed
        ├── WorkerDied           the render worker ended while rendering, killed from outside or by the picture
        ├── RenderFailed         an error of this program, not of the picture
        ├── ReducedDamaged       the cached reduced copy of an original is damaged; handled within the server
        ├── PyramidDamaged       the cached pyramid of an original is damaged; handled within the server
        ├── PyramidNeeded        the request is answered from a pyramid of the original; handled within the server
        └── PyramidNotWritten    the disk does not take the pyramid; handled within the server

`handlers` turns each into a status. Workers send them to the server process, so each can be pickled.
"""

from __future__ import annotations

from md5s3stash.errors import StashError


class ThumbnailError(StashError):
    """There is no thumbnail."""


class RequestRefused(ThumbnailError):
    """A part of the request is not allowed. `code` is pilbox's code for it in the JSON error body."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class OriginalNotFound(ThumbnailError):
    """Nothing was stashed under this digest."""


class FetchTimedOut(ThumbnailError):
    """S3 is reachable but slow; a retry may succeed."""

    retryable = True


class ShownInParts(ThumbnailError):
    """The original is a video that is too large to be fetched: parts of it are read."""


class TooManyBytes(ThumbnailError):
    """A video that is too large to be fetched, and of which parts are not enough."""


class Overloaded(ThumbnailError):
    """Nothing is wrong with the request; it was not started."""

    retryable = True


class TooManyRequests(ThumbnailError):
    """`retry_after_seconds` is when the client has something of its share again."""

    retryable = True

    def __init__(self, client: str, retry_after_seconds: int) -> None:
        super().__init__(client, retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"Too many requests from {self.args[0]}: try again in {self.retry_after_seconds} seconds"


class PartNotFound(ThumbnailError):
    """The original has fewer pages than that."""


class NotAnImage(ThumbnailError):
    """No renderer of ours can read the original."""


class NotShown(NotAnImage):
    """A file that this server does not show, and that is not known to be damaged: it may get an icon."""


class TooManyPixels(ThumbnailError):
    """A decompression bomb, or a picture larger than this server's limit."""


class RenderTimedOut(ThumbnailError):
    """The render worker was killed; the next request gets a new one."""


class WorkerDied(ThumbnailError):
    """Only this request is lost; the next one gets a new worker."""

    retryable = True


class RenderFailed(ThumbnailError):
    """A bug. The worker's traceback goes to the log and not to the client."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return "The image could not be rendered because of an error in the server"


class ReducedDamaged(ThumbnailError):
    """The server then uses the original and makes the copy again."""

    retryable = True


class PyramidDamaged(ThumbnailError):
    """The pyramid is to be made again, from the original."""

    retryable = True


class PyramidNeeded(ThumbnailError):
    """The pyramid is to be made, and the request to be answered from it."""

    retryable = True


class PyramidNotWritten(ThumbnailError):
    """The pyramid is to be written elsewhere."""

    retryable = True
