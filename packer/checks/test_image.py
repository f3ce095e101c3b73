"""Checks of a box that was booted from the image, with or without settings. Run by packer/verify."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

ENABLED = (
    "apt-daily-upgrade.timer",
    "chrony.service",
    "redis-server.service",
    "md5s3stash.target",
    "md5s3stashd.service",
    "md5s3stash-access.socket",
    "md5s3stash-thumbnailer.socket",
    "md5s3stash-thumbnailer@1.service",
    "md5s3stash-thumbnailer@2.service",
    "md5s3stash-logs.service",
    "md5s3stash-metrics.timer",
    "md5s3stash-spool.service",
    "md5s3stash-secret.service",
    "md5s3stash-signal.service",
    "md5s3stash-volume.service",
    "srv-md5s3stash-incoming.mount",
)
PROGRAMS = ("md5s3stash", "md5s3stashd", "md5s3stashctl", "md5s3stash-thumbnailer")
# On the path, with completions. All programs have man pages.
COMMANDS = ("md5s3stash", "md5s3stashctl", "md5s3stash-enqueue")
SHARE = Path(__file__).parents[2] / "share"
# sshd, and the thumbnailer. Everything else listens on loopback or on a socket file.
PUBLIC_TCP_PORTS = {22, 8888}
METADATA = "http://169.254.169.254/latest/meta-data/"


def output_of(host: Any, command: str) -> str:
    done = host.run(command)
    assert done.rc == 0, f"{command}: {done.stderr}"
    return str(done.stdout)


# --- it runs ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("unit", ENABLED)
def test_a_unit_starts_at_every_boot(host: Any, unit: str) -> None:
    assert output_of(host, f"systemctl is-enabled '{unit}'").strip() in ("enabled", "static")


def test_no_unit_has_failed(host: Any) -> None:
    assert output_of(host, "systemctl list-units --failed --plain --no-legend") == ""


@pytest.mark.parametrize("program", PROGRAMS)
def test_a_program_is_installed_and_imports_what_it_needs(host: Any, program: str) -> None:
    output_of(host, f"/opt/md5s3stash/current/bin/{program} --help")


def test_the_operators_command_runs_as_the_daemons_user(host: Any) -> None:
    assert output_of(host, "stashctl --help").startswith("usage: md5s3stashctl")


def test_ffmpeg_is_installed_for_videos(host: Any) -> None:
    output_of(host, "ffmpeg -version")
    output_of(host, "ffprobe -version")


@pytest.mark.parametrize("page", [page.stem for page in sorted((SHARE / "man").glob("man?/*"))])
def test_man_shows_the_page_of_the_release_in_use(host: Any, page: str) -> None:
    found = output_of(host, f"man --where {page}").strip()

    assert output_of(host, f"realpath {found}").startswith(release_in_use(host))


@pytest.mark.parametrize("command", COMMANDS)
def test_the_shells_complete_a_command_by_the_release_in_use(host: Any, command: str) -> None:
    # The name since bash-completion 2.12, and the one before.
    load = f"{{ _comp_load {command} || _completion_loader {command}; }} 2>/dev/null"
    learnt = output_of(host, f"bash -c '. /usr/share/bash-completion/bash_completion; {load}; complete -p {command}'")

    assert re.search(rf" -F \S+ {command}$", learnt.strip())
    for file in (f"bash-completion/completions/{command}", f"zsh/site-functions/_{command}"):
        assert output_of(host, f"realpath /usr/local/share/{file}").startswith(release_in_use(host))


def release_in_use(host: Any) -> str:
    return output_of(host, "realpath /opt/md5s3stash/current").strip() + "/"


@pytest.mark.parametrize(("settings", "unit"), [
    ("/etc/md5s3stash/md5s3stash.toml", "md5s3stashd.service"),
    ("/etc/md5s3stash/thumbnailer.env", "md5s3stash-thumbnailer@1.service"),
])  # fmt: skip
def test_a_program_runs_where_it_has_settings_and_nowhere_else(host: Any, settings: str, unit: str) -> None:
    state = host.run(f"systemctl is-active '{unit}'").stdout.strip()

    assert state == ("active" if host.file(settings).exists else "inactive")


def test_the_ledger_is_on_disk_before_it_says_so(host: Any) -> None:
    redis = "redis-cli -s /run/redis/redis-server.sock config get"

    assert output_of(host, f"{redis} appendonly").split() == ["appendonly", "yes"]
    assert output_of(host, f"{redis} appendfsync").split() == ["appendfsync", "always"]
    assert output_of(host, f"{redis} no-appendfsync-on-rewrite").split() == ["no-appendfsync-on-rewrite", "no"]
    assert output_of(host, f"{redis} maxmemory-policy").split() == ["maxmemory-policy", "noeviction"]
    assert int(output_of(host, f"{redis} maxmemory").split()[1]) > 0


def test_each_state_of_an_open_spool_is_a_directory_of_one_filesystem(host: Any) -> None:
    if is_closed(host):
        return
    states = "incoming active deferred hold failed"
    devices = output_of(host, f"cd /var/spool/md5s3stash && stat --format=%d {states}").split()

    assert len(devices) == 5
    assert len(set(devices)) == 1


def test_producers_may_drop_where_a_daemon_takes_and_nowhere_else(host: Any) -> None:
    assert is_closed(host) != host.file("/etc/md5s3stash/md5s3stash.toml").exists
    if is_closed(host):
        return
    incoming = host.file("/var/spool/md5s3stash/incoming")

    assert (incoming.user, incoming.group, oct(incoming.mode)) == ("md5s3stash", "md5s3stash-drop", "0o2770")


def is_closed(host: Any) -> bool:
    """Whether the spool is closed to all users, as on a box without settings for it."""
    spool = host.file("/var/spool/md5s3stash")
    return (spool.user, spool.group, oct(spool.mode)) == ("root", "root", "0o0")


# --- it is locked down ------------------------------------------------------------------------------------------------


def test_nothing_of_ours_runs_as_root(host: Any) -> None:
    lines = output_of(host, "ps -eo user:32=,args=").splitlines()
    ours = [line.split(maxsplit=1) for line in lines if re.search(r"/opt/md5s3stash/|redis-server", line)]

    assert [args for user, args in ours if user == "root"] == []


def test_only_the_intended_ports_are_open(host: Any) -> None:
    listening = output_of(host, "ss --no-header --listening --tcp --numeric")
    addresses = [line.split()[3] for line in listening.splitlines()]
    public = {int(address.rpartition(":")[2]) for address in addresses if not re.match(r"127\.|\[::1\]", address)}

    assert public <= PUBLIC_TCP_PORTS


def test_nobody_logs_in_with_a_password(host: Any) -> None:
    settings = output_of(host, "sshd -T").splitlines()

    assert "passwordauthentication no" in settings
    assert "kbdinteractiveauthentication no" in settings
    assert re.search(r"^[^:]+:\$", output_of(host, "cat /etc/shadow"), re.MULTILINE) is None


def test_security_updates_install_themselves(host: Any) -> None:
    settings = output_of(host, "apt-config dump APT::Periodic::Unattended-Upgrade")

    assert settings.strip() == 'APT::Periodic::Unattended-Upgrade "1";'


@pytest.mark.parametrize("package", ["redis-server", "chrony", "openssh-server"])
def test_a_configuration_file_of_debian_is_as_debian_ships_it(host: Any, package: str) -> None:
    edited = [line for line in host.run(f"dpkg --verify {package}").stdout.splitlines() if " c /" in line]

    assert edited == []


def test_producers_can_be_added_on_a_box_that_has_a_volume(host: Any) -> None:
    done = host.run("md5s3stash-producer list")

    assert (done.rc, "is not mounted" in done.stderr) in ((0, False), (1, True))


def test_an_edited_configuration_file_does_not_hold_an_update_back(host: Any) -> None:
    # What unattended-upgrades looks for before it looks into the files.
    assert "--force-confold" in output_of(host, "apt-config dump Dpkg::Options")


def test_the_journal_takes_a_bounded_part_of_the_disk(host: Any) -> None:
    settings = output_of(host, "systemd-analyze cat-config systemd/journald.conf")

    # The last one counts.
    assert re.findall(r"^SystemMaxUse=(\w+)", settings, re.MULTILINE)[-1:] == ["1G"]


def test_the_clock_is_set_wherever_the_box_has_one_of_its_own(host: Any) -> None:
    container = host.run("systemd-detect-virt --quiet --container").rc == 0

    assert host.run("systemctl is-active chrony.service").stdout.strip() == ("inactive" if container else "active")


def test_the_metadata_service_answers_nobody_without_a_token(host: Any) -> None:
    code = f"""
import urllib.error, urllib.request
try:
    print(urllib.request.urlopen({METADATA!r}, timeout=5).status)
except urllib.error.HTTPError as error:
    print(error.code)
"""

    assert output_of(host, f"python3 -c '{code.replace(chr(39), chr(34))}'").strip() == "401"


# --- it carries nothing of another box --------------------------------------------------------------------------------


def test_machine_id_and_host_keys_were_made_on_this_box(host: Any) -> None:
    machine_id = output_of(host, "cat /etc/machine-id").strip()
    image_is_of = int(output_of(host, "stat --format=%Y /usr/local/lib/md5s3stash-aws/spool_volume.py"))
    keys = output_of(host, "sh -c 'stat --format=%Y /etc/ssh/ssh_host_*_key'").split()

    assert re.fullmatch("[0-9a-f]{32}", machine_id)
    assert keys
    assert all(int(made) > image_is_of for made in keys)


def test_no_key_of_the_build_lets_anybody_in(host: Any) -> None:
    keys = host.run("sh -c 'cat /root/.ssh/authorized_keys /home/*/.ssh/authorized_keys'").stdout

    assert "packer" not in keys


def test_nothing_is_left_of_the_build(host: Any) -> None:
    places = "/tmp/image /root/.ansible /home/*/.ansible /root/.bash_history"

    assert output_of(host, f"sh -c 'ls -d {places} 2>/dev/null; true'") == ""
