"""Checks that each acceptance test can fail: breaks one thing at a time in a box; the test for it must notice.

    make acceptance-sabotage                      all of them, more than an hour
    make acceptance-sabotage ONLY="ports reload"  some of them

A test in tests/ops requires that every acceptance test is named here.
"""

from __future__ import annotations

import re
import subprocess
import sys
import tempfile
import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from xml.etree import ElementTree
from xml.etree.ElementTree import Element

import pytest

from tests.acceptance.disks import FILESYSTEMS

_HERE = Path(__file__).parent
_PROJECT = _HERE.parents[1]


@dataclass(frozen=True, slots=True)
class Sabotage:
    """A fault made before a box boots, and the tests that must notice it: test -> regular expression of its failure."""

    fails: Mapping[str, str]
    # Path below the box's root -> text.
    files: Mapping[str, str] = field(default_factory=dict)
    # For both roles and all resources.
    more_rights: Sequence[str] = ()
    only_first_metadata_version: bool = False

    def write_files(self, root: Path) -> None:
        for name, text in self.files.items():
            file = root / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.unlink(missing_ok=True)
            file.write_text(text)


def _drop_in(unit: str, *settings: str) -> Mapping[str, str]:
    # The name sorts after those that tests write.
    return {f"etc/systemd/system/{unit}.d/sabotage.conf": "\n".join(["[Service]", *settings, ""])}


_NO_CAPABILITIES = ("CapabilityBoundingSet=", "AmbientCapabilities=")

_DAEMON = "md5s3stashd.service"
_THUMBNAILER = "md5s3stash-thumbnailer@.service"
_LAUNCHED, _THUMBNAILS = "test_1_launched.py", "test_1_thumbnail_box.py"
_POWER_CUT = "test_2_power_cut.py"
_NOT_STASHED = "test_a_power_cut_loses_nothing_that_was_synced_and_nothing_that_it_damaged_is_stashed"
_FAULTS, _NFS, _RELEASES = "test_2_faults.py", "test_2_nfs.py", "test_3_releases.py"
_UPLOADS = "test_2_uploads.py"
_LATE = "test_4_late_volume.py"
_LATE_BOOT = f"{_LATE}::test_a_box_whose_volume_comes_late_lets_the_operator_in_and_takes_no_drop"
_REBOOT = f"{_LATE}::test_a_reboot_takes_no_drop_that_the_box_does_not_keep"
_SPOOL_UNIT = "md5s3stash-spool.service"
_UPGRADES, _UNNOTICED = "test_4_upgrades.py", "test_4_unnoticed.py"
_KEYS = f"{_UNNOTICED}::test_keys_of_hosts_without_a_role_are_loaded"
_METRICS_TIMER = "etc/systemd/system/md5s3stash-metrics.timer.d/sabotage.conf"
# Makes the daemon forget, at each start, the files that it has.
_FORGETFUL = "ExecStartPre=+/usr/bin/find /var/spool/md5s3stash/incoming /var/spool/md5s3stash/active -type f -delete"
_LOST = r"AssertionError: lost: "
_CUT_OFF = r"AssertionError: failed: .*(Connection reset|RemoteDisconnected|IncompleteRead)"

# The playbook reported another error, after it had changed the link to the release.
_PUT_IN_USE = r"Regex pattern did not match[\s\S]*Point the link to the release\] \*+\\nchanged"

# Reopens the closed directory below the mount.
_REOPEN_BELOW = (
    "ExecStartPost=/bin/sh -c 'mount --bind /var/spool /mnt; chattr -i /mnt/md5s3stash;"
    " rm -f /mnt/md5s3stash/*; chmod 0755 /mnt/md5s3stash;"
    " install -d -m 2770 -g md5s3stash-drop /mnt/md5s3stash/incoming'"
)

# A program that finds no role at its start does not look again.
_LOOK_ONCE = (
    "ExecStartPre=+/bin/sh -c 'at=http://169.254.169.254/latest; key=X-aws-ec2-metadata-token;"
    ' token=$(curl -s -X PUT -H "$key-ttl-seconds: 60" $at/api/token);'
    ' if curl -s -f -o /dev/null -H "$key: $token" $at/meta-data/iam/security-credentials/; then rm -f %t/%n.env;'
    " else echo AWS_EC2_METADATA_DISABLED=true >%t/%n.env; fi'",
    "EnvironmentFile=-%t/%n.env",
)

NOTHING = Sabotage({})
SABOTAGES: Mapping[str, Sabotage] = {
    # --- a launched box --------------------------------------------------------------------------------------------
    "unit": Sabotage(
        {f"{_LAUNCHED}::test_every_unit_is_active": "active: redis-server.service"},
        _drop_in("md5s3stash-thumbnailer@2.service", "ExecStart=", "ExecStart=/bin/false", "Restart=no"),
    ),
    "exposure": Sabotage(
        {
            f"{_LAUNCHED}::test_services_are_exposed_to_1_5_at_most[{unit}]": r"assert \d\.\d <= 1\.5"
            for unit in (_DAEMON, "md5s3stash-thumbnailer@1.service", "md5s3stash-thumbnailer@2.service")
        },
        {
            **_drop_in(_DAEMON, "SystemCallFilter=", "PrivateUsers=no"),
            **_drop_in(_THUMBNAILER, "SystemCallFilter=", "PrivateUsers=no"),
        },
    ),
    "root": Sabotage(
        {f"{_LAUNCHED}::test_no_process_of_ours_is_root_and_none_may_become_it": "'0' not in"},
        _drop_in(_THUMBNAILER, "User=root", "Group=root"),
    ),
    "ports": Sabotage(
        {f"{_LAUNCHED}::test_only_the_intended_ports_listen": r"10\.99\.0\.2:2022"},
        {"etc/ssh/sshd_config.d/sabotage.conf": "Port 2022\n"},
    ),
    "unsealed-workers": Sabotage(
        {f"{_FAULTS}::test_code_in_a_worker_of_the_thumbnail_server_is_refused_everything": "'event=worker' not in"},
        _drop_in(_THUMBNAILER, "SystemCallFilter=~landlock_create_ruleset"),
    ),
    "no-ffmpeg": Sabotage(
        {f"{_LAUNCHED}::test_a_video_becomes_a_thumbnail": "HTTP Error 415"},
        _drop_in(_THUMBNAILER, "InaccessiblePaths=/usr/bin/ffmpeg"),
    ),
    "memory-limit": Sabotage(
        {
            f"{_LAUNCHED}::test_the_memory_limit_is_the_kernels": "assert '(9223372036854771712|max)'",
            f"{_FAULTS}::test_files_survive_a_memory_limit_that_is_hit": "a daemon that the kernel killed",
        },
        _drop_in(_DAEMON, "MemoryMax=infinity"),
    ),
    "drift": Sabotage(
        {f"{_LAUNCHED}::test_a_second_run_of_the_playbook_changes_nothing": "changed=1 "},
        {"etc/apt/apt.conf.d/20auto-upgrades": "// somebody was here\n"},
    ),
    "drift-of-the-release": Sabotage(
        {f"{_LAUNCHED}::test_a_dry_run_finds_nothing_to_change": "changed=1 "},
        {"usr/local/bin/md5s3stashctl": "#!/bin/sh\n"},
    ),
    "group": Sabotage(
        {
            f"{_LAUNCHED}::test_what_the_sftp_user_drops_becomes_a_thumbnail": "an empty spool",
            f"{_LAUNCHED}::test_what_rsync_brings_by_the_recipe_of_the_documentation_is_stashed": "an empty spool",
        },
        _drop_in(_DAEMON, "SupplementaryGroups=", "SupplementaryGroups=redis"),
    ),
    "metadata-v1": Sabotage(
        {
            f"{_LAUNCHED}::test_credentials_come_from_the_second_version_of_the_metadata_service_alone": r"\d+ == 0",
            f"{_FAULTS}::test_the_metadata_service_was_never_asked_without_a_token": r"\d+ == 0",
        },
        only_first_metadata_version=True,
    ),
    "shell-accounts-confined-to-sftp": Sabotage(
        {f"{_LAUNCHED}::test_what_rsync_brings_by_the_recipe_of_the_documentation_is_stashed": "version mismatch"},
        {"etc/ssh/sshd_config.d/15-sabotage.conf": "Match Group md5s3stash-drop\n    ForceCommand internal-sftp\n"},
    ),
    "chroot": Sabotage(
        {f"{_LAUNCHED}::test_the_sftp_user_sees_nothing_but_the_spool_and_gets_no_shell": "!= '/incoming'"},
        {"etc/ssh/sshd_config.d/15-sabotage.conf": "Match Group md5s3stash-sftp\n    ChrootDirectory none\n"},
    ),
    "right-to-write-elsewhere": Sabotage(
        {f"{_LAUNCHED}::test_the_role_may_not[write to another bucket]": "DID NOT RAISE"}, more_rights=["s3:PutObject"]
    ),
    "right-to-delete": Sabotage(
        {f"{_LAUNCHED}::test_the_role_may_not[delete]": "DID NOT RAISE"}, more_rights=["s3:DeleteObject"]
    ),
    "right-to-publish": Sabotage(
        {f"{_LAUNCHED}::test_the_role_may_not[publish]": "DID NOT RAISE"}, more_rights=["s3:PutObjectAcl"]
    ),
    "image": Sabotage(
        {f"{_LAUNCHED}::test_the_checks_of_an_image_pass_on_the_box": "test_nobody_logs_in_with_a_password"},
        {"etc/ssh/sshd_config.d/05-sabotage.conf": "PasswordAuthentication yes\n"},
    ),
    "manual-of-another-release": Sabotage(
        {f"{_LAUNCHED}::test_the_checks_of_an_image_pass_on_the_box": "test_man_shows_the_page_of_the_release_in_use"},
        {"usr/local/share/man/man8/md5s3stashctl.8": ".TH md5s3stashctl 8\n"},
    ),
    # --- a box for thumbnails only ---------------------------------------------------------------------------------
    "thumbnail-box-runs-all": Sabotage(
        {f"{_THUMBNAILS}::test_a_box_without_settings_for_a_spool_runs_no_daemon": "'failed' == 'inactive'"},
        {"etc/md5s3stash/md5s3stash.toml": "[stash]\nbucket_base = ['x']\n"},
    ),
    "thumbnailer-rights": Sabotage(
        {f"{_THUMBNAILS}::test_its_role_reads_and_does_nothing_else": "DID NOT RAISE"}, more_rights=["s3:PutObject"]
    ),
    "thumbnailer-settings": Sabotage(
        {f"{_THUMBNAILS}::test_it_makes_a_thumbnail_of_what_the_spool_has_stashed": "HTTP Error [45]"},
        _drop_in(_THUMBNAILER, "EnvironmentFile=", "Environment=BUCKET_BASE=nobodys S3_ENDPOINT=http://10.99.0.1:5000"),
    ),
    # --- faults ----------------------------------------------------------------------------------------------------
    "forgetful-daemon": Sabotage(
        {
            f"{_FAULTS}::test_files_survive_the_end_of_a_service[{_DAEMON}-KILL]": _LOST,
            f"{_FAULTS}::test_files_survive_the_end_of_a_service[{_DAEMON}-TERM]": _LOST,
            f"{_FAULTS}::test_everything_survives[reboot]": _LOST,
            f"{_FAULTS}::test_everything_survives[power cut]": _LOST,
            f"{_RELEASES}::test_upgrade_and_rollback_lose_no_request_and_no_file": _LOST,
        },
        _drop_in(_DAEMON, _FORGETFUL),
    ),
    "forgetful-ledger": Sabotage(
        {
            f"{_FAULTS}::test_files_survive_the_end_of_a_service[redis-server.service-KILL]": _LOST,
            f"{_FAULTS}::test_files_survive_the_end_of_a_service[redis-server.service-TERM]": _LOST,
            f"{_FAULTS}::test_everything_survives[reboot]": _LOST,
            f"{_FAULTS}::test_everything_survives[power cut]": _LOST,
        },
        {
            "etc/redis/md5s3stash.conf": "port 0\nunixsocket /run/redis/redis-server.sock\nunixsocketperm 770\n"
            'appendonly no\nsave ""\n',
            # Otherwise the daemon notices it, and removes no file.
            **_drop_in(_DAEMON, "Environment=MD5S3STASH_REDIS_ACCEPTED_RISKS=appendonly"),
        },
    ),
    "not-started-again": Sabotage(
        {
            f"{_FAULTS}::test_files_survive_the_end_of_a_service[{_DAEMON}-KILL]": "after SIGKILL",
            f"{_FAULTS}::test_files_survive_the_end_of_a_service[redis-server.service-KILL]": "after SIGKILL",
            f"{_FAULTS}::test_thumbnails_survive_the_end_of_an_instance[KILL]": "after SIGKILL",
            f"{_FAULTS}::test_programs_that_hang_are_replaced": "replaced by its watchdog",
        },
        {
            **_drop_in(_DAEMON, "Restart=no"),
            **_drop_in(_THUMBNAILER, "Restart=no"),
            **_drop_in("redis-server.service", "Restart=no"),
        },
    ),
    "no-watchdog": Sabotage(
        {f"{_FAULTS}::test_programs_that_hang_are_replaced": "replaced by its watchdog"},
        {**_drop_in(_DAEMON, "WatchdogSec=0"), **_drop_in(_THUMBNAILER, "WatchdogSec=0")},
    ),
    "not-enabled": Sabotage(
        {f"{_FAULTS}::test_everything_survives[reboot]": "active: redis-server.service"},
        # Starts only once, at the launch.
        _drop_in("md5s3stash-thumbnailer@2.service", "ExecStartPre=+/usr/bin/mkdir /var/lib/md5s3stash-started"),
    ),
    "instance-that-takes-the-other-along": Sabotage(
        {f"{_FAULTS}::test_thumbnails_survive_the_end_of_an_instance[TERM]": _CUT_OFF},
        # When it ends it cuts off all requests of the other one.
        _drop_in(
            "md5s3stash-thumbnailer@1.service", "ExecStopPost=-+/usr/bin/pkill -KILL -f bin/md5s3stash-thumbnailer"
        ),
    ),
    "instances-that-finish-nothing": Sabotage(
        {
            f"{_FAULTS}::test_a_reload_of_the_thumbnailer_drops_no_request": _CUT_OFF,
            f"{_RELEASES}::test_upgrade_and_rollback_lose_no_request_and_no_file": _CUT_OFF,
        },
        _drop_in(_THUMBNAILER, "KillSignal=SIGKILL", "ExecReload=", "ExecReload=/bin/kill -KILL $MAINPID"),
    ),
    "a-boot-that-goes-unnoticed": Sabotage(
        {f"{_POWER_CUT}::{_NOT_STASHED}[{filesystem}]": "recorded as other bytes" for filesystem in FILESYSTEMS},
        _drop_in(_DAEMON, "Environment=BOOT_ID=0123456789abcdef"),
    ),
    "no-sync": Sabotage(
        {f"{_POWER_CUT}::{_NOT_STASHED}[{filesystem}]": "synced while files wait" for filesystem in FILESYSTEMS},
        _drop_in(_DAEMON, "SystemCallFilter=~syncfs"),
    ),
    "leases-alone-over-nfs": Sabotage(
        {f"{_NFS}::test_a_file_that_grows_over_nfs_with_pauses_is_stashed_whole": "DID NOT RAISE"},
        # It sees that the NFS server has closed a file, and treats it as complete.
        _drop_in(_DAEMON, "Environment=MD5S3STASH_SPOOL_WATCH=inotify"),
    ),
    "no-leases": Sabotage(
        {f"{_UPLOADS}::test_uploads_that_stall_are_stashed_whole_though_the_daemon_is_restarted": "DID NOT RAISE"},
        _drop_in(_DAEMON, *_NO_CAPABILITIES),
    ),
    "no-way-into-folders-of-others": Sabotage(
        {f"{_UPLOADS}::test_a_folder_that_sftp_puts_with_an_ordinary_umask_is_stashed": "an empty spool"},
        _drop_in("md5s3stash-access.service", *_NO_CAPABILITIES),
    ),
    "polls-too-seldom": Sabotage(
        {f"{_NFS}::test_a_file_that_is_renamed_over_nfs_is_stashed": "an empty spool"},
        _drop_in(_DAEMON, "Environment=MD5S3STASH_SPOOL_POLL_SECONDS=600"),
    ),
    "impatient-daemon": Sabotage(
        {f"{_FAULTS}::test_files_survive_a_minute_without_s3": "DID NOT RAISE"},
        # Gives up, as a program that ends when S3 is unavailable.
        _drop_in(_DAEMON, "RuntimeMaxSec=20"),
    ),
    "credentials-at-the-start-alone": Sabotage(
        {f"{_FAULTS}::test_a_role_that_comes_late_needs_no_restart": "an empty spool"},
        {**_drop_in(_DAEMON, *_LOOK_ONCE), **_drop_in(_THUMBNAILER, *_LOOK_ONCE)},
    ),
    # --- a late volume ---------------------------------------------------------------------------------------------
    "incoming-made-too-early": Sabotage(
        {_LATE_BOOT: "refused drops"},
        # The name sorts before ours: systemd uses the first line for a path.
        {
            "etc/tmpfiles.d/00-sabotage.conf": "d /var/spool/md5s3stash 0755 md5s3stash md5s3stash\n"
            "d /var/spool/md5s3stash/incoming 2770 md5s3stash md5s3stash-drop\n"
        },
    ),
    "operator-locked-out": Sabotage(
        {_LATE_BOOT: "the operator, logged in by ssh"},
        {f"etc/systemd/system/{_SPOOL_UNIT}.d/sabotage.conf": "[Unit]\nJobTimeoutSec=infinity\n"},
    ),
    "open-below-the-mount": Sabotage(
        {f"{_REBOOT}[0.0]": _LOST, f"{_REBOOT}[1.0]": _LOST}, _drop_in(_SPOOL_UNIT, _REOPEN_BELOW)
    ),
    "sshd-before-the-spool": Sabotage(
        {f"{_REBOOT}[1.0]": r"assert \d+ >= \d+"},
        {
            f"etc/systemd/system/{_SPOOL_UNIT}": (_PROJECT / "systemd" / _SPOOL_UNIT)
            .read_text()
            .replace("Before=ssh.service ", "Before=")
        },
    ),
    # --- upgrades --------------------------------------------------------------------------------------------------
    "cannot-be-restarted": Sabotage(
        {f"{_UPGRADES}::test_the_next_run_finishes_an_upgrade_that_failed_half_way": "Operation refused"},
        # Starts only with its target at boot.
        {f"etc/systemd/system/{_DAEMON}.d/sabotage.conf": "[Unit]\nRefuseManualStart=yes\n"},
    ),
    "nothing-to-install-from": Sabotage(
        {f"{_UPGRADES}::test_a_release_is_installed_again_for_another_python": "No matching distribution"},
        {"etc/pip.conf": "[install]\nno-index = true\nfind-links = /nowhere\n"},
    ),
    "settings-that-cannot-be-judged": Sabotage(
        {f"{_UPGRADES}::test_a_release_that_does_not_take_the_settings_is_not_put_in_use": _PUT_IN_USE},
        # The unit sets a required key, so the current release does not accept the file alone either.
        {
            **_drop_in(_DAEMON, "Environment=BUCKET_BASE=the-stash S3_ENDPOINT=http://10.99.0.1:5000"),
            "etc/md5s3stash/md5s3stash.toml": '[redis]\nurl = "unix:///run/redis/redis-server.sock"\n',
        },
    ),
    # --- protections that are not noticed until they are needed ----------------------------------------------------
    "journal-in-memory": Sabotage(
        {f"{_UNNOTICED}::test_the_journal_is_on_the_disk": "the journal is asked for"},
        {"etc/systemd/journald.conf.d/zz-sabotage.conf": "[Journal]\nStorage=volatile\n"},
    ),
    "cache-read-only": Sabotage(
        {f"{_UNNOTICED}::test_thumbnail_servers_keep_originals": "the original is not kept"},
        _drop_in(_THUMBNAILER, "ReadOnlyPaths=/var/cache/md5s3stash-thumbnailer"),
    ),
    "no-secret-options": Sabotage(
        {
            f"{_UNNOTICED}::test_secret_options_of_the_thumbnail_servers_are_loaded": "DID NOT RAISE",
            f"{_KEYS}[md5s3stash-thumbnailer@1.service]": "other keys",
        },
        _drop_in(
            _THUMBNAILER,
            "LoadCredential=",
            "SetCredential=thumbnailer.conf:# none",
            "SetCredential=aws-credentials:# none",
        ),
    ),
    "no-key-file": Sabotage(
        {f"{_KEYS}[{_DAEMON}]": "other keys"},
        _drop_in(_DAEMON, "LoadCredential=", "SetCredential=aws-credentials:# none"),
    ),
    "backlog": Sabotage(
        {f"{_UNNOTICED}::test_a_burst_waits_and_is_not_refused": "connections of a burst were refused"},
        {"etc/systemd/system/md5s3stash-thumbnailer.socket.d/sabotage.conf": "[Socket]\nBacklog=1\n"},
    ),
    "metrics-daily": Sabotage(
        {f"{_UNNOTICED}::test_cloudwatch_hears_of_the_spool_each_minute": "(first|next) metrics for CloudWatch"},
        {_METRICS_TIMER: "[Timer]\nOnUnitActiveSec=\nOnUnitActiveSec=1d\n"},
    ),
    "no-signal": Sabotage(
        {_LATE_BOOT: "the signal to CloudFormation"}, {"usr/local/lib/md5s3stash-aws/stack_signal.py": ""}
    ),
    "no-logs": Sabotage(
        {_LATE_BOOT: "the journal at CloudWatch Logs"}, {"usr/local/lib/md5s3stash-aws/journal_logs.py": ""}
    ),
    "no-volume": Sabotage(
        {f"{_UNNOTICED}::test_the_volume_of_the_spool_is_attached_to_the_box": "the volume attached to the box"},
        {
            "usr/local/lib/md5s3stash-aws/spool_volume.py": "import os, sys\n"
            "sys.exit(1 if os.environ.get('SPOOL_VOLUME_ID') else 0)\n"
        },
    ),
    "no-updates": Sabotage(
        {f"{_UNNOTICED}::test_security_updates_are_installed_and_none_is_held_back": "packages are held back"},
        {"etc/apt/apt.conf.d/99sabotage": 'Unattended-Upgrade::Package-Blacklist {".*";};\n'},
    ),
}


def main(names: Sequence[str]) -> int:
    """0 if every test noticed its fault."""
    unknown = set(names) - set(SABOTAGES)
    if unknown:
        print(f"No such sabotage: {', '.join(sorted(unknown))}. There are: {', '.join(SABOTAGES)}", file=sys.stderr)
        return 2
    wanted = names or list(SABOTAGES)
    unnoticed = [what for name in wanted for what in try_out(name, SABOTAGES[name])]
    print(f"\n{len(wanted)} sabotages, {len(unnoticed)} checks that noticed nothing")
    return 1 if unnoticed else 0


def try_out(name: str, sabotage: Sabotage) -> Sequence[str]:
    """Runs each test that must fail in a new box; returns those that did not fail, or failed for another reason."""
    print(f"\n{name}", flush=True)
    unnoticed = []
    for test, says in sabotage.fails.items():
        failure = failure_of(test, name)
        noticed = failure is not None and re.search(says, failure) is not None
        print(f"  {'noticed' if noticed else 'NOT NOTICED'}  {test}", flush=True)
        # The most important line of a console is its last.
        said = textwrap.shorten(failure or "it passed", 400) if noticed else failure or "it passed"
        print(textwrap.indent(said, "    "), flush=True)
        if not noticed:
            unnoticed.append(test)
    return unnoticed


def failure_of(test: str, sabotage: str) -> str | None:
    """The test's failure in a sabotaged box. None if it passes."""
    with tempfile.NamedTemporaryFile(suffix=".xml") as results:
        command = [
            sys.executable,
            "-m",
            "pytest",
            "--keep-image",
            f"--sabotage={sabotage}",
            f"--junitxml={results.name}",
        ]
        done = subprocess.run([*command, _HERE / test], cwd=_PROJECT, capture_output=True, text=True, check=False)
        if done.returncode not in (pytest.ExitCode.OK, pytest.ExitCode.TESTS_FAILED):
            return f"could not run: {done.stdout[-1000:]}{done.stderr[-1000:]}"
        case = ElementTree.parse(results.name).find(".//testcase")
    assert case is not None
    if (error := case.find("error")) is not None:
        return f"failed before it began, or after its end: {_words_of(error)}"
    failure = case.find("failure")
    return None if failure is None else _words_of(failure)


def _words_of(outcome: Element) -> str:
    """The text of the exception, in the lines that pytest marks. The attribute has only the first of them, and the
    test's own source lines always contain the expected words.
    """
    return "\n".join(re.findall("^E {3,}(.*)", outcome.text or "", re.MULTILINE))


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
