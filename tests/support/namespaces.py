"""Boxes in their own network namespaces, on one isolated network. Needs root, which `pytest.mark.needs_namespaces`
provides.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

HUB = "10.98.0.1"
NETWORK = "10.98.0.0/24"

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Namespace:
    """A network namespace, kept alive by an idle process."""

    pid: int

    @contextlib.contextmanager
    def inside(self) -> Iterator[None]:
        """During the context this thread is in it, and so are threads and processes that it starts."""
        with open("/proc/thread-self/ns/net", "rb") as home, open(f"/proc/{self.pid}/ns/net", "rb") as there:
            _set_network(there.fileno())
            try:
                yield
            finally:
                _set_network(home.fileno())


@contextlib.contextmanager
def wired(boxes: int) -> Iterator[tuple[Namespace, list[Namespace]]]:
    """A hub with the address HUB, and boxes that reach only it and each other."""
    with contextlib.ExitStack() as stack:
        hub, *others = [stack.enter_context(_namespace()) for _ in range(boxes + 1)]
        with hub.inside():
            _ip("link", "add", "wire", "type", "bridge")
            _ip("address", "add", f"{HUB}/24", "dev", "wire")
            _ip("link", "set", "wire", "up")
            for number, box in enumerate(others):
                _ip("link", "add", f"box{number}", "type", "veth", "peer", "name", "eth0", "netns", str(box.pid))
                _ip("link", "set", f"box{number}", "master", "wire", "up")
        for number, box in enumerate(others):
            with box.inside():
                _ip("address", "add", f"10.98.0.{number + 11}/24", "dev", "eth0")
                _ip("link", "set", "eth0", "up")
        yield hub, others


@contextlib.contextmanager
def _namespace() -> Iterator[Namespace]:
    # It prints a line once it is in the namespace, and ends with its standard input: at the latest with this process.
    holder = subprocess.Popen(
        ["unshare", "--net", "sh", "-c", "ip link set lo up && echo made && exec cat"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    assert holder.stdin is not None
    assert holder.stdout is not None
    try:
        assert holder.stdout.readline() == b"made\n", "could not make a network namespace"
        yield Namespace(holder.pid)
    finally:
        holder.stdin.close()
        holder.wait()
        holder.stdout.close()


def _set_network(descriptor: int) -> None:
    # os.setns is new in Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
