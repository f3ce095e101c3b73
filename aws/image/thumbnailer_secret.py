"""Fetches the thumbnailer's secret options from SSM Parameter Store to where LoadCredential= looks for them.

They are in memory alone, for root alone; systemd hands them to the thumbnailer. Does nothing on a box whose settings
name no secret.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

CREDENTIAL = Path("/run/credstore/thumbnailer.conf")


def main(environment: Mapping[str, str] = os.environ, credential: Path = CREDENTIAL) -> int:
    """0 when the secret is in its place or none is wanted, 1 when it cannot be had."""
    name = environment.get("THUMBNAILER_SECRET_NAME")
    if not name:
        return 0
    try:
        answer = boto3.client("ssm").get_parameter(Name=name, WithDecryption=True)
    except (BotoCoreError, ClientError) as error:
        print(f"the SSM parameter {name} cannot be had: {error}", file=sys.stderr)
        return 1
    credential.parent.mkdir(mode=0o700, exist_ok=True)
    write_private(credential, answer["Parameter"]["Value"])
    return 0


def write_private(path: Path, text: str) -> None:
    """Replaces the file in one step; at no moment can anybody else read it."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w", encoding="utf-8") as file:
        file.write(text.rstrip("\n") + "\n")
    new.rename(path)


if __name__ == "__main__":
    raise SystemExit(main())
