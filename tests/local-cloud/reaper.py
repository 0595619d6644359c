"""Ends what a launcher leaves behind: `reaper.py MARK [DIRECTORY]`, started by the launcher.

It waits for the end of its standard input, which the kernel brings about however the launcher ends,
then kills every process whose environment carries the launcher's mark and removes its directory.
"""

import shutil
import signal
import sys

from patches.hosts import OWNER, end_marked


def main() -> None:
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    sys.stdin.buffer.read()
    end_marked(f"{OWNER}={sys.argv[1]}", grace_s=0)
    for directory in sys.argv[2:]:
        shutil.rmtree(directory, ignore_errors=True)


if __name__ == "__main__":
    main()
