"""`python -m md5s3stash_migrate` is md5s3stash-migrate."""

import sys

from md5s3stash_migrate.main import main

sys.exit(main())
