"""The key pair of the embedded S3 server: random, made once, readable only by its owner."""

from __future__ import annotations

import json
import os
import secrets
from dataclasses import asdict, dataclass
from pathlib import Path

from laptop.errors import LaptopError


@dataclass(frozen=True, slots=True)
class KeyPair:
    access_key_id: str
    secret_access_key: str


def load_or_make(path: Path) -> KeyPair:
    """The pair in the file, or a new one that is written there."""
    try:
        return KeyPair(**json.loads(path.read_text()))
    except FileNotFoundError:
        return _make(path)
    except (OSError, ValueError, TypeError) as error:
        raise LaptopError(f"The key file {path} cannot be read: delete it; the next run makes a new one.") from error


def _make(path: Path) -> KeyPair:
    pair = KeyPair(secrets.token_hex(10).upper(), secrets.token_urlsafe(30))
    temporary = path.with_suffix(".new")
    temporary.unlink(missing_ok=True)
    with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        json.dump(asdict(pair), file)
    # An interrupted run leaves no partial key file.
    temporary.replace(path)
    return pair
