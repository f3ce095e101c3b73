"""`python -m md5s3stash_thumbnailer` is `md5s3stash-thumbnailer`."""

from md5s3stash_thumbnailer.main import main

# Render workers are spawned and import this module again, under another name.
if __name__ == "__main__":
    raise SystemExit(main())
