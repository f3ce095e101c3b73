"""The appliance's Redis with its unit and our settings: it keeps what it confirms, in limited memory."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

import redis

from md5s3stash_daemon.ledger.durability import LedgerProbe
from tests.support.servers import REPOSITORY, free_port, running

SETTINGS = REPOSITORY / "ansible/roles/redis/files/redis.conf"
UNIT = REPOSITORY / "systemd/redis-server.service.d/md5s3stash.conf"


def test_the_appliance_s_redis_keeps_records_in_two_fifths_of_the_memory(tmp_path: Path) -> None:
    found = re.search(r"^ExecStartPre=\+/bin/sh -c '(.*)'$", UNIT.read_text(), re.MULTILINE)
    assert found is not None
    # As systemd passes it.
    command = found[1].replace("$$", "$").replace("/run/redis", str(tmp_path))
    subprocess.run(["sh", "-c", command], check=True)
    port = free_port()
    of_ours = SETTINGS.read_text().replace("/run/redis", str(tmp_path)).replace("port 0", f"port {port}")
    (tmp_path / "md5s3stash.conf").write_text(of_ours)
    # As Debian's, as far as it contradicts ours.
    (tmp_path / "redis.conf").write_text(f"dir {tmp_path}\nbind 127.0.0.1\nport 6379\nsave 3600 1\nappendonly no\n")
    (start,) = re.findall(r"^ExecStart=/usr/bin/(redis-server .*)$", UNIT.read_text(), re.MULTILINE)
    command = start.replace("/etc/redis", str(tmp_path)).replace("--supervised systemd", "--supervised no").split()

    with running(command, port, tmp_path / "redis.log"):
        client = redis.Redis(port=port)
        probe = LedgerProbe(client, "test")
        probe()
        assert probe.risks() == frozenset()
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        maxmemory = int(client.config_get("maxmemory")["maxmemory"] or 0)
        assert 0.39 < maxmemory / total < 0.41
