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


def for_moto(document: dict[str, Any]) -> str:
    """The document as moto's IAM needs it: S3 counts a HEAD of a bucket as s3:ListBucket, moto has a right for it that
    does not exist."""
    buckets = [
        {**statement, "Sid": "HeadBucket", "Action": "s3:HeadBucket"}
        for statement in document["Statement"]
        if statement["Action"] == "s3:ListBucket"
    ]
    return json.dumps({**document, "Statement": [*document["Statement"], *buckets]})
