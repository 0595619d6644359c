//! Which server, which data directory: what must stay the same for a chain to go on.

use crate::ids::{HostId, IdError, text_serde};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// The family of a server: decides the tool and the identity rules.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Vendor {
    /// MariaDB Server, backed up by mariadb-backup.
    Mariadb,
    /// MySQL or Percona Server, backed up by Percona XtraBackup.
    Mysql,
}

/// The backup tool.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ToolName {
    /// MariaDB's `mariadb-backup` (`mariabackup`).
    MariadbBackup,
    /// Percona's `xtrabackup`.
    Xtrabackup,
}

impl fmt::Display for ToolName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::MariadbBackup => "mariadb-backup",
            Self::Xtrabackup => "xtrabackup",
        })
    }
}

/// A server's or tool's version: `10.11.19`, `8.0.36-28`. The part after the third number is not compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version {
    /// `10` of 10.11.19.
    pub major: u16,
    /// `11` of 10.11.19.
    pub minor: u16,
    /// `19` of 10.11.19.
    pub patch: u16,
}

impl Version {
    /// Major and minor: releases of one series share their formats.
    pub fn series(self) -> (u16, u16) {
        (self.major, self.minor)
    }
}

impl FromStr for Version {
    type Err = IdError;
    /// Reads the leading `N.N.N` and ignores what follows, as in `10.11.19-MariaDB-0+deb12u1`.
    fn from_str(s: &str) -> Result<Self, IdError> {
        let parsed = (|| {
            let numbers = s.split(|c: char| !c.is_ascii_digit() && c != '.').next()?;
            let mut parts = numbers.split('.').map(|n| n.parse::<u16>().ok());
            Some(Self { major: parts.next()??, minor: parts.next()??, patch: parts.next()?? })
        })();
        parsed.ok_or_else(|| IdError { what: "version", text: s.chars().take(80).collect(), expected: "N.N.N, like 10.11.19" })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.major, self.minor, self.patch)
    }
}
text_serde!(Version);

/// A family and a series of servers: `mariadb-10.11`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Engine {
    /// The family.
    pub vendor: Vendor,
    /// Major and minor.
    pub series: (u16, u16),
}

impl Engine {
    /// Whether a server is of it.
    pub fn is(self, vendor: Vendor, version: Version) -> bool {
        (self.vendor, self.series) == (vendor, version.series())
    }
}

impl FromStr for Engine {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let parsed = (|| {
            let (vendor, series) = s.split_once('-')?;
            let vendor = [("mariadb", Vendor::Mariadb), ("mysql", Vendor::Mysql)].into_iter().find(|(name, _)| *name == vendor)?.1;
            let (major, minor) = series.split_once('.')?;
            let number = |n: &str| n.bytes().all(|b| b.is_ascii_digit()).then(|| n.parse().ok()).flatten();
            Some(Self { vendor, series: (number(major)?, number(minor)?) })
        })();
        parsed.ok_or_else(|| IdError {
            what: "engine",
            text: s.chars().take(80).collect(),
            expected: "mariadb-N.N or mysql-N.N, like mariadb-10.11",
        })
    }
}

impl fmt::Display for Engine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let vendor = match self.vendor {
            Vendor::Mariadb => "mariadb",
            Vendor::Mysql => "mysql",
        };
        write!(f, "{vendor}-{}.{}", self.series.0, self.series.1)
    }
}
text_serde!(Engine);

/// Where a backup was taken. Recorded in its manifest and compared before the next one of its chain.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SourceIdentity {
    /// The host, as its configuration names it.
    pub host_id: HostId,
    /// The server's family.
    pub vendor: Vendor,
    /// The server's version.
    pub version: Version,
    /// MySQL's `server_uuid`, or MariaDB's `server_uid`. It tells instances apart, but a copied data
    /// directory on the same host and port can keep MariaDB's.
    pub server_uid: String,
    /// The data directory's own mark: device-independent inode and birth time of `ibdata1`. It changes
    /// when a data directory is swapped, re-initialised or copied.
    pub datadir_id: String,
}

/// A position in the server's binary log at which a backup is consistent.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BinlogPosition {
    /// Binlog file name, without directory.
    pub file: String,
    /// Byte offset in it.
    pub position: u64,
    /// MariaDB: the GTID position, `0-1-417434`. MySQL: the executed GTID set. Empty if GTIDs are off.
    pub gtid: String,
}

/// Settings of the source that a restored server must share, or data is read wrongly.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ServerSettings {
    /// `innodb_page_size`, bytes.
    pub innodb_page_size: u32,
    /// `lower_case_table_names`.
    pub lower_case_table_names: u8,
    /// Whether any tablespace or log is encrypted at rest. The keys are not in the backup.
    pub encrypted: bool,
}
