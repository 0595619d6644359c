"""EC2: what the launch template gives, how an instance boots, and how it ends."""

import base64
import json
import sys
import urllib.error
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import IMAGE, Cloud, eventually


def template(cloud: Cloud, **data) -> str:
    return cloud.client("ec2").create_launch_template(
        LaunchTemplateName="drill", LaunchTemplateData={"ImageId": IMAGE, **data})["LaunchTemplate"]["LaunchTemplateId"]


def home(cloud: Cloud, instance: str) -> Path:
    return Path(cloud.ready["data"]) / "hosts" / instance / "home"


def profile(cloud: Cloud) -> str:
    iam = cloud.client("iam")
    for clean_up in (lambda: iam.remove_role_from_instance_profile(InstanceProfileName="host", RoleName="host"),
                     lambda: iam.delete_instance_profile(InstanceProfileName="host"), lambda: iam.delete_role(RoleName="host")):
        try:
            clean_up()
        except ClientError:
            pass
    iam.create_role(RoleName="host", AssumeRolePolicyDocument="{}")
    arn = iam.create_instance_profile(InstanceProfileName="host")["InstanceProfile"]["Arn"]
    iam.add_role_to_instance_profile(InstanceProfileName="host", RoleName="host")
    return arn


def test_template_gives_what_the_request_leaves_open(cloud):
    arn = profile(cloud)
    template(cloud, InstanceType="m7g.large", InstanceInitiatedShutdownBehavior="terminate",
             IamInstanceProfile={"Arn": arn}, MetadataOptions={"HttpTokens": "required"},
             BlockDeviceMappings=[{"DeviceName": "/dev/xvda", "Ebs": {"Encrypted": True, "VolumeSize": 100}}],
             TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "a", "Value": "template"},
                                                                      {"Key": "b", "Value": "template"}]}])
    instance = cloud.instance(LaunchTemplate={"LaunchTemplateName": "drill"}, InstanceType="c7g.large", BlockDeviceMappings=[
        {"DeviceName": "/dev/xvda", "Ebs": {"VolumeSize": 250}}], TagSpecifications=[
        {"ResourceType": "instance", "Tags": [{"Key": "b", "Value": "request"}, {"Key": "c", "Value": "request"}]},
        {"ResourceType": "volume", "Tags": [{"Key": "v", "Value": "request"}]}])
    found, ec2 = cloud.described(instance), cloud.client("ec2")
    tags = {tag["Key"]: tag["Value"] for tag in found["Tags"]}
    assert (tags["a"], tags["b"], tags["c"], tags["aws:ec2launchtemplate:version"]) == ("template", "request", "request", "1")
    assert found["InstanceType"] == "c7g.large" and found["IamInstanceProfile"]["Arn"] == arn
    assert found["MetadataOptions"]["HttpTokens"] == "required"
    volume = ec2.describe_volumes(VolumeIds=[found["BlockDeviceMappings"][0]["Ebs"]["VolumeId"]])["Volumes"][0]
    assert volume["Encrypted"] and volume["Size"] == 250 and volume["Tags"] == [{"Key": "v", "Value": "request"}]
    behavior = ec2.describe_instance_attribute(InstanceId=instance, Attribute="instanceInitiatedShutdownBehavior")
    assert behavior["InstanceInitiatedShutdownBehavior"]["Value"] == "terminate"


def test_template_versions(cloud):
    ec2, lt = cloud.client("ec2"), template(cloud, InstanceType="t3.nano")
    ec2.create_launch_template_version(LaunchTemplateId=lt, LaunchTemplateData={"ImageId": IMAGE, "InstanceType": "t3.large"})

    def kind(**version):
        return cloud.described(cloud.instance(LaunchTemplate={"LaunchTemplateId": lt, **version}))["InstanceType"]

    assert [kind(), kind(Version="$Default"), kind(Version="$Latest"), kind(Version="2")] == \
        ["t3.nano", "t3.nano", "t3.large", "t3.large"]
    with pytest.raises(ClientError, match="VersionNotFound"):
        kind(Version="3")


def test_client_token_launches_once(cloud):
    ec2 = cloud.client("ec2")
    request = {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1, "ClientToken": "drill-1"}
    first, again = (ec2.run_instances(**request)["Instances"][0] for _ in range(2))
    assert first["InstanceId"] == again["InstanceId"] and again["ClientToken"] == "drill-1"
    with pytest.raises(ClientError, match="IdempotentParameterMismatch"):
        ec2.run_instances(**{**request, "InstanceType": "t3.large"})
    assert len(ec2.describe_instances()["Reservations"]) == 1


def test_dry_run_does_nothing(cloud):
    ec2, instance = cloud.client("ec2"), cloud.instance()
    for call in (lambda: ec2.run_instances(ImageId=IMAGE, MinCount=1, MaxCount=1, DryRun=True),
                 lambda: ec2.terminate_instances(InstanceIds=[instance], DryRun=True)):
        with pytest.raises(ClientError, match="DryRunOperation"):
            call()
    assert len(ec2.describe_instances()["Reservations"]) == 1 and cloud.state(instance) == "running"


def test_launch_without_capacity_starts_nothing(cloud):
    cloud.fault("ec2:RunInstances", "fail", error="InsufficientInstanceCapacity", status=500, times=1)
    ec2, request = cloud.client("ec2"), {"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1, "ClientToken": "t"}
    with pytest.raises(ClientError, match="InsufficientInstanceCapacity"):
        ec2.run_instances(**request)
    assert ec2.describe_instances()["Reservations"] == []
    assert ec2.run_instances(**request)["Instances"]


def test_user_data_boots_with_the_hosts_own_environment(cloud):
    cloud.control("PUT", "hosts", {"env": {"COLOUR": "blue"}})
    instance = cloud.instance(UserData="#!/bin/bash\necho $COLOUR $HOME ${AWS_ACCESS_KEY_ID:-none} > seen; exit 3")
    assert eventually(lambda: cloud.control("GET", f"hosts/{instance}")["user-data-exit"]) == 3
    assert (home(cloud, instance) / "seen").read_text() == f"blue {home(cloud, instance)} none\n"
    readable = cloud.client("ec2").describe_instance_attribute(InstanceId=instance, Attribute="userData")
    assert b"exit 3" in base64.b64decode(readable["UserData"]["Value"])


@pytest.mark.parametrize("user_data, why", [
    ("#cloud-config\npackages: [x]", "starts with #!"), ("#!/bin/sh\n/sbin/shutdown -h now", "use the bare name"),
    ("#!/bin/sh\n" + "x" * 17000, "16384 bytes")])
def test_user_data_that_cannot_run_is_refused(cloud, user_data, why):
    with pytest.raises(ClientError, match=why):
        cloud.instance(UserData=user_data)


@pytest.mark.parametrize("command", ["shutdown -h now", "poweroff", "systemctl poweroff"])
def test_shutdown_on_the_instance_terminates_it(cloud, command):
    instance = cloud.instance(UserData=f"#!/bin/sh\n{command}; sleep 1000", InstanceInitiatedShutdownBehavior="terminate")
    eventually(lambda: cloud.state(instance) == "terminated")
    assert cloud.described(instance)["StateReason"]["Code"] == "Client.InstanceInitiatedShutdown"
    assert cloud.control("GET", f"hosts/{instance}")["running"] == 0


def test_shutdown_stops_by_default_and_can_be_planned_and_cancelled(cloud):
    instance, ssm = cloud.instance(), cloud.client("ssm")

    def run(command):
        return ssm.send_command(InstanceIds=[instance], DocumentName="AWS-RunShellScript", Parameters={"commands": [command]})

    sent = run("shutdown -P +1; shutdown -c; echo done")["Command"]["CommandId"]
    eventually(lambda: ssm.get_command_invocation(CommandId=sent, InstanceId=instance)["Status"] == "Success")
    cloud.control("PUT", "settings", {"power_minute_s": 0.1})
    run("shutdown -P +1")
    eventually(lambda: cloud.state(instance) == "stopped")
    cloud.client("ec2").start_instances(InstanceIds=[instance])
    eventually(lambda: cloud.state(instance) == "running")


def test_terminate_ends_every_process_also_those_that_left_the_group(cloud):
    cloud.control("PUT", "settings", {"shutdown_grace_s": 0.3})
    instance = cloud.instance(UserData="#!/bin/sh\ntrap '' TERM; (setsid sleep 1000 &) ; echo up > up; while :; do sleep 1; done")
    eventually(lambda: (home(cloud, instance) / "up").exists())
    reply = cloud.client("ec2").terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert (reply["PreviousState"]["Name"], reply["CurrentState"]["Name"]) == ("running", "shutting-down")
    eventually(lambda: cloud.state(instance) == "terminated")
    assert cloud.control("GET", f"hosts/{instance}")["running"] == 0
    assert not home(cloud, instance).exists()
    again = cloud.client("ec2").terminate_instances(InstanceIds=[instance])["TerminatingInstances"][0]
    assert again["CurrentState"]["Name"] == "terminated"


def test_a_process_gets_sigterm_and_a_grace(cloud):
    instance = cloud.instance(UserData="#!/bin/bash\ntrap 'echo bye >> $TRACE; exit' TERM; touch up; while :; do sleep 0.05; done")
    trace = Path(cloud.ready["data"]) / "trace"
    cloud.control("PUT", f"hosts/{instance}", {"env": {"TRACE": str(trace)}})
    later = cloud.client("ssm").send_command(InstanceIds=[instance], DocumentName="AWS-RunShellScript", Parameters={
        "commands": ["#!/bin/bash", "trap 'echo bye > $TRACE; exit' TERM; touch up2; while :; do sleep 0.05; done"]})
    assert later["Command"]["CommandId"]
    eventually(lambda: (home(cloud, instance) / "up2").exists())
    cloud.client("ec2").terminate_instances(InstanceIds=[instance])
    eventually(lambda: cloud.state(instance) == "terminated")
    assert trace.read_text() == "bye\n"


def test_state_changes_are_events(cloud):
    events = cloud.inbox({"source": ["aws.ec2"]})
    instance = cloud.instance()
    cloud.client("ec2").terminate_instances(InstanceIds=[instance])
    eventually(lambda: len(events()) == 4)
    assert [(e["detail-type"], e["detail"]["instance-id"]) for e in events()] == \
        [("EC2 Instance State-change Notification", instance)] * 4
    assert [e["detail"]["state"] for e in events()] == ["pending", "running", "shutting-down", "terminated"]


def test_metadata_is_the_instances_own_and_version_2(cloud):
    instance = cloud.instance(IamInstanceProfile={"Arn": profile(cloud)}, UserData="""#!/bin/sh
imds=$AWS_EC2_METADATA_SERVICE_ENDPOINT
python3 - "$imds" > seen <<'END'
import sys, urllib.request as http, urllib.error
base = sys.argv[1] + "/latest/"
try:
    http.urlopen(base + "meta-data/instance-id"); print("open")
except urllib.error.HTTPError as error:
    print(error.code)
put = http.Request(base + "api/token", method="PUT", headers={"X-aws-ec2-metadata-token-ttl-seconds": "60"})
token = {"X-aws-ec2-metadata-token": http.urlopen(put).read().decode()}
for path in ("instance-id", "placement/region", "iam/security-credentials/", "iam/security-credentials/host"):
    print(http.urlopen(http.Request(base + "meta-data/" + path, headers=token)).read().decode())
END
touch done
""")
    eventually(lambda: (home(cloud, instance) / "done").exists())
    code, own, region, role, credentials = (home(cloud, instance) / "seen").read_text().splitlines()
    assert (code, own, region, role) == ("401", instance, "eu-west-1", "host")
    assert json.loads(credentials)["Code"] == "Success"


def test_aws_sdk_finds_the_roles_credentials_by_itself(cloud):
    cloud.client("s3").create_bucket(Bucket="found", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    script = "import boto3; print(boto3.client('s3').list_buckets()['Buckets'][0]['Name'])"
    instance = cloud.instance(IamInstanceProfile={"Arn": profile(cloud)}, UserData=f"""#!/bin/sh
AWS_DEFAULT_REGION=eu-west-1 {sys.executable} -c "{script}" > seen 2>&1; touch done""")
    eventually(lambda: (home(cloud, instance) / "done").exists())
    assert (home(cloud, instance) / "seen").read_text() == "found\n"


def test_role_of_an_instance_is_all_it_may_with_auth():

    script = f"""#!/bin/sh
export AWS_REGION=eu-west-1 AWS_DEFAULT_REGION=eu-west-1
try() {{ {sys.executable} -c "import boto3; boto3.client('s3').$1" > /dev/null 2> $2 && echo yes > $2; }}
try "put_object(Bucket='data', Key='own/a', Body=b'x')" own; try "put_object(Bucket='data', Key='other/a', Body=b'x')" other; touch done
"""
    cloud = Cloud("--auth")
    try:
        arn = profile(cloud)
        cloud.client("iam").put_role_policy(RoleName="host", PolicyName="own", PolicyDocument=json.dumps({
            "Version": "2012-10-17", "Statement": [{"Effect": "Allow", "Action": "s3:PutObject", "Resource": "arn:aws:s3:::data/own/*"}]}))
        cloud.client("s3").create_bucket(Bucket="data", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
        directory = home(cloud, cloud.instance(IamInstanceProfile={"Arn": arn}, UserData=script))
        eventually(lambda: (directory / "done").exists())
        assert (directory / "own").read_text() == "yes\n" and "AccessDenied" in (directory / "other").read_text()
    finally:
        cloud.stop()


def test_an_instance_gets_the_id_that_a_test_has_put_into_a_configuration(cloud):
    wanted = "i-0db00000000000001"
    order = {"instance_id": wanted, "tags": {"highwater:deployment": "ours"}, "host": {"env": {"A": "b"}}}
    assert cloud.control("POST", "hosts", order)["instance-id"] == wanted
    eventually(lambda: cloud.control("GET", f"hosts/{wanted}")["state"] == "running")
    found = cloud.described(wanted)
    assert found["Tags"] == [{"Key": "highwater:deployment", "Value": "ours"}]
    assert cloud.control("GET", f"hosts/{wanted}")["tags"] == {"highwater:deployment": "ours"}
    with pytest.raises(urllib.error.HTTPError, match="400"):
        cloud.control("POST", "hosts", order)
    assert cloud.instance() != wanted
    old = {"instance_id": "i-0db00000000000002", "launched_at": "2026-01-02T03:04:05.000Z"}
    assert cloud.control("POST", "hosts", old)["instance-id"] == old["instance_id"]
    assert cloud.described(old["instance_id"])["LaunchTime"].isoformat() == "2026-01-02T03:04:05+00:00"
