//! The one seam between Highwater and the backup tools: what to run, how to read its output, how it prepares.

use crate::config::ServerConfig;
use crate::error::Result;
use crate::signal::Cancel;
use highwater_core::Lsn;
use highwater_core::identity::{ToolName, Vendor, Version};
use std::path::{Path, PathBuf};

/// A backup tool found on this host.
#[derive(Debug, Clone)]
pub struct Tool {
    /// Which one.
    pub name: ToolName,
    /// Its binary.
    pub path: PathBuf,
    /// Its version.
    pub version: Version,
}

/// What the checkpoints file of a backup, or of a prepared directory, says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkpoints {
    /// `full-backuped`, `incremental`, `log-applied`, `full-prepared`.
    pub backup_type: String,
    /// Start of an incremental; zero for a full.
    pub from_lsn: Lsn,
    /// The checkpoint it reaches.
    pub to_lsn: Lsn,
    /// How far redo was copied.
    pub last_lsn: Lsn,
}

/// One prepare step.
#[derive(Debug, Clone, Copy)]
pub struct Prepare<'a> {
    /// The full, or what earlier steps made of it.
    pub target_dir: &'a Path,
    /// The freshly extracted incremental to apply; absent for the first step.
    pub incremental_dir: Option<&'a Path>,
    /// Whether no step follows: XtraBackup rolls uncommitted transactions back only then.
    pub last: bool,
    /// `--use-memory`, bytes.
    pub use_memory_bytes: u64,
}

impl Tool {
    /// Finds the tool for `vendor` in `server.bin_dir` or PATH, and asks its version.
    ///
    /// # Errors
    /// `Precondition`, with the package to install.
    pub async fn find(server: &ServerConfig, vendor: Vendor) -> Result<Self> {
        let _ = (server, vendor);
        todo!("tool")
    }

    /// Runs one prepare step to its end: exit 0, `completed OK!` as the last line, and the checkpoints as expected.
    ///
    /// # Errors
    /// `Tool` with the tool's own line; `Resources`; `Interrupted`. The target must then be discarded.
    pub async fn prepare(&self, prepare: Prepare<'_>, cancel: &Cancel) -> Result<()> {
        let _ = (prepare, cancel);
        todo!("tool")
    }

    /// Reads the checkpoints file of a directory, under either of its names.
    ///
    /// # Errors
    /// `Damaged` when it is missing or malformed.
    pub fn read_checkpoints(dir: &Path) -> Result<Checkpoints> {
        let _ = dir;
        todo!("tool")
    }
}
