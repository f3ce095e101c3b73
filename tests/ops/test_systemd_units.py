"""Checks the units of systemd/, and the additions of an EC2 image, with systemd's tools, without starting them.
tests/acceptance starts them.
"""

from __future__ import annotations

import configparser
import re
import shutil
import subprocess
import textwrap
from collections.abc import Sequence
from pathlib import Path

import pytest

from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.config.settings import HttpSettings, SpoolSettings

UNITS = Path(__file__).parents[2] / "systemd"
UNITS_OF_EC2 = Path(__file__).parents[2] / "aws/image/systemd"
SERVICES = ("md5s3stashd.service", "md5s3stash-thumbnailer@.service")
ACCESS = "md5s3stash-access.service"
MOST_EXPOSED = 1.5

# Units of other packages that our units name.
STUB_PROGRAMS = (
    "usr/bin/kill",
    "usr/bin/sh",
    "usr/bin/redis-server",
    "usr/bin/systemctl",
    "usr/local/lib/md5s3stash/open-spool",
    "opt/md5s3stash/current/bin/python",
    "opt/md5s3stash/current/bin/md5s3stashd",
    "opt/md5s3stash/current/bin/md5s3stash-thumbnailer",
)
STUB_UNITS = (
    "basic.target",
    "local-fs.target",
    "multi-user.target",
    "network-online.target",
    "shutdown.target",
    "sockets.target",
    "sysinit.target",
    "umount.target",
)


def run(*command: str | Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([str(part) for part in command], capture_output=True, text=True, timeout=60, check=False)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """A root directory with our units, and as much of an operating system as systemd's tools need."""
    # Merged /usr, as on Debian since 12: systemd 257 searches programs without a path only below usr/.
    (tmp_path / "bin").symlink_to("usr/bin")
    shutil.copytree(UNITS, tmp_path / "etc/systemd/system", ignore=shutil.ignore_patterns("sysusers.d", "tmpfiles.d"))
    shutil.copytree(UNITS_OF_EC2, tmp_path / "etc/systemd/system", dirs_exist_ok=True)
    for name in STUB_PROGRAMS:
        program = tmp_path / name
        program.parent.mkdir(parents=True, exist_ok=True)
        program.write_text("#!/bin/sh\n")
        program.chmod(0o755)
    system = tmp_path / "usr/lib/systemd/system"
    system.mkdir(parents=True)
    for name in STUB_UNITS:
        (system / name).write_text("[Unit]\nDescription=stub\n")
    (system / "redis-server.service").write_text("[Service]\nExecStart=/usr/bin/redis-server\n")
    return tmp_path


def units_to_verify() -> Sequence[str]:
    return [path.name for units in (UNITS, UNITS_OF_EC2) for path in sorted(units.iterdir()) if path.is_file()]


@pytest.mark.parametrize("unit", units_to_verify())
def test_systemd_has_nothing_to_say_about_a_unit(root: Path, unit: str) -> None:
    instance = unit.replace("@.", "@1.")
    verified = run("systemd-analyze", "verify", "--man=no", f"--root={root}", root / "etc/systemd/system" / instance)
    # A misspelt key is a warning, with status 0.
    assert (verified.stdout + verified.stderr, verified.returncode) == ("", 0)


def test_the_drop_in_that_opens_the_status_page_is_understood_and_leaves_the_port_on_loopback(root: Path) -> None:
    drop_in = root / "etc/systemd/system/md5s3stashd.service.d/status-page.conf"
    drop_in.parent.mkdir(exist_ok=True)
    shutil.copy(UNITS / "examples/status-page.conf", drop_in)
    unit = root / "etc/systemd/system/md5s3stashd.service"
    verified = run("systemd-analyze", "verify", "--man=no", f"--root={root}", unit)
    assert (verified.stdout + verified.stderr, verified.returncode) == ("", 0)

    environment = dict(re.findall(r"^Environment=(\w+)=(.*)$", drop_in.read_text(), re.MULTILINE))
    needed = {"BUCKET_BASE": "bucket", "REDIS_URL": "redis://127.0.0.1"}
    http = read_settings({**needed, **environment}, None)[HttpSettings]
    assert http == HttpSettings(hosts=("stash.example.org",), thumbnails_url="https://thumbs.example.org")


def test_the_drop_in_of_the_deployment_page_closes_the_port_of_the_thumbnailer_to_other_machines(root: Path) -> None:
    page = (UNITS.parent / "docs/deploy.md").read_text(encoding="utf-8")
    (place, text) = re.findall(r"/etc/systemd/system/(\S+/local\.conf) <<'END'\n(.*?)\n +END\n", page, re.DOTALL)[0]
    drop_in = root / "etc/systemd/system" / place
    drop_in.parent.mkdir()
    drop_in.write_text(textwrap.dedent(text) + "\n")

    verified = run("systemd-analyze", "verify", "--man=no", f"--root={root}", drop_in.parent.with_suffix(""))
    assert (verified.stdout + verified.stderr, verified.returncode) == ("", 0)
    # The empty one removes those of the unit.
    assert re.findall("^ListenStream=(.*)$", drop_in.read_text(), re.MULTILINE) == ["", "127.0.0.1:8888"]
    assert parsed("md5s3stash-thumbnailer.socket")["Socket"]["ListenStream"] == "8888"


def test_a_misspelt_key_is_noticed(root: Path) -> None:
    unit = root / "etc/systemd/system/md5s3stashd.service"
    unit.write_text(unit.read_text().replace("MemoryMax=", "MemoryMx="))
    verified = run("systemd-analyze", "verify", "--man=no", f"--root={root}", unit)
    assert "MemoryMx" in verified.stderr


@pytest.mark.parametrize("unit", [*SERVICES, ACCESS])
def test_a_service_is_exposed_to_1_5_at_most(unit: str) -> None:
    threshold = f"--threshold={MOST_EXPOSED * 10:g}"
    judged = run("systemd-analyze", "security", "--offline=true", threshold, "--no-pager", UNITS / unit)
    assert judged.returncode == 0, judged.stdout + judged.stderr


@pytest.mark.parametrize("unit", SERVICES)
def test_a_service_is_bounded_and_comes_back_for_ever(unit: str) -> None:
    settings = parsed(unit)
    assert settings["Unit"]["StartLimitIntervalSec"] == "0"
    assert settings["Service"]["Restart"] == "always"
    assert settings["Service"].keys() >= {"MemoryMax", "TasksMax", "TimeoutStopSec", "User"}


def test_only_the_access_helper_may_change_what_others_own_and_only_in_the_spool() -> None:
    granted = {unit: parsed(unit)["Service"]["AmbientCapabilities"] for unit in [*SERVICES, ACCESS]}
    assert granted == {"md5s3stashd.service": "CAP_LEASE", "md5s3stash-thumbnailer@.service": "", ACCESS: "CAP_FOWNER"}

    helper, daemon = parsed(ACCESS)["Service"], parsed("md5s3stashd.service")["Service"]
    assert helper["CapabilityBoundingSet"] == "CAP_FOWNER"
    spool = helper["ExecStart"].split()[-1]
    assert helper["ReadWritePaths"].split() == [f"{spool}/{state}" for state in ("incoming", "active", "deferred")]
    assert helper["PrivateNetwork"] == "yes"
    # It gives access to its own user.
    assert helper["User"] == daemon["User"]


def test_only_the_daemon_may_ask_the_access_helper_and_it_knows_where() -> None:
    socket = parsed("md5s3stash-access.socket")["Socket"]
    assert (socket["SocketUser"], socket["SocketMode"]) == (parsed("md5s3stashd.service")["Service"]["User"], "0600")

    environment = dict(
        re.findall(r"^Environment=(MD5S3STASH_\w+)=(.*)$", (UNITS / "md5s3stashd.service").read_text(), re.MULTILINE)
    )
    needed = {"BUCKET_BASE": "bucket", "REDIS_URL": "redis://127.0.0.1"}
    settings = read_settings({**needed, **environment}, None)[SpoolSettings]
    assert settings.access_socket == socket["ListenSequentialPacket"]


def test_downloads_pass_through_a_disk_and_not_through_memory() -> None:
    assert "\nEnvironment=TMPDIR=/var/tmp\n" in (UNITS / "md5s3stashd.service").read_text()
    assert parsed("md5s3stashd.service")["Service"]["PrivateTmp"] == "yes"


def test_each_thumbnail_server_has_a_port_for_its_metrics_on_loopback_alone() -> None:
    socket = "md5s3stash-thumbnailer-metrics@.socket"

    assert socket.replace("@", "@%i") in parsed("md5s3stash-thumbnailer@.service")["Service"]["Sockets"].split()
    assert parsed(socket)["Socket"]["Service"] == "md5s3stash-thumbnailer@%i.service"
    assert parsed(socket)["Socket"]["ListenStream"] == "127.0.0.1:919%i"
    # Documented for the two servers of the appliance.
    page = (UNITS.parent / "docs/metrics.md").read_text(encoding="utf-8")
    assert set(re.findall(r'"127\.0\.0\.1:(919\d)"', page)) == {"9191", "9192"}


def parsed(unit: str) -> configparser.ConfigParser:
    """The unit's settings; the last value if a key is repeated."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(UNITS / unit)
    return parser
