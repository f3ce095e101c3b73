"""Notices by webhook: a signed POST to an address of the operator's choice."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import http.client
import ssl
import time
from pathlib import Path
from urllib.parse import urlsplit

from md5s3stash_daemon.notices.channel import NotAccepted, limited, secrets_in
from md5s3stash_daemon.notices.notice import Notice

_TIMEOUT_SECONDS = 15.0
# From the request to the end of the answer's head. The body is not read.
_TOTAL_SECONDS = 60.0


class Webhook:
    """The `Sender` that asks a web server. It follows no redirect, and takes 2xx alone as accepted.

    The address is a setting, so it may be in a private network: no file that is dropped can change it.
    """

    def __init__(self, url: str, secret_file: Path) -> None:
        self._url = urlsplit(url)
        self._secret_file = secret_file

    def send(self, notice: Notice) -> None:
        body = notice.as_json()
        headers = {
            "Content-Type": "application/json",
            "User-Agent": "md5s3stashd",
            "Md5s3stash-Notice": notice.id,
            "Md5s3stash-Signature": signature(secrets_in(self._secret_file), int(time.time()), body),
        }
        target = f"{self._url.path or '/'}{f'?{self._url.query}' if self._url.query else ''}"
        try:
            with contextlib.closing(self._connection()) as connection:
                connection.connect()
                with limited(connection.sock, _TOTAL_SECONDS):
                    connection.request("POST", target, body, headers)
                    answer = connection.getresponse()
                    answer.close()
        # A host such as a..b is a ValueError.
        except (OSError, http.client.HTTPException, ValueError) as error:
            raise NotAccepted(str(error) or type(error).__name__) from error
        if not 200 <= answer.status < 300:
            raise NotAccepted(f"the receiver answered {answer.status} {answer.reason}", _seconds(answer))

    def _connection(self) -> http.client.HTTPConnection:
        host, port = self._url.hostname or "", self._url.port
        if self._url.scheme == "http":
            return http.client.HTTPConnection(host, port, timeout=_TIMEOUT_SECONDS)
        context = ssl.create_default_context()
        return http.client.HTTPSConnection(host, port, timeout=_TIMEOUT_SECONDS, context=context)


def signature(secrets: list[bytes], now: int, body: bytes) -> str:
    """The header: the time, and for each secret the HMAC-SHA256 of time, dot and body, as of Stripe's webhooks."""
    signed = b"%d.%b" % (now, body)
    return ",".join([f"t={now}", *(f"v1={hmac.new(secret, signed, hashlib.sha256).hexdigest()}" for secret in secrets)])


def _seconds(answer: http.client.HTTPResponse) -> float | None:
    asked = answer.getheader("Retry-After") or ""
    return float(asked) if asked.isascii() and asked.isdecimal() and len(asked) < 10 else None
