"""Notices by e-mail, through a mail server that takes them."""

from __future__ import annotations

import contextlib
import email.policy
import email.utils
import smtplib
import ssl
from collections.abc import Sequence
from email.message import EmailMessage
from pathlib import Path
from urllib.parse import unquote, urlsplit

from md5s3stash_daemon.notices.channel import NotAccepted, secrets_in
from md5s3stash_daemon.notices.notice import Notice

_TIMEOUT_SECONDS = 30.0
_PORTS = {"smtp": 25, "smtp+starttls": 587, "smtps": 465}


class Mail:
    """The `Sender` to a mail server. One message goes to all recipients together."""

    def __init__(self, url: str, sender: str, recipients: Sequence[str], password_file: Path | None) -> None:
        self._url = urlsplit(url)
        self._sender = sender
        self._recipients = recipients
        self._password_file = password_file

    def send(self, notice: Notice) -> None:
        message = self._message(notice)
        try:
            with contextlib.closing(self._connected()) as server:
                if self._url.username is not None and self._password_file is not None:
                    [password, *_] = secrets_in(self._password_file)
                    server.login(unquote(self._url.username), password.decode("utf-8", "replace"))
                refused = server.send_message(message)
                # The message is accepted, however the server ends the session.
                with contextlib.suppress(OSError, smtplib.SMTPException):
                    server.quit()
        # A password with other characters than ASCII is a ValueError.
        except (OSError, smtplib.SMTPException, ValueError) as error:
            raise NotAccepted(f"the mail server: {str(error) or type(error).__name__}") from error
        if refused:
            # Sent again, the others would get it twice.
            raise NotAccepted(f"the mail server refused {', '.join(refused)}", is_partly=True)

    def _connected(self) -> smtplib.SMTP:
        host, port = self._url.hostname or "", self._url.port or _PORTS[self._url.scheme]
        if self._url.scheme == "smtps":
            return smtplib.SMTP_SSL(host, port, timeout=_TIMEOUT_SECONDS, context=ssl.create_default_context())
        server = smtplib.SMTP(host, port, timeout=_TIMEOUT_SECONDS)
        if self._url.scheme == "smtp+starttls":
            try:
                server.starttls(context=ssl.create_default_context())
            except BaseException:
                server.close()
                raise
        return server

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
