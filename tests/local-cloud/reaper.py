"""Ends what a launcher leaves behind: `reaper.py MARK [DIRECTORY]`, started by the launcher.

It waits for the end of its standard input, which the kernel brings about however the launcher ends,
then kills every process whose environment carries the launcher's mark and removes its directory.
"""

import os
import shutil
import signal
import sys
import time
from pathlib import Path


def marked(mark: bytes) -> list[int]:
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                environ, state = (entry / "environ").read_bytes(), (entry / "stat").read_text().rsplit(")", 1)[1]
            except OSError:
                continue  # gone meanwhile, or not ours
            if mark in environ.split(b"\0") and state.split()[0] != "Z":
                found.append(int(entry.name))
    return found


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    mark = f"LOCAL_CLOUD_OWNER={sys.argv[1]}".encode()
    while pids := marked(mark):
        for pid in pids:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        time.sleep(0.02)
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
