"""BagIt bags as they go wrong: each with one thing changed, and whether `bagit.py --validate` accepts it.

The verdicts are those of bagit.py 1.9.0. `compare_with_bagit` shows it, where that package is installed.
"""

from __future__ import annotations

import hashlib
import sys
import tempfile
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PAYLOAD = {"data/a.tif": b"a", "data/sub/Größe 1.tif": b"b", "data/empty": b""}


@dataclass
class MutatedBag:
    """`files` by name; `manifests` has the lines of each manifest."""

    version: str = "1.0"
    algorithms: tuple[str, ...] = ("sha256",)
    payload: dict[str, bytes] = field(default_factory=lambda: dict(PAYLOAD))
    files: dict[str, bytes] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.files = dict(self.payload)
        self.files["bagit.txt"] = f"BagIt-Version: {self.version}\nTag-File-Character-Encoding: UTF-8\n".encode()
        size = sum(map(len, self.payload.values()))
        self.files[self.info_name] = (
            f"Source-Organization: A\n library\nPayload-Oxum: {size}.{len(self.payload)}\n".encode()
        )
        for algorithm in self.algorithms:
            self.files[f"manifest-{algorithm}.txt"] = self.lines(algorithm, self.payload)
        tag_files = {name: data for name, data in self.files.items() if name not in self.payload}
        for algorithm in self.algorithms:
            self.files[f"tagmanifest-{algorithm}.txt"] = self.lines(algorithm, tag_files)

    @property
    def info_name(self) -> str:
        return "package-info.txt" if self.version in ("0.93", "0.94", "0.95") else "bag-info.txt"

    @staticmethod
    def lines(algorithm: str, files: dict[str, bytes]) -> bytes:
        rows = (
            f"{hashlib.new(algorithm, data).hexdigest()}  {name.replace(chr(10), '%0A').replace(chr(13), '%0D')}\n"
            for name, data in files.items()
        )
        return "".join(rows).encode()

    def change(self, name: str, data: bytes) -> None:
        """Changes a tag file, and the tag manifests with it."""
        self.files[name] = data
        tag_files = {
            name: data
            for name, data in self.files.items()
            if name not in self.payload and not name.startswith(("tagmanifest", "data/"))
        }
        for algorithm in self.algorithms:
            self.files[f"tagmanifest-{algorithm}.txt"] = self.lines(algorithm, tag_files)

    def manifest(self) -> bytes:
        return self.files[f"manifest-{self.algorithms[0]}.txt"]

    def change_manifest(self, data: bytes) -> None:
        self.change(f"manifest-{self.algorithms[0]}.txt", data)

    def write(self, folder: Path) -> None:
        for name, data in self.files.items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(data)


def bag(**options: object) -> MutatedBag:
    return MutatedBag(**options)  # type: ignore[arg-type]


def with_(change: Callable[[MutatedBag], object], **options: object) -> MutatedBag:
    changed = bag(**options)
    change(changed)
    return changed


def declared(text: str) -> MutatedBag:
    """With another bagit.txt."""
    return with_(lambda made: made.change("bagit.txt", text.encode()))


def informed(text: str) -> MutatedBag:
    """With another bag-info.txt."""
    return with_(lambda made: made.change("bag-info.txt", text.encode()))


def listing(change: Callable[[bytes], bytes], **options: object) -> MutatedBag:
    """With another payload manifest."""
    return with_(lambda made: made.change_manifest(change(made.manifest())), **options)


def sent(changes: dict[str, bytes | None], **options: object) -> MutatedBag:
    """With other files than the manifests list; None for one that does not come."""
    changed = bag(**options)
    for name, data in changes.items():
        if data is None:
            del changed.files[name]
        else:
            changed.files[name] = data
    return changed


def mutated_bags() -> dict[str, tuple[MutatedBag, bool]]:
    """What was changed -> the bag, and whether it is valid."""
    found: dict[str, tuple[MutatedBag, bool]] = {}
    for version in ("0.93", "0.94", "0.95", "0.96", "0.97", "1.0"):
        found[f"valid {version}"] = bag(version=version), True
    for version, is_valid in (("0.97", True), ("1.0", False)):
        twice = with_(lambda made: made.change_manifest(made.manifest() + made.manifest()), version=version)
        found[f"listed twice {version}"] = twice, is_valid
    for version in ("0.93", "0.95", "0.96", "1.0"):
        oxum = with_(lambda made: made.change(made.info_name, b"Payload-Oxum: 3.3\n"), version=version)
        found[f"other oxum {version}"] = oxum, False
        found[f"flipped {version}"] = sent({"data/a.tif": b"b"}, version=version), False
    four = ("md5", "sha1", "sha256", "sha512")
    line = hashlib.sha256(b"x").hexdigest().encode()
    nfd = unicodedata.normalize("NFD", "data/sub/Größe 1.tif")
    odd = {"data/new\nline": b"x", "data/ carriage\rreturn": b"y", "data/*star": b"z", "data/100%0a": b"p"}
    big = "data/sub/Größe 1.tif"
    encoding = "Tag-File-Character-Encoding: UTF-8\n"
    declaration = f"BagIt-Version: 1.0\n{encoding}"
    two = ("md5", "sha512")
    found |= {
        "four algorithms": (bag(algorithms=four), True),
        "odd names": (bag(payload=odd), True),
        "names with line ends": (bag(payload={"data/new\nline": b"x", "data/carriage\rreturn": b"y"}), True),
        "one empty file": (bag(payload={"data/only": b""}), True),
        "missing": (sent({"data/a.tif": None}), False),
        "extra": (sent({"data/extra": b"extra"}), False),
        "other case": (sent({"data/a.tif": None, "data/A.tif": b"a"}), False),
        "other unicode form": (sent({big: None, nfd: b"b"}), True),
        "other unicode form, changed": (sent({big: None, nfd: b"x"}), False),
        "extra tag file": (sent({"notes/extra.txt": b"extra"}), True),
        "changed tag file": (sent({"bag-info.txt": b"A: b\n"}), False),
        "missing tag file": (sent({"bag-info.txt": None}), False),
        "no tag manifest": (sent({"tagmanifest-sha256.txt": None}), True),
        "no info": (sent({"tagmanifest-sha256.txt": None, "bag-info.txt": None}), True),
        "malformed oxum": (informed("Payload-Oxum: 2 files.x\n"), False),
        "two oxums": (informed("Payload-Oxum: 2.3\nPayload-Oxum: 1.1\n"), True),
        "info not of tags": (informed("not a tag\n"), False),
        "other version": (declared(f"BagIt-Version: 2.0\n{encoding}"), False),
        "version not a number": (declared(f"BagIt-Version: one\n{encoding}"), False),
        "no encoding": (declared("BagIt-Version: 1.0\n"), False),
        "unknown encoding": (declared("BagIt-Version: 1.0\nTag-File-Character-Encoding: no\n"), False),
        "byte order mark": (declared(f"\ufeff{declaration}"), False),
        "bagit.txt with another line": (declared(f"{declaration}more\n"), False),
        "conflicting digests": (listing(lambda lines: lines + line + b"  data/a.tif\n"), False),
        "unsafe path": (listing(lambda lines: lines + line + b"  ../../x\n"), False),
        "home": (listing(lambda lines: lines + line + b"  ~/x\n"), False),
        "not a digest": (listing(lambda lines: lines + b"abc  data/a.tif\n"), False),
        "line without name": (listing(lambda lines: lines + line + b"\n"), True),
        "dots": (listing(lambda lines: lines.replace(b"data/a", b"./data//a")), True),
        "star": (listing(lambda lines: lines.replace(b"  data", b" *data")), True),
        "tabs": (listing(lambda lines: lines.replace(b"  data", b"\tdata")), True),
        "one blank": (listing(lambda lines: lines.replace(b"  data", b" data")), True),
        "windows line ends": (listing(lambda lines: lines.replace(b"\n", b"\r\n")), True),
        "comments": (listing(lambda lines: b"# comment\n\n" + lines), True),
        "upper case names": (listing(bytes.upper), False),
        "in one of two manifests": (listing(lambda lines: lines.partition(b"\n")[2], algorithms=two), True),
        "wrong in one of two": (listing(lambda lines: lines.replace(b"0", b"1"), algorithms=two), False),
    }
    return found


def compare_with_bagit() -> int:
    """Prints each bag on which bagit.py does not agree; returns their number."""
    import bagit  # type: ignore[import-not-found]

    different = 0
    for name, (made, is_valid) in mutated_bags().items():
        with tempfile.TemporaryDirectory() as folder:
            made.write(Path(folder))
            try:
                theirs = bool(bagit.Bag(folder).validate())
            except (bagit.BagError, ValueError, LookupError) as error:
                theirs, name = False, f"{name}: {error}"
        if theirs != is_valid:
            different += 1
            print(f"{name}: bagit.py says {theirs}")
    return different


if __name__ == "__main__":
    sys.exit(compare_with_bagit())
