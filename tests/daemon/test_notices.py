"""Notices of ended deliveries and of wrong objects: each is sent once, and again only if a crash leaves no choice."""

from __future__ import annotations

import contextlib
import hashlib
import hmac
import json
import os
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import boto3
import pytest
import requests

from md5s3stash.audit import FaultKind
from md5s3stash.errors import SettingsError
from md5s3stash.s3.client import core_session
from md5s3stash.scheme import BucketBase, KeyTemplate
from md5s3stash_daemon import app
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.deliveries.journal import Journal, journal_path
from md5s3stash_daemon.deliveries.records import FileRow, State
from md5s3stash_daemon.disk.durable import replace_durably
from md5s3stash_daemon.fixity.state import StateFolder, WrongObject
from md5s3stash_daemon.notices import channel as channels
from md5s3stash_daemon.notices import mail as mails
from md5s3stash_daemon.notices import outbox as outboxes
from md5s3stash_daemon.notices import webhook as webhooks
from md5s3stash_daemon.notices.channel import Channel, NotAccepted, Sender
from md5s3stash_daemon.notices.mail import Mail
from md5s3stash_daemon.notices.notice import Notice, of_delivery, of_wrong_objects
from md5s3stash_daemon.notices.outbox import Outbox, forget_others
from md5s3stash_daemon.notices.sns import Topic
from md5s3stash_daemon.notices.webhook import Webhook, signature
from md5s3stash_daemon.provenance.event import FIRST_TIMED_ID, Event
from md5s3stash_daemon.provenance.index import Index
from md5s3stash_daemon.provenance.search import names_of_object
from tests.support.daemon import Daemon, Site
from tests.support.mail_server import MailServer
from tests.support.origin import Authority, Origin, RawReply, Reply
from tests.support.runtime import runtime_of
from tests.support.servers import free_port, wait_until

MONTH = 31 * 86400.0


class Box:
    """A spool with a journal of deliveries, and a folder of wrong objects."""

    def __init__(self, spool: Path) -> None:
        self.spool = spool
        (spool / "deliveries").mkdir()
        self.secret = spool / "secret"
        self.secret.write_text("s3cret\n")
        self._numbers = 0

    def open(self, folder: str) -> int:
        with contextlib.closing(Journal(journal_path(self.spool))) as journal, journal.transaction():
            self._numbers += 1
            return journal.open(f"id{self._numbers}", folder, "vendor", time.time())

    def end(self, number: int, ago: float = 0.0) -> str:
        """Ends it as incomplete; returns the id of its notice."""
        receipt = self.spool / f"{number}.receipt.json"
        receipt.write_text('  {"name": "b.tif", "state": "wrong", "reason": "its md5 differs"}\n')
        with contextlib.closing(Journal(journal_path(self.spool))) as journal, journal.transaction():
            journal.update(number, ended=time.time() - ago, ended_by="still", verdict="incomplete")
            journal.update(number, counts=json.dumps({"right": 1, "wrong": 1}))
            journal.update(number, is_published=1, receipt=os.fsencode(receipt))
            [delivery] = [each for each in journal.since(number) if each.number == number]
            return f"delivery-{delivery.id}"

    def ended(self, folder: str, ago: float = 0.0) -> str:
        return self.end(self.open(folder), ago)

    def rot(self, key: str, at: float = 1.0, kind: FaultKind = FaultKind.WRONG_BYTES) -> None:
        folder = StateFolder(self.spool)
        folder.directory.mkdir(exist_ok=True)
        folder.wrong.add(WrongObject(f"s3://bucket/{key}", kind, "its md5 differs", "", 5, at, at))

    def heal(self, key: str) -> None:
        StateFolder(self.spool).wrong.remove(f"s3://bucket/{key}")

    def channel(self, sender: Sender, name: str = "webhook") -> Channel:
        return Channel(name, sender, Outbox(self.spool, name), runtime_of())


@pytest.fixture
def box(tmp_path: Path) -> Box:
    return Box(tmp_path)


class Receiver(Sender):
    """Accepts notices, but those in `poison`."""

    def __init__(self) -> None:
        self.accepted: list[str] = []
        self.poison: set[str] = set()
        self.is_down = False

    def send(self, notice: Notice) -> None:
        if self.is_down or notice.id in self.poison:
            raise NotAccepted("no")
        self.accepted.append(notice.id)


def test_each_ended_delivery_is_sent_once_also_after_a_restart(box: Box) -> None:
    receiver = Receiver()
    channel = box.channel(receiver)
    late = box.open("still/open")
    sent = [box.ended("one"), box.ended("two")]

    for _ in range(4):
        assert channel.step() is None
    channel = box.channel(receiver)
    sent.append(box.end(late))
    sent.append(box.ended("three"))
    for _ in range(4):
        assert channel.step() is None

    assert sorted(receiver.accepted) == sorted(sent)


def test_deliveries_that_ended_before_the_channel_was_set_up_are_not_sent(box: Box) -> None:
    box.ended("old")
    still_open = box.open("open")
    receiver = Receiver()
    channel = box.channel(receiver)
    news = box.end(still_open)

    for _ in range(3):
        channel.step()

    assert receiver.accepted == [news]
    forget_others(box.spool, [])
    assert box.channel(receiver).step() is None
    assert receiver.accepted == [news]


def test_all_deliveries_of_a_journal_that_was_replaced_are_sent(box: Box) -> None:
    receiver = Receiver()
    box.ended("old")
    channel = box.channel(receiver)
    os.unlink(journal_path(box.spool))
    news = box.ended("new")

    channel.step()

    assert receiver.accepted == [news]


def test_a_new_journal_is_noticed_also_if_the_first_delivery_of_the_old_one_was_still_open(box: Box) -> None:
    receiver = Receiver()
    channel = box.channel(receiver)
    box.open("still/open")
    old = box.ended("old")
    channel.step()
    os.unlink(journal_path(box.spool))
    box.open("still/open")
    news = box.ended("new")

    channel.step()

    assert receiver.accepted == [old, news]


def test_a_channel_is_forgotten_also_if_it_was_the_only_one(box: Box) -> None:
    receiver = Receiver()
    box.channel(receiver)
    environment = {"BUCKET_BASE": "bucket", "REDIS_URL": "redis://127.0.0.1:9/0", "SPOOL_DIR": str(box.spool)}
    settings = read_settings(environment, None)
    unused: Any = SimpleNamespace(session=None)

    assert not app._notices(settings, runtime_of(), unused, unused)

    box.ended("between")
    assert box.channel(receiver).step() is None
    assert receiver.accepted == []


def test_what_is_not_accepted_is_retried_and_does_not_stop_the_others(box: Box) -> None:
    receiver = Receiver()
    channel = box.channel(receiver)
    bad, good = box.ended("bad", ago=60), box.ended("good")
    receiver.poison = {bad}

    assert str(channel.step()) == "no"
    assert channel.notices().words().startswith("notices by webhook cannot be sent, 2 notices wait (60s): no")
    assert channel.step() is None
    assert receiver.accepted == [good]
    assert channel.step() is not None
    receiver.poison = set()
    assert channel.step() is None
    assert receiver.accepted == [good, bad]
    assert (channel.notices().pending, channel.notices().words()) == (0, "")


def test_after_a_month_and_many_attempts_a_notice_is_given_up(
    box: Box, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(channels, "_GIVE_UP_ATTEMPTS", 3)
    receiver = Receiver()
    receiver.is_down = True
    channel = box.channel(receiver)
    box.ended("old", ago=MONTH)

    for _ in range(4):
        assert channel.step() is not None

    assert "notice not accepted" in caplog.text
    receiver.is_down = False
    assert channel.step() is None
    assert receiver.accepted == []


def test_an_old_notice_is_not_given_up_at_its_first_attempts(box: Box) -> None:
    receiver = Receiver()
    receiver.is_down = True
    channel = box.channel(receiver)
    old = box.ended("old", ago=MONTH)

    assert channel.step() is not None
    receiver.is_down = False
    assert channel.step() is None

    assert receiver.accepted == [old]


def test_a_wrong_object_is_not_given_up_with_an_older_one(box: Box, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(channels, "_GIVE_UP_ATTEMPTS", 0)
    receiver = Receiver()
    receiver.is_down = True
    channel = box.channel(receiver)
    box.rot("a" * 32, at=time.time() - MONTH)
    box.rot("b" * 32, at=time.time())

    assert channel.step() is not None
    receiver.is_down = False
    assert channel.step() is None

    assert len(receiver.accepted) == 1


def test_while_one_notice_is_given_up_the_others_count_as_pending(box: Box) -> None:
    class Partly(Sender):
        def send(self, notice: Notice) -> None:
            raise NotAccepted("no", is_partly=True)

    channel = box.channel(Partly())
    box.ended("one")
    box.ended("two")

    channel.step()

    assert channel.notices().pending > 0
    channel.step()
    channel.step()
    assert channel.notices().pending == 0


class Crash(BaseException):
    pass


@pytest.mark.parametrize("crash_at", range(8))
def test_a_crash_forgets_no_notice(box: Box, crash_at: int, monkeypatch: pytest.MonkeyPatch) -> None:
    receiver = Receiver()
    box.channel(receiver)
    sent = {box.ended("one"), box.ended("two"), box.end(box.open("three"))}
    box.rot("a" * 32)
    calls = 0

    def crashing(function: Any) -> Any:
        def called(*arguments: Any) -> Any:
            nonlocal calls
            calls += 1
            if calls == crash_at + 1:
                raise Crash
            return function(*arguments)

        return called

    with monkeypatch.context() as patched, contextlib.suppress(Crash):
        patched.setattr(outboxes, "replace_durably", crashing(replace_durably))
        patched.setattr(Receiver, "send", crashing(Receiver.send))
        channel = box.channel(receiver)
        for _ in range(5):
            channel.step()
    channel = box.channel(receiver)
    for _ in range(5):
        assert channel.step() is None

    assert sent < set(receiver.accepted)
    assert len(set(receiver.accepted)) == 4
    # Only the notice of the moment may come twice.
    assert len(receiver.accepted) <= 5


def test_a_state_that_is_not_readable_sends_twice_rather_than_never(box: Box) -> None:
    receiver = Receiver()
    channel = box.channel(receiver)
    sent = box.ended("one")
    channel.step()
    (box.spool / "notices" / "webhook.json").write_text("{")

    box.channel(receiver).step()

    assert receiver.accepted == [sent, sent]


def test_wrong_objects_are_sent_together_and_again_only_if_they_are_wrong_again(
    box: Box, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(outboxes, "_REST_FACTOR", 0.0)
    sent: list[Any] = []

    class Reader(Sender):
        def send(self, notice: Notice) -> None:
            sent.append([each["s3_url"][-1] for each in json.loads(notice.as_json())["objects"]])

    channel = box.channel(Reader())
    box.rot("a" * 32)
    box.rot("b" * 32)
    channel.step()
    box.rot("c" * 32)
    channel.step()
    channel.step()
    box.heal("a" * 32)
    channel.step()
    box.rot("a" * 32, at=2.0)
    channel.step()
    # It was wrong; now S3 does not give it.
    box.rot("b" * 32, kind=FaultKind.UNREADABLE)
    channel.step()
    channel.step()

    assert sent == [["a", "b"], ["c"], ["a"], ["b"]]


def test_a_notice_of_wrong_objects_has_names_of_them_in_their_collection(tmp_path: Path) -> None:
    path, key = tmp_path / "index.sqlite", "a" * 32
    with contextlib.closing(Index.create(path)) as index:
        names = [Event(FIRST_TIMED_ID + number, f"{number}.tif", key, collection="maps") for number in range(7)]
        index.add([Event(FIRST_TIMED_ID - 1, "other.tif", key), *names], filled="yes")
    bases = [BucketBase.parse("bucket", keys=KeyTemplate.COLLECTION)]
    wrong = WrongObject(f"s3://bucket/maps/{key}", FaultKind.WRONG_BYTES, "its md5 differs", "", 5, 1.0, 1.0)

    notice = of_wrong_objects([wrong], lambda s3_url: names_of_object(path, bases, s3_url, 5))

    found = [f"{number}.tif" for number in range(5)]
    assert json.loads(notice.as_json())["objects"][0]["names"] == found
    assert [line.strip() for line in notice.text.splitlines() if ".tif" in line] == found


def test_the_longest_notice_fits_in_a_message_of_sns(box: Box) -> None:
    number = box.open("\U0001f5bc\udcff" * 4000)
    with contextlib.closing(Journal(journal_path(box.spool))) as journal, journal.transaction():
        for row in range(100):
            journal.put_file(number, FileRow("\U0001f5bc" * 4000 + str(row), State.WRONG, reason="\n\udcff" * 4000))
        [delivery] = journal.unpublished()
        notice = of_delivery(journal, delivery)
    wrong = [WrongObject("\x1b" * 4000, FaultKind.UNREADABLE, "\udcff" * 4000, "", 0, at, at) for at in range(10_000)]

    for each in (notice, of_wrong_objects(wrong, lambda s3_url: ["\U0001f5bc\x1b" * 2000] * 5)):
        message = json.dumps({"default": each.as_json().decode(), "email": each.text}, ensure_ascii=False)
        assert len(message.encode()) < 200_000
        assert "\n" not in each.subject


@pytest.fixture
def authority(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Authority:
    authority = Authority(tmp_path)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.ca_file))
    return authority


# -- webhook ----------------------------------------------------------------------------------------------------------


def verified(secret: bytes, header: str, body: bytes) -> bool:
    """As docs/notices.md has it."""
    parts = [part.split("=", 1) for part in header.split(",")]
    time_sent = dict(parts)["t"]
    wanted = hmac.new(secret, time_sent.encode() + b"." + body, hashlib.sha256).hexdigest()
    is_signed = any(hmac.compare_digest(value, wanted) for name, value in parts if name == "v1")
    return is_signed and abs(time.time() - int(time_sent)) < 300


def test_a_webhook_is_signed_and_only_2xx_means_accepted(box: Box, origin: Origin, tmp_path: Path) -> None:
    url = origin.answer("/hook", Reply(500), Reply(302, headers={"Location": "/x"}), Reply(404), Reply(204))
    channel = box.channel(Webhook(f"{url}?source=box", box.secret))
    id = box.ended('<"vendor">/batch\n\udcff')

    assert [str(channel.step()) for _ in range(3)] == [
        "the receiver answered 500 Internal Server Error",
        "the receiver answered 302 Found",
        "the receiver answered 404 Not Found",
    ]
    assert channel.step() is None
    assert channel.step() is None

    assert len(origin.requests) == 4
    assert {request.target for request in origin.requests} == {"/hook?source=box"}
    request = origin.requests[-1]
    body = json.loads(request.body)
    assert (request.method, request.headers["md5s3stash-notice"], body["id"]) == ("POST", id, id)
    assert verified(b"s3cret", request.headers["md5s3stash-signature"], request.body)
    assert not verified(b"other", request.headers["md5s3stash-signature"], request.body)
    assert (body["type"], body["verdict"], body["counts"]["wrong"]) == ("delivery", "incomplete", 1)
    assert body["folder"] == r'<"vendor">/batch\n\xff'
    assert body["not_right"] == [{"state": "wrong", "name": "b.tif", "reason": "its md5 differs"}]


def test_while_a_secret_is_replaced_both_sign(box: Box, origin: Origin) -> None:
    url = origin.answer("/hook", Reply())
    channel = box.channel(Webhook(url, box.secret))
    box.ended("batch")
    box.secret.write_text("old\nnew\n")

    assert channel.step() is None

    header, body = origin.requests[0].headers["md5s3stash-signature"], origin.requests[0].body
    assert verified(b"old", header, body)
    assert verified(b"new", header, body)
    assert signature([b"k"], 1, b"{}").startswith("t=1,v1=")


@pytest.mark.parametrize("content", [None, "\n"])
def test_a_secret_that_is_missing_holds_the_notice_back(box: Box, origin: Origin, content: str | None) -> None:
    channel = box.channel(Webhook(origin.answer("/hook", Reply()), box.secret))
    box.ended("batch")
    box.secret.unlink() if content is None else box.secret.write_text(content)

    assert str(box.secret) in str(channel.step())

    box.secret.write_text("here")
    assert channel.step() is None
    assert len(origin.requests) == 1


def test_odd_answers_and_strange_certificates_are_not_acceptance(box: Box, tmp_path: Path, origin: Origin) -> None:
    box.ended("early")
    channels = {}
    for name in ("http", "https"):
        url = origin.answer("/hook", RawReply([b"200 OK\r\n\r\n"]), Reply(429, headers={"Retry-After": "700"}), Reply())
        channels[name] = box.channel(Webhook(url, box.secret), name)
    box.ended("batch")

    assert channels["http"].step() is not None
    asked = channels["http"].step()
    assert asked is not None
    assert asked.retry_after_seconds == 700
    assert channels["http"].step() is None
    with Origin(tls=Authority(tmp_path).server_context("127.0.0.1")) as strange:
        channel = box.channel(Webhook(strange.answer("/hook", Reply()), box.secret), "https")
        assert "CERTIFICATE_VERIFY_FAILED" in str(channel.step())


@pytest.mark.parametrize("tls", [False, True])
def test_a_receiver_that_trickles_does_not_hold_the_channel(
    box: Box, authority: Authority, tls: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Origin(tls=authority.server_context("127.0.0.1") if tls else None) as origin:
        slow = box.channel(Webhook(origin.answer("/slow", origin.drip(b"HTTP/1.1 2")), box.secret), "slow")
        url = origin.answer(
            "/hook",
            origin.drip(b"HTTP/1.1 200 OK\r\nContent-Length: 100000\r\n\r\n"),
            RawReply([b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\nx"]),
        )
        channel = box.channel(Webhook(url, box.secret))
        box.ended("one")
        box.ended("two")

        with monkeypatch.context() as patched:
            patched.setattr(webhooks, "_TOTAL_SECONDS", 0.3)
            assert slow.step() is not None
        # The status says enough.
        assert channel.step() is None
        assert channel.step() is None
        assert channel.notices().pending == 0


def test_a_long_reason_and_a_host_that_cannot_be_are_reported_in_short(box: Box, origin: Origin) -> None:
    url = origin.answer("/hook", RawReply([b"HTTP/1.1 500 " + b"x" * 60_000 + b"\r\n\r\n"]))
    channel, strange = box.channel(Webhook(url, box.secret)), box.channel(Webhook("http://a..b/", box.secret), "other")
    box.ended("batch")

    assert len(str(channel.step())) == 300
    fault = str(strange.step())
    assert fault
    assert "unexpected" not in fault


# -- e-mail -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
def test_an_email_is_sent_over_each_kind_of_connection(box: Box, authority: Authority, scheme: str) -> None:
    tls = None if scheme == "smtp" else authority.server_context("localhost")
    with MailServer(tls, implicit=scheme == "smtps", login="box@example.org:s3cret") as server:
        url = f"{scheme}://box%40example.org@localhost:{server.port}"
        mail = Mail(url, "stash@example.org", ("a@example.org", "b@example.org"), box.secret)
        channel = box.channel(mail, "email")
        id = box.ended("vendor/Größe\r\nBcc: x@example.org")

        assert channel.step() is None

        [message] = server.messages
        assert server.recipients == [["a@example.org", "b@example.org"]]
        assert message["Message-ID"] == f"<{id}@example.org>"
        assert message["Subject"] == r"incomplete: delivery vendor/Größe\r\nBcc: x@example.org, 1 of 2 files right"
        assert message["Bcc"] is None
        assert "wrong: b.tif (its md5 differs)" in message.get_content()
        assert f": {box.spool}/1.receipt.html\r\n" in message.get_content()


def test_a_mail_server_without_the_encryption_that_was_asked_for_gets_nothing(box: Box, authority: Authority) -> None:
    box.channel(Receiver(), "email")
    box.ended("batch")
    (box.spool / "other").mkdir()
    other = Authority(box.spool / "other")
    for tls in (None, other.server_context("localhost")):
        with MailServer(tls) as server:
            mail = Mail(f"smtp+starttls://localhost:{server.port}", "stash@example.org", ("a@example.org",), None)
            assert box.channel(mail, "email").step() is not None
            assert server.messages == []


def test_what_a_mail_server_refuses_is_retried_unless_some_recipients_have_it(box: Box) -> None:
    with MailServer(login="box:other") as server:
        box.channel(Receiver(), "email")
        box.ended("batch")
        wrong = Mail(f"smtp://box@localhost:{server.port}", "stash@example.org", ("a@example.org",), box.secret)
        assert "535" in str(box.channel(wrong, "email").step())
        server.login = ""
        server.answers = ["451 later"]
        to = ("a@example.org", "b@example.org")
        channel = box.channel(Mail(f"smtp://localhost:{server.port}", "stash@example.org", to, None), "email")
        server.refused = {*to}
        assert channel.step() is not None
        server.refused = set()
        assert "451" in str(channel.step())
        server.refused = {"b@example.org"}
        assert str(channel.step()) == "the mail server refused b@example.org"
        assert channel.step() is None
        assert server.recipients == [["a@example.org"]]


def test_recipients_that_are_greylisted_get_the_message_later_and_the_others_once(box: Box) -> None:
    with MailServer() as server:
        to = ("a@example.org", "b@example.org", "c@example.org")
        channel = box.channel(Mail(f"smtp://localhost:{server.port}", "stash@example.org", to, None), "email")
        box.ended("batch")
        server.greylisted, server.refused = {"b@example.org"}, {"c@example.org"}

        assert str(channel.step()) == "the mail server refused b@example.org, c@example.org"
        assert channel.step() is not None
        server.greylisted = set()
        assert str(channel.step()) == "the mail server refused c@example.org"
        assert channel.step() is None

        assert server.recipients == [["a@example.org"], ["b@example.org"]]


@pytest.mark.parametrize("scheme", ["smtp", "smtp+starttls", "smtps"])
def test_a_mail_server_that_does_not_end_its_answer_does_not_hold_the_channel(
    box: Box, authority: Authority, scheme: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(mails, "_TOTAL_SECONDS", 0.5)
    tls = None if scheme == "smtp" else authority.server_context("localhost")
    with MailServer(tls, implicit=scheme == "smtps") as server:
        mail = Mail(f"{scheme}://localhost:{server.port}", "stash@example.org", ("a@example.org",), None)
        channel = box.channel(mail, "email")
        box.ended("batch")
        server.answers = ["250-"]

        assert channel.step() is not None


# -- SNS --------------------------------------------------------------------------------------------------------------


def test_a_notice_is_published_to_a_topic(box: Box, s3_server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_ENDPOINT_URL_SNS", s3_server)
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "key")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "secret")
    sns = boto3.client("sns", region_name="eu-west-1")
    sqs = boto3.client("sqs", region_name="eu-west-1", endpoint_url=s3_server)
    topic = sns.create_topic(Name=box.spool.name[:80])["TopicArn"]
    queue = sqs.create_queue(QueueName=box.spool.name[:80])["QueueUrl"]
    arn = sqs.get_queue_attributes(QueueUrl=queue, AttributeNames=["QueueArn"])["Attributes"]["QueueArn"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint=arn)
    channel = box.channel(Topic(topic, core_session()), "sns")
    missing = box.channel(Topic(f"{topic}-missing", core_session()), "missing")
    id = box.ended("Größe")

    assert channel.step() is None
    assert "NotFound" in str(missing.step())

    [message] = sqs.receive_message(QueueUrl=queue)["Messages"]
    envelope = json.loads(message["Body"])
    assert json.loads(envelope["Message"])["id"] == id
    assert envelope["Subject"] == "incomplete: delivery Gr??e, 1 of 2 files right"


# -- the daemon -------------------------------------------------------------------------------------------------------


@pytest.fixture
def site(tmp_path: Path, redis_server: str, s3_server: str) -> Site:
    return Site(tmp_path, redis_server, s3_server)


def test_the_daemon_sends_what_an_outage_and_a_kill_have_left(site: Site) -> None:
    (site.directory / "secret").write_text("s3cret")
    receiver, port = free_port(), free_port()
    environment = {
        "MD5S3STASH_DELIVERIES_STILL_SECONDS": "3600",
        "MD5S3STASH_NOTICES_WEBHOOK_URL": f"http://127.0.0.1:{receiver}/hook",
        "MD5S3STASH_NOTICES_WEBHOOK_SECRET_FILE": str(site.directory / "secret"),
        "MD5S3STASH_HTTP_PORT": str(port),
        "md5s3stash_daemon.notices.channel._MAX_DELAY_SECONDS": "0.2",
    }
    outside = site.directory / "batch"
    outside.mkdir()
    (outside / "a.tif").write_bytes(b"a")
    (outside / "all.md5").write_text(f"{hashlib.md5(b'a', usedforsecurity=False).hexdigest()}  a.tif\n")

    with Daemon(site, environment) as daemon:
        daemon.wait_until_started()
        outside.rename(site.incoming / "batch")
        wait_until(lambda: "notices" in healthz(port), "the fault is shown")
        [words] = healthz(port)["notices"]
        assert words.startswith("notices by webhook cannot be sent, 1 notice waits")
        assert "Connection refused" in words
        assert (
            'md5s3stash_notices_pending{channel="webhook"} 1.0'
            in requests.get(f"http://127.0.0.1:{port}/metrics", timeout=10).text.splitlines()
        )
        daemon.kill()
    with Origin(port=receiver) as origin, Daemon(site, environment) as daemon:
        origin.answer("/hook", Reply())
        # Once it is noted, and not only received.
        wait_until(lambda: "notice sent channel=webhook" in daemon.output(), "the notice")
        assert daemon.terminate() == 0
        [request] = origin.requests
    assert json.loads(request.body)["folder"] == "batch"
    assert json.loads(request.body)["verdict"] == "complete"


def healthz(port: int) -> Any:
    answer = requests.get(f"http://127.0.0.1:{port}/healthz", timeout=10)
    assert answer.status_code == 200
    return answer.json()


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [
        ("WEBHOOK_URL", "https://example.org/x", "webhook_secret_file"),
        ("WEBHOOK_URL", "https://user:password@example.org/x", "without a user"),
        ("WEBHOOK_URL", "ftp://example.org/x", "https://example.org"),
        ("WEBHOOK_URL", "https://example.org/x y", "https://example.org"),
        ("WEBHOOK_URL", "https://example.org:70000/x", "https://example.org"),
        ("WEBHOOK_URL", "https://[:::1]/x", "https://example.org"),
        ("SMTP_URL", "smtps://mail.example.org:70000", "without a password"),
        ("EMAIL_TO", "a@example.org", "email_from"),
        ("EMAIL_TO", "A <a@example.org>", "without names"),
        ("EMAIL_FROM", "a@example.org, b@example.org", "one e-mail address"),
        ("SMTP_URL", "smtp://mail.example.org", "this machine"),
        ("SMTP_URL", "smtps://user:password@mail.example.org", "without a password"),
        ("SNS_TOPIC", "arn:aws:sns:eu-west-1:123456789012:x.fifo", "standard topic"),
    ],
)
def test_settings_that_cannot_work_are_refused(name: str, value: str, words: str) -> None:
    environment = {"BUCKET_BASE": "bucket", "REDIS_URL": "redis://127.0.0.1:9/0"}

    with pytest.raises(SettingsError, match=words):
        read_settings({**environment, f"MD5S3STASH_NOTICES_{name}": value}, None)
