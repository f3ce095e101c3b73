"""What a sealed process is to be kept from: a file, listeners, a secret in an environment."""

from __future__ import annotations

import json
import select
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

SECRET = ("AWS_SECRET_ACCESS_KEY", "not-for-strangers")
_CONTENT = b"[default]\naws_secret_access_key = not-for-strangers\n"
# What the process has, or must be able to do.
FACTS = {"the secret": "None", "memory": "4096", "not refused": "[]"}


@dataclass(frozen=True)
class Reachable:
    """All of it, and as JSON for `sealed_attempts`."""

    directory: Path
    listeners: tuple[socket.socket, ...]
    described: str

    def is_untouched(self) -> bool:
        files = {path.name: path.read_bytes() for path in self.directory.iterdir() if path.is_file()}
        readable, _, _ = select.select(self.listeners, [], [], 0)
        return files == {"credentials": _CONTENT} and not readable


@contextmanager
def reachable(directory: Path, server: int) -> Iterator[Reachable]:
    directory.mkdir()
    (directory / "credentials").write_bytes(_CONTENT)
    abstract = f"sealed-{directory}"
    with ExitStack() as stack:
        tcp = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        port = tcp.getsockname()[1]
        udp, unix, hidden = (
            stack.enter_context(socket.socket(family, kind))
            for family, kind in (
                (socket.AF_INET, socket.SOCK_DGRAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
                (socket.AF_UNIX, socket.SOCK_STREAM),
            )
        )
        udp.bind(("127.0.0.1", port))
        unix.bind(f"{directory}/socket")
        hidden.bind(f"\0{abstract}")
        unix.listen()
        hidden.listen()
        reach = {"credentials": f"{directory}/credentials", "secret": SECRET[0], "tcp": port}
        described = json.dumps({**reach, "unix": f"{directory}/socket", "abstract": abstract, "server": server})
        yield Reachable(directory, (tcp, udp, unix, hidden), described)


def unrefused(ended: dict[str, str]) -> dict[str, str]:
    """The attempts that were not refused, and the facts that are not as they should be."""
    facts = {name: value for name, value in ended.items() if name in FACTS and value != FACTS[name]}
    return facts | {
        what: how
        for what, how in ended.items()
        if what not in FACTS and what != "descriptors" and not how.startswith("refused")
    }
