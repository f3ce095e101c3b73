"""Isolated network namespaces: one for each box, and one around them, connected to each.

around        10.99.0.1, 169.254.169.254    S3, IAM, STS, the metadata service; and this process, as load balancer
box           10.99.0.2                     the appliance, as spool
thumbnails    10.99.1.2                     the appliance, for thumbnails only
late          10.99.2.2                     the appliance, as spool with a late volume
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

AROUND = "10.99.0.1"
METADATA = "169.254.169.254"
BOX = "10.99.0.2"
THUMBNAIL_BOX = "10.99.1.2"
LATE_BOX = "10.99.2.2"

_CLONE_NEWNET = 0x40000000


@dataclass(frozen=True, slots=True)
class Network:
    """The namespaces, as files for nsenter(1)."""

    around: Path
    box: Path
    thumbnails: Path
    late: Path


@contextlib.contextmanager
def cut_off_network() -> Iterator[Network]:
    """The namespaces, during the context. Their names are unique to this process."""
    names = [f"md5s3stash-{side}-{os.getpid()}" for side in ("around", "box", "thumbnails", "late")]
    around, *boxes = names
    try:
        for name in names:
            _ip("netns", "add", name)
            _ip("-n", name, "link", "set", "lo", "up")
        _ip("-n", around, "address", "add", f"{METADATA}/32", "dev", "lo")
        for box, address in zip(boxes, (BOX, THUMBNAIL_BOX, LATE_BOX), strict=True):
            _lay_cable(around, box, address)
            _leave_answers_with_the_servers(box)
        yield Network(*(Path("/run/netns") / name for name in names))
    finally:
        for name in names:
            subprocess.run(["ip", "netns", "delete", name], capture_output=True, check=False)


def _lay_cable(around: str, box: str, address: str) -> None:
    """A network of two: the box, and .1 in the namespace around it, which is its gateway."""
    gateway = address.rpartition(".")[0] + ".1"
    cable = f"cable{address.split('.')[2]}"
    _ip("link", "add", cable, "netns", around, "type", "veth", "peer", "name", "host0", "netns", box)
    _ip("-n", around, "address", "add", f"{gateway}/24", "dev", cable)
    _ip("-n", around, "link", "set", cable, "up")
    _ip("-n", box, "address", "add", f"{address}/24", "dev", "host0")
    _ip("-n", box, "link", "set", "host0", "up")
    _ip("-n", box, "route", "add", "default", "via", gateway)


def _leave_answers_with_the_servers(box: str) -> None:
    """As on a slow line: data that a client has not read waits in the server, and not in the kernel."""
    with inside(Path("/run/netns") / box):
        Path("/proc/sys/net/ipv4/tcp_wmem").write_text("4096 8192 8192")


@contextlib.contextmanager
def inside(namespace: Path) -> Iterator[None]:
    """During the context this thread is in the namespace, and so are threads and processes that it starts."""
    with open("/proc/thread-self/ns/net", "rb") as home, open(namespace, "rb") as there:
        _set_network(there.fileno())
        try:
            yield
        finally:
            _set_network(home.fileno())


def _set_network(descriptor: int) -> None:
    # os.setns is new in Python 3.12.
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(descriptor, _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), "setns")


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], capture_output=True, check=True)
