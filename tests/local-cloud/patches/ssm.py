"""Run Command on local hosts: SendCommand runs a document's script there, with its real end.

A command's time, as AWS counts it: the script may run for its step's timeoutSeconds (then it is killed:
ExecutionTimedOut); a command that has not reported an end after TimeoutSeconds plus that (whether it was
delivered or not) expires as DeliveryTimedOut, and the service forgets it while a host may go on.
Every change of status is an event; see events.py for how events get lost.
"""

import json
import threading
import time
from dataclasses import dataclass, field
from datetime import datetime, timezone

from ministack.core.concurrency import spawn_background
from ministack.core.responses import error_response_json, get_account_id, get_region, json_response, new_uuid
from ministack.services import ec2, s3, ssm

from . import events, replace, ssm_documents
from .hosts import hosts
from .settings import settings
from .ssm_documents import Refused, Step

STDOUT_LIMIT, STDERR_LIMIT, LIST_LIMIT = 24_000, 8_000, 2_500
TRUNCATED = "\n---Output truncated---"
KILLED = 137  # what the agent reports for a script that it killed
OVER = ("Success", "Failed", "TimedOut", "Cancelled")
PAUSE_S = 0.02


def install() -> None:
    replace(ssm, "handle_request", _with_our_actions)
    replace(ssm, "reset", _reset)


def _with_our_actions(inner):
    actions = {**ssm_documents.ACTIONS, "SendCommand": send_command, "CancelCommand": cancel_command,
               "GetCommandInvocation": get_command_invocation, "ListCommandInvocations": list_command_invocations,
               "DescribeInstanceInformation": describe_instance_information}

    async def handle_request(method, path, headers, body, query_params):
        action = actions.get(headers.get("x-amz-target", "").rsplit(".", 1)[-1])
        if action is None:
            return await inner(method, path, headers, body, query_params)
        try:
            return action(json.loads(body or b"{}"))
        except Refused as refusal:
            return refusal.reply()
        except KeyError as missing:
            return error_response_json("ValidationException", f"{missing.args[0]} is required", 400)

    return handle_request


@dataclass
class Invocation:
    """A command on one instance: what the service knows, and what the host does about it."""

    command: dict
    instance_id: str
    steps: list[Step]
    status: str = "Pending"
    details: str = "Pending"
    plugins: dict = field(default_factory=dict)
    cancelled: threading.Event = field(default_factory=threading.Event)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def change(self, status: str, details: str | None = None) -> bool:
        """The service's view moves on, once; an end is final. Tells the rules."""
        with self.lock:
            if self.status in OVER or (self.status, self.details) == (status, details or status):
                return False
            self.status, self.details = status, details or status
        _roll_up(self.command)
        _announce(self)
        return True


# ---- sending

def send_command(request: dict):
    document = ssm_documents.find(request.get("DocumentName") or "")
    content = document.content(request.get("DocumentVersion"))
    values = ssm_documents.resolve(content, request.get("Parameters") or {})
    steps = ssm_documents.render(content, values)
    timeout_s = int(request.get("TimeoutSeconds", 3600))
    if not 30 <= timeout_s <= 2_592_000:
        raise Refused("ValidationException", "TimeoutSeconds is 30 to 2592000")
    ids = _targets(request)
    total_s = timeout_s + sum(step.timeout_s for step in steps)
    command = {
        "CommandId": new_uuid(), "DocumentName": document.name,
        "DocumentVersion": request.get("DocumentVersion") or "$DEFAULT", "Comment": request.get("Comment", ""),
        "Parameters": request.get("Parameters") or {}, "InstanceIds": request.get("InstanceIds") or [],
        "Targets": request.get("Targets") or [], "RequestedDateTime": time.time(),
        "ExpiresAfter": time.time() + total_s, "TimeoutSeconds": timeout_s,
        "OutputS3Region": get_region(), "OutputS3BucketName": request.get("OutputS3BucketName", ""),
        "OutputS3KeyPrefix": request.get("OutputS3KeyPrefix", ""), "ServiceRole": request.get("ServiceRoleArn", ""),
        "MaxConcurrency": request.get("MaxConcurrency", "50"), "MaxErrors": request.get("MaxErrors", "0"),
        "Status": "Pending", "StatusDetails": "Pending", "TargetCount": len(ids), "CompletedCount": 0,
        "ErrorCount": 0, "DeliveryTimedOutCount": 0, "Invocations": {},
    }
    command["Invocations"].update({i: Invocation(command, i, steps) for i in ids})
    ssm._commands[command["CommandId"]] = command
    if not ids:
        command.update(Status="Success", StatusDetails="NoInstancesInTag")
    for invocation in command["Invocations"].values():
        spawn_background(_carry_out, invocation, total_s, thread_name=f"ssm-{command['CommandId'][:8]}")
    return json_response({"Command": ssm._public_command(command)})


def _targets(request: dict) -> list[str]:
    """Instances by id have to be managed; tags take those that are, and several targets narrow each other."""
    managed = ssm._managed_instance_ids()
    ids, targets = list(request.get("InstanceIds") or []), request.get("Targets") or []
    if not ids and not targets:
        raise Refused("ValidationException", "InstanceIds or Targets is required")
    if len(ids) > 50:
        raise Refused("ValidationException", "InstanceIds holds at most 50")
    chosen = set(managed)
    for target in targets:
        key, wanted = target["Key"], target.get("Values") or []
        if key.lower() == "instanceids":
            ids += wanted
        elif key.startswith("tag:"):
            chosen &= {i for i in managed if any(tag["Key"] == key[4:] and tag["Value"] in wanted
                                                 for tag in ec2._tags.get(i, []))}
        else:
            raise Refused("InvalidTarget", f"the local cloud targets InstanceIds and tag:…, not {key}")
    if ids:
        unmanaged = [i for i in ids if i not in managed]
        if unmanaged:
            raise Refused("InvalidInstanceId", f"Instances [[{', '.join(unmanaged)}]] not in a valid state for account "
                                               f"{get_account_id()}")
        return list(dict.fromkeys(ids))
    return sorted(chosen)


# ---- on the host

def _carry_out(invocation: Invocation, total_s: float) -> None:
    expires = time.monotonic() + total_s * settings.ssm_time_scale
    expiry = threading.Timer(total_s * settings.ssm_time_scale, _expire, (invocation, _scope()))
    expiry.daemon = True
    expiry.start()
    host = hosts.get(invocation.instance_id)
    while host is None or host.agent == "offline":
        if invocation.cancelled.is_set() and invocation.change("Cancelled"):
            return expiry.cancel()
        if time.monotonic() >= expires:
            return
        time.sleep(PAUSE_S)
        host = hosts.get(invocation.instance_id)
    if invocation.status in OVER:
        return
    invocation.change("InProgress")
    status, details = _run_steps(invocation, host)
    if host.agent != "mute" and ec2._instances.get(invocation.instance_id, {}).get("State", {}).get("Name") == "running":
        invocation.change(status, details)
        expiry.cancel()


def _expire(invocation: Invocation, scope: tuple[str, str]) -> None:
    from ministack.core.responses import request_scope

    with request_scope(*scope):
        invocation.change("TimedOut", "DeliveryTimedOut")


def _run_steps(invocation: Invocation, host) -> tuple[str, str]:
    outcome = ("Success", "Success")
    for step in invocation.steps:
        plugin = invocation.plugins[step.name] = {"Status": "InProgress", "ResponseCode": -1, "Start": _now(), "End": ""}
        env = {"AWS_SSM_INSTANCE_ID": host.instance_id, "AWS_SSM_REGION_NAME": get_region(), **step.env}
        name = f"{invocation.command['CommandId']}-{step.name.replace(':', '')}"
        try:
            running = host.start(name, step.script, env, step.working_directory or None)
        except (OSError, ValueError) as error:
            plugin.update(Status="Failed", ResponseCode=1, End=_now(), stdout=b"", stderr=str(error).encode())
            return "Failed", "Failed"
        code, status, details = _attend(invocation, host, running, step.timeout_s * settings.ssm_time_scale)
        plugin.update(stdout=running.output("stdout"), stderr=running.output("stderr"), End=_now(),
                      ResponseCode=code, StatusDetails=details)
        _store_output(invocation, step, plugin)
        plugin["Status"] = status
        if status != "Success":
            outcome = (status, details)
            if status in ("TimedOut", "Cancelled") or step.stops_on_failure:
                break
    return outcome


def _attend(invocation: Invocation, host, running, timeout_s: float) -> tuple[int, str, str]:
    """Wait for the script's end, its time-out or a cancel; the last two kill the group, if the agent hears them."""
    deadline = time.monotonic() + timeout_s
    while (code := running.wait(PAUSE_S)) is None:
        timed_out = time.monotonic() >= deadline and host.agent != "mute"
        if timed_out and host.agent == "deaf":
            return KILLED, "TimedOut", "ExecutionTimedOut"
        if timed_out or (invocation.cancelled.is_set() and host.agent == "online"):
            running.kill()
            running.wait(60)
            return (KILLED, "TimedOut", "ExecutionTimedOut") if timed_out else (KILLED, "Cancelled", "Cancelled")
    return code, *(("Success", "Success") if code == 0 else ("Failed", "Failed"))


def _store_output(invocation: Invocation, step: Step, plugin: dict) -> None:
    """Everything the script wrote, in the bucket the command names; the API's answer is cut."""
    command = invocation.command
    if not command["OutputS3BucketName"]:
        return
    parts = (command["OutputS3KeyPrefix"].strip("/"), command["CommandId"], invocation.instance_id,
             "awsrunShellScript", step.name.replace(":", ""))
    folder = "/".join(part for part in parts if part)
    for stream in ("stdout", "stderr"):
        if plugin[stream]:
            s3._put_object(command["OutputS3BucketName"], f"{folder}/{stream}", plugin[stream],
                           {"content-type": "text/plain"})
            plugin[f"{stream}_url"] = (f"https://s3.{get_region()}.amazonaws.com/{command['OutputS3BucketName']}/"
                                       f"{folder}/{stream}")


# ---- telling

def _announce(invocation: Invocation) -> None:
    command = invocation.command
    requested = datetime.fromtimestamp(command["RequestedDateTime"], timezone.utc)
    events.emit(_scope(), "aws.ssm", "EC2 Command Invocation Status-change Notification", {
        "command-id": command["CommandId"], "document-name": command["DocumentName"],
        "instance-id": invocation.instance_id, "requested-date-time": f"{requested:%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z",
        "status": invocation.status,
    }, [f"arn:aws:ec2:{get_region()}:{get_account_id()}:instance/{invocation.instance_id}"])


def _roll_up(command: dict) -> None:
    states = [(i.status, i.details) for i in command["Invocations"].values()]
    command["CompletedCount"] = sum(status in OVER for status, _ in states)
    command["ErrorCount"] = sum(state in (("Failed", "Failed"), ("TimedOut", "ExecutionTimedOut")) for state in states)
    command["DeliveryTimedOutCount"] = sum(details == "DeliveryTimedOut" for _, details in states)
    if command["CompletedCount"] < len(states):
        command["Status"] = command["StatusDetails"] = "InProgress"
    else:  # the worst end is the command's
        command["Status"], command["StatusDetails"] = max(states, key=lambda s: ("Success", "Cancelled", "TimedOut", "Failed").index(s[0]))


def cancel_command(request: dict):
    command = ssm._commands.get(request["CommandId"])
    if command is None:
        raise Refused("InvalidCommandId", f"{request['CommandId']} is not a command")
    for instance_id, invocation in command["Invocations"].items():
        if not request.get("InstanceIds") or instance_id in request["InstanceIds"]:
            invocation.cancelled.set()
    return json_response({})


def get_command_invocation(request: dict):
    command = ssm._commands.get(request["CommandId"])
    invocation = command["Invocations"].get(request["InstanceId"]) if command else None
    if invocation is None:
        raise Refused("InvocationDoesNotExist", f"{request['CommandId']} on {request['InstanceId']}")
    names = [step.name for step in invocation.steps]
    name = request.get("PluginName") or (names[0] if len(names) == 1 else None)
    if name is None and invocation.status in OVER:
        name = next(reversed(invocation.plugins), None)  # the last that ran
    if request.get("PluginName") and name not in names:
        raise Refused("InvalidPluginName", f"{name} is not a step of {command['DocumentName']}")
    plugin = invocation.plugins.get(name, {})
    return json_response({
        "CommandId": command["CommandId"], "InstanceId": invocation.instance_id, "Comment": command["Comment"],
        "DocumentName": command["DocumentName"], "DocumentVersion": command["DocumentVersion"],
        "PluginName": name or "", "ResponseCode": plugin.get("ResponseCode", -1) if invocation.status in OVER else -1,
        "ExecutionStartDateTime": plugin.get("Start", ""), "ExecutionEndDateTime": plugin.get("End", ""),
        "ExecutionElapsedTime": "PT0.1S" if plugin.get("End") else "",
        "Status": invocation.status, "StatusDetails": invocation.details,
        "StandardOutputContent": _cut(plugin.get("stdout", b""), STDOUT_LIMIT),
        "StandardErrorContent": _cut(plugin.get("stderr", b""), STDERR_LIMIT),
        "StandardOutputUrl": plugin.get("stdout_url", ""), "StandardErrorUrl": plugin.get("stderr_url", ""),
    })


def list_command_invocations(request: dict):
    wanted = {f["key"]: f["value"] for f in request.get("Filters") or []}
    found = [invocation for command in ssm._commands.values() for invocation in command["Invocations"].values()
             if request.get("CommandId") in (None, command["CommandId"])
             and request.get("InstanceId") in (None, invocation.instance_id)
             and wanted.get("Status") in (None, invocation.status)
             and wanted.get("DocumentName") in (None, command["DocumentName"])]
    found.sort(key=lambda invocation: -invocation.command["RequestedDateTime"])
    start = int(request.get("NextToken") or 0)
    end = start + int(request.get("MaxResults") or 50)
    reply = {"CommandInvocations": [_listed(i, bool(request.get("Details"))) for i in found[start:end]]}
    return json_response({**reply, **({"NextToken": str(end)} if end < len(found) else {})})


def _listed(invocation: Invocation, with_plugins: bool) -> dict:
    command = invocation.command
    return {
        "CommandId": command["CommandId"], "InstanceId": invocation.instance_id, "Comment": command["Comment"],
        "DocumentName": command["DocumentName"], "DocumentVersion": command["DocumentVersion"],
        "RequestedDateTime": command["RequestedDateTime"], "Status": invocation.status,
        "StatusDetails": invocation.details,
        "CommandPlugins": [{
            "Name": name, "Status": plugin["Status"], "StatusDetails": plugin.get("StatusDetails", plugin["Status"]),
            "ResponseCode": plugin["ResponseCode"],
            "Output": _cut(plugin.get("stdout", b"") + plugin.get("stderr", b""), LIST_LIMIT),
            "OutputS3BucketName": command["OutputS3BucketName"], "OutputS3KeyPrefix": command["OutputS3KeyPrefix"],
        } for name, plugin in invocation.plugins.items()] if with_plugins else [],
    }


def describe_instance_information(request: dict):
    """The emulator's answer, with the agents that a test took off the line."""
    status, headers, body = ssm._describe_instance_information(request)
    reply = json.loads(body)
    for entry in reply.get("InstanceInformationList", []):
        host = hosts.get(entry["InstanceId"])
        if host and host.agent == "offline":
            entry["PingStatus"] = "ConnectionLost"
    return json_response(reply)


def _cut(output: bytes, limit: int) -> str:
    text = output.decode("utf-8", "replace")
    return text if len(text) <= limit else text[:limit - len(TRUNCATED)] + TRUNCATED


def _now() -> str:
    return f"{datetime.now(timezone.utc):%Y-%m-%dT%H:%M:%S.%f}"[:-3] + "Z"


def _scope() -> tuple[str, str]:
    return get_account_id(), get_region()


def _reset(reset):
    def reset_all():
        ssm_documents.documents.clear()
        reset()

    return reset_all
