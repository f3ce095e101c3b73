"""Deliveries as they go wrong: a folder of files with a manifest, and one thing changed. Made from a seed."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

# For a daemon: deliveries are on, and none ends because it is still.
ON = {"MD5S3STASH_DELIVERIES_STILL_SECONDS": "3600"}

NAMES = (
    "plain.tif",
    "sub/deep/nested.tif",
    "Große Straße.tif",
    "with blank .tif",
    " leading",
    "*star",
    "back\\slash",
    "new\nline",
    "carriage\rreturn",
    "(brackets) = x",
    "#hash",
    os.fsdecode(b"latin-\xe9.tif"),
    "empty",
)


@dataclass
class Delivery:
    """`files` by name; `listed` has (name, digest) for each line; `form` writes a line."""

    algorithm: str
    files: dict[str, bytes]
    listed: list[tuple[str, str]]
    form: str = "text"
    line_end: bytes = b"\n"
    further_lines: list[bytes] = field(default_factory=list)

    @property
    def manifest(self) -> bytes:
        lines = [*(self._line(name, digest) for name, digest in self.listed), *self.further_lines]
        return b"".join(line + self.line_end for line in lines)

    def digest(self, data: bytes) -> str:
        return hashlib.new(self.algorithm, data, usedforsecurity=False).hexdigest()

    def _line(self, name: str, digest: str) -> bytes:
        escaped = os.fsencode(name).replace(b"\\", b"\\\\").replace(b"\n", b"\\n").replace(b"\r", b"\\r")
        mark = b"\\" if escaped != os.fsencode(name) else b""
        if self.form == "bsd":
            return mark + f"{self.algorithm.upper()} (".encode() + escaped + f") = {digest}".encode()
        blanks = {"text": b"  ", "binary": b" *"}[self.form]
        return mark + digest.encode() + blanks + escaped

    def write(self, folder: Path) -> None:
        """The files below the folder, without the manifest."""
        for name, data in self.files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)


def mutated(seed: int, algorithm: str = "md5") -> Delivery:
    """A delivery of a few files with one thing changed."""
    chosen = random.Random(seed)
    names = chosen.sample(NAMES, 5)
    files = {name: b"" if name == "empty" else chosen.randbytes(chosen.randrange(1, 40)) for name in names}
    delivery = Delivery(algorithm, files, [])
    delivery.listed = [(name, delivery.digest(data)) for name, data in files.items()]
    delivery.form = chosen.choice(("text", "binary", "bsd"))
    MUTATIONS[seed % len(MUTATIONS)](delivery, chosen)
    return delivery


def unchanged(delivery: Delivery, chosen: random.Random) -> None:
    pass


def flipped_bit(delivery: Delivery, chosen: random.Random) -> None:
    name = chosen.choice([name for name, data in delivery.files.items() if data])
    data = bytearray(delivery.files[name])
    data[chosen.randrange(len(data))] ^= 1 << chosen.randrange(8)
    delivery.files[name] = bytes(data)


def missing_file(delivery: Delivery, chosen: random.Random) -> None:
    del delivery.files[chosen.choice(list(delivery.files))]


def extra_file(delivery: Delivery, chosen: random.Random) -> None:
    delivery.files["sub/extra.tif"] = b"extra"


def renamed_file(delivery: Delivery, chosen: random.Random) -> None:
    delivery.files["renamed.tif"] = delivery.files.pop(chosen.choice(list(delivery.files)))


def other_case(delivery: Delivery, chosen: random.Random) -> None:
    name = next((name for name in delivery.files if name.lower() != name.upper()), "plain.tif")
    delivery.files[name.swapcase()] = delivery.files.pop(name, b"x")


def other_unicode_form(delivery: Delivery, chosen: random.Random) -> None:
    delivery.files["Größe.tif"] = b"x"
    delivery.listed.append((unicodedata.normalize("NFD", "Größe.tif"), delivery.digest(b"x")))


def windows_line_ends(delivery: Delivery, chosen: random.Random) -> None:
    delivery.line_end = b"\r\n"


def listed_twice(delivery: Delivery, chosen: random.Random) -> None:
    delivery.listed.append(chosen.choice(delivery.listed))


def listed_twice_with_two_digests(delivery: Delivery, chosen: random.Random) -> None:
    delivery.listed.append((chosen.choice(delivery.listed)[0], delivery.digest(b"another")))


def two_names_of_one_content(delivery: Delivery, chosen: random.Random) -> None:
    name, digest = chosen.choice(delivery.listed)
    delivery.files["copy.tif"] = delivery.files[name]
    delivery.listed.append(("copy.tif", digest))


def wrong_algorithm(delivery: Delivery, chosen: random.Random) -> None:
    delivery.listed = [(name, hashlib.sha224(data).hexdigest()) for name, data in delivery.files.items()]


def further_lines(delivery: Delivery, chosen: random.Random) -> None:
    delivery.further_lines = [b"# a comment", b"", b"not a line", b"0" * 32, b"zz" * 16 + b"  plain.tif"]


def dots_in_names(delivery: Delivery, chosen: random.Random) -> None:
    delivery.listed = [(f"./sub/..//{name}", digest) for name, digest in delivery.listed]
    delivery.files["sub/there"] = b""


def upper_case_digests(delivery: Delivery, chosen: random.Random) -> None:
    delivery.listed = [(name, digest.upper()) for name, digest in delivery.listed]


def truncated_file(delivery: Delivery, chosen: random.Random) -> None:
    name = chosen.choice([name for name, data in delivery.files.items() if data])
    delivery.files[name] = delivery.files[name][:-1]


MUTATIONS: tuple[Callable[[Delivery, random.Random], None], ...] = (
    unchanged,
    flipped_bit,
    missing_file,
    extra_file,
    renamed_file,
    other_case,
    other_unicode_form,
    windows_line_ends,
    listed_twice,
    listed_twice_with_two_digests,
    two_names_of_one_content,
    wrong_algorithm,
    further_lines,
    dots_in_names,
    upper_case_digests,
    truncated_file,
)


def verdict_of_coreutils(delivery: Delivery, folder: Path, manifest: Path) -> bool:
    """Whether `md5sum -c`, or its relative, accepts the files below the folder. The manifest lies outside."""
    program = f"{delivery.algorithm}sum"
    # Ubuntu has those of uutils by default, which refuse fewer damaged lines.
    command = [shutil.which(f"gnu{program}") or program, "--check", "--status", str(manifest)]
    return subprocess.run(command, cwd=folder, stderr=subprocess.DEVNULL).returncode == 0
