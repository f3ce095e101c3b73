"""Everything that can go wrong, as one tree. Adapters translate their vendor's errors into it and keep the cause.

    StashError                        retryable   exit code
    ├── SettingsError                 no          2
    ├── SourceError
    │   ├── SourceNotFound            no          1
    │   ├── SourceRefused             no          1      we will not read or fetch this
    │   ├── ListedDigestDiffers       no          1      a manifest lists another digest for it
    │   ├── SourceTooLarge            no          1
    │   ├── SourceUnreadable          no          1      permission, or not a regular file
    │   ├── SourceFailed              no          1      the origin answered with a final "no"
    │   ├── SourceUnavailable         yes         1      time-outs, 429, 5xx, DNS, a connection that broke
    │   ├── SourceChanged             yes         1      the bytes changed while we worked on them
    │   └── SourceOutOfReach          yes         1      no descriptor or memory left, a disk that does not work
    ├── StoreError
    │   ├── StoreUnavailable          yes         1      the store is down, slow or says "slow down"
    │   │   └── CredentialsUnavailable yes        1      this machine's credentials could not be renewed
    │   ├── StoreRefused              yes         1      no such bucket, access denied: an operator can mend it
    │   ├── DigestMismatch            yes         1      the store holds other bytes than were sent
    │   └── DigestCollision           no          1      another content is already stored under this md5
    ├── RedisUnavailable              yes         1      Redis is down
    └── QueueError
        ├── QueueUnavailable          yes         1      SQS is down, slow or says "slow down"
        └── QueueRefused              no          1      no such queue, access denied

`retryable` alone decides between a later retry and giving up. A message says what happened and what to do, and never
holds a credential or a signed URL.
"""

from __future__ import annotations

from typing import ClassVar


class StashError(Exception):
    """The root of every error that this project raises on purpose."""

    retryable: ClassVar[bool] = False
    exit_code: ClassVar[int] = 1


class SettingsError(StashError):
    """One or several settings or arguments are wrong; the message has a line for each."""

    exit_code = 2


class SourceError(StashError):
    """The bytes of a source could not be read or fetched."""


class SourceNotFound(SourceError):
    """There is no such file, or the origin answered 404 or 410."""


class SourceRefused(SourceError):
    """The source breaks a rule: its scheme, its address, a credential that would travel in the clear."""


class ListedDigestDiffers(SourceError):
    """The content is not the one that the checksum manifest of its delivery lists."""


class SourceTooLarge(SourceError):
    """The source has more bytes than the settings allow."""


class SourceUnreadable(SourceError):
    """The file may not be read, or it is not a regular file."""


class SourceFailed(SourceError):
    """The origin answered with a status that a retry will not change."""


class SourceUnavailable(SourceError):
    """The origin may answer later. `retry_after_seconds` holds what it asked for, if it did."""

    retryable = True

    def __init__(self, message: str, retry_after_seconds: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_seconds = retry_after_seconds


class SourceChanged(SourceError):
    """The bytes changed between two reads; nothing was stored."""

    retryable = True


class SourceOutOfReach(SourceError):
    """The machine or its disk cannot read the file at the moment; the file itself is not the cause."""

    retryable = True


class StoreError(StashError):
    """The object store did not take or give an object. `status` and `code` are those of its answer, if it gave one."""

    def __init__(self, message: str, status: int = 0, code: str = "") -> None:
        super().__init__(message)
        self.status = status
        self.code = code


class StoreUnavailable(StoreError):
    """The store is unreachable, answers 5xx, or asks to slow down."""

    retryable = True


class CredentialsUnavailable(StoreUnavailable):
    """The credentials could not be renewed: a problem of this machine, not an outage of the store."""


class StoreRefused(StoreError):
    """The store refused the request. Retryable: a bucket can be created and a policy corrected while the file waits."""

    retryable = True


class DigestMismatch(StoreError):
    """The ETag that came back is not the md5 that was sent."""

    retryable = True


class DigestCollision(StoreError):
    """Other bytes are stored under the key. Nothing was overwritten; keep the file and have a person inspect it."""


class RedisUnavailable(StashError):
    """Redis did not answer."""

    retryable = True


# The old name, kept for a release.
CacheUnavailable = RedisUnavailable


class QueueError(StashError):
    """The queue did not do what it was asked to do."""


class QueueUnavailable(QueueError):
    """SQS is unreachable, answers 5xx, or asks to slow down."""

    retryable = True


class QueueRefused(QueueError):
    """SQS refused the request. An operator can correct the cause; a daemon keeps trying."""
