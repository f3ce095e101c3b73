"""The runbook: each alert of Prometheus and each alarm of the stacks leads to the section that says what to do."""

from __future__ import annotations

import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from aws.image import spool_volume
from tests.ops.test_aws_alarms import NO_ALARM, STACKS
from tests.support.servers import REPOSITORY

RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text(encoding="utf-8")
RULES = {
    rule["alert"]: rule
    for group in yaml.safe_load((REPOSITORY / "monitoring/alerts.yml").read_text())["groups"]
    for rule in group["rules"]
}
ALARMS = {name for stack in STACKS.values() for name in stack.of_type("AWS::CloudWatch::Alarm")} - {NO_ALARM}
PAGE = "https://github.com/tingletech/md5s3stash/blob/HEAD/docs/runbook.md#"


def rows() -> Iterator[tuple[str, str]]:
    """The name of an alert or alarm, and the section of its row."""
    (table,) = re.findall(r"^## From an alert to its section\n(.*?)^## ", RUNBOOK, re.MULTILINE | re.DOTALL)
    for names, section in re.findall(r"^\|(.*\|.*)\| \[.*\]\(#([\w-]+)\) \|$", table, re.MULTILINE):
        yield from ((name, section) for name in re.findall(r"`(\w+)`", names))


def test_each_alert_and_alarm_has_one_row() -> None:
    assert sorted(name for name, _ in rows()) == sorted([*RULES, *ALARMS])


@pytest.mark.parametrize("name", RULES)
def test_an_alert_of_prometheus_brings_the_address_of_its_section(name: str) -> None:
    assert RULES[name]["annotations"]["runbook_url"] == PAGE + dict(rows())[name]


def test_each_section_that_an_alert_leads_to_says_what_to_do_and_when_it_is_over() -> None:
    sections = {
        re.sub(r"\s", "-", re.sub(r"[^\w\s-]", "", title.lower())): text
        for title, text in re.findall(r"^## ([^\n]*)\n(.*?)(?=^## |\Z)", RUNBOOK, re.MULTILINE | re.DOTALL)
    }

    for name, section in rows():
        assert "**What to do.**" in sections[section], name
        # One leads on to others.
        assert "**It is over** when" in sections[section] or section == "something-is-paused", name


def test_alerts_name_commands_and_units_that_exist() -> None:
    told = " ".join(rule["annotations"].get("description", "") for rule in RULES.values())

    units = re.findall(r"systemctl status ([\w@.-]+)", told)
    assert units == [unit for unit in units if (REPOSITORY / f"systemd/{unit}.service").exists()]
    commands = set(re.findall(r"md5s3stashctl (\w+)", told))
    documented = (REPOSITORY / "docs/commands/md5s3stashctl.md").read_text(encoding="utf-8")
    assert {command for command in commands if f"\n## {command}\n" not in documented} == set()


@pytest.mark.parametrize("uid", [0, 1000])
def test_the_operators_tool_has_the_settings_that_the_daemon_has(uid: int, tmp_path: Path) -> None:
    """In the same order: a later file counts."""
    unit = (REPOSITORY / "aws/image/systemd/md5s3stashd.service.d/secret.conf").read_text(encoding="utf-8")
    files = re.findall(r"^EnvironmentFile=-(.*)$", unit, re.MULTILINE)
    script = (REPOSITORY / "ansible/roles/md5s3stash/files/stashctl").read_text(encoding="utf-8")
    contents = {file: f"IN_EACH={number}\nIN_{number}=yes\n" for number, file in enumerate(files)}
    contents["/etc/credstore/aws-credentials"] = "[default]\naws_access_key_id = AK/+=\nregion = here\n"
    for file, content in contents.items():
        there = tmp_path / Path(file).name
        there.write_text(content)
        assert file in script
        script = script.replace(file, str(there))
    stubs = {
        "id": f'echo "${{IS_ROOT:-{uid}}}"',
        "sudo": 'IS_ROOT=0 exec "$@"',
        "setpriv": '[ "$(id -u)" = 0 ] && echo "$IN_EACH $IN_0 $IN_1 $AWS_ACCESS_KEY_ID $AWS_DEFAULT_REGION $*"',
    }
    for name, stub in {**{name: f"#!/bin/sh\n{stub}\n" for name, stub in stubs.items()}, "stashctl": script}.items():
        (tmp_path / name).write_text(stub)
        (tmp_path / name).chmod(0o755)

    done = subprocess.run(
        ["stashctl", "lookup", "two words"],
        env={"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"},
        capture_output=True,
        text=True,
        timeout=30,
        check=False,
    )

    assert len(files) == 2
    assert done.stdout.startswith("1 yes yes AK/+= here --reuid=md5s3stash"), done.stderr
    assert done.stdout.endswith("/bin/md5s3stashctl lookup two words\n")


def test_the_pages_define_no_other_command_for_operators() -> None:
    for page in (REPOSITORY / "docs").rglob("*.md"):
        assert "stashctl() {" not in page.read_text(encoding="utf-8"), page


def test_settings_that_an_operator_made_on_aws_are_on_the_volume() -> None:
    unit = (REPOSITORY / "aws/image/systemd/md5s3stashd.service.d/secret.conf").read_text(encoding="utf-8")

    (file,) = re.findall(r"^EnvironmentFile=-(.*/daemon\.env)$", unit, re.MULTILINE)
    assert Path(file).parent == spool_volume.MOUNT_POINT
    assert f"tee -a {file}" in RUNBOOK
