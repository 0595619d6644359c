"""Faults that a test orders: what the next matching call or event suffers, and how often.

A fault names its place, `ssm:SendCommand` for a call (`ssm:*` for any) or `event:aws.ssm` for an event, what has to match
in the request or in the event's detail (`*` stands for anything; `role` is whose call it is, and the test's own have none), its effect, how many matching ones it lets pass
first (`skip`) and how many times it then strikes (no `times`: for ever).

effects on a call:   fail         refused with `error`; nothing was done
                     lose-reply   done, but the caller hears an internal error (an SDK will try again)
                     delay-reply  done, the answer comes `seconds` later: events may overtake it
                     double       done twice; the caller gets the second answer
effects on a function, `function:highwater-prune`, at a call of its own of whichever service (see kills.py):
                     kill-before  its process gets SIGKILL, and the call is not carried out
                     kill-after   the call is carried out, and the process gets SIGKILL before it hears of it
effects on an event: lose, double, delay (`seconds`), hold (until released, see events.py)

`lambda:Invoke` strikes wherever the call comes from: the API, a state machine (which sees Lambda.Unknown for a
lost reply), a rule or a schedule (where `fail` means that the event never arrives).

`task:<state>` strikes the work of a machine's task, whatever it calls (for a task that waits for its token: what hands
the token on); what matches is `machine` and `state`. A lost reply is Lambda.Unknown, or States.TaskFailed.

S3's calls are named as its API names them, `s3:PutObject`, `s3:UploadPart`; what matches is `bucket`, `key` and `method`.
"""

import asyncio
import json
import threading
import time
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from urllib.parse import parse_qs, unquote

from ministack.core.responses import error_response_json

from . import calls, replace

CALL_EFFECTS = ("fail", "lose-reply", "delay-reply", "double")
FUNCTION_EFFECTS = ("kill-before", "kill-after")
EVENT_EFFECTS = ("lose", "double", "delay", "hold")


@dataclass
class Fault:
    on: str
    effect: str
    match: dict = field(default_factory=dict)
    skip: int = 0
    times: int | None = None
    error: str = "InternalError"
    message: str = "ordered by the test"
    status: int = 400
    seconds: float = 0.5
    passed: int = 0
    hits: int = 0
    last: str = ""  # the call of a function that was struck last

    def __post_init__(self):
        allowed = {"event": EVENT_EFFECTS, "function": FUNCTION_EFFECTS}.get(self.on.split(":")[0], CALL_EFFECTS)
        if self.effect not in allowed:
            raise ValueError(f"{self.on} knows {', '.join(allowed)}, not {self.effect!r}")

    def strikes(self, place: str, facts: dict) -> bool:
        """Whether this one is struck; one that is let pass is counted."""
        if not fnmatchcase(place, self.on) or (self.times is not None and self.hits >= self.times):
            return False
        if not all(_matches(facts.get(key), wanted) for key, wanted in self.match.items()):
            return False
        if self.passed < self.skip:
            self.passed += 1
            return False
        self.hits += 1
        self.last = facts.get("call", "")
        return True


def _matches(found, wanted) -> bool:
    if isinstance(wanted, list):
        return any(_matches(found, one) for one in wanted)
    if isinstance(wanted, str) and "*" in wanted:
        return isinstance(found, str) and fnmatchcase(found, wanted)
    return found == wanted


class Faults:
    """The ordered faults; the first that matches strikes."""

    def __init__(self):
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def order(self, request: dict) -> Fault:
        fault = Fault(**request)
        with self._lock:
            self._faults.append(fault)
        return fault

    def take(self, place: str, facts: dict) -> Fault | None:
        with self._lock:
            for fault in self._faults:
                if fault.strikes(place, facts):
                    return fault
        return None

    def as_list(self) -> list[dict]:
        return [vars(fault) for fault in self._faults]

    def clear(self) -> None:
        with self._lock:
            self._faults.clear()


faults = Faults()


# ---- in front of the services' calls

def _json_call(_method, _path, headers, body, _query):
    target = headers.get("x-amz-target", "").rsplit(".", 1)[-1]
    try:
        return target, json.loads(body or b"{}")
    except ValueError:
        return target, {}


def _query_call(_method, _path, _headers, body, query):
    raw = body.decode("utf-8", "replace") if isinstance(body, bytes) else (body or "")
    facts = {key: values[0] for key, values in {**query, **parse_qs(raw)}.items()}
    return facts.get("Action", ""), facts


def _lambda_call(method, path, _headers, _body, _query):
    invoked = method == "POST" and path.endswith("/invocations")
    return ("Invoke" if invoked else method), invocation_of(unquote(path.split("/functions/", 1)[-1].split("/", 1)[0]))


def invocation_of(function: str) -> dict:
    """What a fault on `lambda:Invoke` matches: the function's name, however it was referred to."""
    return {"FunctionName": function.rsplit(":function:", 1)[-1].split(":", 1)[0]}


# Of a key's calls and of a bucket's, the operation by method; where a parameter of the query tells it, by that first.
_S3_OF_KEY = {
    ("GET", "uploadId"): "ListParts", ("GET", "retention"): "GetObjectRetention", ("GET", "attributes"): "GetObjectAttributes",
    ("GET", "tagging"): "GetObjectTagging", ("GET", "legal-hold"): "GetObjectLegalHold", ("GET", None): "GetObject",
    ("PUT", "partNumber"): "UploadPart", ("PUT", "retention"): "PutObjectRetention", ("PUT", "tagging"): "PutObjectTagging",
    ("PUT", "legal-hold"): "PutObjectLegalHold", ("PUT", None): "PutObject",
    ("POST", "uploads"): "CreateMultipartUpload", ("POST", "uploadId"): "CompleteMultipartUpload",
    ("HEAD", None): "HeadObject", ("DELETE", "uploadId"): "AbortMultipartUpload", ("DELETE", None): "DeleteObject",
}
_S3_OF_BUCKET = {
    ("GET", "uploads"): "ListMultipartUploads", ("GET", "versions"): "ListObjectVersions", ("GET", "list-type"): "ListObjectsV2",
    ("GET", None): "GetBucket", ("POST", "delete"): "DeleteObjects", ("HEAD", None): "HeadBucket", ("PUT", None): "PutBucket",
    ("DELETE", None): "DeleteBucket",
}


def _s3_call(method, path, _headers, _body, query):
    bucket, _, key = unquote(path).lstrip("/").partition("/")
    table = _S3_OF_KEY if key else _S3_OF_BUCKET
    told = next((name for verb, name in table if verb == method and name in query), None)
    return table.get((method, told), method), {"bucket": bucket, "key": key, "method": method}


def _s3_error(code, message, status):
    from ministack.services import s3

    return s3._error(code, message, status)


def _sns_error(code, message, status):
    from ministack.services import sns

    return sns._error(code, message, status)


def _query_error(code, message, status):
    from ministack.services import ec2

    return ec2._error(code, message, status)


def install() -> None:
    from ministack.services import dynamodb, ec2, eventbridge, kms, lambda_svc, s3, sns, ssm, stepfunctions

    for module, service, parse, refuse in (
        (ssm, "ssm", _json_call, error_response_json),
        (dynamodb, "dynamodb", _json_call, error_response_json),
        (stepfunctions, "states", _json_call, error_response_json),
        (kms, "kms", _json_call, error_response_json),
        (eventbridge, "events", _json_call, error_response_json),
        (lambda_svc, "lambda", _lambda_call, error_response_json),
        (ec2, "ec2", _query_call, _query_error),
        (s3, "s3", _s3_call, _s3_error),
        (sns, "sns", _query_call, _sns_error),
    ):
        replace(module, "handle_request", lambda inner, s=service, p=parse, r=refuse: _guarded(inner, s, p, r))
    replace(stepfunctions, "_call_lambda", _called_by_a_machine)
    replace(stepfunctions, "_invoke_resource", _work_of_a_task)


def _guarded(inner, service, parse, refuse):
    async def handle_request(method, path, headers, body, query_params, **more):
        def refused(code, message, status):
            answer = refuse(code, message, status)
            return (*answer[:2], b"") if method == "HEAD" else answer

        async def call():
            return await inner(method, path, headers, body, query_params, **more)

        action, facts = parse(method, path, headers, body, query_params)
        fault = faults.take(f"{service}:{action}", {**facts, "role": calls.role_of(headers, query_params)})
        if fault is None:
            return await call()
        if fault.effect == "fail":
            return refused(fault.error, fault.message, fault.status)
        reply = await call()
        if fault.effect == "lose-reply":
            return refused("InternalError", "the reply was lost", 500)
        if fault.effect == "double":
            return await call()
        await asyncio.sleep(fault.seconds)
        return reply

    return handle_request


def _called_by_a_machine(call):
    return lambda function, event: _struck(
        faults.take("lambda:Invoke", invocation_of(function)), lambda: call(function, event), "Lambda.Unknown")


def _work_of_a_task(invoke):
    def work(resource, input_data):
        from . import stepfunctions

        task = stepfunctions.current_task.get()
        fault = faults.take(f"task:{task['state']}", task) if task else None
        return _struck(fault, lambda: invoke(resource, input_data), "Lambda.Unknown" if ":lambda:" in resource else "States.TaskFailed")

    return work


def _struck(fault: Fault | None, call, lost: str):
    """A call in a machine's thread, and what the fault makes of it."""
    from ministack.services import stepfunctions

    if fault is None:
        return call()
    if fault.effect == "fail":
        raise stepfunctions._ExecutionError(fault.error, fault.message)
    reply = call()
    if fault.effect == "lose-reply":
        raise stepfunctions._ExecutionError(lost, "the reply was lost")
    if fault.effect == "double":
        return call()
    time.sleep(fault.seconds)
    return reply
