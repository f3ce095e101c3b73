"""Emulates the appliance's surroundings in Amazon's cloud: S3, IAM and STS with enforced permissions (moto), and
version 2 of the metadata service.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import boto3
import requests
from moto.server import ThreadedMotoServer

from tests.acceptance.network import AROUND, BOX, LATE_BOX, METADATA, THUMBNAIL_BOX
from tests.support.policies import for_moto, policy_document
from tests.support.stores import Keys, plain_client

S3_PORT = 5000
BUCKET, OTHER_BUCKET = "the-stash", "somebody-elses"
# The role of each box, by its address. A role has the name of its policy document in aws/.
ROLES = {BOX: "policy-spool", THUMBNAIL_BOX: "policy-thumbnails", LATE_BOX: "policy-spool"}
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
_TOKEN = "X-aws-ec2-metadata-token"
_ROLE_PATH = "/latest/meta-data/iam/security-credentials/"
_ENDPOINT = f"http://{AROUND}:{S3_PORT}"

Credentials = Mapping[str, Any]


class MetadataService:
    """Gives each box the credentials of its role if it sends a token; counts requests with and without one.

    `only_first_version` is for the sabotage: there are no tokens then, and none is needed. No box has a role while
    `has_roles` is false.
    """

    def __init__(self, credentials: Mapping[str, Credentials], only_first_version: bool = False) -> None:
        self.with_token = 0
        self.without_token = 0
        self.has_roles = True
        self._tokens: set[str] = set()
        self._credentials = credentials
        self._only_first_version = only_first_version

    def put(self) -> tuple[int, str]:
        """Status and body of a request for a token."""
        if self._only_first_version:
            return 404, ""
        token = secrets.token_urlsafe()
        self._tokens.add(token)
        return 200, token

    def get(self, address: str, path: str, token: str | None) -> tuple[int, str]:
        """Status and body of any other request."""
        if token in self._tokens:
            self.with_token += 1
        else:
            self.without_token += 1
            if not self._only_first_version:
                return 401, ""
        if not self.has_roles:
            return 404, ""
        if path == _ROLE_PATH:
            return 200, ROLES[address]
        return (200, self._document(address)) if path == _ROLE_PATH + ROLES[address] else (404, "")

    def _document(self, address: str) -> str:
        credentials = self._credentials[address]
        ends = time.gmtime(time.time() + 6 * 3600)
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": credentials["AccessKeyId"],
                "SecretAccessKey": credentials["SecretAccessKey"],
                "Token": credentials["SessionToken"],
                "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", ends),
            }
        )


@dataclass(slots=True)
class Cloud:
    """The emulators, in threads of this process."""

    metadata: MetadataService
    _credentials: Mapping[str, Credentials] = field(repr=False)
    _server: ThreadedMotoServer = field(repr=False)

    def s3_of(self, address: str) -> Any:
        """An S3 client with the credentials of the box at that address."""
        keys = self._credentials[address]
        session = boto3.Session(keys["AccessKeyId"], keys["SecretAccessKey"], keys["SessionToken"], "us-east-1")
        return session.client("s3", endpoint_url=_ENDPOINT)

    def objects(self) -> Mapping[str, str]:
        """Key and ETag of all objects in the bucket, without checks of permissions."""
        from moto.s3.models import s3_backends

        keys = s3_backends["123456789012"]["aws"].buckets[BUCKET].keys
        # Copy first: boxes write concurrently.
        return {key: keys[key].etag.strip('"') for key in list(keys)}

    @contextlib.contextmanager
    def s3_away(self) -> Iterator[None]:
        """Closes S3's port during the context. Its objects stay."""
        self._server.stop()
        try:
            yield
        finally:
            self._server = _start_moto()


@contextlib.contextmanager
def cloud(more_rights: Sequence[str] = (), only_first_metadata_version: bool = False) -> Iterator[Cloud]:
    """The emulators, on the addresses that network.py gave to this process. The sabotage gives each role more
    permissions than its document, for all resources.
    """
    server = _start_moto()
    owner = plain_client(_ENDPOINT, Keys())
    for bucket in (BUCKET, OTHER_BUCKET):
        owner.create_bucket(Bucket=bucket)
    of_role = {role: _credentials_of(role, more_rights) for role in set(ROLES.values())}
    credentials = {address: of_role[role] for address, role in ROLES.items()}
    # From now on IAM checks every call.
    requests.post(f"{_ENDPOINT}/moto-api/reset-auth", data="0", timeout=10).raise_for_status()
    metadata = MetadataService(credentials, only_first_metadata_version)
    surroundings = Cloud(metadata, credentials, server)
    with _serving(metadata):
        try:
            yield surroundings
        finally:
            surroundings._server.stop()


def _start_moto() -> ThreadedMotoServer:
    server = ThreadedMotoServer(AROUND, S3_PORT, verbose=False)
    server.start()
    return server


def _credentials_of(role: str, more_rights: Sequence[str]) -> Credentials:
    document = policy_document(role, BUCKET)
    if more_rights:
        document["Statement"].append({"Effect": "Allow", "Action": [*more_rights], "Resource": "*"})
    session = Keys().session()
    iam = session.client("iam", endpoint_url=_ENDPOINT)
    made = iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps(_TRUST))["Role"]
    iam.put_role_policy(RoleName=role, PolicyName="rights", PolicyDocument=for_moto(document))
    sts = session.client("sts", endpoint_url=_ENDPOINT)
    credentials: Credentials = sts.assume_role(RoleArn=made["Arn"], RoleSessionName=role)["Credentials"]
    return credentials


@contextlib.contextmanager
def _serving(metadata: MetadataService) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(*metadata.put())

        def do_GET(self) -> None:
            self._answer(*metadata.get(self.client_address[0], self.path, self.headers.get(_TOKEN)))

        def _answer(self, status: int, body: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, format: str, *arguments: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer((METADATA, 80), Handler)
    thread = threading.Thread(target=server.serve_forever, name="metadata", daemon=True)
    thread.start()
    try:
        yield
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
