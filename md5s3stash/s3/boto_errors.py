"""Errors of boto3 and botocore as errors of our tree."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from botocore.exceptions import ClientError, CredentialRetrievalError, NoCredentialsError, PartialCredentialsError

from md5s3stash.errors import SourceError, StashError, StoreUnavailable
from md5s3stash.s3.client import ANSWER_ERRORS, BOTO_ERRORS, without_credentials
from md5s3stash.s3.errors import Taken, shown, store_error
from md5s3stash.scheme import ObjectAddress


@contextmanager
def translating(address: ObjectAddress, *, is_put: bool = False) -> Iterator[None]:
    """Raises errors of boto3 as ours; 412 to a put as `Taken`."""
    try:
        yield
    except ANSWER_ERRORS as error:
        if is_put and isinstance(error, ClientError) and status_of(error) == 412:
            raise Taken from error
        raise translated(error, address.s3_url) from error


def translated(error: Exception, s3_url: str) -> StashError:
    """The error of our tree for one of `ANSWER_ERRORS`."""
    if isinstance(error, ClientError):
        message = str(error.response.get("Error", {}).get("Message", ""))
        return store_error(s3_url, status_of(error), code_of(error), message)
    # botocore wraps what the reader of a body raises.
    of_source = _source_error(error)
    if of_source is not None:
        return of_source
    if isinstance(error, (NoCredentialsError, PartialCredentialsError, CredentialRetrievalError, RuntimeError)):
        return without_credentials(error)
    if isinstance(error, BOTO_ERRORS):
        return StoreUnavailable(f"{s3_url}: no answer from the store: {shown(str(error))}")
    return StoreUnavailable(f"{s3_url}: the answer of the store cannot be read: {shown(repr(error))}")


def status_of(error: ClientError) -> int:
    return int(error.response.get("ResponseMetadata", {}).get("HTTPStatusCode", 0))


def code_of(error: ClientError) -> str:
    return str(error.response.get("Error", {}).get("Code", ""))


def _source_error(error: BaseException) -> SourceError | None:
    seen: BaseException | None = error
    while seen is not None and not isinstance(seen, SourceError):
        seen = seen.__cause__ or seen.__context__
    return seen
