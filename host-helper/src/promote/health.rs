//! What makes data good enough to serve: looked at on the staged copy before the primary is touched, and again on the new primary.
//! A check that could not run has failed (I5).

use super::primary::{Variables, bounded};
use crate::config::{Assertion, PromoteConfig, ServiceConfig};
use crate::drill::assertions::{judge, one_value, sign};
use crate::error::{Context, Error, Result};
use crate::server::{Server, quoted};
use highwater_core::Failure;
use highwater_core::drill::{Check, CheckKind, Outcome};
use highwater_core::identity::Version;
use highwater_core::inventory::InventoryV1;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tokio::time::timeout;

/// Rows are counted in so many tables, and only in such as the server takes to be no larger: an outage lasts while we count.
const COUNTED_TABLES: usize = 8;
const COUNTED_ROWS: u64 = 1_000_000;
/// The most of an error log that is read.
const LOG_LIMIT: u64 = 8 << 20;

/// What the staged data was found to be.
pub(super) struct Seen {
    pub(super) version: Version,
    /// `schema.table`, sorted.
    pub(super) tables: Vec<String>,
    pub(super) rows: Vec<(String, u64)>,
    pub(super) checks: Vec<Check>,
}

/// Looks at the staged data: every table of the inventory is there, the assertions hold, some rows are counted.
pub(super) async fn examine_staged(server: &mut Server, inventory: &InventoryV1, asserts: &[Assertion], limit: Duration) -> Result<Seen> {
    let version: String = bounded(server.first("SELECT VERSION()")).await?.unwrap_or_default();
    let mut checks = vec![check(CheckKind::ServerUp, "server", "answers", Ok(version.clone()))];
    let tables = tables(server).await?;
    checks.push(presence(&expected_tables(inventory), &tables));
    checks.extend(assertions(server, asserts, limit).await);
    let rows = count_some(server, limit).await?;
    let version = version.parse().context(Failure::Server, || "read the version of the isolated server".into())?;
    Ok(Seen { version, tables, rows, checks })
}

/// What the staged data was, to be found again on the new primary.
pub(super) struct Expected<'a> {
    pub(super) version: Version,
    pub(super) tables: &'a [String],
    pub(super) rows: &'a [(String, u64)],
}

/// Looks at the new primary.
pub(super) async fn examine_primary(
    server: &mut Server,
    expected: Expected<'_>,
    promote: &PromoteConfig,
    limit: Duration,
) -> Result<Vec<Check>> {
    let variables = Variables::of(server).await?;
    let version = variables.version()?;
    let mut checks = vec![check(
        CheckKind::ServerUp,
        "server",
        &format!("answers as {}.{}", expected.version.major, expected.version.minor),
        if version.series() == expected.version.series() { Ok(version.to_string()) } else { Err(version.to_string()) },
    )];
    let datadir = Path::new(variables.get("datadir")).canonicalize();
    let fits = datadir.is_ok_and(|d| promote.datadir.canonicalize().is_ok_and(|p| p == d));
    let found = variables.get("datadir").to_owned();
    checks.push(check(CheckKind::ServerUp, "datadir", &promote.datadir.display().to_string(), if fits { Ok(found) } else { Err(found) }));
    checks.push(presence(expected.tables, &tables(server).await?));
    for (table, rows) in expected.rows {
        checks.push(recount(server, table, *rows, limit).await);
    }
    checks.extend(assertions(server, &promote.assert, limit).await);
    Ok(checks)
}

/// Fails with every check that failed.
pub(super) fn verdict(what: &str, checks: &[Check]) -> Result<()> {
    let failed: Vec<String> = checks
        .iter()
        .filter(|c| c.outcome == Outcome::Failed)
        .map(|c| format!("{:?} {}: expected {}, found {}", c.kind, c.subject, c.expected, c.found))
        .collect();
    if failed.is_empty() { Ok(()) } else { Err(Error::new(Failure::ChecksFailed, format!("{what} failed: {}", failed.join("; ")))) }
}

fn check(kind: CheckKind, subject: &str, expected: &str, found: Result<String, String>) -> Check {
    let outcome = if found.is_ok() { Outcome::Passed } else { Outcome::Failed };
    let found = found.unwrap_or_else(|e| e);
    Check { kind, subject: subject.into(), outcome, expected: expected.into(), found, seconds: 0.0 }
}

fn timed(began: Instant, check: Check) -> Check {
    Check { seconds: began.elapsed().as_secs_f64(), ..check }
}

/// The tables that a restore of this inventory must have.
fn expected_tables(inventory: &InventoryV1) -> Vec<String> {
    inventory.tables.iter().filter(|t| t.throughout).map(|t| format!("{}.{}", t.schema, t.table)).collect()
}

/// Every base table, `schema.table`, sorted.
async fn tables(server: &mut Server) -> Result<Vec<String>> {
    let sql = "SELECT CONCAT(table_schema, '.', table_name) FROM information_schema.tables \
               WHERE table_type NOT LIKE '%VIEW' AND table_type NOT LIKE 'TEMPORARY%' \
               AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys')";
    let mut tables: Vec<String> = bounded(server.all(sql)).await?;
    tables.sort_unstable();
    Ok(tables)
}

fn presence(expected: &[String], found: &[String]) -> Check {
    let found: BTreeSet<&String> = found.iter().collect();
    let missing: Vec<&str> = expected.iter().filter(|t| !found.contains(t)).map(String::as_str).collect();
    let result = match missing.as_slice() {
        [] => Ok(format!("{} tables", found.len())),
        [first, ..] => Err(format!("{} missing, like {first}", missing.len())),
    };
    check(CheckKind::Table, "all tables", &format!("{} tables", expected.len()), result)
}

/// Counts rows exactly where that is quick. The largest of the quick ones say most.
async fn count_some(server: &mut Server, limit: Duration) -> Result<Vec<(String, u64)>> {
    let sql = format!(
        "SELECT table_schema, table_name FROM information_schema.tables WHERE table_type = 'BASE TABLE' AND table_rows <= {COUNTED_ROWS} \
         AND table_schema NOT IN ('information_schema', 'performance_schema', 'sys', 'mysql') \
         ORDER BY table_rows DESC, table_schema, table_name LIMIT {COUNTED_TABLES}"
    );
    let chosen: Vec<(String, String)> = bounded(server.all(&sql)).await?;
    let mut rows = Vec::new();
    for (schema, table) in chosen {
        let name = format!("{}.{}", quoted(&schema), quoted(&table));
        let count = count(server, &name, limit).await?;
        rows.push((name, count));
    }
    Ok(rows)
}

async fn count(server: &mut Server, quoted_table: &str, limit: Duration) -> Result<u64> {
    let sql = format!("SELECT COUNT(*) FROM {quoted_table}");
    let count = timeout(limit, server.first::<u64>(&sql)).await;
    let slow = || Error::new(Failure::Server, format!("counting {quoted_table} took longer than {} s", limit.as_secs()));
    count.map_err(|_| slow())??.ok_or_else(slow)
}

/// The new primary is open to its clients: a count may differ if, and only if, the server has since executed writes.
async fn recount(server: &mut Server, table: &str, expected: u64, limit: Duration) -> Check {
    let began = Instant::now();
    let found = async {
        let found = count(server, table, limit).await?;
        if found == expected {
            return Ok(Ok(found.to_string()));
        }
        let sql = "SHOW GLOBAL STATUS WHERE Variable_name IN ('Com_insert', 'Com_insert_select', 'Com_replace', 'Com_replace_select', \
                   'Com_update', 'Com_update_multi', 'Com_delete', 'Com_delete_multi', 'Com_load', 'Com_truncate')";
        let writes: Vec<(String, String)> = bounded(server.all(sql)).await?;
        let writes: u64 = writes.iter().filter_map(|(_, n)| n.parse::<u64>().ok()).sum();
        Ok(if writes > 0 { Ok(format!("{found}; clients have already written: {writes} statements")) } else { Err(found.to_string()) })
    };
    let found: Result<Result<String, String>> = found.await;
    let found = found.unwrap_or_else(|error: Error| Err(error.chain()));
    timed(began, check(CheckKind::RowCount, table, &format!("exactly {expected}, as in the smoke start"), found))
}

/// The operator's assertions, asked as a drill asks them: one SELECT, in a transaction that cannot write.
async fn assertions(server: &mut Server, asserts: &[Assertion], limit: Duration) -> Vec<Check> {
    let mut checks = Vec::new();
    for assert in asserts {
        let began = Instant::now();
        let answer = timeout(limit, one_value(server, &assert.sql)).await;
        let found = match answer {
            Err(_) => Err(format!("no answer within {} s", limit.as_secs())),
            Ok(Err(error)) => Err(error.chain()),
            Ok(Ok(value)) => judge(value, assert),
        };
        let expected = format!("{} {}", sign(assert.compare), assert.expect);
        checks.push(timed(began, check(CheckKind::Assertion, &assert.name, &expected, found)));
    }
    checks
}

/// Where a server writes its errors.
pub(super) enum ErrorLog {
    File(PathBuf),
    Journal { unit: String },
}

impl ErrorLog {
    /// As the journal has it: a file, or the unit's journal.
    pub(super) fn new(file: Option<&Path>, service: &ServiceConfig, service_log: &Path) -> Self {
        match (file, service) {
            (Some(path), _) => Self::File(path.to_owned()),
            (None, ServiceConfig::Systemd(s)) => Self::Journal { unit: s.unit.clone() },
            // The preflight refuses this; what the commands printed is better than nothing.
            (None, ServiceConfig::Commands(_)) => Self::File(service_log.to_owned()),
        }
    }

    /// Where the next lines will be, bytes: zero for a log that the exchange takes away.
    pub(super) fn end(&self, datadir: &Path) -> u64 {
        match self {
            Self::File(path) if path.starts_with(datadir) => 0,
            Self::File(path) => std::fs::metadata(path).map_or(0, |m| m.len()),
            Self::Journal { .. } => 0,
        }
    }

    /// The check: no line since then tells of corruption or a crash.
    pub(super) async fn examine(&self, from: u64, since: jiff::Timestamp) -> Check {
        let began = Instant::now();
        let (subject, read) = match self {
            Self::File(path) => (path.display().to_string(), read_from(path, from).map_err(|e| format!("cannot read it: {e}"))),
            Self::Journal { unit } => {
                let since = format!("@{}", since.as_second());
                let run = tokio::process::Command::new("journalctl")
                    .args(["--unit", unit, "--since", &since, "--output=cat", "--no-pager"])
                    .kill_on_drop(true)
                    .output();
                let read = match timeout(Duration::from_secs(60), run).await {
                    Ok(Ok(output)) if output.status.success() => Ok(String::from_utf8_lossy(&output.stdout).into_owned()),
                    Ok(Ok(output)) => Err(format!("journalctl: {}", output.status)),
                    Ok(Err(error)) => Err(format!("journalctl: {error}")),
                    Err(_) => Err("journalctl did not end".into()),
                };
                (format!("journal of {unit}"), read)
            }
        };
        let found = read.and_then(|log| match bad_line(&log) {
            Some(line) => Err(line.chars().take(300).collect()),
            None => Ok(format!("{} lines", log.lines().count())),
        });
        timed(began, check(CheckKind::ErrorLog, &subject, "no corruption, no crash", found))
    }
}

fn read_from(path: &Path, from: u64) -> std::io::Result<String> {
    let mut file = File::open(path)?;
    // Shorter than it was: it was rotated, and begins anew.
    let from = if file.metadata()?.len() < from { 0 } else { from };
    file.seek(SeekFrom::Start(from))?;
    let mut bytes = Vec::new();
    file.take(LOG_LIMIT).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}

/// The first line that tells of damage.
fn bad_line(log: &str) -> Option<&str> {
    log.lines().find(|line| {
        let lower = line.to_ascii_lowercase();
        let error = lower.contains("[error]");
        (error && (lower.contains("innodb") || lower.contains("aria") || lower.contains("tablespace")))
            || [
                "is corrupt",
                "corrupted page",
                "corruption of",
                "page corruption",
                "assertion failure",
                "got signal",
                "got exception",
                "marked as crashed",
            ]
            .iter()
            .any(|sign| lower.contains(sign))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_error_log_is_read_for_damage_and_not_for_noise() {
        assert_eq!(bad_line("2026 0 [Note] InnoDB: Completed initialization\n2026 0 [Warning] 'user' entry ignored"), None);
        assert_eq!(bad_line("2026 0 [ERROR] Could not open master.info"), None);
        for bad in [
            "0 [ERROR] InnoDB: Database page corruption on disk",
            "[ERROR] mysqld: Table './a/b' is marked as crashed",
            "mysqld got signal 11 ;",
        ] {
            assert_eq!(bad_line(&format!("fine\n{bad}\n")), Some(bad));
        }
    }

    #[test]
    fn a_missing_table_is_named() {
        let of = |names: &[&str]| names.iter().map(|n| (*n).to_owned()).collect::<Vec<_>>();
        assert_eq!(presence(&of(&["a.b"]), &of(&["a.b", "a.c"])).outcome, Outcome::Passed);
        let missing = presence(&of(&["a.b", "a.d"]), &of(&["a.b", "a.c"]));
        assert_eq!((missing.outcome, missing.found.as_str()), (Outcome::Failed, "1 missing, like a.d"));
    }
}
