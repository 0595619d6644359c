"""Run Command: documents and their parameters, commands on hosts, their ends and what is told of them."""

import json
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import Cloud, eventually

OVER = ("Success", "Failed", "TimedOut", "Cancelled")


def document(*lines: str, parameters: dict | None = None, **inputs) -> str:
    return json.dumps({"schemaVersion": "2.2", "description": "of a test", "parameters": parameters or {}, "mainSteps": [
        {"action": "aws:runShellScript", "name": "run", "inputs": {"runCommand": list(lines), **inputs}}]})


def create(cloud: Cloud, *lines, name="hw-test", **more) -> str:
    cloud.client("ssm").create_document(Name=name, Content=document(*lines, **more), DocumentType="Command",
                                        DocumentFormat="JSON")
    return name


def send(cloud: Cloud, instance: str, script: str | None = None, **request) -> str:
    if script is not None:
        request = {"DocumentName": "AWS-RunShellScript", **request}
        request["Parameters"] = {"commands": [script], **request.get("Parameters", {})}
    return cloud.client("ssm").send_command(**{"InstanceIds": [instance], **request})["Command"]["CommandId"]


def invocation(cloud: Cloud, command: str, instance: str) -> dict:
    return cloud.client("ssm").get_command_invocation(CommandId=command, InstanceId=instance)


def ended(cloud: Cloud, command: str, instance: str) -> dict:
    eventually(lambda: invocation(cloud, command, instance)["Status"] in OVER)
    return invocation(cloud, command, instance)


def files(cloud: Cloud, instance: str) -> Path:
    return Path(cloud.ready["data"]) / "hosts" / instance / "home"


# ---- documents

def test_document_lives_through_its_versions(cloud):
    ssm, name = cloud.client("ssm"), create(cloud, "echo one")
    with pytest.raises(ssm.exceptions.DocumentAlreadyExists):
        create(cloud, "echo two")
    with pytest.raises(ssm.exceptions.DuplicateDocumentContent):
        ssm.update_document(Name=name, Content=document("echo one"), DocumentVersion="$LATEST")
    ssm.update_document(Name=name, Content=document("echo two"), DocumentVersion="$LATEST")
    described = ssm.describe_document(Name=name)["Document"]
    assert (described["DocumentVersion"], described["LatestVersion"], described["Status"]) == ("1", "2", "Active")
    assert "echo two" in ssm.get_document(Name=name, DocumentVersion="$LATEST")["Content"]
    ssm.update_document_default_version(Name=name, DocumentVersion="2")
    instance = cloud.instance()
    sent = send(cloud, instance, DocumentName=name)
    assert ended(cloud, sent, instance)["StandardOutputContent"] == "two\n"
    sent = send(cloud, instance, DocumentName=name, DocumentVersion="1")
    assert ended(cloud, sent, instance)["StandardOutputContent"] == "one\n"
    ssm.delete_document(Name=name)
    for call in (lambda: ssm.get_document(Name=name), lambda: send(cloud, instance, DocumentName=name)):
        with pytest.raises(ssm.exceptions.InvalidDocument):
            call()


@pytest.mark.parametrize("content", [
    "{}", "not: [closed", document("echo {{ unknown }}"),
    json.dumps({"schemaVersion": "2.2", "mainSteps": [{"action": "aws:runPowerShellScript", "name": "x", "inputs": {"runCommand": []}}]}),
    document("true", parameters={"p": {"type": "Strange"}}),
    document("true", parameters={"p": {"type": "String", "allowedPattern": "["}}),
    document("true", parameters={"p": {"type": "String", "allowedPattern": "a", "default": "b"}})])
def test_document_that_we_would_not_run_is_refused(cloud, content):
    ssm = cloud.client("ssm")
    with pytest.raises(ssm.exceptions.InvalidDocumentContent):
        ssm.create_document(Name="hw-test", Content=content, DocumentType="Command")


PARAMETERS = {
    "cluster": {"type": "String", "allowedPattern": "^[a-z][a-z0-9-]{0,39}$"},
    "kind": {"type": "String", "allowedValues": ["full", "incremental"], "default": "full"},
    "count": {"type": "Integer", "default": 3},
    "force": {"type": "Boolean", "default": False},
    "names": {"type": "StringList", "default": ["x", "y"], "maxItems": 2},
}


@pytest.mark.parametrize("parameters, why", [
    ({}, "cluster"), ({"cluster": ["a; rm -rf /"]}, "does not match"), ({"cluster": ["a\nb"]}, "does not match"),
    ({"cluster": ["a"], "kind": ["partial"]}, "not one of"), ({"cluster": ["a"], "count": ["three"]}, "integer"),
    ({"cluster": ["a"], "force": ["yes"]}, "true or false"), ({"cluster": ["a", "b"]}, "one value"),
    ({"cluster": ["a"], "names": ["1", "2", "3"]}, "number of items"), ({"cluster": ["a"], "other": ["1"]}, "other")])
def test_parameters_are_refused_before_anything_is_sent(cloud, parameters, why):
    create(cloud, "echo {{ cluster }}", parameters=PARAMETERS)
    instance, ssm = cloud.instance(), cloud.client("ssm")
    with pytest.raises(ssm.exceptions.InvalidParameters, match=why):
        send(cloud, instance, DocumentName="hw-test", Parameters=parameters)
    assert ssm.list_commands()["Commands"] == []


def test_parameters_and_defaults_reach_the_script(cloud):
    create(cloud, "echo {{ cluster }} {{kind}} {{ count }} {{ force }}", "echo '{{ names }}'", parameters=PARAMETERS)
    instance = cloud.instance()
    sent = send(cloud, instance, DocumentName="hw-test", Parameters={"cluster": ["orders"], "count": ["7"]})
    assert ended(cloud, sent, instance)["StandardOutputContent"] == 'orders full 7 false\n["x", "y"]\n'


def test_parameter_as_environment_variable(cloud):
    create(cloud, 'printf %s "$SSM_Message"', parameters={
        "Message": {"type": "String", "interpolationType": "ENV_VAR"}})
    instance = cloud.instance()
    sent = send(cloud, instance, DocumentName="hw-test", Parameters={"Message": ['$(touch hacked) "; touch hacked']})
    assert ended(cloud, sent, instance)["StandardOutputContent"] == '$(touch hacked) "; touch hacked'
    assert not (files(cloud, instance) / "hacked").exists()


# ---- where a script runs

def test_command_runs_on_the_host_that_the_test_described(cloud, tmp_path):
    tool = tmp_path / "bin" / "tool"
    tool.parent.mkdir()
    tool.write_text("#!/bin/sh\necho the tool\n")
    tool.chmod(0o755)
    instance = cloud.instance()
    cloud.control("PUT", f"hosts/{instance}", {"root": str(tmp_path), "env": {"COLOUR": "red"}, "path": [str(tool.parent)],
                                               "cwd": str(tmp_path)})
    sent = send(cloud, instance, "tool; echo $COLOUR $HOME $AWS_SSM_INSTANCE_ID ${AWS_ACCESS_KEY_ID:-none}; pwd")
    assert ended(cloud, sent, instance)["StandardOutputContent"] == \
        f"the tool\nred {tmp_path}/home {instance} none\n{tmp_path}\n"


@pytest.mark.parametrize("line, code, status", [("exit 0", 0, "Success"), ("exit 17", 17, "Failed"), ("kill -9 $$", 137, "Failed")])
def test_exit_codes_are_the_scripts_own(cloud, line, code, status):
    instance = cloud.instance()
    end = ended(cloud, send(cloud, instance, f"echo out; echo err >&2; {line}"), instance)
    assert (end["ResponseCode"], end["Status"], end["StatusDetails"]) == (code, status, status)
    assert (end["StandardOutputContent"], end["StandardErrorContent"]) == ("out\n", "err\n")


def test_tag_targets_and_unmanaged_instances(cloud):
    def tagged(**tags):
        return cloud.instance(TagSpecifications=[{"ResourceType": "instance", "Tags": [
            {"Key": key, "Value": value} for key, value in tags.items()]}])

    ssm, wanted = cloud.client("ssm"), tagged(cluster="orders", role="primary")
    tagged(cluster="orders", role="replica"), tagged(cluster="users", role="primary")
    targets = [{"Key": "tag:cluster", "Values": ["orders"]}, {"Key": "tag:role", "Values": ["primary", "lead"]}]
    sent = ssm.send_command(Targets=targets, DocumentName="AWS-RunShellScript", Parameters={"commands": ["true"]})
    eventually(lambda: ssm.list_commands(CommandId=sent["Command"]["CommandId"])["Commands"][0]["Status"] == "Success")
    found = ssm.list_command_invocations(CommandId=sent["Command"]["CommandId"])["CommandInvocations"]
    assert [i["InstanceId"] for i in found] == [wanted]
    none = ssm.send_command(Targets=[{"Key": "tag:cluster", "Values": ["none"]}], DocumentName="AWS-RunShellScript",
                            Parameters={"commands": ["true"]})["Command"]
    assert none["TargetCount"] == 0 and none["StatusDetails"] == "NoInstancesInTag"
    cloud.client("ec2").stop_instances(InstanceIds=[wanted])
    with pytest.raises(ssm.exceptions.InvalidInstanceId):
        send(cloud, wanted, "true")


# ---- output

def test_output_is_cut_in_the_answer_and_whole_in_the_bucket(cloud):
    cloud.client("s3").create_bucket(Bucket="logs", CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    instance = cloud.instance()
    sent = send(cloud, instance, "head -c 30000 /dev/zero | tr '\\0' o; head -c 9000 /dev/zero | tr '\\0' e >&2",
                OutputS3BucketName="logs", OutputS3KeyPrefix="commands")
    end = ended(cloud, sent, instance)
    assert len(end["StandardOutputContent"]) == 24000 and end["StandardOutputContent"].endswith("truncated---")
    assert len(end["StandardErrorContent"]) == 8000
    folder = f"commands/{sent}/{instance}/awsrunShellScript/awsrunShellScript"
    sizes = {key: cloud.client("s3").get_object(Bucket="logs", Key=f"{folder}/{key}")["ContentLength"] for key in ("stdout", "stderr")}
    assert sizes == {"stdout": 30000, "stderr": 9000} and end["StandardOutputUrl"].endswith(f"{folder}/stdout")
    listed = cloud.client("ssm").list_command_invocations(CommandId=sent, Details=True)["CommandInvocations"][0]
    assert len(listed["CommandPlugins"][0]["Output"]) == 2500


# ---- time and cancel

LEAVES_A_CHILD = "(sleep 0.8; touch late) & touch started; sleep 1000"


def test_execution_timeout_kills_the_group(cloud):
    create(cloud, LEAVES_A_CHILD, parameters={"executionTimeout": {"type": "String", "default": "3600"}},
           timeoutSeconds="{{ executionTimeout }}")
    instance = cloud.instance()
    cloud.control("PUT", "settings", {"ssm_time_scale": 0.01})
    sent = send(cloud, instance, DocumentName="hw-test", Parameters={"executionTimeout": ["40"]})
    end = ended(cloud, sent, instance)
    assert (end["Status"], end["StatusDetails"], end["ResponseCode"]) == ("TimedOut", "ExecutionTimedOut", 137)
    eventually(lambda: cloud.control("GET", f"hosts/{instance}")["running"] == 0)
    assert not (files(cloud, instance) / "late").exists()
    command = cloud.client("ssm").list_commands(CommandId=sent)["Commands"][0]
    assert (command["Status"], command["ErrorCount"]) == ("TimedOut", 1)


@pytest.mark.parametrize("timeout", ["0", "172801", "many"])
def test_execution_timeout_has_limits(cloud, timeout):
    create(cloud, "true", parameters={"t": {"type": "String"}}, timeoutSeconds="{{ t }}")
    with pytest.raises(ClientError, match="172800"):
        send(cloud, cloud.instance(), DocumentName="hw-test", Parameters={"t": [timeout]})


def test_delivery_times_out_at_a_host_that_is_off_the_line(cloud):
    create(cloud, "touch ran", timeoutSeconds=10)
    instance = cloud.instance()
    cloud.control("PUT", "settings", {"ssm_time_scale": 0.01})
    cloud.control("PUT", f"hosts/{instance}", {"agent": "offline"})
    agents = cloud.client("ssm").describe_instance_information()["InstanceInformationList"]
    assert [agent["PingStatus"] for agent in agents] == ["ConnectionLost"]
    sent = send(cloud, instance, DocumentName="hw-test", TimeoutSeconds=30)
    assert invocation(cloud, sent, instance)["Status"] == "Pending"
    end = ended(cloud, sent, instance)
    assert (end["Status"], end["StatusDetails"], end["ResponseCode"]) == ("TimedOut", "DeliveryTimedOut", -1)
    cloud.control("PUT", f"hosts/{instance}", {"agent": "online"})
    sent = send(cloud, instance, "echo back")
    assert ended(cloud, sent, instance)["Status"] == "Success" and not (files(cloud, instance) / "ran").exists()


def test_host_that_comes_back_in_time_gets_its_command(cloud):
    instance = cloud.instance()
    cloud.control("PUT", f"hosts/{instance}", {"agent": "offline"})
    sent = send(cloud, instance, "echo late")
    cloud.control("PUT", f"hosts/{instance}", {"agent": "online"})
    assert ended(cloud, sent, instance)["StandardOutputContent"] == "late\n"


def test_delivery_times_out_while_the_host_goes_on(cloud):
    create(cloud, "touch started; while [ ! -e go ]; do sleep 0.05; done; touch ended", timeoutSeconds=10)
    instance = cloud.instance()
    cloud.control("PUT", "settings", {"ssm_time_scale": 0.02})
    cloud.control("PUT", f"hosts/{instance}", {"agent": "mute"})
    sent = send(cloud, instance, DocumentName="hw-test", TimeoutSeconds=30)
    eventually(lambda: (files(cloud, instance) / "started").exists())
    assert ended(cloud, sent, instance)["StatusDetails"] == "DeliveryTimedOut"
    (files(cloud, instance) / "go").touch()
    eventually(lambda: (files(cloud, instance) / "ended").exists())
    eventually(lambda: cloud.control("GET", f"hosts/{instance}")["running"] == 0)
    assert invocation(cloud, sent, instance)["Status"] == "TimedOut"


def test_deaf_agent_lets_a_timed_out_script_go_on(cloud):
    create(cloud, "sleep 1; touch ended", timeoutSeconds=10)
    instance = cloud.instance()
    cloud.control("PUT", "settings", {"ssm_time_scale": 0.02})
    cloud.control("PUT", f"hosts/{instance}", {"agent": "deaf"})
    sent = send(cloud, instance, DocumentName="hw-test")
    assert ended(cloud, sent, instance)["StatusDetails"] == "ExecutionTimedOut"
    eventually(lambda: (files(cloud, instance) / "ended").exists())


def test_cancel_kills_the_group(cloud):
    instance, ssm = cloud.instance(), cloud.client("ssm")
    sent = send(cloud, instance, LEAVES_A_CHILD)
    eventually(lambda: (files(cloud, instance) / "started").exists())
    ssm.cancel_command(CommandId=sent)
    end = ended(cloud, sent, instance)
    assert (end["Status"], end["ResponseCode"]) == ("Cancelled", 137)
    eventually(lambda: cloud.control("GET", f"hosts/{instance}")["running"] == 0)
    assert not (files(cloud, instance) / "late").exists()
    with pytest.raises(ssm.exceptions.InvalidCommandId):
        ssm.cancel_command(CommandId="0" * 36)


def test_instance_that_ends_takes_its_command_along_unheard(cloud):
    create(cloud, "touch started; sleep 1000", timeoutSeconds=20)
    instance = cloud.instance()
    cloud.control("PUT", "settings", {"ssm_time_scale": 0.05, "shutdown_grace_s": 0.1})
    sent = send(cloud, instance, DocumentName="hw-test", TimeoutSeconds=30)
    eventually(lambda: (files(cloud, instance) / "started").exists())
    cloud.client("ec2").terminate_instances(InstanceIds=[instance])
    eventually(lambda: cloud.state(instance) == "terminated")
    assert invocation(cloud, sent, instance)["Status"] == "InProgress"
    assert ended(cloud, sent, instance)["StatusDetails"] == "DeliveryTimedOut"


# ---- events

def statuses(events) -> list[str]:
    return [event["detail"]["status"] for event in events()]


def test_every_change_of_status_is_an_event_in_order(cloud):
    events = cloud.inbox({"source": ["aws.ssm"], "detail-type": ["EC2 Command Invocation Status-change Notification"]})
    instance = cloud.instance()
    sent = send(cloud, instance, "exit 4")
    eventually(lambda: statuses(events) == ["InProgress", "Failed"])
    detail = events()[-1]["detail"]
    assert (detail["command-id"], detail["instance-id"], detail["document-name"]) == (sent, instance, "AWS-RunShellScript")


def test_put_events_may_not_pretend_to_be_aws(cloud):
    reply = cloud.client("events").put_events(Entries=[{"Source": "aws.ssm", "DetailType": "x", "Detail": "{}"}])
    assert reply["FailedEntryCount"] == 1


@pytest.mark.parametrize("effect, arrived", [
    ("lose", ["InProgress"]), ("double", ["InProgress", "Success", "Success"])])
def test_events_get_lost_and_doubled(cloud, effect, arrived):
    events, instance = cloud.inbox({"source": ["aws.ssm"]}), cloud.instance()
    cloud.fault("event:aws.ssm", effect, match={"status": "Success"}, times=1)
    first = send(cloud, instance, "true")
    ended(cloud, first, instance)
    ended(cloud, send(cloud, instance, "true"), instance)  # the fault has struck; this one arrives, after all of the first
    eventually(lambda: statuses(events) == [*arrived, "InProgress", "Success"])


def test_events_come_late_and_out_of_order(cloud):
    events, instance = cloud.inbox({"source": ["aws.ssm"]}), cloud.instance()
    cloud.fault("event:aws.ssm", "hold")
    ended(cloud, send(cloud, instance, "true"), instance)
    eventually(lambda: [e["fate"] for e in cloud.control("GET", "events") if e["source"] == "aws.ssm"] == ["hold", "hold"])
    assert events() == []
    assert cloud.control("POST", "events/release", {"order": "reversed"}) == {"released": 2}
    eventually(lambda: statuses(events) == ["Success", "InProgress"])
    cloud.control("DELETE", "faults")
    cloud.fault("event:aws.ssm", "delay", match={"status": "InProgress"}, seconds=0.5)
    ended(cloud, send(cloud, instance, "true"), instance)
    eventually(lambda: statuses(events)[2:] == ["Success", "InProgress"])


def test_event_overtakes_the_reply_of_send_command(cloud):
    events, instance = cloud.inbox({"source": ["aws.ssm"], "detail": {"status": ["Success"]}}), cloud.instance()
    cloud.fault("ssm:SendCommand", "delay-reply", seconds=1.0)
    send(cloud, instance, "true")
    assert statuses(events) == ["Success"]
