"""Enforcement (`--auth`) judges as AWS does what this stack's policies ask about."""

import json

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import IMAGE, Cloud, eventually

BUCKET = "arn:aws:s3:::shelf"
PLACE = "arn:aws:ec2:eu-west-1:000000000000"


@pytest.fixture(scope="module")
def enforcing():
    cloud = Cloud("--auth")
    cloud.client("s3").create_bucket(Bucket="shelf", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    yield cloud
    cloud.stop()


def role(cloud: Cloud, name: str, statements: list[dict]):
    """Clients of a session of a role with these statements."""
    iam = cloud.client("iam")
    iam.create_role(RoleName=name, AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}))
    iam.put_role_policy(RoleName=name, PolicyName="own", PolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": statements}))
    key = cloud.client("sts").assume_role(RoleArn=f"arn:aws:iam::000000000000:role/{name}", RoleSessionName="night")["Credentials"]
    return lambda service: boto3.client(
        service, endpoint_url=cloud.endpoint, region_name="eu-west-1", aws_access_key_id=key["AccessKeyId"],
        aws_secret_access_key=key["SecretAccessKey"], aws_session_token=key["SessionToken"])


def denied(call, *arguments, **request) -> bool:
    try:
        call(*arguments, **request)
    except ClientError as error:
        code = error.response["Error"]["Code"]
        assert code in ("AccessDenied", "AccessDeniedException", "UnauthorizedOperation"), error
        return True
    return False


def test_bucket_knows_tls_the_role_and_whether_a_write_may_overwrite(enforcing):
    guards = [
        {"Sid": "Tls", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [BUCKET, f"{BUCKET}/*"],
         "Condition": {"Bool": {"aws:SecureTransport": "false"}}},
        {"Sid": "OldTls", "Effect": "Deny", "Principal": "*", "Action": "s3:*", "Resource": [BUCKET, f"{BUCKET}/*"],
         "Condition": {"NumericLessThan": {"s3:TlsVersion": "1.2"}}},
        {"Sid": "New", "Effect": "Deny", "Principal": "*", "Action": "s3:PutObject", "Resource": f"{BUCKET}/*",
         "Condition": {"Null": {"s3:if-none-match": "true"}, "Bool": {"s3:ObjectCreationOperation": "true"}}},
        {"Sid": "Prune", "Effect": "Deny", "Principal": "*", "Action": "s3:DeleteObject", "Resource": f"{BUCKET}/*",
         "Condition": {"ArnNotEquals": {"aws:PrincipalArn": "arn:aws:iam::000000000000:role/prune"}}}]
    enforcing.client("s3").put_bucket_policy(Bucket="shelf", Policy=json.dumps({"Version": "2012-10-17", "Statement": guards}))
    everything = [{"Effect": "Allow", "Action": "s3:*", "Resource": [BUCKET, f"{BUCKET}/*"]}]
    host, prune = (role(enforcing, name, everything)("s3") for name in ("host", "prune"))
    assert denied(host.put_object, Bucket="shelf", Key="a", Body=b"x")
    assert not denied(host.put_object, Bucket="shelf", Key="a", Body=b"x", IfNoneMatch="*")
    upload = host.create_multipart_upload(Bucket="shelf", Key="b")["UploadId"]
    part = host.upload_part(Bucket="shelf", Key="b", UploadId=upload, PartNumber=1, Body=b"x")["ETag"]
    whole = {"Bucket": "shelf", "Key": "b", "UploadId": upload, "MultipartUpload": {"Parts": [{"PartNumber": 1, "ETag": part}]}}
    assert denied(host.complete_multipart_upload, **whole) and not denied(host.complete_multipart_upload, **whole, IfNoneMatch="*")
    assert denied(host.delete_object, Bucket="shelf", Key="a") and not denied(prune.delete_object, Bucket="shelf", Key="a")


def test_absent_object_is_forbidden_to_whom_may_list_a_prefix_only(enforcing):
    read = {"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/*"}
    listing = {"Effect": "Allow", "Action": "s3:ListBucket", "Resource": BUCKET}
    by_prefix = role(enforcing, "prefixed", [read, {**listing, "Condition": {"StringLike": {"s3:prefix": "p/*"}}}])("s3")
    whole = role(enforcing, "librarian", [read, listing])("s3")
    assert by_prefix.list_objects_v2(Bucket="shelf", Prefix="p/none")["KeyCount"] == 0
    for client, status in ((by_prefix, 403), (whole, 404)):
        for call in (client.head_object, client.get_object):
            with pytest.raises(ClientError) as refused:
                call(Bucket="shelf", Key="p/none")
            assert refused.value.response["ResponseMetadata"]["HTTPStatusCode"] == status


def test_variable_in_a_resource_is_the_callers_own_value(enforcing):
    own = [{"Effect": "Allow", "Action": "s3:GetObject", "Resource": f"{BUCKET}/${{aws:PrincipalTag/team}}/*"}]
    reader = role(enforcing, "tagged", own)("s3")
    enforcing.client("s3").put_object(Bucket="shelf", Key="ours/a", Body=b"x")
    assert denied(reader.get_object, Bucket="shelf", Key="ours/a")
    enforcing.client("iam").tag_role(RoleName="tagged", Tags=[{"Key": "team", "Value": "ours"}])
    assert not denied(reader.get_object, Bucket="shelf", Key="ours/a")


def test_command_is_judged_by_its_document_and_its_instances_tags(enforcing):
    instance = enforcing.instance(TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "ours"}]}])
    other = enforcing.instance()
    ssm = role(enforcing, "sender", [
        {"Effect": "Allow", "Action": "ssm:SendCommand", "Resource": "arn:aws:ssm:eu-west-1:000000000000:document/AWS-RunShellScript"},
        {"Effect": "Allow", "Action": "ssm:SendCommand", "Resource": f"{PLACE}:instance/*",
         "Condition": {"StringEquals": {"ssm:resourceTag/team": "ours"}}}])("ssm")
    send = {"DocumentName": "AWS-RunShellScript", "Parameters": {"commands": ["true"]}}
    assert not denied(ssm.send_command, InstanceIds=[instance], **send)
    assert denied(ssm.send_command, InstanceIds=[other], **send)
    assert denied(ssm.send_command, InstanceIds=[instance], **{**send, "DocumentName": "AWS-RunRemoteScript"})


def test_launch_is_judged_by_its_template_and_an_end_by_the_instances_tags(enforcing):
    template = enforcing.client("ec2").create_launch_template(LaunchTemplateName="drill", LaunchTemplateData={
        "MetadataOptions": {"HttpTokens": "required"}, "TagSpecifications": [{"ResourceType": "instance", "Tags": [{"Key": "team", "Value": "ours"}]}],
    })["LaunchTemplate"]["LaunchTemplateId"]
    ec2 = role(enforcing, "launcher", [
        {"Effect": "Allow", "Action": "ec2:RunInstances", "Resource": "*", "Condition": {
            "ArnEquals": {"ec2:LaunchTemplate": f"{PLACE}:launch-template/{template}"},
            "StringEquals": {"aws:RequestTag/team": "ours", "ec2:MetadataHttpTokens": "required"}}},
        {"Effect": "Allow", "Action": "ec2:TerminateInstances", "Resource": f"{PLACE}:instance/*",
         "Condition": {"StringEquals": {"ec2:ResourceTag/team": "ours"}}}])("ec2")
    launch = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1}
    ours = ec2.run_instances(**launch, LaunchTemplate={"LaunchTemplateId": template})["Instances"][0]["InstanceId"]
    assert denied(ec2.run_instances, **launch)
    other = enforcing.instance()
    assert denied(ec2.terminate_instances, InstanceIds=[other])
    eventually(lambda: enforcing.state(ours) == "running")
    assert not denied(ec2.terminate_instances, InstanceIds=[ours])
