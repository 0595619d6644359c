"""CloudFormation: what the template says of our resources is what they are."""

import json
import time

import pytest
from botocore.exceptions import ClientError
from conftest import Cloud, eventually

DOCUMENT = {"schemaVersion": "2.2", "mainSteps": [{"action": "aws:runShellScript", "name": "run", "inputs": {"runCommand": ["echo one"]}}]}
TABLE = {"TableName": "catalog", "BillingMode": "PAY_PER_REQUEST", "KeySchema": [{"AttributeName": "pk", "KeyType": "HASH"}],
         "AttributeDefinitions": [{"AttributeName": "pk", "AttributeType": "S"}]}


def deploy(cloud: Cloud, resources: dict, update: bool = False) -> str:
    """The stack's final status."""
    cfn = cloud.client("cloudformation")
    template = json.dumps({"Resources": {name: {"Type": kind, "Properties": props, **more} for name, (kind, props, *rest)
                                         in resources.items() for more in [rest[0] if rest else {}]}})
    (cfn.update_stack if update else cfn.create_stack)(StackName="stack", TemplateBody=template)
    return eventually(lambda: status if not (status := stack(cloud)).endswith("PROGRESS") else None)


def stack(cloud: Cloud) -> str:
    return cloud.client("cloudformation").describe_stacks(StackName="stack")["Stacks"][0]["StackStatus"]


def reasons(cloud: Cloud) -> str:
    events = cloud.client("cloudformation").describe_stack_events(StackName="stack")["StackEvents"]
    return " ".join(event.get("ResourceStatusReason", "") for event in events)


def test_bucket_is_as_the_template_says(cloud):
    props = {
        "BucketName": "store", "VersioningConfiguration": {"Status": "Enabled"}, "ObjectLockEnabled": True,
        "ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled", "Rule": {"DefaultRetention": {"Mode": "GOVERNANCE", "Days": 7}}},
        "BucketEncryption": {"ServerSideEncryptionConfiguration": [{"BucketKeyEnabled": True, "ServerSideEncryptionByDefault": {
            "SSEAlgorithm": "aws:kms", "KMSMasterKeyID": "arn:aws:kms:eu-west-1:000000000000:key/k"}}]},
        "LifecycleConfiguration": {"Rules": [
            {"Id": "orphans", "Status": "Enabled", "AbortIncompleteMultipartUpload": {"DaysAfterInitiation": 3}},
            {"Id": "old", "Status": "Enabled", "Prefix": "v1/", "NoncurrentVersionExpiration": {"NoncurrentDays": 30},
             "TagFilters": [{"Key": "a", "Value": "b"}], "ExpirationInDays": 90}]},
        "OwnershipControls": {"Rules": [{"ObjectOwnership": "BucketOwnerEnforced"}]},
        "PublicAccessBlockConfiguration": {"BlockPublicAcls": True}, "Tags": [{"Key": "t", "Value": "v"}],
    }
    assert deploy(cloud, {"Bucket": ("AWS::S3::Bucket", props)}) == "CREATE_COMPLETE"
    s3 = cloud.client("s3")
    assert s3.get_bucket_versioning(Bucket="store")["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket="store")["ObjectLockConfiguration"]["Rule"]["DefaultRetention"] == \
        {"Mode": "GOVERNANCE", "Days": 7}
    rule = s3.get_bucket_encryption(Bucket="store")["ServerSideEncryptionConfiguration"]["Rules"][0]
    assert rule["BucketKeyEnabled"] and rule["ApplyServerSideEncryptionByDefault"]["KMSMasterKeyID"].endswith("key/k")
    rules = {rule["ID"]: rule for rule in s3.get_bucket_lifecycle_configuration(Bucket="store")["Rules"]}
    assert rules["orphans"]["AbortIncompleteMultipartUpload"]["DaysAfterInitiation"] == 3
    assert rules["old"]["Filter"]["And"]["Prefix"] == "v1/" and rules["old"]["Expiration"]["Days"] == 90
    assert rules["old"]["NoncurrentVersionExpiration"]["NoncurrentDays"] == 30
    put = s3.put_object(Bucket="store", Key="v1/a", Body=b"x")
    assert put["ServerSideEncryption"] == "aws:kms"
    with pytest.raises(ClientError, match="AccessDenied"):
        s3.delete_object(Bucket="store", Key="v1/a", VersionId=put["VersionId"])
    changed = {**props, "LifecycleConfiguration": {"Rules": [props["LifecycleConfiguration"]["Rules"][0]]}}
    assert deploy(cloud, {"Bucket": ("AWS::S3::Bucket", changed)}, update=True) == "UPDATE_COMPLETE"
    assert len(s3.get_bucket_lifecycle_configuration(Bucket="store")["Rules"]) == 1


@pytest.mark.parametrize("props", [
    {"IntelligentTieringConfigurations": [{}]}, {"LifecycleConfiguration": {"Rules": [{"Status": "Enabled", "Novel": 1}]}},
    {"ObjectLockConfiguration": {"ObjectLockEnabled": "Enabled"}}])
def test_bucket_property_that_would_be_dropped_fails_the_stack(cloud, props):
    assert deploy(cloud, {"Bucket": ("AWS::S3::Bucket", {"BucketName": "store", **props})}) == "ROLLBACK_COMPLETE"
    assert cloud.client("s3").list_buckets()["Buckets"] == []


def test_bucket_with_objects_is_not_deleted(cloud):
    deploy(cloud, {"Bucket": ("AWS::S3::Bucket", {"BucketName": "store"})})
    s3, cfn = cloud.client("s3"), cloud.client("cloudformation")
    s3.put_object(Bucket="store", Key="k", Body=b"x")
    cfn.delete_stack(StackName="stack")
    eventually(lambda: stack(cloud) == "DELETE_FAILED")
    assert s3.get_object(Bucket="store", Key="k")


def test_bucket_policy_is_applied_and_a_public_one_refused(cloud):
    def resources(effect):
        statement = {"Sid": "Tls", "Effect": effect, "Principal": "*", "Action": "s3:*", "Resource": "arn:aws:s3:::store/*"}
        return {"Bucket": ("AWS::S3::Bucket", {"BucketName": "store", "PublicAccessBlockConfiguration": {"BlockPublicPolicy": True}}),
                "Policy": ("AWS::S3::BucketPolicy", {"Bucket": "store", "PolicyDocument": {
                    "Version": "2012-10-17", "Statement": [statement]}}, {"DependsOn": "Bucket"})}

    assert deploy(cloud, resources("Deny")) == "CREATE_COMPLETE"
    stored = json.loads(cloud.client("s3").get_bucket_policy(Bucket="store")["Policy"])
    assert stored["Statement"][0]["Sid"] == "Tls"
    assert deploy(cloud, resources("Allow"), update=True) == "UPDATE_ROLLBACK_COMPLETE"
    assert "public policies are prevented" in reasons(cloud)


def test_table_is_as_the_template_says(cloud):
    props = {**TABLE, "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True}, "DeletionProtectionEnabled": True,
             "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}
    assert deploy(cloud, {"Table": ("AWS::DynamoDB::Table", props)}) == "CREATE_COMPLETE"
    dynamodb = cloud.client("dynamodb")

    def found():
        backups = dynamodb.describe_continuous_backups(TableName="catalog")["ContinuousBackupsDescription"]
        return (dynamodb.describe_time_to_live(TableName="catalog")["TimeToLiveDescription"]["TimeToLiveStatus"],
                backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"],
                dynamodb.describe_table(TableName="catalog")["Table"]["DeletionProtectionEnabled"])

    assert found() == ("ENABLED", "ENABLED", True)
    cloud.client("cloudformation").delete_stack(StackName="stack")
    eventually(lambda: stack(cloud) == "DELETE_FAILED")
    assert "protected against deletion" in reasons(cloud)


def test_global_table_keeps_its_settings_per_replica(cloud):
    props = {**TABLE, "TimeToLiveSpecification": {"AttributeName": "expires", "Enabled": True}, "Replicas": [{
        "Region": "eu-west-1", "DeletionProtectionEnabled": True,
        "PointInTimeRecoverySpecification": {"PointInTimeRecoveryEnabled": True}}]}
    assert deploy(cloud, {"Table": ("AWS::DynamoDB::GlobalTable", props)}) == "CREATE_COMPLETE"
    dynamodb = cloud.client("dynamodb")
    backups = dynamodb.describe_continuous_backups(TableName="catalog")["ContinuousBackupsDescription"]
    assert backups["PointInTimeRecoveryDescription"]["PointInTimeRecoveryStatus"] == "ENABLED"
    assert dynamodb.describe_time_to_live(TableName="catalog")["TimeToLiveDescription"]["AttributeName"] == "expires"
    assert dynamodb.describe_table(TableName="catalog")["Table"]["DeletionProtectionEnabled"]


@pytest.mark.parametrize("content", [DOCUMENT, json.dumps(DOCUMENT)], ids=["object", "text"])
def test_document_is_created_updated_and_deleted(cloud, content):
    props = {"Name": "hw-run", "DocumentType": "Command", "Content": content, "UpdateMethod": "NewVersion"}
    assert deploy(cloud, {"Doc": ("AWS::SSM::Document", props)}) == "CREATE_COMPLETE"
    ssm = cloud.client("ssm")
    assert ssm.describe_document(Name="hw-run")["Document"]["DocumentType"] == "Command"
    changed = json.loads(json.dumps(DOCUMENT).replace("one", "two"))
    assert deploy(cloud, {"Doc": ("AWS::SSM::Document", {**props, "Content": changed})}, update=True) == "UPDATE_COMPLETE"
    latest = ssm.get_document(Name="hw-run")
    assert latest["DocumentVersion"] == "2" and "echo two" in latest["Content"]
    cloud.client("cloudformation").delete_stack(StackName="stack")
    eventually(lambda: ssm.list_documents()["DocumentIdentifiers"] == [])


def test_function_keeps_its_dead_letters(cloud):
    props = {"FunctionName": "f", "Runtime": "python3.12", "Handler": "index.h", "Role": "arn:aws:iam::000000000000:role/any",
             "Code": {"ZipFile": "def h(event, context): pass"}}
    dead = {"TargetArn": "arn:aws:sqs:eu-west-1:000000000000:dead"}
    assert deploy(cloud, {"F": ("AWS::Lambda::Function", {**props, "DeadLetterConfig": dead})}) == "CREATE_COMPLETE"
    client = cloud.client("lambda")
    assert client.get_function_configuration(FunctionName="f")["DeadLetterConfig"] == dead
    assert deploy(cloud, {"F": ("AWS::Lambda::Function", {**props, "Timeout": 7})}, update=True) == "UPDATE_COMPLETE"
    assert "DeadLetterConfig" not in client.get_function_configuration(FunctionName="f")


def test_document_that_we_would_not_run_fails_the_stack(cloud):
    wrong = json.loads(json.dumps(DOCUMENT).replace("echo one", "echo {{ unknown }}"))
    assert deploy(cloud, {"Doc": ("AWS::SSM::Document", {"Name": "hw-run", "Content": wrong})}) == "ROLLBACK_COMPLETE"
    assert "unknown is not a parameter" in reasons(cloud)


def test_composite_alarm_follows_its_children(cloud):
    alarm = {"AlarmName": "child", "Namespace": "n", "MetricName": "m", "ComparisonOperator": "GreaterThanThreshold", "Threshold": 1}
    resources = {"Child": ("AWS::CloudWatch::Alarm", alarm), "Both": ("AWS::CloudWatch::CompositeAlarm", {
        "AlarmName": "any", "AlarmRule": 'ALARM("child")'}, {"DependsOn": "Child"})}
    assert deploy(cloud, resources) == "CREATE_COMPLETE"
    watch = cloud.client("cloudwatch")
    watch.set_alarm_state(AlarmName="child", StateValue="ALARM", StateReason="test")
    eventually(lambda: watch.describe_alarms(AlarmNames=["any"], AlarmTypes=["CompositeAlarm"])["CompositeAlarms"][0]["StateValue"] == "ALARM")


def test_alarm_of_metric_math_is_kept(cloud):
    metric = {"Id": "m0", "ReturnData": False, "MetricStat": {"Period": 300, "Stat": "Sum", "Metric": {"Namespace": "n", "MetricName": "m"}}}
    props = {"AlarmName": "math", "ComparisonOperator": "GreaterThanThreshold", "Threshold": 0, "EvaluationPeriods": 1,
             "TreatMissingData": "notBreaching", "Metrics": [{"Id": "e", "Expression": "FILL(m0, 0)"}, metric]}
    assert deploy(cloud, {"Math": ("AWS::CloudWatch::Alarm", props)}) == "CREATE_COMPLETE"
    watch = cloud.client("cloudwatch")
    watch.set_alarm_state(AlarmName="math", StateValue="ALARM", StateReason="test")
    assert watch.describe_alarms(AlarmNames=["math"])["MetricAlarms"][0]["Period"] == 300


def test_unknown_resource_type_fails_the_stack(cloud):
    status = None
    try:
        status = deploy(cloud, {"X": ("AWS::Nonsense::Thing", {})})
    except ClientError as error:
        assert "AWS::Nonsense::Thing" in str(error)
    assert status in (None, "ROLLBACK_COMPLETE")


def test_scheduled_rule_of_a_stack_really_fires(cloud):
    queue = cloud.client("sqs").create_queue(QueueName="ticks")["QueueUrl"]
    assert deploy(cloud, {"Tick": ("AWS::Scheduler::Schedule", {
        "Name": "tick", "ScheduleExpression": f"at({time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(time.time() + 1))})",
        "FlexibleTimeWindow": {"Mode": "OFF"}, "Target": {"Arn": "arn:aws:sqs:eu-west-1:000000000000:ticks", "Input": "now",
                                                           "RoleArn": "arn:aws:iam::000000000000:role/r"}})}) == "CREATE_COMPLETE"
    eventually(lambda: cloud.client("sqs").receive_message(QueueUrl=queue).get("Messages"), 40)
