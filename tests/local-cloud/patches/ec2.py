"""Instances that boot: the launch template's data, user data as a process group, state-change events.

Launching   the template's version ($Default, $Latest or a number) under the request's own values, tags
            merged (the request's win), ClientToken idempotence, DryRun, UserData readable
Running     pending → running → shutting-down → terminated, each with its event; user data runs once,
            at the first boot; `shutdown` on the instance does what InstanceInitiatedShutdownBehavior says
Ending      TerminateInstances and StopInstances end every process of the instance, its disk goes with it
"""

import base64
import binascii
import hashlib
import html
import json
import logging
import threading
import time

from ministack.core.responses import get_account_id, get_region, new_uuid, request_scope
from ministack.services import ec2

from . import events, owned, replace
from .faults import faults
from .hosts import POWER_BY_PATH, POWER_BY_PATH_REFUSED, hosts
from .imds import Metadata
from .settings import settings

logger = logging.getLogger("local-cloud.ec2")

PENDING, RUNNING, SHUTTING_DOWN = (0, "pending"), (16, "running"), (32, "shutting-down")
TERMINATED, STOPPING, STOPPED = (48, "terminated"), (64, "stopping"), (80, "stopped")
SUPERSEDED_WHEN = ("ImageId", "InstanceType", "KeyName", "UserData", "InstanceInitiatedShutdownBehavior")

_launches: dict[tuple, tuple[str, list[str]]] = {}  # (scope, ClientToken) → (request's digest, instance ids)
_power_timers: dict[str, threading.Timer] = {}
_metadata: dict[str, Metadata] = {}
_state_lock = threading.RLock()
_ordered_ids: list[str] = []  # ids of the next instances, where a test needs to know them before


def launch(instance_id: str, profile: str | None = None, tags: dict | None = None, host: dict | None = None,
           launched_at: str | None = None) -> dict:
    """An instance with an id that a test has put into a configuration before: EC2's own launch, but for the id, and the time
    if one is given."""
    request = {"ImageId": "ami-0db00000000000000", "MinCount": "1", "MaxCount": "1",
               **({"IamInstanceProfile.Name": profile} if profile else {}), "TagSpecification.1.ResourceType": "instance"}
    for i, (key, value) in enumerate((tags or {}).items(), 1):
        request |= {f"TagSpecification.1.Tag.{i}.Key": key, f"TagSpecification.1.Tag.{i}.Value": value}
    with request_scope(account := get_account_id(), region := get_region()), _state_lock:
        if instance_id in ec2._instances:
            raise ValueError(f"{instance_id} exists")
        _ordered_ids.append(instance_id)
        status, _, body = ec2._ACTION_MAP["RunInstances"](request)
        if status != 200:
            _ordered_ids.clear()
            raise ValueError(f"RunInstances: {body.decode()}")
        if launched_at:
            ec2._instances[instance_id]["LaunchTime"] = launched_at
        hosts.get(instance_id).configure(host or {})
    return describe(instance_id)


def describe(instance_id: str) -> dict:
    """The host and what EC2 says of its instance."""
    host = hosts.get(instance_id)
    with request_scope(*host.scope):
        instance = ec2._instances.get(instance_id)
        tags = {tag["Key"]: tag["Value"] for tag in ec2._tags.get(instance_id, [])}
    return {**host.describe(), "state": instance["State"]["Name"] if instance else "gone", "tags": tags}


def install() -> None:
    for action, build in {"RunInstances": _run_instances, "TerminateInstances": _terminate_instances,
                          "StopInstances": _stop_instances, "StartInstances": _start_instances,
                          "DescribeInstanceAttribute": _describe_instance_attribute}.items():
        ec2._ACTION_MAP[action] = build(owned(ec2, "_ACTION_MAP")[action])
    for action, handler in list(ec2._ACTION_MAP.items()):
        if not action.startswith(("Describe", "Get", "Run")):
            ec2._ACTION_MAP[action] = _honour_dry_run(handler)
    replace(ec2, "_new_instance_id", lambda fresh: lambda: _ordered_ids.pop(0) if _ordered_ids else fresh())
    replace(ec2, "_instance_xml", _instance_xml)
    replace(ec2, "reset", _reset)


def _honour_dry_run(handler):
    return lambda p: _dry_run_error() if _flag(p, "DryRun") else handler(p)


def _dry_run_error():
    return ec2._error("DryRunOperation", "Request would have succeeded, but DryRun flag is set.", 412)


def _flag(p: dict, name: str) -> bool:
    return ec2._p(p, name).lower() == "true"


# ---- launching

def _run_instances(launch):
    def run_instances(p):
        template, error = _template(p)
        if error:
            return error
        wanted = _merged(p, template)
        if not ec2._p(wanted, "ImageId"):
            return ec2._error("MissingParameter", "The request must contain the parameter ImageId", 400)
        error = _unusable_user_data(ec2._p(wanted, "UserData"))
        if error:
            return error
        if _flag(p, "DryRun"):
            return _dry_run_error()
        token, digest = ec2._p(p, "ClientToken"), _digest(p)
        with _state_lock:
            earlier = _launches.get((_scope(), token)) if token else None
            if earlier and earlier[0] != digest:
                return ec2._error("IdempotentParameterMismatch",
                                  "Arguments on this idempotent request are inconsistent with arguments used in "
                                  "previous request(s).", 400)
            if earlier:
                return _reservation(earlier[1])
            before = set(ec2._instances)
            reply = launch(wanted)
            ids = [i for i in ec2._instances if i not in before]
            if reply[0] != 200:
                return reply
            for index, instance_id in enumerate(ids):
                _dress(instance_id, index, wanted, template, token)
            if token:
                _launches[(_scope(), token)] = (digest, ids)
        for instance_id in ids:
            hosts.create(instance_id, _scope())
            _set_state(instance_id, PENDING)
            _in_background(_boot, instance_id, True)
        return _reservation(ids)

    return run_instances


def _template(p: dict):
    """The launch template's record, with the chosen version's data; a wrong version is refused."""
    spec = {key: ec2._p(p, f"LaunchTemplate.{key}") for key in ("LaunchTemplateId", "LaunchTemplateName", "Version")}
    if not spec["LaunchTemplateId"] and not spec["LaunchTemplateName"]:
        return None, None
    data, record, error = ec2._resolve_launch_template_data(spec)
    if error:
        return None, error
    version = spec["Version"] or "$Default"
    number = {"$Default": record["DefaultVersionNumber"], "$Latest": record["LatestVersionNumber"]}.get(version, version)
    if str(number) not in {str(v["VersionNumber"]) for v in record["Versions"]}:
        return None, ec2._error("InvalidLaunchTemplateId.VersionNotFound",
                                f"Could not find the specified version {version} for the launch template with ID "
                                f"{record['LaunchTemplateId']}.", 400)
    return {"id": record["LaunchTemplateId"], "version": str(number), "data": data}, None


def _merged(p: dict, template: dict | None) -> dict:
    """The request over the template, in the request's own spelling."""
    merged, data = dict(p), template["data"] if template else {}
    for name in SUPERSEDED_WHEN:
        if not ec2._p(p, name) and data.get(name):
            merged[name] = data[name]
    profile = data.get("IamInstanceProfile") or {}
    if not ec2._p(p, "IamInstanceProfile.Arn") and not ec2._p(p, "IamInstanceProfile.Name"):
        merged.update({f"IamInstanceProfile.{key}": value for key, value in profile.items()})
    interface = (data.get("NetworkInterfaces") or [{}])[0]
    if not ec2._p(p, "SubnetId") and interface.get("SubnetId"):
        merged["SubnetId"] = interface["SubnetId"]
    groups = data.get("SecurityGroupIds") or interface.get("Groups") or []
    if not ec2._p(p, "SecurityGroupId.1"):
        merged.update({f"SecurityGroupId.{i}": group for i, group in enumerate(groups, 1)})
    # The emulator launches MinCount; AWS launches MaxCount when it has the room, which we always have.
    merged["MinCount"] = merged["MaxCount"] = ec2._p(p, "MaxCount") or "1"
    return merged


def _dress(instance_id: str, index: int, wanted: dict, template: dict | None, token: str) -> None:
    """What the emulator's launch leaves out of the record."""
    instance, data = ec2._instances[instance_id], template["data"] if template else {}
    instance["AmiLaunchIndex"] = index
    instance["_shutdown_behavior"] = ec2._p(wanted, "InstanceInitiatedShutdownBehavior") or "stop"
    instance["_client_token"] = token
    instance["_metadata_options"] = {
        **(data.get("MetadataOptions") or {}),
        **{key: value for key in ("HttpTokens", "HttpEndpoint", "HttpPutResponseHopLimit")
           if (value := ec2._p(wanted, f"MetadataOptions.{key}"))}}
    own = {"aws:ec2launchtemplate:id": template["id"],
           "aws:ec2launchtemplate:version": template["version"]} if template else {}
    _set_tags(instance_id, {**_template_tags(data, "instance"), **_request_tags(wanted, "instance"), **own})
    root = _root_volume(wanted, data)
    for mapping in instance["BlockDeviceMappings"]:
        volume = ec2._volumes[mapping["Ebs"]["VolumeId"]]
        volume["Encrypted"] = str(root.get("Encrypted", "")).lower() == "true"
        volume["Size"] = int(root.get("VolumeSize", volume["Size"]))
        volume["VolumeType"] = root.get("VolumeType", volume["VolumeType"])
        _set_tags(volume["VolumeId"], {**_template_tags(data, "volume"), **_request_tags(wanted, "volume")})


def _root_volume(wanted: dict, data: dict) -> dict:
    """The first mapping of the template under the request's: the emulator's instances have one volume."""
    mappings = data.get("BlockDeviceMappings") or [{}]
    prefix = "BlockDeviceMapping.1.Ebs."
    return {**(mappings[0].get("Ebs") or {}),
            **{key.removeprefix(prefix): ec2._p(wanted, key) for key in wanted if key.startswith(prefix)}}


def _template_tags(data: dict, resource_type: str) -> dict:
    return {tag["Key"]: tag.get("Value", "") for spec in data.get("TagSpecifications") or []
            if spec["ResourceType"] == resource_type for tag in spec.get("Tags") or []}


def _request_tags(p: dict, resource_type: str) -> dict:
    tags, i = {}, 1
    while ec2._p(p, f"TagSpecification.{i}.ResourceType"):
        j = 1
        while key := ec2._p(p, f"TagSpecification.{i}.Tag.{j}.Key"):
            if ec2._p(p, f"TagSpecification.{i}.ResourceType") == resource_type:
                tags[key] = ec2._p(p, f"TagSpecification.{i}.Tag.{j}.Value")
            j += 1
        i += 1
    return tags


def _set_tags(resource_id: str, tags: dict) -> None:
    if tags:
        ec2._tags[resource_id] = [{"Key": key, "Value": value} for key, value in tags.items()]


def _digest(p: dict) -> str:
    facts = {key: ec2._p(p, key) for key in p if key not in ("ClientToken", "Version", "DryRun")}
    return hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()


def _reservation(ids: list[str]):
    items = "".join(ec2._instance_xml(ec2._instances[i]) for i in ids if i in ec2._instances)
    return ec2._xml(200, "RunInstancesResponse",
                    f"<instancesSet>{items}</instancesSet><reservationId>r-{new_uuid().replace('-', '')[:17]}"
                    f"</reservationId><ownerId>{get_account_id()}</ownerId><groupSet/>")


# ---- user data

def decoded_user_data(instance: dict) -> str | None:
    encoded = instance.get("UserData") or ""
    return base64.b64decode(encoded).decode() if encoded else None


def _unusable_user_data(encoded: str):
    """User data that EC2 refuses, and cloud-init formats that only a real instance understands."""
    if not encoded:
        return None
    try:
        script = base64.b64decode(encoded, validate=True).decode()
    except (binascii.Error, UnicodeDecodeError):
        return ec2._error("InvalidUserData.Malformed", "Invalid BASE64 encoding of user data.", 400)
    if len(script.encode()) > 16384:
        return ec2._error("InvalidParameterValue", "User data is limited to 16384 bytes", 400)
    if not script.startswith("#!"):
        return ec2._error("InvalidParameterValue", "the local cloud runs only user data that starts with #!", 400)
    if POWER_BY_PATH.search(script):
        return ec2._error("InvalidParameterValue", POWER_BY_PATH_REFUSED, 400)
    return None


def _boot(instance_id: str, first: bool) -> None:
    time.sleep(settings.boot_delay_s)
    with _state_lock:
        instance, host = ec2._instances.get(instance_id), hosts.get(instance_id)
        if instance is None or host is None or instance["State"]["Name"] != "pending":
            return  # terminated before it was up
        if instance_id not in _metadata:
            _metadata[instance_id] = Metadata(instance_id, host.scope)
        host.metadata_url = _metadata[instance_id].url
        instance["_ssm_managed"] = True
        _set_state(instance_id, RUNNING)
        script = decoded_user_data(instance)
        if not first or not script:
            return
        running = host.start("user-data", script)
    while (code := running.wait(3600)) is None:
        pass
    host.user_data_exit = code
    if code and instance["State"]["Name"] == "running":
        logger.warning("user data of %s ended with %s; see %s", instance_id, code, running.directory)


# ---- ending

def _terminate_instances(terminate):
    def terminate_instances(p):
        ids = ec2._parse_member_list(p, "InstanceId")
        over = {i: ec2._instances[i]["State"] for i in ids if i in ec2._instances
                and ec2._instances[i]["State"]["Name"] in ("shutting-down", "terminated")}
        status, headers, body = terminate(p)
        if status != 200:
            return status, headers, body
        for instance_id, state in over.items():
            ec2._instances[instance_id]["State"] = state
        for instance_id in set(ids) - set(over):
            _go_down(instance_id, SHUTTING_DOWN, TERMINATED, "Client.UserInitiatedShutdown")
            body = _reply_state(body, instance_id, TERMINATED, SHUTTING_DOWN)
        return status, headers, body

    return terminate_instances


def _stop_instances(stop):
    def stop_instances(p):
        ids = ec2._parse_member_list(p, "InstanceId")
        unfit = [i for i in ids if i in ec2._instances and ec2._instances[i]["State"]["Name"] in
                 ("terminated", "shutting-down")]
        if unfit:
            return ec2._error("IncorrectInstanceState",
                              f"The instance '{unfit[0]}' is not in a state from which it can be stopped.", 400)
        over = {i for i in ids if i in ec2._instances and ec2._instances[i]["State"]["Name"] == "stopped"}
        status, headers, body = stop(p)
        if status == 200:
            for instance_id in set(ids) - over:
                _go_down(instance_id, STOPPING, STOPPED, "Client.UserInitiatedShutdown")
                body = _reply_state(body, instance_id, STOPPED, STOPPING)
        return status, headers, body

    return stop_instances


def _start_instances(start):
    def start_instances(p):
        ids = ec2._parse_member_list(p, "InstanceId")
        unfit = [i for i in ids if i in ec2._instances and ec2._instances[i]["State"]["Name"] != "stopped"]
        if unfit:
            return ec2._error("IncorrectInstanceState",
                              f"The instance '{unfit[0]}' is not in a state from which it can be started.", 400)
        status, headers, body = start(p)
        if status == 200:
            for instance_id in ids:
                _set_state(instance_id, PENDING)
                _in_background(_boot, instance_id, False)
                body = _reply_state(body, instance_id, RUNNING, PENDING)
        return status, headers, body

    return start_instances


def _reply_state(body: bytes, instance_id: str, said: tuple, meant: tuple) -> bytes:
    """The emulator answers with the final state; AWS with the one on the way there."""
    head, mark, tail = body.decode().partition(f"<instanceId>{instance_id}</instanceId>")
    before, current, after = tail.partition("<currentState>")
    after = after.replace(f"<code>{said[0]}</code><name>{said[1]}</name>",
                          f"<code>{meant[0]}</code><name>{meant[1]}</name>", 1)
    return (head + mark + before + current + after).encode()


def _go_down(instance_id: str, passing: tuple, final: tuple, reason: str) -> None:
    instance = ec2._instances[instance_id]
    instance["_state_reason"] = reason
    instance["_ssm_managed"] = False
    _set_state(instance_id, passing)
    _in_background(_finish_going_down, instance_id, final)


def _finish_going_down(instance_id: str, final: tuple) -> None:
    with _state_lock:  # a boot that is under way first
        host, metadata = hosts.get(instance_id), _metadata.pop(instance_id, None)
    if host:
        host.power_off()
        if final == TERMINATED:
            host.discard_disk()
    if metadata:
        metadata.close()
    if timer := _power_timers.pop(instance_id, None):
        timer.cancel()
    if instance_id in ec2._instances:
        ec2._instances[instance_id]["_terminated_at"] = time.time()
        _set_state(instance_id, final)


def order_shutdown(instance_id: str, minutes: float = 0, cancel: bool = False) -> None:
    """`shutdown` on the instance: it stops or terminates, as the launch said."""
    host, instance = hosts.get(instance_id), None
    if host:
        with request_scope(*host.scope):
            instance = ec2._instances.get(instance_id)
    if instance is None:
        raise KeyError(instance_id)
    if timer := _power_timers.pop(instance_id, None):
        timer.cancel()
    if cancel:
        return
    timer = _power_timers[instance_id] = threading.Timer(
        minutes * settings.power_minute_s, _shut_itself_down, (instance_id, host.scope))
    timer.daemon = True
    timer.start()


def _shut_itself_down(instance_id: str, scope: tuple[str, str]) -> None:
    with request_scope(*scope):
        instance = ec2._instances.get(instance_id)
        if instance and instance["State"]["Name"] in ("pending", "running"):
            terminates = instance["_shutdown_behavior"] == "terminate"
            _go_down(instance_id, *((SHUTTING_DOWN, TERMINATED) if terminates else (STOPPING, STOPPED)),
                     "Client.InstanceInitiatedShutdown")


# ---- reading

def _describe_instance_attribute(describe):
    def describe_instance_attribute(p):
        instance, attribute = ec2._instances.get(ec2._p(p, "InstanceId")), ec2._p(p, "Attribute")
        if instance is None or attribute not in ("userData", "instanceInitiatedShutdownBehavior"):
            return describe(p)
        value = (instance.get("UserData") or "") if attribute == "userData" else instance["_shutdown_behavior"]
        inner = f"<value>{html.escape(value)}</value>" if value else ""
        return ec2._xml(200, "DescribeInstanceAttributeResponse",
                        f"<instanceId>{instance['InstanceId']}</instanceId><{attribute}>{inner}</{attribute}>")

    return describe_instance_attribute


def _instance_xml(render):
    def instance_xml(instance):
        options = {"HttpTokens": "optional", "HttpEndpoint": "enabled", **instance.get("_metadata_options", {})}
        extra = f"<clientToken>{html.escape(instance.get('_client_token', ''))}</clientToken><metadataOptions>" + \
            "".join(f"<{k[0].lower()}{k[1:]}>{html.escape(str(v))}</{k[0].lower()}{k[1:]}>" for k, v in options.items()) + \
            "<state>applied</state></metadataOptions>"
        if reason := instance.get("_state_reason"):
            extra += f"<stateReason><code>{reason}</code><message>{reason}</message></stateReason>"
        return render(instance).rstrip().removesuffix("</item>") + extra + "</item>"

    return instance_xml


# ---- the rest

def _set_state(instance_id: str, state: tuple[int, str]) -> None:
    ec2._instances[instance_id]["State"] = {"Code": state[0], "Name": state[1]}
    events.emit(_scope(), "aws.ec2", "EC2 Instance State-change Notification",
                {"instance-id": instance_id, "state": state[1]},
                [f"arn:aws:ec2:{get_region()}:{get_account_id()}:instance/{instance_id}"])


def _scope() -> tuple[str, str]:
    return get_account_id(), get_region()


def _in_background(work, *arguments) -> None:
    account, region = _scope()

    def run():
        with request_scope(account, region):
            try:
                work(*arguments)
            except Exception:
                logger.exception("%s%r failed", work.__name__, arguments)

    threading.Thread(target=run, daemon=True, name=f"local-cloud-{work.__name__}").start()


def _reset(reset):
    def reset_all():
        hosts.clear()
        events.reset()
        faults.clear()
        settings.reset()
        for timer in _power_timers.values():
            timer.cancel()
        for metadata in _metadata.values():
            metadata.close()
        for store in (_launches, _power_timers, _metadata):
            store.clear()
        reset()

    return reset_all
