"""The fleet's template keeps the promises of docs/deploy.md and docs/queue.md. `make lint-ops` checks its syntax."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from md5s3stash.settings import RedisSettings, StashSettings, load
from md5s3stash_daemon.config.settings import SECTIONS, QueueSettings, SpoolSettings, UrlSettings
from md5s3stash_daemon.intake.sqs import consumer, termination_notice
from md5s3stash_daemon.intake.sqs.client import MAX_RETENTION_SECONDS
from tests.support.cloudformation import Stack, read_template
from tests.support.policies import policy_document, queue_policy_document
from tests.support.signals import HEALTH_OF_DAEMON, assert_signals, assert_waits_for_signals

TEMPLATE = read_template("fleet.yaml")
QUEUE_URL = "https://sqs.us-west-2.amazonaws.com/123456789012/stash-urls-1234567db123"
LEDGER_ELSEWHERE = {
    "LedgerUrl": "rediss://stash@ledger.example.org:6379/0",
    "LedgerSecretArn": "arn:aws:secretsmanager:us-west-2:123456789012:secret:ledger-AbCdEf",
}
# The daemon's defaults for settings that the template does not set.
DEFAULTS = load(SECTIONS, {"BUCKET_BASE": "bucket", "REDIS_URL": "redis://127.0.0.1"}, None)


def fleet(**parameters: Any) -> Stack:
    known = {
        "Queue": QUEUE_URL,
        "stash-BucketScheme": "multibucket",
        "Ledger.PrimaryEndPoint.Address": "master.ledger.example.org",
        "Ledger.PrimaryEndPoint.Port": "6379",
    }
    return Stack(TEMPLATE, parameters, known)


FLEET = fleet()


# --- the queue --------------------------------------------------------------------------------------------------------


def test_a_message_is_kept_as_long_as_sqs_keeps_any() -> None:
    for queue in FLEET.of_type("AWS::SQS::Queue").values():
        assert queue["MessageRetentionPeriod"] == MAX_RETENTION_SECONDS


def test_messages_that_nobody_can_read_leave_the_queue_and_those_that_failed_do_not() -> None:
    redrive = FLEET.properties("Queue")["RedrivePolicy"]

    assert redrive["deadLetterTargetArn"] == "DeadLetterQueue.Arn"
    # A stopping box returns its messages, which counts as a delivery: three per try are enough.
    assert redrive["maxReceiveCount"] >= 3 * DEFAULTS[UrlSettings].attempts


def test_the_dead_letter_queue_takes_from_this_queue_alone() -> None:
    allowed = FLEET.properties("DeadLetterQueue")["RedriveAllowPolicy"]
    name = FLEET.properties("Queue")["QueueName"]

    assert name == QUEUE_URL.rpartition("/")[2]
    assert allowed == {
        "redrivePermission": "byQueue",
        "sourceQueueArns": [f"arn:aws:sqs:us-west-2:123456789012:{name}"],
    }


def test_whoever_looks_by_hand_hides_a_message_as_long_as_a_daemon_does() -> None:
    assert FLEET.properties("Queue")["VisibilityTimeout"] == DEFAULTS[QueueSettings].visibility_seconds


def test_queues_are_encrypted_and_refuse_plain_http() -> None:
    policies = FLEET.of_type("AWS::SQS::QueuePolicy").values()
    guarded = {}
    for policy in policies:
        statement = policy["PolicyDocument"]["Statement"][0]
        assert (statement["Effect"], statement["Principal"], statement["Action"]) == ("Deny", "*", "sqs:*")
        assert statement["Condition"] == {"Bool": {"aws:SecureTransport": "false"}}
        guarded[statement["Resource"]] = policy["Queues"]

    assert guarded == {"Queue.Arn": [QUEUE_URL], "DeadLetterQueue.Arn": ["DeadLetterQueue"]}
    assert all(queue["SqsManagedSseEnabled"] for queue in FLEET.of_type("AWS::SQS::Queue").values())


def test_the_drop_bucket_alone_may_tell_the_queue_and_only_where_there_is_one() -> None:
    _, tells = fleet(DropBucketName="scans").properties("QueuePolicy")["PolicyDocument"]["Statement"]

    assert tells["Principal"] == {"Service": "s3.amazonaws.com"}
    assert tells["Condition"]["ArnEquals"] == {"aws:SourceArn": "arn:aws:s3:::scans"}
    assert tells["Condition"]["StringEquals"] == {"aws:SourceAccount": "123456789012"}
    assert len(FLEET.properties("QueuePolicy")["PolicyDocument"]["Statement"]) == 1


@pytest.mark.parametrize(
    ("name", "policy"), [("Queue", "Retain"), ("DeadLetterQueue", "Retain"), ("Ledger", "Snapshot")]
)
def test_what_exists_nowhere_else_is_never_deleted_with_the_stack(name: str, policy: str) -> None:
    resource = FLEET.resources[name]

    assert (resource["DeletionPolicy"], resource["UpdateReplacePolicy"]) == (policy, policy)


# --- rights -----------------------------------------------------------------------------------------------------------


def test_a_box_has_the_rights_that_are_tested_with_rights_enforced() -> None:
    spool = policy_document("policy-spool", "stash-Bucket", "PREFIX")
    # The other stack exports its prefix.
    for statement in spool["Statement"][:2]:
        statement["Resource"] = "stash-ObjectsArn"

    assert FLEET.policies("Role")["stash"] == spool
    assert FLEET.policies("Role")["queue"] == queue_policy_document("Queue.Arn")


def test_a_box_has_no_other_right_than_to_read_the_password_and_the_drop_bucket() -> None:
    policies = fleet(DropBucketName="scans").policies("Role")
    rights = {name: [(each["Action"], each["Resource"]) for each in policies[name]["Statement"]] for name in policies}

    assert FLEET.policies("Role").keys() == {"stash", "queue", "ledger", "signal", "logs"}
    assert rights.keys() == {"stash", "queue", "ledger", "drops", "signal", "logs"}
    assert rights["drops"] == [("s3:GetObject", "arn:aws:s3:::scans/*"), ("s3:ListBucket", "arn:aws:s3:::scans")]
    assert rights["ledger"] == [("secretsmanager:GetSecretValue", "LedgerSecret")]
    assert fleet(**LEDGER_ELSEWHERE).policies("Role")["ledger"]["Statement"][0]["Resource"].endswith("ledger-AbCdEf")


def test_a_box_reads_the_settings_that_come_with_the_stack_and_no_other_parameter() -> None:
    told = fleet(SettingsName="/md5s3stash/fleet")
    (statement,) = told.policies("Role")["settings"]["Statement"]

    assert (statement["Action"], statement["Resource"]) == (
        "ssm:GetParameter",
        "arn:aws:ssm:us-west-2:123456789012:parameter/md5s3stash/fleet",
    )
    assert "SETTINGS_NAME=/md5s3stash/fleet\n" in told.files("LaunchTemplate")["/etc/md5s3stash/aws.env"]


# --- an update --------------------------------------------------------------------------------------------------------


def test_a_box_that_does_not_signal_rolls_an_update_back_before_the_next_box_is_replaced() -> None:
    assert_waits_for_signals(FLEET.resources["Group"]["UpdatePolicy"]["AutoScalingRollingUpdate"])
    assert_signals(FLEET, "LaunchTemplate", "Role", "Group", HEALTH_OF_DAEMON)


def test_a_fleet_that_starts_without_a_box_waits_for_none() -> None:
    assert TEMPLATE["Parameters"]["Minimum"]["Default"] == 0
    assert "CreationPolicy" not in FLEET.resources["Group"]


# --- the ledger -------------------------------------------------------------------------------------------------------


def test_a_record_counts_when_two_zones_have_it_and_is_never_thrown_out() -> None:
    ledger = FLEET.properties("Ledger")

    assert (ledger["NumCacheClusters"], ledger["MultiAZEnabled"], ledger["AutomaticFailoverEnabled"]) == (2, True, True)
    assert ledger["NumCacheClusters"] - 1 == TEMPLATE["Parameters"]["LedgerReplicas"]["Default"]
    assert FLEET.properties("LedgerSettings")["Properties"] == {"maxmemory-policy": "noeviction"}
    assert ledger["CacheParameterGroupName"] == "LedgerSettings"
    assert ledger["SnapshotRetentionLimit"] >= 7


def test_a_fleet_goes_on_with_the_ledger_of_an_earlier_one_from_its_snapshot() -> None:
    assert fleet(LedgerSnapshotName="stash-fleet-ledger").properties("Ledger")["SnapshotName"] == "stash-fleet-ledger"
    assert "SnapshotName" not in FLEET.properties("Ledger")


def test_a_ledger_from_a_snapshot_and_one_elsewhere_contradict_each_other() -> None:
    (told,) = fleet(LedgerSnapshotName="stash-fleet-ledger", **LEDGER_ELSEWHERE).broken_rules()

    assert "LedgerSnapshotName" in told
    assert "LedgerUrl" in told
    assert (
        fleet(LedgerSnapshotName="stash-fleet-ledger").broken_rules()
        == fleet(**LEDGER_ELSEWHERE).broken_rules()
        == set()
    )


def test_the_ledger_speaks_tls_with_one_user_who_has_a_password_and_touches_our_keys_alone() -> None:
    ledger = FLEET.properties("Ledger")
    user, nobody = FLEET.properties("LedgerUser"), FLEET.properties("LedgerNobody")

    assert (ledger["TransitEncryptionEnabled"], ledger["AtRestEncryptionEnabled"]) == (True, True)
    assert ledger["UserGroupIds"] == ["LedgerUsers"]
    assert FLEET.properties("LedgerUsers")["UserIds"] == ["LedgerUser", "LedgerNobody"]
    assert user["AccessString"] == f"on ~{DEFAULTS[RedisSettings].prefix}:* +@all -@dangerous"
    assert user["AuthenticationMode"]["Passwords"] == ["{{resolve:secretsmanager:LedgerSecret}}"]
    assert (nobody["UserName"], nobody["AccessString"]) == ("default", "off ~* -@all")


def test_the_ledger_answers_the_boxes_that_stash_alone() -> None:
    ingress = FLEET.properties("LedgerSecurityGroup")["SecurityGroupIngress"]

    assert [(rule["FromPort"], rule["SourceSecurityGroupId"]) for rule in ingress] == [
        (6379, "SecurityGroup"),
        (6379, "stash-SpoolSecurityGroup"),
    ]
    assert "SecurityGroupIngress" not in FLEET.properties("SecurityGroup")


def test_where_there_is_a_ledger_none_is_made() -> None:
    stack = fleet(**LEDGER_ELSEWHERE)

    assert [name for name in stack.resources if name.startswith("Ledger")] == []
    assert stack.outputs["LedgerUrl"]["Value"] == LEDGER_ELSEWHERE["LedgerUrl"]


@pytest.mark.parametrize("parameters", [{}, LEDGER_ELSEWHERE], ids=["its own", "elsewhere"])
def test_a_fleet_whose_ledger_a_spool_uses_cannot_be_deleted(parameters: dict[str, str]) -> None:
    # CloudFormation deletes no stack with an export that another stack imports.
    outputs = fleet(**parameters).outputs
    exported = {output["Export"]["Name"]: output["Value"] for output in outputs.values() if "Export" in output}
    known = {f"stash-fleet{name.removeprefix('stash')}": value for name, value in exported.items()}
    spool = Stack(read_template("template.yaml"), {"BucketName": "B", "LedgerStackName": "stash-fleet"}, known)
    told = spool.files("SpoolLaunchTemplate")["/etc/md5s3stash/aws.env"]

    assert exported.keys() == {"stash-LedgerUrl", "stash-LedgerSecretArn"}
    assert f"LEDGER_URL={exported['stash-LedgerUrl']}\n" in told
    assert f"LEDGER_SECRET_ARN={exported['stash-LedgerSecretArn']}\n" in told
    assert spool.policies("SpoolRole")["ledger"]["Statement"][0]["Resource"] == exported["stash-LedgerSecretArn"]
    assert "replicas = 1\n" in spool.files("SpoolLaunchTemplate")["/etc/md5s3stash/md5s3stash.toml"]
    assert "Fn::ImportValue" in str(read_template("template.yaml")["Resources"]["SpoolLaunchTemplate"])


# --- the boxes --------------------------------------------------------------------------------------------------------


def test_the_settings_of_a_box_are_valid_and_lead_to_queue_bucket_and_ledger(tmp_path: Path) -> None:
    files = fleet(DropBucketName="scans").files("LaunchTemplate")
    file = tmp_path / "md5s3stash.toml"
    file.write_text(files["/etc/md5s3stash/md5s3stash.toml"])

    settings = load(SECTIONS, {"REDIS_URL": "rediss://stash:secret@ledger.example.org:6379/0"}, file)

    assert settings[StashSettings].bucket_base == ("stash-BucketBase",)
    assert settings[StashSettings].bucket_scheme == "multibucket"
    assert settings[RedisSettings].replicas == 1
    # ElastiCache has no append-only file, and does not show its settings.
    assert settings[RedisSettings].accepted_risks == ("appendonly", "unknown")
    assert settings[QueueSettings].url == QUEUE_URL
    assert settings[QueueSettings].drop_buckets == ("scans",)
    assert settings[QueueSettings].metadata_url == "http://169.254.169.254"
    assert settings[UrlSettings].shared
    assert "drop_buckets = []" in FLEET.files("LaunchTemplate")["/etc/md5s3stash/md5s3stash.toml"]


@pytest.mark.parametrize(
    ("stack", "url", "secret"),
    [
        (FLEET, "rediss://stash@master.ledger.example.org:6379/0", "LedgerSecret"),
        (fleet(**LEDGER_ELSEWHERE), *LEDGER_ELSEWHERE.values()),
    ],
)
def test_a_box_is_told_where_the_password_is_and_not_what_it_is(stack: Stack, url: str, secret: str) -> None:
    assert set(stack.user_data("LaunchTemplate")) == {"write_files"}
    environment = stack.files("LaunchTemplate")["/etc/md5s3stash/aws.env"]

    assert f"LEDGER_URL={url}\nLEDGER_SECRET_ARN={secret}\n" in environment
    assert "resolve:" not in str(stack.user_data("LaunchTemplate"))


def test_every_box_has_imds_v2_one_hop_and_an_encrypted_disk() -> None:
    data = FLEET.properties("LaunchTemplate")["LaunchTemplateData"]

    assert data["MetadataOptions"] == {
        "HttpEndpoint": "enabled",
        "HttpTokens": "required",
        "HttpPutResponseHopLimit": 1,
    }
    assert [device["Ebs"]["Encrypted"] for device in data["BlockDeviceMappings"]] == [True]


def test_a_box_that_is_to_go_has_the_time_that_its_daemon_takes_and_nobody_has_to_say_when_it_is_done() -> None:
    (hook,) = FLEET.properties("Group")["LifecycleHookSpecificationList"]
    seconds = (
        termination_notice.POLL_SECONDS
        + 2 * termination_notice._ANSWER_SECONDS
        + DEFAULTS[SpoolSettings].stop_seconds
        + consumer._GRACE_SECONDS
    )

    assert hook["LifecycleTransition"] == "autoscaling:EC2_INSTANCE_TERMINATING"
    assert seconds < hook["HeartbeatTimeout"] <= 2 * seconds
    assert hook["DefaultResult"] == "CONTINUE"


@pytest.mark.parametrize(("spot", "on_demand"), [("on", 0), ("off", 100)])
def test_boxes_are_spot_instances_unless_somebody_wants_others(spot: str, on_demand: int) -> None:
    policy = fleet(Spot=spot).properties("Group")["MixedInstancesPolicy"]

    assert policy["InstancesDistribution"]["OnDemandPercentageAboveBaseCapacity"] == on_demand
    assert TEMPLATE["Parameters"]["Spot"]["Default"] == "on"


# --- scaling ----------------------------------------------------------------------------------------------------------


def test_boxes_come_and_go_with_the_messages_that_each_would_have() -> None:
    tracking = FLEET.properties("Scaling")["TargetTrackingConfiguration"]
    result, *sources = tracking["CustomizedMetricSpecification"]["Metrics"]
    metrics = {query["Id"]: query["MetricStat"]["Metric"] for query in sources}

    assert tracking["TargetValue"] == TEMPLATE["Parameters"]["BacklogPerBox"]["Default"]
    assert result["Expression"] == "(FILL(visible, 0) + FILL(hidden, 0)) / IF(boxes > 0, boxes, 1)"
    assert {metrics[name]["MetricName"] for name in ("visible", "hidden")} == {
        "ApproximateNumberOfMessagesVisible",
        "ApproximateNumberOfMessagesNotVisible",
    }
    assert {tuple(metrics[name]["Dimensions"][0].values()) for name in ("visible", "hidden")} == {
        ("QueueName", "Queue.QueueName")
    }
    assert metrics["boxes"]["Dimensions"] == [{"Name": "AutoScalingGroupName", "Value": "Group"}]
    (collected,) = FLEET.properties("Group")["MetricsCollection"]
    assert metrics["boxes"]["MetricName"] in collected["Metrics"], "the only source of the metric"
    assert [query.get("ReturnData", True) for query in (result, *sources)] == [True, False, False, False]


def test_where_there_is_no_box_the_first_message_brings_one() -> None:
    policy, alarm = FLEET.properties("FirstBox"), FLEET.properties("FirstMessageAlarm")

    assert TEMPLATE["Parameters"]["Minimum"]["Default"] == 0
    assert (policy["AdjustmentType"], policy["StepAdjustments"][0]["ScalingAdjustment"]) == ("ExactCapacity", 1)
    assert alarm["AlarmActions"] == ["FirstBox"]
    assert alarm["Metrics"][0]["Expression"] == "IF(boxes < 1, visible, 0)"
    assert (alarm["Threshold"], alarm["ComparisonOperator"]) == (1, "GreaterThanOrEqualToThreshold")


# --- alarms -----------------------------------------------------------------------------------------------------------


def test_somebody_is_told_of_messages_that_wait_too_long_or_are_dead_and_of_a_fleet_that_stands_still() -> None:
    oldest, dead = FLEET.properties("OldestMessageAlarm"), FLEET.properties("DeadLettersAlarm")
    still = FLEET.properties("FleetStandsStillAlarm")

    assert oldest["Metrics"][0]["Expression"] == "age / 3600"
    assert oldest["Metrics"][1]["MetricStat"]["Metric"]["MetricName"] == "ApproximateAgeOfOldestMessage"
    assert fleet(OldestMessageHours=48).properties("OldestMessageAlarm")["Threshold"] == 48
    assert TEMPLATE["Parameters"]["OldestMessageHours"]["MaxValue"] * 3600 < MAX_RETENTION_SECONDS
    assert (dead["Dimensions"][0]["Value"], dead["Threshold"]) == ("DeadLetterQueue.QueueName", 0)
    assert still["Metrics"][0]["Expression"] == "IF(waiting > 0 AND FILL(done, 0) < 1, 1, 0)"
    assert still["EvaluationPeriods"] * still["Metrics"][1]["MetricStat"]["Period"] == 1800


def test_a_full_ledger_is_told_of_before_it_refuses() -> None:
    alarm = FLEET.properties("LedgerIsFullAlarm")

    assert alarm["MetricName"] == "DatabaseMemoryUsagePercentage"
    assert alarm["Threshold"] <= 80
    assert "LedgerIsFullAlarm" not in fleet(**LEDGER_ELSEWHERE).resources


# --- beside the other stack -------------------------------------------------------------------------------------------


def test_what_the_fleet_imports_the_other_stack_exports() -> None:
    exported = {
        output["Export"]["Name"]["Fn::Sub"].partition("-")[2]
        for output in read_template("template.yaml")["Outputs"].values()
        if "Export" in output
    }

    assert exported == set(re.findall(r"\$\{StashStackName\}-(\w+)", str(TEMPLATE)))


def test_a_spool_takes_the_same_words_for_a_shared_ledger_as_the_fleet_gives() -> None:
    parameters = read_template("template.yaml")["Parameters"]

    assert {"LedgerUrl", "LedgerSecretArn"} <= FLEET.outputs.keys()
    for name in ("LedgerUrl", "LedgerSecretArn", "LedgerReplicas", "LedgerAcceptedRisks"):
        ours, theirs = TEMPLATE["Parameters"][name], parameters[name]
        assert {**ours, "Description": ""} == {**theirs, "Description": ""}
