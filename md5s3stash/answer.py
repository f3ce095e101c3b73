"""What an origin's answer means: where it redirects to, which error it is, how its body was encoded."""

from __future__ import annotations

import gzip
import io
import re
import time
from collections.abc import Mapping
from typing import TYPE_CHECKING, BinaryIO, cast
from urllib.parse import urljoin

from md5s3stash.errors import SourceError, SourceFailed, SourceNotFound, SourceRefused, SourceUnavailable
from md5s3stash.headers import retry_after_seconds
from md5s3stash.netguard import printable_url

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3.response import HTTPResponse

SHOWN_CHARACTERS = 200

_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_MULTIPLE_CHOICES = 300

_BEFORE_PATH = re.compile(rb"(?:[A-Za-z][A-Za-z0-9+.-]*:)?//[^/?#]*|")
_NOT_OF_A_URL = re.compile(rb"[^\x21-\x7e]")

# For one read of content, four times what `fetch` reads at once. A gzip file is hardly larger than its content.
_MAX_PACKED_BYTES = 1024 * 1024
_PACKED_READ_BYTES = 64 * 1024

# The codings that IANA registers, and others in use. Any other value of Content-Encoding describes the file itself.
_GZIP = frozenset({"gzip", "x-gzip"})
_COMPRESSIONS = _GZIP | frozenset(
    ("aes128gcm", "br", "bzip2", "compress", "dcb", "dcz", "deflate", "exi", "lz4", "lzma", "pack200-gzip", "peerdist",
     "sdch", "snappy", "x-bzip2", "x-compress", "x-deflate", "x-xz", "xz", "zstd")
)  # fmt: skip


def is_redirect(status: int, headers: Mapping[str, str]) -> bool:
    """Whether the answer is a redirect. 300 is one if it names its choice (RFC 9110, section 15.4.1)."""
    return status in _REDIRECTS or (status == _MULTIPLE_CHOICES and "Location" in headers)


def redirect_target(current: str, status: int, headers: Mapping[str, str]) -> str:
    """The URL that a redirect from `current` leads to; not checked yet."""
    location = headers.get("Location")
    if not location:
        raise SourceFailed(f"the origin answered {status} without a Location header")
    # http.client reads headers as Latin-1, a character for each byte.
    sent = location.encode("latin-1")
    before_path = sent[: len(_BEFORE_PATH.match(sent)[0])]  # type: ignore[index]  # it also matches the empty string
    try:
        # A host is UTF-8 or ASCII. A path may be in any character set, and is sent back byte for byte.
        return urljoin(current, before_path.decode() + _NOT_OF_A_URL.sub(_percent, sent[len(before_path) :]).decode())
    except ValueError as error:
        raise SourceRefused("redirected to something that is not a valid URL") from error


def _percent(matched: re.Match[bytes]) -> bytes:
    return b"%%%02X" % matched[0][0]


def shown_url(url: str) -> str:
    """The URL, shortened for messages: a Location may have 64 kB, and a list records a message for each line."""
    return printable_url(url)[:SHOWN_CHARACTERS]


def status_error(status: int, headers: Mapping[str, str]) -> SourceError:
    """The error for an answer that is not content."""
    answered = f"the origin answered {status}"
    if status in (404, 410):
        return SourceNotFound(answered)
    if status in (401, 403):
        return SourceFailed(
            f"{answered}: if it wants a password, give it with -u or --netrc; if it wants an API key, with "
            "fetch.headers_file"
        )
    # 202 with a time, however odd: the content is being made.
    if status in (408, 425, 429) or status >= 500 or (status == 202 and "Retry-After" in headers):
        return SourceUnavailable(answered, retry_after_seconds(headers.get("Retry-After"), time.time()))
    return SourceFailed(f"{answered}, which carries no content to stash")


def decoded(raw: HTTPResponse) -> BinaryIO:
    """The body as it was before the origin compressed it.

    Decodes only gzip. urllib3 could do more, but whether it decodes br and zstd depends on the installed packages, and
    it accepts a truncated gzip stream as complete.
    """
    # http.client would treat the framing of an unknown encoding as content.
    if raw.headers.get("Transfer-Encoding", "chunked") != "chunked":
        raise SourceFailed("the origin used a transfer encoding other than chunked")
    body = cast(BinaryIO, _Body(raw))
    encoding = raw.headers.get("Content-Encoding", "")
    if not encoding:
        return body
    compressions = [name for name in map(_coding, encoding.split(",")) if name in _COMPRESSIONS]
    if not compressions:
        return body
    if len(compressions) == 1 and compressions[0] in _GZIP:
        return cast(BinaryIO, _Unpacked(body))
    raise SourceFailed(
        f"the origin compressed the body as {encoding.lower()[:SHOWN_CHARACTERS]!r}, though it was asked not to"
    )


def _coding(part: str) -> str:
    return part.partition(";")[0].strip(' \t"').lower()


class _Packed(io.RawIOBase):
    """Compressed bytes, of which one read of content gets a limited number: a stream can continue without end and
    without content, and `max_bytes` counts content.
    """

    def __init__(self, body: BinaryIO) -> None:
        super().__init__()
        self._body = body
        self._left_bytes = 0

    def begin_read(self) -> None:
        self._left_bytes = _MAX_PACKED_BYTES

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int:
        view = memoryview(buffer)
        found = self._body.read(len(view))
        self._left_bytes -= len(found)
        if self._left_bytes < 0:
            raise gzip.BadGzipFile("too little content")
        view[: len(found)] = found
        return len(found)


class _Unpacked:
    """The content of a gzip stream."""

    def __init__(self, body: BinaryIO) -> None:
        self._packed = _Packed(body)
        # Buffered, because GzipFile reads a name or padding byte by byte.
        self._file = gzip.GzipFile(fileobj=io.BufferedReader(self._packed, _PACKED_READ_BYTES), mode="rb")

    def read(self, size: int) -> bytes:
        self._packed.begin_read()
        return self._file.read(size)


class _Body:
    """The part of a response that a reader of compressed bytes needs."""

    def __init__(self, raw: HTTPResponse) -> None:
        self._raw = raw

    def read(self, size: int) -> bytes:
        # Not read(): if a chunk claims a size of -1, http.client's read() reads everything into memory.
        return self._raw.read1(size, decode_content=False)
