"""The spool is closed until its volume is mounted. tests/acceptance boots boxes with it."""

from __future__ import annotations

import configparser
import os
import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).parents[2]
SYSTEMD, EC2 = PROJECT / "systemd", PROJECT / "aws/image/systemd"
OPEN_SPOOL = SYSTEMD / "spool/open-spool"
MARK = "ONLY-A-MOUNT-POINT"


@pytest.fixture
def spool(tmp_path: Path) -> Path:
    """A closed mount point."""
    spool = tmp_path / "spool"
    spool.mkdir(mode=0o000)
    return spool


# Needs real root: in a user namespace systemd-tmpfiles sees / as owned by the user nobody.
def in_namespaces(script: str, spool: Path) -> subprocess.CompletedProcess[str]:
    """Runs a script that may mount, with `$open` to open the spool `$spool`, and `$volume` to mount on it."""
    volume, states = spool.with_name("volume"), spool.with_name("states.conf")
    volume.mkdir(exist_ok=True)
    states.write_text(f"d {spool} 0755 - - -\nd {spool}/incoming 2770 - - -\n")
    environment = {"spool": str(spool), "volume": str(volume)}
    environment["open"] = f"unshare --mount sh {OPEN_SPOOL} {spool} {states}"
    return subprocess.run(
        ["unshare", "--mount", "sh", "-uc", script],
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )


def reopen_for_the_test(spool: Path) -> list[str]:
    """The names in the spool. Removes the protection against root first."""
    # A machine without chattr has no protection to remove.
    subprocess.run(["sh", "-c", 'chattr -i "$1"', "sh", spool], capture_output=True, check=False)
    spool.chmod(0o755)
    return sorted(path.name for path in spool.iterdir())


@pytest.mark.needs_namespaces(users=True)
def test_a_host_without_a_volume_has_its_spool_on_the_disk(spool: Path) -> None:
    done = in_namespaces("$open && $open", spool)

    assert (done.returncode, done.stderr) == (0, "")
    assert spool.stat().st_mode & 0o7777 == 0o755
    assert (spool / "incoming").stat().st_mode & 0o7777 == 0o2770


@pytest.mark.needs_namespaces(users=True)
def test_the_spool_is_made_on_the_volume_and_what_the_mount_hides_stays_closed(spool: Path) -> None:
    done = in_namespaces('mount --bind "$volume" "$spool" && $open && $open', spool)

    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in spool.with_name("volume").iterdir()] == ["incoming"]
    assert spool.stat().st_mode & 0o7777 == 0
    assert reopen_for_the_test(spool) == [MARK]


@pytest.mark.needs_namespaces(users=True)
def test_a_host_that_has_got_a_volume_closes_its_old_spool_and_names_what_is_left_in_it(spool: Path) -> None:
    spool.chmod(0o755)
    (spool / "incoming").mkdir()
    (spool / "incoming/scan.tif").touch()

    done = in_namespaces('mount --bind "$volume" "$spool" && $open', spool)

    assert (done.returncode, done.stderr.split()[:2]) == (0, ["1", "files"])
    assert spool.stat().st_mode & 0o7777 == 0
    assert reopen_for_the_test(spool) == [MARK, "incoming"]
    assert (spool / "incoming/scan.tif").exists()


@pytest.mark.needs_namespaces(users=True)
def test_a_spool_that_had_a_volume_once_is_not_opened_without_it(spool: Path) -> None:
    # As if the line in fstab were lost.
    done = in_namespaces('mount --bind "$volume" "$spool" && $open && umount "$spool" && $open', spool)

    assert done.returncode == 1
    assert f"{spool} stays closed: its volume is not mounted" in done.stderr
    assert spool.stat().st_mode & 0o7777 == 0
    assert reopen_for_the_test(spool) == [MARK]


@pytest.mark.needs_namespaces(users=True)
def test_a_volume_that_begins_as_a_copy_of_the_closed_directory_is_open(spool: Path) -> None:
    script = """
        mount --bind "$volume" "$spool" && $open && umount "$spool" &&
        cp --archive --no-target-directory "$spool" "$volume.2" && mount --bind "$volume.2" "$spool" && $open
    """
    done = in_namespaces(script, spool)

    assert (done.returncode, done.stderr) == (0, "")
    assert [path.name for path in spool.with_name("volume.2").iterdir()] == ["incoming"]
    reopen_for_the_test(spool)


def test_the_directories_of_early_boot_leave_an_open_spool_as_it_is(tmp_path: Path) -> None:
    lines = (SYSTEMD / "tmpfiles.d/md5s3stash.conf").read_text()
    ours = re.sub(r"(/var/spool|/srv)/", rf"{tmp_path}\1/", lines)
    if os.geteuid() != 0:
        ours = re.sub(r":?\broot\b", "-", ours)
    config = tmp_path / "early.conf"
    config.write_text(ours)
    (tmp_path / "var/spool").mkdir(parents=True)
    (tmp_path / "srv").mkdir()
    create = ["systemd-tmpfiles", "--create", str(config)]

    subprocess.run(create, check=True)
    made = {
        place: (tmp_path / place).stat().st_mode & 0o7777
        for place in ("var/spool/md5s3stash", "srv/md5s3stash/incoming")
    }
    for place in made:
        (tmp_path / place).chmod(0o2770)
    subprocess.run(create, check=True)

    assert made == {"var/spool/md5s3stash": 0, "srv/md5s3stash/incoming": 0o755}
    assert {(tmp_path / place).stat().st_mode & 0o7777 for place in made} == {0o2770}


def test_nothing_but_what_opens_the_spool_makes_incoming() -> None:
    early = (SYSTEMD / "tmpfiles.d/md5s3stash.conf").read_text()
    assert re.findall(r"^\w+ +(/var/spool\S*)", early, re.MULTILINE) == ["/var/spool/md5s3stash"]


@pytest.mark.parametrize("unit", ["md5s3stashd.service", "srv-md5s3stash-incoming.mount"])
def test_what_works_in_the_spool_requires_that_it_is_open(unit: str) -> None:
    assert "md5s3stash-spool.service" in words(SYSTEMD / unit, "Requires")
    assert "md5s3stash-spool.service" in words(SYSTEMD / unit, "After")


def test_the_ways_in_come_after_the_spool_and_do_not_wait_for_ever() -> None:
    unit = SYSTEMD / "md5s3stash-spool.service"
    assert words(unit, "Before") == {"ssh.service", "smbd.service"}
    assert words(unit, "JobTimeoutSec") == {"2min"}
    assert words(unit, "RequiresMountsFor") == {"/var/spool/md5s3stash"}


def test_on_ec2_the_spool_and_the_ledger_require_their_volume() -> None:
    for unit in ("md5s3stash-spool.service", "redis-server.service"):
        assert words(EC2 / f"{unit}.d/volume.conf", "Requires") == {"md5s3stash-volume.service"}
        assert words(EC2 / f"{unit}.d/volume.conf", "After") == {"md5s3stash-volume.service"}
        assert unit in words(EC2 / "md5s3stash-volume.service", "Before")


def words(unit: Path, key: str) -> set[str]:
    """The words of this key in the unit's first section."""
    parser = configparser.ConfigParser(interpolation=None, strict=False, delimiters=("=",))
    parser.optionxform = str  # type: ignore[assignment, method-assign]
    parser.read(unit)
    return set(parser["Unit"][key].split())
