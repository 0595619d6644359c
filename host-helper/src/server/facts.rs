//! What the server says of itself, gathered once before and once after a backup.

use super::{Server, literal};
use crate::error::{Context, Error, Result};
use highwater_core::identity::{BinlogPosition, ServerSettings, Vendor, Version};
use highwater_core::{Failure, Lsn};
use std::path::PathBuf;

/// A server's facts. Nothing in them is secret.
#[derive(Debug, Clone)]
pub struct ServerFacts {
    /// MariaDB or MySQL.
    pub vendor: Vendor,
    /// Its version.
    pub version: Version,
    /// MySQL's `server_uuid`, MariaDB's `server_uid`.
    pub server_uid: String,
    /// Its data directory, absolute.
    pub datadir: PathBuf,
    /// Settings that a restored server must share.
    pub settings: ServerSettings,
    /// Where its binlog stands; absent when it writes none.
    pub binlog: Option<BinlogPosition>,
    /// The end of its redo.
    pub lsn: Lsn,
    /// How much redo it keeps before it overwrites the oldest, bytes.
    pub redo_capacity_bytes: u64,
    /// Its tablespaces' files, bytes; absent when it does not say. For progress only.
    pub data_bytes: Option<u64>,
    /// Seconds since it started.
    pub uptime_s: u64,
}

fn missing(what: &str) -> Error {
    Error::new(Failure::Server, format!("the server does not say its {what}"))
}

impl Server {
    /// Gathers the facts.
    ///
    /// # Errors
    /// `Server` when it does not answer or leaves one out; `Precondition` when a privilege is lacking.
    pub async fn facts(&mut self) -> Result<ServerFacts> {
        let (vendor, version) = self.vendor_and_version().await?;
        let uid = match vendor {
            Vendor::Mariadb => "server_uid",
            Vendor::Mysql => "server_uuid",
        };
        Ok(ServerFacts {
            vendor,
            version,
            server_uid: self.required_variable(uid).await?,
            datadir: self.required_variable("datadir").await?.into(),
            settings: ServerSettings {
                innodb_page_size: self.number("innodb_page_size").await?,
                lower_case_table_names: self.number("lower_case_table_names").await?,
                encrypted: self.encrypted(vendor).await?,
            },
            binlog: self.binlog_position(vendor, version).await?,
            lsn: self.lsn().await?,
            redo_capacity_bytes: self.redo_capacity(vendor).await?,
            data_bytes: self.data_bytes(vendor).await,
            uptime_s: self.status("Uptime").await?.and_then(|s| s.parse().ok()).ok_or_else(|| missing("uptime"))?,
        })
    }

    /// The server's family and version.
    ///
    /// # Errors
    /// `Server`.
    pub async fn vendor_and_version(&mut self) -> Result<(Vendor, Version)> {
        let text = self.text("SELECT VERSION()").await?.ok_or_else(|| missing("version"))?;
        let vendor = if text.to_ascii_lowercase().contains("mariadb") { Vendor::Mariadb } else { Vendor::Mysql };
        Ok((vendor, text.parse().context(Failure::Server, || format!("read the server's version {text:?}"))?))
    }

    async fn required_variable(&mut self, name: &str) -> Result<String> {
        self.variable(name).await?.filter(|v| !v.is_empty()).ok_or_else(|| missing(name))
    }

    async fn number<T: std::str::FromStr>(&mut self, name: &str) -> Result<T> {
        self.required_variable(name).await?.parse().map_err(|_| missing(name))
    }

    /// The end of the server's redo log now.
    ///
    /// # Errors
    /// `Server` when it does not answer or does not say.
    pub async fn lsn(&mut self) -> Result<Lsn> {
        // MariaDB; MySQL from 8.0.30 on; older MySQL only in its monitor's output.
        for name in ["Innodb_lsn_current", "Innodb_redo_log_current_lsn"] {
            if let Some(text) = self.status(name).await? {
                return text.parse().context(Failure::Server, || format!("read {name}"));
            }
        }
        let rows = self.texts("SHOW ENGINE INNODB STATUS").await?;
        let monitor = rows.into_iter().next().and_then(|row| row.into_iter().nth(2).flatten()).unwrap_or_default();
        let line = monitor.lines().find_map(|l| l.strip_prefix("Log sequence number")).ok_or_else(|| missing("LSN"))?;
        line.trim().parse().context(Failure::Server, || "read the LSN of SHOW ENGINE INNODB STATUS".into())
    }

    async fn redo_capacity(&mut self, vendor: Vendor) -> Result<u64> {
        if vendor == Vendor::Mysql
            && let Some(capacity) = self.variable("innodb_redo_log_capacity").await?
        {
            return capacity.parse().map_err(|_| missing("innodb_redo_log_capacity"));
        }
        let size: u64 = self.number("innodb_log_file_size").await?;
        let files = self.variable("innodb_log_files_in_group").await?.and_then(|n| n.parse().ok()).unwrap_or(1);
        Ok(size.saturating_mul(files))
    }

    /// Whether any tablespace or log is encrypted, or new ones will be.
    async fn encrypted(&mut self, vendor: Vendor) -> Result<bool> {
        let (switches, count): (&[&str], _) = match vendor {
            Vendor::Mariadb => (
                &["innodb_encrypt_log", "innodb_encrypt_tables", "aria_encrypt_tables", "encrypt_binlog"],
                "SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES_ENCRYPTION WHERE MIN_KEY_VERSION > 0",
            ),
            Vendor::Mysql => (
                &["innodb_redo_log_encrypt", "innodb_undo_log_encrypt", "default_table_encryption", "binlog_encryption"],
                "SELECT COUNT(*) FROM information_schema.INNODB_TABLESPACES WHERE ENCRYPTION = 'Y'",
            ),
        };
        for name in switches {
            if self.variable(name).await?.is_some_and(|v| !matches!(v.to_ascii_uppercase().as_str(), "OFF" | "0" | "")) {
                return Ok(true);
            }
        }
        Ok(self.text(count).await?.is_none_or(|n| n != "0"))
    }

    async fn data_bytes(&mut self, vendor: Vendor) -> Option<u64> {
        let table = match vendor {
            Vendor::Mariadb => "INNODB_SYS_TABLESPACES",
            Vendor::Mysql => "INNODB_TABLESPACES",
        };
        let sum = self.text(&format!("SELECT CAST(SUM(FILE_SIZE) AS UNSIGNED) FROM information_schema.{table}")).await;
        sum.ok().flatten().and_then(|n| n.parse().ok())
    }

    /// Where the binlog stands; `None` when the server writes none.
    ///
    /// # Errors
    /// `Server` when it does not answer; `Precondition` when BINLOG MONITOR or REPLICATION CLIENT is lacking.
    pub async fn binlog_position(&mut self, vendor: Vendor, version: Version) -> Result<Option<BinlogPosition>> {
        let statement = match vendor {
            Vendor::Mysql if version.series() >= (8, 4) => "SHOW BINARY LOG STATUS",
            _ => "SHOW MASTER STATUS",
        };
        let rows = self.texts(statement).await?;
        let Some(row) = rows.into_iter().next() else { return Ok(None) };
        let mut fields = row.into_iter().map(Option::unwrap_or_default);
        let (file, position, executed) =
            (fields.next().unwrap_or_default(), fields.next().unwrap_or_default(), fields.nth(2).unwrap_or_default());
        let position = position.parse().map_err(|_| missing("binlog position"))?;
        let gtid = match vendor {
            Vendor::Mariadb => self.variable("gtid_binlog_pos").await?.unwrap_or_default(),
            Vendor::Mysql => executed.split_whitespace().collect(),
        };
        Ok(Some(BinlogPosition { file, position, gtid }))
    }

    /// MariaDB: the GTID position that the server's own binlog has at a place; `None` when the place is not the start of
    /// an event there, or the file is gone.
    ///
    /// # Errors
    /// `Server`.
    pub async fn gtid_at(&mut self, at: &BinlogPosition) -> Result<Option<String>> {
        self.text(&format!("SELECT BINLOG_GTID_POS({}, {})", literal(&at.file), at.position)).await
    }

    /// MySQL: whether the server has executed every transaction of a GTID set.
    ///
    /// # Errors
    /// `Server`.
    pub async fn has_executed(&mut self, gtid_set: &str) -> Result<bool> {
        Ok(self.text(&format!("SELECT GTID_SUBSET({}, @@GLOBAL.gtid_executed)", literal(gtid_set))).await?.as_deref() == Some("1"))
    }
}
