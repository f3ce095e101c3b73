"""The CloudFormation template keeps the promises of docs/deploy.md. `make lint-ops` checks it with cfn-lint."""

from __future__ import annotations

import ipaddress
import json
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest

from aws.image import spool_metrics, stack_signal
from md5s3stash.errors import SettingsError
from md5s3stash.s3.client import parse_endpoint
from md5s3stash.settings import RedisSettings, StashSettings, load
from md5s3stash_daemon.config.load import read_settings
from md5s3stash_daemon.config.settings import SECTIONS
from md5s3stash_thumbnailer.part import QUERY_NAMES
from md5s3stash_thumbnailer.request import AUTO_FORMATS, OPTION_OF_QUERY_NAME, USUAL
from md5s3stash_thumbnailer.server.accept import accepted_formats
from md5s3stash_thumbnailer.server.client_address import client_of
from tests.support.cloudformation import AWS, read_template
from tests.support.policies import policy_document
from tests.support.signals import HEALTH_OF_DAEMON, assert_signals, assert_waits_for_signals, seconds_of
from tests.support.stash_stack import SHARED_LEDGER, stack
from tests.thumbnailer.test_auto_formats import ACCEPTED

ALL = read_template("template.yaml")
RESOURCES: dict[str, Any] = ALL["Resources"]
STACK = stack()


def properties(name: str) -> dict[str, Any]:
    found: dict[str, Any] = RESOURCES[name]["Properties"]
    return found


def of_type(kind: str) -> dict[str, dict[str, Any]]:
    """name -> properties"""
    found = {name: properties(name) for name, resource in RESOURCES.items() if resource["Type"] == kind}
    assert found, kind
    return found


def files_of(name: str) -> dict[str, str]:
    return STACK.files(name)


# --- rights -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("role", "document"), [("SpoolRole", "policy-spool"), ("ThumbnailRole", "policy-thumbnails")])
def test_a_role_has_the_rights_that_are_tested_with_rights_enforced(role: str, document: str) -> None:
    assert STACK.policies(role)["stash"] == policy_document(document, "BUCKET", "PREFIX")


@pytest.mark.parametrize("role", ["SpoolRole", "ThumbnailRole"])
def test_a_role_has_no_right_to_s3_beside_these(role: str) -> None:
    for name, policy in stack(**SHARED_LEDGER).policies(role).items():
        for statement in policy["Statement"]:
            actions = statement["Action"] if isinstance(statement["Action"], list) else [statement["Action"]]
            assert all("*" not in action for action in actions)
            assert name == "stash" or not any(action.startswith("s3:") for action in actions)
            if statement["Resource"] == "*":
                assert actions in (["ec2:DescribeVolumes"], ["cloudwatch:PutMetricData"])


def test_the_spool_may_tell_cloudwatch_of_itself_and_of_nothing_else() -> None:
    (statement,) = STACK.policies("SpoolRole")["metrics"]["Statement"]

    assert statement["Condition"] == {"StringEquals": {"cloudwatch:namespace": spool_metrics.NAMESPACE}}


def test_the_spool_may_read_a_password_only_where_it_shares_a_ledger() -> None:
    (statement,) = stack(**SHARED_LEDGER).policies("SpoolRole")["ledger"]["Statement"]

    assert (statement["Action"], statement["Resource"]) == (
        "secretsmanager:GetSecretValue",
        SHARED_LEDGER["LedgerSecretArn"],
    )
    assert "ledger" not in STACK.policies("SpoolRole")


# --- the bucket -------------------------------------------------------------------------------------------------------


def test_the_bucket_is_private_versioned_and_outlives_the_stack() -> None:
    bucket = properties("Bucket")

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerEnforced"}]
    assert bucket["VersioningConfiguration"] == {"Status": "Enabled"}
    # Of a stack whose creation failed it would be in the way of the next one.
    assert RESOURCES["Bucket"]["DeletionPolicy"] == "RetainExceptOnCreate"
    assert RESOURCES["Bucket"]["UpdateReplacePolicy"] == "Retain"


def test_the_bucket_forgets_stale_uploads_and_no_current_object() -> None:
    abort, forget = properties("Bucket")["LifecycleConfiguration"]["Rules"]

    assert abort["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] <= 7
    assert forget["Fn::If"][0] == "ForgetsVersions"
    assert ALL["Parameters"]["NoncurrentDays"]["Default"] == 0
    assert "ExpirationInDays" not in json.dumps([abort, forget])


def test_the_bucket_is_encrypted_so_that_etags_stay_md5s() -> None:
    assert "aws:kms" not in json.dumps(properties("Bucket")["BucketEncryption"])


def test_the_bucket_speaks_tls_alone() -> None:
    statement = properties("BucketPolicy")["PolicyDocument"]["Statement"][0]

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

    assert [device["DeviceName"] for device in devices] == ["/dev/xvda"], "only the root disk belongs to a box"
    assert (volume["Encrypted"], volume["VolumeType"]) == (True, "gp3")
    assert RESOURCES["SpoolVolume"]["DeletionPolicy"] == RESOURCES["SpoolVolume"]["UpdateReplacePolicy"] == "Snapshot"


def test_the_volume_has_a_snapshot_each_day_for_two_weeks_unless_somebody_wants_none() -> None:
    details = STACK.properties("SpoolSnapshots")["PolicyDetails"]
    (schedule,) = details["Schedules"]

    assert details["TargetTags"][0] in STACK.properties("SpoolVolume")["Tags"]
    assert schedule["CreateRule"]["Interval"] == 24
    assert schedule["RetainRule"] == {"Count": 14}
    (trusted,) = STACK.properties("SnapshotRole")["AssumeRolePolicyDocument"]["Statement"]
    assert trusted["Principal"] == {"Service": "dlm.amazonaws.com"}
    assert not {"SpoolSnapshots", "SnapshotRole"} & stack(SpoolSnapshotDays="0").resources.keys()


def test_no_other_disk_has_the_tag_that_snapshots_go_by() -> None:
    (target,) = STACK.properties("SpoolSnapshots")["PolicyDetails"]["TargetTags"]

    for template in STACK.of_type("AWS::EC2::LaunchTemplate").values():
        for tagged in template["LaunchTemplateData"]["TagSpecifications"]:
            assert tagged["ResourceType"] != "volume" or target not in tagged["Tags"]


def test_there_is_never_more_than_one_spool_box() -> None:
    group = properties("SpoolGroup")

    assert (group["MaxSize"], group["DesiredCapacity"]) == ("1", "1")
    assert RESOURCES["SpoolGroup"]["UpdatePolicy"]["AutoScalingRollingUpdate"]["MinInstancesInService"] == 0


@pytest.mark.parametrize("name", ["SpoolLaunchTemplate", "ThumbnailLaunchTemplate"])
def test_user_data_writes_settings_and_does_nothing_else(name: str) -> None:
    assert set(STACK.user_data(name)) == {"write_files"}
    assert all(path.startswith("/etc/md5s3stash/") for path in files_of(name))


def test_the_settings_of_the_spool_are_valid(tmp_path: Path) -> None:
    files = files_of("SpoolLaunchTemplate")
    file = tmp_path / "md5s3stash.toml"
    file.write_text(files["/etc/md5s3stash/md5s3stash.toml"])

    settings = load(SECTIONS, {}, file)

    assert settings[StashSettings].bucket_base == ("BUCKET/PREFIX",)
    assert settings[RedisSettings].url == "unix:///run/redis/redis-server.sock"
    assert settings[RedisSettings].accepted_risks == ()


def test_a_spool_with_a_shared_ledger_gets_its_url_from_the_environment_alone(tmp_path: Path) -> None:
    files = stack(**SHARED_LEDGER).files("SpoolLaunchTemplate")
    file = tmp_path / "md5s3stash.toml"
    file.write_text(files["/etc/md5s3stash/md5s3stash.toml"])

    # A program that reads the file without the environment must not use the box's own Redis as ledger.
    with pytest.raises(SettingsError, match="REDIS_URL"):
        read_settings({}, file)
    settings = read_settings({"REDIS_URL": "rediss://stash:secret@ledger.example.org:6379/0"}, file)
    assert settings[RedisSettings].replicas == 1
    assert settings[RedisSettings].accepted_risks == ("appendonly", "unknown")
    for name, value in SHARED_LEDGER.items():
        assert value in files["/etc/md5s3stash/aws.env"].splitlines()[-2 if name == "LedgerUrl" else -1]


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
    spool = files_of("SpoolLaunchTemplate")["/etc/md5s3stash/aws.env"]
    assert "SPOOL_VOLUME_ID=vol-0123456789abcdef0\n" in spool
    assert "METRICS_STACK=stash\n" in spool
    thumbnails = files_of("ThumbnailLaunchTemplate")
    assert "BUCKET_BASE=BUCKET/PREFIX\n" in thumbnails["/etc/md5s3stash/thumbnailer.env"]
    (options,) = re.findall("^THUMBNAILER_OPTIONS=(.*)$", thumbnails["/etc/md5s3stash/thumbnailer.env"], re.MULTILINE)
    assert options.startswith("--auto_formats=best --public_url=https://Distribution.DomainName --trusted_proxies=")
    assert options.endswith(" --quality=85")
    assert "THUMBNAILER_SECRET_NAME=/md5s3stash/thumbnailer\n" in thumbnails["/etc/md5s3stash/aws.env"]


# --- an update --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("group", ["SpoolGroup", "ThumbnailGroup"])
def test_a_box_that_does_not_signal_ends_the_creation_and_rolls_an_update_back(group: str) -> None:
    assert_waits_for_signals(STACK.resources[group]["UpdatePolicy"]["AutoScalingRollingUpdate"])
    signal = STACK.resources[group]["CreationPolicy"]["ResourceSignal"]

    assert seconds_of(signal["Timeout"]) == stack_signal.WAIT_SECONDS
    boxes = {"SpoolGroup": STACK.properties("SpoolGroup")["DesiredCapacity"], "ThumbnailGroup": 1}
    assert int(signal["Count"]) == int(boxes[group])


def test_a_box_signals_for_its_own_group_and_may_signal_for_this_stack_alone() -> None:
    target_group = STACK.properties("TargetGroup")
    health_of_thumbnailer = f"http://127.0.0.1:{target_group['Port']}{target_group['HealthCheckPath']}"

    assert_signals(STACK, "SpoolLaunchTemplate", "SpoolRole", "SpoolGroup", HEALTH_OF_DAEMON)
    assert_signals(STACK, "ThumbnailLaunchTemplate", "ThumbnailRole", "ThumbnailGroup", health_of_thumbnailer)


def test_an_update_is_the_only_time_in_which_unhealthy_thumbnail_servers_are_not_replaced() -> None:
    rolling = STACK.resources["ThumbnailGroup"]["UpdatePolicy"]["AutoScalingRollingUpdate"]

    # Without these an update replaces nothing. CloudFormation resumes the others.
    assert not {"Launch", "Terminate", "AddToLoadBalancer"} & set(rolling["SuspendProcesses"])
    assert STACK.properties("ThumbnailGroup")["HealthCheckType"] == "ELB"
    assert STACK.properties("ThumbnailGroup")["TargetGroupARNs"] == ["TargetGroup"]


# --- access from outside ----------------------------------------------------------------------------------------------


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
    assert condition["HttpHeaderConfig"] == {"HttpHeaderName": header["HeaderName"], "Values": [header["HeaderValue"]]}


def test_no_port_is_open_to_the_world() -> None:
    for group in of_type("AWS::EC2::SecurityGroup").values():
        assert "0.0.0.0/0" not in json.dumps(group)
    assert "Default" not in ALL["Parameters"]["ProducerCidr"]


def test_the_cache_tells_apart_what_the_thumbnailer_tells_apart_and_no_more() -> None:
    key = properties("CachePolicy")["CachePolicyConfig"]["ParametersInCacheKeyAndForwardedToOrigin"]

    # client and sig are pilbox's, the other two are ours.
    ours = {"client", "sig", "expires", "signature"}
    assert set(key["QueryStringsConfig"]["QueryStrings"]) == {*OPTION_OF_QUERY_NAME, *QUERY_NAMES, *ours}
    assert key["CookiesConfig"] == {"CookieBehavior": "none"}
    assert key["HeadersConfig"]["Fn::If"] == [
        "HasWebP",
        {"HeaderBehavior": "whitelist", "Headers": ["Accept"]},
        {"HeaderBehavior": "none"},
    ]


BROWSERS = [accept for accept in ACCEPTED if accept.startswith("image/avif,image/webp,") and not accept.endswith(" ")]
REFUSED = ["", "*/*", "image/*", "image/webp;q=0,*/*", "image/avif; Q=0.0 , image/webp ; q=0.000", "image/webp;q=.0"]


@pytest.mark.parametrize(("setting", "offered"), [("best", AUTO_FORMATS), ("on", ("webp",))])
def test_cloudfront_reduces_accept_to_what_decides_the_format(setting: str, offered: tuple[str, ...]) -> None:
    code = stack(WebP=setting).properties("AcceptFunction")["FunctionCode"]
    asked = [*BROWSERS, *REFUSED, "image/avif;q=0,image/webp,*/*", "image/avif,*/*", "image/webp;q=0.9"]
    events = [{"request": {"headers": {"accept": {"value": accept}} if accept else {}}} for accept in asked]
    program = f"{code}\nfor (const e of {json.dumps(events)}) console.log(handler(e).headers.accept.value);"
    passed_on = subprocess.run(["node", "-"], input=program, text=True, capture_output=True, check=True).stdout.split()

    assert set(passed_on) == {"*/*", "image/webp,*/*"} | (
        {"image/avif,*/*", "image/avif,image/webp,*/*"} if setting == "best" else set()
    )
    for accept, reduced in zip(asked, passed_on, strict=True):
        formats = {*accepted_formats(accept, offered)} - {USUAL}
        assert {*accepted_formats(reduced, offered)} - {USUAL} == formats, accept


@pytest.mark.parametrize(
    ("setting", "option"), [("best", "--auto_formats=best"), ("on", "--webp"), ("off", "--public_url=")]
)
def test_the_thumbnailer_offers_the_formats_that_cloudfront_passes_on(setting: str, option: str) -> None:
    chosen = stack(WebP=setting)
    key = chosen.properties("CachePolicy")["CachePolicyConfig"]["ParametersInCacheKeyAndForwardedToOrigin"]
    behaviour = chosen.properties("Distribution")["DistributionConfig"]["DefaultCacheBehavior"]
    environment = chosen.files("ThumbnailLaunchTemplate")["/etc/md5s3stash/thumbnailer.env"]

    assert re.search(rf"THUMBNAILER_OPTIONS= *{option}", environment)
    assert (key["HeadersConfig"]["HeaderBehavior"] == "none") == (setting == "off")
    assert ("FunctionAssociations" not in behaviour) == (setting == "off")
    assert ("AcceptFunction" not in chosen.resources) == (setting == "off")


def test_the_cache_keeps_a_thumbnail_for_the_year_that_it_says_and_no_error_by_default() -> None:
    policy = properties("CachePolicy")["CachePolicyConfig"]
    errors = properties("Distribution")["DistributionConfig"]["CustomErrorResponses"]

    assert (policy["MinTTL"], policy["DefaultTTL"], policy["MaxTTL"]) == (0, 0, 365 * 24 * 3600)
    assert {error["ErrorCode"] for error in errors} >= {404, 500, 502, 503, 504}
    assert all(error["ErrorCachingMinTTL"] < 10 for error in errors)


def test_pictures_of_iiif_and_the_viewer_are_cached_by_their_path_alone() -> None:
    behaviours = properties("Distribution")["DistributionConfig"]["CacheBehaviors"]
    key = properties("IiifCachePolicy")["CachePolicyConfig"]["ParametersInCacheKeyAndForwardedToOrigin"]

    assert [behaviour["PathPattern"] for behaviour in behaviours] == ["/iiif/*", "/view/*"]
    assert {behaviour["CachePolicyId"]["Ref"] for behaviour in behaviours} == {"IiifCachePolicy"}
    kept = (key["QueryStringsConfig"], key["HeadersConfig"], key["CookiesConfig"])
    assert [next(iter(config.values())) for config in kept] == ["none", "none", "none"]


def test_links_of_iiif_name_the_host_that_viewers_ask() -> None:
    named = stack(ViewerDomainName="images.example.org", ViewerCertificateArn="arn")

    assert (
        "--public_url=https://images.example.org "
        in named.files("ThumbnailLaunchTemplate")["/etc/md5s3stash/thumbnailer.env"]
    )


def test_a_viewer_is_known_by_the_address_that_cloudfront_saw() -> None:
    """CloudFront adds the viewer's address to X-Forwarded-For, and the load balancer passes the header on as it is."""
    attributes = {each["Key"]: each["Value"] for each in STACK.properties("LoadBalancer")["LoadBalancerAttributes"]}
    (options,) = re.findall(
        "--trusted_proxies=(\\S+)", files_of("ThumbnailLaunchTemplate")["/etc/md5s3stash/thumbnailer.env"]
    )
    trusted = [ipaddress.ip_network(network) for network in options.split(",")]

    assert attributes["routing.http.xff_header_processing.mode"] == "preserve"
    for load_balancer in ("10.1.2.3", "172.31.9.9", "192.168.1.1"):
        assert client_of(load_balancer, {"X-Forwarded-For": "10.0.0.1, 198.51.100.7"}, trusted) == "198.51.100.7"


# --- operators --------------------------------------------------------------------------------------------------------


def test_every_parameter_is_described_and_shown_in_a_group() -> None:
    groups = ALL["Metadata"]["AWS::CloudFormation::Interface"]["ParameterGroups"]

    assert all(parameter["Description"].endswith(".") for parameter in ALL["Parameters"].values())
    assert {name for group in groups for name in group["Parameters"]} == set(ALL["Parameters"])


def test_the_template_is_small_enough_to_be_sent_without_a_bucket() -> None:
    # AWS, "CloudFormation quotas": the maximum size of a request.
    assert (AWS / "template.yaml").stat().st_size <= 51_200


def test_what_exists_nowhere_else_is_never_deleted_with_the_stack() -> None:
    for kind in ("AWS::S3::Bucket", "AWS::S3::BucketPolicy", "AWS::EC2::Volume"):
        for name in of_type(kind):
            assert RESOURCES[name]["DeletionPolicy"] in ("RetainExceptOnCreate", "Snapshot")


def test_errors_of_the_load_balancer_itself_count_as_those_of_its_servers() -> None:
    metrics = {query["Id"]: query for query in properties("ThumbnailErrorsAlarm")["Metrics"]}
    names = {query["MetricStat"]["Metric"]["MetricName"] for query in metrics.values() if "MetricStat" in query}

    assert names == {"HTTPCode_Target_5XX_Count", "HTTPCode_ELB_5XX_Count", "RequestCount"}


def test_a_spool_that_says_nothing_is_one_that_stands_still() -> None:
    assert properties("SpoolStandsStillAlarm")["TreatMissingData"] == "breaching"
