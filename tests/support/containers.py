"""Runs the services of containers/compose.yaml as an engine would: `containers/enter` makes their mounts and processes.
Their network is the caller's network namespace, in which the name of each service leads to loopback. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import yaml

from containers.chroot import ENTER, Image, build
from tests.support.processes import children_of
from tests.support.servers import REPOSITORY, wait_until

COMPOSE = REPOSITORY / "containers/compose.yaml"
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_SHARED_MEMORY = "/dev/shm"


@dataclass(frozen=True)
class Service:
    """A service of the compose file, with its image and where its volumes are."""

    name: str
    image: Image
    user: tuple[int, int]
    environment: Mapping[str, str]
    volumes: Mapping[str, Path]
    tmpfs: tuple[str, ...]
    hosts: Path
    log: Path
    arguments: tuple[str, ...] = ()

    def command(self, *program: str) -> list[str]:
        """The command line that runs it, or another program, in a container of the service."""
        configuration = self.image.configuration
        words = [str(ENTER), str(self.image.root), "--read-only", "--directory", configuration.directory]
        words += ["--user", "{}:{}".format(*self.user), "--volume", f"{self.hosts}:/etc/hosts"]
        words += [word for inside, outside in self.volumes.items() for word in ("--volume", f"{outside}:{inside}")]
        words += [word for path in self.tmpfs for word in ("--tmpfs", path)]
        environment = {"PATH": _PATH, **configuration.environment, **self.environment}
        words += ["--", *(f"{name}={value}" for name, value in environment.items())]
        return [*words, *(program or (*configuration.entry_point, *(self.arguments or configuration.command)))]

    @property
    def writable(self) -> set[str]:
        return {*self.volumes, *self.tmpfs, _SHARED_MEMORY}


class Container:
    """A running service."""

    def __init__(self, service: Service) -> None:
        self.service = service
        with open(service.log, "ab") as log:
            self._process = subprocess.Popen(
                service.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT
            )
        wait_until(lambda: self.has_ended() or self._first() is not None, f"{service.name} starts")
        self.first = self._first() or 0

    def _first(self) -> int | None:
        """Process 1, once it is the program and no longer the shell that makes the mounts."""
        for pid in children_of(self._process.pid):
            with contextlib.suppress(OSError):
                if "NoNewPrivs:\t1" in Path(f"/proc/{pid}/status").read_text():
                    return pid
        return None

    def has_ended(self) -> bool:
        return self._process.poll() is not None

    def execute(self, *program: str) -> subprocess.CompletedProcess[str]:
        """As `docker exec`."""
        environment = {"PATH": _PATH, **self.service.image.configuration.environment, **self.service.environment}
        user, group = self.service.user
        words = ["nsenter", f"--target={self.first}", "--mount", "--pid", "--ipc", "--uts", f"--setuid={user}"]
        words += [f"--setgid={group}", "env", "-i", *(f"{name}={value}" for name, value in environment.items())]
        return subprocess.run([*words, *program], capture_output=True, text=True, timeout=60, check=False)

    def is_healthy(self) -> bool:
        return self.execute(*self.service.image.configuration.health_check).returncode == 0

    def processes(self) -> list[int]:
        """All of its processes, by their ids outside."""
        namespace = os.readlink(f"/proc/{self.first}/ns/pid")
        found = []
        for name in filter(str.isdigit, os.listdir("/proc")):
            with contextlib.suppress(OSError):
                if os.readlink(f"/proc/{name}/ns/pid") == namespace:
                    found.append(int(name))
        return found

    def terminate(self, seconds: float = 60) -> int:
        """As `docker stop`; the exit status."""
        os.kill(self.first, signal.SIGTERM)
        return self._process.wait(seconds)

    def kill(self) -> None:
        """The kernel ends all of its processes."""
        self._process.kill()
        self._process.wait()
        wait_until(lambda: not Path(f"/proc/{self.first}").exists(), f"{self.service.name} is gone")


def services(directory: Path, variables: Mapping[str, str]) -> dict[str, Service]:
    """The services of the compose file, with their volumes below the directory."""
    text = re.sub(r"\$\{(\w+):-([^}]*)\}", lambda found: variables.get(found[1], found[2]), COMPOSE.read_text())
    hosts = directory / "hosts"
    composed: dict[str, dict[str, Any]] = yaml.safe_load(text)["services"]
    hosts.write_text("".join(f"127.0.0.1 {name}\n" for name in ("localhost", *composed)))
    return {name: _service(name, spec, directory, hosts) for name, spec in composed.items()}


def _service(name: str, spec: dict[str, Any], directory: Path, hosts: Path) -> Service:
    assert spec["read_only"], name
    assert spec["cap_drop"] == ["ALL"], name
    assert spec["security_opt"] == ["no-new-privileges:true"], name
    image = build(spec["build"]["target"])
    user, group = image.configuration.user
    if "user" in spec:
        user, group = map(int, spec["user"].split(":"))
    volumes = {}
    for volume in spec["volumes"]:
        if isinstance(volume, dict):
            inside, outside = volume["target"], directory / volume["source"]
            outside.mkdir(parents=True)
            os.chown(outside, user, group)
        else:
            of_volume, inside = volume.split(":")
            outside = _filled(directory / of_volume, image.root / inside.lstrip("/"))
        volumes[inside] = outside
    # An engine makes a volume for each that the compose file does not name.
    assert set(image.configuration.volumes) <= set(volumes), name
    environment = {key: str(value) for key, value in spec.get("environment", {}).items()}
    log = directory / f"{name}.log"
    return Service(name, image, (user, group), environment, volumes, tuple(spec.get("tmpfs", ())), hosts, log)


def _filled(volume: Path, inside: Path) -> Path:
    """A new named volume has the content, the owner and the mode of its place in the image."""
    shutil.copytree(inside, volume)
    subprocess.run(["cp", "--archive", f"{inside}/.", volume], check=True)
    subprocess.run(["chown", f"--reference={inside}", volume], check=True)
    subprocess.run(["chmod", f"--reference={inside}", volume], check=True)
    return volume


@contextlib.contextmanager
def started(wanted: Sequence[Service]) -> Iterator[dict[str, Container]]:
    running: dict[str, Container] = {}
    try:
        for service in wanted:
            running[service.name] = Container(service)
        yield running
    finally:
        for container in running.values():
            container.kill()


def with_settings(service: Service, name: str, environment: Mapping[str, str], without: Sequence[str] = ()) -> Service:
    """The same service under another name, with other settings."""
    kept = {key: value for key, value in service.environment.items() if key not in without}
    log = service.log.with_name(f"{name}.log")
    return replace(service, name=name, environment={**kept, **environment}, log=log)
