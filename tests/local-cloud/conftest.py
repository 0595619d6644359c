"""One launcher for the whole run; every test starts from an empty cloud."""

import io
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import boto3
import pytest
from botocore.config import Config

LAUNCHER = Path(__file__).with_name("launcher.py")
RULE_ROLE = "arn:aws:iam::000000000000:role/any"
IMAGE = "ami-0c2023a1b2c3d4e5f"


class Cloud:
    """A launcher's endpoint: AWS clients, and what a test orders of the launcher."""

    def __init__(self, *arguments: str):
        self.process = subprocess.Popen([sys.executable, str(LAUNCHER), *arguments], stdout=subprocess.PIPE, text=True)
        line = self.process.stdout.readline()
        assert line, "the launcher did not start"
        self.ready = json.loads(line)
        self.endpoint = self.ready["endpoint"]
        self.clients: dict = {}

    def client(self, service: str, **config):
        if config:
            return self._new_client(service, **config)
        if service not in self.clients:
            self.clients[service] = self._new_client(service)
        return self.clients[service]

    def _new_client(self, service: str, **config):
        return boto3.client(service, endpoint_url=self.endpoint, region_name="eu-west-1", aws_access_key_id="test",
                            aws_secret_access_key="test", config=Config(**{"retries": {"total_max_attempts": 1}, **config}))

    def control(self, method: str, path: str, body: dict | None = None):
        request = urllib.request.Request(f"{self.endpoint}/_local-cloud/{path}", json.dumps(body or {}).encode(), method=method)
        with urllib.request.urlopen(request, timeout=10) as reply:
            return json.load(reply)

    def fault(self, on: str, effect: str, **more):
        return self.control("POST", "faults", {"on": on, "effect": effect, **more})

    def reset(self):
        urllib.request.urlopen(urllib.request.Request(f"{self.endpoint}/_ministack/reset", b"", method="POST")).read()

    def instance(self, **request) -> str:
        """An instance that is up, with what `request` adds to the launch."""
        ec2 = self.client("ec2")
        launched = ec2.run_instances(**{"ImageId": IMAGE, "MinCount": 1, "MaxCount": 1, **request})
        instance_id = launched["Instances"][0]["InstanceId"]
        eventually(lambda: self.state(instance_id) != "pending")
        return instance_id

    def state(self, instance_id: str) -> str:
        return self.described(instance_id)["State"]["Name"]

    def described(self, instance_id: str) -> dict:
        reply = self.client("ec2").describe_instances(InstanceIds=[instance_id])
        return reply["Reservations"][0]["Instances"][0]

    def inbox(self, pattern: dict):
        """A queue that gets what matches `pattern`; returns a function that takes the events so far."""
        sqs, rules = self.client("sqs"), self.client("events")
        queue = sqs.create_queue(QueueName="inbox")["QueueUrl"]
        rules.put_rule(Name="all", EventPattern=json.dumps(pattern))
        rules.put_targets(Rule="all", Targets=[{"Id": "1", "Arn": "arn:aws:sqs:eu-west-1:000000000000:inbox"}])
        taken: list[dict] = []

        def events() -> list[dict]:
            while messages := sqs.receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
                for message in messages:
                    taken.append(json.loads(message["Body"]))
                    sqs.delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
            return taken

        return events

    def function(self, name: str, script: str) -> str:
        """A `provided.al2023` function whose bootstrap is `script`."""
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w") as archive:
            entry = zipfile.ZipInfo("bootstrap")
            entry.external_attr = 0o755 << 16
            archive.writestr(entry, script)
        return self.client("lambda").create_function(
            FunctionName=name, Runtime="provided.al2023", Handler="bootstrap", Role=RULE_ROLE, Timeout=10,
            Code={"ZipFile": packed.getvalue()}, Environment={"Variables": {"NAME": name}})["FunctionArn"]

    def stop(self):
        self.process.terminate()
        self.process.wait(15)


def bootstrap(handler: str) -> str:
    """A custom runtime in Python; `handler` is the body of `handle(event)`."""
    body = "\n".join("    " + line for line in handler.splitlines())
    return f"""#!{sys.executable}
import json, os, urllib.request as http
api = "http://" + os.environ["AWS_LAMBDA_RUNTIME_API"] + "/2018-06-01/runtime/invocation/"
def handle(event):
{body}
while True:
    with http.urlopen(api + "next", timeout=None) as reply:
        request, event = reply.headers["Lambda-Runtime-Aws-Request-Id"], json.load(reply)
    try:
        path, answer = "response", handle(event)
    except Exception as error:
        path, answer = "error", {{"errorType": type(error).__name__, "errorMessage": str(error)}}
    http.urlopen(http.Request(api + request + "/" + path, json.dumps(answer).encode(), method="POST")).read()
"""


def eventually(condition, timeout_s: float = 60):
    """Wait for a state, never for a duration; the limit is for a machine that has ten other things to do."""
    deadline = time.monotonic() + timeout_s
    while not (result := condition()):
        assert time.monotonic() < deadline, "did not come about"
        time.sleep(0.03)
    return result


@pytest.fixture(scope="session")
def launched():
    cloud = Cloud()
    yield cloud
    cloud.stop()


@pytest.fixture
def cloud(launched):
    launched.reset()
    return launched
