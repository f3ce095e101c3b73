"""A thumbnail server's notifications to systemd."""

from __future__ import annotations

import secrets
import signal
import subprocess
from pathlib import Path

from tests.support import servers
from tests.support.notify_socket import notify_socket
from tests.thumbnailer.conftest import command, environment


def test_systemd_hears_that_it_is_ready_that_it_lives_and_that_it_stops(tmp_path: Path) -> None:
    with notify_socket(f"@md5s3stash-{secrets.token_hex(8)}") as supervisor:
        told = {"NOTIFY_SOCKET": supervisor.address, "WATCHDOG_USEC": "400000"}
        serve = command(
            "--address=127.0.0.1", f"--port={servers.free_port()}", "--workers=1", f"--cache_dir={tmp_path}"
        )
        process = subprocess.Popen(serve, env={**environment("http://127.0.0.1:1"), **told})
        try:
            servers.wait_until(lambda: supervisor.received("READY") == ["1"], "ready")
            servers.wait_until(lambda: len(supervisor.received("WATCHDOG")) > 2, "pings")
            process.send_signal(signal.SIGTERM)
            assert process.wait(30) == 0
        finally:
            servers.stop(process)
        assert supervisor.received("STOPPING") == ["1"]
