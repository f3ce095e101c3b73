"""What surrounds the appliance in Amazon's cloud, emulated: S3, IAM and STS with rights enforced (moto), and the second
version of the metadata service.
"""

from __future__ import annotations

import contextlib
import http.server
import json
import secrets
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import boto3
import requests
from moto.server import ThreadedMotoServer

from tests.acceptance.network import AROUND, METADATA
from tests.support.policies import for_moto, policy_document
from tests.support.stores import Keys, plain_client

S3_PORT = 5000
BUCKET, OTHER_BUCKET = "the-stash", "somebody-elses"
ROLE = "md5s3stash-spool"
_TRUST = {
    "Version": "2012-10-17",
    "Statement": [{"Effect": "Allow", "Principal": {"Service": "ec2.amazonaws.com"}, "Action": "sts:AssumeRole"}],
}
_TOKEN = "X-aws-ec2-metadata-token"
_ROLE_PATH = "/latest/meta-data/iam/security-credentials/"


class MetadataService:
    """Answers for the role's credentials, to whoever brings a token; counts those who bring none."""

    def __init__(self, credentials: Mapping[str, Any]) -> None:
        self.with_token = 0
        self.without_token = 0
        self._tokens: set[str] = set()
        self._credentials = credentials

    def new_token(self) -> str:
        token = secrets.token_urlsafe()
        self._tokens.add(token)
        return token

    def get(self, path: str, token: str | None) -> tuple[int, str]:
        """Status and body."""
        if token not in self._tokens:
            self.without_token += 1
            return 401, ""
        self.with_token += 1
        if path == _ROLE_PATH:
            return 200, ROLE
        return (200, self._document()) if path == _ROLE_PATH + ROLE else (404, "")

    def _document(self) -> str:
        ends = time.gmtime(time.time() + 6 * 3600)
        return json.dumps(
            {
                "Code": "Success",
                "Type": "AWS-HMAC",
                "AccessKeyId": self._credentials["AccessKeyId"],
                "SecretAccessKey": self._credentials["SecretAccessKey"],
                "Token": self._credentials["SessionToken"],
                "Expiration": time.strftime("%Y-%m-%dT%H:%M:%SZ", ends),
            }
        )


@dataclass(slots=True)
class Cloud:
    """The emulators, in threads of this process."""

    metadata: MetadataService
    role_client: Any
    _server: ThreadedMotoServer = field(repr=False)

    @property
    def endpoint(self) -> str:
        return f"http://{AROUND}:{S3_PORT}"

    def objects(self) -> Mapping[str, str]:
        """Key and ETag of everything in the bucket, past the enforcement of rights."""
        from moto.s3.models import s3_backends

        keys = s3_backends["123456789012"]["aws"].buckets[BUCKET].keys
        return {key: keys[key].etag.strip('"') for key in keys}

    @contextlib.contextmanager
    def s3_away(self) -> Iterator[None]:
        """Nobody listens on S3's port meanwhile. What it holds stays."""
        self._server.stop()
        try:
            yield
        finally:
            self._server = _start_moto()


@contextlib.contextmanager
def cloud() -> Iterator[Cloud]:
    """The emulators, on the addresses that network.py gave to this process."""
    server = _start_moto()
    endpoint = f"http://{AROUND}:{S3_PORT}"
    owner = plain_client(endpoint, Keys())
    for bucket in (BUCKET, OTHER_BUCKET):
        owner.create_bucket(Bucket=bucket)
    credentials = _role_credentials(endpoint)
    # From now on IAM is asked about every call.
    requests.post(f"{endpoint}/moto-api/reset-auth", data="0", timeout=10).raise_for_status()
    role = boto3.Session(
        credentials["AccessKeyId"], credentials["SecretAccessKey"], credentials["SessionToken"], region_name="us-east-1"
    )
    metadata = MetadataService(credentials)
    surroundings = Cloud(metadata, role.client("s3", endpoint_url=endpoint), server)
    with _serving(metadata):
        try:
            yield surroundings
        finally:
            surroundings._server.stop()


def _start_moto() -> ThreadedMotoServer:
    server = ThreadedMotoServer(AROUND, S3_PORT, verbose=False)
    server.start()
    return server


def _role_credentials(endpoint: str) -> Mapping[str, Any]:
    session = Keys().session()
    iam = session.client("iam", endpoint_url=endpoint)
    role = iam.create_role(RoleName=ROLE, AssumeRolePolicyDocument=json.dumps(_TRUST))["Role"]
    rights = for_moto(policy_document("policy-spool", BUCKET))
    iam.put_role_policy(RoleName=ROLE, PolicyName="rights", PolicyDocument=rights)
    sts = session.client("sts", endpoint_url=endpoint)
    given = sts.assume_role(RoleArn=role["Arn"], RoleSessionName="i-0123456789abcdef0")
    credentials: Mapping[str, Any] = given["Credentials"]
    return credentials


@contextlib.contextmanager
def _serving(metadata: MetadataService) -> Iterator[None]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self._answer(200, metadata.new_token())

        def do_GET(self) -> None:
            self._answer(*metadata.get(self.path, self.headers.get(_TOKEN)))

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
