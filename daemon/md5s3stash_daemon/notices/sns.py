"""Notices by a topic of Amazon SNS."""

from __future__ import annotations

import json
from typing import Any

from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from md5s3stash.errors import SettingsError
from md5s3stash.s3.client import CoreSession, new_session
from md5s3stash_daemon.notices.channel import NotAccepted
from md5s3stash_daemon.notices.notice import Notice

_MAX_SUBJECT = 99


class Topic:
    """The `Sender` that publishes. Subscriptions by e-mail get the text, all others the JSON. Raises SettingsError."""

    def __init__(self, arn: str, session: CoreSession) -> None:
        self._arn = arn
        config = Config(connect_timeout=10, read_timeout=15, retries={"mode": "standard", "total_max_attempts": 1})
        try:
            # Of the topic: with the configured region, a topic of another region would not be found.
            self._client: Any = new_session(session).client("sns", region_name=arn.split(":")[3], config=config)
        except (BotoCoreError, ValueError) as error:
            raise SettingsError(f"cannot create an SNS client from the AWS settings: {error}") from error

    def send(self, notice: Notice) -> None:
        subject = notice.subject.encode("ascii", "replace").decode()[:_MAX_SUBJECT]
        message = json.dumps({"default": notice.as_json().decode(), "email": notice.text}, ensure_ascii=False)
        try:
            self._client.publish(
                TopicArn=self._arn,
                Subject=subject,
                MessageStructure="json",
                Message=message,
                MessageAttributes={"type": {"DataType": "String", "StringValue": str(notice.fields["type"])}},
            )
        except (BotoCoreError, ClientError) as error:
            raise NotAccepted(f"SNS: {error}") from error
