"""docs/deploy.md, docs/years.md and the runbook: a reader who runs the commands in order finds all that they use."""

from __future__ import annotations

import re

import pytest

from tests.support.cloudformation import read_template
from tests.support.servers import REPOSITORY

DEPLOY = (REPOSITORY / "docs/deploy.md").read_text(encoding="utf-8").partition("\n## On a Debian host")[0]
YEARS = (REPOSITORY / "docs/years.md").read_text(encoding="utf-8")
RUNBOOK = (REPOSITORY / "docs/runbook.md").read_text(encoding="utf-8")
# Function, name and stack.
CALLED = re.compile(r"(?:\$\(|`)(?:AWS_DEFAULT_REGION=\S+ )?(output|resource) (\w+)(?: ([\w-]+))?[)`]")
OF_STACK = {
    "": "template",
    "stash-rehearsal": "template",
    "stash-fleet": "fleet",
    "stash-viewers": "cloudfront-alarm",
    "stash-copy": "bucket",
}
# Of every shell, and of functions.
OF_THE_SHELL = {"HOME", "1", "*", "PATH"}
# docs/years.md says where they are.
OF_DEPLOY = {"IMAGE", "SPOOL"}
TEMPLATES = {
    name: read_template(f"{name}.yaml")["Parameters"]
    for name in ("template", "fleet", "cloudfront-alarm", "logs", "bucket")
}


def commands_of(page: str) -> str:
    """Its indented blocks, one after the other."""
    blocks = re.findall(r"(?:^|\n\n)((?: {4,}[^\n]*\n)(?:(?: {4,}[^\n]*)?\n)*)", page)
    return "\n".join(block for block in blocks)


@pytest.mark.parametrize(("page", "known"), [(DEPLOY, set()), (YEARS, OF_DEPLOY)], ids=["deploy", "years"])
def test_a_command_uses_only_variables_that_a_command_before_it_has_set(page: str, known: set[str]) -> None:
    known = known | OF_THE_SHELL
    used = 0
    for line in re.sub(r"\\\n", " ", commands_of(page)).splitlines():
        text = re.sub(r"'[^']*'", "", line) if "$(" not in line else line
        now = set(re.findall(r"(?:^|[\s;({])(?:local )?(\w+)=", line))
        names = set(re.findall(r"(?<!\\)\$\{?([A-Za-z_]\w*)", text))
        assert names <= known | now, (sorted(names - known - now), line)
        used += len(names)
        known |= now

    assert used > 10


@pytest.mark.parametrize("page", [DEPLOY, YEARS], ids=["deploy", "years"])
def test_a_function_is_defined_before_it_is_called(page: str) -> None:
    defined = set() if page is DEPLOY else {"output", "resource"}
    for line in commands_of(page).splitlines():
        assert {name for name, *_ in CALLED.findall(line)} <= defined, line
        defined |= set(re.findall(r"^ *(\w+)\(\) \{", line))


@pytest.mark.parametrize("page", [DEPLOY, YEARS], ids=["deploy", "years"])
def test_each_parameter_of_a_deployment_is_one_of_its_template(page: str) -> None:
    found = 0
    for command in re.findall(r"aws cloudformation deploy .*", re.sub(r"\\\n", " ", page)):
        (template,) = re.findall(r"--template-file aws/([\w-]+)\.yaml", command)
        given = re.findall(r"[\s\"](\w+)=", command.partition("--parameter-overrides")[2])
        assert set(given) <= TEMPLATES[template].keys(), command
        found += len(given)

    assert found > 0


@pytest.mark.parametrize("page", [DEPLOY, YEARS], ids=["deploy", "years"])
def test_each_file_of_the_checkout_that_a_command_names_is_there(page: str) -> None:
    named = set(re.findall(r"(?<![\w/.-])((?:tools|packer|aws|ansible|samples)/[\w./-]*\w)", commands_of(page)))

    assert named
    assert {name for name in named if not (REPOSITORY / name).exists()} == set()


@pytest.mark.parametrize("page", [DEPLOY, YEARS, RUNBOOK], ids=["deploy", "years", "runbook"])
def test_each_name_that_a_command_asks_a_stack_for_is_in_its_template(page: str) -> None:
    asked = CALLED.findall(page)

    assert {function for function, *_ in asked} == {"output", "resource"}
    for function, name, stack in asked:
        template = read_template(f"{OF_STACK[stack]}.yaml")
        assert name in template["Outputs" if function == "output" else "Resources"], (function, name, stack)
