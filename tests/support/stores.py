"""Object stores for tests: a new bucket on each kind of server, through each way of the adapter."""

from __future__ import annotations

import functools
import uuid
from dataclasses import dataclass
from typing import Any

import boto3
from botocore.config import Config

from md5s3stash.content import Content
from md5s3stash.digest import digest_of
from md5s3stash.objectstore import MemoryObjectStore, ObjectStore
from md5s3stash.s3.store import S3Limits, S3ObjectStore, connect
from md5s3stash.scheme import ObjectAddress
from tests.support.servers import RcloneS3


@dataclass(frozen=True, slots=True)
class Keys:
    """The credentials of a server."""

    access_key: str = "testing"
    secret_key: str = "testing"

    @classmethod
    def of(cls, server: RcloneS3) -> Keys:
        return cls(server.access_key, server.secret_key)

    def session(self) -> boto3.Session:
        return _session(self)


@functools.cache
def _session(keys: Keys) -> boto3.Session:
    # Cached: a new session reads the description of S3 from disk, which takes longer than most tests.
    return boto3.Session(keys.access_key, keys.secret_key, region_name="us-east-1")


@dataclass(frozen=True, slots=True)
class Bench:
    """A store, a bucket in it, and a boto3 client (None in memory) that bypasses the adapter."""

    store: ObjectStore
    bucket: str
    client: Any = None

    def address(self, content: Content, prefix: str = "") -> ObjectAddress:
        return ObjectAddress(self.bucket, prefix + content.digest.md5)


def content_of(data: bytes, declared_type: str | None = None) -> Content:
    return Content(digest_of(data), declared_type, data=data)


def new_bucket(client: Any) -> str:
    name = f"bucket-{uuid.uuid4().hex[:12]}"
    client.create_bucket(Bucket=name)
    return name


def plain_client(endpoint: str, keys: Keys) -> Any:
    """A boto3 client without retries, as a caller of the library may pass it."""
    config = Config(
        retries={"total_max_attempts": 1},
        s3={"addressing_style": "path"},
        # For stores that refuse the checksum headers that boto3 adds by default.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )
    return keys.session().client("s3", endpoint_url=endpoint, config=config)


@functools.lru_cache(maxsize=64)
def shared_client(endpoint: str, keys: Keys) -> Any:
    """One for all tests that only look at what is stored: to make a client takes longer than most requests."""
    return plain_client(endpoint, keys)


def memory_bench() -> Bench:
    return Bench(MemoryObjectStore(), "bucket")


def client_bench(endpoint: str, keys: Keys, limits: S3Limits | None = None) -> Bench:
    """The adapter on a caller's boto3 client."""
    client = plain_client(endpoint, keys)
    return Bench(S3ObjectStore(client, limits=limits), new_bucket(client), client)


def own_bench(endpoint: str, keys: Keys, limits: S3Limits | None = None) -> Bench:
    """The adapter on its own connection, with small bodies through libcurl."""
    client = shared_client(endpoint, keys)
    return Bench(connect(endpoint, keys.session(), limits), new_bucket(client), client)
