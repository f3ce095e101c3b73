"""The meaning of message bodies; no body does harm."""

from __future__ import annotations

import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from md5s3stash.netguard import printable_url
from md5s3stash_daemon.intake.sqs.message_body import ObjectJob, Unreadable, UrlJob, parse_body
from tests.support.queues import by_sns, object_created
from tests.support.strange import STRANGE_TEXT, STRANGE_VALUES, as_json


def url_job(body: str) -> UrlJob:
    [job] = parse_body(body)
    assert isinstance(job, UrlJob)
    return job


def test_a_body_is_a_url() -> None:
    job = url_job("  https://Example.org/a%20b?c \n")

    assert (job.line.url, job.name, job.line.host, job.line.fault) == (
        "https://Example.org/a%20b?c",
        "https://Example.org/a%20b?c",
        "example.org",
        "",
    )


def test_json_names_the_url_and_a_profile() -> None:
    job = url_job('{"url": "https://example.org/a", "name": "box 7/a.tif", "auth-profile": "museum"}')

    assert (job.line.url, job.name, job.auth_profile) == ("https://example.org/a", "box 7/a.tif", "museum")
    assert url_job('{"url": "https://example.org/a"}').name == "https://example.org/a"


def test_names_ids_and_collections_may_be_whole_numbers() -> None:
    job = url_job('{"url": "https://example.org/a", "name": 7, "id": 0, "collection": 26094}')

    assert (job.name, job.record_id, job.collection) == ("7", "0", "26094")


@pytest.mark.parametrize("value", ["true", "false", "1.5", "1e3", "[]", "9" * 1025])
@pytest.mark.parametrize("key", ["name", "id", "collection"])
def test_other_numbers_are_unreadable(key: str, value: str) -> None:
    with pytest.raises(Unreadable, match=f"{key} is not a string or whole number of at most 1024 characters"):
        parse_body(f'{{"url": "https://a/", "{key}": {value}}}')


@pytest.mark.parametrize(
    "url", ["ftp://example.org/a", "file:///etc/passwd", "https://user:pass@example.org/", "http://"]
)
def test_a_url_that_is_never_fetched_is_a_job_with_a_fault(url: str) -> None:
    assert url_job(url).line.fault
    assert url_job(json.dumps({"url": url})).line.fault


@pytest.mark.parametrize("wrap", [lambda body: body, by_sns])
def test_an_event_of_s3_names_objects_wrapped_by_sns_or_not(wrap: object) -> None:
    assert callable(wrap)
    body = wrap(object_created("drop-box", "a+b/%C3%A9.jpg", "c"))

    assert parse_body(body) == (ObjectJob("drop-box", "a b/é.jpg"), ObjectJob("drop-box", "c"))
    assert ObjectJob("drop-box", "c").name == "s3://drop-box/c"


@pytest.mark.parametrize("wrap", [lambda body: body, by_sns])
def test_what_s3_sends_when_a_notification_is_set_up_asks_for_nothing(wrap: object) -> None:
    assert callable(wrap)
    assert parse_body(wrap('{"Service": "Amazon S3", "Event": "s3:TestEvent", "Bucket": "b"}')) == ()


def test_an_object_that_was_removed_asks_for_nothing() -> None:
    assert parse_body(object_created("drop-box", "a").replace("ObjectCreated:Put", "ObjectRemoved:Delete")) == ()


@pytest.mark.parametrize(
    "body",
    [
        "",
        "hello",
        "/etc/passwd",
        "https://a/\nhttps://b/",
        "{",
        "[]",
        '{"url": 7}',
        '{"url": ""}',
        "{}",
        '{"url": "https://a/", "password": "x"}',
        '{"url": "https://a/", "name": ["x"]}',
        '{"url": "https://a/", "name": "' + "x" * 2000 + '"}',
        '{"url": "https://a/", "name": "\\ud800"}',
        "https://a/" + "x" * 9000,
        '{"Records": {}}',
        '{"Records": [7]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "../x"}, "object": {"key": "k"}}}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "bbb"}, "object": {"key": ""}}}]}',
        '{"Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "bbb"}, "object": {"key": "%ff"}}}]}',  # noqa: E501
        json.dumps({"Records": [{}] * 200}),
        '{"Type": "Notification", "Message": "no json"}',
        '{"a":' * 5000,
    ],
)
def test_anything_else_is_unreadable(body: str) -> None:
    with pytest.raises(Unreadable):
        parse_body(body)


def test_the_reason_shows_nothing_of_a_body_that_may_hold_a_password() -> None:
    for body in ("https//user:hunter2@example.org", '{"url": "https://a/", "auth": {"password": "hunter2"}}'):
        with pytest.raises(Unreadable) as caught:
            parse_body(body)
        assert "hunter2" not in str(caught.value)


_KEYS = st.sampled_from(
    ["url", "name", "auth-profile", "Records", "eventName", "s3", "bucket", "object", "key", "Type", "Message", "Event"]
)
_JSON = st.recursive(
    STRANGE_VALUES, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(_KEYS, inner, max_size=4)
)
_OBJECT_EVENTS = st.fixed_dictionaries(
    {
        "Records": st.lists(
            st.fixed_dictionaries(
                {
                    "eventName": st.sampled_from(["ObjectCreated:Put", "s3:ObjectCreated:Copy"]) | STRANGE_VALUES,
                    "s3": st.fixed_dictionaries(
                        {
                            "bucket": st.fixed_dictionaries({"name": st.just("drop-box") | STRANGE_VALUES}),
                            "object": st.fixed_dictionaries({"key": STRANGE_VALUES}),
                        }
                    )
                    | STRANGE_VALUES,
                }
            ),
            max_size=3,
        )
    }
)
_URL_JOBS = st.dictionaries(st.sampled_from(["url", "name", "auth-profile"]), STRANGE_VALUES)
_DROPPED = STRANGE_TEXT.map(
    lambda key: {
        "Records": [{"eventName": "ObjectCreated:Put", "s3": {"bucket": {"name": "drop-box"}, "object": {"key": key}}}]
    }
)
_URLS = st.builds("https://{}/{}".format, STRANGE_TEXT, STRANGE_TEXT)
_NAMED_URLS = st.fixed_dictionaries({"url": _URLS, "name": STRANGE_TEXT})

_NAMED_URLS = st.fixed_dictionaries({"url": _URLS, "name": STRANGE_TEXT})


@given(STRANGE_TEXT | _URLS | st.one_of(_JSON, _OBJECT_EVENTS, _DROPPED, _URL_JOBS, _NAMED_URLS).map(as_json))
@settings(max_examples=400, deadline=None)
def test_no_body_raises_anything_but_unreadable_and_what_it_asks_for_can_be_recorded(body: str) -> None:
    try:
        jobs = parse_body(body)
    except Unreadable as error:
        str(error).encode()
        return
    for job in jobs:
        # As stored in Redis.
        job.name.encode("utf-8", "surrogateescape")
        printable_url(job.name)


@pytest.mark.parametrize("key", ["a\ud800b", "\udfff", "%ED%A0%80", "a\udc80"])
def test_a_key_with_half_of_a_surrogate_pair_is_unreadable(key: str) -> None:
    with pytest.raises(Unreadable):
        parse_body(object_created("drop-box", "KEY").replace("KEY", json.dumps(key)[1:-1]))
