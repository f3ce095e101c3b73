"""Fetches secrets and stores them where systemd passes them to the programs: the thumbnailer's secret options and the
daemon's settings from SSM Parameter Store, and the password of a remote Redis from Secrets Manager.

The files are in memory, and only root can read them. Does nothing on a box whose settings name no secret.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path
from urllib.parse import quote, urlsplit

import boto3
from botocore.exceptions import BotoCoreError, ClientError

# Read by LoadCredential= of the thumbnailer and by EnvironmentFile= of the daemon.
THUMBNAILER_OPTIONS = Path("/run/credstore/thumbnailer.conf")
DAEMON_ENVIRONMENT = Path("/run/md5s3stash-aws/stack.env")

NAMES = ("THUMBNAILER_SECRET_NAME", "LEDGER_SECRET_ARN", "SETTINGS_NAME")


def main(
    environment: Mapping[str, str] = os.environ,
    thumbnailer_options: Path = THUMBNAILER_OPTIONS,
    daemon_environment: Path = DAEMON_ENVIRONMENT,
) -> int:
    """0 when every configured secret is in its place, 1 when one cannot be fetched."""
    try:
        if name := environment.get("THUMBNAILER_SECRET_NAME"):
            write_private(thumbnailer_options, parameter(name))
        of_daemon = []
        if url := environment.get("LEDGER_URL"):
            secret = environment["LEDGER_SECRET_ARN"]
            answer = boto3.client("secretsmanager").get_secret_value(SecretId=secret)
            of_daemon.append(f"REDIS_URL={with_password(url, answer['SecretString'])}")
        if name := environment.get("SETTINGS_NAME"):
            of_daemon.append(parameter(name))
        if of_daemon:
            write_private(daemon_environment, "\n".join(of_daemon))
    except (BotoCoreError, ClientError) as error:
        wanted = " ".join(f"{name}={value}" for name, value in environment.items() if name in NAMES and value)
        print(f"cannot fetch a secret ({wanted}): {error}", file=sys.stderr)
        return 1
    return 0


def parameter(name: str) -> str:
    return str(boto3.client("ssm").get_parameter(Name=name, WithDecryption=True)["Parameter"]["Value"])


def with_password(url: str, password: str) -> str:
    """`rediss://user@host:port/0` with the password in it. Nothing in the result needs quotes, in a shell either."""
    parts = urlsplit(url)
    user, _, host = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password.strip(), safe='')}@{host}").geturl()


def write_private(path: Path, text: str) -> None:
    """Replaces the file in one step; other users can never read it."""
    path.parent.mkdir(mode=0o700, exist_ok=True)
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")
    new.rename(path)


if __name__ == "__main__":
    raise SystemExit(main())
