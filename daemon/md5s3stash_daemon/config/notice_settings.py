"""`[notices]` of the settings."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from md5s3stash.errors import SettingsError
from md5s3stash.settings import optional_text, setting, text, texts
from md5s3stash_daemon.config.values import optional_file

_WEBHOOK = re.compile(r"https?://([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:[0-9]{1,5})?([/?][!-\"$-~]*)?", re.ASCII)
_MAIL_ADDRESS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+@[A-Za-z0-9.-]+", re.ASCII)
_MAIL_SERVER = re.compile(
    r"(smtp|smtp\+starttls|smtps)://(?:[A-Za-z0-9._%+-]+@)?([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(?::[0-9]{1,5})?/?",
    re.ASCII,
)
_THIS_MACHINE = re.compile(r"localhost|127(\.[0-9]{1,3}){3}|\[::1\]", re.ASCII | re.IGNORECASE)
_TOPIC = re.compile(r"arn:aws[a-z-]*:sns:[a-z0-9-]+:[0-9]{12}:[A-Za-z0-9_-]{1,256}", re.ASCII)


def webhook_url(value: Any) -> str | None:
    """The URL of a webhook; an empty text means not set."""
    url = optional_text(value)
    if url is not None and not (_WEBHOOK.fullmatch(url) and _has_good_port(url)):
        raise ValueError("a URL such as https://example.org/hooks/stash is needed, without a user and a password")
    return url


def _has_good_port(url: str) -> bool:
    try:
        return urlsplit(url).port != 0
    except ValueError:
        return False


def mail_addresses(value: Any) -> tuple[str, ...]:
    """E-mail addresses."""
    found = texts(value)
    if not all(_MAIL_ADDRESS.fullmatch(address) for address in found):
        raise ValueError("e-mail addresses such as archive@example.org are needed, without names")
    return found


def mail_address(value: Any) -> str | None:
    """One e-mail address; an empty text means not set."""
    found = mail_addresses(value)
    if len(found) > 1:
        raise ValueError("one e-mail address is needed")
    return found[0] if found else None


def mail_server(value: Any) -> str:
    """The URL of a mail server."""
    url = text(value)
    found = _MAIL_SERVER.fullmatch(url)
    if not found or not _has_good_port(url):
        raise ValueError("a URL such as smtp+starttls://USER@mail.example.org:587, without a password, is needed")
    if found[1] == "smtp" and not _THIS_MACHINE.fullmatch(found[2]):
        raise ValueError("smtp:// is for a mail server on this machine: use smtp+starttls:// or smtps://")
    return url


def topic(value: Any) -> str | None:
    """The ARN of a standard SNS topic; an empty text means not set."""
    arn = optional_text(value)
    if arn is not None and not _TOPIC.fullmatch(arn):
        raise ValueError("the ARN of a standard topic, such as arn:aws:sns:us-west-2:123456789012:NAME, is needed")
    return arn


@dataclass(frozen=True, slots=True)
class NoticeSettings:
    """`[notices]`: who gets a notice of ended deliveries and of wrong objects."""

    webhook_url: str | None = setting(
        None, webhook_url, "URL that each notice is posted to, as JSON; not set: no webhook"
    )
    webhook_secret_file: Path | None = setting(
        None, optional_file, "file with the secret that signs what is posted; two lines while the secret is replaced"
    )
    email_to: tuple[str, ...] = setting((), mail_addresses, "who gets each notice by e-mail; empty: no e-mail")
    email_from: str | None = setting(None, mail_address, "the sender's address of these e-mails")
    smtp_url: str = setting(
        "smtp://localhost",
        mail_server,
        "mail server: smtp:// on this machine alone, smtp+starttls://USER@HOST:587 or smtps://USER@HOST:465",
    )
    smtp_password_file: Path | None = setting(None, optional_file, "file with the password of the USER in smtp_url")
    sns_topic: str | None = setting(
        None, topic, "ARN of the SNS topic that each notice is published to; not set: no topic"
    )

    def check(self) -> None:
        """Raises SettingsError if a channel lacks a part."""
        if self.webhook_url is not None and self.webhook_secret_file is None:
            raise SettingsError("notices.webhook_url is set: set notices.webhook_secret_file too")
        if self.email_to and self.email_from is None:
            raise SettingsError("notices.email_to is set: set notices.email_from too")
        if self.email_to and "@" in self.smtp_url and self.smtp_password_file is None:
            raise SettingsError("notices.smtp_url has a user: set notices.smtp_password_file too")
