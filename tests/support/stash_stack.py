"""The stack of aws/template.yaml, as most tests want it."""

from __future__ import annotations

from tests.support.cloudformation import Stack, read_template

SHARED_LEDGER = {
    "LedgerUrl": "rediss://stash@ledger.example.org:6379/0",
    "LedgerSecretArn": "arn:aws:secretsmanager:us-west-2:123456789012:secret:ledger-AbCdEf",
}


def stack(**parameters: str) -> Stack:
    """With everything switched on that parameters switch on, but for the shared ledger."""
    given = {
        "BucketName": "BUCKET",
        "KeyPrefix": "PREFIX",
        "ThumbnailerOptions": "--quality=85",
        "ThumbnailerSecretName": "/md5s3stash/thumbnailer",
        "WebP": "best",
    }
    known = {
        "Bucket": "BUCKET",
        "SpoolVolume": "vol-0123456789abcdef0",
        "SpoolAddress.AllocationId": "eipalloc-0123456789abcdef0",
    }
    return Stack(read_template("template.yaml"), {**given, **parameters}, known)
