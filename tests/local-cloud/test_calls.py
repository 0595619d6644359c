"""The record of who needed which permission: by sessions, machines, schedules and dead letters."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import IMAGE, Cloud, bootstrap, eventually


def as_role(cloud: Cloud, service: str, role: str = "keeper"):
    """A client with a session of this role."""
    iam = cloud.client("iam")
    if role not in [each["RoleName"] for each in iam.list_roles()["Roles"]]:
        iam.create_role(RoleName=role, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}))
    key = cloud.client("sts").assume_role(RoleArn=f"arn:aws:iam::000000000000:role/{role}", RoleSessionName="night")["Credentials"]
    return boto3.client(service, endpoint_url=cloud.endpoint, region_name="eu-west-1", aws_access_key_id=key["AccessKeyId"],
                        aws_secret_access_key=key["SecretAccessKey"], aws_session_token=key["SessionToken"])


def calls(cloud: Cloud, role: str) -> set[tuple[str, str]]:
    return {(each["action"], each["resource"]) for each in cloud.control("GET", "calls") if each["role"] == role}


def test_session_needs_what_iam_would_be_asked_and_the_accounts_own_key_is_not_recorded(cloud):
    cloud.client("s3").create_bucket(Bucket="shelf", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    s3 = as_role(cloud, "s3")
    s3.put_object(Bucket="shelf", Key="a/b", Body=b"x")
    upload = s3.create_multipart_upload(Bucket="shelf", Key="a/c")["UploadId"]
    s3.abort_multipart_upload(Bucket="shelf", Key="a/c", UploadId=upload)
    s3.head_object(Bucket="shelf", Key="a/b")
    s3.list_objects_v2(Bucket="shelf", Prefix="a/")
    assert calls(cloud, "keeper") == {
        ("s3:PutObject", "arn:aws:s3:::shelf/a/b"), ("s3:PutObject", "arn:aws:s3:::shelf/a/c"), ("s3:AbortMultipartUpload", "arn:aws:s3:::shelf/a/c"),
        ("s3:GetObject", "arn:aws:s3:::shelf/a/b"), ("s3:ListBucket", "arn:aws:s3:::shelf")}
    with pytest.raises(ClientError):
        as_role(cloud, "s3", "stranger").head_object(Bucket="shelf", Key="a/none")
    assert calls(cloud, "stranger") == {("s3:GetObject", "arn:aws:s3:::shelf/a/none"), ("s3:ListBucket", "arn:aws:s3:::shelf")}
    assert {each["role"] for each in cloud.control("GET", "calls")} == {"keeper", "stranger"}
    cloud.reset()
    assert cloud.control("GET", "calls") == []


def test_transaction_needs_the_action_of_each_of_its_items(cloud):
    cloud.client("dynamodb").create_table(TableName="table", BillingMode="PAY_PER_REQUEST", KeySchema=[{"AttributeName": "k", "KeyType": "HASH"}],
                                          AttributeDefinitions=[{"AttributeName": "k", "AttributeType": "S"}])
    key = {"k": {"S": "1"}}
    as_role(cloud, "dynamodb").transact_write_items(TransactItems=[
        {"Put": {"TableName": "table", "Item": key}},
        {"ConditionCheck": {"TableName": "table", "Key": {"k": {"S": "2"}}, "ConditionExpression": "attribute_not_exists(k)"}}])
    table = "arn:aws:dynamodb:eu-west-1:000000000000:table/table"
    assert calls(cloud, "keeper") == {("dynamodb:PutItem", table), ("dynamodb:ConditionCheckItem", table)}


def test_command_and_launch_need_their_parts(cloud):
    instance = cloud.instance()
    as_role(cloud, "ssm").send_command(InstanceIds=[instance], DocumentName="AWS-RunShellScript", Parameters={"commands": ["true"]})
    as_role(cloud, "ec2", "launcher").run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, SubnetId="subnet-0123456789abcdef0")
    place = "arn:aws:ec2:eu-west-1:000000000000"
    assert calls(cloud, "keeper") == {("ssm:SendCommand", f"{place}:instance/{instance}"),
                                      ("ssm:SendCommand", "arn:aws:ssm:eu-west-1:000000000000:document/AWS-RunShellScript")}
    assert calls(cloud, "launcher") == {("ec2:RunInstances", resource) for resource in (
        f"{place}:instance/*", f"{place}:volume/*", f"{place}:network-interface/*", f"{place}:subnet/subnet-0123456789abcdef0",
        f"arn:aws:ec2:eu-west-1::image/{IMAGE}")}


def test_function_and_instance_call_as_their_roles(cloud):
    """Also without --auth: whoever reads the record has to know who called."""
    script = 'import boto3\nboto3.client("sqs").list_queues()\nreturn os.environ["AWS_ACCESS_KEY_ID"][:4]'
    cloud.function("asks", bootstrap(script))
    answer = json.load(cloud.client("lambda").invoke(FunctionName="asks", Payload=b"{}")["Payload"])
    assert answer == "ASIA" and ("sqs:ListQueues", "*") in calls(cloud, "any")


@pytest.mark.parametrize("how", ["execution", "schedule", "dead letter"])
def test_what_has_no_request_of_its_own_is_the_roles_too(cloud, how):
    function = cloud.function("fails", bootstrap('raise KeyError("always")'))
    if how == "execution":
        states = {"A": {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Parameters": {"FunctionName": function}, "End": True}}
        arn = cloud.client("stepfunctions").create_state_machine(name="m", roleArn="arn:aws:iam::000000000000:role/machine",
                                                                 definition=json.dumps({"StartAt": "A", "States": states}))["stateMachineArn"]
        cloud.client("stepfunctions").start_execution(stateMachineArn=arn)
        eventually(lambda: calls(cloud, "machine") == {("lambda:InvokeFunction", function)})
    elif how == "schedule":
        cloud.client("scheduler").create_schedule(Name="s", ScheduleExpression="rate(365 days)", FlexibleTimeWindow={"Mode": "OFF"},
                                                  Target={"Arn": function, "RoleArn": "arn:aws:iam::000000000000:role/clock"})
        cloud.control("POST", "schedules/default/s/fire")
        eventually(lambda: calls(cloud, "clock") == {("lambda:InvokeFunction", function)})
    else:
        queue = "arn:aws:sqs:eu-west-1:000000000000:dead"
        cloud.client("sqs").create_queue(QueueName="dead")
        cloud.client("lambda").update_function_configuration(FunctionName="fails", DeadLetterConfig={"TargetArn": queue})
        cloud.control("PUT", "settings", {"lambda_retry_s": 0.05})
        cloud.client("lambda").invoke(FunctionName="fails", InvocationType="Event", Payload=b"{}")
        eventually(lambda: ("sqs:SendMessage", queue) in calls(cloud, "any"))


def test_fault_strikes_the_calls_of_roles_and_not_the_tests_own(cloud):
    cloud.fault("ssm:DescribeDocument", "fail", match={"role": "keep*"})
    for client, code in ((cloud.client("ssm"), "InvalidDocument"), (as_role(cloud, "ssm"), "InternalError")):
        with pytest.raises(ClientError) as refused:
            client.describe_document(Name="none")
        assert refused.value.response["Error"]["Code"] == code
