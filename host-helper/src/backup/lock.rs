//! One backup at a time on a host. The kernel lets the lock go when the process ends, however it ends.

use crate::error::{Context, Error, Result};
use highwater_core::Failure;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// Held while it lives.
#[derive(Debug)]
pub(super) struct HostLock {
    _file: File,
    scratch: PathBuf,
}

impl HostLock {
    /// Takes the lock in `state_dir`, which is created with mode 0700.
    ///
    /// # Errors
    /// `Busy` when another operation holds it; `Config` when the directory cannot be used.
    pub(super) fn take(state_dir: &Path) -> Result<Self> {
        let failed = || format!("use the state directory {}", state_dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).context(Failure::Config, failed)?;
        let path = state_dir.join("backup.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).context(Failure::Config, failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => {}
            Err(rustix::io::Errno::WOULDBLOCK) => {
                return Err(Error::new(Failure::Busy, format!("another backup runs on this host: {} is locked", path.display())));
            }
            Err(error) => return Err(error).context(Failure::Config, || format!("lock {}", path.display())),
        }
        // Ours alone now: whatever is in the scratch directory was left by a run that died.
        let scratch = state_dir.join("backup.scratch");
        match std::fs::remove_dir_all(&scratch) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(Failure::Config, failed),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&scratch).context(Failure::Config, failed)?;
        Ok(Self { _file: file, scratch })
    }

    /// An empty directory for the tool to stand in.
    pub(super) fn scratch(&self) -> &Path {
        &self.scratch
    }
}

impl Drop for HostLock {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.scratch) {
            tracing::debug!(%error, "removing the tool's directory");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_taker_is_told_that_the_host_is_busy() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/state");
        let held = HostLock::take(&state).unwrap();
        std::fs::write(held.scratch().join("left"), "x").unwrap();
        assert_eq!(HostLock::take(&state).unwrap_err().failure, Failure::Busy);
        assert!(held.scratch().join("left").exists());
        drop(held);
        assert!(!HostLock::take(&state).unwrap().scratch().join("left").exists());
    }
}
