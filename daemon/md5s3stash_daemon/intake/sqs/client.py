"""An SQS client with the few calls that the daemon needs; with notices/sns.py the only importer of boto3 in the daemon.

SQS delivers at least once: a message may come twice, to two boxes, even after it was deleted. Callers must handle this.
"""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from botocore.parsers import ResponseParserError

from md5s3stash.errors import QueueError, QueueRefused, QueueUnavailable, SettingsError

if TYPE_CHECKING:
    # A fifth of the daemon's start, which a daemon without a queue need not pay for.
    from boto3 import Session as Session

# Limits of SQS: messages per request, and how long a message can stay invisible, counted from its receipt.
BATCH = 10
MAX_INVISIBLE_SECONDS = 12 * 3600
# How long a message can stay in a queue.
MAX_RETENTION_SECONDS = 14 * 86_400

_CONNECT_SECONDS = 10.0
# In addition to the time that SQS waits for a message.
_ANSWER_SECONDS = 15.0
_MAX_WAIT_SECONDS = 20.0

_AMAZON = re.compile(r"(?:sqs\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d)(?:\.queue)?\.amazonaws\.com(?:\.cn)?")
_ERRORS = (ClientError, BotoCoreError, ResponseParserError, RuntimeError)


@dataclass(frozen=True, slots=True)
class Message:
    """One delivery of a message. `id` names the message, `receipt` the delivery; `deliveries` includes this one."""

    id: str
    receipt: str
    body: str
    sent_seconds: float
    deliveries: int


@dataclass(frozen=True, slots=True)
class QueueFacts:
    """Attributes of the queue. `max_deliveries` is None if it has no redrive policy."""

    max_deliveries: int | None
    messages: int


class Queue:
    """Safe to share between threads. Each call raises a QueueError if SQS fails."""

    def __init__(self, client: Any, url: str) -> None:
        self._client = client
        self._url = url

    def facts(self) -> QueueFacts:
        names = ["RedrivePolicy", "ApproximateNumberOfMessages"]
        with self._translating():
            answer = self._client.get_queue_attributes(QueueUrl=self._url, AttributeNames=names)
            found = _of_sqs(answer).get("Attributes", {})
            policy = json.loads(found.get("RedrivePolicy") or "{}")
            most = policy.get("maxReceiveCount")
            return QueueFacts(int(most) if most else None, int(found.get("ApproximateNumberOfMessages", 0)))

    def receive(self, most: int, wait_seconds: float, visibility_seconds: float) -> list[Message]:
        """Up to `most` messages (at most BATCH); waits up to `wait_seconds` if there are none."""
        with self._translating():
            answer = self._client.receive_message(
                QueueUrl=self._url,
                MaxNumberOfMessages=most,
                WaitTimeSeconds=int(wait_seconds),
                VisibilityTimeout=int(visibility_seconds),
                # The old name of the parameter: AWS still accepts it, and emulators know it.
                AttributeNames=["SentTimestamp", "ApproximateReceiveCount"],
            )
            return [_message(found) for found in _of_sqs(answer).get("Messages", [])]

    def delete(self, receipts: Sequence[str]) -> None:
        """Deletes at most BATCH messages. One that SQS no longer knows counts as deleted."""
        entries = [{"Id": str(number), "ReceiptHandle": receipt} for number, receipt in enumerate(receipts)]
        with self._translating():
            answer = self._client.delete_message_batch(QueueUrl=self._url, Entries=entries)
        _refuse_passing(_of_sqs(answer))

    def set_visibility(self, receipts: Sequence[tuple[str, float]]) -> None:
        """Hides at most BATCH deliveries from other consumers, each for its number of seconds from now."""
        entries = [
            {"Id": str(number), "ReceiptHandle": receipt, "VisibilityTimeout": int(min(seconds, MAX_INVISIBLE_SECONDS))}
            for number, (receipt, seconds) in enumerate(receipts)
        ]
        with self._translating():
            answer = self._client.change_message_visibility_batch(QueueUrl=self._url, Entries=entries)
        _refuse_passing(_of_sqs(answer))

    def send(self, bodies: Sequence[str]) -> list[str]:
        """Sends up to BATCH messages; returns those to retry. Raises QueueRefused if SQS will never accept one."""
        entries = [{"Id": str(number), "MessageBody": body} for number, body in enumerate(bodies)]
        with self._translating():
            answer = self._client.send_message_batch(QueueUrl=self._url, Entries=entries)
        failed = _of_sqs(answer).get("Failed", [])
        for each in failed:
            if each.get("SenderFault"):
                raise QueueRefused(f"SQS rejected a message: {each.get('Code')}")
        return [bodies[int(each["Id"])] for each in failed]

    @contextlib.contextmanager
    def _translating(self) -> Iterator[None]:
        try:
            yield
        except ClientError as error:
            raise _answered(error) from error
        except _ERRORS as error:
            raise QueueUnavailable(f"SQS does not answer: {error}") from error
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError) as error:
            raise QueueUnavailable(f"SQS sent an unexpected response: {type(error).__name__}: {error}") from error


def connect_queue(url: str, session: Session, max_connections: int = 16) -> Queue:
    """The queue at a URL as printed by `aws sqs get-queue-url`. Sends no request. Raises SettingsError."""
    parts = urlsplit(url)
    amazon = _AMAZON.fullmatch(parts.hostname or "")
    config = Config(
        retries={"mode": "standard", "total_max_attempts": 3},
        connect_timeout=_CONNECT_SECONDS,
        read_timeout=_MAX_WAIT_SECONDS + _ANSWER_SECONDS,
        max_pool_connections=max_connections,
    )
    try:
        client = session.client(
            "sqs",
            # From the URL: with the configured region, a queue of another region would not be found.
            region_name=amazon["region"] if amazon else (session.region_name or "us-east-1"),
            endpoint_url=None if amazon else f"{parts.scheme}://{parts.netloc}",
            config=config,
        )
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"cannot create an SQS client from the AWS settings: {error}") from error
    return Queue(client, url)


def _of_sqs(answer: dict[str, Any]) -> dict[str, Any]:
    """The answer. Raises QueueUnavailable for a web page: a network's login page, for example, answers everything with
    200, which botocore takes for an empty answer.
    """
    headers = answer.get("ResponseMetadata", {}).get("HTTPHeaders", {})
    if "html" in headers.get("content-type", ""):
        raise QueueUnavailable("queue.url is not SQS but a web page")
    return answer


def _message(found: dict[str, Any]) -> Message:
    attributes = found.get("Attributes", {})
    return Message(
        id=found["MessageId"],
        receipt=found["ReceiptHandle"],
        body=found["Body"],
        sent_seconds=int(attributes.get("SentTimestamp", 0)) / 1000,
        deliveries=int(attributes.get("ApproximateReceiveCount", 1)),
    )


def _refuse_passing(answer: dict[str, Any]) -> None:
    """Raises QueueUnavailable if a retry may complete the batch. A sender fault is an expired receipt: another consumer
    has the message, or it is gone.
    """
    failed = [each for each in answer.get("Failed", []) if not each.get("SenderFault")]
    if failed:
        raise QueueUnavailable(f"SQS rejected {len(failed)} messages of a batch: {failed[0].get('Code')}")


def _answered(error: ClientError) -> QueueError:
    status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
    code = str(error.response.get("Error", {}).get("Code", ""))
    passing = status >= 500 or status in (408, 429) or "Throttl" in code or "RequestTimeout" in code
    kind = QueueUnavailable if passing else QueueRefused
    return kind(f"SQS answered {status} {code}{_hint(code)}")


def _hint(code: str) -> str:
    if "NonExistentQueue" in code or "QueueDoesNotExist" in code:
        return ": there is no such queue: correct queue.url"
    if "AccessDenied" in code:
        return (
            ": the role needs sqs:ReceiveMessage, sqs:DeleteMessage, sqs:ChangeMessageVisibility, sqs:SendMessage and "
            "sqs:GetQueueAttributes"
        )
    return ""
