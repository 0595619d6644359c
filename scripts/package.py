#!/usr/bin/env python3
"""Packs what `make package` built: a zip for each function, a tarball of the two commands, and their SHA-256 sums.

    package.py VERSION ARCHITECTURE

Reads target/lambda/<function>/bootstrap and target/release, writes target/package. The same binaries give the same
bytes: times and owners are fixed. A function larger than Lambda likes to start from is refused.
"""

import gzip
import hashlib
import io
import sys
import tarfile
import zipfile
from pathlib import Path

FUNCTIONS, COMMANDS, OUT = Path("target/lambda"), Path("target/release"), Path("target/package")
LARGEST_ZIP = 4_000_000  # the aim of docs/BENCHMARKS.md


def main() -> None:
    version, architecture = sys.argv[1:]
    OUT.mkdir(parents=True, exist_ok=True)
    for old in [*OUT.glob("*.zip"), *OUT.glob("*.tar.gz*"), *OUT.glob("SHA256SUMS")]:
        old.unlink()
    bootstraps = sorted(FUNCTIONS.glob("*/bootstrap"))
    if not bootstraps:
        sys.exit(f"{FUNCTIONS} holds no function")
    for bootstrap in bootstraps:
        function = bootstrap.parent.name
        packed = zipped(bootstrap)
        if len(packed) > LARGEST_ZIP:
            sys.exit(f"{function}: the zip has {len(packed)} bytes, more than {LARGEST_ZIP}")
        (OUT / f"{function}-{version}-{architecture}.zip").write_bytes(packed)
    name = f"highwater-{version}-{architecture}"
    members = {f"{name}/{path.name}": path for path in (COMMANDS / "highwater", COMMANDS / "highwater-host", Path("LICENSE"))}
    (OUT / f"{name}.tar.gz").write_bytes(tarred(members))
    sums = [f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n" for path in sorted(OUT.iterdir())]
    (OUT / "SHA256SUMS").write_text("".join(sums))
    print("".join(sums), end="")


def zipped(bootstrap: Path) -> bytes:
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        entry = zipfile.ZipInfo("bootstrap", (1980, 1, 1, 0, 0, 0))
        entry.external_attr, entry.compress_type = 0o755 << 16, zipfile.ZIP_DEFLATED
        archive.writestr(entry, bootstrap.read_bytes(), compresslevel=9)
    return packed.getvalue()


def tarred(members: dict[str, Path]) -> bytes:
    packed = io.BytesIO()
    with gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipper, tarfile.open(fileobj=zipper, mode="w") as archive:
        for name, path in members.items():
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode = path.stat().st_size, 0o644 if path.name == "LICENSE" else 0o755
            with path.open("rb") as content:
                archive.addfile(entry, content)
    return packed.getvalue()


if __name__ == "__main__":
    main()
