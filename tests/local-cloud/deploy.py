"""Deploys what `cdk synth` wrote to a local cloud, as `cdk deploy` does to AWS: assets first, then the stack.

    python deploy.py CDK_OUT --endpoint http://127.0.0.1:41234 [--import retained.json]

Prints the stack's outputs as JSON; a stack that fails ends this with the resources' reasons. Again with
the same name: an update. With --import it first takes over what an earlier stack left behind, as `cdk import
--resource-mapping` does: {"logical id": {"BucketName": "…"}}.
"""

import argparse
import io
import json
import sys
import time
import zipfile
from pathlib import Path

import boto3
from botocore.exceptions import ClientError

REGION = "eu-west-1"
BOOTSTRAP_VERSION = "/cdk-bootstrap/hnb659fds/version"  # what a template of CDK's asks of its account
TIMEOUT_S = 120


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("cdk_out", type=Path)
    parser.add_argument("--endpoint", required=True)
    parser.add_argument("--import", dest="retained", type=Path)
    arguments = parser.parse_args()
    retained = json.loads(arguments.retained.read_text()) if arguments.retained else {}
    print(json.dumps(deploy(arguments.cdk_out, arguments.endpoint, retained)))


def deploy(cdk_out: Path, endpoint: str, retained: dict) -> dict:
    def client(service):
        return boto3.client(service, endpoint_url=endpoint, region_name=REGION, aws_access_key_id="test",
                            aws_secret_access_key="test")

    name, artifact = _stack(cdk_out)
    assets = json.loads((cdk_out / f"{name}.assets.json").read_text())
    account = client("sts").get_caller_identity()["Account"]
    client("ssm").put_parameter(Name=BOOTSTRAP_VERSION, Value="30", Type="String", Overwrite=True)
    bucket = _upload(client("s3"), cdk_out, assets, {"${AWS::AccountId}": account, "${AWS::Region}": REGION})
    template = artifact["properties"]["templateFile"]
    client("s3").upload_file(str(cdk_out / template), bucket, template)
    cloudformation, stack = client("cloudformation"), artifact["properties"].get("stackName", name)
    if retained:
        _import(cloudformation, stack, json.loads((cdk_out / template).read_text()), retained)
    return _apply(cloudformation, stack, f"{endpoint}/{bucket}/{template}")


def _stack(cdk_out: Path) -> tuple[str, dict]:
    artifacts = json.loads((cdk_out / "manifest.json").read_text())["artifacts"]
    stacks = {name: artifact for name, artifact in artifacts.items() if artifact["type"] == "aws:cloudformation:stack"}
    if len(stacks) != 1:
        sys.exit(f"{cdk_out} holds {len(stacks)} stacks, not one")
    return next(iter(stacks.items()))


def _upload(s3, cdk_out: Path, assets: dict, names: dict) -> str:
    bucket = ""
    for asset in assets["files"].values():
        for target in asset["destinations"].values():
            bucket = target["bucketName"]
            for name, value in names.items():
                bucket = bucket.replace(name, value)
            try:
                s3.create_bucket(Bucket=bucket, CreateBucketConfiguration={"LocationConstraint": REGION})
            except ClientError as error:
                if error.response["Error"]["Code"] != "BucketAlreadyOwnedByYou":
                    raise
            source = cdk_out / asset["source"]["path"]
            body = _zipped(source) if asset["source"]["packaging"] == "zip" else source.read_bytes()
            s3.put_object(Bucket=bucket, Key=target["objectKey"], Body=body)
    return bucket


def _zipped(directory: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        for file in sorted(path for path in directory.rglob("*") if path.is_file()):
            archive.write(file, file.relative_to(directory))  # with its mode: a bootstrap stays executable
    return packed.getvalue()


def _import(cloudformation, stack: str, template: dict, retained: dict) -> None:
    """A stack of nothing but what is taken over; what refers to something else than it comes with the update."""
    resources = {name: template["Resources"][name] for name in retained}
    only = {"Resources": resources, "Parameters": template.get("Parameters", {})}
    named = [{"ResourceType": resources[name]["Type"], "LogicalResourceId": name, "ResourceIdentifier": identifier}
             for name, identifier in retained.items()]
    names = {"StackName": stack, "ChangeSetName": "import"}
    cloudformation.create_change_set(**names, ChangeSetType="IMPORT", TemplateBody=json.dumps(only), ResourcesToImport=named)
    found = _ended(lambda: cloudformation.describe_change_set(**names), "Status")
    if found["Status"] != "CREATE_COMPLETE":
        sys.exit(f"the import into {stack} is {found['Status']}: {found.get('StatusReason', '')}")
    cloudformation.execute_change_set(**names)
    found = _ended(lambda: cloudformation.describe_stacks(StackName=stack)["Stacks"][0], "StackStatus")
    if found["StackStatus"] != "IMPORT_COMPLETE":
        sys.exit(f"{stack} is {found['StackStatus']}: {found.get('StackStatusReason', '')}")


def _ended(describe, status: str) -> dict:
    deadline = time.monotonic() + TIMEOUT_S
    while (found := describe())[status].endswith(("PROGRESS", "PENDING")):
        if time.monotonic() > deadline:
            sys.exit(f"still {found[status]} after {TIMEOUT_S} s")
        time.sleep(0.1)
    return found


def _apply(cloudformation, stack: str, template_url: str) -> dict:
    request = {"StackName": stack, "TemplateURL": template_url, "Capabilities": ["CAPABILITY_NAMED_IAM"]}
    try:
        cloudformation.describe_stacks(StackName=stack)
        cloudformation.update_stack(**request)
    except ClientError as error:
        message = error.response["Error"]["Message"]
        if "No updates" not in message:
            if "does not exist" not in message:
                raise
            cloudformation.create_stack(**request)
    found = _ended(lambda: cloudformation.describe_stacks(StackName=stack)["Stacks"][0], "StackStatus")
    if found["StackStatus"] not in ("CREATE_COMPLETE", "UPDATE_COMPLETE"):
        events = cloudformation.describe_stack_events(StackName=stack)["StackEvents"]
        reasons = [f"{event['LogicalResourceId']} ({event['ResourceType']}): {event.get('ResourceStatusReason', '')}"
                   for event in events if event["ResourceStatus"].endswith("FAILED")]
        sys.exit("\n".join([f"{stack} is {found['StackStatus']}", *reasons]))
    return {output["OutputKey"]: output["OutputValue"] for output in found.get("Outputs", [])}


if __name__ == "__main__":
    main()
