//! `/etc/highwater/host.toml`: what this host is and how it works. Every key is documented here and in `docs/host.toml`;
//! unknown keys are refused. Secrets appear only by reference.

use crate::error::{Context, Error, Result};
use highwater_core::identity::{Engine, Vendor, Version};
use highwater_core::{ClusterId, Failure, HostId};
use serde::Deserialize;
use std::path::{Path, PathBuf};

/// Where the configuration is looked for.
pub const DEFAULT_PATH: &str = "/etc/highwater/host.toml";

/// The whole file.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Config {
    /// The cluster this host's server belongs to.
    pub cluster: ClusterId,
    /// This host: its EC2 instance id, or a name of its own.
    pub host_id: HostId,
    /// Journals, locks and stamps are kept here; created with mode 0700. Default `/var/lib/highwater`.
    #[serde(default = "default_state_dir")]
    pub state_dir: PathBuf,
    /// How the running server is reached.
    #[serde(default)]
    pub server: ServerConfig,
    /// How backups are taken.
    #[serde(default)]
    pub backup: BackupConfig,
    /// How restores are made.
    #[serde(default)]
    pub restore: RestoreConfig,
    /// What drills check.
    #[serde(default)]
    pub drill: DrillConfig,
    /// How the primary is replaced. Without it this host refuses to promote.
    pub promote: Option<PromoteConfig>,
}

fn default_state_dir() -> PathBuf {
    "/var/lib/highwater".into()
}

/// How the running server is reached: by a defaults file, or a user that the server lets in by its socket.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ServerConfig {
    /// A my.cnf with a `[client]` section, owned by us, mode 0600. Its password never leaves it.
    pub defaults_file: Option<PathBuf>,
    /// The server's Unix socket. Default `/run/mysqld/mysqld.sock`.
    pub socket: PathBuf,
    /// The user for socket authentication when there is no defaults file. Default: `root`.
    pub user: String,
    /// What the server has to be, like `mariadb-10.11`: another one is neither backed up nor replaced. Default: whatever it is.
    pub engine: Option<Engine>,
    /// Directory with the tools (`mariadb-backup` or `xtrabackup`) and server binaries, searched before PATH.
    pub bin_dir: Option<PathBuf>,
}

impl Default for ServerConfig {
    fn default() -> Self {
        Self { defaults_file: None, socket: "/run/mysqld/mysqld.sock".into(), user: "root".into(), engine: None, bin_dir: None }
    }
}

impl ServerConfig {
    /// Whether the running server is the one that is meant: a socket may be another server's, or the configuration another host's.
    ///
    /// # Errors
    /// `Precondition`.
    pub fn check_engine(&self, vendor: Vendor, version: Version) -> Result<()> {
        match self.engine {
            Some(engine) if !engine.is(vendor, version) => {
                Err(Error::new(Failure::Precondition, format!("{engine} is expected here, the server is {vendor:?} {version}"))
                    .hint("correct server.engine in host.toml (and the cluster's engine in highwater.yaml), or the server"))
            }
            _ => Ok(()),
        }
    }
}

/// How backups are taken.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct BackupConfig {
    /// zstd level, 1 to 19, or -1 to -7 for faster and larger. Default 1.
    pub compression_level: i32,
    /// Compression threads. Default 0: one for each processor, at most 8.
    pub threads: usize,
    /// Files the tool copies at once. Default 2.
    pub tool_parallel: u8,
    /// Uploads in flight. Default 4.
    pub uploads: usize,
    /// Compressed data held in memory while S3 is slow, MiB. Default 64, at most 1024.
    pub buffer_mib: usize,
    /// The most MiB read from the tool a second; 0 is no limit. Default 0.
    pub max_rate_mib_s: u32,
    /// Niceness of tool and helper, 0 to 19. Default 10.
    pub nice: u8,
    /// I/O class of the tool: `best-effort` (lowest priority), `idle` or `none`. Default `best-effort`.
    pub ionice: IoNice,
    /// Seconds for counting rows before, and again after, the tool runs; smallest tables first. 0 counts none. Default 30.
    pub row_count_budget_s: u32,
    /// Tables `schema.table` whose rows are hashed before and after the tool runs.
    pub row_hash_tables: Vec<String>,
    /// XtraBackup only: `--lock-ddl`'s value, `ON` (default), `OFF` or `REDUCED`.
    pub lock_ddl: Option<String>,
}

impl Default for BackupConfig {
    fn default() -> Self {
        Self {
            compression_level: 1,
            threads: 0,
            tool_parallel: 2,
            uploads: 4,
            buffer_mib: 64,
            max_rate_mib_s: 0,
            nice: 10,
            ionice: IoNice::BestEffort,
            row_count_budget_s: 30,
            row_hash_tables: Vec::new(),
            lock_ddl: None,
        }
    }
}

/// I/O scheduling of the tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum IoNice {
    /// As the parent's.
    None,
    /// Best effort, priority 7 (the lowest).
    BestEffort,
    /// Only when nobody else wants the disk.
    Idle,
}

/// How restores are made.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct RestoreConfig {
    /// Ranged GETs in flight. Default 4.
    pub downloads: usize,
    /// Decompressing and writing threads. Default 0: one for each processor, at most 8.
    pub threads: usize,
    /// `--use-memory` for prepare, MiB. Default 0: from the redo in the backup and the machine's free memory.
    pub prepare_memory_mib: u64,
    /// Disk space to leave free on the target's filesystem, MiB. Default 1024.
    pub keep_free_mib: u64,
}

impl Default for RestoreConfig {
    fn default() -> Self {
        Self { downloads: 4, threads: 0, prepare_memory_mib: 0, keep_free_mib: 1024 }
    }
}

/// What drills check, beyond what every drill checks.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DrillConfig {
    /// The unprivileged user that the isolated server runs as when the helper runs as root. Default `mysql`.
    pub user: String,
    /// Seconds for the server to come up. Default 600.
    pub start_timeout_s: u64,
    /// Seconds for one check's statement. Default 3600.
    pub statement_timeout_s: u64,
    /// Buffer pool of the isolated server, MiB. Default 256.
    pub buffer_pool_mib: u64,
    /// Run CHECK TABLE on every table. Default true.
    pub check_tables: bool,
    /// How far a row count may leave the span of the source's two counts, in per cent, where the table was written
    /// during the backup and the server kept no exact account. Default 5.
    pub row_count_slack_percent: u32,
    /// Columns whose newest value must be young: `[[drill.newest]]`.
    pub newest: Vec<NewestRow>,
    /// The user's own checks: `[[drill.assert]]`.
    pub assert: Vec<Assertion>,
    /// More options for the isolated server, for data that needs them (`--innodb-…`, `--plugin-…` of a keyring).
    pub server_options: Vec<String>,
}

impl Default for DrillConfig {
    fn default() -> Self {
        Self {
            user: "mysql".into(),
            start_timeout_s: 600,
            statement_timeout_s: 3600,
            buffer_pool_mib: 256,
            check_tables: true,
            row_count_slack_percent: 5,
            newest: Vec::new(),
            assert: Vec::new(),
            server_options: Vec::new(),
        }
    }
}

/// The newest value of a column must be at most so old, measured from the restore point.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewestRow {
    /// `schema.table`.
    pub table: String,
    /// A DATETIME or TIMESTAMP column, UTC.
    pub column: String,
    /// Seconds.
    pub max_age_s: u64,
}

/// One SQL assertion: a query of one row and one column, and what it must give.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Assertion {
    /// Its name in the report.
    pub name: String,
    /// One SELECT of one value.
    pub sql: String,
    /// How the value is compared. Default `=`.
    #[serde(default)]
    pub compare: Compare,
    /// What it is compared with; numbers are compared as numbers.
    pub expect: String,
}

/// Comparisons of an assertion.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize)]
pub enum Compare {
    /// Equal.
    #[default]
    #[serde(rename = "=")]
    Equal,
    /// Not equal.
    #[serde(rename = "!=")]
    NotEqual,
    /// Less.
    #[serde(rename = "<")]
    Less,
    /// Less or equal.
    #[serde(rename = "<=")]
    LessOrEqual,
    /// Greater.
    #[serde(rename = ">")]
    Greater,
    /// Greater or equal.
    #[serde(rename = ">=")]
    GreaterOrEqual,
}

/// How the primary is replaced.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromoteConfig {
    /// The primary's data directory. It is renamed, so it must not itself be a mount point.
    pub datadir: PathBuf,
    /// How the server is stopped, started and asked for its state.
    pub service: ServiceConfig,
    /// Seconds for the server to stop. Default 600.
    #[serde(default = "default_service_timeout_s")]
    pub stop_timeout_s: u64,
    /// Seconds for the server to start and pass its checks. Default 600.
    #[serde(default = "default_service_timeout_s")]
    pub start_timeout_s: u64,
    /// Checks run on the new primary before the promotion counts: `[[promote.assert]]`.
    #[serde(default)]
    pub assert: Vec<Assertion>,
    /// Binlogs lying outside the data directory are moved aside with it: the directory of `log_bin`, if so.
    pub binlog_dir: Option<PathBuf>,
}

fn default_service_timeout_s() -> u64 {
    600
}

/// Service control: a systemd unit, or three commands (argv, no shell).
#[derive(Debug, Clone, Deserialize)]
#[serde(untagged)]
pub enum ServiceConfig {
    /// `service = { unit = "mariadb" }`
    Systemd(SystemdService),
    /// `service = { stop = ["…"], start = ["…"], status = ["…"] }`
    Commands(CommandService),
}

/// A systemd unit.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SystemdService {
    /// Its name, like `mariadb` or `mysqld`.
    pub unit: String,
}

/// Three commands, each an argv. `status` exits 0 while the server runs and 3 while it is stopped, as systemctl's does.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CommandService {
    /// Ends the server; returns when it has ended.
    pub stop: Vec<String>,
    /// Starts the server; may return before it answers.
    pub start: Vec<String>,
    /// 0: running; 3: stopped; anything else: unknown, which stops a promotion.
    pub status: Vec<String>,
}

impl Config {
    /// Reads and checks the file.
    ///
    /// # Errors
    /// `Config`, naming the key and line.
    pub fn load(path: &Path) -> Result<Self> {
        let text = std::fs::read_to_string(path).context(Failure::Config, || format!("read the configuration {}", path.display()))?;
        let config: Self = toml::from_str(&text).context(Failure::Config, || format!("parse the configuration {}", path.display()))?;
        config.check().map_err(|reason| Error::new(Failure::Config, format!("the configuration {}: {reason}", path.display())))?;
        Ok(config)
    }

    fn check(&self) -> std::result::Result<(), String> {
        let rule = |holds: bool, reason: &str| if holds { Ok(()) } else { Err(reason.to_owned()) };
        let b = &self.backup;
        rule(
            (-7..=19).contains(&b.compression_level) && b.compression_level != 0,
            "backup.compression_level must be 1 to 19, or -1 to -7",
        )?;
        rule(b.threads <= 64 && self.restore.threads <= 64, "threads must be at most 64")?;
        rule((1..=16).contains(&b.tool_parallel), "backup.tool_parallel must be 1 to 16")?;
        rule((1..=32).contains(&b.uploads), "backup.uploads must be 1 to 32")?;
        rule((1..=32).contains(&self.restore.downloads), "restore.downloads must be 1 to 32")?;
        rule((16..=1024).contains(&b.buffer_mib), "backup.buffer_mib must be 16 to 1024")?;
        rule(b.nice <= 19, "backup.nice must be 0 to 19")?;
        rule(b.lock_ddl.as_deref().is_none_or(|v| matches!(v, "ON" | "OFF" | "REDUCED")), "backup.lock_ddl must be ON, OFF or REDUCED")?;
        rule(
            b.row_hash_tables.iter().all(|t| t.split_once('.').is_some_and(|(s, t)| !s.is_empty() && !t.is_empty())),
            "backup.row_hash_tables must hold schema.table",
        )?;
        rule(self.state_dir.is_absolute(), "state_dir must be an absolute path")?;
        if let Some(promote) = &self.promote {
            rule(promote.datadir.is_absolute() && promote.datadir.parent().is_some(), "promote.datadir must be an absolute path")?;
            if let ServiceConfig::Commands(c) = &promote.service {
                rule([&c.stop, &c.start, &c.status].iter().all(|argv| !argv.is_empty()), "promote.service needs stop, start and status")?;
            }
        }
        Ok(())
    }
}
