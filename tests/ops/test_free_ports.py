"""Free ports for tests and benches are unique: with the same port, one of two servers would fail far from the cause."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from tests.support import servers


def test_no_port_is_given_twice_while_it_may_be_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    first = servers.free_port()
    monkeypatch.setattr(servers, "_PORTS", range(first, first + 40))
    drawn = [servers.free_port() for _ in range(15)]
    assert len({first, *drawn}) == 16


def test_another_process_is_not_given_it_either() -> None:
    port = servers.free_port()
    program = "import itertools; from tests.support import servers; candidates = itertools.count({port}); "
    program += "servers.secrets.choice = lambda ports: next(candidates); print(servers.free_port())"
    command = [sys.executable, "-c", program.format(port=port)]
    done = subprocess.run(command, cwd=servers.REPOSITORY, capture_output=True, check=True, timeout=60)
    assert int(done.stdout) > port


def test_a_server_listens_on_it() -> None:
    with socket.create_server(("127.0.0.1", servers.free_port())) as server:
        assert servers.accepts_connections(server.getsockname()[1])


def test_few_descriptors_are_kept() -> None:
    for _ in range(servers._PORTS_HELD):
        servers.free_port()
    before = len(os.listdir("/proc/self/fd"))
    for _ in range(50):
        servers.free_port()
    assert len(os.listdir("/proc/self/fd")) == before
