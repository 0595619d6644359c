"""SIGKILL for a function's process at a call of its own to AWS, whichever service it calls.

A function's environment names it, and its runtime's port, as the SDK's application id. Every SDK sends that in the
user agent, so that each call says which process makes it: the one with that port in its environment.
"""

import asyncio
import os
import re
import signal

from ministack.services import lambda_svc

from . import replace
from .faults import faults
from .hosts import marked

_CALLER = re.compile(r"\bapp/([A-Za-z0-9-]+)\.(\d+)")


def install() -> None:
    replace(lambda_svc, "_provided_worker_env", _named)


def _named(worker_env):
    def provided_worker_env(config, code_dir, port):
        return {**worker_env(config, code_dir, port), "AWS_SDK_UA_APP_ID": f"{config['FunctionName']}.{port}"}

    return provided_worker_env


def in_front_of(app):
    async def front(scope, receive, send):
        caller = _caller(scope)
        fault = caller and faults.take(f"function:{caller[0]}", {"call": _call(scope)})
        if not fault:
            return await app(scope, receive, send)
        if fault.effect == "kill-after":
            await app(scope, receive, _nobody)
        await asyncio.to_thread(_kill, int(caller[1]))

    return front


async def _nobody(_message) -> None:
    """Hears the answer in the place of the dead."""


def _caller(scope) -> tuple[str, str] | None:
    """Function and port."""
    if scope["type"] != "http":
        return None
    for name, value in scope["headers"]:
        if name.lower() in (b"user-agent", b"x-amz-user-agent") and (found := _CALLER.search(value.decode("latin-1"))):
            return found.groups()
    return None


def _call(scope) -> str:
    """The call in words: a JSON protocol's target, else method and path."""
    for name, value in scope["headers"]:
        if name.lower() == b"x-amz-target":
            return value.decode("latin-1")
    return f"{scope['method']} {scope['path']}"


def _kill(port: int) -> None:
    for pid in marked(f"AWS_LAMBDA_RUNTIME_API=127.0.0.1:{port}"):
        try:
            os.kill(pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
