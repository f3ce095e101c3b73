"""The program `md5s3stash-migrate`: its arguments and errors."""

from __future__ import annotations

import os
from collections.abc import Sequence

from md5s3stash import console
from md5s3stash_migrate.options import PROGRAM, build_parser, read_options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program and returns its exit status."""
    return console.run(PROGRAM, lambda: _run(argv), interrupted="interrupted: run the same command to resume")


def _run(argv: Sequence[str] | None) -> int:
    options = read_options(build_parser().parse_args(argv), os.environ)
    # Importing boto3 takes half a second, which --help does not need.
    from md5s3stash_migrate import app

    return app.run(options)
