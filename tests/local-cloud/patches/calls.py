"""Which IAM action each role needs for what it calls, and on which resource (`GET /_local-cloud/calls`).

- every function and instance gets a session of its own role, as on AWS; without --auth the emulator gives all of them
  the account's key, and nobody could say who calls
- a request with a role's session is recorded as the actions and resources that IAM would be asked about
- so is what a state machine's task, a schedule and a dead letter do in a role's name, without a request of their own
- a lost reply, a refusal and a fault change nothing: what was asked for was needed

What AWS itself does in the caller's name (keys, tags and grants at a launch, log streams) is no request here: the test that
reads the record says which call stands for it.
"""

import contextvars
import hashlib
import json
import threading
from collections import Counter

from ministack.core.responses import get_account_id, get_region

from . import owned, replace

_recorded: Counter = Counter()
_lock = threading.Lock()
_machine_of_token: dict[str, str] = {}
_asked: contextvars.ContextVar[list] = contextvars.ContextVar("local_cloud_asked", default=[])
_launch: contextvars.ContextVar[dict] = contextvars.ContextVar("local_cloud_launch", default={})


def install() -> None:
    from ministack import app
    from ministack.core import lambda_runtime
    from ministack.services import eventbridge, lambda_svc, stepfunctions, sts

    from . import stepfunctions as own_stepfunctions

    owned(sts, "_sessions")
    for module in (lambda_runtime, lambda_svc):
        replace(module, "execution_credentials", _session_of_the_role)
    replace(app, "_dispatch_service_request", _by_request)
    replace(stepfunctions, "_invoke_resource", _by_machine)
    replace(stepfunctions, "_invoke_with_callback", _remember_token)
    replace(stepfunctions, "_stop_execution", _stopped_by_task)
    replace(own_stepfunctions._Run, "stop", _stopped_with_run)
    replace(eventbridge, "_invoke_target", _by_schedule)
    replace(lambda_svc, "_route_async_failure", _by_dead_letter)
    replace(sts, "reset", _forgetting)


def recorded() -> list[dict]:
    with _lock:
        return [{"role": role, "action": action, "resource": resource, "times": times}
                for (role, action, resource), times in sorted(_recorded.items())]


def _forgetting(reset):
    def reset_all():
        with _lock:
            _recorded.clear()
            _machine_of_token.clear()
        reset()

    return reset_all


def asked() -> list[tuple[str, list[str]]]:
    """What the request in hand needs: for whoever judges it (iam.py)."""
    return _asked.get()


def launch_context() -> dict:
    """The condition keys of the launch in hand."""
    return _launch.get()


def _record(role: str, action: str, resources: list[str]) -> None:
    with _lock:
        _recorded.update((role, action, resource) for resource in resources)


def _name(role_arn: str) -> str:
    return role_arn.rsplit("/", 1)[-1]


def _arn(service: str, resource: str) -> str:
    return f"arn:aws:{service}:{get_region()}:{get_account_id()}:{resource}"


# ---- sessions

def _session_of_the_role(_make):
    """As the emulator makes one where it enforces IAM; here always. The function's or instance's name is the session's."""

    def execution_credentials(config: dict) -> dict[str, str]:
        from ministack.services import sts

        role, name, account = _name(config.get("Role", "")), config.get("FunctionName", "session")[:64], config["FunctionArn"].split(":")[4]
        digest = hashlib.sha256(f"{config['FunctionArn']}:{config.get('Role')}".encode()).hexdigest()
        key, secret, token = f"ASIA{digest[:16].upper()}", *(hashlib.sha256(f"{part}:{digest}".encode()).hexdigest() for part in ("secret", "token"))
        sts.register_session(key, {"Arn": f"arn:aws:sts::{account}:assumed-role/{role}/{name}", "UserId": f"{role}:{name}",
                                   "SecretAccessKey": secret, "SessionToken": token})
        return {"AWS_ACCESS_KEY_ID": key, "AWS_SECRET_ACCESS_KEY": secret, "AWS_SESSION_TOKEN": token}

    return execution_credentials


def role_of(headers: dict, query_params: dict) -> str | None:
    """The role that makes a request; None for the account and its users."""
    from ministack.core.router import extract_access_key_id

    return _role_of_key(extract_access_key_id(headers, query_params))


def _role_of_key(access_key: str) -> str | None:
    """The role whose session this key is of; None for the account's key and for users."""
    from ministack.services import sts

    arn = sts._sessions.get(access_key, {}).get("Arn", "")
    return arn.split("/")[1] if ":assumed-role/" in arn else None


# ---- requests

def _by_request(dispatch):
    async def dispatch_service_request(method, path, headers, body, query_params, request_id):
        role = role_of(headers, query_params)
        needed = _needed(method, path, headers, body, query_params) if role else []
        _asked.set(needed)
        for action, resources in needed:
            _record(role, action, resources)
        reply = await dispatch(method, path, headers, body, query_params, request_id)
        for action, resources in needed:
            if reply[0] == 404 and action in ("s3:GetObject", "s3:GetObjectVersion"):
                # Whether an object is absent, S3 tells only whom may list.
                _record(role, "s3:ListBucket", [resources[0].split("/", 1)[0]])
        return reply

    return dispatch_service_request


def _needed(method: str, path: str, headers: dict, body: bytes, query_params: dict) -> list[tuple[str, list[str]]]:
    """The actions of one request and their resources. A request whose action is not known is one that nothing grants."""
    from ministack import app
    from ministack.core import iam_actions as iam
    from ministack.core.router import detect_service

    params = app._routing_params(method, path, headers, body, query_params)
    service = detect_service(method, path, headers, params)
    action = iam.extract_iam_action(service, method, path, headers, body, params)
    if action is None:
        return [(f"{service}:{method} {path}", ["*"])]
    account, region = get_account_id(), get_region()
    if service == "dynamodb" and (items := iam.dynamodb_transaction_checks(action, body, region, account)):
        return [(each, [arn]) for each, arn in items]
    if service == "ssm" and action == "ssm:SendCommand":
        return [(action, _of_a_command(json.loads(body)))]
    if service == "ec2" and action == "ec2:RunInstances":
        _launch.set(_launch_context(params))
        return [(action, _of_a_launch(params))]
    if service == "states" and action.startswith("states:SendTask"):
        return [(action, [_machine_of_token.get(json.loads(body).get("taskToken"), "a token of no task")])]
    if action == "ssm:GetParametersByPath":
        return [(action, [_arn("ssm", f"parameter{json.loads(body)['Path']}")])]
    resource = iam.extract_resource_arn(service, method, path, headers, body, params, region, account)
    more = iam.s3_additional_checks(method, path, headers, body, params) if service == "s3" else []
    return [(action, [resource]), *((each, [arn]) for each, arn in more)]


def _of_a_command(request: dict) -> list[str]:
    """SendCommand is asked about the document and each instance; a target by tags may be any instance."""
    instances = request.get("InstanceIds") or ["*"]
    return [_arn("ssm", f"document/{request['DocumentName']}"), *(_arn("ec2", f"instance/{each}") for each in instances)]


def _of_a_launch(params: dict) -> list[str]:
    """RunInstances is asked about everything that the launch makes and uses, the launch template's part of it too."""
    from ministack.services import ec2 as emulated

    from . import ec2

    template, _ = ec2._template(params)
    wanted = ec2._merged(params, template)
    groups = [emulated._p(wanted, key) for key in wanted if key.startswith("SecurityGroupId.")]
    subnet = emulated._p(wanted, "SubnetId")
    uses = [*(("security-group", group) for group in groups), *([("subnet", subnet)] if subnet else []),
            *([("launch-template", template["id"])] if template else [])]
    return [*(_arn("ec2", f"{made}/*") for made in ("instance", "volume", "network-interface")),
            *(_arn("ec2", f"{kind}/{each}") for kind, each in uses),
            f"arn:aws:ec2:{get_region()}::image/{emulated._p(wanted, 'ImageId')}"]


def _launch_context(params: dict) -> dict:
    """The condition keys of a launch: what it is made from, the tags it gives, how its metadata and volume are."""
    from ministack.services import ec2 as emulated

    from . import ec2

    template, _ = ec2._template(params)
    wanted, data = ec2._merged(params, template), template["data"] if template else {}
    tags = {**ec2._template_tags(data, "instance"), **ec2._request_tags(wanted, "instance")}
    tokens = emulated._p(wanted, "MetadataOptions.HttpTokens") or (data.get("MetadataOptions") or {}).get("HttpTokens", "optional")
    return {**({"ec2:LaunchTemplate": _arn("ec2", f"launch-template/{template['id']}")} if template else {}),
            **{f"aws:RequestTag/{name}": value for name, value in tags.items()}, "ec2:MetadataHttpTokens": tokens,
            "ec2:Encrypted": str(ec2._root_volume(wanted, data).get("Encrypted", False)).lower()}


# ---- what has no request of its own

def _machine(execution: dict) -> dict:
    from ministack.services import stepfunctions

    return stepfunctions._state_machines.get(execution["stateMachineArn"]) or {}


def _role_of_run() -> str | None:
    from .stepfunctions import _current

    run = _current.get()
    return _name(_machine(run.execution).get("roleArn", "")) if run else None


def _by_machine(invoke):
    """A task acts with its machine's role."""

    def invoke_resource(resource, input_data):
        if role := _role_of_run():
            for action, resources in _of_a_task(resource, input_data or {}):
                _record(role, action, resources)
        return invoke(resource, input_data)

    return invoke_resource


def _of_a_task(resource: str, given: dict) -> list[tuple[str, list[str]]]:
    if ":lambda:invoke" in resource:
        function = given["FunctionName"]
        return [("lambda:InvokeFunction", [function if function.startswith("arn:") else _arn("lambda", f"function:{function}")])]
    if ":states:startExecution" in resource:
        machine = given["StateMachineArn"]
        started = [("states:StartExecution", [machine])]
        if ".sync" in resource:  # Step Functions follows what it waits for, with the machine's role
            started.append(("states:DescribeExecution", [f"{machine.replace(':stateMachine:', ':execution:')}:*"]))
        return started
    service, action = resource.rsplit(":", 2)[-2:]
    instances = [_arn("ec2", f"instance/{each}") for each in given.get("InstanceIds") or []]
    return [(f"{service}:{action[0].upper()}{action[1:]}", instances or ["*"])]


def _remember_token(invoke):
    def invoke_with_callback(resource, input_data, token, state_def):
        from .stepfunctions import _current

        if run := _current.get():
            _machine_of_token[token] = run.execution["stateMachineArn"]
        return invoke(resource, input_data, token, state_def)

    return invoke_with_callback


def _stopped_by_task(stop):
    """A task that ends, ends the execution it waited for, with its machine's role."""

    def stop_execution(data):
        if role := _role_of_run():
            _record(role, "states:StopExecution", [data["executionArn"]])
        return stop(data)

    return stop_execution


def _stopped_with_run(stop):
    """So does an execution that is aborted, whoever aborted it."""

    def stop_run(run):
        _record(_name(_machine(run.execution).get("roleArn", "")), "states:StopExecution", run.children)
        stop(run)

    return stop_run


def _by_schedule(invoke_target):
    def invoke(target, event, *more, **named):
        if event.get("Source") == "aws.scheduler" and target.get("RoleArn"):
            arn = target["Arn"]
            action = {"lambda": "lambda:InvokeFunction", "states": "states:StartExecution"}.get(arn.split(":")[2], f"{arn}:?")
            _record(_name(target["RoleArn"]), action, [arn])
        return invoke_target(target, event, *more, **named)

    return invoke


def _by_dead_letter(route):
    """Lambda keeps what a function could not handle, with the function's role."""

    def route_async_failure(target_arn, func_name, event, result):
        from ministack.services import lambda_svc

        config = (lambda_svc._functions.get(func_name) or {}).get("config", {})
        _record(_name(config.get("Role", "")), "sqs:SendMessage", [target_arn])
        return route(target_arn, func_name, event, result)

    return route_async_failure
