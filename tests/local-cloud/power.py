"""`shutdown`, `poweroff`, `halt`, `reboot` and `systemctl` as a script on an instance finds them on its PATH.

They ask the launcher for what the machine would do; the machine that runs the tests stays up.
"""

import json
import os
import sys
import urllib.error
import urllib.request


def minutes_until(arguments: list[str]) -> float:
    """`now`, `+N` or nothing (one minute), as shutdown(8) reads it."""
    when = next((argument for argument in arguments if not argument.startswith("-")), "+1")
    if when == "now":
        return 0
    if when.startswith("+") and when[1:].isdigit():
        return float(when[1:])
    sys.exit(f"shutdown: the local cloud understands now and +minutes, not {when!r}")


def order(name: str, arguments: list[str]) -> dict:
    if name == "systemctl":
        name, arguments = (arguments or [""])[0], arguments[1:]
        if name not in ("poweroff", "halt", "reboot"):
            sys.exit(f"systemctl: there is no systemd on this host (asked for {name!r}); put one on its path")
    if name == "reboot" or "-r" in arguments:
        sys.exit("reboot: instances of the local cloud cannot restart themselves")
    if name == "shutdown" and "-c" in arguments:
        return {"cancel": True}
    return {"minutes": minutes_until(arguments) if name == "shutdown" else 0}


def main() -> None:
    url = f"{os.environ['AWS_ENDPOINT_URL']}/_local-cloud/hosts/{os.environ['LOCAL_CLOUD_INSTANCE']}/shutdown"
    body = json.dumps(order(os.path.basename(sys.argv[1]), sys.argv[2:])).encode()
    try:
        urllib.request.urlopen(urllib.request.Request(url, body, method="POST"), timeout=10).read()
    except urllib.error.URLError as error:
        sys.exit(f"{sys.argv[1]}: the local cloud refused: {error}")


if __name__ == "__main__":
    main()
