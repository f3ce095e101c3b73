"""The first boot of a box on EC2: the volume, the address, the secrets; and its metrics for CloudWatch and its signal
to CloudFormation."""

from __future__ import annotations

import datetime
import http.server
import os
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import parse_qsl

import boto3
import pytest
import redis
from moto import mock_aws

from aws.image import box_secrets, spool_metrics, spool_volume, stack_signal
from md5s3stash.settings import RedisSettings, load
from md5s3stash_daemon.config.settings import SECTIONS, UrlSettings
from md5s3stash_daemon.monitoring.metrics import Metrics
from md5s3stash_daemon.spool.spool import Spool
from tests.support.http_server import HttpServer
from tests.support.servers import free_port, redis_answers, wait_until


@pytest.fixture(scope="module")
def ec2() -> Iterator[Any]:
    with pytest.MonkeyPatch.context() as patch, mock_aws():
        # moto's catalogue of images takes seconds to load.
        patch.setenv("MOTO_EC2_LOAD_DEFAULT_AMIS", "false")
        yield boto3.client("ec2", "us-east-1", aws_access_key_id="testing", aws_secret_access_key="testing")


def launch(ec2: Any) -> str:
    return str(ec2.run_instances(ImageId="ami-12c6146b", MinCount=1, MaxCount=1)["Instances"][0]["InstanceId"])


def new_volume(ec2: Any) -> str:
    return str(ec2.create_volume(AvailabilityZone="us-east-1a", Size=10)["VolumeId"])


def holder(ec2: Any, volume: str) -> str:
    return str(ec2.describe_volumes(VolumeIds=[volume])["Volumes"][0]["Attachments"][0]["InstanceId"])


def never(_: float) -> None:
    raise AssertionError("there was nothing to wait for")


def test_a_box_takes_the_volume_and_finds_at_the_next_boot_that_it_has_it(ec2: Any) -> None:
    box, volume = launch(ec2), new_volume(ec2)

    spool_volume.attach(ec2, volume, box, wait=never)
    spool_volume.attach(ec2, volume, box, wait=never)

    assert holder(ec2, volume) == box


def test_a_new_box_waits_until_the_one_before_lets_go_of_the_volume(ec2: Any) -> None:
    before, box, volume = launch(ec2), launch(ec2), new_volume(ec2)
    spool_volume.attach(ec2, volume, before, wait=never)
    waits = []

    def let_go(seconds: float) -> None:
        waits.append(seconds)
        if len(waits) == 2:
            ec2.detach_volume(VolumeId=volume, InstanceId=before)

    spool_volume.attach(ec2, volume, box, wait=let_go)

    assert holder(ec2, volume) == box


def test_a_box_that_never_gets_the_volume_says_who_has_it(ec2: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    before, box, volume = launch(ec2), launch(ec2), new_volume(ec2)
    spool_volume.attach(ec2, volume, before, wait=never)
    monkeypatch.setattr(spool_volume, "WAIT_SECONDS", 0.0)

    with pytest.raises(spool_volume.VolumeError, match=before):
        spool_volume.attach(ec2, volume, box, wait=lambda _: None)


def test_the_address_moves_to_the_new_box(ec2: Any) -> None:
    before, box = launch(ec2), launch(ec2)
    address = ec2.allocate_address(Domain="vpc")["AllocationId"]
    spool_volume.take_address(ec2, address, before)

    spool_volume.take_address(ec2, address, box)

    assert ec2.describe_addresses(AllocationIds=[address])["Addresses"][0]["InstanceId"] == box


def test_the_address_moves_last(monkeypatch: pytest.MonkeyPatch) -> None:
    # Then producers can connect: they must find an open spool and known host keys.
    done: list[str] = []
    monkeypatch.setattr(spool_volume, "INSTANCE_ID", Path(__file__))
    monkeypatch.setattr(boto3, "client", lambda _: None)
    steps = ("attach", "wait_for_disk", "mount", "keep_host_keys", "apply_producers", "take_address")
    for step in steps:
        monkeypatch.setattr(spool_volume, step, lambda *_, step=step: done.append(step))

    assert spool_volume.main({"SPOOL_VOLUME_ID": "vol-1", "SPOOL_ADDRESS_ID": "eipalloc-1"}) == 0
    assert done == list(steps)


def test_a_disk_with_anything_on_it_is_not_formatted(tmp_path: Path) -> None:
    blank, used = tmp_path / "blank", tmp_path / "used"
    blank.write_bytes(bytes(spool_volume.BLANK_BYTES))
    used.write_bytes(bytes(1080) + b"\x53\xef" + bytes(spool_volume.BLANK_BYTES))

    assert spool_volume.is_blank(blank)
    assert not spool_volume.is_blank(used)


def test_host_keys_stay_the_same_from_box_to_box(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    (tmp_path / "systemctl").write_text("#!/bin/sh\n")
    (tmp_path / "systemctl").chmod(0o755)
    kept, first, second = tmp_path / "kept", tmp_path / "first", tmp_path / "second"
    for box in (first, second):
        box.mkdir()
        (box / "ssh_host_ed25519_key").write_text(box.name)
        (box / "ssh_host_ed25519_key").chmod(0o600)

    spool_volume.keep_host_keys(kept, first)
    spool_volume.keep_host_keys(kept, second)

    key = second / "ssh_host_ed25519_key"
    assert key.read_text() == "first"
    assert stat.S_IMODE(key.stat().st_mode) == 0o600


def test_a_box_whose_settings_name_nothing_asks_for_nothing() -> None:
    assert spool_volume.main({}) == 0
    assert box_secrets.main({"THUMBNAILER_SECRET_NAME": "", "LEDGER_URL": "", "LEDGER_SECRET_ARN": ""}) == 0
    assert spool_metrics.main({"METRICS_STACK": ""}) == 0
    assert stack_signal.main({"SIGNAL_STACK": "", "SIGNAL_RESOURCE": ""}) == 0


# --- secrets ----------------------------------------------------------------------------------------------------------


def is_for_its_owner_alone(file: Path) -> bool:
    return stat.S_IMODE(file.stat().st_mode) == 0o600 and list(file.parent.iterdir()) == [file]


def test_the_thumbnailers_options_reach_the_credential_store_for_root_alone(tmp_path: Path) -> None:
    credential = tmp_path / "credstore" / "thumbnailer.conf"
    with mock_aws():
        ssm = boto3.client("ssm", region_name="us-east-1")
        ssm.put_parameter(Name="/md5s3stash/t", Type="SecureString", Value='client_key = "secret"')

        assert box_secrets.main({"THUMBNAILER_SECRET_NAME": "/md5s3stash/t"}, thumbnailer_options=credential) == 0

    assert credential.read_text() == 'client_key = "secret"\n'
    assert is_for_its_owner_alone(credential)


def test_the_password_of_the_ledger_reaches_the_daemons_settings_for_root_alone(tmp_path: Path) -> None:
    file = tmp_path / "md5s3stash-aws" / "stack.env"
    with mock_aws():
        secrets = boto3.client("secretsmanager", region_name="us-east-1")
        arn = secrets.create_secret(Name="ledger", SecretString="a/pass@word\n")["ARN"]
        wanted = {"LEDGER_URL": "rediss://stash@ledger.example.org:6379/0", "LEDGER_SECRET_ARN": arn}

        assert box_secrets.main(wanted, daemon_environment=file) == 0

    name, _, url = file.read_text().rstrip("\n").partition("=")
    settings = load(SECTIONS, {name: url, "BUCKET_BASE": "bucket"}, None)
    assert settings[RedisSettings].url == "rediss://stash:a%2Fpass%40word@ledger.example.org:6379/0"
    assert redis.Redis.from_url(url).get_connection_kwargs()["password"] == "a/pass@word"
    assert is_for_its_owner_alone(file)


def test_settings_that_come_with_the_stack_reach_the_daemon_after_the_url_of_the_ledger(tmp_path: Path) -> None:
    file = tmp_path / "md5s3stash-aws" / "stack.env"
    with mock_aws():
        arn = boto3.client("secretsmanager", "us-east-1").create_secret(Name="fleet-ledger", SecretString="secret")[
            "ARN"
        ]
        text = "MD5S3STASH_URLS_ATTEMPTS=9\nMD5S3STASH_FETCH_MAX_BYTES=5000000000\n"
        boto3.client("ssm", "us-east-1").put_parameter(Name="/md5s3stash/fleet", Type="String", Value=text)
        wanted = {"LEDGER_URL": "rediss://stash@ledger.example.org:6379/0", "LEDGER_SECRET_ARN": arn}

        assert box_secrets.main({**wanted, "SETTINGS_NAME": "/md5s3stash/fleet"}, daemon_environment=file) == 0

    told = dict(line.split("=", 1) for line in file.read_text().splitlines())
    settings = load(SECTIONS, {**told, "BUCKET_BASE": "bucket"}, None)
    assert settings[RedisSettings].url == "rediss://stash:secret@ledger.example.org:6379/0"
    assert settings[UrlSettings].attempts == 9
    assert is_for_its_owner_alone(file)


@pytest.mark.parametrize(
    "wanted",
    [
        {"SETTINGS_NAME": "/md5s3stash/none"},
        {"THUMBNAILER_SECRET_NAME": "/md5s3stash/none"},
        {"LEDGER_URL": "rediss://stash@ledger.example.org:6379/0", "LEDGER_SECRET_ARN": "/md5s3stash/none"},
    ],
)
def test_a_secret_that_is_not_there_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], wanted: dict[str, str]
) -> None:
    with mock_aws():
        status = box_secrets.main(wanted, tmp_path / "options", tmp_path / "environment")

    assert status == 1
    assert "/md5s3stash/none" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


# --- the signal to CloudFormation -------------------------------------------------------------------------------------

ACCEPTED = (
    "<SignalResourceResponse><ResponseMetadata><RequestId>x</RequestId></ResponseMetadata></SignalResourceResponse>"
)
ERROR = (
    "<ErrorResponse><Error><Type>Sender</Type><Code>{code}</Code><Message>{message}</Message></Error></ErrorResponse>"
)
NO_UPDATE = ERROR.format(code="ValidationError", message="stack is in UPDATE_COMPLETE state and can not be signaled")
NO_RIGHT = ERROR.format(code="AccessDenied", message="is not authorized to perform: cloudformation:SignalResource")


class BoxAndCloudFormation(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        states = self.server.owner.states  # type: ignore[attr-defined]
        self.answer(states.pop(0) if len(states) > 1 else states[0], "")

    def do_POST(self) -> None:
        owner = self.server.owner  # type: ignore[attr-defined]
        asked = self.rfile.read(int(self.headers["Content-Length"])).decode()
        owner.signals.append(dict(parse_qsl(asked)))
        text = owner.answers.pop(0) if len(owner.answers) > 1 else owner.answers[0]
        self.answer(200 if text == ACCEPTED else 400, text)

    def answer(self, status: int, text: str) -> None:
        self.send_response(status)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text.encode())

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class Around(HttpServer):
    """/healthz has these states, and CloudFormation gives these answers, the last of each from then on."""

    def __init__(self, states: list[int], answers: list[str]) -> None:
        self.states, self.answers, self.signals = states, answers, list[dict[str, str]]()
        super().__init__(BoxAndCloudFormation)


@pytest.fixture
def instance_id(tmp_path: Path) -> Path:
    file = tmp_path / "instance-id"
    file.write_text("i-0123456789abcdef0\n")
    return file


def signal(around: Around, instance_id: Path, monkeypatch: pytest.MonkeyPatch) -> int:
    monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{around.port}")
    told = {
        "SIGNAL_STACK": "arn:aws:cloudformation:us-east-1:123456789012:stack/stash/51af3dc0",
        "SIGNAL_RESOURCE": "SpoolGroup",
        "HEALTH_URL": f"http://127.0.0.1:{around.port}/healthz",
    }
    return stack_signal.main(told, instance_id, wait=lambda _: None)


def test_a_box_signals_once_it_has_been_healthy_for_a_while(instance_id: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Around([503, 503, 200, 200, 503, 200], [ACCEPTED]) as around:
        assert signal(around, instance_id, monkeypatch) == 0

    (told,) = around.signals
    assert told["StackName"] == "arn:aws:cloudformation:us-east-1:123456789012:stack/stash/51af3dc0"
    assert (told["Action"], told["LogicalResourceId"]) == ("SignalResource", "SpoolGroup")
    assert (told["UniqueId"], told["Status"]) == ("i-0123456789abcdef0", "SUCCESS")


@pytest.mark.parametrize("states", [[503], [200] * 6 + [503]], ids=["never", "not for long"])
def test_a_box_that_is_not_healthy_never_signals_and_says_why(
    instance_id: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], states: list[int]
) -> None:
    monkeypatch.setattr(stack_signal, "WAIT_SECONDS", 0.2)
    with Around(states, [ACCEPTED]) as around:
        assert signal(around, instance_id, monkeypatch) == 1

    assert around.signals == []
    assert "/healthz is not healthy: " in capsys.readouterr().err


def test_a_box_whose_program_does_not_answer_never_signals(
    instance_id: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(stack_signal, "WAIT_SECONDS", 0.0)
    around = Around([200], [ACCEPTED])
    around.close()

    assert signal(around, instance_id, monkeypatch) == 1
    assert "Connection refused" in capsys.readouterr().err


def test_outside_an_update_the_refusal_is_logged_and_is_no_error(
    instance_id: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with Around([200], [NO_UPDATE]) as around:
        assert signal(around, instance_id, monkeypatch) == 0

    printed = capsys.readouterr()
    assert len(around.signals) == len(printed.out.splitlines()) == 1
    assert "can not be signaled" in printed.out
    assert printed.err == ""


def test_a_right_that_comes_late_is_waited_for(instance_id: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Around([200], [NO_RIGHT, NO_RIGHT, ACCEPTED]) as around:
        assert signal(around, instance_id, monkeypatch) == 0

    assert len(around.signals) == 3


def test_a_right_that_never_comes_is_an_error_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    with Around([200], [NO_RIGHT]) as around:
        monkeypatch.setenv("AWS_ENDPOINT_URL_CLOUDFORMATION", f"http://127.0.0.1:{around.port}")
        with pytest.raises(TimeoutError, match="not authorized"):
            stack_signal.send("stash", "SpoolGroup", "i-1", deadline=0.0, wait=never)


# --- metrics for CloudWatch -------------------------------------------------------------------------------------------


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        self.send_response(200)
        self.end_headers()
        self.wfile.write(self.server.owner.text)  # type: ignore[attr-defined]

    def log_message(self, format: str, *arguments: object) -> None:
        pass


class S3IsDown:
    def faults(self) -> dict[str, str]:
        return {"s3": "no answer from the store"}


class DaemonsPage(HttpServer):
    """Serves the metrics of a daemon on this spool while S3 is unavailable."""

    def __init__(self, spool: Spool) -> None:
        metrics = Metrics()
        metrics.watch_spool(spool, S3IsDown())
        self.text = metrics.exposition()
        super().__init__(Page)


def test_cloudwatch_is_told_what_the_daemon_says_of_its_spool(tmp_path: Path) -> None:
    spool = Spool(tmp_path / "spool")
    spool.create()
    (tmp_path / "spool/failed/scan.tif").write_bytes(b"no picture")
    with DaemonsPage(spool) as page, mock_aws():
        status = spool_metrics.main({"METRICS_STACK": "stash"}, f"http://127.0.0.1:{page.port}/metrics")

        cloudwatch = boto3.client("cloudwatch", region_name="us-east-1")
        told = cloudwatch.list_metrics(Namespace="md5s3stash")["Metrics"]
        now = datetime.datetime.now(datetime.UTC)
        span = {"StartTime": now - datetime.timedelta(hours=1), "EndTime": now + datetime.timedelta(hours=1)}
        values = {
            metric["MetricName"]: cloudwatch.get_metric_statistics(
                **metric, Period=7200, Statistics=["Maximum"], **span
            )["Datapoints"][0]["Maximum"]
            for metric in told
        }

    assert status == 0
    assert {dimension["Value"] for metric in told for dimension in metric["Dimensions"]} == {"stash"}
    assert values.keys() == {name for name, _ in (*spool_metrics.FIGURES, spool_metrics.LEAST_FREE)}
    assert (values["FailedFiles"], values["IncomingFiles"], values["Paused"]) == (1, 0, 1)
    assert values["FreeDisk"] > 0
    assert 0 < values["LeastFree"] <= 100
    assert 0 < values["Uptime"] < datetime.datetime.now(datetime.UTC).timestamp() / 2


@pytest.mark.parametrize(("available", "percent"), [(40, 4.0), (1000, None)], ids=["memory", "root disk"])
def test_the_scarcer_of_root_disk_and_memory_is_told(tmp_path: Path, available: int, percent: float | None) -> None:
    meminfo = tmp_path / "meminfo"
    meminfo.write_text(f"MemTotal: 1000 kB\nMemFree: 1 kB\nMemAvailable: {available} kB\nHugePages_Total: 0\n")
    disk = os.statvfs(tmp_path)
    free = 100 * disk.f_bavail / disk.f_blocks

    told = spool_metrics.least_free_percent(tmp_path, meminfo)

    assert told == pytest.approx(min(free, percent or 100), abs=1)


def test_redis_counts_by_the_memory_that_it_may_use(tmp_path: Path) -> None:
    meminfo, socket = tmp_path / "meminfo", tmp_path / "redis.sock"
    meminfo.write_text("MemTotal: 1000 kB\nMemAvailable: 1000 kB\n")
    options = ("--port", "0", "--save", "", "--dir", tmp_path, "--unixsocket", socket)
    with subprocess.Popen(["redis-server", *map(str, options)], stdout=subprocess.DEVNULL) as process:
        try:
            server = redis.Redis(unix_socket_path=str(socket))
            wait_until(lambda: socket.exists() and redis_answers(server), "redis answers")
            without_limit = spool_metrics.redis_share(socket)
            server.set("md5s3stash:x", "x" * 50_000_000)
            server.config_set("maxmemory", 52_000_000)
            almost_full = spool_metrics.least_free_percent(tmp_path, meminfo, socket)
        finally:
            process.terminate()

    assert without_limit == spool_metrics.redis_share(tmp_path / "gone.sock") == 1.0
    assert 0 <= almost_full < 5


def test_nothing_is_told_of_a_daemon_that_does_not_answer(capsys: pytest.CaptureFixture[str]) -> None:
    with mock_aws():
        status = spool_metrics.main({"METRICS_STACK": "silent"}, f"http://127.0.0.1:{free_port()}/metrics")

        told = boto3.client("cloudwatch", region_name="us-east-1").list_metrics(Namespace="md5s3stash")["Metrics"]
        assert {"Name": "Stack", "Value": "silent"} not in [
            dimension for each in told for dimension in each["Dimensions"]
        ]

    assert status == 1
    assert "cannot send metrics to CloudWatch" in capsys.readouterr().err
