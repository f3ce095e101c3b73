"""The parts of `make run` that need no running program."""

from __future__ import annotations

import dataclasses
import os
import shlex
import socket
import stat
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from laptop.configuration import environment_of_programs, shell_environment, supervisor_configuration
from laptop.credentials import KeyPair, load_or_make
from laptop.errors import LaptopError
from laptop.place import Place, place_from
from laptop.ports import refuse_taken
from laptop.report import Colours, how_to_go_on, human_size, outcome_line, samples_table
from laptop.sample_files import Sample, drop, samples
from laptop.stash_log import Outcome
from laptop.supervisor import Restarts
from md5s3stash.settings import variables_of
from md5s3stash_daemon.config.settings import SECTIONS
from tests.support.servers import REPOSITORY, free_port

MD5 = "d41d8cd98f00b204e9800998ecf8427e"


def outcome(name: str, stashed: bool = True, mime_type: str = "image/png", reason: str = "") -> Outcome:
    return Outcome(name, stashed, MD5 if stashed else "", mime_type if stashed else "", reason)


@pytest.fixture
def place(tmp_path_factory: pytest.TempPathFactory) -> Place:
    # Not below tmp_path, which includes the test's name: a socket's path must be short.
    return place_from({"DATA_DIR": str(tmp_path_factory.mktemp("p") / "a place with 100% blanks")})


def test_ports_have_defaults_and_come_from_the_environment() -> None:
    assert [port.number for port in place_from({}).ports] == [8888, 9000, 6399, 9108]
    assert place_from({"S3_PORT": "9100"}).s3_url == "http://127.0.0.1:9100"


def test_data_lies_in_the_checkout_unless_said_otherwise(tmp_path: Path) -> None:
    assert place_from({}).data == Path(__file__).resolve().parents[2] / "var"
    assert place_from({"DATA_DIR": str(tmp_path)}).incoming == tmp_path / "spool" / "incoming"


@pytest.mark.parametrize("text", ["abc", "0", "65536", "-1", "8888.0", "٣"])
def test_what_is_no_port_is_refused_with_the_variable_named(text: str) -> None:
    with pytest.raises(LaptopError, match="REDIS_PORT="):
        place_from({"REDIS_PORT": text})


def test_two_programs_cannot_share_a_port() -> None:
    with pytest.raises(LaptopError, match="THUMBNAILER_PORT=9000, S3_PORT=9000"):
        place_from({"THUMBNAILER_PORT": "9000"})


def test_data_directory_too_deep_for_a_socket_is_refused() -> None:
    with pytest.raises(LaptopError, match="shorter"):
        place_from({"DATA_DIR": "/" + "d" * 79})


def test_data_directory_that_cannot_be_made_is_refused_in_words(tmp_path: Path) -> None:
    (tmp_path / "file").touch()

    with pytest.raises(LaptopError, match="DATA_DIR"):
        place_from({"DATA_DIR": str(tmp_path / "file")}).make_directories()


def test_port_of_a_listener_on_all_addresses_counts_as_taken() -> None:
    with socket.create_server(("0.0.0.0", 0)) as taken:
        number = taken.getsockname()[1]
        place = place_from(
            {"S3_PORT": str(number)}
            | {name: str(free_port()) for name in ("THUMBNAILER_PORT", "REDIS_PORT", "METRICS_PORT")}
        )
        with pytest.raises(LaptopError, match=f"Port {number}, which the S3 server wants, .*S3_PORT="):
            refuse_taken(place.ports)

    refuse_taken(place.ports)


def test_keys_are_made_once_with_mode_0600(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"

    made = load_or_make(path)

    assert load_or_make(path) == made
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert load_or_make(tmp_path / "other.json") != made


def test_unreadable_key_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "keys.json"
    path.write_text("{half")

    with pytest.raises(LaptopError, match=r"keys\.json"):
        load_or_make(path)


def test_configuration_survives_blanks_and_percent_signs_in_the_path(
    place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Parsed by supervisord itself."""
    from supervisor.options import ServerOptions

    place.make_directories()
    configuration = place.run / "supervisord.conf"
    configuration.write_text(supervisor_configuration(place))

    monkeypatch.chdir(place.data)
    options = ServerOptions()
    options.realize(["-c", str(configuration)])

    commands = {
        program.name: program.command for group in options.process_group_configs for program in group.process_configs
    }
    assert sorted(commands) == ["daemon", "redis", "s3", "thumbnailer"]
    assert f"--dir '{place.redis_data}'" in commands["redis"]
    assert commands["s3"].endswith(f"'{place.objects}'")


def test_programs_are_kept_from_a_persons_own_account_and_proxy(place: Place) -> None:
    ours = {
        "AWS_PROFILE": "work",
        "AWS_ENDPOINT_URL": "https://elsewhere",
        "HOME": "/home/me",
        "http_proxy": "http://proxy",
    }

    environment = environment_of_programs(place, KeyPair("AK", "SK"), ours)

    assert environment.keys().isdisjoint({"AWS_PROFILE", "AWS_ENDPOINT_URL"})
    assert environment["HOME"] == "/home/me"
    assert environment["AWS_ACCESS_KEY_ID"] == "AK"
    assert environment["RCLONE_AUTH_KEY"] == '"AK,SK"'
    assert "127.0.0.1" in environment["no_proxy"]
    assert environment["BUCKET_BASE"] == "md5s3stash-laptop"
    assert environment["CACHE_DIRECTORY"] == str(place.data / "cache")


def test_a_shell_gets_the_settings_and_the_commands_of_what_runs(place: Place, tmp_path: Path) -> None:
    keys = KeyPair("AK", "it's secret")
    file = tmp_path / "env.sh"
    file.write_text(shell_environment(environment_of_programs(place, keys, {"HOME": "/home/me"})))

    shown = subprocess.run(
        ["sh", "-c", f". {file}; env; command -v md5s3stashctl"],
        env={"AWS_PROFILE": "work", "PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()

    assert {"AWS_SECRET_ACCESS_KEY=it's secret", f"SPOOL_DIR={place.spool}", f"S3_ENDPOINT={place.s3_url}"} <= set(
        shown
    )
    assert "AWS_PROFILE=work" not in shown
    assert shown[-1] == str(Path(sys.executable).parent / "md5s3stashctl")


def test_a_shell_gets_every_setting_that_was_added_and_no_password(place: Place) -> None:
    added = {
        "KEY_TEMPLATE": "{collection}/{md5}",
        "DERIVATIVE_PREFIXES": "thumbnails/",
        "MD5S3STASH_SPOOL_COLLECTIONS": "true",
        "MD5S3STASH_PROVENANCE_INDEX": "/data/index.sqlite",
    }
    others = {"MD5S3STASH_PASSWORD": "of an origin", "EDITOR": "vi"}

    text = shell_environment(environment_of_programs(place, KeyPair("AK", "SK"), added | others))

    assert [name for name, value in added.items() if f"export {name}={shlex.quote(value)}\n" not in text] == []
    assert "export MD5S3STASH_PASSWORD" not in text
    assert "EDITOR" not in text


def test_long_name_of_a_setting_does_not_lead_elsewhere(place: Place) -> None:
    """It would win over the short name, which is the laptop's."""
    laptops = environment_of_programs(place, KeyPair("AK", "SK"), {})
    short = {"BUCKET_BASE", "BUCKET_SCHEME", "S3_ENDPOINT", "REDIS_URL", "SPOOL_DIR"}
    long = [
        variables_of(section, field)[0]
        for section, kind in SECTIONS.items()
        for field in dataclasses.fields(kind)
        if field.metadata["variable"] in short
    ]

    environment = environment_of_programs(place, KeyPair("AK", "SK"), dict.fromkeys(long, "elsewhere"))

    assert len(long) == len(short)
    assert environment == laptops


def test_thumbnail_of_a_content_in_a_collection_has_the_collection_in_its_url(place: Place) -> None:
    stashed = replace(outcome("26094/a.png"), collection="26094")

    assert outcome_line(place, stashed, Colours()).endswith(f"/clip/480x480/26094/{MD5}")
    assert any(
        line.endswith(f"/clip/480x480/26094/{MD5}")
        for line in how_to_go_on(place, [Sample(Path("a.png"), "a", 1)], {"a": stashed}, Colours())
    )


def test_sample_is_dropped_under_its_own_name_alone(tmp_path: Path) -> None:
    sample = samples()[0]

    drop(sample, tmp_path)
    drop(sample, tmp_path)

    assert [path.relative_to(tmp_path).as_posix() for path in tmp_path.rglob("*") if path.is_file()] == [sample.name]


def test_script_and_readme_are_no_samples() -> None:
    names = {sample.path.suffix for sample in samples()}

    assert {".heic", ".jpg", ".mp3", ".mp4", ".pdf", ".png", ".svg", ".tif", ".webp", ".txt"} == names


def test_table_shows_each_sample_in_columns_and_why_one_failed(place: Place) -> None:
    dropped = [Sample(Path("a.png"), "samples/a.png", 1234), Sample(Path("bb.bin"), "samples/bb.bin", 5)]
    outcomes = {
        "samples/a.png": outcome("samples/a.png"),
        "samples/bb.bin": outcome("samples/bb.bin", stashed=False, reason="the bucket is gone"),
    }

    heading, first, second = samples_table(place, dropped, outcomes, Colours())

    assert heading.split() == ["file", "md5", "type", "size", "thumbnail"]
    assert first.split() == ["samples/a.png", MD5, "image/png", "1.2", "kB", place.thumbnail_url(MD5)]
    assert second.endswith("the bucket is gone")
    assert first.index(MD5) == second.index("failed") == heading.index("md5")


def test_no_thumbnail_is_offered_where_no_sample_is_a_picture(place: Place) -> None:
    sample = Sample(Path("a.txt"), "samples/a.txt", 1)

    lines = how_to_go_on(place, [sample], {sample.name: outcome(sample.name, mime_type="text/plain")}, Colours())

    assert not any("Open this one" in line for line in lines)
    # The path contains blanks, so the example must quote it.
    assert any(f"cp picture.jpg '{place.incoming}'/" in line for line in lines)


def test_failed_drop_says_why_and_shows_no_link(place: Place) -> None:
    line = outcome_line(place, outcome("b.jpg", stashed=False, reason="not a regular file"), Colours())

    assert line.startswith("failed")
    assert "b.jpg  not a regular file" in line
    assert "http://" not in line


@pytest.mark.parametrize(("size", "shown"), [(0, "0 B"), (999, "999 B"), (1000, "1.0 kB"), (2_500_000, "2.5 MB")])
def test_sizes_are_shown_in_a_persons_unit(size: int, shown: str) -> None:
    assert human_size(size) == shown


def test_program_that_came_back_a_few_times_in_a_minute_is_tolerated_and_more_is_not() -> None:
    restarts = Restarts()

    assert not any(restarts.too_many(pid, now=float(pid)) for pid in range(1, 6))
    assert not restarts.too_many(5, now=6.0)
    assert restarts.too_many(6, now=7.0)


def test_program_that_ends_once_an_hour_is_tolerated() -> None:
    restarts = Restarts()

    assert not any(restarts.too_many(pid, now=pid * 3600.0) for pid in range(1, 50))


def test_what_ctrl_c_interrupts_does_not_complain_behind_the_last_line() -> None:
    # Python 3.13 calls close() of an HTTP answer whose making was interrupted, and prints the error.
    program = """if True:
        import os, signal
        from laptop.run import StopRequested, _signals_stop_us
        class Answer:
            def __init__(self): os.kill(os.getpid(), signal.SIGINT); self.file = 1
            def __del__(self): self.file
        with _signals_stop_us():
            try:
                Answer()
            except StopRequested:
                pass
            print("Stopped", flush=True)
    """
    command = [sys.executable, "-c", program]
    done = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

    assert (done.returncode, done.stdout) == (0, "Stopped\n")
