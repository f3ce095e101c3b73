"""What a group of boxes needs so that a broken image never replaces all of them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from aws.image import spool_metrics, stack_signal
from tests.support.cloudformation import Stack

HEALTH_OF_DAEMON = spool_metrics.METRICS_URL.replace("/metrics", "/healthz")
_STACK_ID = "arn:aws:cloudformation:us-west-2:123456789012:stack/stash/51af3dc0-da77-11e4-872e-1234567db123"


def assert_waits_for_signals(rolling_update: Mapping[str, Any]) -> None:
    """Box by box, each of which has to signal."""
    assert rolling_update["MaxBatchSize"] == 1
    assert rolling_update["WaitOnResourceSignals"] is True
    assert rolling_update["MinSuccessfulInstancesPercent"] == 100
    assert seconds_of(rolling_update["PauseTime"]) == stack_signal.WAIT_SECONDS


def assert_signals(stack: Stack, launch_template: str, role: str, group: str, health_url: str) -> None:
    """A box that is launched so signals for its group when it is healthy, and sends its journal; and may do both."""
    told = dict(line.split("=", 1) for line in stack.files(launch_template)["/etc/md5s3stash/aws.env"].splitlines())
    assert stack.resources[group]["Type"] == "AWS::AutoScaling::AutoScalingGroup"
    assert (told["SIGNAL_STACK"], told["SIGNAL_RESOURCE"]) == (_STACK_ID, group)
    assert told["HEALTH_URL"] == health_url

    statements = [
        statement
        for each in (*stack.policies(role).values(), *stack.managed_policies(role))
        for statement in each["Statement"]
    ]
    (resource,) = [each["Resource"] for each in statements if each["Action"] == "cloudformation:SignalResource"]
    assert resource == _STACK_ID
    (resource,) = [each["Resource"] for each in statements if "logs:PutLogEvents" in each["Action"]]
    assert (resource, told["LOG_GROUP"]) == ("LogGroup.Arn", "LogGroup")


def seconds_of(duration: str) -> int:
    """Of PT15M."""
    found = re.fullmatch(r"PT(\d+)M", duration)
    assert found, duration
    return int(found[1]) * 60
