"""The policy documents of aws/, adapted to one bucket and to an emulator that enforces them."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

_AWS = Path(__file__).resolve().parents[2] / "aws"


def policy_document(name: str, bucket: str, prefix: str = "") -> dict[str, Any]:
    """`policy-spool` or `policy-thumbnails`, as made by docs/deploy.md's sed. The prefix is empty or
    ends in a slash.
    """
    text = (_AWS / f"{name}.json").read_text()
    document: dict[str, Any] = json.loads(text.replace("BUCKET", bucket).replace("PREFIX", prefix))
    return document


def queue_policy_document(queue_arn: str) -> dict[str, Any]:
    """`policy-queue` for a queue."""
    document: dict[str, Any] = json.loads((_AWS / "policy-queue.json").read_text().replace("QUEUE_ARN", queue_arn))
    return document


# For some permissions of AWS, moto wants others that do not exist: for HEAD of a bucket, and for SQS batch requests.
_IN_MOTO = {
    "s3:ListBucket": ["s3:ListBucket", "s3:HeadBucket"],
    "sqs:DeleteMessage": ["sqs:DeleteMessage", "sqs:DeleteMessageBatch"],
    "sqs:ChangeMessageVisibility": ["sqs:ChangeMessageVisibility", "sqs:ChangeMessageVisibilityBatch"],
}


def for_moto(document: dict[str, Any]) -> str:
    """The document for moto's IAM, without conditional denials, which moto would always apply."""
    statements = []
    for statement in document["Statement"]:
        if statement["Effect"] == "Deny" and "Condition" in statement:
            continue
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        known = [name for action in actions for name in _IN_MOTO.get(action, [action])]
        statements.append({**statement, "Action": known})
    return json.dumps({**document, "Statement": statements})


def denies_put(statement: Mapping[str, Any], method: str, target: str, headers: Mapping[str, str]) -> bool:
    """Whether a policy statement denies a request that needs S3's `PutObject` permission, as parts do too.

    The condition keys follow AWS's documentation ("Enforce conditional writes on Amazon S3 buckets").
    """
    names = {name.lower(): value for name, value in headers.items()}
    query = parse_qs(urlsplit(target).query, keep_blank_values=True)
    known: dict[str, str | None] = {
        "s3:if-none-match": names.get("if-none-match"),
        "s3:x-amz-copy-source": names.get("x-amz-copy-source"),
        "s3:ObjectCreationOperation": str("partNumber" not in query and "uploads" not in query).lower(),
        "aws:SecureTransport": "true",
    }
    if statement["Effect"] != "Deny" or not {"s3:PutObject", "s3:*"} & {statement["Action"]} or method not in _PUTS:
        return False
    operators = {
        "Null": lambda key, wanted: (known[key] is None) == (wanted == "true"),
        "Bool": lambda key, wanted: known[key] == wanted,
    }
    conditions = statement["Condition"].items()
    return all(operators[name](key, wanted) for name, keys in conditions for key, wanted in keys.items())


_PUTS = ("PUT", "POST")
