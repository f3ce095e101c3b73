"""The roles' rights, enforced: what the programs call is allowed, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import boto3
import pytest
import requests
from botocore.exceptions import ClientError

from md5s3stash.content import Content
from md5s3stash.digest import digest_of
from md5s3stash.objectstore import ObjectStore, PutOutcome
from md5s3stash.s3 import S3Limits, connect
from md5s3stash.s3_list import Lister
from md5s3stash.scheme import BucketBase
from tests.support import servers
from tests.support.stores import Keys, content_of, new_bucket, plain_client

AWS = Path(__file__).resolve().parents[2] / "aws"
PREFIX = "stash/"
PARTS_FROM = 6 * 1024 * 1024
TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}

Assume = Callable[[str], Keys]


@pytest.fixture(scope="module")
def endpoint() -> Iterator[str]:
    """A server of its own: for moto, the enforcement of rights is a switch of the whole server."""
    with servers.moto_s3() as url:
        yield url


@pytest.fixture(scope="module")
def bucket(endpoint: str) -> str:
    return new_bucket(plain_client(endpoint, Keys()))


@pytest.fixture(scope="module")
def other_bucket(endpoint: str) -> str:
    return new_bucket(plain_client(endpoint, Keys()))


def policy_for(name: str, bucket: str, prefix: str) -> str:
    """A policy document of aws/ for one bucket, as docs/deploy.md has sed make it."""
    return (AWS / name).read_text().replace("BUCKET", bucket).replace("PREFIX", prefix)
