"""Connections for `fetch`: checked by the guard as they are made, and held to a deadline at every byte.

requests and urllib3 time out each wait for a byte, never the whole; the pools here put a clock under every read.
"""

from __future__ import annotations

import http.client
import io
import math
import socket
import time
from functools import partial
from typing import TYPE_CHECKING, Any

from requests.adapters import HTTPAdapter
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.poolmanager import PoolManager
from urllib3.util.ssl_ import create_urllib3_context

from md5s3stash.deadline import Deadline
from md5s3stash.head import HeadReader
from md5s3stash.netguard import NetGuard

if TYPE_CHECKING:
    from _typeshed import WriteableBuffer
    from urllib3.response import HTTPResponse


class TooSlow(TimeoutError):
    """The origin sends too few bytes per second."""


# Includes ciphers that Python leaves out although they are not broken: key exchange by RSA (no forward secrecy), and
# SHA-1 as MAC. SECLEVEL=2 requires the usual strength of keys, certificates and signatures.
OLD_CIPHERS = "@SECLEVEL=2:ECDH+AESGCM:ECDH+CHACHA20:ECDH+AES:DHE+AES:RSA+AES:!aNULL:!eNULL:!aDSS:!PSK:!SRP"


class _TimedReader(io.RawIOBase):
    """Enforces the socket's time-out for each read, the deadline for the whole, and the minimum rate.

    The time-out of a socket starts again with every byte: an origin that sends a byte now and then, even of headers,
    would hold us for weeks. The rate is measured from the first byte, which may take the origin time, and only while we
    wait: a slow disk of ours is not the origin's fault.
    """

    def __init__(self, raw: io.RawIOBase, sock: socket.socket, deadline: Deadline, min_bytes_per_second: int) -> None:
        super().__init__()
        self._raw = raw
        self._sock = sock
        self._idle_seconds = sock.gettimeout() or math.inf
        self._deadline = deadline
        self._min_bytes_per_second = min_bytes_per_second
        self._began = False
        self._waited_seconds = 0.0
        self._waited_bytes = 0

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: WriteableBuffer) -> int | None:
        left_seconds = self._deadline.left_seconds()
        if left_seconds <= 0:
            raise TimeoutError("the time for the whole fetch is over")
        seconds = min(left_seconds, self._idle_seconds)
        self._sock.settimeout(None if seconds == math.inf else seconds)
        asked_at = time.monotonic()
        count = self._raw.readinto(buffer)
        if self._began and count:
            self._judge_rate(time.monotonic() - asked_at, count)
        self._began = True
        return count

    def _judge_rate(self, seconds: float, count: int) -> None:
        self._waited_seconds += seconds
        self._waited_bytes += count
        if self._waited_seconds >= self._idle_seconds:
            if self._waited_bytes < self._min_bytes_per_second * self._waited_seconds:
                raise TooSlow(f"the origin sends fewer than {self._min_bytes_per_second} bytes a second")
            self._waited_seconds, self._waited_bytes = 0.0, 0

    def wait_for_answer(self) -> None:
        """What came was an interim answer. The origin has time to think again."""
        self._began = False

    def close(self) -> None:
        # The socket stays open until all its streams are closed, and the raw stream is one of them.
        self._raw.close()
        super().close()


class _TimedResponse(http.client.HTTPResponse):
    def __init__(
        self, sock: socket.socket, *args: Any, deadline: Deadline, min_bytes_per_second: int, **kwargs: Any
    ) -> None:
        super().__init__(sock, *args, **kwargs)
        self._timed = _TimedReader(self.fp.detach(), sock, deadline, min_bytes_per_second)
        self.fp = io.BufferedReader(self._timed)

    def begin(self) -> None:
        """As http.client's, with a head rewritten for it."""
        file = self.fp
        self.fp = HeadReader(file, self._timed.wait_for_answer)  # type: ignore[assignment]
        try:
            super().begin()
        finally:
            self.fp = file


class _HTTPConnection(HTTPConnection):
    def __init__(
        self, *args: Any, guard: NetGuard | None, deadline: Deadline, min_bytes_per_second: int, **kwargs: Any
    ) -> None:
        super().__init__(*args, **kwargs)
        self._guard = guard
        self._has_answered = False
        self.response_class = partial(  # type: ignore[assignment]
            _TimedResponse, deadline=deadline, min_bytes_per_second=min_bytes_per_second
        )

    # urllib3 has no public place for this. It still does TLS, and verifies the certificate against the name.
    def _new_conn(self) -> socket.socket:
        if self._guard is None:
            return super()._new_conn()
        return self._guard.create_connection(
            self._dns_host, self.port, self.timeout, self.source_address, self.socket_options
        )

    def connect(self) -> None:
        self._has_answered = False
        self._connect_timeout = self.timeout
        super().connect()

    def request(self, *args: Any, **kwargs: Any) -> None:
        self._requested = args, kwargs
        super().request(*args, **kwargs)

    def getresponse(self) -> HTTPResponse:  # type: ignore[override]
        """urllib3's. If the origin has closed a kept-alive connection, as it may at any time (RFC 9112, section 9.5),
        the request is sent again over a new one.
        """
        try:
            response = super().getresponse()
        except (http.client.RemoteDisconnected, ConnectionResetError):
            if not self._has_answered or self.proxy is not None:
                raise
            self._send_again()
            response = super().getresponse()
        self._has_answered = True
        return response

    def _send_again(self) -> None:
        self.close()
        read_timeout, self.timeout = self.timeout, self._connect_timeout
        args, kwargs = self._requested
        self.request(*args, **kwargs)
        self.timeout = read_timeout


class _HTTPSConnection(_HTTPConnection, HTTPSConnection):
    def __init__(self, *args: Any, old_cipher_hosts: frozenset[str], **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._old_cipher_hosts = old_cipher_hosts

    def connect(self) -> None:
        # With a proxy, `host` is the proxy.
        if (self._tunnel_host or self.host).lower() in self._old_cipher_hosts:
            self.ssl_context = create_urllib3_context(ciphers=OLD_CIPHERS)
        super().connect()


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


class Adapter(HTTPAdapter):
    """requests' adapter with our connections in its pools."""

    def __init__(
        self,
        guard: NetGuard | None,
        deadline: Deadline,
        min_bytes_per_second: int = 0,
        old_cipher_hosts: frozenset[str] = frozenset(),
    ) -> None:
        limits: dict[str, Any] = {"guard": guard, "deadline": deadline, "min_bytes_per_second": min_bytes_per_second}
        self._pools = {
            "http": partial(_HTTPPool, **limits),
            "https": partial(_HTTPSPool, **limits, old_cipher_hosts=old_cipher_hosts),
        }
        super().__init__()

    def init_poolmanager(self, *args: Any, **kwargs: Any) -> None:
        super().init_poolmanager(*args, **kwargs)
        self._equip(self.poolmanager)

    def proxy_manager_for(self, proxy: str, **kwargs: Any) -> Any:
        manager = super().proxy_manager_for(proxy, **kwargs)
        # A SOCKS proxy has its own connection classes, which ours would bypass.
        if not proxy.lower().startswith("socks"):
            self._equip(manager)
        return manager

    def _equip(self, manager: PoolManager) -> None:
        manager.pool_classes_by_scheme = self._pools  # type: ignore[assignment]
