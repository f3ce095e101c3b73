"""`python -m md5s3stash_daemon`."""

import sys

from md5s3stash_daemon.main import main

sys.exit(main())
