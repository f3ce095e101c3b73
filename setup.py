"""Locates the four import packages; everything else is declared in pyproject.toml.

One distribution holds them all, but each role has its own top-level folder. The folders are not packages: an import
package called `daemon` would shadow PyPI's python-daemon.
"""

from pathlib import Path

from setuptools import find_packages, setup

PACKAGE_DIR = {
    "md5s3stash": "md5s3stash",
    "md5s3stash_daemon": "daemon/md5s3stash_daemon",
    "md5s3stash_thumbnailer": "thumbnailer/md5s3stash_thumbnailer",
    "md5s3stash_migrate": "migrate/md5s3stash_migrate",
}

# Man pages and completions. A virtual environment installs them below its share/, where man and the shells look for
# the commands in its bin/.
DATA_FILES = [(str(path.parent), [str(path)]) for path in sorted(Path("share").rglob("*")) if path.is_file()]

PACKAGES = [
    name
    for folder in (".", "daemon", "thumbnailer", "migrate")
    for name in find_packages(folder, include=["md5s3stash*"])
]

setup(packages=PACKAGES, package_dir=PACKAGE_DIR, data_files=DATA_FILES)
