"""Step Functions: limits strike, failures surface, and an end reaches what waits."""

import json
import time

import pytest
from botocore.exceptions import ClientError
from conftest import RULE_ROLE, Cloud, bootstrap, eventually

OVER = ("SUCCEEDED", "FAILED", "TIMED_OUT", "ABORTED")
WAITS = "arn:aws:states:::lambda:invoke.waitForTaskToken"


def waiting(**more) -> dict:
    """A task that hands its token to the function `f` and waits for it."""
    return {"Type": "Task", "Resource": WAITS, "End": True, **more,
            "Parameters": {"FunctionName": "f", "Payload": {"token.$": "$$.Task.Token", "input.$": "$"}}}


def machine(cloud: Cloud, states: dict, name: str = "machine", **more) -> str:
    return cloud.client("stepfunctions").create_state_machine(name=name, roleArn=RULE_ROLE, definition=json.dumps(
        {"StartAt": next(iter(states)), "States": states, **more}))["stateMachineArn"]


def start(cloud: Cloud, arn: str, **data) -> str:
    return cloud.client("stepfunctions").start_execution(stateMachineArn=arn, input=json.dumps(data))["executionArn"]


def execution(cloud: Cloud, arn: str) -> dict:
    return cloud.client("stepfunctions").describe_execution(executionArn=arn)


def ended(cloud: Cloud, arn: str, timeout_s: float = 20) -> dict:
    eventually(lambda: execution(cloud, arn)["status"] in OVER, timeout_s)
    return execution(cloud, arn)


def tokens(cloud: Cloud):
    """The function `f` puts each token it gets into a queue; returns a function that lists them so far."""
    queue = cloud.client("sqs").create_queue(QueueName="tokens")["QueueUrl"]
    cloud.function("f", bootstrap(f"""
body = "Action=SendMessage&MessageBody=" + event["token"]
http.urlopen(http.Request({queue!r}, body.encode(), {{"Content-Type": "application/x-www-form-urlencoded"}}))
if event.get("fail"): raise ValueError("asked to")
return "ignored"
"""))
    taken = []

    def seen() -> list[str]:
        while messages := cloud.client("sqs").receive_message(QueueUrl=queue, MaxNumberOfMessages=10).get("Messages"):
            for message in messages:
                taken.append(message["Body"])
                cloud.client("sqs").delete_message(QueueUrl=queue, ReceiptHandle=message["ReceiptHandle"])
        return taken

    return seen


def test_token_answers_once(cloud):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    run = start(cloud, machine(cloud, {"Wait": waiting()}))
    (token,) = eventually(seen)
    with pytest.raises(sfn.exceptions.InvalidOutput):
        sfn.send_task_success(taskToken=token, output="no json")
    sfn.send_task_heartbeat(taskToken=token)
    sfn.send_task_success(taskToken=token, output='{"a": 1}')
    assert json.loads(ended(cloud, run)["output"]) == {"a": 1}
    for late in (lambda: sfn.send_task_success(taskToken=token, output="{}"), lambda: sfn.send_task_heartbeat(taskToken=token),
                 lambda: sfn.send_task_failure(taskToken=token)):
        with pytest.raises(sfn.exceptions.TaskTimedOut):
            late()
    with pytest.raises(sfn.exceptions.InvalidToken):
        sfn.send_task_success(taskToken="none", output="{}")


def test_failure_of_the_callback_is_the_tasks(cloud):
    seen = tokens(cloud)
    run = start(cloud, machine(cloud, {"Wait": waiting(
        Catch=[{"ErrorEquals": ["ChainBroken"], "Next": "Caught"}]), "Caught": {"Type": "Pass", "End": True}}))
    cloud.client("stepfunctions").send_task_failure(taskToken=eventually(seen)[0], error="ChainBroken", cause="gap")
    assert json.loads(ended(cloud, run)["output"]) == {"Error": "ChainBroken", "Cause": "gap"}


@pytest.mark.parametrize("limit, error", [
    ({"HeartbeatSeconds": 1}, "States.HeartbeatTimeout"), ({"HeartbeatSecondsPath": "$.limit"}, "States.HeartbeatTimeout"),
    ({"TimeoutSeconds": 1}, "States.Timeout"), ({"TimeoutSecondsPath": "$.limit"}, "States.Timeout"),
    ({"TimeoutSecondsPath": "$.none"}, "States.Runtime")])
def test_limits_of_a_waiting_task(cloud, limit, error):
    tokens(cloud)
    run = start(cloud, machine(cloud, {"Wait": waiting(**limit)}), limit=1)
    end = ended(cloud, run)
    assert (end["status"], end["error"]) == ("FAILED", error)


def test_limit_as_jsonata_and_scaled(cloud):
    tokens(cloud)
    cloud.control("PUT", "settings", {"sfn_timeout_scale": 0.01})
    task = {"Type": "Task", "Resource": WAITS, "End": True, "QueryLanguage": "JSONata", "HeartbeatSeconds": "{% $states.input.limit * 60 %}",
            "Arguments": {"FunctionName": "f", "Payload": {"token": "{% $states.context.Task.Token %}"}}}
    assert ended(cloud, start(cloud, machine(cloud, {"Wait": task}), limit=2))["error"] == "States.HeartbeatTimeout"


def test_heartbeats_keep_a_task_alive(cloud):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    run = start(cloud, machine(cloud, {"Wait": waiting(HeartbeatSeconds=3)}))
    (token,) = eventually(seen)
    began = time.monotonic()

    def beat_until_past_the_limit():
        sfn.send_task_heartbeat(taskToken=token)
        return time.monotonic() - began > 4

    eventually(beat_until_past_the_limit)
    sfn.send_task_success(taskToken=token, output="{}")
    assert ended(cloud, run)["status"] == "SUCCEEDED"


def test_lambda_that_fails_before_it_handed_the_token_on_fails_the_task(cloud):
    cloud.function("f", bootstrap('raise ValueError("no")'))
    end = ended(cloud, start(cloud, machine(cloud, {"Wait": waiting()})))
    assert (end["status"], end["error"]) == ("FAILED", "ValueError") and "no" in end["cause"]


def test_every_attempt_has_its_own_token(cloud):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    run = start(cloud, machine(cloud, {"Wait": waiting(Retry=[{"ErrorEquals": ["Transient"], "IntervalSeconds": 1, "MaxAttempts": 2}])}))
    first = eventually(seen)[0]
    cloud.control("PUT", "settings", {"sfn_wait_scale": 0})
    sfn.send_task_failure(taskToken=first, error="Transient")
    eventually(lambda: len(seen()) == 2)
    second = seen()[1]
    assert first != second
    with pytest.raises(sfn.exceptions.TaskTimedOut):
        sfn.send_task_success(taskToken=first, output='"first"')
    sfn.send_task_success(taskToken=second, output='"second"')
    assert ended(cloud, run)["output"] == '"second"'


def test_branches_have_their_own_tokens(cloud):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    branch = [{"StartAt": name, "States": {name: waiting()}} for name in "ABCDEFGH"]
    run = start(cloud, machine(cloud, {"All": {"Type": "Parallel", "Branches": branch, "End": True}}))
    eventually(lambda: len(set(seen())) == 8)
    for token in seen():
        sfn.send_task_success(taskToken=token, output="1")
    assert ended(cloud, run)["output"] == json.dumps([1] * 8)


def test_machines_own_timeout_ends_a_waiting_task(cloud):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    events = cloud.inbox({"source": ["aws.states"], "detail": {"status": ["TIMED_OUT"]}})
    run = start(cloud, machine(cloud, {"Wait": waiting(Catch=[{"ErrorEquals": ["States.ALL"], "Next": "Never"}]),
                                       "Never": {"Type": "Pass", "End": True}}, TimeoutSeconds=3))
    (token,) = eventually(seen)
    assert ended(cloud, run)["status"] == "TIMED_OUT"
    history = [e["type"] for e in sfn.get_execution_history(executionArn=run)["events"]]
    assert history[-1] == "ExecutionTimedOut" and "PassStateEntered" not in history
    with pytest.raises(sfn.exceptions.TaskTimedOut):
        sfn.send_task_success(taskToken=token, output="{}")
    eventually(events)


@pytest.mark.parametrize("scale, value, end", [("sfn_timeout_scale", 1e-5, "FAILED"), ("sfn_machine_timeout_scale", 1e-7, "TIMED_OUT")])
def test_what_waits_feels_a_change_of_the_scale(cloud, scale, value, end):
    seen = tokens(cloud)
    run = start(cloud, machine(cloud, {"Wait": waiting(TimeoutSeconds=86400)}, TimeoutSeconds=604800))
    eventually(seen)
    cloud.control("PUT", "settings", {scale: value})
    assert ended(cloud, run)["status"] == end


CALLS = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "End": True,
         "Parameters": {"FunctionName": "f", "Payload": {"token": "called"}}}
LATER = {"StartAt": "Pause", "States": {"Pause": {"Type": "Wait", "Seconds": 2, "Next": "Call"}, "Call": CALLS}}
GOES_ON = {
    "parallel": {"Type": "Parallel", "Branches": [LATER, LATER]},
    "map": {"Type": "Map", "ItemsPath": "$.items", "ItemProcessor": LATER},
    "retry": {**CALLS, "Parameters": {"FunctionName": "f", "Payload": {"token": "called", "fail": True}},
              "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 2, "MaxAttempts": 5, "BackoffRate": 1}]},
}


@pytest.mark.parametrize("kind", GOES_ON)
def test_stop_reaches_what_waits_and_nothing_is_called_after_it(cloud, kind):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    arn = machine(cloud, {"Work": {**GOES_ON[kind], "End": True}})
    run = start(cloud, arn, items=[1, 2])
    before = 1 if kind == "retry" else 0
    eventually(lambda: any(e["type"].endswith("StateEntered") for e in sfn.get_execution_history(executionArn=run)["events"])
               and len(seen()) == before)
    sfn.stop_execution(executionArn=run, cause="test")
    longer = {"Wait": {"Type": "Wait", "Seconds": 4, "Next": "Call"}, "Call": CALLS}
    ended(cloud, start(cloud, machine(cloud, longer, name="longer")))
    assert len(seen()) == before + 1  # the longer machine's own call
    assert execution(cloud, run)["status"] == "ABORTED"


def test_stopped_task_closes_its_token(cloud):
    seen, sfn = tokens(cloud), cloud.client("stepfunctions")
    run = start(cloud, machine(cloud, {"Wait": waiting()}))
    (token,) = eventually(seen)
    sfn.stop_execution(executionArn=run)
    with pytest.raises(sfn.exceptions.TaskTimedOut):
        sfn.send_task_heartbeat(taskToken=token)


def nested(cloud: Cloud, **more) -> tuple[str, str]:
    child = machine(cloud, {"Wait": {"Type": "Wait", "Seconds": 1000, "End": True}}, name="child")
    parent = machine(cloud, {"Run": {"Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2", "End": True,
                                     "Parameters": {"StateMachineArn": child}, **more}}, name="parent")
    return child, parent


def children(cloud: Cloud, child: str) -> list[str]:
    return [e["status"] for e in cloud.client("stepfunctions").list_executions(stateMachineArn=child)["executions"]]


def test_nested_execution_ends_with_its_parent_and_tells_of_it(cloud):
    child, parent = nested(cloud)
    events = cloud.inbox({"source": ["aws.states"], "detail": {"stateMachineArn": [child]}})
    run = start(cloud, parent)
    eventually(lambda: children(cloud, child) == ["RUNNING"])
    cloud.client("stepfunctions").stop_execution(executionArn=run)
    eventually(lambda: children(cloud, child) == ["ABORTED"])
    eventually(lambda: [e["detail"]["status"] for e in events()] == ["RUNNING", "ABORTED"])


def test_nested_execution_ends_with_the_task_that_timed_out(cloud):
    child, parent = nested(cloud, TimeoutSeconds=1)
    assert ended(cloud, start(cloud, parent))["error"] == "States.Timeout"
    eventually(lambda: children(cloud, child) == ["ABORTED"])


def test_retry_pause_obeys_its_maximum_and_the_scale(cloud):
    cloud.function("f", bootstrap('raise ValueError("no")'))
    cloud.control("PUT", "settings", {"sfn_wait_scale": 0.001})
    task = {"Type": "Task", "Resource": "arn:aws:states:::lambda:invoke", "Parameters": {"FunctionName": "f"}, "End": True,
            "Retry": [{"ErrorEquals": ["States.ALL"], "IntervalSeconds": 100, "BackoffRate": 1000, "MaxDelaySeconds": 200, "MaxAttempts": 3}]}
    run = start(cloud, machine(cloud, {"Work": task}))
    assert ended(cloud, run, 15)["error"] == "ValueError"
    history = cloud.client("stepfunctions").get_execution_history(executionArn=run)["events"]
    assert sum(e["type"] == "TaskScheduled" for e in history) == 4


def test_lost_reply_of_start_execution_leaves_the_execution(cloud):
    cloud.function("f", bootstrap("return 1"))
    sfn, arn = cloud.client("stepfunctions"), machine(cloud, {"P": {"Type": "Pass", "End": True}})
    cloud.fault("states:StartExecution", "lose-reply", times=1)
    request = {"stateMachineArn": arn, "name": "once", "input": "{}"}
    with pytest.raises(ClientError, match="reply was lost"):
        sfn.start_execution(**request)
    assert len(sfn.list_executions(stateMachineArn=arn)["executions"]) == 1


def test_start_execution_again_is_the_one_that_runs_and_nothing_else_has_its_name(cloud):
    sfn, arn = cloud.client("stepfunctions"), machine(cloud, {"W": {"Type": "Wait", "Seconds": 60, "End": True}})
    request = {"stateMachineArn": arn, "name": "once", "input": "{}"}
    first = sfn.start_execution(**request)
    assert {**sfn.start_execution(**request), "ResponseMetadata": 0} == {**first, "ResponseMetadata": 0}
    for other in ({"input": '{"a":1}'}, None):
        if other is None:
            sfn.stop_execution(executionArn=first["executionArn"])
        with pytest.raises(sfn.exceptions.ExecutionAlreadyExists):
            sfn.start_execution(**{**request, **(other or {})})


def test_succeed_gives_its_jsonata_output(cloud):
    states = {"P": {"Type": "Pass", "Assign": {"kept": "{% $states.input.a %}"}, "Output": "other", "Next": "End"},
              "End": {"Type": "Succeed", "Output": "{% {'kept': $kept, 'input': $states.input} %}"}}
    nested = {"All": {"Type": "Parallel", "End": True, "Branches": [{"StartAt": "P", "States": states}]}}
    for top, name in ((states, "flat"), (nested, "nested")):
        end = json.loads(ended(cloud, start(cloud, machine(cloud, top, name=name, QueryLanguage="JSONata"), a=1))["output"])
        assert (end[0] if name == "nested" else end) == {"kept": 1, "input": "other"}


def test_machines_reach_the_patched_services(cloud):
    instance = cloud.instance(TagSpecifications=[{"ResourceType": "instance", "Tags": [{"Key": "hw:drill", "Value": "d1"}]}])
    states = {
        "Find": {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:ec2:describeInstances", "Next": "Terminate",
                 "Arguments": {"Filters": [{"Name": "tag:hw:drill", "Values": ["{% $states.input.drill %}"]},
                                           {"Name": "instance-state-name", "Values": ["pending", "running"]}]},
                 "Assign": {"found": "{% [$states.result.Reservations.Instances.InstanceId] %}"}},
        "Terminate": {"Type": "Task", "Resource": "arn:aws:states:::aws-sdk:ec2:terminateInstances", "End": True,
                      "Arguments": {"InstanceIds": "{% $found %}"}, "Output": "{% $found %}"},
    }
    end = ended(cloud, start(cloud, machine(cloud, states, QueryLanguage="JSONata"), drill="d1"))
    assert (end["status"], end.get("output")) == ("SUCCEEDED", json.dumps([instance]))
    eventually(lambda: cloud.state(instance) == "terminated")


@pytest.mark.parametrize("effect, calls, end", [
    ("fail", 0, "TooManyRequests"), ("lose-reply", 1, "Lambda.Unknown"), ("double", 2, None), ("delay-reply", 1, None)])
def test_a_machine_feels_a_fault_of_its_function(cloud, effect, calls, end):
    seen = tokens(cloud)
    cloud.fault("lambda:Invoke", effect, match={"FunctionName": "f"}, error="TooManyRequests", seconds=0.1)
    done = ended(cloud, start(cloud, machine(cloud, {"Call": CALLS})))
    assert done.get("error") == end and seen() == ["called"] * calls


@pytest.mark.parametrize("effect, calls, end", [
    ("fail", 0, "TooManyRequests"), ("lose-reply", 1, "Lambda.Unknown"), ("double", 2, None), ("delay-reply", 1, None)])
def test_a_fault_strikes_the_work_of_one_state_of_one_machine(cloud, effect, calls, end):
    seen = tokens(cloud)
    cloud.fault("task:Call", effect, match={"machine": "struck"}, error="TooManyRequests", seconds=0.1)
    done = ended(cloud, start(cloud, machine(cloud, {"Before": {**CALLS, "Next": "Call", "End": False}, "Call": CALLS}, name="struck")))
    assert done.get("error") == end and seen() == ["called"] * (1 + calls)
    assert ended(cloud, start(cloud, machine(cloud, {"Call": CALLS}, name="other")))["status"] == "SUCCEEDED"


def test_a_fault_strikes_work_that_is_no_function_and_work_in_a_map(cloud):
    child = machine(cloud, {"P": {"Type": "Pass", "End": True}}, name="child")
    nested = {"Type": "Task", "Resource": "arn:aws:states:::states:startExecution.sync:2", "End": True, "Parameters": {"StateMachineArn": child}}
    states = {"Each": {"Type": "Map", "End": True, "ItemProcessor": {"StartAt": "Nested", "States": {"Nested": nested}}}}
    run = machine(cloud, states, name="parent")
    cloud.fault("task:Nested", "lose-reply", match={"machine": "parent"}, times=1)
    arn = cloud.client("stepfunctions").start_execution(stateMachineArn=run, input="[1]")["executionArn"]
    assert ended(cloud, arn)["error"] == "States.TaskFailed"
    assert len(cloud.client("stepfunctions").list_executions(stateMachineArn=child)["executions"]) == 1
