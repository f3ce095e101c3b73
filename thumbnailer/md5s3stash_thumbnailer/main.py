"""The program `md5s3stash-thumbnailer`: `options` reads the command line, `app` runs the server."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from md5s3stash_thumbnailer.options import PROGRAM, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. Exit status: 0 stopped on request, 1 the port is in use, 2 wrong settings."""
    # Not above: a render worker imports this module, too.
    from md5s3stash import console

    # Until the server handles it, Ctrl-C ends the program at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = [sys.argv[0], *arguments] if arguments is not None else sys.argv
    return console.run(PROGRAM, lambda: _run(given))


def _run(arguments: Sequence[str]) -> int:
    settings = read_settings(arguments, os.environ)
    # Imports boto3, which neither --help nor a render worker needs.
    from md5s3stash_thumbnailer import app

    return app.run(settings)


if __name__ == "__main__":
    raise SystemExit(main())
