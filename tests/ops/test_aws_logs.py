"""Access logs: aws/logs.yaml accepts what the stack sends, and from no other account. Also the limit on requests."""

from __future__ import annotations

from tests.support.cloudformation import Stack, read_template
from tests.support.stash_stack import stack

LOGS = Stack(read_template("logs.yaml"), {"LogBucketName": "logs"}, {"LogBucket.Arn": "arn:aws:s3:::logs"})
STACK = stack(LogBucketName="logs")


def allowed(service: str) -> str:
    """Where a service may write."""
    (statement,) = [
        each
        for each in LOGS.properties("LogBucketPolicy")["PolicyDocument"]["Statement"]
        if each["Principal"] == {"Service": service}
    ]
    assert (statement["Effect"], statement["Action"]) == ("Allow", "s3:PutObject")
    assert "123456789012" in str(statement["Condition"]), "other accounts must not write"
    return str(statement["Resource"])


def attributes(of: Stack) -> dict[str, str]:
    return {each["Key"]: each["Value"] for each in of.properties("LoadBalancer")["LoadBalancerAttributes"]}


def test_without_a_bucket_for_them_there_are_no_access_logs() -> None:
    assert "LoggingConfiguration" not in stack().properties("Bucket")
    assert "Logging" not in stack().properties("Distribution")["DistributionConfig"]
    logs = {key: value for key, value in attributes(stack()).items() if key.startswith("access_logs.")}
    assert logs == {"access_logs.s3.enabled": "false"}


def test_the_bucket_lets_s3_write_where_the_stack_sends_its_logs() -> None:
    logging = STACK.properties("Bucket")["LoggingConfiguration"]

    written = f"arn:aws:s3:::{logging['DestinationBucketName']}/{logging['LogFilePrefix']}*"
    assert written == allowed("logging.s3.amazonaws.com")


def test_the_bucket_lets_the_load_balancer_write_where_the_stack_sends_its_logs() -> None:
    sent = attributes(STACK)

    assert sent["access_logs.s3.enabled"] == "true"
    # The load balancer adds the rest.
    written = f"arn:aws:s3:::{sent['access_logs.s3.bucket']}/{sent['access_logs.s3.prefix']}/AWSLogs/123456789012/*"
    assert written == allowed("logdelivery.elasticloadbalancing.amazonaws.com")
    assert LOGS.properties("LogBucket")["BucketEncryption"]["ServerSideEncryptionConfiguration"] == [
        {"ServerSideEncryptionByDefault": {"SSEAlgorithm": "AES256"}}
    ]


def test_cloudfront_writes_by_an_access_control_list_which_the_bucket_has_to_know() -> None:
    logging = STACK.properties("Distribution")["DistributionConfig"]["Logging"]

    assert logging == {"Bucket": "logs.s3.amazonaws.com", "Prefix": "cloudfront/"}
    assert LOGS.properties("LogBucket")["OwnershipControls"]["Rules"] == [{"ObjectOwnership": "BucketOwnerPreferred"}]


def test_logs_are_private_and_deleted_after_some_time() -> None:
    bucket = LOGS.properties("LogBucket")

    assert set(bucket["PublicAccessBlockConfiguration"].values()) == {True}
    assert len(bucket["PublicAccessBlockConfiguration"]) == 4
    assert bucket["LifecycleConfiguration"]["Rules"][0]["ExpirationInDays"] == 90
    deny = LOGS.properties("LogBucketPolicy")["PolicyDocument"]["Statement"][0]
    assert (deny["Effect"], deny["Condition"]) == ("Deny", {"Bool": {"aws:SecureTransport": "false"}})


def test_an_address_that_asks_too_often_is_refused_if_somebody_wants_that() -> None:
    viewers = Stack(read_template("cloudfront-alarm.yaml"), {"RateLimit": 2000}, {})
    acl = viewers.properties("WebAcl")
    (rule,) = acl["Rules"]

    assert (acl["Scope"], acl["DefaultAction"], rule["Action"]) == ("CLOUDFRONT", {"Allow": {}}, {"Block": {}})
    assert rule["Statement"] == {"RateBasedStatement": {"AggregateKeyType": "IP", "Limit": 2000}}
    arn = viewers.outputs["WebAclArn"]["Value"]
    assert stack(WebAclArn=arn).properties("Distribution")["DistributionConfig"]["WebACLId"] == arn


def test_there_is_no_limit_by_default() -> None:
    assert "WebAcl" not in Stack(read_template("cloudfront-alarm.yaml"), {}, {}).resources
    assert "WebACLId" not in stack().properties("Distribution")["DistributionConfig"]
