#!/usr/bin/env python3
"""Packs what `make package` built into one release directory, which is what is deployed and what hosts install:

    <function>.zip …  highwater  highwater-host  LICENSE  VERSION  SHA256SUMS  [highwater.template.json]

The same binaries give the same bytes: times and owners are fixed. Refused are a function larger than Lambda likes to start
from, a binary that needs a newer glibc than the place it runs in has, and a command that is not of the version named.
"""

import argparse
import hashlib
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

COMMANDS = ("highwater", "highwater-host")
# They have 5 to 6 MB (docs/BENCHMARKS.md, which also has the aim): one that grows past this brought in what it does not need.
LARGEST_ZIP = 6_500_000
LICENSE = Path(__file__).parent.parent / "LICENSE"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--functions", type=Path, required=True, help="holds <function>/bootstrap")
    parser.add_argument("--commands", type=Path, required=True, help="holds the two commands")
    parser.add_argument("--version", required=True, help="what the commands have to say of themselves")
    parser.add_argument("--functions-glibc", required=True, help="of Lambda's runtime, like 2.34")
    parser.add_argument("--commands-glibc", required=True, help="of the oldest host, like 2.26")
    parser.add_argument("--template", type=Path, help="holds the one template of a configuration")
    parser.add_argument("--out", type=Path, required=True)
    of = parser.parse_args()

    bootstraps = sorted(of.functions.glob("*/bootstrap"))
    if not bootstraps:
        sys.exit(f"{of.functions} holds no function")
    shutil.rmtree(of.out, ignore_errors=True)
    of.out.mkdir(parents=True)
    rows = [(f"{path.parent.name}.zip", function(path, of.out), glibc(path, of.functions_glibc)) for path in bootstraps]
    rows += [(name, command(of.commands / name, of.version, of.out), glibc(of.commands / name, of.commands_glibc)) for name in COMMANDS]
    shutil.copyfile(LICENSE, of.out / "LICENSE")
    if of.template:
        [template] = of.template.glob("*.template.json")
        shutil.copyfile(template, of.out / "highwater.template.json")
    (of.out / "VERSION").write_text(of.version + "\n")
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(of.out.iterdir())]
    (of.out / "SHA256SUMS").write_text("".join(sums))
    for name, size, needs in rows:
        print(f"{name:22} {size:>10,} bytes  glibc {needs}")
    print(f"highwater {of.version} in {of.out}")


def function(bootstrap: Path, out: Path) -> int:
    """A zip for Lambda; its size."""
    packed = out / f"{bootstrap.parent.name}.zip"
    with zipfile.ZipFile(packed, "w") as archive:
        entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
        entry.external_attr, entry.compress_type = 0o755 << 16, zipfile.ZIP_DEFLATED
        archive.writestr(entry, bootstrap.read_bytes(), compresslevel=9)
    if (size := packed.stat().st_size) > LARGEST_ZIP:
        sys.exit(f"{packed.name} has {size} bytes, more than {LARGEST_ZIP}")
    return size


def command(path: Path, version: str, out: Path) -> int:
    """A command as it is, if it is of this version; its size."""
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout.strip()
    if said != f"{path.name} {version}":
        sys.exit(f"{path} says that it is {said!r}, not {version!r}")
    shutil.copyfile(path, out / path.name)
    (out / path.name).chmod(0o755)
    return path.stat().st_size


def glibc(path: Path, newest: str) -> str:
    """The newest version of glibc's symbols that a binary needs."""
    read = subprocess.run(["readelf", "--version-info", "--wide", path], capture_output=True, text=True)
    if read.returncode != 0:
        sys.exit(f"{path} is no program: {read.stderr.strip()}")
    needs = max(((int(a), int(b)) for a, b in re.findall(r"Name: GLIBC_(\d+)\.(\d+)", read.stdout)), default=None)
    if needs is None:
        return "none"
    if needs > tuple(int(part) for part in newest.split(".")):
        sys.exit(f"{path} needs glibc {needs[0]}.{needs[1]}; where it is to run there may be none newer than {newest}")
    return f"{needs[0]}.{needs[1]}"


if __name__ == "__main__":
    main()
