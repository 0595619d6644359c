"""Instances as local processes: what a host may use, the scripts that run on it, and their end.

A host owns a directory, an environment and a PATH; scripts (SSM commands, user data) run as process
groups of it. Everything a host starts carries its mark in the environment, daemons that left the group
too, so that an instance's end takes all of it. A crash of the launcher leaves processes behind that
carry the launcher's mark: reaper.py, started with it, ends those.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from dataclasses import dataclass, field
from pathlib import Path

from .settings import settings

OWNER = "LOCAL_CLOUD_OWNER"
INSTANCE = "LOCAL_CLOUD_INSTANCE"
SHIMS = ("shutdown", "poweroff", "halt", "reboot", "systemctl")
SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
POWER_BY_PATH = re.compile(r"/s?bin/(?:shutdown|poweroff|halt|reboot|systemctl)\b")
POWER_BY_PATH_REFUSED = ("a script that names shutdown, poweroff, halt, reboot or systemctl by path would reach the "
                         "machine that runs the tests; use the bare name")
AGENTS = ("online", "offline", "mute", "deaf")


@dataclass
class Host:
    """One instance's machine. `agent` says how its SSM agent behaves:

    online   as it should
    offline  gets nothing: a command waits until its delivery times out
    mute     runs what it gets, but is never heard: delivery times out while the host goes on
    deaf     runs and reports, but neither a time-out nor a cancel reaches it
    """

    instance_id: str
    scope: tuple[str, str]
    root: Path
    env: dict = field(default_factory=dict)
    path: list = field(default_factory=list)
    cwd: str | None = None
    agent: str = "online"
    metadata_url: str = ""
    user_data_exit: int | None = None

    def configure(self, changes: dict) -> None:
        unknown = set(changes) - {"root", "env", "path", "cwd", "agent"}
        if unknown:
            raise ValueError(f"a host has no {', '.join(sorted(unknown))}")
        if changes.get("agent", self.agent) not in AGENTS:
            raise ValueError(f"agent is one of {', '.join(AGENTS)}")
        for name, value in changes.items():
            setattr(self, name, Path(value) if name == "root" else value)
        self.prepare()

    def prepare(self) -> None:
        for directory in ("home", "tmp", "bin", "run"):
            (self.root / directory).mkdir(parents=True, exist_ok=True)
        for name in SHIMS:
            shim = self.root / "bin" / name
            power = Path(__file__).parent.parent / "power.py"
            shim.write_text(f'#!/bin/sh\nexec "{sys.executable}" "{power}" {name} "$@"\n')
            shim.chmod(0o755)

    def environment(self, extra: dict | None = None) -> dict:
        """Nothing of the launcher's environment leaks in, least of all its credentials."""
        return {
            "PATH": ":".join([*self.path, str(self.root / "bin"), SYSTEM_PATH]),
            "HOME": str(self.root / "home"),
            "TMPDIR": str(self.root / "tmp"),
            "LANG": "C.UTF-8",
            "AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"],
            "AWS_EC2_METADATA_SERVICE_ENDPOINT": self.metadata_url,
            OWNER: os.environ[OWNER],
            INSTANCE: self.instance_id,
            **self.env,
            **(extra or {}),
        }

    def start(self, name: str, script: str, extra_env: dict | None = None, cwd: str | None = None) -> "Running":
        """Run `script` as a process group with its output in files, as the agent and cloud-init do."""
        if POWER_BY_PATH.search(script):
            raise ValueError(POWER_BY_PATH_REFUSED)
        directory = self.root / "run" / name
        directory.mkdir(parents=True, exist_ok=True)
        file = directory / "_script.sh"
        file.write_text(script if script.endswith("\n") else script + "\n")
        with open(directory / "stdout", "wb") as out, open(directory / "stderr", "wb") as err:
            process = subprocess.Popen([*interpreter(script), str(file)], stdin=subprocess.DEVNULL, stdout=out, stderr=err,
                                       cwd=cwd or self.cwd or self.root / "home",
                                       env=self.environment(extra_env), start_new_session=True)
        return Running(process, directory)

    def power_off(self) -> None:
        """SIGTERM to everything of the host, a grace, then SIGKILL."""
        end_marked(f"{INSTANCE}={self.instance_id}", settings.shutdown_grace_s)

    def discard_disk(self) -> None:
        """The disk goes with the instance; what its scripts wrote to their output stays for the reader."""
        if Path(os.environ["LOCAL_CLOUD_DATA"]) in self.root.parents:
            for directory in self.root.iterdir():
                if directory.name != "run":
                    shutil.rmtree(directory, ignore_errors=True)

    def describe(self) -> dict:
        return {"instance-id": self.instance_id, "root": str(self.root), "agent": self.agent, "path": self.path,
                "env": self.env, "cwd": self.cwd, "metadata-url": self.metadata_url,
                "user-data-exit": self.user_data_exit, "running": len(marked(f"{INSTANCE}={self.instance_id}"))}


@dataclass
class Running:
    """A script of a host."""

    process: subprocess.Popen
    directory: Path

    def wait(self, timeout_s: float) -> int | None:
        """The exit code (128 + signal, as a shell says it); None after `timeout_s`."""
        try:
            code = self.process.wait(timeout_s)
        except subprocess.TimeoutExpired:
            return None
        return code if code >= 0 else 128 - code

    def kill(self) -> None:
        """SIGKILL to the group: that is what the SSM agent does on a time-out and on a cancel."""
        try:
            os.killpg(self.process.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass

    def output(self, stream: str) -> bytes:
        return (self.directory / stream).read_bytes()


def interpreter(script: str) -> list[str]:
    """The `#!` line's command, /bin/sh without one. Naming it spares the script file the execute bit."""
    first = script.split("\n", 1)[0]
    return first[2:].split(None, 1) if first.startswith("#!") else ["/bin/sh"]


class Hosts:
    """The registry: instance id → host. A host nobody described gets the defaults."""

    def __init__(self):
        self._hosts: dict[str, Host] = {}
        self._described: dict[str, dict] = {}
        self._lock = threading.Lock()
        self.defaults: dict = {}

    def get(self, instance_id: str) -> Host | None:
        return self._hosts.get(instance_id)

    def create(self, instance_id: str, scope: tuple[str, str]) -> Host:
        host = Host(instance_id, scope, Path(os.environ["LOCAL_CLOUD_DATA"]) / "hosts" / instance_id)
        host.configure(self.defaults)
        with self._lock:
            self._hosts[instance_id] = host
        return host

    def set_defaults(self, changes: dict) -> None:
        """What every later instance starts with. Their roots stay their own."""
        if "root" in changes:
            raise ValueError("hosts do not share a root; set it per instance")
        Host("i-0", ("", ""), Path(os.environ["LOCAL_CLOUD_DATA"]) / "defaults").configure(changes)
        self.defaults = changes

    def all(self) -> list[Host]:
        return list(self._hosts.values())

    def clear(self) -> None:
        for host in self.all():
            end_marked(f"{INSTANCE}={host.instance_id}", 0)
        with self._lock:
            self._hosts.clear()
            self.defaults = {}


def marked(mark: str) -> list[int]:
    """Processes whose environment carries `mark` (`NAME=value`), the launcher itself excepted."""
    wanted, found = mark.encode(), []
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        try:
            environ = Path(entry.path, "environ").read_bytes()
            state = Path(entry.path, "stat").read_text().rsplit(")", 1)[1].split()[0]
        except OSError:
            continue  # gone meanwhile, or not ours
        if state != "Z" and wanted in environ.split(b"\0"):
            found.append(int(entry.name))
    return found


def end_marked(mark: str, grace_s: float) -> None:
    """End every process with `mark`; what starts while we look is caught in the next round."""
    deadline = time.monotonic() + grace_s
    first = True
    while pids := marked(mark):
        over = time.monotonic() >= deadline
        if first or over:
            for pid in pids:
                try:
                    os.kill(pid, signal.SIGKILL if over else signal.SIGTERM)
                except ProcessLookupError:
                    pass
        first = False
        time.sleep(0.02)


hosts = Hosts()
