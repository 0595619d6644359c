//! `cdk synth` for a test: once for each configuration, kept below `target/cloud`.

use crate::{release, run, target_dir};
use highwater_core::Sha256;
use serde_json::Value;
use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;

/// As `infra/cdk/lib/names.ts` has them.
pub(super) const FUNCTIONS: &[&str] = &[
    "start-backup",
    "finish-backup",
    "reconcile",
    "publish-status",
    "plan-restore",
    "launch-drill",
    "record-drill",
    "request-approval",
    "decide-approval",
    "promote",
    "finish-promote",
    "prune",
];

/// The helper, as what a host installs.
const HELPER: &str = "highwater-host";

/// The directory that `cdk synth` wrote for this configuration and these binaries: of each function's and the helper's name, the
/// binary. A release's own files are taken as they are.
pub(super) fn assembly(config: &Value, binary: &dyn Fn(&str) -> PathBuf) -> PathBuf {
    let infra = Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra")).canonicalize().expect("infra/");
    let cache = target_dir().join("cloud");
    fs::create_dir_all(&cache).expect("make target/…/cloud");
    let text = config.to_string();
    let mut sources = text.clone().into_bytes();
    ["cdk/bin", "cdk/lib", "cdk/package-lock.json", "asl", "ssm", "drill"]
        .iter()
        .for_each(|part| read_all(&infra.join(part), &mut sources));
    match release() {
        Some(release) => sources.extend(fs::read(release.join("SHA256SUMS")).expect("a release's sums")),
        None => FUNCTIONS.iter().chain([&HELPER]).for_each(|name| sources.extend(binary(name).display().to_string().bytes())),
    }
    let name = Sha256::of(&sources).to_string()[..16].to_owned();
    let done = cache.join(&name);
    // Two tests with the same configuration: one synthesises, the other waits.
    let lock = File::create(cache.join(format!("{name}.lock"))).expect("create a lock");
    lock.lock().expect("take the lock");
    if done.exists() {
        return done;
    }
    let (config, fresh) = (cache.join(format!("{name}.config.json")), cache.join(format!("{name}.fresh")));
    fs::write(&config, text).expect("write the configuration");
    let tsx = infra.join("cdk/node_modules/.bin/tsx");
    assert!(tsx.exists(), "{} is missing: run `make tools` (or `npm ci` in infra/cdk) first", tsx.display());
    run(Command::new(tsx)
        .arg("bin/highwater.ts")
        .current_dir(infra.join("cdk"))
        .env("CDK_OUTDIR", &fresh)
        .env("HIGHWATER_CONFIG", &config)
        .env("HIGHWATER_ARTIFACTS", release().unwrap_or_else(|| artifacts(&cache.join(format!("{name}.artifacts")), binary))));
    fs::rename(&fresh, &done).expect("keep what was synthesised");
    done
}

/// A directory for each function, whose bootstrap executes the binary, and a helper that does.
fn artifacts(directory: &Path, binary: &dyn Fn(&str) -> PathBuf) -> PathBuf {
    let script = |path: PathBuf, name: &str| {
        fs::create_dir_all(path.parent().expect("a directory")).expect("make a function's directory");
        fs::write(&path, format!("#!/bin/sh\nexec '{}' \"$@\"\n", binary(name).display())).expect("write a script");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).expect("make a script executable");
    };
    FUNCTIONS.iter().for_each(|name| script(directory.join(name).join("bootstrap"), name));
    script(directory.join(HELPER), HELPER);
    directory.to_owned()
}

fn read_all(path: &Path, into: &mut Vec<u8>) {
    if path.is_dir() {
        let mut entries: Vec<_> = fs::read_dir(path).expect("list a source directory").map(|e| e.expect("an entry").path()).collect();
        entries.sort();
        entries.iter().for_each(|entry| read_all(entry, into));
    } else {
        into.extend(fs::read(path).unwrap_or_else(|e| panic!("read {}: {e}", path.display())));
    }
}
