"""What tests order from the launcher, in front of the emulator (all bodies are JSON):

    GET    /_local-cloud/hosts                     the instances' hosts, with state and tags
    POST   /_local-cloud/hosts                     {"instance_id", "profile", "tags", "host", "launched_at"}: launches that very instance
    PUT    /_local-cloud/hosts                     {"env", "path", "cwd", "agent"}: what every later instance gets
    GET    /_local-cloud/hosts/<instance>          directories, exit code of user data, number of processes
    PUT    /_local-cloud/hosts/<instance>          {"root", "env", "path", "cwd", "agent"}
    POST   /_local-cloud/hosts/<instance>/shutdown {"minutes", "cancel"}: `shutdown`, as run on the instance
    GET, POST, DELETE /_local-cloud/faults         see patches/faults.py; POST orders one, DELETE forgets all
    GET    /_local-cloud/calls                     what each role needed its permissions for, see patches/calls.py
    GET    /_local-cloud/invocations               {"running", "ended"}, see patches/invocations.py
    GET    /_local-cloud/events                    every event of aws.ssm and aws.ec2 and its fate
    POST   /_local-cloud/events/release            {"order": "kept" | "reversed"}: deliver what `hold` kept
    POST   /_local-cloud/schedules/<group>/<name>/fire  as if its time had come
    GET, PUT /_local-cloud/settings                see patches/settings.py

POST /_ministack/reset forgets everything, this included, and ends every host's processes.
"""

import asyncio
import json

from patches import calls, ec2, events, invocations
from patches.faults import faults
from patches.hosts import hosts
from patches.settings import settings

PREFIX = "/_local-cloud/"


class Unknown(Exception):
    """No such path, or no such instance."""


def in_front_of(app):
    async def front(scope, receive, send):
        if scope["type"] != "http" or not scope["path"].startswith(PREFIX):
            return await app(scope, receive, send)
        body = b""
        while True:
            message = await receive()
            body += message.get("body", b"")
            if not message.get("more_body"):
                break
        try:
            request = json.loads(body or b"{}")
            status, reply = 200, await asyncio.to_thread(_answer, scope["method"], scope["path"], request)
        except Unknown as error:
            status, reply = 404, {"error": f"unknown: {error}"}
        except (ValueError, TypeError, KeyError) as error:
            status, reply = 400, {"error": f"{type(error).__name__}: {error}"}
        content = json.dumps(reply, default=str).encode()
        await send({"type": "http.response.start", "status": status, "headers": [
            (b"content-type", b"application/json"), (b"content-length", str(len(content)).encode())]})
        await send({"type": "http.response.body", "body": content})

    return front


def _answer(method: str, path: str, request: dict):
    match (method, *path.removeprefix(PREFIX).rstrip("/").split("/")):
        case ("GET", "hosts"):
            return [ec2.describe(host.instance_id) for host in hosts.all()]
        case ("POST", "hosts"):
            return ec2.launch(**request)
        case ("PUT", "hosts"):
            return hosts.set_defaults(request)
        case ("GET", "hosts", instance_id):
            return ec2.describe(_host(instance_id).instance_id)
        case ("PUT", "hosts", instance_id):
            _host(instance_id).configure(request)
            return _host(instance_id).describe()
        case ("POST", "hosts", instance_id, "shutdown"):
            _host(instance_id)
            return ec2.order_shutdown(instance_id, **request)
        case ("GET", "faults"):
            return faults.as_list()
        case ("POST", "faults"):
            return vars(faults.order(request))
        case ("DELETE", "faults"):
            return faults.clear()
        case ("GET", "calls"):
            return calls.recorded()
        case ("GET", "invocations"):
            return invocations.counts()
        case ("GET", "events"):
            return events.log()
        case ("POST", "events", "release"):
            return {"released": events.release(**request)}
        case ("POST", "schedules", group, name, "fire"):
            return events.fire(f"{group}/{name}")
        case ("GET", "settings"):
            return settings.as_dict()
        case ("PUT", "settings"):
            settings.update(request)
            return settings.as_dict()
    raise Unknown(f"{method} {path}")


def _host(instance_id: str):
    if host := hosts.get(instance_id):
        return host
    raise Unknown(instance_id)
