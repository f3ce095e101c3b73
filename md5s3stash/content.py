"""The local bytes of a source together with their digest: what was hashed is what will be sent.

Up to `IN_MEMORY_BYTES` the bytes are one immutable buffer, so nothing can change between the digest and the upload. A
larger content is an open file; whoever sends it hashes it again on the way (see `VerifyingReader`) and stops before
the last byte where the two passes differ.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from md5s3stash.digest import CHUNK_BYTES, Digest, Hasher, digest_of, digest_of_stream
from md5s3stash.errors import SourceChanged

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

IN_MEMORY_BYTES = 8 * 1024 * 1024

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes on this machine, their digest, and the MIME type that their origin declared, if it did.

    Exactly one of `data` and `file` is set. Close it (or use it as a context manager): a downloaded file is unlinked
    already and its space is free again with the last descriptor.
    """

    digest: Digest
    declared_type: str | None = None
    data: bytes | None = None
    file: BinaryIO | None = None

    @property
    def size_bytes(self) -> int:
        return self.digest.size_bytes

    def reader(self) -> BinaryIO:
        """A new binary stream at the first byte, with a position of its own; of no use once the content is closed."""
        if self.file is None:
            return io.BytesIO(self.data or b"")
        return io.BufferedReader(FileReader(self.file.fileno(), self.size_bytes))

    def verifying_reader(self, progress: Progress | None = None) -> VerifyingReader:
        """The bytes of the file again, checked against the digest while they are read."""
        assert self.file is not None, "a buffer cannot change, so nothing verifies it"
        return VerifyingReader(self.file.fileno(), self.digest, progress)

    def close(self) -> None:
        if self.file is not None:
            self.file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


class ContentBuilder:
    """Takes chunks of unknown number, keeps them in memory and then in an unlinked temporary file, hashing on the
    way.
    """

    def __init__(self, temp_dir: str | None = None, memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self._hasher = Hasher()
        # Rolls over to an unlinked file on the disk of `temp_dir` by itself.
        self._spool: tempfile.SpooledTemporaryFile[bytes] = tempfile.SpooledTemporaryFile(  # noqa: SIM115
            max_size=memory_bytes, prefix="md5s3_", dir=temp_dir
        )
        self._memory_bytes = memory_bytes

    @property
    def size_bytes(self) -> int:
        return self._hasher.size_bytes

    def write(self, chunk: bytes) -> None:
        """Takes the next bytes. Raises OSError where the temporary disk is full."""
        self._spool.write(chunk)
        self._hasher.update(chunk)

    def finish(self, declared_type: str | None = None) -> Content:
        """Everything written so far as one content; the builder is of no use afterwards."""
        digest = self._hasher.digest()
        if digest.size_bytes <= self._memory_bytes:
            self._spool.seek(0)
            data = self._spool.read()
            self._spool.close()
            return Content(digest, declared_type, data=data)
        self._spool.flush()
        file = open(os.dup(self._spool.fileno()), "rb")  # noqa: SIM115 the content closes it
        self._spool.close()
        return Content(digest, declared_type, file=file)

    def discard(self) -> None:
        """Frees what was taken so far."""
        self._spool.close()


def content_of_file(file: BinaryIO, declared_type: str | None = None, progress: Progress | None = None) -> Content:
    """The content of an open regular file, which it takes over. Raises SourceChanged where somebody writes to it."""
    before = os.fstat(file.fileno())
    if before.st_size <= IN_MEMORY_BYTES:
        with file:
            # One byte more than there should be shows that it grows. A buffer is made in full before it is read into.
            data = file.read(before.st_size + 1)
            # Some file systems give less at once than there is.
            while len(data) < before.st_size and (more := file.read(before.st_size + 1 - len(data))):
                data += more
            _refuse_changed(before, os.fstat(file.fileno()), len(data))
        if progress is not None:
            progress(len(data))
        return Content(digest_of(data), declared_type, data=data)
    # Bounded, so that a file which grows faster than it is read comes to an end.
    with io.BufferedReader(FileReader(file.fileno(), before.st_size)) as reader:
        digest = digest_of_stream(reader, progress)
    _refuse_changed(before, os.fstat(file.fileno()), digest.size_bytes)
    return Content(digest, declared_type, file=file)


def _refuse_changed(before: os.stat_result, after: os.stat_result, read_bytes: int) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or read_bytes != after.st_size:
        raise SourceChanged("the file changed while it was read: stash it again once it is complete")


class FileReader(io.RawIOBase):
    """The first `size_bytes` of an open file from any number of readers at once: pread(2) leaves the shared offset
    alone.
    """

    def __init__(self, descriptor: int, size_bytes: int) -> None:
        super().__init__()
        self._descriptor = descriptor
        self._size_bytes = size_bytes
        self._position = 0

    def __len__(self) -> int:
        return self._size_bytes

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size_bytes}[whence]
        self._position = max(0, base + offset)
        return self._position

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        wanted = max(0, min(len(view), self._size_bytes - self._position, CHUNK_BYTES))
        data = os.pread(self._descriptor, wanted, self._position)
        view[: len(data)] = data
        self._position += len(data)
        return len(data)


class VerifyingReader(FileReader):
    """A file that hands out its last byte only if all its bytes had the digest that was promised.

    An HTTP client that takes its body from here can therefore never complete a request with other bytes: the server
    waits for the rest, the connection breaks, and nothing is stored. `seek(0)` starts over, as clients do for a
    retry; seeking elsewhere is for asking the length, and reading there is refused.
    """

    def __init__(self, descriptor: int, digest: Digest, progress: Progress | None = None) -> None:
        super().__init__(descriptor, digest.size_bytes)
        self._expected = digest
        self._progress = progress
        self._begin()

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        start = self.tell()
        if start == 0:
            self._begin()
        elif start != self._hashed_bytes and start < len(self):
            raise io.UnsupportedOperation("only a whole pass from the first byte can be verified")
        count = super().readinto(buffer)
        if start == len(self):
            return count
        self._sha256.update(memoryview(buffer).cast("B")[:count])
        self._hashed_bytes += count
        if count == 0 or (self.tell() == len(self) and self._sha256.hexdigest() != self._expected.sha256):
            raise SourceChanged("the file changed between hashing and upload: nothing was stored, stash it again")
        if self._progress is not None:
            self._progress(count)
        return count

    def _begin(self) -> None:
        # Bytes with this SHA-256 have the md5 that went with it, so the second pass need not take both.
        self._sha256 = hashlib.sha256()
        self._hashed_bytes = 0
