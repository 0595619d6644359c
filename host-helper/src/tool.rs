//! The one seam between Highwater and the backup tools: what to run, how to read its output, how it prepares.
//!
//! Relies on: exit codes, `completed OK!` as the last line, and the files in [`files`]; all measured for mariadb-backup,
//! documented for XtraBackup. A tool never outlives the call that started it.

pub mod files;
mod mariadb_backup;
pub(crate) mod process;
pub mod redact;
mod xtrabackup;

use crate::config::{IoNice, ServerConfig};
use crate::error::{Context, Error, Result};
use crate::signal::Cancel;
use crate::small;
pub use files::Checkpoints;
use highwater_core::identity::{ToolName, Vendor, Version};
use highwater_core::{Failure, Lsn};
use process::{Invocation, Running, find_binary};
use redact::Redactor;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

/// How long a tool may take to tell its version.
const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

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

/// One streamed backup.
#[derive(Debug)]
pub(crate) struct BackupRun<'a> {
    /// The file with the `[client]` section; the tool reads the password from it, never from argv.
    pub(crate) defaults_file: Option<&'a Path>,
    /// The server's socket, unless the defaults file names it.
    pub(crate) socket: Option<&'a Path>,
    /// The user, when no defaults file names one.
    pub(crate) user: Option<&'a str>,
    /// The parent's `to_lsn`, for an incremental.
    pub(crate) from_lsn: Option<Lsn>,
    /// Files copied at once.
    pub(crate) parallel: u8,
    /// XtraBackup's `--lock-ddl`.
    pub(crate) lock_ddl: Option<&'a str>,
    /// An empty directory of ours: the tool's working and target directory. A streamed backup writes nothing to it.
    pub(crate) scratch: &'a Path,
    pub(crate) nice: u8,
    pub(crate) ionice: IoNice,
    pub(crate) redactor: Redactor,
}

fn common_backup_args(run: &BackupRun<'_>) -> Vec<OsString> {
    let option = |name: &str, value: &dyn AsRef<std::ffi::OsStr>| {
        let mut arg = OsString::from(format!("--{name}="));
        arg.push(value);
        arg
    };
    // First, or the tools read /etc/my.cnf and ~/.my.cnf too.
    let mut args = vec![run.defaults_file.map_or_else(|| "--no-defaults".into(), |file| option("defaults-file", &file))];
    args.extend(["--backup".into(), "--stream=xbstream".into(), option("target-dir", &run.scratch)]);
    args.extend(run.socket.map(|socket| option("socket", &socket)));
    args.extend(run.user.map(|user| option("user", &user)));
    args.push(format!("--parallel={}", run.parallel).into());
    args.extend(run.from_lsn.map(|lsn| format!("--incremental-lsn={lsn}").into()));
    args
}

fn common_prepare_args(prepare: &Prepare<'_>) -> Vec<OsString> {
    let dir = |name: &str, path: &Path| {
        let mut arg = OsString::from(format!("--{name}="));
        arg.push(path);
        arg
    };
    let mut args = vec!["--no-defaults".into(), "--prepare".into(), dir("target-dir", prepare.target_dir)];
    args.extend(prepare.incremental_dir.map(|path| dir("incremental-dir", path)));
    args.push(format!("--use-memory={}", prepare.use_memory_bytes).into());
    args
}

impl Tool {
    /// Finds the tool for `vendor` in `server.bin_dir` or PATH, and asks its version.
    ///
    /// # Errors
    /// `Precondition`, with the package to install.
    pub async fn find(server: &ServerConfig, vendor: Vendor) -> Result<Self> {
        let (name, binaries, package) = match vendor {
            Vendor::Mariadb => (ToolName::MariadbBackup, &mariadb_backup::BINARIES[..], "mariadb-backup"),
            Vendor::Mysql => (ToolName::Xtrabackup, &xtrabackup::BINARIES[..], "percona-xtrabackup"),
        };
        let Some(path) = binaries.iter().find_map(|binary| find_binary(server.bin_dir.as_deref(), binary)) else {
            let wanted = binaries.join(" or ");
            return Err(Error::new(Failure::Precondition, format!("no {wanted} in server.bin_dir or PATH"))
                .hint(format!("install {package} of the server's series")));
        };
        let banner = ask_version(&path).await?;
        let version = match name {
            ToolName::MariadbBackup => mariadb_backup::version(&banner),
            ToolName::Xtrabackup => xtrabackup::version(&banner),
        };
        match version {
            Some(version) => Ok(Self { name, path, version }),
            None => {
                let line = banner.lines().find(|l| !l.trim().is_empty()).unwrap_or("nothing");
                Err(Error::new(Failure::Precondition, format!("{} --version does not tell its version, but: {line}", path.display())))
            }
        }
    }

    /// Whether this tool can back up a server of `version`.
    ///
    /// # Errors
    /// `Precondition`, with the version to install.
    pub fn check_versions(&self, server: Version) -> Result<()> {
        match self.name {
            ToolName::MariadbBackup => mariadb_backup::check_versions(self.version, server),
            ToolName::Xtrabackup => xtrabackup::check_versions(self.version, server),
        }
    }

    /// Starts a streamed backup. The caller reads its standard output at once.
    ///
    /// # Errors
    /// `Precondition` when it cannot be started.
    pub(crate) async fn start_backup(&self, run: BackupRun<'_>) -> Result<Running> {
        let args = match self.name {
            ToolName::MariadbBackup => mariadb_backup::backup_args(&run),
            ToolName::Xtrabackup => xtrabackup::backup_args(&run),
        };
        let BackupRun { scratch, nice, ionice, redactor, .. } = run;
        Running::start(Invocation { program: self.path.clone(), args, dir: Some(scratch.to_owned()), nice, ionice, redactor }, true).await
    }

    /// Runs one prepare step to its end: exit 0, `completed OK!` as the last line, and the checkpoints as expected.
    ///
    /// # Errors
    /// `Tool` with the tool's own line; `Damaged` when the directories do not belong together (nothing was touched then);
    /// `Resources`; `Interrupted`. The target must then be discarded.
    pub async fn prepare(&self, prepare: Prepare<'_>, cancel: &Cancel) -> Result<()> {
        let target = prepare.target_dir;
        let before = Self::read_checkpoints(target)?;
        let expected_to_lsn = match prepare.incremental_dir {
            None => before.to_lsn,
            Some(dir) => continues(target, &before, dir, &Self::read_checkpoints(dir)?)?,
        };
        let args = match self.name {
            ToolName::MariadbBackup => mariadb_backup::prepare_args(&prepare),
            ToolName::Xtrabackup => xtrabackup::prepare_args(&prepare),
        };
        let invocation =
            Invocation { program: self.path.clone(), args, dir: None, nice: 0, ionice: IoNice::None, redactor: Redactor::default() };
        Running::start(invocation, false).await?.wait_or_cancel(cancel).await?.success()?;
        let after = Self::read_checkpoints(target)?;
        let prepared = match self.name {
            ToolName::MariadbBackup => after.backup_type == "log-applied" || after.backup_type == "full-prepared",
            ToolName::Xtrabackup => after.backup_type == if prepare.last { "full-prepared" } else { "log-applied" },
        };
        if !prepared || after.to_lsn != expected_to_lsn {
            let message = format!(
                "{} says completed OK!, but {} is {} at LSN {}, not prepared to LSN {expected_to_lsn}",
                self.name,
                target.display(),
                after.backup_type,
                after.to_lsn
            );
            return Err(Error::new(Failure::Tool, message));
        }
        Ok(())
    }

    /// Reads the checkpoints file of a directory, under either of its names.
    ///
    /// # Errors
    /// `Damaged` when it is missing or malformed.
    pub fn read_checkpoints(dir: &Path) -> Result<Checkpoints> {
        for name in files::CHECKPOINTS {
            let path = dir.join(name);
            match small::read(&path, small::TOOL_FILE_BYTES) {
                Ok(bytes) => return Checkpoints::parse(&bytes).context(Failure::Damaged, || format!("read {}", path.display())),
                Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
                Err(e) => return Err(e).context(Failure::Damaged, || format!("read {}", path.display())),
            }
        }
        Err(Error::new(Failure::Damaged, format!("{} holds no checkpoints file", dir.display())))
    }
}

/// The LSN that applying the incremental brings the target to. Looked at before the tool runs: a step that the tool
/// itself rejects has already modified the target (measured).
fn continues(target: &Path, before: &Checkpoints, dir: &Path, incremental: &Checkpoints) -> Result<Lsn> {
    let refused = |reason: String| Err(Error::new(Failure::Damaged, format!("apply {} to {}: {reason}", dir.display(), target.display())));
    match (before.backup_type.as_str(), incremental.backup_type.as_str()) {
        ("log-applied", "incremental") => {}
        ("full-prepared", "incremental") => return refused("the target is prepared for good and takes no further step".into()),
        (_, "incremental") => return refused(format!("the target is {}, not prepared", before.backup_type)),
        (_, other) => return refused(format!("it is {other}, not an incremental")),
    }
    if incremental.from_lsn != before.to_lsn {
        return refused(format!("it starts at LSN {}, the target is at LSN {}", incremental.from_lsn, before.to_lsn));
    }
    Ok(incremental.to_lsn)
}

/// What `--version` prints, on whichever stream.
async fn ask_version(path: &Path) -> Result<String> {
    let mut command = tokio::process::Command::new(path);
    command.arg("--version").stdin(std::process::Stdio::null()).kill_on_drop(true).env("LC_ALL", "C");
    let output = match tokio::time::timeout(VERSION_TIMEOUT, command.output()).await {
        Ok(output) => output.context(Failure::Precondition, || format!("run {} --version", path.display()))?,
        Err(_) => {
            return Err(Error::new(Failure::Precondition, format!("{} --version did not end in {VERSION_TIMEOUT:?}", path.display())));
        }
    };
    Ok(format!("{}\n{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

#[cfg(test)]
mod tests;
