"""Reads a Containerfile: the part of the language that ours use. Anything else is an error, so that a build without an
engine never differs from a build with one.
"""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field, replace

_STAGE = re.compile(r"(\S+) AS ([a-z][a-z0-9-]*)")
_ENVIRONMENT = re.compile(r"([A-Z_]+)=([^\s\"'$\\]*)")
_USER = re.compile(r"(\d+):(\d+)")
_HEALTH_CHECK = re.compile(r"(?:--(?:interval|timeout|start-period|retries)=\S+ )+CMD (.*)")


class ContainerfileError(Exception):
    """A line is not what this reader knows."""


@dataclass(frozen=True, slots=True)
class Copy:
    """Files of the build context, or of the stage `stage`, into `target`."""

    sources: tuple[str, ...]
    target: str
    stage: str | None = None


@dataclass(frozen=True, slots=True)
class Configuration:
    """What a build passes on to the next stage and to those who run the image."""

    user: tuple[int, int] = (0, 0)
    directory: str = "/"
    environment: dict[str, str] = field(default_factory=dict)
    volumes: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    health_check: tuple[str, ...] = ()
    entry_point: tuple[str, ...] = ()
    command: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Step:
    """A command for the shell, or a copy, with the configuration in force at that line."""

    work: str | Copy
    configuration: Configuration


@dataclass(frozen=True, slots=True)
class Stage:
    """`base` names an earlier stage, or an image of a registry."""

    name: str
    base: str
    steps: tuple[Step, ...]
    configuration: Configuration


def parse(text: str) -> dict[str, Stage]:
    """The stages by name, in the order of the file. Raises ContainerfileError."""
    stages: dict[str, Stage] = {}
    for instruction, words in _instructions(text):
        if instruction == "FROM":
            base, name = _matched(_STAGE, instruction, words).groups()
            if name in stages:
                raise ContainerfileError(f"two stages are called '{name}'")
            inherited = stages[base].configuration if base in stages else Configuration()
            stage = Stage(name, base, (), inherited)
        elif not stages:
            raise ContainerfileError(f"{instruction} before FROM")
        else:
            stage = _with(stage, instruction, words, stages)
        stages[stage.name] = stage
    return stages


def _instructions(text: str) -> Iterator[tuple[str, str]]:
    # Engines remove comments first, even between continued lines.
    lines = [line for line in text.splitlines() if not line.lstrip().startswith("#")]
    for line in "\n".join(lines).replace("\\\n", "").splitlines():
        if line.strip():
            instruction, _, words = line.partition(" ")
            yield instruction, words.strip()


def _with(stage: Stage, instruction: str, words: str, stages: dict[str, Stage]) -> Stage:
    """The stage after one more instruction."""
    now = stage.configuration
    match instruction:
        case "RUN":
            if words.startswith(("[", "--", "<<")):
                raise ContainerfileError(f"RUN {words}: only a command for the shell is known")
            return replace(stage, steps=(*stage.steps, Step(words, now)))
        case "COPY":
            return replace(stage, steps=(*stage.steps, Step(_copy(words, stages), now)))
        case "ENV":
            name, value = _matched(_ENVIRONMENT, instruction, words).groups()
            now = replace(now, environment={**now.environment, name: value})
        case "USER":
            user, group = _matched(_USER, instruction, words).groups()
            now = replace(now, user=(int(user), int(group)))
        case "WORKDIR":
            now = replace(now, directory=_absolute(words))
        case "VOLUME":
            now = replace(now, volumes=(*now.volumes, *map(_absolute, words.split())))
        case "EXPOSE":
            now = replace(now, ports=(*now.ports, *map(int, words.split())))
        case "HEALTHCHECK":
            now = replace(now, health_check=_program(_matched(_HEALTH_CHECK, instruction, words)[1]))
        case "ENTRYPOINT":
            # Engines forget the command of the base.
            now = replace(now, entry_point=_program(words), command=())
        case "CMD":
            now = replace(now, command=_program(words))
        case _:
            raise ContainerfileError(f"the instruction '{instruction}' is not known")
    return replace(stage, configuration=now)


def _copy(words: str, stages: dict[str, Stage]) -> Copy:
    *sources, target = shlex.split(words)
    stage = None
    if sources and sources[0].startswith("--from="):
        stage = sources.pop(0).removeprefix("--from=")
        if stage not in stages:
            raise ContainerfileError(f"COPY from '{stage}', which is not an earlier stage")
    if not sources or any(re.search(r"^--|[*?\[$]", word) for word in (*sources, target)):
        raise ContainerfileError(f"COPY {words}: options and patterns are not known")
    if len(sources) > 1 and not target.endswith("/"):
        raise ContainerfileError(f"COPY {words}: several files need a directory, with a / at its end")
    return Copy(tuple(sources), target, stage)


def _matched(pattern: re.Pattern[str], instruction: str, words: str) -> re.Match[str]:
    found = pattern.fullmatch(words)
    if found is None:
        raise ContainerfileError(f"{instruction} {words}: not in the form that is known")
    return found


def _absolute(path: str) -> str:
    if not path.startswith("/") or re.search(r"[\"'$\\]", path):
        raise ContainerfileError(f"'{path}' is not an absolute path")
    return path


def _program(words: str) -> tuple[str, ...]:
    """The exec form: through a shell, a program would not get signals."""
    try:
        program = json.loads(words)
    except ValueError:
        program = None
    if not isinstance(program, list) or not all(isinstance(word, str) for word in program):
        raise ContainerfileError(f"'{words}' is not a program in the exec form")
    return tuple(program)
