"""The Packer template keeps the promises of docs/deploy.md. `make lint-ops` checks it with Debian's packer."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

PROJECT = Path(__file__).resolve().parents[2]
TEMPLATE = (PROJECT / "packer" / "md5s3stash.pkr.hcl").read_text()
MODERN = "".join(re.findall(r"# modern-only: begin\n(.*?)# modern-only: end\n", TEMPLATE, re.DOTALL))
SCRIPTS = (
    "packer/clean-image",
    "packer/rehearse",
    "packer/verify",
    "aws/image/install",
    "tools/locked-venv",
    "tools/ops-venv",
)


def test_the_marks_of_what_an_old_packer_does_not_know_come_in_pairs() -> None:
    marks = re.findall(r"# modern-only: (begin|end)", TEMPLATE)

    assert marks == ["begin", "end"] * (len(marks) // 2)


@pytest.mark.parametrize(
    "setting", [r'imds_support = "v2\.0"', r'http_tokens\s+= "required"', r"http_put_response_hop_limit = 1\n"]
)
def test_the_metadata_service_of_a_box_is_guarded(setting: str) -> None:
    assert re.search(setting, MODERN)


def test_an_image_is_encrypted_on_gp3_and_keeps_no_key_of_the_build() -> None:
    for setting in (r'volume_type\s+= "gp3"', r"encrypted\s+= true", r"ssh_clear_authorized_keys = true"):
        assert re.search(setting, TEMPLATE), setting


def test_the_rehearsal_runs_the_steps_of_the_real_build() -> None:
    (build,) = re.findall(r"^build \{.*?^\}", TEMPLATE, re.DOTALL | re.MULTILINE)

    assert 'sources = ["source.amazon-ebs.debian", "source.null.guest"]' in build
    # `only` and `except` would make the builds differ.
    assert not re.search(r"\b(only|except)\b", build)


@pytest.mark.parametrize("script", SCRIPTS)
def test_a_script_can_be_parsed_and_stops_at_the_first_fault(script: str) -> None:
    text = (PROJECT / script).read_text()
    shell = "bash" if "bash" in text.splitlines()[0] else "sh"

    assert subprocess.run([shell, "-n", PROJECT / script], check=False).returncode == 0
    assert re.search(r"^set -eu", text, re.MULTILINE)


def test_the_forge_rehearses_with_the_packer_that_the_rehearsal_is_for() -> None:
    (version,) = re.findall(r"with Debian's packer ([\d.]+),", (PROJECT / "packer/rehearse").read_text())
    workflow = (PROJECT / ".github/workflows/ci.yml").read_text()

    installed = re.findall(r"hashicorp/setup-packer@\S+\n\s+with:\n\s+version: \"([\d.]+)\"", workflow)
    assert installed == [version] * workflow.count("hashicorp/setup-packer")
