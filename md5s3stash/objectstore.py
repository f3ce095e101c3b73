"""What the stash needs from a store of any vendor: the port, its values, and the rule for "the same content".

Adapters implement `ObjectStore` and pass the contract suite in tests/contracts. They raise from our error tree only.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from md5s3stash.content import Content, Progress
from md5s3stash.digest import Digest
from md5s3stash.errors import DigestCollision, SourceTooLarge
from md5s3stash.scheme import ObjectAddress

# The address is the content, so no copy of it ever grows stale (RFC 8246).
IMMUTABLE = "public, max-age=31536000, immutable"

# S3's own SHA-256 of a multipart object is a digest of its parts' checksums; some stores keep no checksum at all. The
# user metadata of this name holds the digest of the whole object on every store.
SHA256_METADATA = "sha256"


class PutOutcome(StrEnum):
    """What a put did."""

    STORED = "stored"
    ALREADY_THERE = "already there"


@dataclass(frozen=True, slots=True)
class StoredObject:
    """What a store knows about an object. `md5` and `sha256` (hex) are None if it does not know them.

    `last_modified` is in seconds since the epoch; a download has it if the store sends it. `is_proof` is False if
    nothing in the answer stands for the bytes, as where the ETag is empty: the object may not even be there.
    """

    size_bytes: int
    md5: str | None
    sha256: str | None
    content_type: str | None = None
    cache_control: str | None = None
    last_modified: float | None = None
    is_proof: bool = True


@dataclass(frozen=True, slots=True)
class ObjectPart:
    """Some bytes of an object, the ETag of the object, and what the store knows about all of it."""

    data: bytes
    etag: str
    stored: StoredObject


class Sink(Protocol):
    """Takes bytes as they come: a file, or an object that counts and hashes them on their way to a file."""

    def write(self, data: bytes, /) -> object: ...


class ObjectStore(Protocol):
    """A content-addressed use of an object store. Implementations are safe to share between threads."""

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        """Makes sure that exactly this content is at the address, and never replaces another one.

        Raises DigestCollision if other bytes are there, SourceChanged where a file changed under the upload (nothing is
        stored then), DigestMismatch, StoreUnavailable and StoreRefused.
        """
        ...

    def head(self, address: ObjectAddress) -> StoredObject | None:
        """The object at the address, or None."""
        ...

    def has(self, address: ObjectAddress, digest: Digest) -> bool:
        """Whether this content is at the address. Raises DigestCollision if another one is."""
        ...

    def get(self, address: ObjectAddress, max_bytes: int) -> bytes | None:
        """The bytes at the address; None if nothing is there. Raises SourceTooLarge above `max_bytes`."""
        ...

    def download(self, address: ObjectAddress, sink: Sink, max_bytes: int) -> StoredObject | None:
        """Writes the bytes at the address to `sink` in pieces. If nothing is there, it writes nothing and returns None.

        Raises SourceTooLarge above `max_bytes`, and any error of `sink`. The bytes are not compared with any digest.
        """
        ...

    def check(self, bucket: str) -> None:
        """Raises StoreUnavailable where the store does not answer, StoreRefused where the bucket cannot be used."""
        ...


def is_same_content(stored: StoredObject, digest: Digest) -> bool:
    """Whether everything that the store knows of an object agrees with the digest."""
    return (
        stored.size_bytes == digest.size_bytes
        and stored.md5 in (None, digest.md5)
        and stored.sha256 in (None, digest.sha256)
    )


def require_same_content(address: ObjectAddress, stored: StoredObject, digest: Digest) -> None:
    """Raises DigestCollision unless the object is this content."""
    if is_same_content(stored, digest):
        return
    raise DigestCollision(
        f"{address.s3_url} holds another content: {stored.size_bytes} bytes, sha-256 {stored.sha256 or 'not known'}, "
        f"where the file has {digest.size_bytes} bytes, sha-256 {digest.sha256}; nothing was overwritten, keep the file"
    )


def require_at_most(address: ObjectAddress, size_bytes: int, max_bytes: int) -> None:
    """Raises SourceTooLarge if an object is larger than its reader allows."""
    if size_bytes > max_bytes:
        raise SourceTooLarge(f"{address.s3_url} has {size_bytes} bytes, more than the {max_bytes} that are allowed")


class MemoryObjectStore:
    """An object store in a dictionary, for tests: it passes the contract suite that the real ones pass."""

    def __init__(self) -> None:
        self.objects: dict[ObjectAddress, tuple[bytes, StoredObject]] = {}

    def put(
        self, address: ObjectAddress, content: Content, mime_type: str, progress: Progress | None = None
    ) -> PutOutcome:
        digest = content.digest
        if self.has(address, digest):
            return PutOutcome.ALREADY_THERE
        if content.data is not None:
            data = content.data
        else:
            with content.verifying_reader(progress) as reader:
                data = reader.read() or b""
        stored = StoredObject(len(data), digest.md5, digest.sha256, mime_type, IMMUTABLE)
        self.objects.setdefault(address, (data, stored))
        return PutOutcome.STORED

    def head(self, address: ObjectAddress) -> StoredObject | None:
        entry = self.objects.get(address)
        return entry[1] if entry else None

    def has(self, address: ObjectAddress, digest: Digest) -> bool:
        standing = self.head(address)
        if standing is not None:
            require_same_content(address, standing, digest)
        return standing is not None

    def get(self, address: ObjectAddress, max_bytes: int) -> bytes | None:
        entry = self.objects.get(address)
        if entry is None:
            return None
        require_at_most(address, len(entry[0]), max_bytes)
        return entry[0]

    def download(self, address: ObjectAddress, sink: Sink, max_bytes: int) -> StoredObject | None:
        data = self.get(address, max_bytes)
        if data is None:
            return None
        sink.write(data)
        return self.objects[address][1]

    def check(self, bucket: str) -> None:
        pass
