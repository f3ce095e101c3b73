"""What stands in a bucket, by LIST alone: a thousand objects a request, and no object is read.

A part of the S3 adapter of its own, because whoever audits a bucket needs none of what stores contents.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import boto3
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.parsers import ResponseParserError

from md5s3stash.errors import SettingsError, StashError, StoreRefused, StoreUnavailable
from md5s3stash.s3 import parse_endpoint
from md5s3stash.s3_errors import store_error


class ListedObject(NamedTuple):
    """What a LIST tells: `etag` in lower case and without its quotes."""

    key: str
    size_bytes: int
    etag: str


class Lister:
    """Lists buckets, with the credentials of the ordinary boto3 chain.

    `endpoint` is what S3_ENDPOINT may be; see `s3.connect`. Raises SettingsError where it is neither host nor URL.
    """

    def __init__(self, endpoint: str | None = None) -> None:
        url, region = parse_endpoint(endpoint)
        config = Config(
            # A page that fails after hours of them would throw all away.
            retries={"mode": "standard", "total_max_attempts": 6},
            connect_timeout=10,
            read_timeout=60,
            s3={"addressing_style": "path"} if url else {},
        )
        try:
            self._client: Any = boto3.Session().client("s3", endpoint_url=url, region_name=region, config=config)
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"no S3 client can be made from the AWS settings: {error}") from error

    def pages(self, bucket: str, prefix: str = "") -> Iterator[list[ListedObject]]:
        """The objects whose keys begin with the prefix, in the order of their keys, a page at a time.

        Raises StoreUnavailable and StoreRefused.
        """
        try:
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=bucket, Prefix=prefix):
                yield [
                    ListedObject(found["Key"], found["Size"], found.get("ETag", "").strip('"').lower())
                    for found in page.get("Contents", [])
                ]
        except (ClientError, BotoCoreError, ResponseParserError) as error:
            raise _translated(error, f"s3://{bucket}/{prefix}") from error


def _translated(error: Exception, s3_url: str) -> StashError:
    if isinstance(error, ClientError):
        status = int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))
        return store_error(s3_url, status, str(error.response.get("Error", {}).get("Code", "")))
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return StoreRefused(f"{s3_url}: no AWS credentials were found")
    return StoreUnavailable(f"{s3_url}: no answer from the store: {error}")
