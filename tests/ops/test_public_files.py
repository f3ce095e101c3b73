"""The files of a public project say the same about what is supported and where to report."""

from __future__ import annotations

import re
import tomllib

import pytest
import yaml

from tests.support.servers import REPOSITORY

PROJECT = tomllib.loads((REPOSITORY / "pyproject.toml").read_text(encoding="utf-8"))["project"]
SOURCE = PROJECT["urls"]["Source"]
SECURITY = (REPOSITORY / "SECURITY.md").read_text(encoding="utf-8")
REPORTS = f"{SOURCE}/security/advisories/new"


def test_the_supported_pythons_are_those_that_the_wheel_names_and_ci_runs() -> None:
    named = {word.rpartition(" ")[2] for word in PROJECT["classifiers"] if re.search(r":: 3\.\d+$", word)}
    ci = yaml.safe_load((REPOSITORY / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
    (supported,) = re.findall(r"Python ((?:3\.\d+(?:, |\s*and\s*)?)+)", SECURITY)

    assert set(re.findall(r"3\.\d+", supported)) == named == set(ci["jobs"]["test"]["strategy"]["matrix"]["python"])


def test_the_supported_debians_are_those_that_images_are_built_of() -> None:
    packer = (REPOSITORY / "packer/md5s3stash.pkr.hcl").read_text(encoding="utf-8")
    (variable,) = re.findall(r'^variable "debian" \{\n(.*?)^\}', packer, re.MULTILINE | re.DOTALL)
    (supported,) = re.findall(r"Debian ((?:\d\d(?: and )?)+)", SECURITY)
    deploy = (REPOSITORY / "docs/deploy.md").read_text(encoding="utf-8")

    assert set(re.findall(r"\d\d", supported)) == set(re.findall(r"\b\d\d\b", variable))
    assert re.search(rf"^Debian {supported.replace('and', 'or').strip()}, ", deploy, re.MULTILINE)


@pytest.mark.parametrize(
    "file",
    ["SECURITY.md", "CODE_OF_CONDUCT.md", ".github/ISSUE_TEMPLATE/config.yml", ".github/ISSUE_TEMPLATE/fault.yml"],
)
def test_a_report_is_sent_to_this_project_in_private(file: str) -> None:
    text = (REPOSITORY / file).read_text(encoding="utf-8")

    assert REPORTS in text
    assert {url for url in re.findall(r"https://github\.com/[\w./-]+", text) if not url.startswith(SOURCE)} == set()


def test_a_reporter_is_told_when_an_answer_comes() -> None:
    for file in ("SECURITY.md", "CODE_OF_CONDUCT.md"):
        text = " ".join((REPOSITORY / file).read_text(encoding="utf-8").split())
        assert re.search(r"answer within five working days", text), file


def test_every_file_has_an_owner() -> None:
    owners = (REPOSITORY / ".github/CODEOWNERS").read_text(encoding="utf-8")

    assert re.search(rf"^\* @{SOURCE.split('/')[3]}$", owners, re.MULTILINE)
    assert (REPOSITORY / ".github/pull_request_template.md").exists()
