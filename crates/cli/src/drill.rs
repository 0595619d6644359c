//! `drill`: starts the drill machine and follows it to its verdict.

use crate::deployment::{Context, Deployment, OfCluster};
use crate::error::{Error, Result};
use crate::follow::{Followed, Seen, Step, Usual, executions, until_ended};
use crate::output::{bytes, show, table};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::drills::{DrillRecord, LOOKED_AT, State};
use highwater_aws::sfn::{ExecutionStatus, Started};
use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::planner::plan_restore;
use highwater_core::status::lasting;
use highwater_core::{ClusterId, Document, Failure, Pinned};
use jiff::Timestamp;
use serde_json::json;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Arguments of `drill`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater drill --cluster orders\n  highwater drill --cluster orders --target 2026-11-22T02:00:00Z\n  highwater drill --cluster orders --target 20261122T020000Z-full-4f7c --no-wait\n\nIt costs an instance for the time of a restore. Exit 18: it did not pass."
)]
pub(crate) struct DrillArgs {
    #[command(flatten)]
    of: OfCluster,
    /// latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z: the newest restore point not after it.
    #[arg(long, default_value = "latest")]
    target: Target,
    /// Start it, and do not wait for its verdict.
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(args: &DrillArgs, cx: &Context) -> Result<()> {
    let (deployment, config) = args.of.find(cx).await?;
    let cluster = &config.cluster;
    let plan = plan(&deployment, cluster, &args.target).await?;
    let random = RandomState::new().build_hasher().finish() & 0xffff_ffff;
    let name = format!("by-hand-{}-{random:08x}", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let input = json!({"cluster": cluster, "target": args.target});
    let execution = match executions(&deployment).start(&deployment.of.drill_machine, &name, &input).await? {
        Started::Runs(execution) => execution,
        Started::NameTaken => return Err(Error::new(Failure::Busy, format!("an execution {name} exists already")).hint("run it again")),
    };
    if args.no_wait {
        let point = &plan.point.backup_id;
        let text =
            format!("{} of {cluster} is {point}\nexecution {execution}\nhighwater follow {execution} --cluster {cluster}\n", args.target);
        show(cx.json, &json!({"cluster": cluster, "target": args.target, "backup_id": point, "execution": execution}), &text);
        return Ok(());
    }
    follow(&deployment, cluster, &execution, cx).await
}

/// The plan of a target, by the catalog: a target without a restore point is refused before anything is started.
pub(crate) async fn plan(deployment: &Deployment, cluster: &ClusterId, target: &Target) -> Result<RestorePlanV1> {
    let window = deployment.catalog().window_for(cluster, target).await?;
    Ok(plan_restore(&window.catalog, target, &deployment.of.bucket, Timestamp::now())?)
}

/// Follows the drill that an execution is, and says how it ended.
pub(crate) async fn follow(deployment: &Deployment, cluster: &ClusterId, execution: &str, cx: &Context) -> Result<()> {
    let (catalog, machine) = (deployment.catalog(), executions(deployment));
    let recent = catalog.newest_drills(cluster, LOOKED_AT).await?;
    let known = recent.iter().find(|record| record.execution == execution);
    let followed = Followed {
        what: "drill",
        id: known.map_or_else(|| execution.to_owned(), |record| record.drill_id.to_string()),
        cluster,
        url: None,
        began: known.map_or_else(Timestamp::now, |record| record.planned_at),
    };
    let usual = Usual::of(followed.began, recent.iter().filter_map(duration));
    let record = until_ended(&followed, cx, async || look(&catalog, &machine, cluster, execution, usual).await).await?;
    ended(deployment, &record, cx).await
}

/// The record decides; an execution that ended before it made one, or whose record nobody closed yet, is told by itself.
async fn look(
    catalog: &CatalogTable,
    machine: &highwater_aws::sfn::Executions,
    cluster: &ClusterId,
    execution: &str,
    usual: Option<Usual>,
) -> Result<Seen<DrillRecord>> {
    let runs = |says: String| Ok(Seen::Runs(Step { says, usual }));
    let found = catalog.newest_drills(cluster, LOOKED_AT).await?.into_iter().find(|record| record.execution == execution);
    if let Some(record) = found.as_ref().filter(|record| record.state.has_ended()) {
        return Ok(Seen::Ended(record.clone()));
    }
    let seen = machine.describe(execution).await?;
    let why = || format!("{}: {}", seen.error.as_deref().unwrap_or("it failed"), seen.cause.as_deref().unwrap_or("no cause is known"));
    match (seen.status, found) {
        (ExecutionStatus::Gone, _) => Err(Error::new(Failure::Document, format!("there is no execution {execution}"))),
        (ExecutionStatus::Failed, None) => {
            Err(Error::new(Failure::ChecksFailed, format!("the drill of {cluster} ended before it had a plan: {}", why()))
                .hint("RUNBOOK: drills-failed"))
        }
        // `reconcile` closes the record of an execution that ended without its states.
        (ExecutionStatus::Failed, Some(record)) => runs(format!("{}, and its execution has failed ({})", record.state.name(), why())),
        (_, Some(record)) => runs(record.state.name().to_owned()),
        (_, None) => runs("planning".to_owned()),
    }
}

/// From the plan to the verdict, seconds.
fn duration(record: &DrillRecord) -> Option<i64> {
    match &record.state {
        State::Passed(passed) => Some(passed.passed_at.duration_since(record.planned_at).as_secs()),
        _ => None,
    }
}

async fn ended(deployment: &Deployment, record: &DrillRecord, cx: &Context) -> Result<()> {
    let DrillRecord { cluster, drill_id, backup_id, .. } = record;
    let (report_at, certificate, reason) = match &record.state {
        State::Passed(passed) => (Some(&passed.report), Some(&passed.certificate), None),
        State::Failed { reason, report, .. } => (report.as_ref(), None, Some(reason)),
        _ => (None, None, None),
    };
    let report = match report_at {
        Some(at) => Some(read_report(deployment, at).await?),
        None => None,
    };
    let outcome = if certificate.is_some() { Outcome::Passed } else { Outcome::Failed };
    let value = json!({
        "cluster": cluster, "drill_id": drill_id, "backup_id": backup_id, "outcome": outcome, "reason": reason,
        "report": report_at, "certificate": certificate, "phases": report.as_ref().map(|r| &r.phases),
        "checks": report.as_ref().map(|r| r.checks.len()),
    });
    let phases = report.as_ref().map_or_else(String::new, phases);
    let checks = report.as_ref().map_or(0, |r| r.checks.len());
    let uri = |at: Option<&Pinned>| at.map_or_else(String::new, |at| format!("{} (SHA-256 {})\n", at.uri, at.sha256));
    let verdict = match outcome {
        Outcome::Passed => {
            format!("drill {drill_id} PASSED: {backup_id} of {cluster} was restored, served and checked ({checks} checks)\n")
        }
        Outcome::Failed => format!("drill {drill_id} did NOT pass: {backup_id} of {cluster} is not proven\n"),
    };
    let certified = certificate.map_or_else(String::new, |at| format!("certificate {}", uri(Some(at))));
    show(cx.json, &value, &format!("{verdict}{phases}{certified}report {}", uri(report_at)));
    match reason {
        None => Ok(()),
        Some(reason) => Err(Error::new(Failure::ChecksFailed, format!("drill {drill_id} of {cluster} did not pass: {reason}"))
            .hint("keep everything; RUNBOOK: drills-failed")
            .already_shown()),
    }
}

async fn read_report(deployment: &Deployment, at: &Pinned) -> Result<DrillReportV1> {
    let bucket = deployment.bucket().await;
    let foreign = || Error::new(Failure::Damaged, format!("the report {} is not in {}", at.uri, bucket.name()));
    let bytes = bucket.get(at.key_in(bucket.name()).ok_or_else(foreign)?, None, DrillReportV1::MAX_BYTES as u64).await?;
    DrillReportV1::parse_pinned(&bytes, at.sha256).map_err(|e| Error::document(format!("read {}", at.uri), &e))
}

fn phases(report: &DrillReportV1) -> String {
    let row = |p: &highwater_core::drill::Phase| {
        let of = p.backup_id.as_ref().map_or("-".to_owned(), ToString::to_string);
        let took = if p.seconds < 10.0 { format!("{:.1} s", p.seconds) } else { lasting(p.seconds as i64) };
        vec![p.name.clone(), of, took, p.bytes.map_or("-".to_owned(), bytes)]
    };
    table(&["phase", "backup", "took", "bytes"], &report.phases.iter().map(row).collect::<Vec<_>>())
}
