"""The launcher itself: what it refuses, what it leaves behind, what it listens on."""

import json
import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import boto3
import pytest
from botocore.exceptions import ClientError
from conftest import LAUNCHER, Cloud, bootstrap, eventually


def processes_of(cloud: Cloud) -> list[int]:
    """Every process below the launcher's mark, found as a stranger would: by its data directory."""
    found = []
    for entry in Path("/proc").iterdir():
        try:
            if entry.name.isdigit() and cloud.ready["data"].encode() in (entry / "environ").read_bytes():
                found.append(int(entry.name))
        except OSError:
            pass
    return found


def busy_host(cloud: Cloud) -> None:
    """An instance with a command that left its process group and would run for ever."""
    instance = cloud.instance()
    cloud.client("ssm").send_command(InstanceIds=[instance], DocumentName="AWS-RunShellScript",
                                     Parameters={"commands": ["setsid sleep 1000 & touch started; sleep 1000"]})
    eventually(lambda: (Path(cloud.ready["data"]) / "hosts" / instance / "home" / "started").exists())
    assert len(processes_of(cloud)) >= 2


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_leaves_no_process_and_no_file_behind(number):
    cloud = Cloud()
    busy_host(cloud)
    cloud.process.send_signal(number)
    cloud.process.wait(15)
    eventually(lambda: not processes_of(cloud) and not Path(cloud.ready["data"]).exists())


def test_ends_with_the_process_that_started_it():
    starter = subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(f"""
            import subprocess, sys
            child = subprocess.Popen([sys.executable, {str(LAUNCHER)!r}], stdout=subprocess.PIPE, text=True)
            print(child.pid, child.stdout.readline(), flush=True)
            sys.stdin.read()
        """)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    launcher = int(starter.stdout.readline().split()[0])
    starter.kill()
    starter.wait()
    eventually(lambda: not Path(f"/proc/{launcher}").exists()
               or " Z " in Path(f"/proc/{launcher}/stat").read_text())


def test_listens_on_the_loopback_only(cloud):
    inodes = {os.readlink(fd)[8:-1] for fd in Path(f"/proc/{cloud.ready['pid']}/fd").iterdir()
              if os.path.islink(fd) and os.readlink(fd).startswith("socket:")}
    listening = [line.split() for file in ("tcp", "tcp6") for line in Path("/proc/net", file).read_text().splitlines()[1:]]
    addresses = {row[1].split(":")[0] for row in listening if row[3] == "0A" and row[9] in inodes}
    assert addresses == {"0100007F"}


def test_refuses_another_emulator_version(tmp_path):
    (tmp_path / "ministack-9.9.9.dist-info").mkdir()
    (tmp_path / "ministack-9.9.9.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ministack\nVersion: 9.9.9\n")
    done = subprocess.run([sys.executable, str(LAUNCHER)], env={**os.environ, "PYTHONPATH": str(tmp_path)},
                          capture_output=True, text=True, timeout=20)
    assert done.returncode != 0 and "1.5.33, this is 9.9.9" in done.stderr


def test_native_lambda_runs_its_bootstrap_with_environment_and_error(cloud):
    cloud.function("greeter", bootstrap(
        'if "fail" in event: raise KeyError("asked to")\n'
        'return {"name": os.environ["NAME"], "endpoint": os.environ["AWS_ENDPOINT_URL"], "got": event}'))
    client = cloud.client("lambda")
    reply = client.invoke(FunctionName="greeter", Payload=b'{"a":1}')
    assert json.load(reply["Payload"]) == {"name": "greeter", "endpoint": cloud.endpoint, "got": {"a": 1}}
    failed = client.invoke(FunctionName="greeter", Payload=b'{"fail":1}')
    assert failed["FunctionError"] == "Unhandled" and b"KeyError" in failed["Payload"].read()


def test_control_refuses_what_it_does_not_know(cloud):
    for path, body in (("settings", {"nonsense": 1}), ("hosts/i-none", {}), ("hosts", {"root": "/"})):
        with pytest.raises(Exception, match="HTTP Error 40[04]"):
            cloud.control("PUT", path, body)
    with pytest.raises(Exception, match="HTTP Error 400"):
        cloud.fault("ssm:SendCommand", "lose")
    assert cloud.control("PUT", "settings", {"ssm_time_scale": 0.5})["ssm_time_scale"] == 0.5


def test_reset_ends_hosts_and_forgets_orders(cloud):
    busy_host(cloud)
    cloud.fault("ec2:RunInstances", "fail")
    cloud.reset()
    eventually(lambda: not [pid for pid in processes_of(cloud) if b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes()])
    assert cloud.control("GET", "faults") == [] and cloud.control("GET", "hosts") == []


# ---- faults on calls

def test_lost_reply_is_done_all_the_same_and_an_sdk_tries_again(cloud):
    cloud.fault("dynamodb:PutItem", "lose-reply", times=1)
    table = {"TableName": "items", "KeySchema": [{"AttributeName": "k", "KeyType": "HASH"}], "BillingMode": "PAY_PER_REQUEST",
             "AttributeDefinitions": [{"AttributeName": "k", "AttributeType": "S"}]}
    once = cloud.client("dynamodb")
    once.create_table(**table)
    with pytest.raises(once.exceptions.ClientError, match="reply was lost"):
        once.put_item(TableName="items", Item={"k": {"S": "a"}})
    assert once.get_item(TableName="items", Key={"k": {"S": "a"}})["Item"]
    cloud.fault("dynamodb:PutItem", "lose-reply", times=1)
    retrying = boto3.client("dynamodb", endpoint_url=cloud.endpoint, region_name="eu-west-1", aws_access_key_id="test",
                            aws_secret_access_key="test")
    retrying.put_item(TableName="items", Item={"k": {"S": "b"}})
    assert [fault["hits"] for fault in cloud.control("GET", "faults")] == [1, 1]


def test_failing_call_matches_its_request_and_stops_after_its_times(cloud):
    cloud.function("f", bootstrap("return 1"))
    cloud.function("g", bootstrap("return 2"))
    cloud.fault("lambda:Invoke", "fail", match={"FunctionName": "f"}, error="TooManyRequestsException", status=429, times=1)
    client = cloud.client("lambda")
    assert client.invoke(FunctionName="g")["Payload"].read() == b"2"
    with pytest.raises(client.exceptions.TooManyRequestsException):
        client.invoke(FunctionName="f")
    assert client.invoke(FunctionName="f")["Payload"].read() == b"1"


def test_notification_is_refused_or_sent_without_its_sender_hearing_of_it(cloud):
    sns, sqs = cloud.client("sns"), cloud.client("sqs")
    topic, queue = sns.create_topic(Name="t")["TopicArn"], sqs.create_queue(QueueName="q")["QueueUrl"]
    sns.subscribe(TopicArn=topic, Protocol="sqs", Endpoint="arn:aws:sqs:eu-west-1:000000000000:q", Attributes={"RawMessageDelivery": "true"})
    cloud.fault("sns:Publish", "fail", error="Throttled", status=429, times=1)
    cloud.fault("sns:Publish", "lose-reply", times=1)
    for message, why in (("first", "Throttled"), ("second", "reply was lost")):
        with pytest.raises(ClientError, match=why):
            sns.publish(TopicArn=topic, Message=message)
    sns.publish(TopicArn=topic, Message="third")
    received = sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10)["Messages"]
    assert [message["Body"] for message in received] == ["second", "third"]


@pytest.mark.parametrize(("effect", "done"), [("kill-before", 1), ("kill-after", 2)])
def test_function_is_killed_at_its_nth_call_and_the_next_invocation_is_another_process(cloud, effect, done):
    cloud.function("writer", bootstrap(
        "import boto3\n"
        "for n in range(event['calls']):\n"
        "    boto3.client('s3').put_object(Bucket='calls', Key=str(n), Body=b'x')\n"
        "return os.getpid()"))
    cloud.client("s3").create_bucket(Bucket="calls", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    client = cloud.client("lambda")
    keys = lambda: len(cloud.client("s3").list_objects_v2(Bucket="calls").get("Contents", []))
    first = json.load(client.invoke(FunctionName="writer", Payload=b'{"calls": 0}')["Payload"])
    cloud.fault("function:writer", effect, skip=1, times=1)
    cloud.fault("function:another", effect)
    killed = client.invoke(FunctionName="writer", Payload=b'{"calls": 3}')
    assert killed["FunctionError"] and json.load(killed["Payload"])["errorType"] == "Runtime.ExitError"
    assert keys() == done
    again = json.load(client.invoke(FunctionName="writer", Payload=b'{"calls": 3}')["Payload"])
    assert again != first and keys() == 3
    ordered = cloud.control("GET", "faults")
    assert [(fault["hits"], fault["last"]) for fault in ordered] == [(1, "PUT /calls/1"), (0, "")]
    with pytest.raises(Exception, match="HTTP Error 400"):
        cloud.fault("function:writer", "lose-reply")
