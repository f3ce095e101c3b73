"""tools/bootstrap: does all set-up by itself, is fast if nothing is left to do, and reports an error in one line.

It runs in a small checkout, whose lock names three packages. Stubs on PATH replace what a test machine always has
(redis, apt, sudo, a Python with ensurepip).
"""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import sysconfig
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[2]
_SECONDS = 300
_USED = ("bash", "cat", "dirname", "env", "false", "flock", "id", "mkdir", "mv", "rm", "sha256sum", "tail", "true")

pytestmark = pytest.mark.slow


class Checkout:
    """A copy of the files that bootstrap reads, and its PATH."""

    def __init__(self, directory: Path) -> None:
        self.root = directory / "checkout"
        self.bin = directory / "bin"
        self.environment = dict(os.environ)
        for name in ("tools", "requirements", "md5s3stash", "daemon", "thumbnailer", "migrate"):
            shutil.copytree(
                REPOSITORY / name, self.root / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info")
            )
        for name in ("setup.py", "pyproject.toml", "README.md", "LICENSE"):
            shutil.copy(REPOSITORY / name, self.root / name)
        lock = (REPOSITORY / "requirements" / "dev.txt").read_text()
        (self.root / "requirements" / "dev.txt").write_text(entry(lock, "setuptools") + entry(lock, "iniconfig"))
        # Of those that setuptools builds, one: each takes seconds.
        built = self.root / "requirements" / "pilbox.txt"
        built.write_text(entry(built.read_text(), "pilbox"))
        (self.root / "requirements" / "validator.txt").write_text("")
        self._make_path()

    def bootstrap(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [self.root / "tools" / "bootstrap", *arguments],
            env=self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            timeout=_SECONDS,
        )

    def add_program(self, name: str, script: str) -> None:
        program = self.bin / name
        program.unlink(missing_ok=True)
        program.write_text(f"#!/bin/sh\n{script}\n")
        program.chmod(0o755)

    def be_ubuntu(self, ubuntu: bool) -> None:
        """Bootstrap asks grep for the system's ID."""
        grep = shutil.which("grep")
        self.add_program("grep", f'case "$*" in *ID=ubuntu*) {str(ubuntu).lower()};; *) exec {grep} "$@";; esac')

    def end_before_the_environment(self) -> None:
        """Bootstrap then fails when it has installed the system packages; the rest takes seconds."""
        python = os.path.realpath(sys.executable)
        self.add_program("python3", f'case "$*" in *_base_executable*) echo false;; *) exec {python} "$@";; esac')

    def python(self, code: str) -> str:
        python = self.root / ".venv" / "bin" / "python"
        return subprocess.run([python, "-c", code], cwd="/", capture_output=True, text=True, check=True).stdout.strip()

    def _make_path(self) -> None:
        self.bin.mkdir()
        for name in _USED:
            found = shutil.which(name)
            assert found, name
            (self.bin / name).symlink_to(found)
        self.be_ubuntu(False)
        self._add_python()
        for name in ("redis-server", "ffmpeg"):
            self.add_program(name, "exit 0")
        self.add_program("heif-enc", "echo x265")
        self.add_program("heif-dec", "echo libde265")
        for name in ("systemd-analyze", "ip", "sftp", "rsync", "curl", "wget", "pdftoppm", "rsvg-convert"):
            self.add_program(name, "exit 0")
        for name in ("nginx", "php", "mandoc", "man", "zsh"):
            self.add_program(name, "exit 0")
        self.environment["PATH"] = str(self.bin)
        # Compiling takes time, and few of these modules are imported.
        self.environment["PIP_NO_COMPILE"] = "1"
        for name in ("PYTHON", "PYTHONPATH"):
            self.environment.pop(name, None)

    def _add_python(self) -> None:
        """The tests' Python. What it makes first gets the tests' pip: to unpack and compile its own takes seconds.
        An environment that is made again, from the Python of the one before, is made in full.
        """
        python, link = os.path.realpath(sys.executable), shutil.which("ln")
        library = sysconfig.get_path("purelib")
        self.add_program(
            "python3", f'case "$*" in *_base_executable*) echo {self.bin}/base;; *) exec {python} "$@";; esac'
        )
        give_pip = f'exec {link} -s {library}/pip {library}/pip-* "$3"/lib/python3*/site-packages/'
        self.add_program("base", f'{python} "$@" --without-pip && {give_pip}')


def entry(lock: str, name: str) -> str:
    """One package of the lock with its hashes."""
    found = re.search(rf"^{name}==.*?\n(?=\S|\Z)", lock, re.MULTILINE | re.DOTALL)
    assert found, name
    return found.group()


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    return Checkout(tmp_path)


def test_run_after_one_without_a_network_makes_the_environment_and_the_next_does_nothing(checkout: Checkout) -> None:
    # One story in one test: each run of pip takes seconds.
    with_network = dict(checkout.environment)
    # Port 9 (discard) of loopback: nothing listens there.
    without = {"PIP_INDEX_URL": "http://127.0.0.1:9/simple", "PIP_CONFIG_FILE": os.devnull, "PIP_FIND_LINKS": ""}
    checkout.environment |= without
    failed = checkout.bootstrap()

    assert failed.returncode == 1
    making, sentence = failed.stdout.splitlines()
    assert making.startswith("Making .venv")
    assert "network" in sentence

    # Now there is an environment without its packages, as after a Ctrl-C.
    (checkout.root / ".venv" / "half-made").touch()
    checkout.environment = with_network
    first = checkout.bootstrap()

    assert first.returncode == 0, first.stdout
    assert not (checkout.root / ".venv" / "half-made").exists()
    imported = (
        "import iniconfig, pilbox, md5s3stash_migrate, md5s3stash_daemon, md5s3stash_thumbnailer, md5s3stash.scheme"
    )
    assert checkout.python(f"{imported}; print(md5s3stash_migrate.__file__)").startswith(str(checkout.root / "migrate"))
    assert (checkout.root / ".venv" / "bin" / "md5s3stash").exists()

    python = checkout.root / ".venv" / "bin" / "python"
    made_at = python.lstat().st_mtime_ns
    [pip] = checkout.root.glob(".venv/lib/python*/site-packages/pip")
    # Fails as soon as pip is started.
    pip.rename(checkout.root / "pip")
    second = checkout.bootstrap()
    (checkout.root / "pip").rename(pip)

    assert (second.returncode, second.stdout) == (0, "")
    assert python.lstat().st_mtime_ns == made_at

    # A new entry point only requires that the project is installed again.
    pyproject = checkout.root / "pyproject.toml"
    pyproject.write_text(pyproject.read_text().replace("md5s3stashd =", "another-name ="))
    assert checkout.bootstrap().returncode == 0
    assert (checkout.root / ".venv" / "bin" / "another-name").exists()
    assert python.lstat().st_mtime_ns == made_at

    # A changed lock rebuilds the environment, without packages of the old one.
    lock = checkout.root / "requirements" / "dev.txt"
    lock.write_text(entry(lock.read_text(), "setuptools"))
    assert checkout.bootstrap().returncode == 0
    assert checkout.python("import importlib.util as u; print(u.find_spec('iniconfig'))") == "None"


def test_wrong_hash_is_refused(checkout: Checkout) -> None:
    lock = checkout.root / "requirements" / "dev.txt"
    lock.write_text(re.sub(r"sha256:[0-9a-f]{8}", "sha256:00000000", lock.read_text()))

    done = checkout.bootstrap()

    assert done.returncode == 1
    assert "Could not install" in done.stdout
    assert not (checkout.root / ".venv" / ".stamp-lock").exists()


def test_missing_system_package_without_apt_is_one_line_that_names_it_and_the_command(checkout: Checkout) -> None:
    (checkout.bin / "redis-server").unlink()

    done = checkout.bootstrap()

    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert "redis-server" in line
    assert "sudo apt-get install -y redis-server" in line


def test_only_the_tests_need_a_browser_systemd_networks_and_programs_that_upload(checkout: Checkout) -> None:
    for name in ("redis-server", "ffmpeg", "systemd-analyze", "ip", "sftp", "rsync"):
        (checkout.bin / name).unlink()

    assert "apt-get install -y redis-server ffmpeg\n" in checkout.bootstrap().stdout
    assert (
        "apt-get install -y redis-server ffmpeg chromium npm systemd iproute2 openssh-client rsync\n"
        in checkout.bootstrap("--tests").stdout
    )

    checkout.add_program("google-chrome", "exit 0")
    assert "chromium" not in checkout.bootstrap("--tests").stdout


def test_on_ubuntu_whose_chromium_is_a_pointer_to_a_snap_the_browser_comes_from_npm(checkout: Checkout) -> None:
    checkout.be_ubuntu(True)
    checkout.add_program("chromium-browser", "echo snap install chromium; exit 1")
    checkout.add_program("npm", "exit 1")
    checkout.end_before_the_environment()

    without = checkout.bootstrap("--tests").stdout.splitlines()
    checkout.add_program("google-chrome", "exit 0")
    with_another = checkout.bootstrap("--tests").stdout.splitlines()

    assert without[0].startswith("Taking @sparticuz/chromium@")
    assert without[1].startswith("Could not get it: tests that need a browser will fail")
    assert with_another == without[2:]
    assert "Could not create the virtual environment" in with_another[-1]


def test_failing_apt_ends_with_the_same_line(checkout: Checkout) -> None:
    (checkout.bin / "redis-server").unlink()
    checkout.add_program("id", "echo 0")
    checkout.add_program("apt-get", "echo 'E: Unable to locate package' >&2; exit 100")

    done = checkout.bootstrap()

    assert done.returncode == 1
    announced, line = done.stdout.splitlines()
    assert announced == "Installing with apt: redis-server"
    assert "sudo apt-get install -y redis-server" in line


def test_without_the_right_to_sudo_nobody_is_asked_for_a_password(checkout: Checkout) -> None:
    (checkout.bin / "redis-server").unlink()
    checkout.add_program("id", "echo 1000")
    checkout.add_program("apt-get", "exit 0")
    checkout.add_program("sudo", 'printf "%s\\n" "$*" >>"$CALLS"; echo "sudo: a password is required" >&2; exit 1')
    calls = checkout.root / "calls"
    checkout.environment["CALLS"] = str(calls)

    done = checkout.bootstrap()

    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert "sudo apt-get install -y redis-server" in line
    assert [call for call in calls.read_text().splitlines() if not call.startswith("-n ")] == []


def test_missing_system_packages_are_installed_through_apt_and_no_service_is_started(checkout: Checkout) -> None:
    (checkout.bin / "redis-server").unlink()
    checkout.add_program("id", "echo 1000")
    checkout.add_program("sudo", 'test "$1" = -n && shift; exec "$@"')
    made = f'case "$*" in *" install "*) /bin/ln -s /bin/true "{checkout.bin}/redis-server";; esac'
    called = 'echo "$RUNLEVEL $DEBIAN_FRONTEND $*" >>"$CALLS"'
    checkout.add_program("apt-get", f"{called}; test -t 0 && exit 1; {made}")
    calls = checkout.root / "calls"
    checkout.environment["CALLS"] = str(calls)
    checkout.end_before_the_environment()

    done = checkout.bootstrap()

    assert "Could not create the virtual environment" in done.stdout
    update, install = calls.read_text().splitlines()
    assert update.endswith(" update")
    assert install.startswith("1 noninteractive ")
    assert " install " in install
    assert install.endswith(" redis-server")


def test_codecs_that_only_the_first_package_lists_name_are_installed(checkout: Checkout) -> None:
    lists = checkout.root / "lists"
    checkout.add_program("google-chrome", "exit 0")
    checkout.add_program("npm", "exit 0")
    (checkout.bin / "heif-enc").unlink()
    checkout.add_program("id", "echo 0")
    checkout.add_program("apt-get", f'case "$*" in *" update") : >"{lists}";; *) ;; esac')
    checkout.add_program("apt-cache", f'test -e "{lists}"')
    checkout.end_before_the_environment()

    first, second, *_ = checkout.bootstrap("--tests").stdout.splitlines()

    assert first == "Installing with apt: libheif-examples"
    assert second == "Installing with apt: libheif-examples libheif-plugin-x265"


def test_missing_libmagic_and_ensurepip_are_noticed_by_what_they_provide(checkout: Checkout) -> None:
    # As on Debian without libmagic1 and python3-venv.
    hide = checkout.root / "hide"
    hide.mkdir()
    (hide / "sitecustomize.py").write_text(
        "import ctypes, sys\n"
        "sys.modules['ensurepip'] = None\n"
        "def refuse(name, *arguments, **options): raise OSError(name)\n"
        "ctypes.CDLL = refuse\n"
    )
    python = os.path.realpath(sys.executable)
    checkout.add_program("python3", f'PYTHONPATH={hide} exec {python} "$@"')

    done = checkout.bootstrap()

    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert f"python{sys.version_info.major}.{sys.version_info.minor}-venv libmagic1" in line


def test_older_python_is_refused_in_words(checkout: Checkout) -> None:
    checkout.add_program("python3", "exit 1")

    done = checkout.bootstrap()

    assert done.returncode == 1
    (line,) = done.stdout.splitlines()
    assert "Python 3.11 or newer" in line
