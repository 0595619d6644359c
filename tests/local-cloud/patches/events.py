"""Events that a service sends by itself (`aws.ssm`, `aws.ec2`); PutEvents refuses those sources, as AWS does.

A rule or schedule invokes its Lambda asynchronously: one that fails is tried again, twice by default, and
what it never handled goes to its dead letters.

One thread delivers, so that events arrive in the order of their causes unless a fault says otherwise:
AWS promises neither order nor delivery. `hold` keeps events until `release`, which sends them in the
order asked for: the way to an event that comes late, or before its predecessor.
"""

import json
import logging
import queue
import threading
import time
from datetime import datetime, timezone

from ministack.core.responses import request_scope

from . import owned, replace
from .faults import faults, invocation_of
from .settings import settings

logger = logging.getLogger("local-cloud.events")

_due: queue.Queue = queue.Queue()
_held: list[dict] = []
_log: list[dict] = []
_lock = threading.Lock()
_ticking = threading.Lock()  # a schedule that `fire` and the ticker both find due fires once
_worker: threading.Thread | None = None
_LOG_LIMIT = 10_000


def install() -> None:
    from ministack.services import eventbridge, scheduler

    owned(scheduler, "_SCHEDULE_TICK_INTERVAL")
    scheduler._SCHEDULE_TICK_INTERVAL = 1  # the emulator looks every ten seconds what is due
    owned(scheduler, "_schedule_last_fired")
    replace(scheduler, "_tick_schedules", _one_at_a_time)
    replace(eventbridge, "_dispatch_to_lambda", lambda _dispatch: _invoke_with_retries)
    replace(eventbridge, "_invoke_target", _with_scheduled_time)


def _with_scheduled_time(invoke_target):
    """Scheduler fills its context attribute into the target's input: the same in each delivery of one turn."""

    def invoke(target, event, *more, **named):
        if event.get("Source") == "aws.scheduler" and "Input" in target:
            at = datetime.fromtimestamp(event["Time"], timezone.utc).isoformat().replace("+00:00", "Z")
            target = {**target, "Input": target["Input"].replace("<aws.scheduler.scheduled-time>", at)}
        return invoke_target(target, event, *more, **named)

    return invoke


def _invoke_with_retries(arn: str, payload: str) -> None:
    from ministack.services import lambda_svc

    function, config, name = lambda_svc._get_func_record_for_ref(arn)
    if not function or not config:
        return logger.warning("no function %s for an event", name)
    lambda_svc._LAMBDA_ASYNC_RETRY_BASE_SECONDS = settings.lambda_retry_s
    fault = faults.take("lambda:Invoke", invocation_of(arn))
    effect = fault.effect if fault else ""
    if effect == "delay-reply":
        logger.warning("an asynchronous invocation of %s has no reply to delay", name)
    for _ in range({"fail": 0, "double": 2}.get(effect, 1)):
        lambda_svc.invoke_async_with_retry(lambda_svc._execution_record_for_config(function, config), json.loads(payload))


def fire(name: str) -> None:
    """A schedule's time has come: its own target gets its own input, as the emulator dispatches it."""
    from ministack.services import scheduler

    found = [key for key, schedule in scheduler._schedules._data.items() if key[2] == name and schedule["State"] == "ENABLED"]
    if not found:
        raise ValueError(f"no enabled schedule {name}; there are {sorted(key[2] for key in scheduler._schedules._data)}")
    with _ticking:
        scheduler._schedule_last_fired.update(dict.fromkeys(found, 0))
    scheduler._tick_schedules()


def _one_at_a_time(tick):
    def tick_schedules():
        with _ticking:
            tick()

    return tick_schedules


def emit(scope: tuple[str, str], source: str, detail_type: str, detail: dict, resources: list[str]) -> None:
    """Hand one event to the rules of `scope` (account, region), or to the fault ordered for it."""
    event = {"scope": scope, "source": source, "detail-type": detail_type, "detail": detail,
             "resources": resources, "at": time.time(), "fate": "delivered"}
    fault = faults.take(f"event:{source}", {"detail-type": detail_type, **detail})
    with _lock:
        _log.append(event)
        del _log[:-_LOG_LIMIT]
        if fault is not None:
            event["fate"] = fault.effect
        if fault is not None and fault.effect == "hold":
            _held.append(event)
            return
    if fault is None:
        _deliver(event)
    elif fault.effect == "double":
        _deliver(event)
        _deliver(event)
    elif fault.effect == "delay":
        timer = threading.Timer(fault.seconds, _deliver, (event,))
        timer.daemon = True
        timer.start()


def release(order: str = "kept") -> int:
    """Deliver what `hold` kept, in the order it came (`kept`) or turned round (`reversed`)."""
    if order not in ("kept", "reversed"):
        raise ValueError(f"order is kept or reversed, not {order!r}")
    with _lock:
        events = _held[::-1] if order == "reversed" else _held[:]
        _held.clear()
    for event in events:
        _deliver(event)
    return len(events)


def log() -> list[dict]:
    with _lock:
        return [{key: value for key, value in event.items() if key != "scope"} for event in _log]


def reset() -> None:
    with _lock:
        _held.clear()
        _log.clear()


def _deliver(event: dict) -> None:
    global _worker
    with _lock:
        if _worker is None:
            _worker = threading.Thread(target=_run, daemon=True, name="local-cloud-events")
            _worker.start()
    _due.put(event)


def _run() -> None:
    from ministack.services import eventbridge

    while True:
        event = _due.get()
        try:
            with request_scope(*event["scope"]):
                eventbridge._put_events({"Entries": [{
                    "Source": event["source"], "DetailType": event["detail-type"],
                    "Detail": json.dumps(event["detail"]), "Resources": event["resources"],
                }]}, allow_aws_source=True)
        except Exception:
            logger.exception("event %s was not delivered", event["detail"])
