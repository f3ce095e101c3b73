"""Makes supervisord's configuration and the programs' environment. Pure, except that it searches the path."""

from __future__ import annotations

import shlex
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from string import Template

from laptop.credentials import KeyPair
from laptop.errors import LaptopError
from laptop.place import ADDRESS, BUCKET, REPOSITORY, Place

TEMPLATE = Path(__file__).with_name("supervisord.conf.template")

# The user's own profile, session or endpoint would send the laptop's objects to their account. A long name of a setting
# wins over the short one, which is the laptop's.
_FOREIGN = (
    "AWS_PROFILE",
    "AWS_SESSION_TOKEN",
    "AWS_ENDPOINT_URL",
    "AWS_ENDPOINT_URL_S3",
    "AWS_CA_BUNDLE",
    "MD5S3STASH_STASH_BUCKET_BASE",
    "MD5S3STASH_STASH_BUCKET_SCHEME",
    "MD5S3STASH_S3_ENDPOINT",
    "MD5S3STASH_REDIS_URL",
    "MD5S3STASH_REDIS_PREFIX",
    "MD5S3STASH_SPOOL_DIR",
)

# With these in a shell's environment the commands use the laptop's servers.
_FOR_A_SHELL = (
    "BUCKET_BASE",
    "BUCKET_SCHEME",
    "S3_ENDPOINT",
    "REDIS_URL",
    "SPOOL_DIR",
    "MD5S3STASH_HTTP_ADDRESS",
    "MD5S3STASH_HTTP_PORT",
    "AWS_ACCESS_KEY_ID",
    "AWS_SECRET_ACCESS_KEY",
    "AWS_DEFAULT_REGION",
    "AWS_EC2_METADATA_DISABLED",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "NO_PROXY",
    "no_proxy",
)

# Settings that the user may add. The password is not a setting: it is for an origin.
_SETTINGS = ("KEY_TEMPLATE", "DERIVATIVE_PREFIXES")
_SETTINGS_PREFIX = "MD5S3STASH_"
_NO_SETTINGS = ("MD5S3STASH_PASSWORD",)


def supervisor_configuration(place: Place) -> str:
    """The text of supervisord.conf."""
    words = {
        "address": ADDRESS,
        "python": sys.executable,
        "redis_server": _program("redis-server"),
        "rclone": _program("rclone"),
        "redis_port": place.redis.number,
        "s3_port": place.s3.number,
        "thumbnailer_port": place.thumbnailer.number,
        "redis_data": place.redis_data,
        "objects": place.objects,
    }
    # supervisord splits a command as a shell does, after it has expanded %(name)s.
    texts = {name: shlex.quote(str(value)).replace("%", "%%") for name, value in words.items()}
    return Template(TEMPLATE.read_text()).substitute(texts, tie=shlex.join(dies_with_its_parent()))


def dies_with_its_parent() -> list[str]:
    """Command prefix that makes the kernel stop a program when its parent is killed; empty without setpriv."""
    setpriv = shutil.which("setpriv")
    return [setpriv, "--pdeathsig", "TERM", "--"] if setpriv else []


def environment_of_programs(place: Place, keys: KeyPair, ours: Mapping[str, str]) -> dict[str, str]:
    """Our environment with the settings of this place, without variables that point elsewhere."""
    environment = {name: value for name, value in ours.items() if name not in _FOREIGN}
    import_path = [REPOSITORY, *(REPOSITORY / role for role in ("daemon", "thumbnailer", "migrate"))]
    return environment | {
        "BUCKET_BASE": BUCKET,
        "BUCKET_SCHEME": "simple",
        "S3_ENDPOINT": place.s3_url,
        "REDIS_URL": place.redis_url,
        "SPOOL_DIR": str(place.spool),
        "MD5S3STASH_HTTP_ADDRESS": ADDRESS,
        "MD5S3STASH_HTTP_PORT": str(place.metrics.number),
        "MD5S3STASH_HTTP_THUMBNAILS_URL": place.thumbnailer_url,
        # The default is one for all stashes of a user, and would show what this one does not have.
        "CACHE_DIRECTORY": str(place.cache),
        "AWS_ACCESS_KEY_ID": keys.access_key_id,
        "AWS_SECRET_ACCESS_KEY": keys.secret_access_key,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_EC2_METADATA_DISABLED": "true",
        "AWS_CONFIG_FILE": "/dev/null",
        "AWS_SHARED_CREDENTIALS_FILE": "/dev/null",
        # One CSV record "access,secret", hence the quotes. The user's own rclone configuration is not read.
        "RCLONE_AUTH_KEY": f'"{keys.access_key_id},{keys.secret_access_key}"',
        "RCLONE_CONFIG": "",
        "RCLONE_CACHE_DIR": str(place.run / "rclone"),
        # A proxy cannot reach this machine's loopback.
        "NO_PROXY": f"{ADDRESS},localhost",
        "no_proxy": f"{ADDRESS},localhost",
        # Imports work from a bare checkout too.
        "PYTHONPATH": ":".join(str(directory) for directory in import_path),
        "PYTHONUNBUFFERED": "1",
    }


def shell_environment(environment: Mapping[str, str]) -> str:
    """Lines for a shell that uses the laptop: the commands on its path, and their settings."""
    added = sorted(
        name
        for name in environment
        if name in _SETTINGS or (name.startswith(_SETTINGS_PREFIX) and name not in (*_NO_SETTINGS, *_FOR_A_SHELL))
    )
    ours = {name: environment[name] for name in (*_FOR_A_SHELL, *added) if name in environment}
    return "".join(
        [
            f"unset {' '.join(_FOREIGN)}\n",
            *(f"export {name}={shlex.quote(value)}\n" for name, value in ours.items()),
            f'export PATH={shlex.quote(str(Path(sys.executable).parent))}:"$PATH"\n',
        ]
    )


def _program(name: str) -> str:
    # pip installs programs beside the interpreter, also where the environment is not activated.
    beside_python = str(Path(sys.executable).parent)
    found = shutil.which(name, path=beside_python) or shutil.which(name)
    if found is None:
        raise LaptopError(f"{name} is not installed: `make run` installs it.")
    return found
