"""The synthesised template on the local cloud: it deploys, its documents run the helper, its drill machine ends what it began.

The functions are stand-ins written here, since their code is not part of `infra/`: what is shown is the template, the
state machine, the documents and the drill's script, not the functions. `highwater-host` and the AWS CLI are stand-ins too.
"""

import io
import json
import sys
import zipfile
from pathlib import Path

import pytest
from botocore.exceptions import ClientError
from conftest import Cloud, bootstrap, eventually

INFRA = Path(__file__).parent
ASSEMBLY = INFRA / "cdk" / "cdk.out"
BUCKET = "highwater-000000000000-eu-west-1"
DRILL = f"s3://{BUCKET}/v1/orders/drills/d1"
SHA = "0123456789abcdef" * 4

PLAN_RESTORE = """
given = event["input"]
if not isinstance(given, dict) or "cluster" not in given:
    raise type("BadInput", (Exception,), {})('expected {"cluster":"orders"}')
return {"drill_id": "d1", "cluster": given["cluster"]}
"""

LAUNCH_DRILL = f"""
import boto3, uuid
cluster, drill = event["drill"]["cluster"], event["drill"]["drill_id"]
script = open({str(INFRA / "drill" / "user-data.sh")!r}).read()
for key, value in {{"REGION": "eu-west-1", "DRILL_URI": {DRILL!r}, "PLAN_SHA256": {SHA!r}, "BOOT_MINUTES": "1",
                   "MAX_MINUTES": "60", "HEARTBEAT_SECONDS": "1", "DRILL_ID": drill}}.items():
    script = script.replace("@" + key + "@", value)
put = lambda name, text: boto3.client("s3").put_object(
    Bucket=os.environ["HIGHWATER_BUCKET"], Key="v1/" + cluster + "/drills/" + drill + "/" + name, Body=text.encode(), IfNoneMatch="*")
put("host.toml", 'cluster = "orders"\\n')
put("task-token", event["token"])
tags = [{{"Key": "highwater:" + k, "Value": v}} for k, v in
        {{"deployment": os.environ["HIGHWATER_DEPLOYMENT"], "purpose": "drill", "drill": drill, "cluster": cluster}}.items()]
boto3.client("ec2").run_instances(
    LaunchTemplate={{"LaunchTemplateId": os.environ["HIGHWATER_LAUNCH_TEMPLATE"], "Version": "$Latest"}}, MinCount=1, MaxCount=1,
    ClientToken=drill, ImageId="ami-0123456789abcdef0", InstanceType="m7i.large", UserData=script,
    IamInstanceProfile={{"Name": "highwater-drill-" + cluster}}, TagSpecifications=[{{"ResourceType": "instance", "Tags": tags}}])
return {{}}
"""

RECORD_DRILL = """
if event["failure"]: return {"outcome": "failed", "reason": event["failure"]["Error"] + ": " + event["failure"]["Cause"]}
import boto3
report = boto3.client("s3").get_object(Bucket=os.environ["HIGHWATER_BUCKET"], Key="v1/orders/drills/d1/report.json")["Body"].read()
return {"outcome": json.loads(report)["outcome"], "cluster": event["drill"]["cluster"]}
"""

# The five calls that the drill's script makes, with the credentials that the instance's role gives it.
AWS_CLI = f"""#!{sys.executable}
import sys, boto3
command, options = sys.argv[2], dict(zip(sys.argv[3:-1:2], sys.argv[4::2]))
states = lambda: boto3.client("stepfunctions")
if command == "get-object":
    body = boto3.client("s3").get_object(Bucket=options["--bucket"], Key=options["--key"])["Body"].read()
    open(sys.argv[-1], "wb").write(body)
elif command == "send-task-heartbeat": states().send_task_heartbeat(taskToken=options["--task-token"])
elif command == "send-task-success": states().send_task_success(taskToken=options["--task-token"], output=options["--task-output"])
elif command == "send-task-failure": states().send_task_failure(taskToken=options["--task-token"], error=options["--error"], cause=options["--cause"])
else: sys.exit("unknown: " + command)
"""

HELPER = f"""#!{sys.executable}
import json, os, sys, time
print(json.dumps(sys.argv[1:]))
if "drill" in sys.argv:
    wanted = open(os.path.dirname(os.path.realpath(__file__)) + "/wanted").read()
    if wanted == "hang": time.sleep(600)
    if wanted != "pass": sys.exit(int(wanted))
    import boto3
    bucket, key = sys.argv[sys.argv.index("--report") + 1].removeprefix("s3://").split("/", 1)
    boto3.client("s3").put_object(Bucket=bucket, Key=key, Body=b'{{"outcome": "passed"}}', IfNoneMatch="*")
"""


@pytest.fixture
def stack(cloud: Cloud, tmp_path: Path):
    """The template, deployed as `cdk deploy` would; hosts have the stand-ins on their PATH."""
    for name, text in {"aws": AWS_CLI, "highwater-host": HELPER, "wanted": "pass"}.items():
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)
    cloud.control("PUT", "hosts", {"path": [str(tmp_path)], "env": {}})
    cloud.control("PUT", "settings", {"sfn_wait_scale": 0.01})
    bucket = "cdk-hnb659fds-assets-000000000000-eu-west-1"
    cloud.client("s3").create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": "eu-west-1"})
    cloud.client("ssm").put_parameter(Name="/cdk-bootstrap/hnb659fds/version", Value="30", Type="String")
    for asset in json.loads((ASSEMBLY / "highwater.assets.json").read_text())["files"].values():
        source = ASSEMBLY / asset["source"]["path"]
        body = zipped({f.name: f.read_text() for f in source.iterdir()}) if asset["source"]["packaging"] == "zip" else source.read_bytes()
        for destination in asset["destinations"].values():
            cloud.client("s3").put_object(Bucket=bucket, Key=destination["objectKey"], Body=body)
            template = destination["objectKey"] if source.name == "highwater.template.json" else None
    cfn = cloud.client("cloudformation")
    cfn.create_stack(StackName="highwater", TemplateURL=f"{cloud.endpoint}/{bucket}/{template}", Capabilities=["CAPABILITY_NAMED_IAM"])
    described = eventually(lambda: s if not (s := cfn.describe_stacks(StackName="highwater")["Stacks"][0])["StackStatus"].endswith("PROGRESS") else None, 60)
    reasons = [e.get("ResourceStatusReason") for e in cfn.describe_stack_events(StackName="highwater")["StackEvents"] if "FAILED" in e["ResourceStatus"]]
    assert described["StackStatus"] == "CREATE_COMPLETE", reasons
    for name, handler in {"plan-restore": PLAN_RESTORE, "launch-drill": LAUNCH_DRILL, "record-drill": RECORD_DRILL}.items():
        cloud.client("lambda").update_function_code(FunctionName=f"highwater-{name}", ZipFile=zipped({"bootstrap": bootstrap(handler)}))
    outputs = {o["OutputKey"]: o["OutputValue"] for o in described["Outputs"]}
    return {**outputs, "wanted": tmp_path / "wanted"}


def zipped(files: dict[str, str]) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w") as archive:
        for name, text in files.items():
            entry = zipfile.ZipInfo(name)
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, text)
    return packed.getvalue()


def drill(cloud: Cloud, stack: dict, data) -> str:
    return cloud.client("stepfunctions").start_execution(stateMachineArn=stack["DrillMachine"], input=json.dumps(data))["executionArn"]


def execution(cloud: Cloud, arn: str) -> dict:
    return cloud.client("stepfunctions").describe_execution(executionArn=arn)


def ended(cloud: Cloud, arn: str) -> dict:
    eventually(lambda: execution(cloud, arn)["status"] != "RUNNING", 60)
    return execution(cloud, arn)


def instances(cloud: Cloud) -> list[dict]:
    found = cloud.client("ec2").describe_instances(Filters=[{"Name": "tag:highwater:purpose", "Values": ["drill"]}])
    return [i for r in found["Reservations"] for i in r["Instances"]]


def all_ended(cloud: Cloud) -> bool:
    return all(i["State"]["Name"] in ("shutting-down", "terminated") for i in instances(cloud))


def test_stack_is_what_the_template_says(cloud, stack):
    s3 = cloud.client("s3")
    assert s3.get_bucket_versioning(Bucket=stack["Bucket"])["Status"] == "Enabled"
    assert s3.get_object_lock_configuration(Bucket=stack["Bucket"])["ObjectLockConfiguration"]["Rule"]["DefaultRetention"]["Days"] == 14
    functions = cloud.client("lambda").list_functions()["Functions"]
    assert len(functions) == 12 and all(f["Environment"]["Variables"]["HIGHWATER_BUCKET"] == stack["Bucket"] for f in functions)
    stored = cloud.client("ssm").get_parameter(Name="/highwater/clusters/orders")["Parameter"]["Value"]
    assert json.loads(stored)["format"] == "highwater.cluster.v1"
    schedules = {s["Name"] for s in cloud.client("scheduler").list_schedules(GroupName="highwater")["Schedules"]}
    assert {"backup-orders", "drill-orders", "backup-billing-eu", "fleet-reconcile", "fleet-prune"} <= schedules


DOCUMENTS = {
    "backup": ({"requestUri": f"s3://{BUCKET}/v1/orders/requests/r.json", "requestSha256": SHA},
               ["backup", "--request", f"s3://{BUCKET}/v1/orders/requests/r.json", "--sha256", SHA]),
    "promote": ({"planUri": f"{DRILL}/plan.json", "planSha256": SHA, "approvalUri": f"{DRILL}/a.json", "approvalSha256": SHA,
                 "reportUri": f"{DRILL}/report.json", "reportSha256": SHA},
                ["promote", "--plan", f"{DRILL}/plan.json", "--sha256", SHA, "--approval", f"{DRILL}/a.json", "--approval-sha256", SHA,
                 "--report", f"{DRILL}/report.json", "--report-sha256", SHA]),
    "resume": ({}, ["promote", "--resume"]),
    "rollback": ({}, ["rollback"]),
    "doctor": ({"bucket": BUCKET}, ["doctor", "--bucket", BUCKET]),
}


def test_documents_run_the_helper(cloud, stack):
    ssm, instance = cloud.client("ssm"), cloud.instance()

    def send(name: str, parameters: dict[str, str]) -> str:
        return ssm.send_command(DocumentName=f"highwater-{name}", InstanceIds=[instance],
                                Parameters={k: [v] for k, v in parameters.items()})["Command"]["CommandId"]

    for name, (parameters, arguments) in DOCUMENTS.items():
        command = send(name, parameters)
        invocation = lambda: ssm.get_command_invocation(CommandId=command, InstanceId=instance)
        eventually(lambda: invocation()["Status"] not in ("Pending", "InProgress"))
        assert json.loads(invocation()["StandardOutputContent"]) == ["--json", *arguments]
        for key in parameters:
            with pytest.raises(ClientError, match="InvalidParameters"):
                send(name, {**parameters, key: parameters[key] + "'; reboot; '"})
        with pytest.raises(ClientError, match="InvalidParameters"):
            send(name, {**parameters, "executionTimeout": "172801"})


def test_drill_passes_and_its_instance_ends(cloud, stack):
    result = ended(cloud, drill(cloud, stack, {"cluster": "orders"}))
    assert result["status"] == "SUCCEEDED", result
    assert json.loads(result["output"]) == {"outcome": "passed", "cluster": "orders"}
    assert len(instances(cloud)) == 1
    eventually(lambda: all_ended(cloud))


def test_drill_that_fails_says_why_and_its_instance_ends(cloud, stack):
    stack["wanted"].write_text("14")
    result = ended(cloud, drill(cloud, stack, {"cluster": "orders"}))
    assert (result["status"], result["error"]) == ("FAILED", "DrillFailed")
    assert "DrillHelper: highwater-host drill exited with 14" in result["cause"]
    eventually(lambda: all_ended(cloud))


def test_aborted_drill_ends_its_own_instance(cloud, stack):
    stack["wanted"].write_text("hang")
    run = drill(cloud, stack, {"cluster": "orders"})
    eventually(lambda: instances(cloud), 30)
    cloud.client("stepfunctions").stop_execution(executionArn=run)
    assert ended(cloud, run)["status"] == "ABORTED"
    eventually(lambda: all_ended(cloud), 60)


def test_bad_input_is_answered_with_the_accepted_form(cloud, stack):
    result = ended(cloud, drill(cloud, stack, {"clustre": "orders"}))
    assert (result["status"], result["error"]) == ("FAILED", "BadInput")
    assert '{\\"cluster\\":\\"orders\\"}' in result["cause"] or '{"cluster":"orders"}' in result["cause"]
    assert instances(cloud) == []


def test_fleet_names_the_clusters_that_failed(cloud, stack):
    fleet = stack["DrillMachine"] + "-fleet"
    start = lambda data: ended(cloud, cloud.client("stepfunctions").start_execution(stateMachineArn=fleet, input=json.dumps(data))["executionArn"])
    done = start({"clusters": ["orders"]})
    assert done["status"] == "SUCCEEDED", done
    assert start({"sample": 0})["error"] == "BadInput"
    cloud.client("lambda").update_function_code(FunctionName="highwater-plan-restore", ZipFile=zipped({"bootstrap": bootstrap('raise ValueError("no")')}))
    result = start({"sample": 2})
    assert (result["status"], result["error"]) == ("FAILED", "DrillsFailed")
    assert "orders" in result["cause"] and "billing-eu" in result["cause"]
