"""Clients of S3 and the credentials that they sign with: sessions, endpoints, certificates.

Credentials may appear after the program has started: a role is attached late, a network or a file is not there yet. A
botocore client always keeps the credentials that its session had when the client was made, even if it had none. So the
sessions made here return `ChainCredentials`, which search again.
"""

from __future__ import annotations

import functools
import re
import threading
import time
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

from botocore.config import Config
from botocore.credentials import ReadOnlyCredentials
from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError, PartialCredentialsError
from botocore.loaders import Loader, create_loader
from botocore.parsers import ResponseParserError
from botocore.session import Session as BotocoreSession

from md5s3stash.errors import CredentialsUnavailable, SettingsError, StoreRefused
from md5s3stash.s3.curl import Credentials, CurlClient, Endpoint, Timeouts
from md5s3stash.s3.errors import are_refused

if TYPE_CHECKING:
    import boto3

# boto3's session wraps botocore's. Importing boto3 takes a sixth of the command's start.
Session: TypeAlias = "boto3.Session | BotocoreSession"

# Credentials that could not be renewed come as a RuntimeError, an answer that is not XML as the parser's error.
BOTO_ERRORS = (ClientError, BotoCoreError, ResponseParserError, RuntimeError)

# botocore raises these as well, if the headers or the XML of an answer are malformed.
ANSWER_ERRORS = (*BOTO_ERRORS, ValueError, TypeError, KeyError, AttributeError, OverflowError)

NO_CREDENTIALS = (
    "no AWS credentials were found: on EC2 attach an IAM role, elsewhere set AWS_PROFILE, or AWS_ACCESS_KEY_ID and "
    "AWS_SECRET_ACCESS_KEY"
)

# Between two searches of the chain: one that asks a metadata service that does not answer takes seconds.
_LOOK_SECONDS = 5.0

_AWS_HOST = re.compile(r"s3(?:[.-](?:dualstack\.)?(?P<region>[a-z]{2}(?:-[a-z]+)+-\d))?\.amazonaws\.com(?:\.cn)?")
_AWS_NAME = re.compile(r"https?://[A-Za-z0-9.-]+\.amazonaws\.com(?:\.cn)?")
_URL = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+(?:/[A-Za-z0-9._~/-]*)?")


class ChainCredentials:
    """The credentials of the ordinary chain (environment, profile, container, the box's role). The chain is searched at
    the first request, again while nothing is found, and after a service has refused the credentials. botocore itself
    renews those that expire. Safe to share between threads.
    """

    # Botocore asks for this name when it makes a client.
    method = "chain"

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._found: Any = None
        self._error: Exception = NoCredentialsError()
        self._looked_at = float("-inf")

    def get_frozen_credentials(self) -> ReadOnlyCredentials:
        """The current credentials. Raises one of `BOTO_ERRORS`."""
        with self._lock:
            if self._found is None:
                self._look()
            found = self._found
        frozen: ReadOnlyCredentials = found.get_frozen_credentials()
        return frozen

    def get_deferred_property(self, name: str) -> Callable[[], str | None]:
        """For botocore, which uses an account id for some services if there is one."""
        return lambda: getattr(self._found, name, None)

    def refused(self) -> None:
        """Call this when a service does not accept them: the next request searches for others."""
        with self._lock:
            if self._clock() >= self._looked_at + _LOOK_SECONDS:
                self._found = None

    def _look(self) -> None:
        if self._clock() < self._looked_at + _LOOK_SECONDS:
            raise self._error
        try:
            # A session caches the files it has read, so each search uses a new one.
            found = BotocoreSession().get_credentials()
            if found is None or not _is_complete(found):
                raise NoCredentialsError
            self._found = found
        except BOTO_ERRORS as error:
            self._error = error
            raise
        finally:
            self._looked_at = self._clock()


def _is_complete(found: Any) -> bool:
    # The keys in a file may still be empty.
    frozen = found.get_frozen_credentials()
    return bool(frozen.access_key and frozen.secret_key)


class CoreSession(BotocoreSession):  # type: ignore[misc]
    """A botocore session whose clients sign with `ChainCredentials`."""

    def __init__(self) -> None:
        super().__init__()
        self.chain = ChainCredentials()
        # For every client of this session, of any service.
        self.register("after-call", self._called)
        self.lazy_register_component("data_loader", lambda: _loader(self.get_config_variable("data_path")))

    def get_credentials(self) -> ChainCredentials:
        return self.chain

    def _called(self, parsed: Mapping[str, Any], **_: Any) -> None:
        if are_refused(str(parsed.get("Error", {}).get("Code", ""))):
            self.chain.refused()


@functools.cache
def _loader(data_path: str | None) -> Loader:
    """Reads botocore's descriptions of the services once for all sessions: it takes 80 ms."""
    return create_loader(data_path)


def core_session() -> CoreSession:
    """A session of the ordinary chain without boto3, for stores that we open ourselves."""
    return CoreSession()


def curl_for(client: Any, session: Session, timeouts: Timeouts | None = None) -> CurlClient:
    """libcurl beside a boto3 client: the same endpoint and certificates, and the credentials of the same session."""
    core = _core(session)
    bundle = core.get_config_variable("ca_bundle")
    return CurlClient(endpoint_of(client), lambda: _credentials(core), timeouts, renewal_of(session), bundle)


def renewal_of(session: Session) -> Callable[[], None]:
    """A function that makes the session search for credentials again, if the session is one of ours."""
    core = _core(session)
    return core.chain.refused if isinstance(core, CoreSession) else lambda: None


def _core(session: Session) -> BotocoreSession:
    # boto3 has no public name for it.
    core: BotocoreSession = session if isinstance(session, BotocoreSession) else session._session
    return core


def endpoint_of(client: Any) -> Endpoint:
    """Where a client of ours sends its requests, and how."""
    url, region = client.meta.endpoint_url.rstrip("/"), client.meta.region_name
    return Endpoint(
        url=url,
        # boto3's name for "no region was given"; it signs as us-east-1.
        region="us-east-1" if region == "aws-global" else region,
        # AWS_ENDPOINT_URL may name another store, whose buckets are not host names.
        virtual_hosts=_AWS_NAME.fullmatch(url) is not None,
    )


def new_session(core: CoreSession | None = None) -> boto3.Session:
    """A session of the ordinary chain, on a core session if one was prepared. Raises SettingsError where the AWS
    settings cannot be read.
    """
    import boto3

    try:
        return boto3.Session(botocore_session=core or core_session())
    except BotoCoreError as error:
        raise SettingsError(f"the AWS settings are wrong: {error}") from error


def new_client(endpoint: str | None, session: Session, timeouts: Timeouts | None = None, attempts: int = 4) -> Any:
    """An S3 client for many threads; `endpoint` as for `connect`, `attempts` for each request in all."""
    timeouts = timeouts or Timeouts()
    url, region = parse_endpoint(endpoint)
    config = Config(
        retries={"mode": "standard", "total_max_attempts": attempts},
        connect_timeout=timeouts.connect_seconds,
        read_timeout=timeouts.stall_seconds,
        max_pool_connections=64,
        # Only the checksums that we name: some stores refuse other headers, and we need no more.
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
        # Content-MD5 and SHA-256 are signed headers: hashing the body once more for the signature proves nothing.
        s3={"payload_signing_enabled": False, **({"addressing_style": "path"} if url else {})},
    )
    try:
        make = session.create_client if isinstance(session, BotocoreSession) else session.client
        return make("s3", endpoint_url=url, region_name=region, config=config)
    except (BotoCoreError, ValueError) as error:
        raise SettingsError(f"no S3 client can be made from the AWS settings: {error}") from error


def parse_endpoint(endpoint: str | None) -> tuple[str | None, str | None]:
    """(endpoint URL, region) for boto3; None leaves the choice to it."""
    if not endpoint:
        return None, None
    if "://" in endpoint:
        if not _URL.fullmatch(endpoint):
            raise SettingsError(
                f"S3_ENDPOINT {endpoint!r} is not a URL of the form http://host:port or http://host/path"
            )
        return endpoint.rstrip("/"), None
    if not re.fullmatch(r"[A-Za-z0-9.-]+(:\d+)?", endpoint):
        raise SettingsError(f"S3_ENDPOINT {endpoint!r} is neither a host name nor a URL")
    amazon = _AWS_HOST.fullmatch(endpoint)
    if amazon:
        return None, amazon["region"]
    return f"https://{endpoint}", None


def _credentials(session: BotocoreSession) -> Credentials:
    """The current credentials; botocore renews a role's before they expire."""
    try:
        found = session.get_credentials()
        if found is None:
            raise NoCredentialsError
        frozen = found.get_frozen_credentials()
    except BOTO_ERRORS as error:
        raise without_credentials(error) from error
    return Credentials(frozen.access_key, frozen.secret_key, frozen.token)


def without_credentials(error: Exception) -> StoreRefused | CredentialsUnavailable:
    """The error of our tree for credentials that are missing or could not be renewed."""
    if isinstance(error, (NoCredentialsError, PartialCredentialsError)):
        return StoreRefused(NO_CREDENTIALS)
    return CredentialsUnavailable(f"the AWS credentials are not available: {error}")
