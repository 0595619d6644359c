//! One operation at a time on a host: a backup while the data directory is exchanged would be of nothing that ever was (I3).
//! The kernel lets the lock go when the process ends, however it ends.

use crate::error::{Context, Error, Result};
use highwater_core::Failure;
use rustix::fs::{FlockOperation, flock};
use std::fs::{DirBuilder, File, OpenOptions};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

/// The host's lock, held while it lives: by a backup, a promotion, or a roll-back.
#[derive(Debug)]
pub(crate) struct HostLock {
    _file: File,
}

impl HostLock {
    /// Takes the lock in `state_dir`, which is created with mode 0700.
    ///
    /// # Errors
    /// `Busy` when another operation holds it; `Config` when the directory cannot be used.
    pub(crate) fn take(state_dir: &Path) -> Result<Self> {
        let failed = || format!("use the state directory {}", state_dir.display());
        DirBuilder::new().recursive(true).mode(0o700).create(state_dir).context(Failure::Config, failed)?;
        let path = state_dir.join("host.lock");
        let file = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path).context(Failure::Config, failed)?;
        match flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Self { _file: file }),
            Err(rustix::io::Errno::WOULDBLOCK) => {
                Err(Error::new(Failure::Busy, "another backup, promotion or roll-back runs on this host")
                    .hint(format!("wait for it to end; it holds {}", path.display())))
            }
            Err(error) => Err(error).context(Failure::Config, || format!("lock {}", path.display())),
        }
    }
}

/// An empty directory for the tool to stand in, removed with the value. Only who holds the host's lock may make one.
#[derive(Debug)]
pub(crate) struct Scratch(PathBuf);

impl Scratch {
    /// Makes it anew: whatever is in it was left by a run that died.
    ///
    /// # Errors
    /// `Config` when the directory cannot be used.
    pub(crate) fn make(_held: &HostLock, state_dir: &Path) -> Result<Self> {
        let path = state_dir.join("backup.scratch");
        let failed = || format!("use the directory {}", path.display());
        match std::fs::remove_dir_all(&path) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(e).context(Failure::Config, failed),
            _ => {}
        }
        DirBuilder::new().mode(0o700).create(&path).context(Failure::Config, failed)?;
        Ok(Self(path))
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.0
    }
}

impl Drop for Scratch {
    fn drop(&mut self) {
        if let Err(error) = std::fs::remove_dir_all(&self.0) {
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
        assert_eq!(HostLock::take(&state).unwrap_err().failure, Failure::Busy);
        drop(held);
        HostLock::take(&state).unwrap();
    }

    #[test]
    fn a_scratch_directory_begins_empty_and_ends_with_its_value() {
        let dir = tempfile::tempdir().unwrap();
        let held = HostLock::take(dir.path()).unwrap();
        std::fs::create_dir(dir.path().join("backup.scratch")).unwrap();
        std::fs::write(dir.path().join("backup.scratch/left"), "x").unwrap();
        let scratch = Scratch::make(&held, dir.path()).unwrap();
        assert!(!scratch.path().join("left").exists());
        let path = scratch.path().to_owned();
        drop(scratch);
        assert!(!path.exists());
    }
}
