"""The digests of a content, taken in one pass. md5 is the address; sha-256 distinguishes a collision from a second
copy.
"""

from __future__ import annotations

import base64
import hashlib
import re
from dataclasses import dataclass

_MD5_HEX = re.compile(r"[0-9a-fA-F]{32}")


@dataclass(frozen=True, slots=True)
class Digest:
    """What identifies a content: `md5` and `sha256` in lower-case hex, and its size in bytes."""

    md5: str
    sha256: str
    size_bytes: int

    @property
    def md5_base64(self) -> str:
        """The form of the Content-MD5 header (RFC 1864)."""
        return base64.b64encode(bytes.fromhex(self.md5)).decode("ascii")

    @property
    def sha256_base64(self) -> str:
        """The form of S3's x-amz-checksum-sha256 header."""
        return base64.b64encode(bytes.fromhex(self.sha256)).decode("ascii")


class Hasher:
    """Computes both digests from the bytes fed to it; `digest()` may be called at any time."""

    def __init__(self) -> None:
        # md5 is an address here, not a protection, so a FIPS build of OpenSSL has no reason to refuse it.
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()
        self.size_bytes = 0

    def update(self, data: bytes | memoryview) -> None:
        self._md5.update(data)
        self._sha256.update(data)
        self.size_bytes += len(data)

    # For code that writes to a file object.
    write = update

    def digest(self) -> Digest:
        return Digest(self._md5.hexdigest(), self._sha256.hexdigest(), self.size_bytes)


def digest_of(data: bytes) -> Digest:
    """The digest of a buffer."""
    hasher = Hasher()
    hasher.update(data)
    return hasher.digest()


def is_md5(text: str) -> bool:
    """Whether the text is an md5 in hex, of either case."""
    return _MD5_HEX.fullmatch(text) is not None
