"""Listens, and stops without cutting off requests.

The listening socket is our own, or one that systemd holds open (sd_listen_fds(3)): several instances then accept from
one backlog, and while one of them stops or restarts, the others or the backlog take its connections.
"""

from __future__ import annotations

import asyncio
import logging
import os
import signal
import socket
import time
from collections.abc import MutableMapping
from typing import Any

import tornado.httpserver
import tornado.httputil
import tornado.netutil
from tornado.iostream import IOStream
from tornado.web import Application

from md5s3stash.errors import SettingsError
from md5s3stash.notify import Notifier, watchdog_seconds
from md5s3stash_thumbnailer.server import request_id
from md5s3stash_thumbnailer.server.answers import Activity
from md5s3stash_thumbnailer.server.http1 import Request

log = logging.getLogger(__name__)

_FIRST_INHERITED = 3
_POLL_SECONDS = 0.02
# A request may be on its way on a connection that is idle when we stop.
_GRACE_SECONDS = 1.0
# Longer than load balancers keep an idle connection (60 seconds at AWS), so that they are the ones who close.
_IDLE_SECONDS = 75.0
# GET and HEAD have no body; tornado's own limit is 100 MiB, read into memory.
_MAX_BODY_BYTES = 64 * 1024
_MAX_HEADER_BYTES = 64 * 1024


def listening_sockets(port: int, address: str, environment: MutableMapping[str, str]) -> list[socket.socket]:
    """The sockets that systemd passed to this process, else new ones on the port. Raises OSError, SettingsError."""
    return _inherited(environment) or tornado.netutil.bind_sockets(port, address=address)


def _inherited(environment: MutableMapping[str, str]) -> list[socket.socket]:
    pid, count = environment.pop("LISTEN_PID", ""), environment.pop("LISTEN_FDS", "")
    environment.pop("LISTEN_FDNAMES", None)
    if pid != str(os.getpid()):
        return []  # meant for a parent process, or for none
    if not count.isdecimal():
        raise SettingsError(f"LISTEN_FDS must be a number, not {count!r}")
    return [_listening(descriptor) for descriptor in range(_FIRST_INHERITED, _FIRST_INHERITED + int(count))]


def _listening(descriptor: int) -> socket.socket:
    try:
        inherited = socket.socket(fileno=descriptor)
        is_listening = inherited.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    except OSError as error:
        raise SettingsError(f"LISTEN_FDS names descriptor {descriptor}, which is not a socket") from error
    if not is_listening:
        raise SettingsError(f"LISTEN_FDS names descriptor {descriptor}, which does not listen")
    inherited.setblocking(False)
    inherited.set_inheritable(False)
    return inherited


class Server(tornado.httpserver.HTTPServer):
    """tornado's server with a count of its connections."""

    def initialize(self, *args: Any, **kwargs: Any) -> None:
        self.connections = 0
        super().initialize(*args, **kwargs)

    def handle_stream(self, stream: IOStream, address: tuple[Any, ...]) -> None:
        self.connections += 1
        super().handle_stream(stream, address)

    def start_request(
        self, server_conn: object, request_conn: tornado.httputil.HTTPConnection
    ) -> tornado.httputil.HTTPMessageDelegate:
        request_id.end()
        return Request(
            super().start_request(server_conn, request_conn), request_conn, stopping=self.conn_params.no_keep_alive
        )

    def on_close(self, server_conn: object) -> None:
        self.connections -= 1
        super().on_close(server_conn)


async def serve(
    application: Application, activity: Activity, sockets: list[socket.socket], stop_timeout_seconds: float
) -> None:
    """Answers requests until a signal stops it, and then finishes those in progress."""
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    server = Server(
        application,
        max_body_size=_MAX_BODY_BYTES,
        max_header_size=_MAX_HEADER_BYTES,
        idle_connection_timeout=_IDLE_SECONDS,
        body_timeout=_IDLE_SECONDS,
    )
    server.add_sockets(sockets)
    for each in sockets:
        log.info("event=listening address=%s", each.getsockname())
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET"))
    notifier.ready()
    pings = asyncio.create_task(_keep_quiet(notifier, watchdog_seconds(os.environ, os.getpid())))
    await stop.wait()
    notifier.stopping()
    pings.cancel()
    await _finish(server, activity, stop_timeout_seconds)


async def _keep_quiet(notifier: Notifier, watchdog: float | None) -> None:
    """Pings systemd's watchdog from the event loop, at half its interval, as sd_watchdog_enabled(3) advises."""
    while watchdog:
        notifier.alive()
        await asyncio.sleep(watchdog / 2)


async def _finish(server: Server, activity: Activity, timeout_seconds: float) -> None:
    """From now on every answer says `Connection: close`. Connections that still stay open are closed in the end."""
    activity.stopping = True
    server.conn_params.no_keep_alive = True
    log.info("event=stopping requests=%s connections=%s", activity.requests, server.connections)
    # Connections in our own backlog are answered too; the loop accepts all of them at once.
    await asyncio.sleep(0)
    server.stop()
    begun = time.monotonic()
    while server.connections and time.monotonic() < begun + timeout_seconds:
        if not activity.requests and time.monotonic() > begun + _GRACE_SECONDS:
            break
        await asyncio.sleep(_POLL_SECONDS)
    log.info("event=stopped unfinished=%s", activity.requests)
    await server.close_all_connections()
