//! Percona XtraBackup, for MySQL and Percona Server 8.0, 8.4 and 9.x, as documented: it could not be run here.

use super::{BackupRun, Prepare};
use crate::error::{Error, Result};
use highwater_core::Failure;
use highwater_core::identity::Version;
use std::ffi::OsString;

/// How long it waits for the DDL lock that somebody else holds; its own default is a year.
const LOCK_WAIT_S: u32 = 300;

/// Its binary's name.
pub(super) const BINARIES: [&str; 1] = ["xtrabackup"];

/// Its version from `xtrabackup version 8.0.35-31 based on MySQL server 8.0.35 Linux (x86_64) (revision id: 55ec21d7)`.
pub(super) fn version(banner: &str) -> Option<Version> {
    banner.split_once("xtrabackup version ")?.1.parse().ok()
}

/// 8.0 backs up any 8.0 server that is not newer than itself; from 8.1 on the series must be the same.
pub(super) fn check_versions(tool: Version, server: Version) -> Result<()> {
    let (major, minor) = server.series();
    let refused = |rule: String| {
        Err(Error::new(Failure::Precondition, format!("xtrabackup {tool} cannot back up MySQL {server}: {rule}"))
            .hint(format!("install percona-xtrabackup-{major}{minor}, {server} or newer")))
    };
    match (major, minor) {
        (..8, _) => refused("Highwater knows 8.0 and newer".into()),
        _ if tool.series() != server.series() => refused(format!("it must be of series {major}.{minor}")),
        (8, 0) if tool < server => refused("8.0 refuses a server that is newer than itself".into()),
        _ => Ok(()),
    }
}

/// The argv of a backup. Never `--register-redo-log-consumer`: it can block the server's writes.
pub(super) fn backup_args(run: &BackupRun<'_>) -> Vec<OsString> {
    let mut args = super::common_backup_args(run);
    args.push(format!("--lock-ddl={}", run.lock_ddl.unwrap_or("ON")).into());
    args.push(format!("--lock-ddl-timeout={}", LOCK_WAIT_S).into());
    args
}

/// The argv of a prepare step: uncommitted transactions are rolled back by the last one only.
pub(super) fn prepare_args(prepare: &Prepare<'_>) -> Vec<OsString> {
    let mut args = super::common_prepare_args(prepare);
    if !prepare.last {
        args.push("--apply-log-only".into());
    }
    args
}
