//! Readers of the small files that the tools leave: checkpoints, info, binlog position, `backup-my.cnf`.
//! Malformed input is an error with a name, never a default: the chain rules rest on these numbers.

use highwater_core::Lsn;
use highwater_core::identity::{BinlogPosition, Version};
use std::collections::BTreeMap;

/// The checkpoints file's names: both tools, and mariadb-backup from 11.1 on.
pub const CHECKPOINTS: [&str; 2] = ["xtrabackup_checkpoints", "mariadb_backup_checkpoints"];
/// The info file's names. It is the last file of a whole stream.
pub const INFO: [&str; 2] = ["xtrabackup_info", "mariadb_backup_info"];
/// The binlog position file's names.
pub const BINLOG_INFO: [&str; 2] = ["xtrabackup_binlog_info", "mariadb_backup_binlog_info"];
/// The redo's names in a backup.
pub const REDO: [&str; 2] = ["ib_logfile0", "xtrabackup_logfile"];
/// The server settings that the backup needs.
pub const BACKUP_CNF: &str = "backup-my.cnf";

/// Why a metadata file of the tool is not usable.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{file}: {reason}")]
pub struct MetadataError {
    /// Which file.
    pub file: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

fn refuse<T>(file: &'static str, reason: impl Into<String>) -> Result<T, MetadataError> {
    Err(MetadataError { file, reason: reason.into() })
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
    /// XtraBackup: how far the server had flushed its redo.
    pub flushed_lsn: Option<Lsn>,
    /// XtraBackup: bytes of memory that prepare will need for the redo, by its own estimate; 0 when it made none.
    pub redo_memory: Option<u64>,
    /// XtraBackup: frames of memory for the same.
    pub redo_frames: Option<u64>,
    /// mariadb-backup: whether the binlog position is recovered by prepare.
    pub recover_binlog_info: Option<bool>,
}

impl Checkpoints {
    /// Reads the file's contents.
    ///
    /// # Errors
    /// A line, a name or a number that is not as the tools write it; a missing LSN.
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        const FILE: &str = "the checkpoints file";
        let mut values = key_values(FILE, bytes, Continuations::Refused)?;
        let mut take = |key: &str| values.remove(key);
        let lsn = |key: &str, value: Option<String>| match value.map(|v| v.parse::<Lsn>()) {
            Some(Ok(lsn)) => Ok(lsn),
            Some(Err(e)) => refuse(FILE, format!("{key}: {e}")),
            None => refuse(FILE, format!("{key} is missing")),
        };
        let number = |key: &str, value: Option<String>| match value.map(|v| v.parse::<u64>()) {
            None => Ok(None),
            Some(Ok(n)) => Ok(Some(n)),
            Some(Err(e)) => refuse(FILE, format!("{key}: {e}")),
        };
        let Some(backup_type) = take("backup_type") else { return refuse(FILE, "backup_type is missing") };
        if !["full-backuped", "incremental", "log-applied", "full-prepared"].contains(&backup_type.as_str()) {
            return refuse(FILE, format!("unknown backup_type {backup_type:?}"));
        }
        let flushed_lsn = take("flushed_lsn");
        Ok(Self {
            backup_type,
            from_lsn: lsn("from_lsn", take("from_lsn"))?,
            to_lsn: lsn("to_lsn", take("to_lsn"))?,
            last_lsn: lsn("last_lsn", take("last_lsn"))?,
            flushed_lsn: flushed_lsn.map(|v| lsn("flushed_lsn", Some(v))).transpose()?,
            redo_memory: number("redo_memory", take("redo_memory"))?,
            redo_frames: number("redo_frames", take("redo_frames"))?,
            recover_binlog_info: match take("recover_binlog_info").as_deref() {
                None => None,
                Some("0") => Some(false),
                Some("1") => Some(true),
                Some(other) => return refuse(FILE, format!("recover_binlog_info is {other:?}")),
            },
        })
    }
}

/// What the info file says, as far as we rest on it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Info {
    /// The tool's version.
    pub tool_version: Version,
    /// The server's version as the tool saw it.
    pub server_version: Version,
    /// Start of an incremental; zero for a full.
    pub innodb_from_lsn: Lsn,
    /// The checkpoint it reaches.
    pub innodb_to_lsn: Lsn,
    /// Whether some tables were left out.
    pub partial: bool,
    /// Whether it is an incremental.
    pub incremental: bool,
    /// The tool's argv, as it recorded it: to prove that it holds no secret.
    pub tool_command: String,
}

impl Info {
    /// Reads the file's contents.
    ///
    /// # Errors
    /// As [`Checkpoints::parse`].
    pub fn parse(bytes: &[u8]) -> Result<Self, MetadataError> {
        const FILE: &str = "the info file";
        // A MySQL GTID set in binlog_pos runs over several lines.
        let values = key_values(FILE, bytes, Continuations::Joined)?;
        let get = |key: &str| values.get(key).map_or_else(|| refuse(FILE, format!("{key} is missing")), |v| Ok(v.as_str()));
        let wrong = |key: &'static str| move |e: highwater_core::ids::IdError| MetadataError { file: FILE, reason: format!("{key}: {e}") };
        let flag = |key: &str| match get(key)? {
            "Y" => Ok(true),
            "N" => Ok(false),
            other => refuse(FILE, format!("{key} is {other:?}, neither Y nor N")),
        };
        Ok(Self {
            tool_version: get("tool_version")?.parse().map_err(wrong("tool_version"))?,
            server_version: get("server_version")?.parse().map_err(wrong("server_version"))?,
            innodb_from_lsn: get("innodb_from_lsn")?.parse().map_err(wrong("innodb_from_lsn"))?,
            innodb_to_lsn: get("innodb_to_lsn")?.parse().map_err(wrong("innodb_to_lsn"))?,
            partial: flag("partial")?,
            incremental: flag("incremental")?,
            tool_command: get("tool_command")?.to_owned(),
        })
    }
}

/// Reads the binlog position file: `file TAB position [TAB gtid]`; a MySQL GTID set runs over several lines.
///
/// # Errors
/// Another shape.
pub fn parse_binlog_info(bytes: &[u8]) -> Result<BinlogPosition, MetadataError> {
    const FILE: &str = "the binlog position file";
    let text = utf8(FILE, bytes)?;
    let mut fields = text.splitn(3, '\t');
    let file = fields.next().unwrap_or_default().trim();
    if file.is_empty() || file.contains(|c: char| c == '/' || c.is_whitespace() || c.is_control()) {
        return refuse(FILE, format!("{:?} is not a binlog file's name", short(file)));
    }
    let position = fields.next().unwrap_or_default().trim_end();
    let Some(position) = plain_number(position) else { return refuse(FILE, format!("{:?} is not a position", short(position))) };
    let gtid: String = fields.next().unwrap_or_default().split_whitespace().collect();
    if let Some(odd) = gtid.chars().find(|c| !c.is_ascii_alphanumeric() && !"-:,_".contains(*c)) {
        return refuse(FILE, format!("{odd:?} is not part of a GTID"));
    }
    Ok(BinlogPosition { file: file.to_owned(), position, gtid })
}

/// Reads `backup-my.cnf`'s `[mysqld]` section.
///
/// # Errors
/// Another shape.
pub fn parse_backup_cnf(bytes: &[u8]) -> Result<BTreeMap<String, String>, MetadataError> {
    const FILE: &str = BACKUP_CNF;
    let mut in_section = false;
    let mut values = BTreeMap::new();
    for line in utf8(FILE, bytes)?.lines().map(str::trim).filter(|l| !l.is_empty() && !l.starts_with('#')) {
        if let Some(section) = line.strip_prefix('[') {
            in_section = section == "mysqld]";
            continue;
        }
        let (key, value) = line.split_once('=').unwrap_or((line, ""));
        if in_section && values.insert(key.trim().replace('-', "_"), value.trim().to_owned()).is_some() {
            return refuse(FILE, format!("{} is given twice", short(key)));
        }
    }
    match values.get("innodb_page_size").map(|v| plain_number(v)) {
        Some(Some(_)) => Ok(values),
        _ => refuse(FILE, "innodb_page_size is missing or not a number"),
    }
}

#[derive(PartialEq)]
enum Continuations {
    Refused,
    Joined,
}

fn key_values(file: &'static str, bytes: &[u8], continuations: Continuations) -> Result<BTreeMap<String, String>, MetadataError> {
    let mut values: BTreeMap<String, String> = BTreeMap::new();
    let mut last: Option<String> = None;
    for line in utf8(file, bytes)?.lines().filter(|l| !l.trim().is_empty()) {
        // A value may be empty (`name = `), with or without the last space.
        let pair = line.split_once(" = ").or_else(|| line.strip_suffix(" =").map(|k| (k, "")));
        match (pair, &last) {
            (Some((key, value)), _) => {
                let key = key.trim().to_owned();
                if values.insert(key.clone(), value.trim().to_owned()).is_some() {
                    return refuse(file, format!("{} is given twice", short(&key)));
                }
                last = Some(key);
            }
            (None, Some(key)) if continuations == Continuations::Joined => {
                if let Some(value) = values.get_mut(key) {
                    value.push_str(line.trim());
                }
            }
            (None, _) => return refuse(file, format!("{:?} is not `key = value`", short(line))),
        }
    }
    Ok(values)
}

fn utf8<'a>(file: &'static str, bytes: &'a [u8]) -> Result<&'a str, MetadataError> {
    std::str::from_utf8(bytes).or_else(|e| refuse(file, format!("it is not text: {e}")))
}

fn plain_number(text: &str) -> Option<u64> {
    (!text.is_empty() && text.bytes().all(|b| b.is_ascii_digit())).then(|| text.parse().ok()).flatten()
}

fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const MARIADB: &str =
        "backup_type = incremental\nfrom_lsn = 3851961438\nto_lsn = 3989635331\nlast_lsn = 4370075969\nrecover_binlog_info = 0\n";
    const XTRABACKUP: &str = "backup_type = full-backuped\nfrom_lsn = 0\nto_lsn = 18446744\nlast_lsn = 18446754\nflushed_lsn = 18446754\nredo_memory = 0\nredo_frames = 0\n";

    #[test]
    fn checkpoints_of_both_tools_are_read_whole() {
        let mariadb = Checkpoints::parse(MARIADB.as_bytes()).unwrap();
        assert_eq!((mariadb.from_lsn.get(), mariadb.to_lsn.get(), mariadb.last_lsn.get()), (3851961438, 3989635331, 4370075969));
        assert_eq!((mariadb.recover_binlog_info, mariadb.flushed_lsn), (Some(false), None));
        let xtrabackup = Checkpoints::parse(XTRABACKUP.as_bytes()).unwrap();
        assert_eq!((xtrabackup.backup_type.as_str(), xtrabackup.flushed_lsn), ("full-backuped", Some(Lsn::new(18446754))));
        assert_eq!((xtrabackup.redo_memory, xtrabackup.redo_frames), (Some(0), Some(0)));
    }

    #[test]
    fn malformed_checkpoints_are_refused_by_name() {
        let check = |from: &str, to: &str, expected: &str| {
            let error = Checkpoints::parse(MARIADB.replace(from, to).as_bytes()).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        };
        check("to_lsn = 3989635331\n", "", "to_lsn is missing");
        check("3989635331", "-5", "\"-5\" is not a LSN");
        check("3989635331", "", "\"\" is not a LSN");
        check("3989635331", "18446744073709551616", "is not a LSN");
        check("incremental", "delta", "unknown backup_type \"delta\"");
        check("to_lsn", "from_lsn", "from_lsn is given twice");
        check("to_lsn = ", "to_lsn: ", "is not `key = value`");
        check("info = 0", "info = no", "recover_binlog_info is \"no\"");
        assert!(Checkpoints::parse(b"").is_err());
        assert!(Checkpoints::parse(b"\xff\xfe").is_err());
    }

    #[test]
    fn binlog_positions_of_both_servers_are_read() {
        let check = |text: &str, file: &str, position: u64, gtid: &str| {
            let expected = BinlogPosition { file: file.into(), position, gtid: gtid.into() };
            assert_eq!(parse_binlog_info(text.as_bytes()).unwrap(), expected);
        };
        check("binlog.000001\t1015024152\t0-33060-417434\n", "binlog.000001", 1015024152, "0-33060-417434");
        check("binlog.000002\t325\t\n", "binlog.000002", 325, "");
        check("binlog.000002\t157\n", "binlog.000002", 157, "");
        check(
            "binlog.000003\t197\t3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,\n7c9e6679-7425-40de-944b-e07fc1f90ae7:1-7:9\n",
            "binlog.000003",
            197,
            "3e11fa47-71ca-11e1-9e33-c80aa9429562:1-5,7c9e6679-7425-40de-944b-e07fc1f90ae7:1-7:9",
        );
        for bad in ["", "\n", "binlog.000001", "binlog.000001\tx\t0-1-1", "../b\t4\t", "b\t-4\t", "b\t4\t0-1-1'; DROP"] {
            assert!(parse_binlog_info(bad.as_bytes()).is_err(), "{bad:?}");
        }
    }

    #[test]
    fn info_is_read_with_a_gtid_set_over_several_lines() {
        let text = "uuid = 8f03c650\nname = \ntool_name = xtrabackup\ntool_command = --backup --password=... --stream=xbstream\n\
            tool_version = 8.0.35-31\nibbackup_version = 8.0.35-31\nserver_version = 8.0.35\nstart_time = 2026-11-22 12:02:15\n\
            end_time = 2026-11-22 12:02:15\nlock_time = 1\nbinlog_pos = filename 'binlog.000003', position '197', GTID of the last change '3e11fa47:1-5,\n\
            7c9e6679:1-7'\ninnodb_from_lsn = 0\ninnodb_to_lsn = 44760\npartial = N\nincremental = N\nformat = xbstream\ncompressed = N\nencrypted = N\n";
        let info = Info::parse(text.as_bytes()).unwrap();
        assert_eq!((info.tool_version.to_string().as_str(), info.innodb_to_lsn.get(), info.partial), ("8.0.35", 44760, false));
        assert!(Info::parse(text.replace("partial = N", "partial = maybe").as_bytes()).is_err());
        assert!(Info::parse(text.replace("innodb_to_lsn = 44760\n", "").as_bytes()).is_err());
    }

    #[test]
    fn backup_cnf_needs_the_page_size() {
        let cnf = parse_backup_cnf(b"# made\n\n[mysqld]\ninnodb_page_size=16384\ninnodb-undo-tablespaces=0\n").unwrap();
        assert_eq!(cnf.get("innodb_undo_tablespaces").map(String::as_str), Some("0"));
        assert!(parse_backup_cnf(b"[mysqld]\ninnodb_page_size=\n").is_err());
        assert!(parse_backup_cnf(b"[other]\ninnodb_page_size=16384\n").is_err());
    }

    proptest::proptest! {
        #[test]
        fn nothing_panics_the_readers(bytes: Vec<u8>, text in "([a-z_]{0,12}( = |\t|=|)[0-9a-zN'.:-]{0,12}\n){0,12}") {
            for input in [&bytes[..], text.as_bytes()] {
                let _ = (Checkpoints::parse(input), Info::parse(input), parse_binlog_info(input), parse_backup_cnf(input));
            }
        }
    }
}
