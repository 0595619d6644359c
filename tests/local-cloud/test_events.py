"""Rules and schedules: what they do with a Lambda that fails."""

import json
import urllib.error

import pytest
from conftest import RULE_ROLE, Cloud, bootstrap, eventually


def rule_for(cloud: Cloud, arn: str) -> None:
    events = cloud.client("events")
    events.put_rule(Name="ours", EventPattern=json.dumps({"source": ["ours"]}))
    events.put_targets(Rule="ours", Targets=[{"Id": "1", "Arn": arn}])


def happen(cloud: Cloud, **detail) -> None:
    cloud.client("events").put_events(Entries=[{"Source": "ours", "DetailType": "x", "Detail": json.dumps(detail)}])


@pytest.mark.parametrize("failures, attempts, dead", [(1, 2, 0), (9, 3, 1)])
def test_a_failed_function_is_tried_twice_more_and_then_given_up(cloud, tmp_path, failures, attempts, dead):
    cloud.control("PUT", "settings", {"lambda_retry_s": 0.05})
    sqs = cloud.client("sqs")
    queue = sqs.create_queue(QueueName="dead")["QueueUrl"]
    arn = cloud.function("f", bootstrap(f"""
with open({str(tmp_path / "attempts")!r}, "a+") as log:
    log.write("x"); log.flush(); log.seek(0)
    if len(log.read()) <= {failures}: raise RuntimeError("not yet")
"""))
    cloud.client("lambda").update_function_configuration(
        FunctionName="f", DeadLetterConfig={"TargetArn": "arn:aws:sqs:eu-west-1:000000000000:dead"})
    rule_for(cloud, arn)
    happen(cloud)
    eventually(lambda: (tmp_path / "attempts").exists() and len((tmp_path / "attempts").read_text()) == attempts)
    if dead:
        eventually(lambda: sqs.receive_message(QueueUrl=queue).get("Messages"))
    else:
        assert not sqs.receive_message(QueueUrl=queue).get("Messages")


@pytest.mark.parametrize("effect, calls", [("fail", 0), ("double", 2)])
def test_an_event_for_a_function_gets_lost_or_doubled(cloud, tmp_path, effect, calls):
    log = tmp_path / "calls"
    rule_for(cloud, cloud.function("f", bootstrap(f'open({str(log)!r}, "a").write(event["detail"]["n"])')))
    cloud.fault("lambda:Invoke", effect, match={"FunctionName": "f"}, times=1)
    happen(cloud, n="1")
    eventually(lambda: not calls or log.exists() and log.read_text() == "1" * calls)
    happen(cloud, n="2")
    eventually(lambda: log.exists() and log.read_text() == "1" * calls + "2")


def test_a_schedule_fires_when_ordered_once(cloud, tmp_path):
    log = tmp_path / "calls"
    arn = cloud.function("f", bootstrap(f'open({str(log)!r}, "a").write(event["n"] + event["at"][10:11])'))
    scheduler = cloud.client("scheduler")
    scheduler.create_schedule_group(Name="ours")
    for name, when in {"rate": "rate(1 day)", "cron": "cron(0 3 1 1 ? *)"}.items():
        scheduler.create_schedule(GroupName="ours", Name=name, ScheduleExpression=when, FlexibleTimeWindow={"Mode": "OFF"},
                                  Target={"Arn": arn, "RoleArn": RULE_ROLE, "Input": json.dumps({"n": name, "at": "<aws.scheduler.scheduled-time>"})})
        cloud.control("POST", f"schedules/ours/{name}/fire")
        eventually(lambda: log.exists() and log.read_text().endswith(f"{name}T"))
    assert log.read_text() == "rateTcronT"
    with pytest.raises(urllib.error.HTTPError, match="400"):
        cloud.control("POST", "schedules/ours/other/fire")
