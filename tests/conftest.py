"""Fixtures of all tests: worthless credentials for every test, and real servers on request."""

from __future__ import annotations

import contextlib
import gc
import importlib
import os
import signal
from collections.abc import Iterator

import pytest

from tests.support import cannot_run_here, fast_sqs, needs_namespaces, servers, which_chromium

_CREDENTIAL_VARIABLES = ("AWS_PROFILE", "AWS_SESSION_TOKEN", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3")
_SETTINGS_PREFIXES = ("MD5S3STASH_", "BUCKET_", "S3_ENDPOINT", "REDIS_URL", "SPOOL_DIR", "DATA_DIR")


def pytest_configure(config: pytest.Config) -> None:
    # Of what a collection makes nothing is garbage: to look for it took a tenth of the time.
    gc.disable()
    for plugin in (cannot_run_here, needs_namespaces, which_chromium):
        config.pluginmanager.register(plugin)
    # A shell starts background commands with SIGINT ignored, and every program that a test starts would inherit that.
    if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
        signal.signal(signal.SIGINT, signal.default_int_handler)


@pytest.hookimpl(tryfirst=True)
def pytest_collection(session: pytest.Session) -> None:
    """In a run of all tests, imports a share of their modules first: the processes compile each module once together,
    instead of each all of them.
    """
    config = session.config
    worker = getattr(config, "workerinput", None)
    if worker is None or config.args_source is not pytest.Config.ArgsSource.TESTPATHS:
        return
    left_out = config.getini("norecursedirs")
    modules = sorted(
        path for path in config.rootpath.glob("tests/*/test_*.py") if not any(map(path.parent.match, left_out))
    )
    for path in modules[int(worker["workerid"].removeprefix("gw")) :: worker["workercount"]]:
        # The collection reports the error.
        with contextlib.suppress(Exception):
            importlib.import_module(".".join(path.relative_to(config.rootpath).with_suffix("").parts))


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Slow tests start first, a share in each process: one that started last would run alone at the end."""
    # pytest-xdist gives each process an equal slice of the list; other processes steal only from its end.
    processes = getattr(config, "workerinput", {}).get("workercount", 1)
    slow = [item for item in items if item.get_closest_marker("slow")]
    others = [item for item in items if not item.get_closest_marker("slow")]
    items.clear()
    for process in range(processes):
        items += slow[process::processes]
        items += others[len(others) * process // processes : len(others) * (process + 1) // processes]


def pytest_collection_finish() -> None:
    gc.enable()


@pytest.fixture(autouse=True)
def aws_environment(monkeypatch: pytest.MonkeyPatch, tmp_path_factory: pytest.TempPathFactory) -> None:
    """No test uses the user's own account, profile or metadata service."""
    nowhere = tmp_path_factory.getbasetemp() / "nowhere"
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "testing")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "testing")
    monkeypatch.setenv("AWS_DEFAULT_REGION", "us-east-1")
    monkeypatch.setenv("AWS_EC2_METADATA_DISABLED", "true")
    monkeypatch.setenv("AWS_CONFIG_FILE", str(nowhere / "config"))
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(nowhere / "credentials"))
    for name in _CREDENTIAL_VARIABLES:
        monkeypatch.delenv(name, raising=False)
    # The servers of the tests are on loopback, which a proxy cannot reach.
    for name in ("no_proxy", "NO_PROXY"):
        monkeypatch.setenv(name, "127.0.0.1,localhost")


@pytest.fixture(autouse=True)
def no_settings_from_outside(monkeypatch: pytest.MonkeyPatch) -> None:
    """A BUCKET_BASE exported in the user's shell must not affect tests."""
    for name in [name for name in os.environ if name.startswith(_SETTINGS_PREFIXES)]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="session")
def redis_server() -> Iterator[str]:
    """The URL of one redis-server for the whole run; a test that needs an empty one flushes it first."""
    with servers.directory_in_memory() as directory, servers.redis_server(directory) as url:
        yield url


@pytest.fixture(scope="session")
def s3_server() -> Iterator[str]:
    """The endpoint URL of moto's S3, which honours If-None-Match and accepts any keys. A test makes its own bucket."""
    with servers.moto_s3() as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def rclone_s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[servers.RcloneS3]:
    """rclone's S3, which checks credentials and Content-MD5. A test makes its own bucket."""
    with servers.rclone_s3(tmp_path_factory.mktemp("rclone")) as server:
        yield server


@pytest.fixture(scope="session")
def quick_sqs(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The endpoint URL of our own small SQS, for more messages than moto can handle. A test makes its own queue."""
    with fast_sqs.fast_sqs(tmp_path_factory.mktemp("sqs")) as endpoint:
        yield endpoint
