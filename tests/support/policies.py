"""The policy documents of aws/, for one bucket and an emulator that enforces them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

_AWS = Path(__file__).resolve().parents[2] / "aws"


def policy_document(name: str, bucket: str, prefix: str = "") -> dict[str, Any]:
    """`policy-spool` or `policy-thumbnails`, as docs/deploy.md has sed make it. The prefix is empty or ends in a
    slash."""
    text = (_AWS / f"{name}.json").read_text()
    document: dict[str, Any] = json.loads(text.replace("BUCKET", bucket).replace("PREFIX", prefix))
    return document


def queue_policy_document(queue_arn: str) -> dict[str, Any]:
    """What `policy-queue` allows on a queue."""
    document: dict[str, Any] = json.loads((_AWS / "policy-queue.json").read_text().replace("QUEUE_ARN", queue_arn))
    return document


# Of what AWS counts as one right, moto has several that do not exist: S3's HEAD of a bucket, SQS's requests for many.
_IN_MOTO = {
    "s3:ListBucket": ["s3:ListBucket", "s3:HeadBucket"],
    "sqs:DeleteMessage": ["sqs:DeleteMessage", "sqs:DeleteMessageBatch"],
    "sqs:ChangeMessageVisibility": ["sqs:ChangeMessageVisibility", "sqs:ChangeMessageVisibilityBatch"],
}


def for_moto(document: dict[str, Any]) -> str:
    """The document as moto's IAM needs it."""
    statements = []
    for statement in document["Statement"]:
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        known = [name for action in actions for name in _IN_MOTO.get(action, [action])]
        statements.append({**statement, "Action": known})
    return json.dumps({**document, "Statement": statements})
