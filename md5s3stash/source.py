"""The source that a caller asks to stash: a path, a file:// URL or an http(s) URL, parsed once and then opened."""

from __future__ import annotations

import errno
import mimetypes
import os
import re
import stat
from collections.abc import Sequence
from dataclasses import dataclass
from urllib.parse import unquote_to_bytes, urlsplit

from md5s3stash.content import Content, Progress, content_of_file
from md5s3stash.errors import (
    SourceError,
    SourceNotFound,
    SourceOutOfReach,
    SourceRefused,
    SourceTooLarge,
    SourceUnreadable,
)

_URL = re.compile(r"(?P<scheme>[A-Za-z][A-Za-z0-9+.-]*):(?=//)|(?P<file>file):(?=/)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class LocalFile:
    """A file on this machine. `path` may hold any bytes (as surrogates)."""

    path: str


@dataclass(frozen=True, slots=True)
class RemoteUrl:
    """An http or https URL."""

    url: str

    @property
    def host(self) -> str:
        return urlsplit(self.url).hostname or ""


Source = LocalFile | RemoteUrl

# Errors of sockets, devices without a driver, circular links, and names that no file can have.
_OF_THE_PATH = frozenset({errno.ENXIO, errno.ENODEV, errno.ELOOP, errno.ENAMETOOLONG, errno.EINVAL, errno.EISDIR})


def parse_source(text: str) -> Source:
    """A path if no scheme is named, else an http, https or file URL. Raises SourceRefused for anything else."""
    if "\0" in text or not text:
        raise SourceRefused("the source is empty or holds a NUL byte")
    matched = _URL.match(text)
    if matched is None:
        return LocalFile(text)
    scheme = (matched["scheme"] or matched["file"]).lower()
    if scheme in ("http", "https"):
        return RemoteUrl(text)
    if scheme == "file":
        return LocalFile(_path_of(text))
    raise SourceRefused(f"the scheme {scheme}: is not supported: give a path, or a file://, http:// or https:// URL")


def _path_of(url: str) -> str:
    host, slash, path = url.partition(":")[2].removeprefix("//").partition("/")
    if host not in ("", "localhost"):
        raise SourceRefused(f"a file:// URL names a file on this machine: three slashes, not the host {host!r}")
    # Callers build these by putting "file://" before a path, so '?' and '#' are characters of the name here.
    unquoted = os.fsdecode(unquote_to_bytes(os.fsencode(slash + path)))
    if "\0" in unquoted:
        raise SourceRefused("the source holds a NUL byte")
    return unquoted


def open_local(source: LocalFile, max_bytes: int | None = None, progress: Progress | None = None) -> Content:
    """The content of a local file. Raises SourceNotFound, SourceUnreadable, SourceOutOfReach, SourceTooLarge or
    SourceChanged.
    """
    try:
        # Non-blocking: a FIFO would wait for its writer.
        descriptor = os.open(source.path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError as error:
        raise open_error(error) from error
    return content_of_descriptor(descriptor, source.path, max_bytes, progress)


def content_of_descriptor(
    descriptor: int,
    name: str,
    max_bytes: int | None = None,
    progress: Progress | None = None,
    further: Sequence[str] = (),
) -> Content:
    """The content of an open file; it takes over the descriptor. `further`: see `content_of_file`. Raises as
    `open_local`.
    """
    status = os.fstat(descriptor)
    if not stat.S_ISREG(status.st_mode):
        os.close(descriptor)
        raise SourceUnreadable("not a regular file: " + _kind(status.st_mode))
    # Read at once or by pread(2), so a buffer is not needed.
    file = open(descriptor, "rb", buffering=0)  # noqa: SIM115 the content closes it
    try:
        if max_bytes is not None and status.st_size > max_bytes:
            raise SourceTooLarge(f"the file has {status.st_size} bytes, more than the {max_bytes} that are allowed")
        return content_of_file(file, declared_type(name), progress, further)
    except OSError as error:
        file.close()
        raise SourceOutOfReach(f"reading failed: {error.strerror}") from error
    except BaseException:
        file.close()
        raise


def declared_type(name: str) -> str | None:
    """The MIME type that a file's name suggests."""
    # OpenSSH and others write `.sig` too. libmagic knows those of PGP by their bytes.
    suggested = mimetypes.guess_type(os.path.basename(name), strict=False)[0]
    return None if suggested == "application/pgp-signature" else suggested


def open_error(error: OSError) -> SourceError:
    """The error of our tree for a failed open(2). A retry may help unless the path or the mode is the cause."""
    if isinstance(error, (FileNotFoundError, NotADirectoryError)):
        return SourceNotFound("no such file")
    if isinstance(error, PermissionError):
        return SourceUnreadable("permission denied: make the file readable for this user")
    if error.errno in _OF_THE_PATH:
        return SourceUnreadable(f"cannot be opened: {error.strerror}")
    return SourceOutOfReach(f"cannot be opened: {error.strerror}")


def _kind(mode: int) -> str:
    kinds = {
        stat.S_IFDIR: "a directory",
        stat.S_IFIFO: "a FIFO",
        stat.S_IFSOCK: "a socket",
        stat.S_IFCHR: "a device",
        stat.S_IFBLK: "a device",
    }
    return kinds.get(stat.S_IFMT(mode), "something else")
