"""Collects libtiff's error messages while Pillow decodes a TIFF.

libtiff continues after some errors: unreadable rows of a fax come out white. It reports them only on standard error,
which is the server's log.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from md5s3stash_thumbnailer.errors import NotAnImage

_STDERR = 2
_MAX_SHOWN_BYTES = 200


@contextmanager
def errors_raised(is_strict: bool) -> Iterator[None]:
    """Raises NotAnImage if libtiff has reported errors and `is_strict` is set. For a process with one thread."""
    with open(os.memfd_create("libtiff"), "w+b", buffering=0) as heard:
        before = os.dup(_STDERR)
        os.dup2(heard.fileno(), _STDERR)
        try:
            yield
        finally:
            os.dup2(before, _STDERR)
            os.close(before)
        heard.seek(0)
        said = heard.read(_MAX_SHOWN_BYTES).decode("latin-1").partition("\n")[0]
    if said and is_strict:
        raise NotAnImage(f"The TIFF is damaged: {said}")
