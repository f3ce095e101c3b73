"""SQS queues on moto's server, each with a dead-letter queue; and the settings of a daemon that consumes one."""

from __future__ import annotations

import json
import uuid
from collections.abc import Sequence
from typing import Any

import boto3

from tests.support.url_lists import OPEN


class TestQueue:
    """A queue of the test, as its producer and its operator see it."""

    __test__ = False

    def __init__(self, endpoint: str, max_deliveries: int = 20) -> None:
        self.client: Any = boto3.client(
            "sqs",
            endpoint_url=endpoint,
            region_name="us-east-1",
            aws_access_key_id="testing",
            aws_secret_access_key="testing",
        )
        name = f"queue-{uuid.uuid4().hex[:12]}"
        self._dead = self.client.create_queue(QueueName=f"{name}-dead")["QueueUrl"]
        arn = self.client.get_queue_attributes(QueueUrl=self._dead, AttributeNames=["QueueArn"])["Attributes"][
            "QueueArn"
        ]
        policy = json.dumps({"deadLetterTargetArn": arn, "maxReceiveCount": max_deliveries})
        self.url = self.client.create_queue(QueueName=name, Attributes={"RedrivePolicy": policy})["QueueUrl"]
        self.arn = arn.removesuffix("-dead")

    def environment(self, **settings: str) -> dict[str, str]:
        """With short delays; `settings` are keys of [queue]."""
        quick = {"url": self.url, "wait_seconds": "1", "visibility_seconds": "4"}
        return {**OPEN, **{f"MD5S3STASH_QUEUE_{key}".upper(): value for key, value in {**quick, **settings}.items()}}

    def send(self, *bodies: str) -> None:
        for at in range(0, len(bodies), 10):
            entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies[at : at + 10])]
            self.client.send_message_batch(QueueUrl=self.url, Entries=entries)

    def counts(self) -> tuple[int, int]:
        """(visible messages, messages in progress)"""
        names = ["ApproximateNumberOfMessages", "ApproximateNumberOfMessagesNotVisible"]
        found = self.client.get_queue_attributes(QueueUrl=self.url, AttributeNames=names)["Attributes"]
        return int(found[names[0]]), int(found[names[1]])

    def is_empty(self) -> bool:
        return self.counts() == (0, 0)

    def bodies(self) -> list[str]:
        """Removes and returns all messages of the queue."""
        return self._take_all(self.url)

    def dead(self) -> list[str]:
        """Removes and returns all messages of the dead-letter queue."""
        return sorted(self._take_all(self._dead))

    def _take_all(self, url: str) -> list[str]:
        bodies: list[str] = []
        while found := self.client.receive_message(QueueUrl=url, MaxNumberOfMessages=10).get("Messages", []):
            bodies += [message["Body"] for message in found]
            entries = [{"Id": message["MessageId"], "ReceiptHandle": message["ReceiptHandle"]} for message in found]
            self.client.delete_message_batch(QueueUrl=url, Entries=entries)
        return bodies


def object_created(bucket: str, *keys: str) -> str:
    """S3's notification; keys in S3's encoding."""
    records = [
        {"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": bucket}, "object": {"key": key, "size": 1}}}
        for key in keys
    ]
    return json.dumps({"Records": records})


def by_sns(message: str) -> str:
    """The message as an SNS topic forwards it."""
    return json.dumps({"Type": "Notification", "TopicArn": "arn:aws:sns:us-east-1:1:t", "Message": message})


def urls_of(log: Sequence[dict[str, str]]) -> list[str]:
    return sorted(entry["name"] for entry in log)
