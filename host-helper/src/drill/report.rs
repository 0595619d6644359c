//! The report: written whatever happened, read by whoever decides.

use crate::durable;
use crate::error::{Error, Result};
use crate::restore::phase_line;
use highwater_aws::s3::Bucket;
use highwater_core::drill::{Check, CheckKind, DrillReportV1, Outcome};
use highwater_core::{Document, Failure};
use std::path::Path;

/// A report with more checks is cut: passed ones are left out and counted.
const MOST_CHECKS: usize = 100_000;

/// Writes it to `to`: a file, replaced as a whole, or `s3://bucket/key`, never overwritten.
///
/// # Errors
/// `Resources` for a file; what the store says, `Document` when the key holds another report.
pub(crate) async fn write(report: &DrillReportV1, to: &str) -> Result<()> {
    let bytes = report.to_bytes();
    let Some(rest) = to.strip_prefix("s3://") else { return durable::replace(Path::new(to), &bytes, 0o640) };
    let (bucket, key) = destination(rest, to)?;
    Bucket::connect(bucket).await.put_new(key, bytes.into(), "application/json").await?;
    Ok(())
}

/// Whether `to` can be written to, as far as that can be told before the work.
///
/// # Errors
/// `Config`.
pub(crate) fn check_destination(to: &str) -> Result<()> {
    if let Some(rest) = to.strip_prefix("s3://") {
        return destination(rest, to).map(drop);
    }
    let parent = durable::directory_of(Path::new(to));
    if parent.is_dir() && !Path::new(to).is_dir() {
        return Ok(());
    }
    Err(Error::new(
        Failure::Config,
        format!("the report cannot be written to {to}: {} is not a directory, or {to} is one", parent.display()),
    ))
}

fn destination<'a>(rest: &'a str, to: &str) -> Result<(&'a str, &'a str)> {
    let parts = rest.split_once('/').filter(|(bucket, key)| !bucket.is_empty() && !key.is_empty());
    parts.ok_or_else(|| Error::new(Failure::Config, format!("{to} names no key")))
}

/// Leaves passed checks out of a report that would be too large to read; failed ones stay, as many as fit.
pub(crate) fn cut(checks: Vec<Check>) -> Vec<Check> {
    if checks.len() <= MOST_CHECKS {
        return checks;
    }
    let total = checks.len();
    let essential = |c: &Check| c.outcome == Outcome::Failed || matches!(c.kind, CheckKind::ServerUp | CheckKind::RestorePoint);
    let (mut kept, others): (Vec<_>, Vec<_>) = checks.into_iter().partition(essential);
    kept.truncate(MOST_CHECKS);
    let room = MOST_CHECKS - kept.len();
    kept.extend(others.into_iter().take(room));
    tracing::warn!(checks = total, kept = kept.len(), "the report is cut: passed checks are left out");
    kept
}

/// For a person at a terminal.
pub(crate) fn print(report: &DrillReportV1) {
    report.phases.iter().for_each(|phase| println!("{}", phase_line(phase)));
    let passed = report.checks.iter().filter(|c| c.outcome == Outcome::Passed).count();
    for check in report.checks.iter().filter(|c| c.outcome == Outcome::Failed) {
        println!("FAILED {:?} {}: expected {}; found {}", check.kind, check.subject, check.expected, check.found);
    }
    if let Some(failure) = &report.failure {
        println!("FAILED before the checks were done: {failure}");
    }
    let outcome = match report.outcome {
        Outcome::Passed => "PASSED",
        Outcome::Failed => "FAILED",
    };
    println!("drill of {} {}: {outcome}, {passed} of {} checks passed", report.cluster, report.backup_id, report.checks.len());
}
