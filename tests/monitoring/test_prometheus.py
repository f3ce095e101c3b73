"""Tests the rules and the dashboard of monitoring/ with a real Prometheus that scrapes the appliance of `make run`.
Part of `make acceptance`: it downloads Debian's package.
"""

from __future__ import annotations

import contextlib
import json
import re
import subprocess
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.ops.test_make_run import Appliance
from tests.support.servers import REPOSITORY, free_port, running, wait_until

ALERTS = REPOSITORY / "monitoring/alerts.yml"
DASHBOARD = json.loads((REPOSITORY / "monitoring/grafana.json").read_text())
PROGRAMS = REPOSITORY / "build/prometheus/usr/bin"
RULES = [rule for group in yaml.safe_load(ALERTS.read_text())["groups"] for rule in group["rules"]]
EXPRESSIONS = {
    **{rule["alert"]: rule["expr"] for rule in RULES},
    **{
        f"{panel['title']}, {target['refId']}": target["expr"].replace("$instance", ".*")
        for panel in DASHBOARD["panels"]
        for target in panel["targets"]
    },
}
_METRIC = re.compile(r"\b(?:md5s3stash|process)_\w+|\bup\b")
_SECONDS = 120


class Prometheus:
    """A running server, used by its HTTP API."""

    def __init__(self, port: int) -> None:
        self._api = f"http://127.0.0.1:{port}/api/v1/"

    def ask(self, path: str, **query: str) -> Any:
        with urllib.request.urlopen(f"{self._api}{path}?{urllib.parse.urlencode(query)}", timeout=30) as answer:
            return json.load(answer)["data"]

    def is_ready(self) -> bool:
        # It answers 503 while it loads its storage.
        with contextlib.suppress(urllib.error.HTTPError):
            return bool(self.ask("status/runtimeinfo"))
        return False

    def all_scraped(self) -> bool:
        targets = self.ask("targets")["activeTargets"]
        return len(targets) == 2 and all(target["health"] == "up" for target in targets)

    def rules_evaluated(self) -> bool:
        rules = [rule for group in self.ask("rules")["groups"] for rule in group["rules"]]
        return len(rules) == len(RULES) and all(rule["health"] == "ok" for rule in rules)


@pytest.fixture(scope="module")
def prometheus(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Prometheus]:
    directory = tmp_path_factory.mktemp("prometheus")
    subprocess.run([REPOSITORY / "tools/prometheus"], check=True, timeout=600)
    appliance = Appliance(directory / "data")
    appliance.start_and_wait()
    try:
        shown = re.search(r"http://\S+/clip/480x480/\w+", appliance.output)
        assert shown
        urllib.request.urlopen(shown[0], timeout=60).close()
        targets = {"md5s3stash": "METRICS_PORT", "md5s3stash-thumbnailer": "THUMBNAILER_PORT"}
        jobs = [
            {"job_name": job, "static_configs": [{"targets": [f"127.0.0.1:{appliance.ports[port]}"]}]}
            for job, port in targets.items()
        ]
        configuration = {
            "global": {"scrape_interval": "1s", "evaluation_interval": "1s"},
            "rule_files": [str(ALERTS)],
            "scrape_configs": jobs,
        }
        (directory / "prometheus.yml").write_text(yaml.safe_dump(configuration))
        port = free_port()
        command: list[str | Path] = [
            PROGRAMS / "prometheus",
            f"--config.file={directory}/prometheus.yml",
            f"--storage.tsdb.path={directory}/tsdb",
            f"--web.listen-address=127.0.0.1:{port}",
        ]
        with running(command, port, directory / "prometheus.log"):
            server = Prometheus(port)
            wait_until(server.is_ready, "Prometheus answers", _SECONDS)
            wait_until(server.all_scraped, "both programs are scraped", _SECONDS)
            wait_until(server.rules_evaluated, "all rules are evaluated", _SECONDS)
            yield server
    finally:
        appliance.stop()


def test_promtool_finds_each_alert_to_fire_and_to_be_quiet_when_it_should(prometheus: Prometheus) -> None:
    tested = yaml.safe_load((REPOSITORY / "monitoring/alerts.test.yml").read_text())["tests"]
    assert [test["name"] for test in tested] == [
        f"{rule['alert']} {state}" for rule in RULES for state in ("fires", "is quiet")
    ]
    for arguments in (["check", "rules", ALERTS], ["test", "rules", "alerts.test.yml"]):
        done = subprocess.run([PROGRAMS / "promtool", *arguments], cwd=ALERTS.parent, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr


def test_every_metric_of_rules_and_dashboard_is_one_that_the_programs_have(prometheus: Prometheus) -> None:
    scraped = set(prometheus.ask("label/__name__/values"))
    # Metrics of queues, provenance, fixity and notices, which are off, and counters by event name have no series yet.
    on_demand = {
        "md5s3stash_fixity_oldest_seconds",
        "md5s3stash_fixity_period_seconds",
        "md5s3stash_fixity_wrong",
        "md5s3stash_notices_oldest_seconds",
        "md5s3stash_provenance_age_seconds",
        "md5s3stash_queue_messages_total",
        "md5s3stash_thumbnailer_s3_errors_total",
    }
    named = {metric for expression in EXPRESSIONS.values() for metric in _METRIC.findall(expression)}
    assert len(named) > 20
    assert named - scraped <= on_demand
    documented = (REPOSITORY / "docs/metrics.md").read_text() + (REPOSITORY / "docs/thumbnails.md").read_text()
    assert {metric for metric in on_demand if f"`{metric}`" not in documented} == set()


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_every_expression_is_answered(name: str, prometheus: Prometheus) -> None:
    assert prometheus.ask("query", query=EXPRESSIONS[name])["resultType"] == "vector"


def test_no_alert_is_on_while_all_is_well(prometheus: Prometheus) -> None:
    assert [alert["labels"]["alertname"] for alert in prometheus.ask("alerts")["alerts"]] == []
