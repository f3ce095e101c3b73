"""`md5s3stashd --check-config`, and the format of log lines for journald."""

from __future__ import annotations

import logging
import os
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from md5s3stash_daemon.config.load import without_credentials
from md5s3stash_daemon.runtime.log_format import LineFormatter, is_journal
from tests.support.daemon import IMPORT_PATH, Daemon, Site
from tests.support.servers import wait_until

GOOD = {"BUCKET_BASE": "one/pre, two", "REDIS_URL": "redis://user:s3cr/et@p@127.0.0.1:1/0"}


def check(environment: dict[str, str], *arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "md5s3stash_daemon", "--check-config", *arguments],
        env={**os.environ, "PYTHONPATH": IMPORT_PATH, **environment},
        capture_output=True,
        text=True,
        timeout=30,
    )


def test_effective_settings_are_a_settings_file_without_credentials(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text('[spool]\njobs = 7\n[log]\nlevel = "DEBUG"\n')
    good = {**GOOD, "REDIS_URL": "redis://user:s3cret@127.0.0.1:1/0", "SPOOL_DIR": str(tmp_path / "spool")}

    done = check(good, "--config", str(config), "--loglevel", "ERROR")

    assert (done.returncode, done.stderr) == (0, "")
    assert "s3cret" not in done.stdout
    told = tomllib.loads(done.stdout)
    assert told["spool"]["jobs"] == 7
    assert told["log"] == {"level": "ERROR"}
    assert told["stash"] == {
        "bucket_base": ["one/pre", "two"],
        "bucket_scheme": "simple",
        "key_template": "{md5}",
        "derivative_prefixes": [],
    }
    assert told["redis"]["url"] == "redis://***@127.0.0.1:1/0"
    assert not (tmp_path / "spool").exists(), "no file is created"


def test_headers_of_origins_are_checked_and_not_shown(tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text("https://museum.example X-Api-Key: s3cret\n")
    headers.chmod(0o600)
    told = {**GOOD, "REDIS_URL": "redis://127.0.0.1:1/0", "MD5S3STASH_FETCH_HEADERS_FILE": str(headers)}

    done = check(told)
    assert (done.returncode, done.stderr) == (0, "")
    assert tomllib.loads(done.stdout)["fetch"]["headers_file"] == str(headers)
    assert "s3cret" not in done.stdout

    headers.write_text("museum.example X-Api-Key: s3cret\n")
    done = check(told)
    assert done.returncode == 2
    assert done.stderr == f"md5s3stashd: {headers}: line 1: the line must have the form https://HOST NAME: VALUE\n"


def test_every_fault_is_told_at_once_with_its_key_and_what_is_allowed(tmp_path: Path) -> None:
    config = tmp_path / "config.toml"
    config.write_text("[spool]\nsettle_seconds = -1\n[htttp]\n")
    wrong = {"MD5S3STASH_SPOOL_JOBS": "0", "MD5S3STASH_HTTP_ADDRESS": "here", "MD5S3STASH_SPOOL_WATCH": "maybe"}

    done = check(wrong, "--config", str(config))

    assert (done.returncode, done.stdout) == (2, "")
    lines = [line.removeprefix("md5s3stashd: ") for line in done.stderr.splitlines()]
    assert sorted(lines) == sorted(
        [
            "[htttp] is not a section: did you mean http?",
            "MD5S3STASH_SPOOL_JOBS: a whole number from 1 to 64 is needed",
            "spool.settle_seconds: a number of seconds from 0 to 3600 is needed",
            "MD5S3STASH_HTTP_ADDRESS: an IP address is needed, such as 127.0.0.1",
            "MD5S3STASH_SPOOL_WATCH: one of auto, inotify, poll is needed",
            "BUCKET_BASE is not set: give the bucket (or bucket/prefix) to stash into",
            "REDIS_URL is not set: set it to the Redis where the daemon records what it stashes",
        ]
    )


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("redis://user:s3cr/et@p@host:1/0", "redis://***@host:1/0"),
        ("redis://:s3cret@host", "redis://***@host"),
        ("unix://:s3cret@/run/redis", "unix://***@/run/redis"),
        ("redis://host/0?password=s3cret&db=1", "redis://host/0?password=***&db=1"),
        ("redis://host:1/0", "redis://host:1/0"),
    ],
)
def test_no_credential_of_a_url_is_shown(url: str, shown: str) -> None:
    assert without_credentials(url) == shown


def record(level: int, message: str) -> logging.LogRecord:
    return logging.LogRecord("md5s3stash_daemon.intake.files.file_stasher", level, "", 0, message, None, None)


@pytest.mark.parametrize(
    ("level", "start"),
    [(logging.DEBUG, "<7>"), (logging.INFO, "<6>"), (logging.WARNING, "<4>"), (logging.ERROR, "<3>")],
)
def test_lines_carry_their_priority_for_journald_alone(level: int, start: str) -> None:
    assert LineFormatter(True).format(record(level, "x")).startswith(f"{start}level=")
    assert LineFormatter(False).format(record(level, "x")).startswith("level=")


def test_a_traceback_is_one_line() -> None:
    try:
        raise ValueError("two\nlines\x1b[31m")
    except ValueError:
        made = logging.LogRecord("x", logging.ERROR, "", 0, "broke", None, sys.exc_info())

    line = LineFormatter(True).format(made)

    assert line.isprintable()
    assert "broke\\nTraceback" in line
    assert "two\\nlines\\x1b[31m" in line


def test_journald_is_known_by_the_inode_that_it_named(tmp_path: Path) -> None:
    with open(tmp_path / "stream", "w") as stream, open(tmp_path / "other", "w") as other:
        status = os.fstat(stream.fileno())
        environment = {"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"}
        assert is_journal(environment, stream.fileno())
        assert not is_journal(environment, other.fileno())
        assert not is_journal({}, stream.fileno())


def test_each_line_of_a_daemon_under_journald_has_its_priority_and_names_the_drop(
    tmp_path: Path, redis_server: str, s3_server: str
) -> None:
    site = Site(tmp_path, redis_server, s3_server)
    program = (
        "import os, sys; s = os.fstat(2); os.environ['JOURNAL_STREAM'] = f'{s.st_dev}:{s.st_ino}'; "
        "from md5s3stash_daemon.main import main; sys.exit(main([]))"
    )
    with Daemon(site, {"MD5S3STASH_LOG_LEVEL": "DEBUG"}, command=("-c", program)) as daemon:
        daemon.wait_until_started()
        site.drop("two\nlines", b"x")
        wait_until(lambda: bool(site.names()), "stashed")
        assert daemon.terminate() == 0

    lines = daemon.output().splitlines()
    assert all(line.startswith(("<7>level=DEBUG", "<6>level=INFO", "<4>level=WARNING")) for line in lines), lines
    [line] = [line for line in lines if " stashed name=" in line]
    assert "name='two\\nlines' batch=" in line
    assert "md5=9dd4e461268c8034f5c8564e155c67a6" in line
