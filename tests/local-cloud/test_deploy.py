"""deploy.py: what `cdk synth` writes becomes a stack whose functions run."""

import json
import subprocess
import sys
from pathlib import Path

from conftest import RULE_ROLE, Cloud, bootstrap

DEPLOY = Path(__file__).with_name("deploy.py")


def synthesised(directory: Path, **function) -> Path:
    """A stack with one function, in the files and words of `cdk synth`."""
    (directory / "asset.1").mkdir(exist_ok=True)
    (directory / "asset.1" / "bootstrap").write_text(bootstrap('return {"name": os.environ["NAME"]}'))
    (directory / "asset.1" / "bootstrap").chmod(0o755)
    bucket = "cdk-hnb659fds-assets-${AWS::AccountId}-${AWS::Region}"
    files = {
        "manifest.json": {"artifacts": {"hw": {"type": "aws:cloudformation:stack", "properties": {"templateFile": "hw.template.json"}}}},
        "hw.assets.json": {"files": {"1": {"source": {"path": "asset.1", "packaging": "zip"}, "destinations": {
            "here": {"bucketName": bucket, "objectKey": "1.zip"}}}}},
        "hw.template.json": {
            "Parameters": {"BootstrapVersion": {"Type": "AWS::SSM::Parameter::Value<String>", "Default": "/cdk-bootstrap/hnb659fds/version"}},
            "Resources": {"F": {"Type": "AWS::Lambda::Function", "Properties": {
                "FunctionName": "f", "Runtime": "provided.al2023", "Handler": "bootstrap", "Role": RULE_ROLE,
                "Code": {"S3Bucket": {"Fn::Sub": bucket}, "S3Key": "1.zip"}, "Environment": {"Variables": {"NAME": "one"}}, **function}}},
            "Outputs": {"Arn": {"Value": {"Fn::GetAtt": ["F", "Arn"]}}}},
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content))
    return directory


def deploy(cloud: Cloud, directory: Path) -> subprocess.CompletedProcess:
    return subprocess.run([sys.executable, "-B", str(DEPLOY), str(directory), "--endpoint", cloud.endpoint],
                          capture_output=True, text=True, timeout=120)


def test_stack_is_created_left_alone_and_updated(cloud, tmp_path):
    for changes, name in (({}, "one"), ({}, "one"), ({"Environment": {"Variables": {"NAME": "two"}}}, "two")):
        done = deploy(cloud, synthesised(tmp_path, **changes))
        assert json.loads(done.stdout)["Arn"].endswith(":function:f"), done.stderr
        reply = cloud.client("lambda").invoke(FunctionName="f")["Payload"].read()
        assert json.loads(reply) == {"name": name}


def test_stack_that_fails_says_why(cloud, tmp_path):
    done = deploy(cloud, synthesised(tmp_path, Code={"S3Bucket": "none", "S3Key": "none"}))
    assert done.returncode != 0 and "F (AWS::Lambda::Function)" in done.stderr
