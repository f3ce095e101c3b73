"""Notices by e-mail, through a mail server that takes them."""

from __future__ import annotations

import contextlib
import email.policy
import email.utils
import smtplib
import socket
import ssl
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote, urlsplit

from md5s3stash_daemon.notices.channel import NotAccepted, limited, secrets_in
from md5s3stash_daemon.notices.notice import Notice

_TIMEOUT_SECONDS = 30.0
# A server may look at the message for some time before it accepts it.
_TOTAL_SECONDS = 300.0
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class _Server(smtplib.SMTP):
    """A session over a connection that is already open."""

    def __init__(self, host: str, connection: socket.socket) -> None:
        self._connection = connection
        super().__init__(host)

    def _get_socket(self, host: str, port: int, timeout: float) -> socket.socket:
        return self._connection


class Mail:
    """The `Sender` to a mail server. One message goes to all recipients together."""

    def __init__(self, url: str, sender: str, recipients: Sequence[str], password_file: Path | None) -> None:
        self._url = urlsplit(url)
        self._sender = sender
        self._recipients = recipients
        self._password_file = password_file
        # id of a notice -> who has it, while the server asks to try the others later
        self._delivered: dict[str, set[str]] = {}

    def send(self, notice: Notice) -> None:
        message = self._message(notice)
        delivered = self._delivered.setdefault(notice.id, set())
        try:
            refused = self._send(message, delivered)
        # A password with other characters than ASCII is a ValueError.
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise NotAccepted(f"the mail server: {str(error) or type(error).__name__}") from error
        if refused:
            is_final = bool(delivered) and all(code >= 500 for code, _ in refused.values())
            raise NotAccepted(f"the mail server refused {', '.join(refused)}", is_partly=is_final)
        del self._delivered[notice.id]

    def _send(self, message: EmailMessage, delivered: set[str]) -> Mapping[str, tuple[int, bytes]]:
        """Sends to those who do not have it, and adds them to `delivered`. Returns those who are refused."""
        recipients = [each for each in self._recipients if each not in delivered]
        host = self._url.hostname or ""
        with (
            contextlib.closing(self._connection(host)) as connection,
            limited(connection, _TOTAL_SECONDS),
            contextlib.closing(_Server(host, connection)) as server,
        ):
            if self._url.scheme == "smtp+starttls":
                server.starttls(context=ssl.create_default_context())
            if self._url.username is not None and self._password_file is not None:
                [password, *_] = secrets_in(self._password_file)
                server.login(unquote(self._url.username), password.decode("utf-8", "replace"))
            try:
                refused = server.send_message(message, to_addrs=recipients)
            except smtplib.SMTPRecipientsRefused as error:
                # None of them has it, also if the error does not name all.
                return error.recipients
            delivered.update(set(recipients) - refused.keys())
            # The message is accepted, however the server ends the session.
            with contextlib.suppress(OSError, smtplib.SMTPException):
                server.quit()
            return refused

    def _connection(self, host: str) -> socket.socket:
        address = (host, self._url.port or _PORTS[self._url.scheme])
        connection = socket.create_connection(address, timeout=_TIMEOUT_SECONDS)
        if self._url.scheme != "smtps":
            return connection
        try:
            return ssl.create_default_context().wrap_socket(connection, server_hostname=host)
        except BaseException:
            connection.close()
            raise

    def _message(self, notice: Notice) -> EmailMessage:
        message = EmailMessage(email.policy.SMTP)
        message["From"] = self._sender
        message["To"] = ", ".join(self._recipients)
        message["Subject"] = notice.subject
        message["Date"] = email.utils.formatdate(notice.at)
        # The same for each attempt: mail programs show it once.
        message["Message-ID"] = f"<{notice.id}@{self._sender.rpartition('@')[2]}>"
        # So that no vacation program answers.
        message["Auto-Submitted"] = "auto-generated"
        message.set_content(notice.text)
        return message
