"""What a request for a thumbnail can run into, as a branch of the project's error tree.

    StashError
    └── ThumbnailError
        ├── RequestRefused       the request itself is wrong; nothing was fetched
        ├── OriginalNotFound     no object stands under the digest
        ├── FetchTimedOut        S3 did not give the original in time
        ├── NotAnImage           the original is not a picture, a broken one, or of a kind that pilbox does not know
        ├── TooManyPixels        the original or the thumbnail would be too large to hold in memory
        ├── Overloaded           more is asked than can be done: later, please
        ├── TooManyRequests      one client asks for more than its share
        ├── RenderTimedOut       the picture took longer to draw than is allowed
        ├── WorkerDied           the render worker ended in the middle, killed from outside or by the picture
        ├── RenderFailed         an error of this program, not of the picture
        └── ReducedDamaged       the cached reduced copy of an original is not what was written; never leaves the server

`handlers` turns each into a status. All of them cross the border between processes, so each can be pickled.
"""

from __future__ import annotations

from md5s3stash.errors import StashError


class ThumbnailError(StashError):
    """No thumbnail can be given."""


class RequestRefused(ThumbnailError):
    """A part of the request is out of bounds. `code` is the one in pilbox's JSON error body for that fault."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message, code)
        self.code = code

    def __str__(self) -> str:
        return str(self.args[0])


class OriginalNotFound(ThumbnailError):
    """Nothing was stashed under this digest."""


class FetchTimedOut(ThumbnailError):
    """S3 is reachable but slow; another try may go better."""

    retryable = True


class Overloaded(ThumbnailError):
    """Nothing is wrong with the request; it was not begun."""

    retryable = True


class TooManyRequests(ThumbnailError):
    """`retry_after_seconds` is when the client has something of its share again."""

    retryable = True

    def __init__(self, client: str, retry_after_seconds: int) -> None:
        super().__init__(client, retry_after_seconds)
        self.retry_after_seconds = retry_after_seconds

    def __str__(self) -> str:
        return f"Too many requests from {self.args[0]}: try again in {self.retry_after_seconds} seconds"


class NotAnImage(ThumbnailError):
    """No renderer of ours can read the original."""


class TooManyPixels(ThumbnailError):
    """A decompression bomb, or a picture beyond what this server is set up to hold."""


class RenderTimedOut(ThumbnailError):
    """The render worker was ended; the next request has a new one."""


class WorkerDied(ThumbnailError):
    """Only this request is lost; the next one has a new worker."""

    retryable = True


class RenderFailed(ThumbnailError):
    """A bug. The worker's traceback is for the log; who asked is not shown it."""

    def __init__(self, traceback: str) -> None:
        super().__init__(traceback)
        self.traceback = traceback

    def __str__(self) -> str:
        return "The image could not be rendered, through a fault of the server"


class ReducedDamaged(ThumbnailError):
    """The original is to be taken instead, from which the copy is made again."""

    retryable = True
