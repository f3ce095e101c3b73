"""Uploads a file in parts, several at once: where the parts begin and end, and what happens to all if one fails.

The adapter sends the parts. Memory does not grow with the file: a part is read twice by blocks, once for its md5 and
once to be sent.
"""

from __future__ import annotations

import base64
import hashlib
import logging
import threading
from collections.abc import Callable, Mapping
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from dataclasses import dataclass
from itertools import count
from typing import Any

from botocore.exceptions import ClientError

from md5s3stash.content import Content, Progress
from md5s3stash.fingerprints import BLOCK_BYTES
from md5s3stash.s3.boto_errors import code_of
from md5s3stash.s3.client import BOTO_ERRORS

log = logging.getLogger(__name__)

# The most bytes of one request, and the most parts of one upload (AWS, "Multipart upload limits").
SINGLE_PUT_MAX_BYTES = 5 * 1024**3
MAX_PARTS = 10_000
PART_BYTES = 32 * 1024 * 1024


@dataclass(frozen=True, slots=True)
class Part:
    """One part and the md5 of its bytes; S3 returns that md5 as the ETag, unless it encrypts."""

    number: int
    piece: range
    md5: bytes

    @property
    def md5_base64(self) -> str:
        return base64.b64encode(self.md5).decode("ascii")


@dataclass(frozen=True, slots=True)
class SentPart:
    """A part that is in the store, and the ETag by which the completion names it."""

    part: Part
    etag: str

    def as_request(self) -> dict[str, object]:
        return {"PartNumber": self.part.number, "ETag": self.etag}


class _BrokenOff(BaseException):
    """Another part has failed, so this one is no longer wanted. Not an Exception: boto3 would retry."""


class PartsSender:
    """Sends parts, `at_once` of them for all uploads together."""

    def __init__(self, at_once: int = 4) -> None:
        self._at_once = at_once
        self._lock = threading.Lock()
        self._pool: ThreadPoolExecutor | None = None

    def send(
        self, content: Content, part_bytes: int, send: Callable[[Part, Progress], SentPart], progress: Progress | None
    ) -> list[SentPart]:
        """Sends every part and returns them in order. If one fails, the others are aborted; once all have stopped, its
        error is raised.
        """
        faults: list[BaseException] = []
        broken_off = threading.Event()

        def go_on(count: int) -> None:
            if broken_off.is_set():
                raise _BrokenOff
            if progress is not None:
                progress(count)

        def hash_and_send(number: int, piece: range) -> SentPart:
            try:
                return send(Part(number, piece, _md5_of(content, piece)), go_on)
            except BaseException as fault:
                faults.append(fault)
                broken_off.set()
                raise

        pool = self._started()
        futures = [
            pool.submit(hash_and_send, number, piece)
            for number, piece in zip(count(1), pieces(content.size_bytes, part_bytes), strict=False)
        ]
        try:
            wait(futures, return_when=FIRST_EXCEPTION)
        finally:
            broken_off.set()
            for future in futures:
                future.cancel()
            wait(futures)
        if faults:
            raise faults[0]
        return [future.result() for future in futures]

    def _started(self) -> ThreadPoolExecutor:
        # Only when it is needed: a process with threads must not fork.
        with self._lock:
            if self._pool is None:
                self._pool = ThreadPoolExecutor(self._at_once, thread_name_prefix="parts")
            return self._pool


def pieces(size_bytes: int, part_bytes: int) -> list[range]:
    """The ranges of the parts: at least `part_bytes` each, in whole blocks, and not more parts than S3 allows."""
    step = max(part_bytes, -(-size_bytes // MAX_PARTS))
    step = -(-step // BLOCK_BYTES) * BLOCK_BYTES
    return [range(start, min(start + step, size_bytes)) for start in range(0, size_bytes, step)]


def etag_of_parts(md5s: list[bytes]) -> str:
    """The ETag of a multipart object: the md5 of its parts' binary md5s, a dash, the number of parts."""
    return f"{hashlib.md5(b''.join(md5s), usedforsecurity=False).hexdigest()}-{len(md5s)}"


def abort(client: Any, upload: Mapping[str, str]) -> None:
    """Removes the parts of an upload that failed. An error is only logged: the one that failed the upload matters more,
    and the bucket's lifecycle rule removes stale parts.
    """
    try:
        client.abort_multipart_upload(**upload)
    except BOTO_ERRORS as error:
        if not (isinstance(error, ClientError) and code_of(error) == "NoSuchUpload"):
            log.warning(
                "abort of a multipart upload failed bucket=%s key=%s: %s", upload["Bucket"], upload["Key"], error
            )


def _md5_of(content: Content, piece: range) -> bytes:
    md5 = hashlib.md5(usedforsecurity=False)
    with content.verifying_reader(piece=piece) as reader:
        while block := reader.take(BLOCK_BYTES):
            md5.update(block)
    return md5.digest()
