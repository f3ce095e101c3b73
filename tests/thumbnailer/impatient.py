"""The thumbnailer, but while it is not ready it looks at S3 again after half a second, not after five."""

from md5s3stash_thumbnailer.main import main
from md5s3stash_thumbnailer.server import readiness

if __name__ == "__main__":
    readiness.UNWELL_SECONDS = 0.5
    raise SystemExit(main())
