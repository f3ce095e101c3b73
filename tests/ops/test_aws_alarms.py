"""Alarms and dashboards of all templates: alarms notify someone, and their metrics are published."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from aws.image import spool_metrics
from tests.support.cloudformation import Stack, read_template

TOPIC = {"template.yaml": "AlarmTopic", "fleet.yaml": "stash-AlarmTopic", "cloudfront-alarm.yaml": "AlarmTopic"}
STACKS = {name: Stack(read_template(name), {}, {}) for name in TOPIC}
ALARMS = [
    pytest.param(file, name, id=f"{file}: {name}")
    for file, stack in STACKS.items()
    for name in stack.of_type("AWS::CloudWatch::Alarm")
]
# It starts the first box and notifies no one.
NO_ALARM = "FirstMessageAlarm"


def queries(alarm: dict[str, Any]) -> Sequence[dict[str, Any]]:
    found: Sequence[dict[str, Any]] = alarm.get("Metrics", [])
    return found


def metrics_of(alarm: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Namespace, MetricName and Dimensions of an alarm's metrics."""
    if "MetricName" in alarm:
        yield alarm
    yield from (query["MetricStat"]["Metric"] for query in queries(alarm) if "MetricStat" in query)


def widgets() -> Iterator[dict[str, Any]]:
    for file in ("template.yaml", "fleet.yaml"):
        yield from json.loads(STACKS[file].properties("Dashboard")["DashboardBody"])["widgets"]


@pytest.mark.parametrize(("file", "name"), ALARMS)
def test_an_alarm_tells_somebody_when_it_begins_and_when_it_ends(file: str, name: str) -> None:
    alarm = STACKS[file].properties(name)

    actions = (alarm["AlarmActions"], alarm.get("OKActions"))
    assert actions == ((["FirstBox"], None) if name == NO_ALARM else ([TOPIC[file]], [TOPIC[file]]))


@pytest.mark.parametrize(("file", "name"), ALARMS)
def test_an_alarm_says_what_is_wrong_and_what_silence_means(file: str, name: str) -> None:
    alarm = STACKS[file].properties(name)

    assert alarm["AlarmDescription"].endswith((".", "?"))
    assert alarm["TreatMissingData"] in ("breaching", "notBreaching", "ignore")


@pytest.mark.parametrize(("file", "name"), ALARMS)
def test_the_figures_that_an_alarm_reckons_with_are_there(file: str, name: str) -> None:
    alarm = STACKS[file].properties(name)
    reckoned = [query["Expression"] for query in queries(alarm) if "Expression" in query]
    names = {query["Id"] for query in queries(alarm) if "Expression" not in query}

    assert len(reckoned) == (1 if names else 0)
    assert set(re.findall(r"\b[a-z]+\b", " ".join(reckoned))) == names
    assert all(query["ReturnData"] is False for query in queries(alarm) if "Expression" not in query)


def test_of_our_own_figures_alarms_and_dashboards_name_those_that_a_spool_tells() -> None:
    told = {name for name, _ in (*spool_metrics.FIGURES, spool_metrics.LEAST_FREE)}
    by_alarms = [
        metric
        for stack in STACKS.values()
        for alarm in stack.of_type("AWS::CloudWatch::Alarm").values()
        for metric in metrics_of(alarm)
        if metric["Namespace"] == spool_metrics.NAMESPACE
    ]
    shown = [line for widget in widgets() for line in widget["properties"]["metrics"] if line[0] == "md5s3stash"]

    assert {metric["MetricName"] for metric in by_alarms} == {
        "Paused",
        "FailedFiles",
        "FreeDisk",
        "OldestIncoming",
        "LeastFree",
        "Uptime",
    }
    assert {line[1] for line in shown} == told
    assert all(metric["Dimensions"] == [{"Name": "Stack", "Value": "stash"}] for metric in by_alarms)
    assert all(line[2:4] == ["Stack", "stash"] for line in shown)


@pytest.mark.parametrize("file", ["template.yaml", "fleet.yaml"])
def test_each_widget_of_a_dashboard_has_ground_of_its_own(file: str) -> None:
    body = json.loads(STACKS[file].properties("Dashboard")["DashboardBody"])
    cells = [
        (x, y)
        for widget in body["widgets"]
        for x in range(widget["x"], widget["x"] + widget["width"])
        for y in range(widget["y"], widget["y"] + widget["height"])
    ]

    assert len(set(cells)) == len(cells)
    assert all(x < 24 for x, _ in cells)


def test_what_cloudfront_says_is_looked_for_where_it_says_it() -> None:
    for widget in widgets():
        of_cloudfront = any(line[0] == "AWS/CloudFront" for line in widget["properties"]["metrics"])
        assert widget["properties"]["region"] == ("us-east-1" if of_cloudfront else "us-west-2")
