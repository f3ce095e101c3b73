"""`make run` end to end: the real programs, started as by make, on free ports and in a directory of the test."""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
import socket
import stat
import subprocess
import sys
import threading
from collections.abc import Iterator, Mapping
from io import BytesIO
from pathlib import Path
from types import MappingProxyType

import boto3
import pytest
import redis
import requests
from botocore.exceptions import ClientError
from PIL import Image

from tests.support.servers import free_port, is_alive, wait_until

REPOSITORY = Path(__file__).resolve().parents[2]
START_SECONDS = 60.0
STOP_SECONDS = 60.0
_THUMBNAIL_URL = re.compile(r"http://127\.0\.0\.1:\d+/\S+")


class Appliance:
    """One `make run` and its output."""

    def __init__(self, data: Path, settings: Mapping[str, str] = MappingProxyType({})) -> None:
        self.data = data
        self.settings = settings
        self.incoming = data / "spool" / "incoming"
        self.ports = {name: free_port() for name in ("THUMBNAILER_PORT", "S3_PORT", "REDIS_PORT", "METRICS_PORT")}
        self.lines: list[str] = []
        self._process: subprocess.Popen[str] | None = None
        self._reader: threading.Thread | None = None

    @property
    def process(self) -> subprocess.Popen[str]:
        assert self._process is not None
        return self._process

    @property
    def output(self) -> str:
        return "\n".join(self.lines)

    @property
    def redis_url(self) -> str:
        return f"redis://127.0.0.1:{self.ports['REDIS_PORT']}/0"

    def start(self) -> None:
        self.lines = []
        self._process = subprocess.Popen(
            [sys.executable, "-m", "laptop.run"],
            cwd=REPOSITORY,
            env={**os.environ, **self.settings, "DATA_DIR": str(self.data)}
            | {name: str(port) for name, port in self.ports.items()},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        # Always drained: a full pipe would block the program.
        self._reader = threading.Thread(target=self._read, args=(self._process, self.lines), daemon=True)
        self._reader.start()

    def start_and_wait(self) -> None:
        self.start()
        self.wait_for_line("Stop ")

    def wait_for_line(self, text: str) -> str:
        """Waits for the first line that contains the text."""
        wait_until(lambda: self._ended() or self._line(text) is not None, f"a line with {text!r}", START_SECONDS)
        line = self._line(text)
        assert line is not None, f"ended without a line with {text!r}:\n{self.output}"
        return line

    def wait_for_end(self) -> int:
        code = self.process.wait(STOP_SECONDS)
        wait_until(self._ended, "the end of its output", 5)
        return code

    def supervisord(self) -> int:
        return int((self.data / "run" / "supervisord.pid").read_text())

    def processes(self) -> set[int]:
        """supervisord and everything below it."""
        return {self.supervisord()} | descendants(self.supervisord())

    def programs(self) -> set[int]:
        """The programs that supervisord has started."""
        return {pid for pid, parent in _living_processes().items() if parent == self.supervisord()}

    def stop(self) -> int:
        self.process.send_signal(signal.SIGINT)
        return self.wait_for_end()

    def in_a_shell(self, command: str) -> str:
        """What a command prints in a shell that has loaded env.sh, and nothing else of ours."""
        shell = ["sh", "-c", f'. "$0"; {command}', str(self.data / "run" / "env.sh")]
        environment = {"PATH": os.environ["PATH"], "HOME": str(self.data)}
        return subprocess.run(shell, env=environment, capture_output=True, text=True, check=True, timeout=60).stdout

    def drop(self, name: str, data: bytes) -> None:
        """Drops a file as a careful producer does: written under a hidden name, then renamed."""
        target = self.incoming / name
        target.parent.mkdir(parents=True, exist_ok=True)
        hidden = target.with_name(f".{target.name}")
        hidden.write_bytes(data)
        hidden.rename(target)

    def _read(self, process: subprocess.Popen[str], lines: list[str]) -> None:
        assert process.stdout is not None
        with process.stdout:
            for line in process.stdout:
                lines.append(line.rstrip("\n"))

    def _line(self, text: str) -> str | None:
        return next((line for line in list(self.lines) if text in line), None)

    def _ended(self) -> bool:
        return self._reader is not None and not self._reader.is_alive()


def descendants(pid: int) -> set[int]:
    """The living processes below this one."""
    children: dict[int, set[int]] = {}
    for child, parent in _living_processes().items():
        children.setdefault(parent, set()).add(child)
    found: set[int] = set()
    to_visit = [pid]
    while to_visit:
        new = children.get(to_visit.pop(), set()) - found
        found |= new
        to_visit.extend(new)
    return found


def command_line(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")


def picture(colour: str, size: tuple[int, int] = (900, 600)) -> bytes:
    file = BytesIO()
    Image.new("RGB", size, colour).save(file, "JPEG")
    return file.getvalue()


def thumbnail(url: str) -> Image.Image:
    response = requests.get(url, timeout=30)
    assert response.status_code == 200, response.text
    return Image.open(BytesIO(response.content))


def url_in(line: str) -> str:
    found = _THUMBNAIL_URL.search(line)
    assert found, line
    return found.group()


def _living_processes() -> dict[int, int]:
    """Each running process, and its parent."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, parent = path.read_text(errors="replace").rpartition(")")[2].split()[:2]
            if state not in ("Z", "X"):
                parents[int(path.parent.name)] = int(parent)
    return parents


@pytest.fixture
def appliance(tmp_path: Path) -> Iterator[Appliance]:
    """Not started yet; processes left by a failing test are stopped."""
    appliance = Appliance(tmp_path / "data")
    yield appliance
    if appliance._process is not None and appliance.process.poll() is None:
        appliance.stop()
    # It is left only if it did not end with its parent, as it should.
    with contextlib.suppress(OSError, ValueError):
        if str(appliance.data) in command_line(appliance.supervisord()):
            os.kill(appliance.supervisord(), signal.SIGTERM)


@pytest.fixture(scope="module")
def up(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Appliance]:
    """A running one with collections and an index of provenance, for tests that only read from it and drop files."""
    data = tmp_path_factory.mktemp("up") / "data"
    settings = {
        "KEY_TEMPLATE": "{collection}/{md5}",
        "MD5S3STASH_SPOOL_COLLECTIONS": "true",
        "MD5S3STASH_PROVENANCE_INDEX": str(data / "provenance" / "index.sqlite"),
    }
    appliance = Appliance(data, settings)
    appliance.start_and_wait()
    yield appliance
    appliance.stop()


def test_every_sample_is_stashed_and_its_thumbnail_is_served(up: Appliance) -> None:
    pictures = 0
    for sample in (REPOSITORY / "samples").iterdir():
        if sample.suffix not in ("", ".py", ".md") and sample.is_file():
            line = up.wait_for_line(f"samples/{sample.name}")
            if re.search(r"\b((image|video|audio)/|application/pdf)", line):
                pictures += 1
                assert 300 < max(thumbnail(url_in(line)).size) <= 480
    assert pictures == 13
    assert "text/plain" in up.wait_for_line("samples/notes.txt")


def test_dropped_picture_appears_with_a_thumbnail_that_can_be_opened(up: Appliance) -> None:
    up.drop("album/crimson.jpg", picture("crimson"))

    line = up.wait_for_line("album/crimson.jpg")
    small = thumbnail(url_in(line))

    assert small.size == (480, 320)
    assert small.format in ("JPEG", "PNG")


def test_dropped_text_appears_without_a_thumbnail(up: Appliance) -> None:
    up.drop("words.txt", b"some words\n")

    line = up.wait_for_line("words.txt")

    assert "text/plain" in line
    assert "http://" not in line


def test_what_was_said_tells_where_to_drop_what_to_open_and_how_to_stop(up: Appliance) -> None:
    assert str(up.incoming) in up.wait_for_line("Drop files here")
    assert thumbnail(url_in(up.wait_for_line("Open this one"))).format in ("JPEG", "PNG")
    assert "Ctrl-C" in up.wait_for_line("Stop ")


def test_file_in_a_collection_is_shown_there_and_a_shell_has_the_settings_for_it(up: Appliance) -> None:
    data = picture("plum")
    up.drop("26094/plum.jpg", data)

    url = url_in(up.wait_for_line("26094/plum.jpg"))
    settings = up.in_a_shell("env").splitlines()

    assert url.endswith(f"/26094/{hashlib.md5(data, usedforsecurity=False).hexdigest()}")
    assert thumbnail(url).size == (480, 320)
    assert {f"{name}={value}" for name, value in up.settings.items()} <= set(settings)


def test_audit_is_not_shown_as_a_file(up: Appliance) -> None:
    up.in_a_shell("md5s3stashctl verify")
    up.drop("afterwards.txt", b"dropped after the audit\n")

    up.wait_for_line("afterwards.txt")

    assert not [line for line in up.lines if "s3://md5s3stash-laptop/  " in line or line.startswith("failed")]


def test_status_page_is_named_and_shows_the_samples_by_their_thumbnails(up: Appliance) -> None:
    page = requests.get(up.wait_for_line("Status page").split()[-1], timeout=10).text
    pictures = re.findall(r'<img src="([^"]*)"', page)

    assert len(pictures) >= 8
    assert "samples/notes.txt" in page
    assert max(thumbnail(pictures[0]).size) <= 320


def test_output_that_goes_to_no_terminal_has_no_escape_sequences_even_for_a_name_with_one(up: Appliance) -> None:
    up.drop("evil\033[2J.txt", b"a name that would clear the screen\n")

    up.wait_for_line(r"evil\x1b[2J.txt")

    assert "\033" not in up.output


def test_keys_are_readable_by_the_owner_alone_and_on_no_command_line(up: Appliance) -> None:
    keys = up.data / "run" / "s3-keys.json"
    secrets = re.findall(r'": "([^"]+)"', keys.read_text())

    assert len(secrets) == 2
    assert stat.S_IMODE(keys.stat().st_mode) == 0o600
    shown = "".join(command_line(pid) for pid in up.processes() | {up.process.pid})
    configuration = (up.data / "run" / "supervisord.conf").read_text()
    assert [secret for secret in secrets if secret in shown + configuration + up.output] == []


def test_s3_server_refuses_who_has_another_key(up: Appliance) -> None:
    endpoint = f"http://127.0.0.1:{up.ports['S3_PORT']}"
    client = boto3.client("s3", endpoint_url=endpoint, aws_access_key_id="testing", aws_secret_access_key="testing")

    with pytest.raises(ClientError) as refused:
        client.list_objects_v2(Bucket="md5s3stash-laptop")

    assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == 403


def test_second_run_on_the_same_data_is_refused_in_words(up: Appliance) -> None:
    second = Appliance(up.data)
    second.start()

    assert second.wait_for_end() == 1
    assert "already running" in second.output
    assert "Traceback" not in second.output


# Long stories, since each start takes seconds.
def test_interrupt_stops_all_and_the_next_run_keeps_the_data_and_takes_along_all_when_it_is_killed(
    appliance: Appliance,
) -> None:
    appliance.start_and_wait()
    started = appliance.processes()
    assert len(started) >= 5, "supervisord and its four programs"
    appliance.drop("kept.jpg", picture("seagreen"))
    url = url_in(appliance.wait_for_line("kept.jpg"))

    code = appliance.stop()

    assert code == 0
    assert "Stopped" in appliance.lines[-1]
    assert {pid for pid in started if is_alive(pid)} == set()
    assert "Traceback" not in appliance.output

    appliance.drop("in-between.jpg", picture("orchid"))
    appliance.start_and_wait()

    assert thumbnail(url).size == (480, 320)
    assert thumbnail(url_in(appliance.wait_for_line("in-between.jpg"))).size == (480, 320)
    with redis.Redis.from_url(appliance.redis_url) as client:
        assert client.hexists("md5s3stash:names", "kept.jpg")

    started = appliance.processes()
    appliance.process.kill()

    wait_until(lambda: not any(is_alive(pid) for pid in started), "all processes gone", STOP_SECONDS)


def test_each_program_that_is_killed_comes_back_and_a_killed_supervisord_takes_all_along_and_is_reported(
    appliance: Appliance,
) -> None:
    appliance.start_and_wait()
    programs = appliance.programs()
    assert len(programs) == 4, "redis, the S3 server, the daemon, the thumbnail server"

    for pid in programs:
        os.kill(pid, signal.SIGKILL)
    wait_until(lambda: not any(is_alive(pid) for pid in programs), "their end")
    wait_until(lambda: len(appliance.programs()) == 4, "four programs again", START_SECONDS)

    appliance.drop("afterwards.jpg", picture("tan"))
    url = url_in(appliance.wait_for_line("afterwards.jpg"))
    wait_until(lambda: _answers(url), "its thumbnail", START_SECONDS)

    started = appliance.processes()
    os.kill(appliance.supervisord(), signal.SIGKILL)
    code = appliance.wait_for_end()

    assert code == 1
    assert "supervisord was stopped" in appliance.output
    assert {pid for pid in started if is_alive(pid)} == set()


def test_interrupt_while_starting_leaves_nothing_behind(appliance: Appliance) -> None:
    appliance.start()
    appliance.wait_for_line("Starting")
    pid_file = appliance.data / "run" / "supervisord.pid"
    wait_until(lambda: pid_file.exists() and pid_file.read_text().strip() != "", "supervisord's pid file")
    started = appliance.processes()

    code = appliance.stop()

    assert code == 0
    assert {pid for pid in started if is_alive(pid)} == set()
    assert "Traceback" not in appliance.output


@pytest.mark.parametrize("variable", ["THUMBNAILER_PORT", "S3_PORT", "REDIS_PORT", "METRICS_PORT"])
def test_taken_port_is_named_with_the_variable_that_chooses_another(variable: str, appliance: Appliance) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        appliance.ports[variable] = taken.getsockname()[1]
        appliance.start()
        code = appliance.wait_for_end()

    assert code == 1
    assert len(appliance.lines) == 1
    assert f"Port {appliance.ports[variable]}" in appliance.output
    assert f"{variable}=" in appliance.output
    assert not (appliance.data / "run" / "supervisord.pid").exists()


def test_program_that_keeps_ending_is_named_with_the_end_of_its_log(appliance: Appliance) -> None:
    (appliance.data / "redis").mkdir(parents=True)
    (appliance.data / "redis" / "appendonlydir").write_text("not a directory, so that redis cannot start")

    appliance.start()
    code = appliance.wait_for_end()

    assert code == 1
    assert "'redis' keeps ending" in appliance.output
    assert "append" in appliance.lines[-1] + appliance.lines[-2]
    assert "Traceback" not in appliance.output


def _answers(url: str) -> bool:
    with contextlib.suppress(requests.RequestException):
        return requests.get(url, timeout=5).status_code == 200
    return False
