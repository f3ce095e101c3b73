"""The seed's formulas, by which millions of objects are stored."""

from __future__ import annotations

import pytest

from md5s3stash.errors import SettingsError
from md5s3stash.scheme import (
    BucketBase,
    BucketScheme,
    is_s3_url,
    md5_to_bucket_shard,
    md5_to_http_url,
    md5_to_s3_url,
    parse_scheme,
)

MD5 = "d68e763c825dc0e388929ae1b375ce18"

# Row: first hex digit; column: second. Each step to the right adds ten, each step down adds one, modulo 36; 'a' is ten.
# The first row by hand: 0, 10, 20, 30, 40-36=4, 14, 24, 34, 44-36=8, 18, 28, 38-36=2, 12, 22, 32, 42-36=6.
SHARDS = [
    "0aku4eoy8is2cmw6",
    "1blv5fpz9jt3dnx7",
    "2cmw6gq0aku4eoy8",
    "3dnx7hr1blv5fpz9",
    "4eoy8is2cmw6gq0a",
    "5fpz9jt3dnx7hr1b",
    "6gq0aku4eoy8is2c",
    "7hr1blv5fpz9jt3d",
    "8is2cmw6gq0aku4e",
    "9jt3dnx7hr1blv5f",
    "aku4eoy8is2cmw6g",
    "blv5fpz9jt3dnx7h",
    "cmw6gq0aku4eoy8i",
    "dnx7hr1blv5fpz9j",
    "eoy8is2cmw6gq0ak",
    "fpz9jt3dnx7hr1bl",
]


@pytest.mark.parametrize("first", range(16))
def test_every_two_digit_prefix_has_the_shard_of_the_seed(first: int) -> None:
    found = "".join(md5_to_bucket_shard(f"{first:x}{second:x}" + MD5[2:]) for second in range(16))

    assert found == SHARDS[first]


def test_shards_published_by_the_seed_hold() -> None:
    # From the seed's own tests.
    assert md5_to_bucket_shard(MD5) == "1"
    assert md5_to_bucket_shard("85b5a0deaa11f3a5d1762c55701c03da") == "m"
    assert md5_to_bucket_shard(MD5.upper()) == "1"


def test_s3_urls_default_to_multibucket() -> None:
    assert md5_to_s3_url(MD5, "test") == f"s3://1.test/{MD5}"
    assert md5_to_s3_url(MD5, "test", bucket_scheme="simple") == f"s3://test/{MD5}"
    assert md5_to_s3_url(MD5, "test", "multivalue") == f"s3://1.test/{MD5}"
    assert md5_to_s3_url(MD5, "bucket/pre/fix", "simple") == f"s3://bucket/pre/fix/{MD5}"


def test_http_urls_have_the_forms_that_are_in_use() -> None:
    assert md5_to_http_url(MD5, "test") == f"http://1.test.s3.amazonaws.com/{MD5}"
    assert md5_to_http_url(MD5, "test", "simple") == f"http://s3.amazonaws.com/test/{MD5}"
    west = "s3-us-west-2.amazonaws.com"
    assert md5_to_http_url(MD5, "a/b", bucket_scheme="simple", s3_endpoint=west) == f"http://{west}/a/b/{MD5}"
    assert md5_to_http_url(MD5, "test", "multibucket", west) == f"http://1.test.{west}/{MD5}"


@pytest.mark.parametrize("endpoint", ["http://127.0.0.1:9000", "http://127.0.0.1:9000/"])
def test_an_endpoint_that_is_a_url_has_the_bucket_in_the_path(endpoint: str) -> None:
    assert md5_to_http_url(MD5, "a/b", "simple", endpoint) == f"http://127.0.0.1:9000/a/b/{MD5}"
    assert md5_to_http_url(MD5, "test", "multibucket", endpoint) == f"http://127.0.0.1:9000/1.test/{MD5}"


def test_a_base_knows_its_buckets_and_addresses() -> None:
    assert BucketBase.parse("bucket/pre/").address(MD5).s3_url == f"s3://bucket/pre/{MD5}"
    assert BucketBase.parse("bucket/pre").buckets() == ("bucket",)
    many = BucketBase.parse("base", "multibucket").buckets()
    assert len(set(many)) == 36
    assert (many[0], many[-1]) == ("0.base", "z.base")


@pytest.mark.parametrize(
    ("base", "scheme", "told"),
    [
        ("", "simple", "not a bucket name"),
        ("/prefix", "simple", "not a bucket name"),
        ("bu cket", "simple", "not a bucket name"),
        ("s3://bucket", "simple", "is a URL"),
        ("bucket/../x", "simple", "key prefix"),
        ("bucket//x", "simple", "key prefix"),
        ("bucket/a?b", "simple", "key prefix"),
        ("bucket/prefix", "multibucket", "only the scheme 'simple'"),
        ("bucket", "multi", "simple, multibucket"),
    ],
)
def test_a_bad_base_is_refused_with_what_is_allowed(base: str, scheme: str, told: str) -> None:
    with pytest.raises(SettingsError, match=told):
        BucketBase.parse(base, scheme)


def test_the_misspelt_scheme_is_an_alias() -> None:
    assert parse_scheme("multivalue") is parse_scheme("multibucket") is BucketScheme.MULTIBUCKET


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("https://s3.amazonaws.com/bucket/key", True),
        ("http://1.test.s3.amazonaws.com/key", True),
        ("https://s3-us-west-2.amazonaws.com/b/k", True),
        ("https://bucket.s3.dualstack.eu-west-1.amazonaws.com/k", True),
        ("https://bucket.s3.cn-north-1.amazonaws.com.cn/k", True),
        ("s3.amazonaws.com/bucket", True),
        ("https://example.org/s3.amazonaws.com", False),
        ("https://example.org/?u=https://s3.amazonaws.com/", False),
        ("https://ec2.amazonaws.com/", False),
        ("/tmp/s3.amazonaws.com/file", False),
        ("https://[bad", False),
    ],
)
def test_s3_hosts_are_recognised_by_the_host_alone(url: str, expected: bool) -> None:
    assert is_s3_url(url) is expected
