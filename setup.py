"""Where the four import packages lie; everything else is declared in pyproject.toml.

One distribution holds them all, but each role has a folder of its own at the top. The folders are no packages: an
import package called `daemon` would shadow PyPI's python-daemon.
"""

from setuptools import setup

PACKAGE_DIR = {
    "md5s3stash": "md5s3stash",
    "md5s3stash_daemon": "daemon/md5s3stash_daemon",
    "md5s3stash_thumbnailer": "thumbnailer/md5s3stash_thumbnailer",
    "md5s3stash_migrate": "migrate/md5s3stash_migrate",
}

setup(packages=list(PACKAGE_DIR), package_dir=PACKAGE_DIR)
