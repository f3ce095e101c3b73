"""The wheel holds the whole product and installs with plain pip, on each supported Python of this machine."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.installed import run

pytestmark = pytest.mark.slow

REPOSITORY = Path(__file__).resolve().parents[2]
PACKAGES = {
    "md5s3stash": REPOSITORY / "md5s3stash",
    "md5s3stash_daemon": REPOSITORY / "daemon" / "md5s3stash_daemon",
    "md5s3stash_thumbnailer": REPOSITORY / "thumbnailer" / "md5s3stash_thumbnailer",
    "md5s3stash_migrate": REPOSITORY / "migrate" / "md5s3stash_migrate",
}
# Where pip installs them: below the environment, where man and the shells look.
MANUAL = {
    f"share/{path.relative_to(REPOSITORY / 'share')}" for path in (REPOSITORY / "share").rglob("*") if path.is_file()
}
RUNNING = f"{sys.version_info.major}.{sys.version_info.minor}"
SUPPORTED = ("3.11", "3.12", "3.13", "3.14")


def interpreters() -> Iterator[tuple[str, str]]:
    """The version and program of each supported Python of this machine, besides the one that runs the tests."""
    for version in SUPPORTED:
        for candidate in [shutil.which(f"python{version}"), *_of_pyenv(version)]:
            if candidate and version != RUNNING and _runs(candidate, version):
                yield version, candidate
                break


def _of_pyenv(version: str) -> list[str]:
    # pyenv's shims on PATH run only where their version is selected.
    if not (pyenv := shutil.which("pyenv")):
        return []
    root = subprocess.run([pyenv, "root"], capture_output=True, text=True).stdout.strip()
    return [str(path) for path in sorted(Path(root).glob(f"versions/{version}.*/bin/python{version}"))]


def _runs(candidate: str, version: str) -> bool:
    ask = "import ensurepip, sys; print('%d.%d' % sys.version_info[:2])"
    answer = subprocess.run([candidate, "-c", ask], capture_output=True, text=True)
    return answer.returncode == 0 and answer.stdout.strip() == version


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Built from a copy, since setuptools writes into the source tree."""
    directory = tmp_path_factory.mktemp("wheel")
    source = directory / "source"
    source.mkdir()
    for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(REPOSITORY / name, source / name)
    shutil.copytree(REPOSITORY / "share", source / "share")
    for package in PACKAGES.values():
        ignore = shutil.ignore_patterns("__pycache__", "*.egg-info")
        shutil.copytree(package, source / package.relative_to(REPOSITORY), ignore=ignore)
    pip_wheel = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation"]
    run(*pip_wheel, "--wheel-dir", directory, source)
    (built,) = directory.glob("*.whl")
    return built


def test_wheel_holds_every_module_the_status_page_and_the_marker_of_a_typed_package(wheel: Path) -> None:
    expected = {
        f"{name}/{path.relative_to(directory)}"
        for name, directory in PACKAGES.items()
        for pattern in ("*.py", "py.typed", "assets/*")
        for path in directory.rglob(pattern)
    }
    with zipfile.ZipFile(wheel) as archive:
        held = {name for name in archive.namelist() if ".dist-info/" not in name}

    data = {name for name in held if ".data/" in name}
    assert held - data == expected
    assert {name.partition(".data/data/")[2] for name in data} == MANUAL
    assert {f"{name}/py.typed" for name in PACKAGES} <= held


def test_wheel_installs_with_plain_pip_on_each_supported_python(wheel: Path, tmp_path: Path) -> None:
    # One story in one test: reading the indexes of packages is most of what pip does, and happens once.
    libraries = tmp_path / "libraries"
    python, pip = new_environment(sys.executable, tmp_path / "venv")
    run(*pip, "wheel", "--quiet", "--wheel-dir", libraries, f"{wheel}[daemon,thumbnailer]")
    from_there = ("--no-index", "--find-links", libraries)

    run(*pip, *INSTALL, *from_there, wheel)
    assert_core_works(python)

    run(*pip, *INSTALL, *from_there, f"{wheel}[daemon]")
    assert_daemon_works(python)
    run(*pip, "check")

    # The other Pythons get the same files, but for those that are built for one Python: these they have to find.
    shared = tmp_path / "shared.txt"
    shared.write_text("".join(f"{path.name.partition('-')[0]} @ {path.as_uri()}\n" for path in for_any(libraries)))
    for version, program in interpreters():
        python, pip = new_environment(program, tmp_path / version)

        run(*pip, *INSTALL, "--constraint", shared, f"{wheel}[daemon]")
        assert_core_works(python)
        assert_daemon_works(python)

        # It resolves all, but unpacks nothing: there are 200 MB of libraries.
        run(*pip, *INSTALL, "--constraint", shared, "--dry-run", f"{wheel}[daemon,thumbnailer]")


# Compiling takes time, and few of these modules are imported.
INSTALL = ("install", "--quiet", "--no-compile")


def for_any(libraries: Path) -> Iterator[Path]:
    """Those of the wheels that are not built for the running Python alone."""
    running = f"cp{sys.version_info.major}{sys.version_info.minor}"
    for path in libraries.glob("*.whl"):
        if f"-{running}-{running}-" not in path.name and not path.name.startswith("md5s3stash-"):
            yield path


def new_environment(program: str, directory: Path) -> tuple[Path, list[str | Path]]:
    """The environment's Python, and how pip is called for it."""
    # With the tests' pip: installing another one would take longer than the rest.
    run(program, "-m", "venv", "--without-pip", directory)
    python = directory / "bin" / "python"
    return python, [sys.executable, "-m", "pip", "--python", python]


def assert_core_works(python: Path) -> None:
    environment = python.parents[1]
    assert "usage" in run(environment / "bin" / "md5s3stash", "--help").lower()
    run(python, "-c", f"import {', '.join(PACKAGES)}")

    assert {name for name in MANUAL if (environment / name).is_file()} == MANUAL
    # As in a shell with the active environment.
    look = [f"PATH={environment / 'bin'}:{os.environ['PATH']}", "MANPATH=", "man", "--where"]
    page = run("env", *look, "md5s3stashctl").strip()
    assert Path(page) == environment / "share" / "man" / "man8" / "md5s3stashctl.8"


def assert_daemon_works(python: Path) -> None:
    run(python, "-c", "import md5s3stash_daemon.app")
    for program in ("md5s3stashd", "md5s3stashctl", "md5s3stash-enqueue"):
        assert f"usage: {program}" in run(python.parent / program, "--help")
