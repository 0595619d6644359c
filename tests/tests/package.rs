//! The packing of a release: what `make package` does with the binaries, here with the debug ones.

use highwater_core::Sha256;
use highwater_tests::{binary, run};
use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

/// What a debug binary says of itself.
const VERSION: &str = concat!(env!("CARGO_PKG_VERSION"), " (not a release)");

/// A build's output: two functions (small programs of the system stand for them: what is packed is not looked into) and the
/// commands.
struct Build(tempfile::TempDir);

impl Build {
    fn new() -> Self {
        let build = Self(tempfile::tempdir().unwrap());
        for function in ["start-backup", "prune"] {
            fs::create_dir_all(build.path(&format!("lambda/{function}"))).unwrap();
            fs::copy("/bin/true", build.path(&format!("lambda/{function}/bootstrap"))).unwrap();
        }
        fs::create_dir(build.path("commands")).unwrap();
        for command in ["highwater", "highwater-host"] {
            std::os::unix::fs::symlink(binary(command), build.path(&format!("commands/{command}"))).unwrap();
        }
        build
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }

    fn pack(&self, out: &str, version: &str, commands_glibc: &str) -> Output {
        let mut command = Command::new(concat!(env!("CARGO_MANIFEST_DIR"), "/../scripts/package.py"));
        command.arg("--functions").arg(self.path("lambda")).arg("--commands").arg(self.path("commands"));
        command.args(["--version", version, "--functions-glibc", "2.36", "--commands-glibc", commands_glibc]);
        command.arg("--out").arg(self.path(out)).output().unwrap()
    }
}

fn files(directory: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.map(|path| (path.file_name().unwrap().to_str().unwrap().to_owned(), fs::read(path).unwrap())).collect()
}

#[test]
fn a_release_holds_every_function_both_commands_and_their_sums_and_is_the_same_each_time() {
    let build = Build::new();
    for out in ["one", "two"] {
        let packed = build.pack(out, VERSION, "2.36");
        assert!(packed.status.success(), "{}", String::from_utf8_lossy(&packed.stderr));
    }
    let release = files(&build.path("one"));
    assert!(release == files(&build.path("two")), "the same binaries gave other bytes");
    let names: Vec<_> = release.keys().map(String::as_str).collect();
    assert_eq!(names, ["LICENSE", "SHA256SUMS", "VERSION", "highwater", "highwater-host", "prune.zip", "start-backup.zip"]);

    let sums = String::from_utf8(release["SHA256SUMS"].clone()).unwrap();
    let expected = release.iter().filter(|(name, _)| *name != "SHA256SUMS").map(|(name, bytes)| format!("{}  {name}\n", Sha256::of(bytes)));
    assert_eq!(sums, expected.collect::<String>());

    let unpacked = build.path("unpacked");
    let unzip =
        "import sys, zipfile; z = zipfile.ZipFile(sys.argv[1]); z.extractall(sys.argv[2]); print(oct(z.infolist()[0].external_attr >> 16))";
    let mode = run(Command::new("python3").args(["-c", unzip]).arg(build.path("one/prune.zip")).arg(&unpacked));
    assert_eq!(mode.trim(), "0o755", "Lambda executes it");
    assert!(fs::read(unpacked.join("bootstrap")).unwrap() == fs::read("/bin/true").unwrap());
    assert_eq!(run(Command::new(build.path("one/highwater-host")).arg("--version")), format!("highwater-host {VERSION}\n"));
}

#[test]
fn what_would_not_run_where_it_goes_or_is_of_another_version_is_not_packed() {
    let build = Build::new();
    let refused = |version: &str, glibc: &str, because: &str| {
        let packed = build.pack("refused", version, glibc);
        let said = String::from_utf8(packed.stderr).unwrap();
        assert!(!packed.status.success() && said.contains(because), "{said}");
    };
    // Built for this machine, a command needs this machine's glibc: newer than the oldest hosts'.
    refused(VERSION, "2.26", "highwater needs glibc 2.3");
    refused("9.9.9 (0123456789ab)", "2.36", "not '9.9.9 (0123456789ab)'");
    let noise: Vec<u8> = (0..2_000_000u32).flat_map(|n| n.wrapping_mul(2_654_435_761).rotate_left(n % 32).to_le_bytes()).collect();
    fs::write(build.path("lambda/prune/bootstrap"), [fs::read("/bin/true").unwrap(), noise].concat()).unwrap();
    refused(VERSION, "2.36", "prune.zip has");
    fs::write(build.path("lambda/prune/bootstrap"), "#!/bin/sh\n").unwrap();
    refused(VERSION, "2.36", "bootstrap is no program");
    fs::remove_dir_all(build.path("lambda")).unwrap();
    refused(VERSION, "2.36", "holds no function");
}
