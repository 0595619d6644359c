//! The running primary: what it is, whether it may be replaced at all, and the fence around it.

use crate::error::{Context, Error, Result};
use crate::server::Server;
use highwater_core::Failure;
use highwater_core::identity::{BinlogPosition, Vendor, Version};
use highwater_core::plan::PlanServer;
use highwater_core::promotion::{Fence, ReadOnly};
use jiff::Timestamp;
use mysql_async::{Row, Value};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::timeout;

/// The longest that one statement of ours may take on the primary: a fence waits for running writes.
const STATEMENT_LIMIT: Duration = Duration::from_secs(120);

/// A server's global variables, and what follows from them.
pub(super) struct Variables(BTreeMap<String, String>);

impl Variables {
    /// Reads them.
    pub(super) async fn of(server: &mut Server) -> Result<Self> {
        let rows: Vec<(String, String)> = bounded(server.all("SHOW GLOBAL VARIABLES")).await?;
        Ok(Self(rows.into_iter().map(|(name, value)| (name.to_ascii_lowercase(), value)).collect()))
    }

    pub(super) fn get(&self, name: &str) -> &str {
        self.0.get(name).map_or("", String::as_str)
    }

    pub(super) fn is_on(&self, name: &str) -> bool {
        matches!(self.get(name), "ON" | "1")
    }

    pub(super) fn vendor(&self) -> Vendor {
        if self.get("version").contains("MariaDB") { Vendor::Mariadb } else { Vendor::Mysql }
    }

    pub(super) fn version(&self) -> Result<Version> {
        self.get("version").parse().context(Failure::Server, || "read the server's version".into())
    }

    /// A path as the server means it: a relative one lies in the data directory.
    pub(super) fn path(&self, name: &str) -> Option<PathBuf> {
        let value = self.get(name);
        (!value.is_empty()).then(|| Path::new(self.get("datadir")).join(value))
    }

    pub(super) fn read_only(&self) -> ReadOnly {
        ReadOnly {
            read_only: self.is_on("read_only"),
            super_read_only: self.0.contains_key("super_read_only").then(|| self.is_on("super_read_only")),
        }
    }

    /// Whether this server may have its data replaced by what `plan` describes, in `datadir` and `binlog_dir`.
    pub(super) fn fit(&self, plan: &PlanServer, datadir: &Path, binlog_dir: Option<&Path>) -> Result<()> {
        let refuse = |message: String, hint: &str| Err(Error::new(Failure::Precondition, message).hint(hint));
        let version = self.version()?;
        if self.vendor() != plan.vendor || version.series() != plan.version.series() {
            let message =
                format!("the primary runs {:?} {version}, the restored data is of {:?} {}", self.vendor(), plan.vendor, plan.version);
            return refuse(message, "promote on a host that runs the series of the backup");
        }
        if version < plan.version {
            let message = format!("the primary runs {version}, older than {} which wrote the data", plan.version);
            return refuse(message, "upgrade the server to that patch level first");
        }
        for (name, wanted) in [
            ("innodb_page_size", plan.settings.innodb_page_size.to_string()),
            ("lower_case_table_names", plan.settings.lower_case_table_names.to_string()),
        ] {
            if self.get(name) != wanted {
                return refuse(
                    format!("the primary has {name} = {}, the data needs {wanted}", self.get(name)),
                    "set it as the source had it",
                );
            }
        }
        if !same_dir(Path::new(self.get("datadir")), datadir) {
            let message = format!("the server's data directory is {}, promote.datadir says {}", self.get("datadir"), datadir.display());
            return refuse(message, "correct promote.datadir or server.socket");
        }
        for name in [
            "innodb_data_home_dir",
            "innodb_log_group_home_dir",
            "innodb_undo_directory",
            "aria_log_dir_path",
            "innodb_redo_log_archive_dirs",
        ] {
            if let Some(outside) = self.path(name).filter(|p| !within(p, datadir)) {
                let message = format!("{name} lies outside the data directory, at {}", outside.display());
                return refuse(message, "such a layout cannot be exchanged by a rename: restore by hand, or move it inside first");
            }
        }
        if let Some(file) = self.get("innodb_data_file_path").split(';').find(|f| f.starts_with('/')) {
            return refuse(
                format!("innodb_data_file_path names an absolute path, {file}"),
                "move the system tablespace into the data directory first",
            );
        }
        self.fit_binlog(datadir, binlog_dir)
    }

    fn fit_binlog(&self, datadir: &Path, binlog_dir: Option<&Path>) -> Result<()> {
        let refuse = |message: String, hint: &str| Err(Error::new(Failure::Precondition, message).hint(hint));
        let dir = self.is_on("log_bin").then(|| self.path("log_bin_basename")).flatten().and_then(|base| base.parent().map(Path::to_owned));
        match (dir, binlog_dir) {
            (Some(dir), None) if !within(&dir, datadir) => {
                refuse(format!("the binlog lies outside the data directory, in {}", dir.display()), "set promote.binlog_dir to it")
            }
            (Some(dir), Some(configured)) if !same_dir(&dir, configured) => refuse(
                format!("the binlog lies in {}, promote.binlog_dir says {}", dir.display(), configured.display()),
                "correct it, or remove it if that is in the data directory",
            ),
            (None, Some(configured)) => {
                refuse(format!("promote.binlog_dir is {}, but the server writes no binlog", configured.display()), "remove it")
            }
            _ => Ok(()),
        }
    }
}

fn same_dir(a: &Path, b: &Path) -> bool {
    match (a.canonicalize(), b.canonicalize()) {
        (Ok(a), Ok(b)) => a == b,
        _ => false,
    }
}

fn within(path: &Path, datadir: &Path) -> bool {
    // What does not exist (yet) is judged by its name.
    let real = |p: &Path| p.canonicalize().unwrap_or_else(|_| p.components().collect());
    real(path).starts_with(real(datadir))
}

/// Refuses a primary that is itself a replica, or whose tables lie elsewhere by its own account.
pub(super) async fn refuse_entangled(server: &mut Server, variables: &Variables, datadir: &Path) -> Result<()> {
    let status = match (variables.vendor(), variables.version()?.series()) {
        (Vendor::Mariadb, _) => "SHOW ALL SLAVES STATUS",
        (Vendor::Mysql, series) if series < (8, 4) => "SHOW SLAVE STATUS",
        (Vendor::Mysql, _) => "SHOW REPLICA STATUS",
    };
    if bounded(server.first::<Row>(status)).await?.is_some() {
        return Err(Error::new(Failure::Precondition, "this server is itself a replica of another one")
            .hint("promote replaces a primary: stop replication and run RESET REPLICA ALL first, or work on its primary"));
    }
    if variables.vendor() == Vendor::Mysql {
        let sql = "SELECT FILE_NAME FROM information_schema.FILES WHERE FILE_TYPE IN ('TABLESPACE', 'UNDO LOG') AND FILE_NAME LIKE '/%'";
        let files: Vec<String> = bounded(server.all(sql)).await?;
        if let Some(file) = files.iter().find(|f| !within(Path::new(f), datadir)) {
            return Err(Error::new(Failure::Precondition, format!("a tablespace lies outside the data directory, {file}"))
                .hint("tables with DATA DIRECTORY elsewhere cannot be exchanged by a rename: move them inside first"));
        }
    }
    Ok(())
}

/// Makes the primary read-only and closes its binlog: nothing is killed. Running transactions may end; new writes are refused, except
/// those of users with SUPER or READ_ONLY ADMIN on a server without `super_read_only`.
pub(super) async fn fence(server: &mut Server, was: ReadOnly) -> Result<Fence> {
    let variables = Variables::of(server).await?;
    bounded(server.run("SET SESSION lock_wait_timeout = 60")).await?;
    let set = if was.super_read_only.is_some() { "SET GLOBAL super_read_only = ON" } else { "SET GLOBAL read_only = ON" };
    bounded(server.run(set)).await?;
    let mut last = None;
    if variables.is_on("log_bin") {
        bounded(server.run("FLUSH BINARY LOGS")).await?;
        last = Some(binlog_position(server, &variables).await?);
    }
    Ok(Fence { was, last, at: Timestamp::now() })
}

/// Where the server's binlog ends.
pub(super) async fn binlog_position(server: &mut Server, variables: &Variables) -> Result<BinlogPosition> {
    let (status, gtid) = match (variables.vendor(), variables.version()?.series()) {
        (Vendor::Mariadb, _) => ("SHOW MASTER STATUS", "SELECT @@GLOBAL.gtid_binlog_pos"),
        (Vendor::Mysql, series) if series < (8, 2) => ("SHOW MASTER STATUS", "SELECT @@GLOBAL.gtid_executed"),
        (Vendor::Mysql, _) => ("SHOW BINARY LOG STATUS", "SELECT @@GLOBAL.gtid_executed"),
    };
    let row: Option<Row> = bounded(server.first(status)).await?;
    let missing = || Error::new(Failure::Server, format!("`{status}` does not say where the binlog ends"));
    let row = row.ok_or_else(missing)?;
    let file = text(&row, 0).ok_or_else(missing)?;
    let position = text(&row, 1).and_then(|p| p.parse().ok()).ok_or_else(missing)?;
    let gtid: Option<String> = bounded(server.first(gtid)).await?;
    Ok(BinlogPosition { file, position, gtid: gtid.unwrap_or_default().replace('\n', "") })
}

/// Puts `read_only` and `super_read_only` where they were; touches nothing that is so already.
pub(super) async fn set_read_only(server: &mut Server, was: ReadOnly) -> Result<()> {
    let now = Variables::of(server).await?.read_only();
    bounded(server.run("SET SESSION lock_wait_timeout = 60")).await?;
    let on_off = |on| if on { "ON" } else { "OFF" };
    // Turning super_read_only on turns read_only on, turning read_only off turns super_read_only off: so in this order.
    if let Some(wanted) = was.super_read_only.filter(|_| now.super_read_only.is_some() && now.super_read_only != was.super_read_only) {
        bounded(server.run(&format!("SET GLOBAL super_read_only = {}", on_off(wanted)))).await?;
    }
    if now.read_only != was.read_only {
        bounded(server.run(&format!("SET GLOBAL read_only = {}", on_off(was.read_only)))).await?;
    }
    Ok(())
}

/// A statement that is given up after a while: no wait without an end.
pub(super) async fn bounded<T>(statement: impl Future<Output = Result<T>>) -> Result<T> {
    match timeout(STATEMENT_LIMIT, statement).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Failure::Server, format!("the server did not answer a statement within {} s", STATEMENT_LIMIT.as_secs()))
            .hint("a long transaction or a table lock may stand in the way: SHOW PROCESSLIST")),
    }
}

/// A column of a row as text; none for NULL.
pub(super) fn text(row: &Row, column: usize) -> Option<String> {
    match row.as_ref(column)? {
        Value::NULL => None,
        Value::Bytes(bytes) => Some(String::from_utf8_lossy(bytes).into_owned()),
        other => Some(other.as_sql(true).trim_matches('\'').to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_core::identity::ServerSettings;

    fn variables(datadir: &Path, changes: &[(&str, &str)]) -> Variables {
        let base = [
            ("version", "10.11.19-MariaDB-log"),
            ("innodb_page_size", "16384"),
            ("lower_case_table_names", "0"),
            ("innodb_log_group_home_dir", "./"),
            ("innodb_undo_directory", ""),
            ("innodb_data_file_path", "ibdata1:12M:autoextend"),
            ("log_bin", "OFF"),
        ];
        let mut all: BTreeMap<String, String> =
            base.into_iter().chain(changes.iter().copied()).map(|(k, v)| (k.into(), v.into())).collect();
        all.insert("datadir".into(), format!("{}/", datadir.display()));
        Variables(all)
    }

    #[test]
    fn a_primary_that_cannot_be_exchanged_by_a_rename_is_refused_with_the_reason() {
        let root = tempfile::tempdir().unwrap();
        let datadir = root.path().join("data");
        let binlogs = root.path().join("binlogs");
        std::fs::create_dir(&datadir).unwrap();
        std::fs::create_dir(&binlogs).unwrap();
        let plan = PlanServer {
            vendor: Vendor::Mariadb,
            version: "10.11.18".parse().unwrap(),
            settings: ServerSettings { innodb_page_size: 16384, lower_case_table_names: 0, encrypted: false },
        };
        variables(&datadir, &[]).fit(&plan, &datadir, None).unwrap();
        let basename = format!("{}/binlog", binlogs.display());
        let outside = [("log_bin", "ON"), ("log_bin_basename", basename.as_str())];
        variables(&datadir, &outside).fit(&plan, &datadir, Some(&binlogs)).unwrap();
        variables(&datadir, &[("log_bin", "ON"), ("log_bin_basename", "binlog")]).fit(&plan, &datadir, None).unwrap();
        let check = |changes: &[(&str, &str)], binlog_dir: Option<&Path>, expected: &str| {
            let refusal = variables(&datadir, changes).fit(&plan, &datadir, binlog_dir).unwrap_err();
            assert_eq!(refusal.failure, Failure::Precondition);
            assert!(refusal.message.contains(expected) && refusal.hint.is_some(), "{}", refusal.message);
        };
        check(&[("version", "11.4.2-MariaDB")], None, "the primary runs Mariadb 11.4.2");
        check(&[("version", "10.11.17-MariaDB")], None, "older than 10.11.18");
        check(&[("version", "8.0.36")], None, "Mysql 8.0.36");
        check(&[("innodb_page_size", "4096")], None, "innodb_page_size = 4096");
        check(&[("lower_case_table_names", "1")], None, "lower_case_table_names = 1");
        check(&[("innodb_log_group_home_dir", "/srv/redo")], None, "innodb_log_group_home_dir lies outside");
        check(&[("innodb_undo_directory", "/srv/undo")], None, "innodb_undo_directory lies outside");
        check(&[("innodb_data_home_dir", "/srv")], None, "innodb_data_home_dir lies outside");
        check(&[("innodb_data_file_path", "ibdata1:1G;/srv/ibdata2:1G:autoextend")], None, "absolute path");
        check(&outside, None, "the binlog lies outside");
        check(&outside, Some(&datadir), "promote.binlog_dir says");
        check(&[], Some(&binlogs), "writes no binlog");
        assert!(variables(&binlogs, &[]).fit(&plan, &datadir, None).unwrap_err().message.contains("data directory is"));
    }
}
