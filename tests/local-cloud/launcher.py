"""The local cloud: a pinned emulator of AWS in this process, with the patches that make it behave.

    python launcher.py [--port N] [--data DIR] [--auth] [--detached]

Prints one line of JSON when it serves, `{"endpoint": …, "pid": …, "data": …}`, and then works until
SIGTERM, SIGINT or, unless --detached, the end of the process that started it. It listens on 127.0.0.1
only, keeps its data in one temporary directory and leaves no process and no file behind: instances,
commands and Lambdas carry its mark, and reaper.py ends what carries it even after a SIGKILL of this one.

Tests steer it under /_local-cloud/ (control.py); production code does not know that path.
"""

import argparse
import asyncio
import importlib.metadata
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

EMULATOR, VERSION = "ministack", "1.5.33"
REGION = "eu-west-1"
HOST = "127.0.0.1"


def main() -> None:
    arguments = _arguments()
    assert_pinned()
    listener = socket.create_server((HOST, arguments.port), backlog=1024)
    data = Path(arguments.data or tempfile.mkdtemp(prefix="local-cloud-"))
    _environment(listener.getsockname()[1], data, arguments.auth)
    mark = os.environ["LOCAL_CLOUD_OWNER"]
    reaper = subprocess.Popen([sys.executable, str(Path(__file__).with_name("reaper.py")), mark,
                               *([] if arguments.data else [str(data)])],
                              stdin=subprocess.PIPE, start_new_session=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
        signal.signal(number, lambda *_: stop.set())
    if not arguments.detached:
        threading.Thread(target=_stop_with_parent, args=(stop, os.getppid()), daemon=True).start()
    ready = {"endpoint": os.environ["AWS_ENDPOINT_URL"], "pid": os.getpid(), "data": str(data)}
    try:
        asyncio.run(_serve(listener, stop, ready))
    finally:
        _clean_up(reaper)
        # The emulator's worker threads may still wait for something; nothing of theirs is worth keeping.
        os._exit(0 if stop.is_set() else 1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="A local cloud for the end-to-end tests")
    parser.add_argument("--port", type=int, default=int(os.environ.get("GATEWAY_PORT", "0")), help="0: any free port")
    parser.add_argument("--data", help="keep data and logs here instead of in a temporary directory")
    parser.add_argument("--auth", action="store_true", help="enforce IAM policies")
    parser.add_argument("--detached", action="store_true", help="outlive the process that started it")
    return parser.parse_args()


def assert_pinned() -> None:
    """The patches reach into private modules, so another version is refused, not tried."""
    found = importlib.metadata.version(EMULATOR)
    if found != VERSION:
        sys.exit(f"local-cloud: the patches are for {EMULATOR} {VERSION}, this is {found}; see requirements.txt")


def _environment(port: int, data: Path, auth: bool) -> None:
    """All that the emulator reads at import, whatever the caller's environment says."""
    for directory in ("tmp", "hosts"):
        (data / directory).mkdir(parents=True, exist_ok=True)
    tempfile.tempdir = str(data / "tmp")
    for name in [name for name in os.environ if name.startswith(("AWS_", "MINISTACK_", "LOCALSTACK_"))]:
        del os.environ[name]
    os.environ.update(
        GATEWAY_PORT=str(port), BIND_HOST=HOST, MINISTACK_HOST=HOST, AWS_ENDPOINT_URL=f"http://{HOST}:{port}",
        MINISTACK_REGION=REGION, AWS_DEFAULT_REGION=REGION, AWS_ACCESS_KEY_ID="test", AWS_SECRET_ACCESS_KEY="test",
        SFTP_ENABLED="0", IOT_MTLS_ENABLED="0", PERSIST_STATE="0", S3_PERSIST="0", TMPDIR=str(data / "tmp"), STATE_DIR=str(data / "tmp"),
        AUTH="true" if auth else "false", LOCAL_CLOUD_DATA=str(data), LOCAL_CLOUD_OWNER=uuid.uuid4().hex,
        LOG_LEVEL=os.environ.get("LOG_LEVEL", "WARNING"),
    )


async def _serve(listener: socket.socket, stop: threading.Event, ready: dict) -> None:
    from hypercorn.asyncio import serve
    from hypercorn.config import Config
    from ministack.app import app

    import control
    import patches
    from patches import kills

    patches.apply()
    config = Config()
    config.bind = [f"fd://{listener.fileno()}"]
    config.loglevel = os.environ["LOG_LEVEL"]
    config.graceful_timeout = 0.5
    config.keep_alive_timeout = 75

    async def stopped():
        while not stop.is_set():
            await asyncio.sleep(0.05)

    asyncio.get_running_loop().call_later(0.05, _announce, ready)
    await serve(control.in_front_of(kills.in_front_of(app)), config, shutdown_trigger=stopped)


def _announce(ready: dict) -> None:
    print(json.dumps(ready), flush=True)


def _stop_with_parent(stop: threading.Event, parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.2)
    stop.set()


def _clean_up(reaper: subprocess.Popen) -> None:
    """Hosts go down without a grace here; the reaper takes the rest as soon as its pipe closes."""
    reaper.stdin.close()
    try:
        reaper.wait(10)
    except subprocess.TimeoutExpired:
        reaper.kill()


if __name__ == "__main__":
    main()
