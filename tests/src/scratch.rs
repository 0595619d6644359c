//! A test's own directory, and the certainty that nothing of the test outlives it.

use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};

/// The variable that marks every process of a test with its directory.
const MARK: &str = "HIGHWATER_SCRATCH";

/// Waits for its standard input to end (the test dropped us, or died), kills every process that carries the
/// directory in its environment or command line until there is none, and removes the directory.
const REAPER: &str = r#"
cat >/dev/null
victims() {
    grep -lzxF -e "HIGHWATER_SCRATCH=$1" /proc/[0-9]*/environ
    printf '%s/' "$1" | grep -lF -f - /proc/[0-9]*/cmdline
}
for _ in 1 2 3 4 5 6 7 8 9 10; do
    pids=$(victims "$1" 2>/dev/null | cut -d/ -f3 | grep -vxF "$$" | sort -u)
    [ -n "$pids" ] || break
    kill -9 $pids 2>/dev/null
    sleep 0.05
done
umount "$1/small" 2>/dev/null
rm -rf "$1"
"#;

/// A temporary directory whose processes end with it.
#[derive(Debug)]
pub struct Scratch {
    path: PathBuf,
    reaper: Child,
}

impl Scratch {
    /// A new directory below `$TMPDIR`, named after `what`; servers that run as another user may enter it.
    pub fn new(what: &str) -> Self {
        let dir = tempfile::Builder::new().prefix(&format!("highwater-{what}-")).tempdir().expect("make a temporary directory");
        let path = dir.keep();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).expect("open the directory to servers");
        let reaper = Command::new("sh")
            .args(["-c", REAPER, "reaper"])
            .arg(&path)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            // The runner kills a test's process group; the reaper must outlive it.
            .process_group(0)
            .spawn()
            .expect("start the reaper");
        Self { path, reaper }
    }

    /// The directory.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// `name` below the directory.
    pub fn join(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path.join(name)
    }

    /// A command whose process, and all it starts, ends with this directory.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.env(MARK, &self.path).stdin(Stdio::null());
        command
    }

    /// Mounts a file system of its own at `small`, with no more than `limits` allow (`size=1M`, `nr_inodes=50`), or gives the one
    /// that is there other limits. It is full when it says so: no preflight sees its inodes. For root, or with sudo.
    pub fn small_disk(&self, limits: &str) -> PathBuf {
        let at = self.join("small");
        let remount = at.is_dir();
        std::fs::create_dir_all(&at).expect("make the mount point");
        let mut mount = if crate::mariadb::is_root() { Command::new("mount") } else { Command::new("sudo") };
        if !crate::mariadb::is_root() {
            mount.args(["-n", "mount"]);
        }
        let options = format!("{}mode=0777,{limits}", if remount { "remount," } else { "" });
        crate::run(mount.args(["-t", "tmpfs", "-o", &options, "tmpfs"]).arg(&at));
        at
    }

    /// Writes an executable shell script and returns its path.
    pub fn script(&self, name: &str, body: &str) -> PathBuf {
        let path = self.join(name);
        let mut file = std::fs::File::create(&path).expect("create a script");
        writeln!(file, "#!/bin/sh\n{body}").expect("write a script");
        file.set_permissions(std::fs::Permissions::from_mode(0o755)).expect("make a script executable");
        path
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        drop(self.reaper.stdin.take());
        let _ = self.reaper.wait();
    }
}

/// The processes that still run for a directory: `(pid, command line)`. Kernel threads and the dead do not count.
pub fn processes_of(dir: &Path) -> Vec<(u32, String)> {
    let text = dir.display().to_string();
    let mark = format!("{MARK}={text}");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc").expect("list /proc").flatten() {
        let Some(pid) = entry.file_name().to_str().and_then(|n| n.parse::<u32>().ok()) else { continue };
        let read = |file: &str| String::from_utf8_lossy(&std::fs::read(entry.path().join(file)).unwrap_or_default()).into_owned();
        let (environ, cmdline) = (read("environ"), read("cmdline").replace('\0', " "));
        let reaper = cmdline.contains("cat >/dev/null");
        if !reaper && !cmdline.is_empty() && (environ.split('\0').any(|v| v == mark) || cmdline.contains(&format!("{text}/"))) {
            found.push((pid, cmdline));
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wait_for;

    #[test]
    fn whatever_a_test_starts_ends_with_its_directory() {
        let scratch = Scratch::new("reaper");
        let dir = scratch.path().to_owned();
        // A daemon in its own session, two generations down.
        let script = scratch.script("daemon", "setsid sleep 1000 </dev/null >/dev/null 2>&1 &");
        assert!(scratch.command(script).status().unwrap().success());
        wait_for("the daemon", || processes_of(&dir).into_iter().find(|(_, c)| c.starts_with("sleep")));
        drop(scratch);
        assert_eq!(processes_of(&dir), []);
        assert!(!dir.exists());
    }
}
