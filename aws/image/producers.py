#!/usr/bin/python3 -I
"""md5s3stash-producer: who may drop files on the spool box by SFTP, as a command on the box and not as a new image.

The keys are on the spool's volume, so the next box has them too: it applies them before producers can reach it. They
take the place of the keys that the image has for the same name.
"""

from __future__ import annotations

import argparse
import base64
import binascii
import contextlib
import grp
import hashlib
import os
import pwd
import re
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

VOLUME = Path("/var/lib/md5s3stash-volume")
# Of sshd, see ansible/roles/md5s3stash/files/sshd.conf.
IN_USE = Path("/etc/ssh/authorized_keys.d")
GROUP = "md5s3stash-sftp"

_NAME = re.compile(r"[a-z_][a-z0-9_-]{0,31}")


class ProducerError(Exception):
    """The command is refused; the message says why."""


def main(argv: Sequence[str] | None = None, volume: Path = VOLUME, in_use: Path = IN_USE) -> int:
    """0, or 1 after an error, which is printed."""
    arguments = _parser().parse_args(argv)
    kept = volume / "producers"
    try:
        if not volume.is_mount():
            raise ProducerError(f"{volume} is not mounted: systemctl status md5s3stash-volume")
        kept.mkdir(mode=0o700, exist_ok=True)
        if arguments.command == "add":
            add(arguments.name, sys.stdin.read(), kept, in_use)
        elif arguments.command == "revoke":
            revoke(arguments.name, kept, in_use)
        elif arguments.command == "apply":
            return apply_all(kept, in_use)
        else:
            print_keys(in_use)
    except (ProducerError, OSError, subprocess.CalledProcessError) as error:
        print(f"md5s3stash-producer: {error}", file=sys.stderr)
        return 1
    return 0


def add(name: str, text: str, kept: Path, in_use: Path) -> None:
    """Gives the producer these keys, and no others."""
    keys = [line.strip() for line in text.splitlines() if line.strip() and not line.startswith("#")]
    if not keys:
        raise ProducerError("no keys on standard input: one public key a line, as in a .pub file")
    for key in keys:
        fingerprint(key)
    _require_producer(name)
    _write(kept / name, "".join(f"{key}\n" for key in keys))
    apply(kept / name, in_use)


def revoke(name: str, kept: Path, in_use: Path) -> None:
    """Takes all keys away and ends the sessions. The file stays, empty: the image may have keys for the name."""
    _require_producer(name)
    if not (in_use / name).exists():
        raise ProducerError(f"{name!r} is not a producer of this box: md5s3stash-producer list")
    _write(kept / name, "")
    apply(kept / name, in_use)
    # 1: there was no session.
    subprocess.run(["pkill", "--signal", "KILL", "--uid", name], check=False)


def apply_all(kept: Path, in_use: Path) -> int:
    """At the boot of a box. An error of one producer is reported, and the others get their keys."""
    failed = False
    for file in sorted(kept.iterdir()):
        try:
            if not file.name.startswith("."):
                apply(file, in_use)
        except (ProducerError, OSError, subprocess.CalledProcessError) as error:
            print(f"md5s3stash-producer: {file.name}: {error}", file=sys.stderr)
            failed = True
    return int(failed)


def apply(file: Path, in_use: Path) -> None:
    """Makes the account and puts the keys where sshd reads them. The owner of the file is the account's user id, so
    that the files that a producer has dropped are still the same producer's on the next box.
    """
    _require_producer(file.name)
    if _account(file.name) is None:
        uid = file.stat().st_uid
        _make_account(file.name, uid if uid and not _is_taken(uid) else None)
    if account := _account(file.name):
        os.chown(file, account.pw_uid, -1)
    _write(in_use / file.name, file.read_text(encoding="utf-8"), 0o644)


def print_keys(in_use: Path) -> None:
    for file in sorted(in_use.iterdir()):
        if not file.name.startswith("."):
            for key in file.read_text(encoding="utf-8").splitlines() or [""]:
                print(f"{file.name}\t{fingerprint(key) if key else 'revoked'}")


def fingerprint(key: str) -> str:
    """As ssh-keygen prints it. Raises ProducerError if the line is not a public key."""
    kind, _, rest = key.partition(" ")
    with contextlib.suppress(binascii.Error):
        data = base64.b64decode(rest.partition(" ")[0], validate=True)
        if data.startswith(len(kind).to_bytes(4, "big") + kind.encode()):
            digest = base64.b64encode(hashlib.sha256(data).digest()).decode().rstrip("=")
            return f"SHA256:{digest} {rest.partition(' ')[2]}".rstrip()
    raise ProducerError(f"{key[:60]!r} is not a public key: give the line of a .pub file")


def _require_producer(name: str) -> None:
    if not _NAME.fullmatch(name):
        raise ProducerError(f"{name!r} is not a user name: lower-case letters, digits, _ and -, at most 32")
    if _account(name) is not None and name not in grp.getgrnam(GROUP).gr_mem:
        raise ProducerError(f"{name!r} is an account of this box that is not a producer's: choose another name")


def _account(name: str) -> pwd.struct_passwd | None:
    with contextlib.suppress(KeyError):
        return pwd.getpwnam(name)
    return None


def _is_taken(uid: int) -> bool:
    with contextlib.suppress(KeyError):
        return bool(pwd.getpwuid(uid))
    return False


def _make_account(name: str, uid: int | None) -> None:
    """As ansible/roles/md5s3stash/tasks/drops.yml does."""
    command = ["useradd", "--gid", "md5s3stash-drop", "--groups", GROUP, "--home-dir", "/incoming", "--no-create-home"]
    command += ["--shell", "/usr/sbin/nologin", "--password", "!", *(["--uid", str(uid)] if uid else []), name]
    subprocess.run(command, check=True)


def _write(path: Path, text: str, mode: int = 0o600) -> None:
    """In one step, and on the disk: a revoked key must not come back. An existing file keeps its owner."""
    new = path.with_name(f".{path.name}.new")
    new.unlink(missing_ok=True)
    with open(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode), "w", encoding="utf-8") as file:
        file.write(text)
        if path.exists():
            os.chown(new, path.stat().st_uid, -1)
        file.flush()
        os.fsync(file.fileno())
    new.rename(path)
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="md5s3stash-producer", description="Change who may drop files by SFTP.")
    commands = parser.add_subparsers(dest="command", required=True)
    add = commands.add_parser("add", help="give a producer the public keys on standard input, and no others")
    revoke = commands.add_parser("revoke", help="take all keys of a producer away, and end the sessions")
    for command in (add, revoke):
        command.add_argument("name", help="name to log in with")
    commands.add_parser("list", help="print the producers and the fingerprints of their keys")
    commands.add_parser("apply", help="take over the keys on the volume, as each boot does")
    return parser


if __name__ == "__main__":
    raise SystemExit(main())
