//! The examiner: asks the isolated server, judges the answers, and notes every check. A check that cannot run has failed (I5).

use crate::config::DrillConfig;
use crate::drill::IsolatedServer;
use crate::error::{Error, Result};
use crate::server::Server;
use crate::shortage::Shortage;
use crate::signal::Cancel;
use crate::small;
use crate::tool::{Tool, files};
use highwater_core::Failure;
use highwater_core::drill::{Check, CheckKind, Outcome};
use highwater_core::identity::{BinlogPosition, Vendor};
use highwater_core::plan::RestorePlanV1;
use mysql_async::{FromRowError, Row, prelude::FromRow};
use std::io::{BufRead, BufReader};
use std::path::Path;
use std::time::{Duration, Instant};

/// What was found: as it had to be, or not.
pub(crate) type Finding = std::result::Result<String, String>;

/// A check, from what was found and when it began.
pub(crate) fn check(kind: CheckKind, subject: impl Into<String>, expected: impl Into<String>, finding: Finding, began: Instant) -> Check {
    let (outcome, found) = match finding {
        Ok(found) => (Outcome::Passed, found),
        Err(found) => (Outcome::Failed, found),
    };
    let check = Check { kind, subject: subject.into(), outcome, expected: expected.into(), found, seconds: began.elapsed().as_secs_f64() };
    if outcome == Outcome::Failed {
        tracing::info!(kind = ?check.kind, subject = check.subject, expected = check.expected, found = check.found, "a check failed");
    }
    check
}

/// Asks one isolated server. A statement that fails or takes too long costs its own check, and no other.
pub(crate) struct Examiner<'a> {
    pub(crate) server: &'a IsolatedServer,
    pub(crate) vendor: Vendor,
    pub(crate) config: &'a DrillConfig,
    pub(crate) cancel: &'a Cancel,
    connection: Option<Server>,
    pub(crate) checks: Vec<Check>,
}

impl<'a> Examiner<'a> {
    pub(crate) fn new(server: &'a IsolatedServer, vendor: Vendor, config: &'a DrillConfig, cancel: &'a Cancel) -> Self {
        Self { server, vendor, config, cancel, connection: None, checks: Vec::new() }
    }

    /// Has `work` done on a connection, within the time for one statement.
    ///
    /// # Errors
    /// Outer: `Interrupted`, which ends the drill. Inner: why the answer is not there, for the report.
    pub(crate) async fn with<T>(&mut self, work: impl AsyncFnOnce(&mut Server) -> Result<T>) -> Result<std::result::Result<T, String>> {
        let limit = Duration::from_secs(self.config.statement_timeout_s.max(1));
        // Taken out: whatever ends this early leaves no half-read connection behind.
        let connection = self.connection.take();
        let answer = tokio::select! {
            answer = tokio::time::timeout(limit, converse(self.server, self.vendor, limit, connection, work)) => answer,
            _ = self.cancel.cancelled() => return Err(self.interrupted()),
        };
        Ok(match answer {
            Err(_) => Err(format!("could not run: no answer within {} s", limit.as_secs())),
            Ok(Err(error)) => Err(format!("could not run: {}", error.chain())),
            Ok(Ok((connection, value))) => {
                self.connection = Some(connection);
                Ok(value)
            }
        })
    }

    /// The rows of one statement.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub(crate) async fn ask<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<std::result::Result<Vec<T>, String>> {
        let rows = self.with(async |connection| connection.all::<Row>(sql).await).await?;
        let typed = |rows: Vec<Row>| rows.into_iter().map(T::from_row_opt).collect::<std::result::Result<_, FromRowError>>();
        Ok(rows.and_then(|rows| typed(rows).map_err(|e| format!("could not be read: {e}"))))
    }

    /// The one row of a statement.
    ///
    /// # Errors
    /// As [`with`](Self::with).
    pub(crate) async fn ask_one<T: FromRow + Send + 'static>(&mut self, sql: &str) -> Result<std::result::Result<T, String>> {
        Ok(self.ask::<T>(sql).await?.and_then(|rows| rows.into_iter().next().ok_or_else(|| "could not run: no row came back".to_owned())))
    }

    /// Notes a check.
    pub(crate) fn note(
        &mut self,
        kind: CheckKind,
        subject: impl Into<String>,
        expected: impl Into<String>,
        finding: Finding,
        began: Instant,
    ) {
        self.checks.push(check(kind, subject, expected, finding, began));
    }

    fn interrupted(&self) -> Error {
        Error::new(Failure::Interrupted, format!("the drill was ended by {} during its checks", self.cancel.reason().unwrap_or("a signal")))
    }

    /// The server answers, in the version it should have, and its redo reached the restore point.
    ///
    /// # Errors
    /// `Interrupted`.
    pub(crate) async fn server_up(&mut self, plan: &RestorePlanV1) -> Result<()> {
        let began = Instant::now();
        let (major, minor) = plan.server.version.series();
        let answer = self.ask_one::<(String,)>("SELECT VERSION()").await?;
        let finding = answer.and_then(|(version,)| match version.parse::<highwater_core::identity::Version>() {
            Ok(v) if v.series() == (major, minor) => Ok(format!("{version} answers")),
            _ => Err(format!("{version} answers")),
        });
        self.note(
            CheckKind::ServerUp,
            "server",
            format!("a server {major}.{minor} answers; no TCP, binlog, events or replication"),
            finding,
            began,
        );

        let began = Instant::now();
        // Before MariaDB 10.8, and in MySQL, redo is written in blocks, and a copy can end a little inside the last one.
        let exact = plan.server.vendor == Vendor::Mariadb && (major, minor) >= (10, 8);
        let to_lsn = plan.steps.last().map(|s| s.to_lsn).unwrap_or(highwater_core::Lsn::ZERO);
        let least = if exact { plan.point.last_lsn } else { to_lsn };
        let answer = self.ask_one::<(String, String, String)>("SHOW ENGINE INNODB STATUS").await?;
        let finding = answer.and_then(|(_, _, status)| match redo_position(&status) {
            Some(lsn) if lsn >= least.get() => Ok(format!("LSN {lsn}")),
            Some(lsn) => Err(format!("LSN {lsn}: older data than the plan's")),
            None => Err("the server does not tell its LSN".into()),
        });
        self.note(CheckKind::RestorePoint, "redo position", format!("LSN {least} or later"), finding, began);
        Ok(())
    }
}

/// Does `work` on `connection`, or a new one.
async fn converse<T>(
    server: &IsolatedServer,
    vendor: Vendor,
    limit: Duration,
    connection: Option<Server>,
    work: impl AsyncFnOnce(&mut Server) -> Result<T>,
) -> Result<(Server, T)> {
    let mut connection = match connection {
        Some(connection) => connection,
        None => {
            let mut new = server.connect().await?;
            // The server ends the statement by itself too, where it can: ours only stops waiting for it.
            new.run(&match vendor {
                Vendor::Mariadb => format!("SET SESSION max_statement_time = {}", limit.as_secs()),
                Vendor::Mysql => format!("SET SESSION max_execution_time = {}", limit.as_millis().min(4_000_000_000)),
            })
            .await?;
            new
        }
    };
    let value = work(&mut connection).await?;
    Ok((connection, value))
}

/// `Log sequence number 4783391535`, from SHOW ENGINE INNODB STATUS of every series.
fn redo_position(status: &str) -> Option<u64> {
    status.lines().find_map(|line| line.trim().strip_prefix("Log sequence number")?.trim().parse().ok())
}

/// What the prepared directory itself says of the restore point, before any server touches it. The LSN alone does not
/// tell restore points apart: with no checkpoint between them several backups share one (measured); the binlog position does.
pub(crate) fn restore_point(datadir: &Path, plan: &RestorePlanV1) -> Vec<Check> {
    let began = Instant::now();
    let Some(last) = plan.steps.last() else { return Vec::new() };
    let finding = match Tool::read_checkpoints(datadir) {
        Err(error) => Err(format!("could not run: {}", error.chain())),
        Ok(found) => {
            let text = format!("{} to LSN {}", found.backup_type, found.to_lsn);
            let prepared = crate::drill::is_prepared(&found, plan.server.vendor);
            if prepared && found.to_lsn == last.to_lsn { Ok(text) } else { Err(text) }
        }
    };
    let expected = format!("prepared to LSN {}", last.to_lsn);
    let mut checks = vec![check(CheckKind::RestorePoint, "checkpoints", expected, finding, began)];
    if let Some(expected) = &plan.point.binlog {
        let began = Instant::now();
        let show = |at: &BinlogPosition| format!("{} {} {}", at.file, at.position, at.gtid).trim_end().to_owned();
        let finding = match read_binlog_info(datadir) {
            Ok(found) if found == *expected => Ok(show(&found)),
            Ok(found) => Err(show(&found)),
            Err(why) => Err(format!("could not run: {why}")),
        };
        checks.push(check(CheckKind::RestorePoint, "binlog position", show(expected), finding, began));
    }
    checks
}

fn read_binlog_info(datadir: &Path) -> std::result::Result<BinlogPosition, String> {
    for name in files::BINLOG_INFO {
        match small::read(&datadir.join(name), small::TOOL_FILE_BYTES) {
            Ok(bytes) => return files::parse_binlog_info(&bytes).map_err(|e| e.to_string()),
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            Err(e) => return Err(format!("{name}: {e}")),
        }
    }
    Err("the data directory holds no binlog position".into())
}

/// No line of the error log says that the data is broken.
pub(crate) fn error_log(log: &Path, stopped: &Result<()>) -> Vec<Check> {
    let began = Instant::now();
    let read = || {
        let mut bad = Vec::new();
        let mut lines = 0u64;
        let mut told = false;
        for line in BufReader::new(std::fs::File::open(log)?).split(b'\n') {
            let line = String::from_utf8_lossy(&line?).into_owned();
            lines += 1;
            // What ran short explains all the others (a full disk gives a "corrupted index"), however many came before it.
            let tells = !told && Shortage::told_by(&line).is_some();
            if alarming(&line) && (bad.len() < 5 || tells) {
                told |= tells;
                bad.push(line.trim().chars().take(300).collect::<String>());
            }
        }
        Ok::<_, std::io::Error>((lines, bad))
    };
    let finding = match read() {
        Ok((0, _)) => Err("could not run: the log is empty".into()),
        Ok((lines, bad)) if bad.is_empty() => Ok(format!("none in {lines} lines")),
        Ok((_, bad)) => Err(bad.join(" | ")),
        Err(error) => Err(format!("could not run: {error}")),
    };
    let mut checks = vec![check(CheckKind::ErrorLog, "error log", "no error, corruption or crash", finding, began)];
    if let Err(error) = stopped {
        checks.push(check(CheckKind::ErrorLog, "shutdown", "the server ends in order", Err(error.chain()), began));
    }
    checks
}

fn alarming(line: &str) -> bool {
    const WORDS: [&str; 6] = ["corrupt", "crashed", "assertion failure", "got signal", "missing tablespace", "cannot open tablespace"];
    let lower = line.to_lowercase();
    lower.contains("[error]") || WORDS.iter().any(|word| lower.contains(word))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ran_short_is_said_however_many_errors_it_made_before() {
        let log = tempfile::NamedTempFile::new().unwrap();
        let broken = "2026-11-22 12:07:08 4 [ERROR] mariadbd: Got error '126 \"Index is corrupted\"' for '/tmp/#sql-temptable-1.MAI'\n";
        let full =
            "2026-11-22 12:07:09 4 [ERROR] mariadbd: Disk got full writing '.(temporary)' (Errcode: 28 \"No space left on device\")\n";
        std::fs::write(log.path(), broken.repeat(40) + full + &broken.repeat(9) + full).unwrap();
        let found = error_log(log.path(), &Ok(())).remove(0).found;
        assert_eq!((found.matches("126").count(), found.matches("Errcode: 28").count()), (5, 1), "{found}");
    }

    #[test]
    fn an_error_log_is_judged_by_what_a_broken_server_writes() {
        for bad in [
            "2026-11-22 12:07:08 0 [ERROR] InnoDB: Page [page id: space=5, page number=3] log sequence number 1 is in the future!",
            "2026-11-22T12:00:00Z 0 [ERROR] [MY-011971] [InnoDB] Tablespace 'x' Page has a wrong checksum",
            "2026-11-22 12:07:08 3 [Warning] InnoDB: Index `a` of table `b`.`c` is corrupted",
            "2026-11-22 12:07:08 0 [Warning] mysqld: Table './a/m' is marked as crashed and should be repaired",
        ] {
            assert!(alarming(bad), "{bad}");
        }
        for good in [
            "2026-11-22 12:07:08 0 [Note] InnoDB: log sequence number 846233; transaction id 112",
            "2026-11-22 12:07:07 0 [Warning] Could not increase number of max_open_files to more than 20000 (request: 32184)",
        ] {
            assert!(!alarming(good), "{good}");
        }
    }

    #[test]
    fn the_redo_position_is_read_from_every_engines_status() {
        assert_eq!(redo_position("---\nLOG\n---\nLog sequence number 846233\nLog flushed up to   846233\n"), Some(846_233));
        assert_eq!(redo_position("Log sequence number          20023461\nLog buffer assigned up to    20023461\n"), Some(20_023_461));
        assert_eq!(redo_position(""), None);
    }
}
