"""The program `md5s3stash-migrate`: its arguments, and what is said of errors."""

from __future__ import annotations

import os
from collections.abc import Sequence

from md5s3stash.cli import INTERRUPTED
from md5s3stash.errors import StashError
from md5s3stash_migrate.options import build_parser, complain, read_options


def main(argv: Sequence[str] | None = None) -> int:
    """Runs the program; the exit status."""
    try:
        options = read_options(build_parser().parse_args(argv), os.environ)
        # What this imports (boto3) takes half a second, which --help need not wait for.
        from md5s3stash_migrate import app

        return app.run(options)
    except StashError as error:
        for line in str(error).splitlines():
            complain(line)
        return error.exit_code
    except OSError as error:
        complain(f"{error.filename or 'standard output'}: {error.strerror or error}")
        return 1
    except KeyboardInterrupt:
        complain("interrupted: what is copied is copied, the next run goes on from here")
        # The ordinary end would wait for each copy that is under way.
        os._exit(INTERRUPTED)
