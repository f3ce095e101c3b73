"""`python -m md5s3stash` is the command."""

import sys

from md5s3stash.cli import main

sys.exit(main())
