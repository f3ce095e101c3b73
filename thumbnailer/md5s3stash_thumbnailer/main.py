"""The program `md5s3stash-thumbnailer`: `options` reads the command line, `app` does what it says."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Sequence

from md5s3stash_thumbnailer.options import PROGRAM, read_settings


def main(arguments: Sequence[str] | None = None) -> int:
    """Serves until SIGTERM or SIGINT. 0 after an orderly stop, 1 where the port cannot be had, 2 on wrong settings."""
    # Not above: a render worker imports this module, too.
    from md5s3stash import console

    # Until the server listens for it, Ctrl-C ends it at once and without a traceback.
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    given = [sys.argv[0], *arguments] if arguments is not None else sys.argv
    return console.run(PROGRAM, lambda: _run(given))


def _run(arguments: Sequence[str]) -> int:
    settings = read_settings(arguments, os.environ)
    # What this imports (boto3) --help need not wait for, nor does a render worker need it.
    from md5s3stash_thumbnailer import app

    return app.run(settings)


if __name__ == "__main__":
    raise SystemExit(main())
