"""Faults on a box: no dropped file is lost, and everything recovers by itself.

Each test leaves a working box; `nothing_is_lost` counts all drops since the launch.
"""

from __future__ import annotations

import json
import urllib.request
from functools import partial
from pathlib import Path

import pytest

from tests.acceptance.box import DAEMON, REDIS, THUMBNAIL_PORT, THUMBNAILERS, Box, DropLoad, ThumbnailLoad
from tests.support import sealed_attempts
from tests.support.reachable import unrefused
from tests.support.servers import wait_until

# WatchdogSec=30, and the time of a restart.
WATCHDOG_SECONDS = 60.0
# Port of the daemon's /healthz, on loopback of the box.
HEALTH_PORT = 9108


def under_load(box: Box, label: str, count: int = 40) -> None:
    """Drops files, and returns while the daemon processes them, after at least one more is stashed and recorded."""
    box.drop(f"{label}-before", 1)
    box.nothing_is_lost()
    before = len(box.cloud.objects())
    box.drop(label, count)
    wait_until(lambda: len(box.cloud.objects()) > before, "the first file of many in S3", 60)
    assert box.waiting(), "the daemon finished before the fault: drop more"


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
@pytest.mark.parametrize("unit", [DAEMON, REDIS])
def test_files_survive_the_end_of_a_service(box: Box, unit: str, signal: str) -> None:
    under_load(box, f"{unit}-{signal}")

    # Producers do not check whether the daemon runs.
    with DropLoad(box, f"{unit}-{signal}-meanwhile"):
        before = box.send(signal, unit)
        wait_until(lambda: box.is_back(unit, before), f"{unit} after SIG{signal}", 60)

    box.nothing_is_lost()


@pytest.mark.parametrize("signal", ["KILL", "TERM"])
def test_thumbnails_survive_the_end_of_an_instance(box: Box, signal: str) -> None:
    with ThumbnailLoad(box, f"thumbnailer-{signal}") as load:
        before = box.send(signal, THUMBNAILERS[0])
        wait_until(lambda: box.is_back(THUMBNAILERS[0], before), f"{THUMBNAILERS[0]} after SIG{signal}", 60)
        answered = load.answered
        wait_until(lambda: load.answered > answered + 10, "answers afterwards", 60)

    if signal == "KILL":
        # Its requests in progress are lost; later ones are not.
        assert len(load.failures) <= load.CLIENTS, load.failures
    else:
        load.nobody_was_cut_off()


def test_a_reload_of_the_thumbnailer_drops_no_request(box: Box) -> None:
    with ThumbnailLoad(box, "reload") as load:
        for unit in THUMBNAILERS:
            before = box.main_pid(unit)
            box.guest.run("systemctl", "reload", unit)
            wait_until(partial(box.is_back, unit, before), f"{unit} reloaded", 60)

    load.nobody_was_cut_off()


def test_programs_that_hang_are_replaced(box: Box) -> None:
    # Both at once, because the watchdogs take half a minute.
    before = {unit: box.send("STOP", unit) for unit in (DAEMON, THUMBNAILERS[0])}

    new = box.drop("hung", 5)
    for unit, pid in before.items():
        wait_until(partial(box.is_back, unit, pid), f"{unit} replaced by its watchdog", WATCHDOG_SECONDS)
    box.nothing_is_lost()
    assert all(box.answers(md5) for md5 in new.values())


def test_code_in_a_worker_of_the_thumbnail_server_is_refused_everything(box: Box) -> None:
    (md5,) = box.drop("sealed", 1).values()
    box.nothing_is_lost()
    program, drop_in = "/run/sealed_attempts.py", f"/run/systemd/system/{THUMBNAILERS[0]}.d/attempts.conf"
    reach = {
        "credentials": "%d/aws-credentials",
        "secret": "AWS_SHARED_CREDENTIALS_FILE",
        "tcp": THUMBNAIL_PORT,
        "unix": "/run/systemd/notify",
        "abstract": "none",
    }
    lines = [
        "[Service]",
        f"Environment='SEALED_ATTEMPTS={json.dumps(reach)}'",
        "ExecStart=",
        "ExecStart=/opt/md5s3stash/current/bin/python /run/sealed_attempts.py serve --config=%d/thumbnailer.conf"
        " $THUMBNAILER_OPTIONS",
    ]
    box.guest.run("install", "-m644", "/dev/stdin", program, text=Path(sealed_attempts.__file__).read_text())
    box.guest.run("install", "-D", "/dev/stdin", drop_in, text="\n".join([*lines, ""]))
    box.guest.run("systemctl", "daemon-reload")
    try:
        # The other one would answer with a picture.
        box.guest.run("systemctl", "stop", THUMBNAILERS[1])
        box.guest.run("systemctl", "restart", THUMBNAILERS[0])
        url = f"http://{box.login.host}:{THUMBNAIL_PORT}/clip/100x100/{md5}"
        # Twice: the server still sees the worker after it is sealed, and keeps it.
        for _ in range(2):
            with urllib.request.urlopen(url, timeout=60) as answer:
                ended = json.loads(answer.read())
        log = box.guest.run("journalctl", f"_PID={box.main_pid(THUMBNAILERS[0])}", "--output=cat")
    except OSError as error:
        log = box.guest.run("journalctl", f"--unit={THUMBNAILERS[0]}", "--lines=60", "--output=cat")
        raise AssertionError(log) from error
    finally:
        box.guest.run("rm", drop_in, program)
        box.guest.run("systemctl", "daemon-reload")
        box.guest.run("systemctl", "restart", *THUMBNAILERS)

    assert "event=worker" not in log
    assert ended.pop("the original").startswith("done")
    # Neither of them is refused as the others are: the original is open to read, and the channel is connected.
    assert ended.pop("write the original").startswith("failed")
    assert ended.pop("send to an abstract socket").startswith("failed")
    assert unrefused(ended) == {}
    assert len(ended) > 60


def test_files_survive_a_memory_limit_that_is_hit(box: Box) -> None:
    # Less than the daemon needs for pictures in memory.
    limit = f"/run/systemd/system/{DAEMON}.d/limit.conf"
    box.guest.run("install", "-D", "/dev/stdin", limit, text="[Service]\nMemoryMax=64M\n")
    box.guest.run("systemctl", "daemon-reload")
    try:
        box.guest.run("systemctl", "--no-block", "restart", DAEMON)
        box.drop("memory", 12, width=1600)
        wait_until(lambda: restarts(box) > 0, "a daemon that the kernel killed and systemd started again", 90)
    finally:
        box.guest.run("rm", limit)
        box.guest.run("systemctl", "daemon-reload")
        box.guest.run("systemctl", "restart", DAEMON)

    box.nothing_is_lost()


def restarts(box: Box) -> int:
    """How often systemd has restarted the daemon since its last manual start."""
    return int(box.guest.run("systemctl", "show", "--property=NRestarts", "--value", DAEMON))


def test_files_survive_a_minute_without_s3(box: Box) -> None:
    with box.cloud.s3_away():
        box.drop("s3-away", 20)
        wait_until(
            lambda: "paused" in box.guest.run("systemctl", "status", DAEMON, check=False), "a daemon that waits", 60
        )
        away_for_a_minute(box)
        assert box.is_active(DAEMON)

    box.nothing_is_lost()


def away_for_a_minute(box: Box) -> None:
    """For a minute, asserts that the daemon's process stays the same."""
    before = box.main_pid(DAEMON)
    with pytest.raises(TimeoutError):
        wait_until(lambda: box.is_back(DAEMON, before), "another daemon", 60)


def test_a_role_that_comes_late_needs_no_restart(box: Box) -> None:
    units = (DAEMON, *THUMBNAILERS)
    box.cloud.metadata.has_roles = False
    try:
        box.guest.run("systemctl", "restart", *units)
        # Of a picture that no server has cached.
        new = box.drop("late-role", 5)
        wait_until(lambda: healths(box) == {"503"}, "unhealthy servers", 60)
        assert box.waiting() >= new.keys()
        before = [box.main_pid(unit) for unit in units]
    finally:
        box.cloud.metadata.has_roles = True

    box.nothing_is_lost()
    wait_until(lambda: healths(box) == {"200"}, "healthy servers", 60)
    assert all(box.answers(md5) for md5 in new.values())
    assert [box.main_pid(unit) for unit in units] == before


def healths(box: Box) -> set[str]:
    """The answers of the daemon and the thumbnail servers to health checks."""
    # The kernel chooses which thumbnail server answers.
    urls = [f"http://127.0.0.1:{port}/healthz" for port in [HEALTH_PORT, *[THUMBNAIL_PORT] * 10]]
    command = ["curl", "--silent", "--output", "/dev/null", "--write-out", "%{http_code} "]
    return {code for url in urls for code in box.guest.run(*command, url, check=False).split()}


@pytest.mark.parametrize("how", ["reboot", "power cut"])
def test_everything_survives(box: Box, how: str) -> None:
    label = how.replace(" ", "-")
    under_load(box, label)

    with DropLoad(box, f"{label}-meanwhile"):
        if how == "reboot":
            box.guest.reboot()
        else:
            box.guest.cut_the_power()
            box.guest.boot()

    box.all_active()
    box.nothing_is_lost()
    assert box.answers(next(iter(box.dropped.values())))


def test_the_metadata_service_was_never_asked_without_a_token(box: Box) -> None:
    assert box.cloud.metadata.without_token == 0
