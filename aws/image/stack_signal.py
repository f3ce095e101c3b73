"""Signals CloudFormation that this box is healthy, so that the update of its group continues with the next box.

A box that is not healthy sends nothing: CloudFormation waits, then rolls the update back. Does nothing on a box whose
settings name no stack. Outside an update CloudFormation refuses the signal; that is logged and is not an error.
"""

from __future__ import annotations

import http.client
import os
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from pathlib import Path

import boto3
from botocore.exceptions import BotoCoreError, ClientError

INSTANCE_ID = Path("/var/lib/cloud/data/instance-id")
# As long as CloudFormation waits: Timeout and PauseTime of the groups in aws/template.yaml and aws/fleet.yaml.
WAIT_SECONDS = 900.0
POLL_SECONDS = 5.0
# A program that dies again and again is healthy for a moment.
HEALTHY_ANSWERS = 7

_ANSWER_SECONDS = 10.0
# No proxy knows the way to loopback.
_OPENER = urllib.request.build_opener(urllib.request.ProxyHandler({}))

Wait = Callable[[float], None]


def main(environment: Mapping[str, str] = os.environ, instance_id: Path = INSTANCE_ID, wait: Wait = time.sleep) -> int:
    """0 if CloudFormation accepted or refused the signal, or if no stack is named; 1 after a timeout."""
    stack, resource = environment.get("SIGNAL_STACK"), environment.get("SIGNAL_RESOURCE")
    if not stack or not resource:
        return 0
    deadline = time.monotonic() + WAIT_SECONDS
    try:
        wait_until_healthy(environment["HEALTH_URL"], deadline, wait)
        send(stack, resource, instance_id.read_text().strip(), deadline, wait)
    except (TimeoutError, OSError) as error:
        print(f"no signal to CloudFormation for {resource} of {stack}: {error}", file=sys.stderr)
        return 1
    return 0


def wait_until_healthy(url: str, deadline: float, wait: Wait) -> None:
    """Returns after several healthy answers in a row. Raises TimeoutError with the last one."""
    healthy = 0
    while healthy < HEALTHY_ANSWERS:
        problem = problem_at(url)
        healthy = 0 if problem else healthy + 1
        if time.monotonic() > deadline:
            raise TimeoutError(f"{url} is not healthy: {problem or 'not for long enough'}")
        wait(POLL_SECONDS)


def problem_at(url: str) -> str | None:
    """Why the program behind the URL is not healthy; None if it is."""
    try:
        with _OPENER.open(url, timeout=_ANSWER_SECONDS):
            return None
    except urllib.error.HTTPError as error:
        with error:
            return str(error)
    except (OSError, http.client.HTTPException) as error:
        return str(error)


def send(stack: str, resource: str, instance_id: str, deadline: float, wait: Wait) -> None:
    """Retries until the deadline: the role of a new stack takes effect some time after the box. Raises TimeoutError."""
    while True:
        try:
            boto3.client("cloudformation").signal_resource(
                StackName=stack, LogicalResourceId=resource, UniqueId=instance_id, Status="SUCCESS"
            )
            print(f"signalled CloudFormation: {resource} of {stack} is healthy")
            return
        except (BotoCoreError, ClientError) as error:
            if is_refused(error):
                print(f"CloudFormation waits for no signal: {error}")
                return
            if time.monotonic() > deadline:
                raise TimeoutError(str(error)) from error
        wait(POLL_SECONDS)


def is_refused(error: BotoCoreError | ClientError) -> bool:
    """Whether the stack is not being created or updated."""
    return isinstance(error, ClientError) and error.response["Error"]["Code"] == "ValidationError"


if __name__ == "__main__":
    raise SystemExit(main())
