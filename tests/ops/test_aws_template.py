"""The CloudFormation template says what docs/deploy.md promises. `make lint-ops` judges its form, by cfn-lint."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from md5s3stash.s3 import parse_endpoint
from md5s3stash.settings import RedisSettings, StashSettings, load
from md5s3stash_daemon.settings import SECTIONS
from md5s3stash_thumbnailer.request import OPTION_OF_QUERY_NAME
from tests.support.policies import policy_document

TEMPLATE = Path(__file__).resolve().parents[2] / "aws" / "template.yaml"
STATED = {
    "AWS::Partition": "aws",
    "AWS::Region": "us-west-2",
    "AWS::StackName": "stash",
    "AWS::URLSuffix": "amazonaws.com",
    "Bucket": "BUCKET",
    "KeyPrefix": "PREFIX",
    "SpoolVolume": "vol-0123456789abcdef0",
    "SpoolAddress.AllocationId": "eipalloc-0123456789abcdef0",
    "ThumbnailerOptions": "--quality=85",
    "ThumbnailerSecretName": "/md5s3stash/thumbnailer",
}


class Loader(yaml.SafeLoader):  # type: ignore[misc]  # PyYAML ships no annotations
    """YAML with CloudFormation's short forms: `!Ref x` becomes {"Ref": "x"}, `!Sub x` {"Fn::Sub": "x"}."""


def _short_form(loader: Loader, suffix: str, node: yaml.Node) -> dict[str, Any]:
    name = suffix if suffix in ("Ref", "Condition") else f"Fn::{suffix}"
    if isinstance(node, yaml.ScalarNode):
        return {name: loader.construct_scalar(node)}
    if isinstance(node, yaml.SequenceNode):
        return {name: loader.construct_sequence(node, deep=True)}
    assert isinstance(node, yaml.MappingNode)
    return {name: loader.construct_mapping(node, deep=True)}


Loader.add_multi_constructor("!", _short_form)

ALL: dict[str, Any] = yaml.load(TEMPLATE.read_text(), Loader)
RESOURCES: dict[str, Any] = ALL["Resources"]


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = RESOURCES[name]["Properties"]
    return found


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """name -> properties"""
    found = {name: properties(name) for name, resource in RESOURCES.items() if resource["Type"] == kind}
    assert found, kind
    return found


def stated(value: Any) -> Any:
    """The value with what it substitutes filled in."""
    if isinstance(value, dict) and set(value) == {"Fn::Sub"}:
        text, names = value["Fn::Sub"] if isinstance(value["Fn::Sub"], list) else (value["Fn::Sub"], {})
        # Of a choice, what holds where its condition does.
        chosen = {name: choice["Fn::If"][1] for name, choice in names.items()}
        for name, given in {**STATED, **chosen}.items():
            text = text.replace(f"${{{name}}}", given)
        assert "${" not in text, text
        return text
    if isinstance(value, dict):
        return {name: stated(part) for name, part in value.items()}
    return [stated(part) for part in value] if isinstance(value, list) else value


def statements_of(role: str) -> Iterator[dict[str, Any]]:
    for policy in properties(role)["Policies"]:
        yield from (policy["Fn::If"][1] if "Fn::If" in policy else policy)["PolicyDocument"]["Statement"]


def user_data(name: str) -> dict[str, Any]:
    text = stated(properties(name)["LaunchTemplateData"]["UserData"]["Fn::Base64"])
    assert text.startswith("#cloud-config\n")
    parsed: dict[str, Any] = yaml.safe_load(text)
    return parsed


def files_of(name: str) -> dict[str, str]:
    """path -> content of what the user data writes"""
    return {file["path"]: file["content"] for file in user_data(name)["write_files"]}


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "document"), [("SpoolRole", "policy-spool"), ("ThumbnailRole", "policy-thumbnails")])
def test_a_role_has_the_rights_that_are_tested_with_rights_enforced(role: str, document: str) -> None:
    stash = next(policy for policy in properties(role)["Policies"] if policy.get("PolicyName") == "stash")

    assert stated(stash["PolicyDocument"]) == policy_document(document, "BUCKET", "PREFIX")


@pytest.mark.parametrize("role", ["SpoolRole", "ThumbnailRole"])
def test_a_role_has_no_right_to_s3_beside_these(role: str) -> None:
    for statement in statements_of(role):
        actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
        assert all("*" not in action for action in actions)
        if statement["Sid"] not in ("StoreAndLookAtObjects", "FindTheBucketAndWhatIsInIt", "ReadObjects"):
            assert not any(action.startswith("s3:") for action in actions if action != "s3:ListBucket")
        if statement["Resource"] == "*":
            assert actions == ["ec2:DescribeVolumes"]


# --- the bucket -------------------------------------------------------------------------------------------------------


def test_the_bucket_is_private_versioned_and_outlives_the_stack() -> None:
    bucket = properties("Bucket")

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    assert (RESOURCES["Bucket"]["DeletionPolicy"], RESOURCES["Bucket"]["UpdateReplacePolicy"]) == ("Retain", "Retain")


def test_the_bucket_forgets_stale_uploads_and_no_current_object() -> None:
    abort, forget = properties("Bucket")["LifecycleConfiguration"]["Rules"]

    assert abort["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] <= 7
    assert forget["Fn::If"][0] == "ForgetsVersions"
    assert ALL["Parameters"]["NoncurrentDays"]["Default"] == 0
    assert "ExpirationInDays" not in json.dumps([abort, forget])


def test_the_bucket_is_encrypted_so_that_etags_stay_md5s() -> None:
    assert "aws:kms" not in json.dumps(properties("Bucket")["BucketEncryption"])


def test_the_bucket_speaks_tls_alone() -> None:
    (statement,) = properties("BucketPolicy")["PolicyDocument"]["Statement"]

    assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "s3:*")
    assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
    assert statement["Resource"] == [{"Fn::GetAtt": "Bucket.Arn"}, {"Fn::Sub": "${Bucket.Arn}/*"}]


# --- the boxes --------------------------------------------------------------------------------------------------------


def test_every_box_has_imds_v2_one_hop_and_an_encrypted_disk() -> None:
    for template in of_type("AWS::EC2::LaunchTemplate").values():
        data = template["LaunchTemplateData"]
        assert data["MetadataOptions"] == {
            "HttpEndpoint": "enabled",
            "HttpTokens": "required",
            "HttpPutResponseHopLimit": 1,
        }
        for device in data["BlockDeviceMappings"]:
            assert (device["Ebs"]["Encrypted"], device["Ebs"]["VolumeType"]) == (True, "gp3")


def test_the_volume_of_the_spool_outlives_box_and_stack() -> None:
    devices = properties("SpoolLaunchTemplate")["LaunchTemplateData"]["BlockDeviceMappings"]
    volume = properties("SpoolVolume")

    assert [device["DeviceName"] for device in devices] == ["/dev/xvda"], (
        "the root disk alone comes and goes with a box"
    )
    assert (volume["Encrypted"], volume["VolumeType"]) == (True, "gp3")
    assert RESOURCES["SpoolVolume"]["DeletionPolicy"] == RESOURCES["SpoolVolume"]["UpdateReplacePolicy"] == "Snapshot"


def test_there_is_never_more_than_one_spool_box() -> None:
    group = properties("SpoolGroup")

    assert (group["MaxSize"], group["DesiredCapacity"]) == ("1", "1")
    assert RESOURCES["SpoolGroup"]["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] == 0


@pytest.mark.parametrize("name", ["SpoolLaunchTemplate", "ThumbnailLaunchTemplate"])
def test_user_data_writes_settings_and_does_nothing_else(name: str) -> None:
    assert set(user_data(name)) == {"write_files"}
    assert all(path.startswith("/etc/md5s3stash/") for path in files_of(name))


def test_the_settings_of_the_spool_are_valid(tmp_path: Path) -> None:
    files = files_of("SpoolLaunchTemplate")
    file = tmp_path / "md5s3stash.toml"
    file.write_text(files["/etc/md5s3stash/md5s3stash.toml"])

    settings = load(SECTIONS, {}, file)

    assert settings[StashSettings].bucket_base == ("BUCKET/PREFIX",)
    assert settings[RedisSettings].url == "unix:///run/redis/redis-server.sock"


@pytest.mark.parametrize(
    ("name", "path"),
    [
        ("SpoolLaunchTemplate", "/etc/md5s3stash/md5s3stash.toml"),
        ("ThumbnailLaunchTemplate", "/etc/md5s3stash/thumbnailer.env"),
    ],
)
def test_a_box_asks_s3_in_its_own_region(name: str, path: str) -> None:
    (host,) = re.findall(r"s3\.[a-z0-9.-]+", files_of(name)[path])

    assert parse_endpoint(host) == (None, "us-west-2")


def test_each_box_is_told_what_its_first_boot_needs() -> None:
    assert "SPOOL_VOLUME_ID=vol-0123456789abcdef0\n" in files_of("SpoolLaunchTemplate")["/etc/md5s3stash/aws.env"]
    thumbnails = files_of("ThumbnailLaunchTemplate")
    assert "BUCKET_BASE=BUCKET/PREFIX\n" in thumbnails["/etc/md5s3stash/thumbnailer.env"]
    assert "THUMBNAILER_OPTIONS=--webp --quality=85\n" in thumbnails["/etc/md5s3stash/thumbnailer.env"]
    assert "THUMBNAILER_SECRET_NAME=/md5s3stash/thumbnailer\n" in thumbnails["/etc/md5s3stash/aws.env"]


# --- the way in -------------------------------------------------------------------------------------------------------


def test_thumbnail_servers_answer_the_load_balancer_alone() -> None:
    (ingress,) = properties("ThumbnailSecurityGroup")["SecurityGroupIngress"]
    target_group = properties("TargetGroup")

    assert ingress["SourceSecurityGroupId"] == {"Ref": "LoadBalancerSecurityGroup"}
    assert ingress["FromPort"] == ingress["ToPort"] == target_group["Port"]
    assert target_group["HealthCheckPath"] == "/healthz"
    assert properties("ThumbnailGroup")["HealthCheckType"] == "ELB"


def test_the_load_balancer_answers_our_cloudfront_alone() -> None:
    (ingress,) = properties("LoadBalancerSecurityGroup")["SecurityGroupIngress"]
    (header,) = properties("Distribution")["DistributionConfig"]["Origins"][0]["OriginCustomHeaders"]
    (condition,) = properties("ListenerRule")["Conditions"]

    assert "SourcePrefixListId" in ingress
    assert "CidrIp" not in ingress
    assert properties("Listener")["DefaultActions"][0]["FixedResponseConfig"]["StatusCode"] == "403"
    assert condition["HttpHeaderConfig"] == {
        "HttpHeaderName": header["HeaderName"],
        "Values": [header["HeaderValue"]],
    }


def test_no_port_is_open_to_the_world() -> None:
    for group in of_type("AWS::EC2::SecurityGroup").values():
        assert "0.0.0.0/0" not in json.dumps(group)
    assert "Default" not in ALL["Parameters"]["ProducerCidr"]


def test_the_cache_tells_apart_what_the_thumbnailer_tells_apart_and_no_more() -> None:
    key = properties("CachePolicy")["CachePolicyConfig"]["ParametersInCacheKeyAndForwardedToOrigin"]

    # client and sig are read by pilbox itself.
    assert set(key["QueryStringsConfig"]["QueryStrings"]) == {*OPTION_OF_QUERY_NAME, "client", "sig"}
    assert key["CookiesConfig"] == {"CookieBehavior": "none"}
    assert key["HeadersConfig"]["Fn::If"] == [
        "HasWebP",
        {"HeaderBehavior": "whitelist", "Headers": ["Accept"]},
        {"HeaderBehavior": "none"},
    ]


def test_the_cache_keeps_a_thumbnail_for_the_year_that_it_says_and_no_error_by_default() -> None:
    policy = properties("CachePolicy")["CachePolicyConfig"]
    errors = properties("Distribution")["DistributionConfig"]["CustomErrorResponses"]

    assert (policy["MinTTL"], policy["DefaultTTL"], policy["MaxTTL"]) == (0, 0, 365 * 24 * 3600)
    assert {error["ErrorCode"] for error in errors} >= {404, 500, 502, 503, 504}
    assert all(error["ErrorCachingMinTTL"] < 10 for error in errors)


# --- whoever runs it --------------------------------------------------------------------------------------------------


def test_every_parameter_is_described_and_shown_in_a_group() -> None:
    groups = ALL["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]

    assert all(parameter["Description"].endswith(".") for parameter in ALL["Parameters"].values())
    assert {name for group in groups for name in group["Parameters"]} == set(ALL["Parameters"])


def test_the_template_is_small_enough_to_be_sent_without_a_bucket() -> None:
    # AWS, "CloudFormation quotas": what a request may hold.
    assert len(TEMPLATE.read_bytes()) <= 51_200


def test_every_alarm_tells_somebody() -> None:
    for alarm in of_type("AWS::CloudWatch::Alarm").values():
        assert alarm["AlarmActions"] == alarm["OKActions"] == [{"Ref": "AlarmTopic"}]


def test_what_exists_nowhere_else_is_never_deleted_with_the_stack() -> None:
    for kind in ("AWS::S3::Bucket", "AWS::EC2::Volume"):
        for name in of_type(kind):
            assert RESOURCES[name]["DeletionPolicy"] in ("Retain", "Snapshot")
