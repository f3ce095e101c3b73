"""The program `md5s3stash-migrate`: its arguments, and what is said of errors."""

from __future__ import annotations

import os
from collections.abc import Sequence

from md5s3stash import console
from md5s3stash_migrate.options import PROGRAM, build_parser, read_options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; the exit status."""
    return console.run(
        PROGRAM, lambda: _run(argv), interrupted="interrupted: what is copied is copied, the next run goes on from here"
    )


def _run(argv: Sequence[str] | None) -> int:
    options = read_options(build_parser().parse_args(argv), os.environ)
    # What this imports (boto3) takes half a second, which --help need not wait for.
    from md5s3stash_migrate import app

    return app.run(options)
