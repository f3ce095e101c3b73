"""The local bytes of a source together with their digest: what was hashed is what will be sent.

Up to `IN_MEMORY_BYTES` the bytes are one immutable buffer, so nothing can change between the digest and the upload. A
larger content is an open file. The pass that hashes it takes a fingerprint of each block as well. It is sent through
`VerifyingReader`, which never returns a byte of a block that has changed since.
"""

from __future__ import annotations

import hashlib
import io
import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO, Self

from md5s3stash.digest import Digest, Hasher, digest_of
from md5s3stash.errors import SourceChanged
from md5s3stash.fingerprints import BLOCK_BYTES, Fingerprints

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer

IN_MEMORY_BYTES = 8 * 1024 * 1024

Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True)
class Content:
    """Bytes on this machine, their digest, and the MIME type that their origin declared, if any.

    Either `data` is set, or `file` with the fingerprints of its blocks. Close it (or use it as a context manager): a
    downloaded file is already unlinked, and closing its last descriptor frees the space.
    """

    digest: Digest
    declared_type: str | None = None
    data: bytes | None = None
    file: BinaryIO | None = None
    fingerprints: Fingerprints | None = None
    # Further digests that were asked for, in hex, by algorithm.
    further: Mapping[str, str] | None = None

    @property
    def size_bytes(self) -> int:
        return self.digest.size_bytes

    def reader(self) -> BinaryIO:
        """A new binary stream at the first byte, with a position of its own; not usable once the content is closed."""
        if self.file is None:
            return io.BytesIO(self.data or b"")
        return io.BufferedReader(FileReader(self.file.fileno(), self.size_bytes))

    def verifying_reader(self, progress: Progress | None = None, piece: range | None = None) -> VerifyingReader:
        """Reads the file, or a piece of it, again, and compares each block with its fingerprint."""
        assert self.file is not None, "a buffer cannot change"
        assert self.fingerprints is not None
        whole = range(self.size_bytes)
        return VerifyingReader(self.file.fileno(), self.size_bytes, self.fingerprints, piece or whole, progress)

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
    """Collects chunks, first in memory and then in an unlinked temporary file, and hashes them on the way."""

    def __init__(self, temp_dir: str | None = None, memory_bytes: int = IN_MEMORY_BYTES) -> None:
        self._hasher = Hasher()
        self._fingerprints = Fingerprints()
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
        self._fingerprints.update(chunk)

    def finish(self, declared_type: str | None = None) -> Content:
        """Everything written so far as one content; the builder cannot be used afterwards."""
        digest = self._hasher.digest()
        if digest.size_bytes <= self._memory_bytes:
            self._spool.seek(0)
            data = self._spool.read()
            self._spool.close()
            return Content(digest, declared_type, data=data)
        self._spool.flush()
        file = open(os.dup(self._spool.fileno()), "rb")  # noqa: SIM115 the content closes it
        self._spool.close()
        self._fingerprints.finish()
        return Content(digest, declared_type, file=file, fingerprints=self._fingerprints)

    def discard(self) -> None:
        """Frees what was taken so far."""
        self._spool.close()


def content_of_file(
    file: BinaryIO, declared_type: str | None = None, progress: Progress | None = None, further: Sequence[str] = ()
) -> Content:
    """The content of an open regular file; closing the content closes the file. `further` names algorithms of hashlib
    whose digests are computed in the same read. Raises SourceChanged if the file changes.
    """
    hashers = {algorithm: hashlib.new(algorithm, usedforsecurity=False) for algorithm in further}
    before = os.fstat(file.fileno())
    if before.st_size <= IN_MEMORY_BYTES:
        with file:
            # One byte more than expected shows that the file grows. Not larger: read(n) allocates n bytes before it
            # reads.
            data = file.read(before.st_size + 1)
            # Some file systems return less than was asked for.
            while len(data) < before.st_size and (more := file.read(before.st_size + 1 - len(data))):
                data += more
            _refuse_changed(before, os.fstat(file.fileno()), len(data))
        if progress is not None:
            progress(len(data))
        for hasher in hashers.values():
            hasher.update(data)
        return Content(digest_of(data), declared_type, data=data, further=_hex(hashers))
    # Bounded, so that reading ends even if the file grows faster than it is read.
    digest, fingerprints = _first_pass(FileReader(file.fileno(), before.st_size), progress, list(hashers.values()))
    _refuse_changed(before, os.fstat(file.fileno()), digest.size_bytes)
    return Content(digest, declared_type, file=file, fingerprints=fingerprints, further=_hex(hashers))


def _hex(hashers: Mapping[str, hashlib._Hash]) -> Mapping[str, str] | None:
    return {algorithm: hasher.hexdigest() for algorithm, hasher in hashers.items()} or None


def _first_pass(
    reader: FileReader, progress: Progress | None, hashers: Sequence[hashlib._Hash]
) -> tuple[Digest, Fingerprints]:
    """The digest and fingerprints of a large file, needed before its first byte can be sent; in constant memory."""
    md5, sha256, fingerprints = hashlib.md5(usedforsecurity=False), hashlib.sha256(), Fingerprints()
    size_bytes = 0

    def beside(block: memoryview, following: memoryview) -> memoryview:
        sha256.update(block)
        fingerprints.update(block)
        for hasher in hashers:
            hasher.update(block)
        return following[: reader.readinto(following)]

    block, following = memoryview(bytearray(BLOCK_BYTES)), memoryview(bytearray(BLOCK_BYTES))
    # md5 takes twice as long as all the rest, and hashlib releases the GIL: so a second thread does the rest.
    with ThreadPoolExecutor(1, thread_name_prefix="sha256") as other:
        filled = block[: reader.readinto(block)]
        while filled:
            rest = other.submit(beside, filled, following)
            md5.update(filled)
            size_bytes += len(filled)
            if progress is not None:
                progress(len(filled))
            filled = rest.result()
            block, following = following, block
    fingerprints.finish()
    return Digest(md5.hexdigest(), sha256.hexdigest(), size_bytes), fingerprints


def _refuse_changed(before: os.stat_result, after: os.stat_result, read_bytes: int) -> None:
    if (before.st_size, before.st_mtime_ns) != (after.st_size, after.st_mtime_ns) or read_bytes != after.st_size:
        raise SourceChanged("the file changed while it was read: stash it again once it is complete")


class FileReader(io.RawIOBase):
    """The first `size_bytes` of an open file. Any number of readers may share the file: pread(2) does not move its
    offset.
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
        wanted = max(0, min(len(view), self._size_bytes - self._position))
        count = os.preadv(self._descriptor, [view[:wanted]], self._position)
        self._position += count
        return count


class VerifyingReader(FileReader):
    """A piece of a file, exactly as it was when it was hashed.

    A block is read as a whole and compared before any byte of it is returned. So an HTTP client that reads its body
    from here can never complete a request with other bytes: the server waits for the rest, the connection breaks, and
    nothing is stored. A client may seek, for example to retry from the start.
    """

    def __init__(
        self, descriptor: int, file_bytes: int, fingerprints: Fingerprints, piece: range, progress: Progress | None
    ) -> None:
        super().__init__(descriptor, len(piece))
        self._file_bytes = file_bytes
        self._fingerprints = fingerprints
        self._start = piece.start
        self._progress = progress
        self._number = -1
        self._block = b""

    def take(self, at_most: int) -> bytes:
        """The next bytes, all from one block; empty at the end. Raises SourceChanged."""
        number, offset = divmod(self._start + self._position, BLOCK_BYTES)
        count = min(at_most, BLOCK_BYTES - offset, len(self) - self._position)
        if count <= 0:
            return b""
        if number != self._number:
            self._load(number)
        self._position += count
        if self._progress is not None:
            self._progress(count)
        return self._block[offset : offset + count]

    def readinto(self, buffer: WriteableBuffer, /) -> int:
        view = memoryview(buffer).cast("B")
        data = self.take(len(view))
        view[: len(data)] = data
        return len(data)

    def _load(self, number: int) -> None:
        start = number * BLOCK_BYTES
        wanted = min(BLOCK_BYTES, self._file_bytes - start)
        block = os.pread(self._descriptor, wanted, start)
        # A network file system may return less than was asked for.
        while len(block) < wanted and (more := os.pread(self._descriptor, wanted - len(block), start + len(block))):
            block += more
        if not self._fingerprints.match(number, block):
            raise SourceChanged("the file changed between hashing and upload: nothing was stored, stash it again")
        self._number, self._block = number, block
