"""Whether functions run (`GET /_local-cloud/invocations`): a test that is about one invocation waits for the end of all others.

`running` is 0 when none does, whoever invoked it; `ended` grows with every end.
"""

import threading

from ministack.services import lambda_svc

from . import replace

_lock = threading.Lock()
_counts = {"running": 0, "ended": 0}


def install() -> None:
    replace(lambda_svc, "_execute_function", _counted)


def counts() -> dict:
    with _lock:
        return dict(_counts)


def _counted(execute):
    def execute_function(*args, **kwargs):
        with _lock:
            _counts["running"] += 1
        try:
            return execute(*args, **kwargs)
        finally:
            with _lock:
                _counts["running"] -= 1
                _counts["ended"] += 1

    return execute_function
