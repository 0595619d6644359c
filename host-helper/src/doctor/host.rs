//! What the host itself offers: the state directory, memory, space.

use super::Findings;
use crate::config::Config;
use crate::restore::memory;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

/// Below this the state directory's journals and locks are at risk.
const STATE_FREE_BYTES: u64 = 64 << 20;
/// What a backup holds in memory besides its buffer: raw frames, compressors, the process itself.
const WORKING_BYTES: u64 = 192 << 20;

pub(super) fn check(config: &Config, findings: &mut Findings) {
    state_dir(&config.state_dir, findings);
    available_memory(config, findings);
}

fn state_dir(dir: &Path, findings: &mut Findings) {
    let name = "state_dir";
    // Created by the first backup; its parent must be there then.
    let existing = dir.ancestors().find(|d| d.exists()).unwrap_or(dir);
    match std::fs::metadata(dir) {
        Ok(meta) if !meta.is_dir() => findings.fail(name, format!("{} is not a directory", dir.display()), "remove it"),
        Ok(meta) if meta.uid() != rustix::process::geteuid().as_raw() => {
            findings.fail(
                name,
                format!("{} belongs to user id {}", dir.display(), meta.uid()),
                "chown it to the user that runs highwater-host",
            );
        }
        Ok(meta) if meta.mode() & 0o077 != 0 => {
            let finding = format!("{} is open to others (mode {:04o})", dir.display(), meta.mode() & 0o7777);
            findings.fail(name, finding, format!("chmod 700 {}", dir.display()));
        }
        Ok(_) => findings.ok(name, format!("{} is ours alone", dir.display())),
        Err(_) => findings.ok(name, format!("{} will be created", dir.display())),
    }
    match rustix::fs::statvfs(existing) {
        Ok(fs) if fs.f_bavail.saturating_mul(fs.f_frsize) < STATE_FREE_BYTES => {
            findings.fail(
                "disk",
                format!("{} has less than 64 MiB free", existing.display()),
                "free some space: nothing else is written during a backup",
            );
        }
        Ok(fs) => {
            let free_mib = fs.f_bavail.saturating_mul(fs.f_frsize) >> 20;
            findings.ok("disk", format!("{free_mib} MiB free at {}; a backup stages nothing", existing.display()));
        }
        Err(error) => findings.fail("disk", format!("{}: {error}", existing.display()), "give state_dir a directory that exists"),
    }
}

fn available_memory(config: &Config, findings: &mut Findings) {
    let needed = WORKING_BYTES + ((config.backup.buffer_mib as u64) << 20);
    match memory::available() {
        u64::MAX => findings.warn("memory", "/proc/meminfo does not say what is available", "look yourself"),
        bytes if bytes < needed => {
            let finding = format!("{} MiB available, a backup may use {} MiB", bytes >> 20, needed >> 20);
            findings.warn("memory", finding, "lower backup.buffer_mib or free memory");
        }
        bytes => findings.ok("memory", format!("{} MiB available, a backup uses at most {} MiB", bytes >> 20, needed >> 20)),
    }
}
