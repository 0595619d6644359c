"""Function URLs of type AWS_IAM: who the caller is comes from the signature, from nothing else."""

import json
import urllib.error
import urllib.request
from urllib.parse import urlparse

import pytest
from botocore.auth import SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from botocore.exceptions import ClientError
from conftest import Cloud, bootstrap


def url(cloud: Cloud) -> str:
    cloud.function("decide", bootstrap('return {"statusCode": 200, "body": json.dumps(event["requestContext"].get("authorizer"))}'))
    return cloud.client("lambda").create_function_url_config(FunctionName="decide", AuthType="AWS_IAM")["FunctionUrl"]


def anna(cloud: Cloud) -> Credentials:
    iam = cloud.client("iam")
    try:
        iam.create_user(UserName="anna")
    except ClientError:
        pass
    key = iam.create_access_key(UserName="anna")["AccessKey"]
    return Credentials(key["AccessKeyId"], key["SecretAccessKey"])


def post(cloud: Cloud, target: str, credentials: Credentials | None, host: str, path: str = "/", tamper: bytes = b""):
    request = AWSRequest("POST", f"{target}?a=1", data=b'{"approve":true}', headers={"Host": host, "Content-Type": "application/json"})
    if credentials:
        SigV4Auth(credentials, "lambda", "eu-west-1").add_auth(request)
    sent = urllib.request.Request(f"{cloud.endpoint}{path}?a=1", b'{"approve":true}' + tamper, headers=dict(request.headers))
    with urllib.request.urlopen(sent, timeout=10) as reply:
        return json.load(reply)


def test_function_learns_whom_iam_vouches_for(cloud):
    address, credentials = url(cloud), anna(cloud)
    iam = post(cloud, address, credentials, urlparse(address).netloc)["iam"]
    assert iam["userArn"] == "arn:aws:iam::000000000000:user/anna" and iam["accessKey"] == credentials.access_key
    assert iam["accountId"] == "000000000000" and iam["userId"] == iam["callerId"] != ""


def test_address_with_the_id_in_its_path(cloud):
    identity = urlparse(url(cloud)).netloc.split(".")[0]
    path = f"/_aws/lambda-url/{identity}/"
    iam = post(cloud, cloud.endpoint + path, anna(cloud), urlparse(cloud.endpoint).netloc, path)["iam"]
    assert iam["userArn"].endswith("user/anna")


def test_role_session_is_named(cloud):
    address, iam = url(cloud), cloud.client("iam")
    try:
        iam.create_role(RoleName="operators", AssumeRolePolicyDocument=json.dumps({"Version": "2012-10-17", "Statement": [
            {"Effect": "Allow", "Principal": {"AWS": "*"}, "Action": "sts:AssumeRole"}]}))
    except ClientError:
        pass
    key = cloud.client("sts").assume_role(RoleArn="arn:aws:iam::000000000000:role/operators", RoleSessionName="berta")["Credentials"]
    credentials = Credentials(key["AccessKeyId"], key["SecretAccessKey"], key["SessionToken"])
    found = post(cloud, address, credentials, urlparse(address).netloc)["iam"]
    assert found["userArn"] == "arn:aws:sts::000000000000:assumed-role/operators/berta" and found["userId"].endswith(":berta")


@pytest.mark.parametrize("how", ["unsigned", "unknown key", "wrong secret", "changed body"])
def test_caller_that_nobody_vouches_for_is_refused(cloud, how):
    address, credentials = url(cloud), anna(cloud)
    wrong = {"unsigned": None, "unknown key": Credentials("AKIANOBODY", "x"), "changed body": credentials,
             "wrong secret": Credentials(credentials.access_key, "x")}[how]
    with pytest.raises(urllib.error.HTTPError) as refused:
        post(cloud, address, wrong, urlparse(address).netloc, tamper=b" " if how == "changed body" else b"")
    assert refused.value.code == 403
