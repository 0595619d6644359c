//! `drill`: proves a restore point, or shows that it cannot be proven.
//!
//! Owns the work directory, which it removes, and the isolated server, which it ends, however it goes. A drill in which
//! nothing was looked at has failed (I5). What a crash leaves: the stamped work directory; the next drill of the same plan
//! into it goes on, and never examines data that a server has already run on.

use crate::config::Config;
use crate::crash::crash_point;
use crate::error::{Error, Result};
use crate::restore::stamp::{Purpose, SERVER, State, Workspace};
use crate::restore::{phase, restore_in};
use crate::shortage::Shortage;
use crate::signal::Cancel;
use crate::stream::load_inventory;
use crate::tool::Checkpoints;
use highwater_aws::s3::Bucket;
use highwater_core::drill::{Check, CheckKind, DrillReportV1, Outcome, Phase};
use highwater_core::identity::{Vendor, Version};
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, Failure, Sha256};
use jiff::Timestamp;
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) mod assertions;
mod checks;
mod report;
mod server;
mod tables;

use checks::Examiner;
pub use server::IsolatedServer;

/// Arguments of `drill`.
#[derive(Debug, clap::Args)]
pub struct DrillArgs {
    /// The plan: a file, or s3://bucket/key with --sha256.
    #[arg(long)]
    pub plan: String,
    /// SHA-256 of the plan; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// Where to restore: absent, empty, or stamped by an earlier drill of the same plan. Removed afterwards.
    #[arg(long, value_name = "DIR")]
    pub work: PathBuf,
    /// Where the report goes: a file, or s3://bucket/key.
    #[arg(long)]
    pub report: String,
    /// Keep the restored data.
    #[arg(long)]
    pub keep: bool,
}

/// Runs it. The report is written whenever the plan could be read.
///
/// # Errors
/// `ChecksFailed`, and whatever stopped it before the checks.
pub async fn run(args: &DrillArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    report::check_destination(&args.report)?;
    let (plan, plan_sha256) = crate::cli::load_document::<RestorePlanV1>(&args.plan, args.sha256).await?;
    let started_at = Timestamp::now();
    let mut findings = Findings::default();
    let ended = Box::pin(examine(args, &plan, plan_sha256, config, cancel, &mut findings)).await;
    let failure = ended.as_ref().err().map(Error::chain);
    let outcome = DrillReportV1::verdict(failure.as_deref(), &findings.checks);
    let report = DrillReportV1 {
        format: DrillReportV1::FORMAT.to_owned(),
        cluster: plan.cluster.clone(),
        backup_id: plan.point.backup_id.clone(),
        plan_sha256,
        host_id: config.host_id.clone(),
        outcome,
        failure,
        server_version: findings.server_version,
        started_at,
        finished_at: Timestamp::now(),
        phases: findings.phases,
        checks: report::cut(findings.checks),
    };
    let written = report::write(&report, &args.report).await;
    if !json {
        report::print(&report);
    }
    ended?;
    written?;
    if outcome == Outcome::Failed {
        return Err(checks_failed(&report, &args.report));
    }
    if json {
        println!("{}", String::from_utf8_lossy(&report.to_bytes()));
    }
    Ok(())
}

fn checks_failed(report: &DrillReportV1, at: &str) -> Error {
    let failed: Vec<&Check> = report.checks.iter().filter(|c| c.outcome == Outcome::Failed).collect();
    let message = match failed.first() {
        Some(first) => format!(
            "{} of {} checks of {} failed, first {:?} of {}: expected {}, found {}",
            failed.len(),
            report.checks.len(),
            report.backup_id,
            first.kind,
            first.subject,
            first.expected,
            first.found
        ),
        None => format!("no check looked at the data of {}", report.backup_id),
    };
    Error::new(Failure::ChecksFailed, message).hint(format!("the report {at} lists every check; do not rely on this restore point"))
}

/// What a drill gathers, whether it comes to its end or not.
#[derive(Debug, Default)]
struct Findings {
    phases: Vec<Phase>,
    checks: Vec<Check>,
    server_version: Option<Version>,
}

/// Restores, starts, checks, stops, cleans up.
///
/// # Errors
/// What kept it from checking everything. A check that fails is not an error here.
async fn examine(
    args: &DrillArgs,
    plan: &RestorePlanV1,
    plan_sha256: Sha256,
    config: &Config,
    cancel: &Cancel,
    findings: &mut Findings,
) -> Result<()> {
    // What only another host could drill is known before hours go into fetching it.
    crate::restore::tool_of(plan, &config.server).await?;
    server::find_binary(&config.server, &plan.server).await?;
    let mut work = Workspace::open(&args.work, plan_sha256, Purpose::Drill, cancel).await?;
    let examined = Box::pin(examine_in(&mut work, plan, config, cancel, findings)).await;
    if args.keep {
        tracing::info!(dir = %work.path().display(), "kept, as asked");
        return examined;
    }
    let removed = work.remove_all().await;
    if let Err(error) = &removed {
        tracing::warn!(error = error.chain(), "the work directory stays");
    }
    examined
}

async fn examine_in(work: &mut Workspace, plan: &RestorePlanV1, config: &Config, cancel: &Cancel, findings: &mut Findings) -> Result<()> {
    if work.state()? == State::Done && work.path().join(SERVER).exists() {
        tracing::info!("an earlier drill's server ran on this data: restoring it again");
        work.set(State::Fetching)?;
    }
    Box::pin(restore_in(work, plan, &config.restore, &config.server, cancel, &mut findings.phases)).await?;
    crash_point!("drill:restored");
    let Some(last) = plan.steps.last() else { return Err(Error::new(Failure::Document, "the plan has no step")) };
    let inventory = load_inventory(&Bucket::connect(&plan.bucket).await, &last.inventory).await?;
    let data = work.data();
    findings.checks.extend(checks::restore_point(&data, plan));

    let began = Instant::now();
    let server = match IsolatedServer::start(&data, &plan.server, &config.drill, &config.server, cancel).await {
        Ok(server) => server,
        // The data cannot be served: that is what a drill is there to find. Everything else kept us from finding out.
        Err(error) if matches!(error.failure, Failure::Tool | Failure::Damaged | Failure::Server) => {
            findings.checks.push(checks::check(CheckKind::ServerUp, "server", "a server answers on the data", Err(error.chain()), began));
            return Ok(());
        }
        Err(error) => return Err(error),
    };
    findings.server_version = Some(server.version());
    findings.phases.push(phase("start", None, began, None));

    let began = Instant::now();
    let mut examiner = Examiner::new(&server, plan.server.vendor, &config.drill, cancel);
    let examined = async {
        examiner.server_up(plan).await?;
        examiner.tables(&inventory).await?;
        examiner.newest(plan.point.time).await?;
        examiner.assertions().await
    };
    let examined = Box::pin(examined).await;
    findings.checks.append(&mut examiner.checks);
    findings.phases.push(phase("check", None, began, None));

    let began = Instant::now();
    let log = server.log().to_owned();
    let stopped = server.stop().await;
    findings.checks.extend(checks::error_log(&log, &stopped));
    findings.phases.push(phase("stop", None, began, None));
    examined?;
    let failed = findings.checks.iter().filter(|check| check.outcome == Outcome::Failed);
    match failed.filter_map(|check| Some((check, Shortage::told_by(&check.found)?))).next() {
        Some((check, shortage)) => Err(shortage.error(format!("check {:?} of {}: {}", check.kind, check.subject, check.found))),
        None => Ok(()),
    }
}

/// Whether a prepare has ended here: only then is the data at one moment, with no transaction half-done. XtraBackup rolls
/// back in its last prepare alone; every prepare of mariadb-backup's does.
fn is_prepared(found: &Checkpoints, vendor: Vendor) -> bool {
    match vendor {
        Vendor::Mariadb => matches!(found.backup_type.as_str(), "log-applied" | "full-prepared"),
        Vendor::Mysql => found.backup_type == "full-prepared",
    }
}

/// An error log, or the last MiB of it.
fn read_log(path: &Path) -> std::io::Result<String> {
    use std::io::{Read, Seek, SeekFrom};
    const MOST: u64 = 1 << 20;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
