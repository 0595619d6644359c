//! `doctor`: everything a first backup needs, one line each, with the fix. It changes nothing but one small object that it
//! creates below `v1/<cluster>/doctor/` when a bucket is named.

mod host;
mod server;
mod store;

use crate::config::Config;
use crate::error::{Error, Result};
use crate::signal::Cancel;
use highwater_core::Failure;
use serde::Serialize;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The bucket that backups go to, to test its permissions.
    #[arg(long)]
    pub bucket: Option<String>,
}

/// How a check ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum Status {
    /// As it should be.
    Ok,
    /// A backup works, but somebody should look.
    Warn,
    /// A backup would fail, or be worth less than it seems.
    Fail,
}

/// One line.
#[derive(Debug, Serialize)]
struct Line {
    name: String,
    status: Status,
    finding: String,
    fix: Option<String>,
}

/// The lines so far.
#[derive(Debug, Default)]
struct Findings(Vec<Line>);

impl Findings {
    fn add(&mut self, name: impl Into<String>, status: Status, finding: impl Into<String>, fix: Option<String>) {
        self.0.push(Line { name: name.into(), status, finding: finding.into(), fix });
    }

    fn ok(&mut self, name: impl Into<String>, finding: impl Into<String>) {
        self.add(name, Status::Ok, finding, None);
    }

    fn warn(&mut self, name: impl Into<String>, finding: impl Into<String>, fix: impl Into<String>) {
        self.add(name, Status::Warn, finding, Some(fix.into()));
    }

    fn fail(&mut self, name: impl Into<String>, finding: impl Into<String>, fix: impl Into<String>) {
        self.add(name, Status::Fail, finding, Some(fix.into()));
    }

    /// A check that ended with an error of ours: its hint is the fix.
    fn error(&mut self, name: impl Into<String>, error: &Error) {
        self.add(name, Status::Fail, error.chain(), error.hint.clone());
    }
}

/// Runs it.
///
/// # Errors
/// `Precondition` when a line fails; `Interrupted`.
pub async fn run(args: &DoctorArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let mut findings = Findings::default();
    findings.ok("config", format!("cluster {}, host {}", config.cluster, config.host_id));
    host::check(config, &mut findings);
    Box::pin(server::check(config, &mut findings, cancel)).await?;
    match &args.bucket {
        Some(bucket) => Box::pin(store::check(bucket, config, &mut findings)).await,
        None => findings.warn("bucket", "not checked", "run it again with --bucket NAME"),
    }
    cancel.check()?;
    let failed = findings.0.iter().filter(|line| line.status == Status::Fail).count();
    print(&findings, failed == 0, json);
    if failed == 0 {
        return Ok(());
    }
    Err(Error::new(Failure::Precondition, format!("{failed} of {} checks failed", findings.0.len())).hint("each failed line names its fix"))
}

fn print(findings: &Findings, ready: bool, json: bool) {
    if json {
        println!("{}", serde_json::json!({ "ready": ready, "checks": findings.0 }));
        return;
    }
    for Line { name, status, finding, fix } in &findings.0 {
        let word = match status {
            Status::Ok => "ok  ",
            Status::Warn => "warn",
            Status::Fail => "FAIL",
        };
        let fix = fix.as_deref().map(|fix| format!(" — {fix}")).unwrap_or_default();
        println!("{word} {name}: {finding}{fix}");
    }
}
