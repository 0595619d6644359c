"""Step Functions: time-outs, heartbeats and an end that reaches what waits.

- HeartbeatSeconds(Path) of a task that waits for its token → States.HeartbeatTimeout
- TimeoutSeconds(Path) of such a task, counted from its start → States.Timeout
- TimeoutSeconds of the machine → the execution ends TIMED_OUT
- a Lambda that fails before it hands its token on fails the task, instead of leaving it to wait
- every attempt of a task has its own token; a token whose task is over answers TaskTimedOut
- StopExecution, and the machine's time-out, end waiting tasks, Wait states, retry pauses and nested
  executions started with .sync
- a nested execution's changes of status are events too
- StartExecution again, with the name and the input of an execution that runs, is that execution
- Output of a Succeed state in JSONata
- MaxDelaySeconds of a retrier; waits of more than a minute between retries are not cut to one

The engine runs an execution in threads of its own. Where it sleeps or blocks, ours ask `_Run` whether
the execution is over, and leave by `_Over`, which no Catch of the engine or of the machine can hold.
"""

import contextvars
import json
import threading
import time

from ministack.core.responses import error_response_json, get_account_id, get_region, new_uuid, request_scope
from ministack.services import stepfunctions as sfn

from . import replace
from .settings import settings

POLL_S = 0.05
FOREVER_S = 99_999_999  # what AWS documents as the default TimeoutSeconds

_runs: dict[str, "_Run"] = {}
_current: contextvars.ContextVar["_Run | None"] = contextvars.ContextVar("local_cloud_run", default=None)
_limits: contextvars.ContextVar[dict] = contextvars.ContextVar("local_cloud_limits", default={})
_nested: contextvars.ContextVar["list[str] | None"] = contextvars.ContextVar("local_cloud_nested", default=None)
_closed_tokens: set[str] = set()
# The task whose work this thread does: {"machine", "state"}. faults.py asks for it.
current_task: contextvars.ContextVar["dict | None"] = contextvars.ContextVar("local_cloud_task", default=None)


class _Over(SystemExit):
    """The execution ended while this thread worked for it. A SystemExit, so that no handler takes it for a failure."""


class _Run:
    """A running execution: whether it is over, and what ends with it."""

    def __init__(self, execution: dict):
        self.execution = execution
        self.over = threading.Event()
        self.children: list[str] = []
        self.tokens: set[str] = set()

    def check(self) -> None:
        if self.over.is_set():
            raise _Over

    def end(self, status: str, event: str, details: dict) -> None:
        execution = self.execution
        _closed_tokens.update(self.tokens)  # before anyone can see the end
        execution.update(status=status, stopDate=sfn.now_iso(), **details)
        sfn._add_event(execution, event, {f"{event[0].lower()}{event[1:]}EventDetails": details})
        sfn._emit_execution_status_event(execution)
        self.stop()

    def stop(self) -> None:
        """Wake what waits, nested executions too; nobody can answer for it any more."""
        _closed_tokens.update(self.tokens)
        self.over.set()
        _stop_all(self.children)


def _stop_all(executions: list[str]) -> None:
    for arn in executions:
        if sfn._executions[arn]["status"] == "RUNNING":
            sfn._stop_execution({"executionArn": arn, "cause": "the execution that waited for this one ended"})


def install() -> None:
    for name, build in {
        "_run_execution": _run_execution, "_fail_execution": _fail_execution, "_stop_execution": _stop_execution,
        "_execute_task": _execute_task, "_run_sub_machine": _run_sub_machine, "_scaled_sleep": _scaled_sleep,
        "_invoke_resource": _invoke_resource, "_invoke_with_callback": _invoke_with_callback,
        "_apply_output_path": _apply_output_path, "_find_matching_retrier": _find_matching_retrier,
        "_start_sync_execution": _start_sync_execution, "_start_execution": _start_execution,
        "_send_task_success": _send_task, "_send_task_failure": _send_task, "_send_task_heartbeat": _send_task,
        "reset": _reset,
    }.items():
        replace(sfn, name, build)


# ---- the execution

def _run_execution(run_execution):
    def run(exec_arn):
        execution = sfn._executions.get(exec_arn)
        if not execution:
            return
        parent, current = _current.get(), _Run(execution)
        _runs[exec_arn] = current
        if parent is not None and execution.get("sync"):
            parent.children.append(exec_arn)
            if (nested := _nested.get()) is not None:
                nested.append(exec_arn)
            execution["sync"] = False  # an execution like any other: its changes of status are events
            sfn._emit_execution_status_event(execution)
        token = _current.set(current)
        _machine_timer(current)
        try:
            run_execution(exec_arn)
        except _Over:
            pass
        finally:
            current.over.set()
            _runs.pop(exec_arn, None)
            _current.reset(token)

    return run


def _machine_timer(run: _Run) -> None:
    """Ends the execution when the machine's TimeoutSeconds are over, by the scales as they are then."""
    machine = sfn._state_machines.get(run.execution["stateMachineArn"])
    seconds = json.loads(machine["definition"]).get("TimeoutSeconds") if machine else None
    if not seconds:
        return
    account, region, began = get_account_id(), get_region(), time.monotonic()

    def watch():
        while not run.over.wait(POLL_S):
            if time.monotonic() - began >= seconds * settings.sfn_timeout_scale * settings.sfn_machine_timeout_scale:
                with request_scope(account, region):
                    if run.execution["status"] == "RUNNING":
                        run.end("TIMED_OUT", "ExecutionTimedOut", {"error": "States.Timeout", "cause": ""})
                return

    threading.Thread(target=watch, daemon=True).start()


def _fail_execution(fail):
    """An execution that was stopped or timed out meanwhile keeps that end."""
    return lambda execution, error, cause: fail(execution, error, cause) if execution["status"] == "RUNNING" else None


def _stop_execution(stop):
    def stop_execution(data):
        reply = stop(data)
        run = _runs.get(data.get("executionArn"))
        if run and run.execution["status"] == "ABORTED":
            run.stop()
        return reply

    return stop_execution


def _start_execution(start):
    def start_execution(data):
        reply = start(data)
        if reply[0] == 200 or b"ExecutionAlreadyExists" not in reply[2]:
            return reply
        machine = data["stateMachineArn"].rsplit(":", 1)[-1]
        execution = next((e for e in sfn._executions.values() if e["name"] == data["name"] and f":{machine}:" in e["executionArn"]), None)
        if execution is None or execution["status"] != "RUNNING" or execution["input"] != data.get("input", "{}"):
            return reply
        return sfn.json_response({"executionArn": execution["executionArn"], "startDate": execution["startDate"]})

    return start_execution


def _start_sync_execution(start):
    """A nested execution by .sync whose child was aborted or timed out fails with the child's end."""

    def start_sync(data):
        parent = _current.get()
        reply = start(data)
        if parent is not None:
            parent.check()
        return reply

    return start_sync


def _run_sub_machine(run_sub_machine):
    """A branch has its own $$.State and $$.Task: the engine's branches overwrite each other's tokens."""

    def run(states, start_at, input_data, execution, ctx):
        _check()
        return run_sub_machine(states, start_at, input_data, execution, {**ctx})

    return run


def _apply_output_path(apply):
    """A Succeed state in JSONata gives its Output; the engine knows only the paths of JSONPath."""

    def apply_output_path(state_def, data, ctx=None):
        if state_def.get("Type") == "Succeed" and sfn._state_query_language(state_def, ctx) == "JSONata":
            return sfn._apply_jsonata_output(state_def, data, ctx, default=data)
        return apply(state_def, data, ctx)

    return apply_output_path


def _check() -> None:
    if run := _current.get():
        run.check()


def _scaled_sleep(_sleep):
    """Waits and retry pauses, ended by the end of the execution."""

    def sleep(seconds):
        run, scaled = _current.get(), seconds * settings.sfn_wait_scale
        if run is None:
            time.sleep(max(scaled, 0))
        elif run.over.wait(max(scaled, 0)):
            raise _Over

    return sleep


def _find_matching_retrier(find):
    """The engine caps a pause at 60 s and knows no MaxDelaySeconds: pause here and leave it none to make."""

    def find_retrier(retriers, error, retry_counts):
        retrier, index = find(retriers, error, retry_counts)
        if retrier is None:
            return retrier, index
        pause = retrier.get("IntervalSeconds", 1) * retrier.get("BackoffRate", 2.0) ** retry_counts.get(index, 0)
        pause = min(pause, retrier.get("MaxDelaySeconds", pause))
        sfn._scaled_sleep(pause)
        return {**retrier, "IntervalSeconds": 0}, index

    return find_retrier


# ---- a task

class _Attempts(dict):
    """$$.State of a task; the engine sets RetryCount at the start of every attempt, and a new attempt has a new token."""

    def __init__(self, state: dict, ctx: dict):
        super().__init__(state)
        self._ctx = ctx

    def __setitem__(self, key, value):
        super().__setitem__(key, value)
        if key == "RetryCount" and "Task" in self._ctx:
            self._ctx["Task"] = {"Token": new_uuid()}

    def __deepcopy__(self, _memo):
        return dict(self)


def _execute_task(execute):
    def execute_task(state_def, raw_input, execution, ctx):
        _check()
        ctx["State"] = _Attempts(ctx["State"], ctx)
        limits = {name: _seconds(name, state_def, raw_input, ctx) for name in ("TimeoutSeconds", "HeartbeatSeconds")}
        nested: list[str] = []
        tokens = _limits.set(limits), _nested.set(nested)
        task = current_task.set({"machine": ctx["StateMachine"]["Name"], "state": ctx["State"]["Name"]})
        # Only a task's own limits reach the engine, as numbers: it knows neither paths nor expressions.
        resolved = {key: value for key, value in state_def.items() if key not in ("TimeoutSecondsPath", "TimeoutSeconds")}
        if limits["TimeoutSeconds"] is not None:
            resolved["TimeoutSeconds"] = limits["TimeoutSeconds"] * settings.sfn_timeout_scale
        try:
            output = execute(resolved, raw_input, execution, ctx)
            _check()
            return output
        finally:
            _limits.reset(tokens[0])
            _nested.reset(tokens[1])
            current_task.reset(task)
            _stop_all(nested)  # a time-out of the task leaves none behind

    return execute_task


def _seconds(name: str, state_def: dict, raw_input, ctx: dict) -> float | None:
    """A limit as the state gives it: a number, a path into the input or a JSONata expression."""
    if isinstance(state_def.get(name), str):
        value = sfn._jsonata_state_field(state_def, name, "number", raw_input, ctx)
    elif f"{name}Path" in state_def:
        value = sfn._resolve_path_or_ctx(state_def[f"{name}Path"], sfn._apply_input_path(state_def, raw_input, ctx), ctx)
    else:
        value = state_def.get(name)
    if value is None and name not in state_def and f"{name}Path" not in state_def:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or value <= 0:
        raise sfn._ExecutionError("States.Runtime", f"{name} must be a positive number, not {value!r}")
    return value


def _invoke_resource(invoke):
    def invoke_resource(resource, input_data):
        result = invoke(resource, input_data)
        _check()
        return result

    return invoke_resource


def _invoke_with_callback(_invoke):
    def invoke(resource, input_data, token, _state_def):
        """Start the work that carries the token, then wait for the token, a limit or the execution's end."""
        limits, run, began = _limits.get(), _current.get(), time.monotonic()
        timeout_s, heartbeat_s = (limits.get(name) or FOREVER_S for name in ("TimeoutSeconds", "HeartbeatSeconds"))
        waiting = {"event": threading.Event(), "result": None, "error": None, "heartbeat": None}
        sfn._task_tokens[token] = waiting
        if run is not None:
            run.tokens.add(token)
        last_beat, seen = time.monotonic(), None
        try:
            sfn._invoke_resource(resource.replace(".waitForTaskToken", ""), input_data)
            while not waiting["event"].wait(POLL_S):
                now = time.monotonic()
                if run is not None:
                    run.check()
                if waiting["heartbeat"] is not seen:
                    seen, last_beat = waiting["heartbeat"], now
                scale = settings.sfn_timeout_scale
                if now - began >= timeout_s * scale:
                    raise sfn._ExecutionError("States.Timeout", "")
                if now - last_beat >= heartbeat_s * scale:
                    raise sfn._ExecutionError("States.HeartbeatTimeout", "")
        finally:
            sfn._task_tokens.pop(token, None)
            _closed_tokens.add(token)
        if waiting["error"]:
            raise sfn._ExecutionError(waiting["error"]["Error"], waiting["error"]["Cause"])
        return json.loads(waiting["result"])

    return invoke


def _send_task(send):
    """The first answer to a token counts; a later one, or one after the task's end, is told so."""

    def send_task(data):
        token = data.get("taskToken")
        waiting = sfn._task_tokens.get(token)
        if token in _closed_tokens or (waiting and waiting["event"].is_set()):
            return error_response_json("TaskTimedOut", "Task Timed Out: 'Provided task does not exist anymore'", 400)
        if waiting is None:
            return error_response_json("InvalidToken", "Invalid Token: 'Invalid token'", 400)
        if "output" in data:
            try:
                json.loads(data["output"])
            except ValueError:
                return error_response_json("InvalidOutput", "Invalid Output: 'The output must be JSON'", 400)
        reply = send(data)
        if "output" not in data and "error" not in data and "cause" not in data and not waiting["event"].is_set():
            waiting["heartbeat"] = object()  # the engine's stamp has too few digits to tell two beats apart
        return reply

    return send_task


def _reset(reset):
    def reset_all():
        for run in list(_runs.values()):
            run.over.set()
        _runs.clear()
        _closed_tokens.clear()
        reset()

    return reset_all
