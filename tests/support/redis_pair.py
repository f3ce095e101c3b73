"""A Redis primary and its replica behind one address, which moves between them as in a failover."""

from __future__ import annotations

import contextlib
import subprocess
from collections.abc import Iterator
from pathlib import Path

import redis

from tests.support.relay import Relay
from tests.support.servers import free_port, running, wait_until


class Node:
    """One redis-server that syncs every write."""

    def __init__(self, process: subprocess.Popen[bytes], port: int) -> None:
        self.port = port
        self.client = redis.Redis(port=port)
        self._process = process

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    def follow(self, primary: Node | None) -> None:
        """Becomes the replica of another one, or a primary."""
        self.client.replicaof(*(("NO", "ONE") if primary is None else ("127.0.0.1", str(primary.port))))

    def lose_touch(self) -> None:
        """Becomes the replica of an unreachable primary."""
        self.client.replicaof("127.0.0.1", "1")

    def is_in_step(self) -> bool:
        """Whether the replica has all data of its primary."""
        return self.client.info("replication").get("master_link_status") == "up"


@contextlib.contextmanager
def node(directory: Path) -> Iterator[Node]:
    directory.mkdir()
    port = free_port()
    command = ["redis-server", "--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", ""]
    command += ["--appendonly", "yes", "--appendfsync", "always", "--repl-diskless-sync-delay", "0"]
    with running(command, port, directory / "redis.log") as process:
        yield Node(process, port)


@contextlib.contextmanager
def primary_and_replica(directory: Path) -> Iterator[tuple[Node, Node]]:
    with node(directory / "a") as primary, node(directory / "b") as replica:
        replica.follow(primary)
        wait_until(replica.is_in_step, "the replica has all")
        yield primary, replica


class Address(Relay):
    """New connections go to `node`, as after a DNS change; open ones stay where they are."""

    def __init__(self, node: Node) -> None:
        self.node = node
        super().__init__()
        self.url = f"redis://127.0.0.1:{self.port}/0"

    def upstream(self) -> tuple[str, int]:
        return "127.0.0.1", self.node.port
