"""The command as users run it: a process with a real S3 server, a real redis and real origins."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import redis

from md5s3stash.content import IN_MEMORY_BYTES
from md5s3stash.scheme import md5_to_bucket_shard
from tests.support import odd_metadata, warm
from tests.support.origin import Authority, Origin, Reply, Request
from tests.support.servers import RcloneS3, free_port, wait_until
from tests.support.stores import Keys, new_bucket, plain_client

REPOSITORY = Path(__file__).resolve().parents[2]
SECONDS = 60
SECRET = "s3cret-0f-the-curat0r"
BASIC = "Basic " + base64.b64encode(f"curator:{SECRET}".encode()).decode()
PNG = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAIAAAADCAIAAAA2iEnWAAAAEklEQVR4nGNgYGD4DwQMIAIEABfrAv4Jb1GrAAAAAElFTkSuQmCC"
)


class Cli:
    """Runs the command; `environ` is added to the environment of the test."""

    def __init__(self, directory: Path, environ: Mapping[str, str]) -> None:
        self.directory = directory
        self.environ = {"PYTHONPATH": str(REPOSITORY), "HOME": str(directory), **environ}

    def start(self, *arguments: str | bytes, **options: Any) -> subprocess.Popen[bytes]:
        environ = {**os.environ, **self.environ, **options.pop("environ", {})}
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
        command = [sys.executable, "-m", "md5s3stash", *arguments]
        return subprocess.Popen(command, env=environ, cwd=self.directory, **{**pipes, **options})

    def __call__(self, *arguments: str | bytes, stdin: bytes = b"", **options: Any) -> Result:
        environ = options.get("environ", {})
        if not stdin and options.keys() <= {"environ"} and "PYTHONPATH" not in environ:
            done = warm.run(["md5s3stash", *arguments], {**os.environ, **self.environ, **environ}, self.directory)
            return Result(done.returncode, done.stdout, done.stderr)
        with self.start(*arguments, **options) as process:
            try:
                out, err = process.communicate(stdin, SECONDS)
            finally:
                process.kill()
        return Result(process.returncode, out or b"", err or b"")


class Result:
    def __init__(self, status: int, out: bytes, err: bytes) -> None:
        self.status, self.out, self.err = status, out, err
        assert b"Traceback" not in err, err.decode()

    @property
    def lines(self) -> list[list[str]]:
        """The columns of each line of standard output."""
        return [os.fsdecode(line).split("\t") for line in self.out.splitlines()]

    @property
    def faults(self) -> list[str]:
        return os.fsdecode(self.err).splitlines()


def md5(data: bytes) -> str:
    return hashlib.md5(data).hexdigest()


@pytest.fixture
def client(s3_server: str) -> Any:
    return plain_client(s3_server, Keys())


@pytest.fixture
def bucket(client: Any) -> str:
    return new_bucket(client)


@pytest.fixture
def cli(tmp_path: Path, s3_server: str, bucket: str) -> Cli:
    return Cli(tmp_path, {"S3_ENDPOINT": s3_server, "BUCKET_BASE": bucket})


@pytest.fixture
def origin() -> Iterator[Origin]:
    with Origin() as origin:
        yield origin


def file(directory: Path, name: str, data: bytes = b"bytes") -> str:
    path = directory / name
    path.write_bytes(data)
    return str(path)


# --- output


@pytest.mark.parametrize("options", [(), ("--jobs", "8")])
def test_a_file_a_url_a_file_url_and_a_failing_url_give_three_lines_and_one_error(
    options: tuple[str, ...], cli: Cli, bucket: str, client: Any, origin: Origin, tmp_path: Path
) -> None:
    path = file(tmp_path, "photo.png", PNG)
    url = origin.answer("/page", Reply(body=b"<html>", headers={"Content-Type": "text/html"}))
    failing = origin.url("/missing")
    file_url = "file://" + file(tmp_path, "text.txt", b"a text\n")

    result = cli(*options, path, url, failing, file_url)

    assert result.lines == [
        [path, md5(PNG), f"s3://{bucket}/{md5(PNG)}", "image/png"],
        [url, md5(b"<html>"), f"s3://{bucket}/{md5(b'<html>')}", "text/html"],
        [file_url, md5(b"a text\n"), f"s3://{bucket}/{md5(b'a text' + bytes([10]))}", "text/plain"],
    ]
    assert len(result.faults) == 1
    assert result.faults[0].startswith(f"md5s3stash: {failing}: ")
    assert result.status == 1
    assert client.get_object(Bucket=bucket, Key=md5(PNG))["Body"].read() == PNG


def test_json_tells_everything_of_what_was_stashed_and_of_what_failed(cli: Cli, bucket: str, tmp_path: Path) -> None:
    path = file(tmp_path, "photo.png", PNG)

    result = cli("--json", path, path, "missing")

    first, second, failed = (json.loads(line) for line in result.out.splitlines())
    assert first == {
        "url": path,
        "md5": md5(PNG),
        "s3_url": f"s3://{bucket}/{md5(PNG)}",
        "mime_type": "image/png",
        "dimensions": [2, 3],
        "outcome": "stored",
        "size_bytes": len(PNG),
    }
    assert second["outcome"] == "already there"
    assert failed == {
        "url": "missing",
        "error": {"type": "SourceNotFound", "message": "no such file", "retryable": False},
    }
    assert result.faults == ["md5s3stash: missing: no such file"]
    assert result.status == 1


def test_standard_input_takes_the_place_of_the_dash_and_names_may_be_any_bytes(cli: Cli, tmp_path: Path) -> None:
    names = [b"first", b"not utf-8 \xff\xfe", b"two\ttabs\t", "übung\u00a0\u2028x".encode(), b"-dash", b"last\\n"]
    for name in names:
        with open(os.path.join(os.fsencode(tmp_path), name), "wb") as stream:
            stream.write(name)

    result = cli("first", "-", "last\\n", stdin=b"\n".join([names[1], b"", names[2] + b"\r", names[3], names[4]]))

    assert result.out.split(b"\n")[:-1] == [
        b"\t".join((shown, md5(name).encode(), f"s3://{cli.environ['BUCKET_BASE']}/{md5(name)}".encode(), kind))
        for name, shown, kind in (
            (names[0], names[0], b"text/plain"),
            (names[1], names[1], b"text/plain"),
            (names[2], rb"two\ttabs\t", b"text/plain"),
            (names[3], "übung\u00a0\\u2028x".encode(), b"text/plain"),
            (names[4], names[4], b"text/plain"),
            (names[5], names[5], b"text/plain"),
        )
    ]
    assert (result.status, result.faults) == (0, [])


def test_a_name_with_a_line_break_stays_on_one_line_in_answers_and_errors(cli: Cli, tmp_path: Path) -> None:
    result = cli(file(tmp_path, "two\nlines"), "not\nthere")

    assert [line[0] for line in result.lines] == [f"{tmp_path}/two\\nlines"]
    assert result.faults == [r"md5s3stash: not\nthere: no such file"]


def test_a_long_list_is_answered_in_its_order_by_several_jobs(cli: Cli, tmp_path: Path) -> None:
    for number in range(150):
        file(tmp_path, str(number), f"content {number % 40}".encode())
    listed = "".join(f"{number}\n" for number in range(151)).encode()

    result = cli("--jobs", "8", "-", stdin=listed)

    assert [line[0] for line in result.lines] == [str(number) for number in range(150)]
    assert [line[1] for line in result.lines] == [md5(f"content {number % 40}".encode()) for number in range(150)]
    assert (result.status, result.faults) == (1, ["md5s3stash: 150: no such file"])


def test_an_answer_comes_before_the_next_line_of_standard_input(cli: Cli, tmp_path: Path) -> None:
    file(tmp_path, "a")
    with cli.start("--jobs", "4", "-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(b"a\n")
        process.stdin.flush()
        # If results waited for the rest of the list, the run would hang.
        assert process.stdout.readline().startswith(b"a\t")
        process.stdin.close()
        assert process.wait(SECONDS) == 0


def test_empty_standard_input_is_no_fault(cli: Cli) -> None:
    result = cli("-")

    assert (result.status, result.out, result.err) == (0, b"", b"")


def test_a_file_that_is_no_list_is_refused_before_it_fills_the_memory(cli: Cli) -> None:
    with open("/dev/zero", "rb") as endless, cli.start("-", stdin=endless) as process:
        try:
            out, err = process.communicate(timeout=SECONDS)
        finally:
            process.kill()
    result = Result(process.returncode, out, err)

    assert result.status == 2
    assert result.faults == ["md5s3stash: standard input is not a list of sources: a line exceeds 65536 bytes"]


# --- buckets and keys


def test_the_bucket_base_comes_from_the_option_the_environment_or_the_file_in_this_order(
    cli: Cli, client: Any, tmp_path: Path
) -> None:
    path = file(tmp_path, "a")
    option, variable, filed = (new_bucket(client) for _ in range(3))
    config = file(tmp_path, "c.toml", f'[stash]\nbucket_base = "{filed}/prefix"\n[spool]\ndir = "/x"\n'.encode())

    def place(*arguments: str, base: str) -> str:
        result = cli(path, "--config", config, *arguments, environ={"BUCKET_BASE": base})
        assert result.faults == []
        return result.lines[0][2].removesuffix(f"/{md5(b'bytes')}")

    assert place("-b", option, base=variable) == f"s3://{option}"
    # Without a value, the option and the scheme use their defaults.
    assert place("-s", "-b", base=variable) == f"s3://{variable}"
    assert place("-b", "", base="") == f"s3://{filed}/prefix"


def test_the_old_name_of_a_scheme_stores_into_the_bucket_of_the_shard(
    cli: Cli, client: Any, bucket: str, tmp_path: Path
) -> None:
    shard = f"{md5_to_bucket_shard(md5(PNG))}.{bucket}"
    client.create_bucket(Bucket=shard)

    result = cli("-s", "multivalue", file(tmp_path, "a", PNG))

    assert [line[2] for line in result.lines] == [f"s3://{shard}/{md5(PNG)}"]
    assert client.get_object(Bucket=shard, Key=md5(PNG))["ContentType"] == "image/png"


def test_each_of_several_bucket_bases_gets_a_copy_and_a_line(cli: Cli, client: Any, tmp_path: Path) -> None:
    one, two = new_bucket(client), new_bucket(client)

    result = cli("-b", f"{one},{two}/p", file(tmp_path, "a"), "missing")

    assert [line[2] for line in result.lines] == [f"s3://{one}/{md5(b'bytes')}", f"s3://{two}/p/{md5(b'bytes')}"]
    assert len(result.faults) == 1


def test_what_the_settings_say_to_an_origin_is_sent(cli: Cli, origin: Origin, tmp_path: Path) -> None:
    headers = tmp_path / "headers"
    headers.write_text(f"{origin.url('/')} X-Api-Key: k3y\n")
    headers.chmod(0o600)
    settings = {"MD5S3STASH_FETCH_CONTACT": "a@museum.example", "MD5S3STASH_FETCH_HEADERS_FILE": str(headers)}

    result = cli(origin.answer("/x", Reply(body=b"x")), "--loglevel", "DEBUG", environ=settings)

    assert result.status == 0
    assert origin.requests[0].headers["x-api-key"] == "k3y"
    assert "; a@museum.example)" in origin.requests[0].headers["user-agent"]
    assert b"k3y" not in result.out + result.err


def test_a_bucket_that_is_not_there_is_one_line_for_each_source(cli: Cli, tmp_path: Path) -> None:
    result = cli("-b", "no-such-bucket-here", file(tmp_path, "a"), environ={"S3_ENDPOINT": cli.environ["S3_ENDPOINT"]})

    assert (result.status, len(result.faults), result.out) == (1, 1, b"")


def test_a_server_that_checks_credentials_takes_those_of_the_environment(
    cli: Cli, rclone_s3: RcloneS3, tmp_path: Path
) -> None:
    keys = Keys.of(rclone_s3)
    bucket = new_bucket(plain_client(rclone_s3.endpoint, keys))
    environ = {"S3_ENDPOINT": rclone_s3.endpoint, "BUCKET_BASE": bucket, "AWS_ACCESS_KEY_ID": keys.access_key}

    right = cli(file(tmp_path, "a"), environ=environ | {"AWS_SECRET_ACCESS_KEY": keys.secret_key})
    wrong = cli(file(tmp_path, "a"), environ=environ | {"AWS_SECRET_ACCESS_KEY": SECRET})

    assert (right.status, right.faults) == (0, [])
    assert (rclone_s3.directory / bucket / md5(b"bytes")).read_bytes() == b"bytes"
    assert (wrong.status, len(wrong.faults)) == (1, 1)
    assert SECRET.encode() not in wrong.err


# --- errors


def test_every_fault_of_the_arguments_and_settings_is_told_at_once_one_line_each(cli: Cli, tmp_path: Path) -> None:
    config = file(tmp_path, "c.toml", b"[stash]\nbucket_bsae = 1\n[fetch]\nmax_bytes = 0\n")

    arguments = ["x", "-t", "/nowhere", "--loglevel", "loud", "--jobs", "0", "-p", SECRET, "-s", "shared"]
    result = cli(*arguments, "--config", config)

    assert result.status == 2
    assert result.out == b""
    expected = [
        "--loglevel 'loud' is not one of: ",
        "--tempdir '/nowhere' is not a directory",
        "--jobs '0': a whole number from 1 to 64",
        "-p needs -u",
        "stash.bucket_bsae is not a setting: did you mean bucket_base?",
        "stash.bucket_scheme: the bucket scheme 'shared' is not one of: simple, multibucket",
        "fetch.max_bytes: a whole number",
    ]
    assert len(result.faults) == len(expected)
    for told, start in zip(result.faults, expected, strict=True):
        assert told.startswith(f"md5s3stash: {start}")


def test_settings_that_only_show_when_used_are_told_together_too(cli: Cli) -> None:
    result = cli("x", "-b", "a b,s3://c", environ={"S3_ENDPOINT": ":/", "REDIS_URL": f"redis://:{SECRET}/@host"})

    assert [line.split(" ")[1] for line in result.faults] == ["the", "the", "S3_ENDPOINT", "REDIS_URL"]
    assert SECRET.encode() not in result.err
    assert result.status == 2


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        ([], "the following arguments are required: url"),
        (["--no-such-option", "x"], "unrecognized arguments: --no-such-option"),
        (["x", "--no\nsuch"], "unrecognized arguments: --no\\nsuch"),
        (["x", "-t"], "argument -t/--tempdir: expected one argument"),
        (["x", "-b", "b", "--jobs", "abc"], "--jobs 'abc': a whole number from 1 to 64 is needed"),
        (["x", "-b"], "BUCKET_BASE is not set"),
        (["x", "-b", "b", "--config", "/nowhere"], "/nowhere: there is no such settings file"),
        (["x", "-b", "b", "--netrc", "/nowhere"], "--netrc /nowhere: there is no such file"),
    ],
)
def test_a_wrong_call_is_one_line_and_exit_2(arguments: list[str], told: str, tmp_path: Path) -> None:
    result = Cli(tmp_path, {})(*arguments)

    assert (result.status, result.out, len(result.faults)) == (2, b"", 1)
    assert result.faults[0].startswith(f"md5s3stash: {told}")


# --- exit


@pytest.mark.parametrize("jobs", ["1", "4"])
def test_an_interrupt_ends_the_run_soon_with_130(jobs: str, cli: Cli, origin: Origin, tmp_path: Path) -> None:
    dripping = origin.answer("/drip", origin.drip(b"HTTP/1.1 200 OK\r\n\r\n"))
    with cli.start("--jobs", jobs, file(tmp_path, "a"), dripping, dripping, "-") as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            assert process.stdout.readline().endswith(b"\ttext/plain\n")
            wait_until(lambda: len(origin.requests) >= 1, "the slow origin asked")
            started = time.monotonic()
            process.send_signal(signal.SIGINT)
            assert process.wait(SECONDS) == 130
            assert time.monotonic() - started < 10
            assert process.stderr.read() == b"md5s3stash: interrupted: the sources printed so far are stashed\n"
        finally:
            process.kill()


def test_a_reader_that_has_seen_enough_ends_the_run_without_a_word(cli: Cli, tmp_path: Path) -> None:
    file(tmp_path, "a")
    with cli.start("-") as process:
        assert process.stdin is not None
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdin.write(b"a\n" * 20)
        process.stdin.flush()
        assert process.stdout.readline().startswith(b"a\t")
        process.stdout.close()
        process.stdin.write(b"a\n" * 20)
        process.stdin.flush()
        # Standard input stays open: the exit must not wait for it.
        assert process.wait(SECONDS) == 1
        assert process.stderr.read() == b""


def test_output_that_cannot_be_written_is_one_line(cli: Cli, tmp_path: Path) -> None:
    with open("/dev/full", "wb") as full:
        result = cli(file(tmp_path, "a"), "a", stdout=full)

    assert result.status == 1
    assert result.faults == ["md5s3stash: standard output cannot be written: No space left on device"]


def test_standard_streams_that_are_closed_do_no_harm(cli: Cli, client: Any, bucket: str, tmp_path: Path) -> None:
    def close_all() -> None:
        for descriptor in range(3):
            os.close(descriptor)

    with cli.start(file(tmp_path, "a"), "missing", "-", preexec_fn=close_all) as process:
        assert process.wait(SECONDS) == 1

    assert client.get_object(Bucket=bucket, Key=md5(b"bytes"))["Body"].read() == b"bytes"


def test_a_temporary_disk_that_is_full_fails_one_source_and_says_what_helps(
    cli: Cli, origin: Origin, tmp_path: Path
) -> None:
    large = origin.answer("/large", Reply(body=bytes(IN_MEMORY_BYTES + 1)))

    result = cli(
        "-t",
        str(tmp_path),
        large,
        file(tmp_path, "a"),
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 20, 1 << 20)),
    )

    assert len(result.lines) == 1
    assert result.faults == [
        f"md5s3stash: {large}: File too large: downloads go through {tmp_path}, choose a larger disk with -t"
    ]
    assert result.status == 1
    assert sorted(path.name for path in tmp_path.iterdir() if path.name.startswith("md5s3")) == []


# --- help, version, warnings


HEAVY = {"boto3", "botocore", "requests", "urllib3", "PIL", "pycurl", "redis", "tqdm", "magic"}


@pytest.mark.parametrize("option", ["--help", "--version"])
def test_help_and_version_import_nothing_heavy(option: str, tmp_path: Path) -> None:
    code = (
        "import sys\nfrom md5s3stash.cli import main\ntry: main()\n"
        f"finally: print(sorted({HEAVY!r} & set(sys.modules)), file=sys.stderr)"
    )
    environ = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    done = subprocess.run(
        [sys.executable, "-c", code, option], env=environ, capture_output=True, timeout=SECONDS, check=False, text=True
    )

    assert (done.returncode, done.stderr) == (0, "[]\n")
    if option == "--version":
        assert re.fullmatch(r"md5s3stash (\d\S*|\(not installed\))\n", done.stdout)
    else:
        for word in ("-b ", "-s ", "-t ", "-w,", "-u ", "-p ", "--bucket_base", "--bucket_scheme", "--tempdir",
                     "--warnings", "--loglevel", "--username", "--password", "--jobs", "--json", "--netrc",
                     "multivalue", "examples:", "BUCKET_BASE", "exit status"):  # fmt: skip
            assert word in done.stdout, word


def test_redis_and_requests_are_imported_only_where_they_are_used(cli: Cli, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    file(hook, "sitecustomize.py", b"import atexit, sys\natexit.register(lambda: print(sorted(sys.modules)))\n")

    result = cli(file(tmp_path, "a"), environ={"PYTHONPATH": f"{hook}:{REPOSITORY}"})

    assert result.status == 0
    assert b"'botocore'" in result.out
    assert b"'redis'" not in result.out
    assert b"'requests'" not in result.out
    assert b"'tqdm'" not in result.out


def test_deprecation_warnings_show_with_w_alone(cli: Cli, tmp_path: Path) -> None:
    hook = tmp_path / "hook"
    hook.mkdir()
    lines = b"import atexit, warnings\natexit.register(lambda: warnings.warn('old ways', DeprecationWarning))\n"
    file(hook, "sitecustomize.py", lines)
    environ = {"PYTHONPATH": f"{hook}:{REPOSITORY}"}

    shown = cli("-w", file(tmp_path, "a"), environ=environ)
    hidden = cli(file(tmp_path, "a"), environ=environ)

    assert b"DeprecationWarning: old ways" in shown.err
    assert hidden.err == b""


# --- passwords


def guarded(request: Request) -> Reply:
    return Reply(body=b"guarded") if request.headers.get("authorization") == BASIC else Reply(401)


@pytest.fixture
def secure(tmp_path: Path, cli: Cli) -> Iterator[Origin]:
    """An https origin with Basic authentication and a certificate that the command trusts."""
    authority = Authority(tmp_path)
    cli.environ["REQUESTS_CA_BUNDLE"] = str(authority.ca_file)
    with Origin("localhost", tls=authority.server_context("localhost")) as origin:
        origin.answer("/a", guarded)
        yield origin


def from_option(cli: Cli) -> list[str]:
    return ["-u", "curator", "-p", SECRET]


def from_variable(cli: Cli) -> list[str]:
    cli.environ["MD5S3STASH_PASSWORD"] = SECRET
    return ["-u", "curator"]


def from_named_netrc(cli: Cli) -> list[str]:
    path = file(cli.directory, "secrets", f"machine localhost login curator password {SECRET}\n".encode())
    os.chmod(path, 0o600)
    return ["--netrc", path]


def from_default_netrc(cli: Cli) -> list[str]:
    path = file(cli.directory, ".netrc", f"machine localhost login curator password {SECRET}\n".encode())
    os.chmod(path, 0o600)
    return ["-u", "curator"]


@pytest.mark.parametrize("options", [from_option, from_variable, from_named_netrc, from_default_netrc])
def test_a_password_opens_an_https_origin_and_shows_nowhere(
    options: Callable[[Cli], list[str]], cli: Cli, secure: Origin, tmp_path: Path
) -> None:
    # Above the memory limit boto3 sends it, and boto3 logs credentials.
    large = file(tmp_path, "large", bytes(IN_MEMORY_BYTES + 1))
    cli.environ["AWS_SECRET_ACCESS_KEY"] = "aws-s3cret"

    result = cli("--loglevel", "DEBUG", "--jobs", "2", *options(cli), secure.url("/a"), large, secure.url("/missing"))

    assert [line[1] for line in result.lines] == [md5(b"guarded"), md5(bytes(IN_MEMORY_BYTES + 1))]
    shown = result.out + result.err
    assert b"DEBUG:md5s3stash.stash:stashed" in shown
    for secret in (SECRET, BASIC.removeprefix("Basic "), "aws-s3cret", "Authorization", "AWS4"):
        assert secret.encode() not in shown
    assert result.status == 1


def test_without_the_password_the_origin_says_no(cli: Cli, secure: Origin) -> None:
    result = cli(secure.url("/a"))

    assert (result.status, len(result.faults)) == (1, 1)
    assert "401" in result.faults[0]


def test_a_password_never_goes_over_http(cli: Cli, origin: Origin) -> None:
    url = origin.answer("/a", guarded)

    result = cli("-u", "curator", "-p", SECRET, url, url.replace("//", f"//curator:{SECRET}@"), "--json")

    assert origin.requests == []
    assert [json.loads(line)["error"]["type"] for line in result.out.splitlines()] == ["SourceRefused"] * 2
    assert "use https" in result.faults[0]
    assert SECRET.encode() not in result.out + result.err


def test_a_netrc_file_that_is_broken_or_open_to_others_is_told_without_its_password(cli: Cli, tmp_path: Path) -> None:
    path = file(tmp_path, ".netrc", f"machine localhost login curator password {SECRET} {SECRET}\n".encode())
    os.chmod(path, 0o644)
    open_to_others = cli("-u", "curator", "https://localhost/")
    os.chmod(path, 0o600)
    broken = cli("-u", "curator", "https://localhost/")

    assert open_to_others.faults == [
        "md5s3stash: ~/.netrc holds passwords and is open to other users: chmod 600 ~/.netrc"
    ]
    assert broken.faults == ["md5s3stash: ~/.netrc cannot be read as a netrc file in line 2"]
    assert (open_to_others.status, broken.status) == (2, 2)


# --- redis


def test_the_caches_in_redis_are_filled_and_answer_the_second_time(
    cli: Cli, bucket: str, origin: Origin, redis_server: str
) -> None:
    def versioned(request: Request) -> Reply:
        unchanged = request.headers.get("if-none-match") == '"v1"'
        return Reply(304) if unchanged else Reply(body=PNG, headers={"ETag": '"v1"', "Content-Type": "image/png"})

    url = origin.answer("/a", versioned)
    cli.environ |= {"REDIS_URL": redis_server, "MD5S3STASH_REDIS_PREFIX": bucket}

    first = cli("--json", url)
    with redis.Redis.from_url(redis_server) as client:
        url_cache: Any = client.hgetall(f"{bucket}:url_cache")
        hash_cache: Any = client.hgetall(f"{bucket}:hash_cache")
    second = cli("--json", url)

    assert json.loads(url_cache[url.encode()]) == {"md5": md5(PNG), "If-None-Match": '"v1"'}
    assert json.loads(hash_cache[md5(PNG).encode()]) == [f"s3://{bucket}/{md5(PNG)}", "image/png", [2, 3]]
    assert [request.headers.get("if-none-match") for request in origin.requests] == [None, '"v1"']
    told, again = json.loads(first.out), json.loads(second.out)
    assert (told.pop("outcome"), again.pop("outcome")) == ("stored", "known")
    assert (told.pop("size_bytes"), again.pop("size_bytes")) == (len(PNG), None)
    assert told == again


def test_a_redis_that_is_down_costs_a_warning_and_no_stash(cli: Cli, tmp_path: Path) -> None:
    path = file(tmp_path, "a")

    result = cli(path, path, environ={"REDIS_URL": f"redis://:{SECRET}@127.0.0.1:{free_port()}/0"})

    assert result.status == 0
    assert len(result.lines) == 2
    assert len(result.faults) == 1
    assert "nothing is looked up or recorded in this run: Redis does not answer" in result.faults[0]
    assert SECRET.encode() not in result.err


@pytest.mark.parametrize("options", [(), ("-w",), ("--loglevel", "INFO")], ids=str)
def test_nothing_that_pillow_says_of_pictures_reaches_standard_error(
    cli: Cli, tmp_path: Path, bucket: str, options: tuple[str, ...]
) -> None:
    paths = []
    for number, (_, data) in enumerate(odd_metadata.noisy()):
        paths.append(tmp_path / f"{number}.picture")
        paths[-1].write_bytes(data)
    assert len(paths) > 50

    done = cli(*options, *map(str, paths), "-b", bucket, environ={"PYTHONWARNINGS": "default::UserWarning"})

    assert (done.status, done.err) == (0, b"")
