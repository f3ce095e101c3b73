"""Signs receipts with a key of the box: a signature of OpenSSH, which `ssh-keygen -Y verify` checks anywhere."""

from __future__ import annotations

import subprocess
from pathlib import Path

from md5s3stash.console import printable
from md5s3stash.errors import StashError

# What the signature is for: it is part of what is signed, so a signature for something else is not one of a receipt.
NAMESPACE = "md5s3stash-receipt"

SUFFIX = ".sig"

_TIMEOUT_SECONDS = 60.0


class ReceiptNotSigned(StashError):
    """The key cannot be used, or there is no ssh-keygen. The receipt is not published before this is mended."""

    retryable = True


def signature_of(path: str, key: Path) -> bytes:
    """The signature of a file. With an Ed25519 or RSA key it is the same each time. Raises ReceiptNotSigned."""
    try:
        with open(path, "rb") as file:
            done = subprocess.run(
                ["ssh-keygen", "-Y", "sign", "-f", str(key), "-n", NAMESPACE],
                stdin=file,
                capture_output=True,
                timeout=_TIMEOUT_SECONDS,
                # Without a terminal: a key with a passphrase is an error, not a question.
                start_new_session=True,
            )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise ReceiptNotSigned(f"receipts wait, because they cannot be signed with {key}: {error}") from error
    if done.returncode != 0 or not done.stdout.startswith(b"-----BEGIN SSH SIGNATURE-----"):
        reason = printable(done.stderr.decode("utf-8", "replace").strip().rpartition("\n")[2])
        raise ReceiptNotSigned(f"receipts wait, because they cannot be signed with {key}: {reason}")
    return done.stdout
