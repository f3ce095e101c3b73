"""The thumbnailer, whose render workers are forks (`tests.support.render_forks`)."""

from md5s3stash_thumbnailer.main import main
from tests.support.render_forks import fork_workers

if __name__ == "__main__":
    fork_workers()
    raise SystemExit(main())
