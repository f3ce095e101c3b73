"""The container files: what they say is known, exists, and agrees with the lock, the playbook and the daemon's needs.
`make container-test` builds and runs them.
"""

from __future__ import annotations

import inspect
import json
import re
import subprocess
import sys
from http.server import BaseHTTPRequestHandler
from pathlib import Path
from typing import Any

import botocore.credentials
import botocore.tokens
import pytest
import yaml

from containers.chroot import context, stages
from containers.containerfile import Configuration, ContainerfileError, Copy, parse
from tests.support.cloudformation import read_template
from tests.support.http_server import HttpServer
from tests.support.servers import REPOSITORY, free_port

STAGES = stages()
COMPOSE = yaml.safe_load((REPOSITORY / "containers/compose.yaml").read_text())
PROGRAMS = ("thumbnailer", "thumbnailer-faces", "thumbnailer-video", "daemon", "redis", "s3")
_PINNED = re.compile(r"^([a-z0-9-]+)==", re.MULTILINE)


def commands(*names: str) -> list[str]:
    return [step.work for name in names for step in STAGES[name].steps if isinstance(step.work, str)]


def locked(file: str) -> set[str]:
    return set(_PINNED.findall((REPOSITORY / "requirements" / file).read_text()))


def packages_of_the_playbook() -> set[str]:
    tasks = [
        task
        for file in ("md5s3stash/tasks/install.yml", "redis/tasks/main.yml")
        for task in yaml.safe_load((REPOSITORY / "ansible/roles" / file).read_text())
    ]
    named = [task["ansible.builtin.apt"]["name"] for task in tasks if "ansible.builtin.apt" in task]
    return {package for names in named for package in ([names] if isinstance(names, str) else names)}


def test_each_copied_file_is_in_the_build_context() -> None:
    there = context()

    for stage in STAGES.values():
        for copy in (step.work for step in stage.steps if isinstance(step.work, Copy) and not step.work.stage):
            for source in copy.sources:
                assert any(path == source or path.startswith(f"{source}/") for path in there), source


def test_the_build_context_has_the_packages_and_no_secret_or_cache() -> None:
    there = context()

    assert {"daemon/md5s3stash_daemon/main.py", "requirements/appliance.txt"} <= set(there)
    assert not [path for path in there if "__pycache__" in path or path.startswith((".", "var/", "build/"))]


def test_debian_s_packages_are_those_of_the_playbook() -> None:
    installed = {
        package
        for command in commands(*STAGES)
        for names in re.findall(r"apt-get install --yes --no-install-recommends ([^&]*)", command)
        for package in names.split()
    }

    # The image has no Python of its own, and a host of Ansible has one.
    assert installed - {"python3"} == packages_of_the_playbook() - {"python3-packaging"}


def test_every_package_of_the_lock_is_installed_with_its_hash() -> None:
    installs = [command for command in commands(*STAGES) if "--requirement" in command]

    assert {"requirements/appliance.txt", "requirements/pilbox.txt", "requirements/dev.txt"} == {
        name for command in installs for name in re.findall(r"requirements/[a-z]+\.txt", command)
    }
    for command in installs:
        assert command.count("--requirement") == command.count("--require-hashes")


def test_the_daemon_s_image_lacks_just_what_the_thumbnail_server_alone_needs() -> None:
    (command,) = commands("install-daemon")
    removed = set(command.partition("uninstall --yes ")[2].split())
    wanted = (REPOSITORY / "requirements/appliance.txt").read_text()
    # The lock says which package asked for each: md5s3stash itself, for the extra of the thumbnailer or for others too.
    extras = (REPOSITORY / "pyproject.toml").read_text().partition("thumbnailer = [")[2].partition("]\n")[0]
    of_thumbnailer = {name.lower() for name in re.findall(r'^    "([A-Za-z0-9-]+)', extras, re.MULTILINE)}
    assert removed >= of_thumbnailer - {"prometheus-client"}
    for name in locked("appliance.txt") - removed:
        # What stays must not depend on what was removed.
        for gone in removed:
            block = re.search(rf"^{gone}==.*?(?=^\S|\Z)", wanted, re.MULTILINE | re.DOTALL)
            assert block is None or not re.search(rf"^    #   {name}$|# via {name}$", block[0], re.MULTILINE), gone


def test_the_thumbnail_server_s_image_lacks_just_what_other_programs_import() -> None:
    names = {"jinja2": "jinja2", "markupsafe": "markupsafe", "watchdog": "watchdog", "numpy": "numpy"}
    names |= {"opencv-python-headless": "cv2"}
    removed = {
        stage: set(command.partition("uninstall --yes ")[2].split())
        for stage in ("install-faces", "install-thumbnailer")
        for command in commands(stage)
    }
    assert removed == {
        "install-faces": {"jinja2", "markupsafe", "watchdog"},
        "install-thumbnailer": {"numpy", "opencv-python-headless"},
    }
    for package, folder in (("md5s3stash", "."), ("md5s3stash_thumbnailer", "thumbnailer")):
        for path in (REPOSITORY / folder / package).rglob("*.py"):
            imported = set(re.findall(r"^\s*(?:from|import) (\w+)", path.read_text(), re.MULTILINE))
            # Faces are the only part that does without its packages.
            gone = removed["install-faces"] if path.name == "faces.py" else {*removed["install-faces"], "numpy", "cv2"}
            assert not imported & gone, path


def test_the_images_describe_each_service_of_aws_that_is_called() -> None:
    (command,) = [command for command in commands("install") if "botocore/data" in command]
    kept = set(re.findall(r"! -name (\S+)", command))
    sources = [
        path.read_text()
        for package in ("md5s3stash", "daemon", "thumbnailer", "migrate")
        for path in (REPOSITORY / package).rglob("*.py")
    ]
    # S3 itself is called in `md5s3stash/s3/client.py` through a name.
    called = {"s3"} | {name for text in sources for name in re.findall(r'\.client\(\s*"([a-z0-9-]+)"', text)}
    # Keys by a role, a login or single sign-on.
    of_keys = {
        name
        for module in (botocore.credentials, botocore.tokens)
        for name in re.findall(
            r"""(?:create_nested_client\(self\._session, |client_creator\()['"]([a-z0-9-]+)['"]""",
            inspect.getsource(module),
        )
    }

    assert {"sqs", "s3control"} <= called
    assert {"sts", "sso", "sso-oidc"} <= of_keys
    assert kept == called | of_keys


def test_each_program_is_an_ordinary_user_in_the_exec_form_with_a_health_check() -> None:
    for name in PROGRAMS:
        configuration = STAGES[name].configuration
        assert min(configuration.user) >= 10_000, name
        assert configuration.entry_point, name
        assert configuration.health_check or name == "s3"


def test_compose_starts_each_image_with_nothing_to_write_to_but_volumes() -> None:
    assert {service["build"]["target"] for service in COMPOSE["services"].values()} == {*PROGRAMS} - {
        "thumbnailer-faces",
        "thumbnailer-video",
    }
    for name, service in COMPOSE["services"].items():
        assert service["read_only"], name
        assert service["cap_drop"] == ["ALL"], name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        assert all(port.startswith("127.0.0.1:") for port in service.get("ports", ())), name
        assert set(STAGES[service["build"]["target"]].configuration.volumes) == {
            volume["target"] if isinstance(volume, dict) else volume.partition(":")[2] for volume in service["volumes"]
        }, name


def test_redis_keeps_what_it_confirms_as_the_appliance_s() -> None:
    words = STAGES["redis"].configuration.entry_point
    given = {words[i].removeprefix("--"): words[i + 1] for i in range(1, len(words), 2)}
    lines = (REPOSITORY / "ansible/roles/redis/files/redis.conf").read_text().splitlines()
    settings: dict[str, Any] = dict(line.split(" ", 1) for line in lines if line and not line.startswith("#"))

    for setting in ("appendonly", "appendfsync", "no-appendfsync-on-rewrite", "maxmemory-policy"):
        assert given[setting] == settings[setting], setting


@pytest.mark.parametrize(
    "line",
    [
        "ADD https://example.org/file /",
        "RUN --mount=type=cache,target=/x true",
        'RUN ["true"]',
        "RUN <<EOF",
        "COPY --chown=1:1 a b",
        "COPY *.txt /",
        "COPY a b /c",
        "COPY --from=elsewhere a b",
        "ENV A=1 B=2",
        'ENV A="1 2"',
        "USER somebody",
        "WORKDIR here",
        "ENTRYPOINT md5s3stashd",
        "CMD [1]",
        "HEALTHCHECK NONE",
        'SHELL ["/bin/bash"]',
        "FROM other",
        "FROM other AS one",
        "run true",
    ],
)
def test_a_line_that_the_reader_does_not_know_is_an_error(line: str) -> None:
    with pytest.raises(ContainerfileError):
        parse(f"FROM debian:trixie-slim AS one\n{line}\n")


def test_a_stage_takes_over_the_configuration_of_its_base() -> None:
    text = """
        FROM debian:trixie-slim AS one
        ENV A=1
        USER 5:6
        CMD ["x"]
        FROM one AS two
        # Comments end no continued line.
        RUN true \\
        # like this
          && false
        ENTRYPOINT ["y"]
    """
    parsed = parse("\n".join(line.removeprefix("        ") for line in text.splitlines()))

    assert parsed["two"].configuration == Configuration(user=(5, 6), environment={"A": "1"}, entry_point=("y",))
    assert parsed["two"].steps[0].work == "true   && false"
    assert Path("/") / parsed["one"].configuration.directory == Path("/")


def test_the_task_of_ecs_fits_the_image_and_may_only_read() -> None:
    template = read_template("ecs.yaml")["Resources"]
    configuration = STAGES["thumbnailer"].configuration
    (container,) = template["Thumbnailer"]["Properties"]["ContainerDefinitions"]

    assert container["Command"][0] == configuration.command[0]
    assert container["HealthCheck"]["Command"] == ["CMD", *configuration.health_check]
    assert [mount["ContainerPort"] for mount in container["PortMappings"]] == list(configuration.ports)
    assert [mount["ContainerPath"] for mount in container["MountPoints"]] == list(configuration.volumes)
    assert container["ReadonlyRootFilesystem"] is True
    # Its keys are those of its role.
    assert not [entry for entry in container["Environment"] if "KEY" in entry["Name"]]
    (policy,) = template["TaskRole"]["Properties"]["Policies"]
    documented = json.loads((REPOSITORY / "aws/policy-thumbnails.json").read_text())["Statement"]
    for statement, other in zip(policy["PolicyDocument"]["Statement"], documented, strict=True):
        assert {**statement, "Resource": ""} == {**other, "Resource": ""}


@pytest.mark.parametrize(
    ("status", "body", "is_healthy"),
    [
        (200, '{"status": "ok", "reasons": []}', True),
        (200, '{"status": "ok"}', True),
        (503, '{"reasons": ["paused: s3: no answer", "paused: redis: no answer"]}', True),
        (503, '{"reasons": ["paused: s3: no answer", "stuck: no progress in the main loop"]}', False),
        (503, '{"status": "failing", "reason": "no AWS credentials"}', False),
        (503, "too many requests at once: try again", False),
        (404, '{"reasons": []}', False),
    ],
)
def test_the_health_check_fails_just_where_a_restart_may_help(status: int, body: str, is_healthy: bool) -> None:
    class Answer(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *arguments: object) -> None:
            pass

    with HttpServer(Answer) as program:
        done = _healthy(program.port)

    assert (done.returncode == 0) is is_healthy, done.stderr
    assert "Traceback" not in done.stderr


def test_the_health_check_fails_if_nothing_listens() -> None:
    done = _healthy(free_port())

    assert done.returncode == 1
    assert done.stderr.startswith("no usable answer: ")


def _healthy(port: int) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-IS", str(REPOSITORY / "containers/healthy"), str(port)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
