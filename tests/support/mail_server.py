"""A small mail server: it takes messages over a plain connection, STARTTLS or TLS, and may ask for a password."""

from __future__ import annotations

import base64
import email
import email.policy
import io
import socketserver
import ssl
from email.message import EmailMessage
from typing import Any

from tests.support.http_server import ThreadedServer


class MailServer(ThreadedServer):
    """`refused` are recipients that it does not know, `greylisted` those that it takes later, `answers` what it says to
    the next messages in place of 250; one that ends with a - is repeated without end.
    """

    def __init__(self, tls: ssl.SSLContext | None = None, *, implicit: bool = False, login: str = "") -> None:
        self.messages: list[EmailMessage] = []
        self.recipients: list[list[str]] = []
        self.refused: set[str] = set()
        self.greylisted: set[str] = set()
        self.answers: list[str] = []
        self.tls = tls
        self.implicit = implicit
        self.login = login
        super().__init__(_Server(self))


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True

    def __init__(self, owner: MailServer) -> None:
        self.owner = owner
        super().__init__(("127.0.0.1", 0), _Session)

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Ignores clients that hang up."""


class _Session(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        owner: MailServer = self.server.owner  # type: ignore[attr-defined]
        self._over: Any = self.request
        self._lines: Any = io.BytesIO()
        self.is_encrypted = False
        if owner.implicit:
            self._encrypt(owner)
        self._lines = self._over.makefile("rb")
        self._say("220 ready")
        is_known, recipients = not owner.login, []
        while line := self._lines.readline():
            words = line.decode().strip()
            command = words.upper()
            if command.startswith("EHLO"):
                offers = ["STARTTLS"] if owner.tls and not self.is_encrypted else []
                offers += ["AUTH PLAIN"] if owner.login and (self.is_encrypted or not owner.tls) else []
                lines = ["here", *offers]
                for number, offer in enumerate(lines):
                    self._say(f"250{' ' if number == len(lines) - 1 else '-'}{offer}")
            elif command == "STARTTLS":
                self._say("220 go ahead")
                self._lines.close()
                self._encrypt(owner)
                self._lines = self._over.makefile("rb")
            elif command.startswith("AUTH PLAIN"):
                given = base64.b64decode(words.split()[2]).decode().strip("\0").replace("\0", ":")
                is_known = given == owner.login
                self._say("235 welcome" if is_known else "535 wrong password")
            elif not is_known:
                self._say("530 log in first")
            elif command.startswith("RCPT TO:"):
                address = words[8:].strip("<> ")
                if address in owner.refused:
                    self._say("550 no such user")
                elif address in owner.greylisted:
                    self._say("450 later")
                else:
                    recipients.append(address)
                    self._say("250 ok")
            elif command == "DATA":
                self._say("354 go on")
                self._take(owner, recipients)
                recipients = []
            elif command == "QUIT":
                self._say("221 bye")
                return
            else:
                self._say("250 ok")

    def finish(self) -> None:
        self._lines.close()
        self._over.close()

    def _encrypt(self, owner: MailServer) -> None:
        assert owner.tls is not None
        self._over = owner.tls.wrap_socket(self.request, server_side=True)
        self.is_encrypted = True

    def _take(self, owner: MailServer, recipients: list[str]) -> None:
        lines = []
        while (line := self._lines.readline()) not in (b".\r\n", b""):
            lines.append(line.removeprefix(b".") if line.startswith(b"..") else line)
        answer = owner.answers.pop(0) if owner.answers else "250 ok"
        if answer.startswith("250"):
            owner.recipients.append(recipients)
            owner.messages.append(email.message_from_bytes(b"".join(lines), policy=email.policy.default))
        self._say(answer)
        while answer.endswith("-") and not owner.closing.wait(0.02):
            self._say(answer)

    def _say(self, line: str) -> None:
        self._over.sendall(f"{line}\r\n".encode())
