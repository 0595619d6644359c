//! `plan`.

use crate::deployment::{ClusterArgs, Context};
use crate::error::Result;
use crate::output::{bytes, show, table, write_document};
use highwater_aws::copies::pin_copies;
use highwater_aws::manifests::read_catalog;
use highwater_core::plan::Target;
use highwater_core::planner::plan_restore;
use jiff::Timestamp;
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `plan`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater plan --cluster orders --out plan.json\n  highwater plan --cluster orders --bucket my-backups --target 2026-11-22T02:00:00Z --out plan.json"
)]
pub(crate) struct PlanArgs {
    #[command(flatten)]
    of: ClusterArgs,
    /// latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z: the newest restore point not after it.
    #[arg(long, default_value = "latest")]
    target: Target,
    /// The bucket holds copies of a deployment's objects (a vault): pin each at the version that this bucket has of it, by its content.
    #[arg(long)]
    copied: bool,
    /// The plan's file; never overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) async fn run(args: &PlanArgs, cx: &Context) -> Result<()> {
    let bucket = args.of.connect(cx).await?;
    let catalog = read_catalog(&bucket, &args.of.cluster).await?;
    let mut plan = plan_restore(&catalog, &args.target, bucket.name(), Timestamp::now())?;
    if args.copied {
        plan = pin_copies(&bucket, plan).await?;
    }
    let sha256 = write_document(&args.out, &plan)?;
    let stored = |step: &highwater_core::plan::PlanStep| step.objects.iter().map(|o| o.size).sum::<u64>();
    let rows: Vec<_> = plan
        .steps
        .iter()
        .map(|s| vec![s.backup_id.to_string(), s.from_lsn.to_string(), s.to_lsn.to_string(), bytes(stored(s)), bytes(s.raw_bytes)])
        .collect();
    let text = format!(
        "{} of {}: {} of {} at LSN {}\n{}plan {} (SHA-256 {sha256})\n",
        plan.target,
        plan.cluster,
        plan.point.backup_id,
        plan.point.time,
        plan.point.last_lsn,
        table(&["backup", "from LSN", "to LSN", "stored", "restored"], &rows),
        args.out.display(),
    );
    let value = json!({
        "cluster": plan.cluster, "target": plan.target, "backup_id": plan.point.backup_id, "time": plan.point.time,
        "last_lsn": plan.point.last_lsn, "steps": plan.steps.iter().map(|s| &s.backup_id).collect::<Vec<_>>(),
        "stored_bytes": plan.steps.iter().map(stored).sum::<u64>(), "plan": args.out, "sha256": sha256,
    });
    show(cx.json, &value, &text);
    Ok(())
}
