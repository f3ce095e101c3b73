"""Builds the channels of the settings."""

from __future__ import annotations

from collections.abc import Sequence

from md5s3stash.s3.client import CoreSession
from md5s3stash.settings import Settings, StashSettings
from md5s3stash_daemon.config.notice_settings import NoticeSettings
from md5s3stash_daemon.config.settings import ProvenanceSettings, SpoolSettings
from md5s3stash_daemon.notices.channel import Channel, Sender
from md5s3stash_daemon.notices.outbox import Outbox, forget_others
from md5s3stash_daemon.provenance.search import names_of_object
from md5s3stash_daemon.runtime.runtime import Runtime

# Of a wrong object.
_NAMES = 5


def build_channels(settings: Settings, runtime: Runtime, session: CoreSession) -> Sequence[Channel]:
    """Those that are set up, not started. The spool must be locked. Raises SettingsError, OSError."""
    senders = _senders(settings[NoticeSettings], session)
    spool = settings[SpoolSettings].dir
    forget_others(spool, list(senders))
    bases, index = settings[StashSettings].bases(), settings[ProvenanceSettings].index

    def names_of(s3_url: str) -> Sequence[str]:
        return names_of_object(index, bases, s3_url, _NAMES)

    return [Channel(name, sender, Outbox(spool, name, names_of), runtime) for name, sender in senders.items()]


def _senders(of_notices: NoticeSettings, session: CoreSession) -> dict[str, Sender]:
    # Each is imported only where it is set up.
    found: dict[str, Sender] = {}
    if of_notices.webhook_url is not None and of_notices.webhook_secret_file is not None:
        from md5s3stash_daemon.notices.webhook import Webhook

        found["webhook"] = Webhook(of_notices.webhook_url, of_notices.webhook_secret_file)
    if of_notices.email_to and of_notices.email_from is not None:
        from md5s3stash_daemon.notices.mail import Mail

        found["email"] = Mail(
            of_notices.smtp_url, of_notices.email_from, of_notices.email_to, of_notices.smtp_password_file
        )
    if of_notices.sns_topic is not None:
        from md5s3stash_daemon.notices.sns import Topic

        found["sns"] = Topic(of_notices.sns_topic, session)
    return found
