//! mariadb-backup, for MariaDB 10.6 to 11.8. It decides by itself whether a prepare step is the last: no `--apply-log-only`.

use super::{BackupRun, Prepare};
use crate::error::{Error, Result};
use highwater_core::Failure;
use highwater_core::identity::Version;
use std::ffi::OsString;

/// Its binary's names, the new one first.
pub(super) const BINARIES: [&str; 2] = ["mariadb-backup", "mariabackup"];

/// Its version from `mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)`.
pub(super) fn version(banner: &str) -> Option<Version> {
    banner.split_once("based on MariaDB server ")?.1.parse().ok()
}

/// The same series, and not older than the server.
pub(super) fn check_versions(tool: Version, server: Version) -> Result<()> {
    if tool.series() == server.series() && tool >= server {
        return Ok(());
    }
    let (major, minor) = server.series();
    Err(Error::new(
        Failure::Precondition,
        format!("mariadb-backup {tool} cannot back up MariaDB {server}: it must be of series {major}.{minor} and not older"),
    )
    .hint(format!("install mariadb-backup {server} from the repository that the server came from")))
}

/// The argv of a backup.
pub(super) fn backup_args(run: &BackupRun<'_>) -> Vec<OsString> {
    super::common_backup_args(run)
}

/// The argv of a prepare step.
pub(super) fn prepare_args(prepare: &Prepare<'_>) -> Vec<OsString> {
    super::common_prepare_args(prepare)
}
