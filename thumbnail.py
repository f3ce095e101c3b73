"""The name of 2014: `python thumbnail.py --position=face`. The program is md5s3stash-thumbnailer."""

from md5s3stash_thumbnailer.main import main

if __name__ == "__main__":
    raise SystemExit(main())
