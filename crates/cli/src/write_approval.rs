//! `write-approval`.

use crate::error::{Error, Result};
use crate::next_backup::duration;
use crate::output::{read_document, show, write_document};
use highwater_core::approval::{ApprovalFacts, ApprovalV1};
use highwater_core::drill::DrillReportV1;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, Failure, HostId};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::path::PathBuf;

/// Arguments of `write-approval`.
///
/// The names in an approval are only as good as who may write the file: whoever can hand a file to
/// `highwater-host promote` can write any name into it. Use it on a machine that both people trust, or let the cloud
/// flow do it, which takes the names from who signed in and signs the approval.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater write-approval --plan plan.json --report report.json --host i-0123456789abcdef0 \\\n    --requester alice --approver bob --out approval.json"
)]
pub(crate) struct WriteApprovalArgs {
    /// The plan that will be promoted.
    #[arg(long, value_name = "FILE")]
    plan: PathBuf,
    /// The report of a passed drill of that very plan.
    #[arg(long, value_name = "FILE")]
    report: PathBuf,
    /// The host whose data will be replaced.
    #[arg(long)]
    host: HostId,
    /// Who asks for the promotion.
    #[arg(long, value_name = "NAME")]
    requester: String,
    /// Who approves it: somebody else. May be given more than once.
    #[arg(long, value_name = "NAME", required = true)]
    approver: Vec<String>,
    /// The approval is void after this long.
    #[arg(long, default_value = "2h", value_parser = duration, value_name = "TIME")]
    valid_for: SignedDuration,
    /// The approval's file; never overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

pub(crate) fn run(args: &WriteApprovalArgs, json: bool) -> Result<()> {
    let (plan, plan_sha256) = read_document::<RestorePlanV1>(&args.plan)?;
    let (report, report_sha256) = read_document::<DrillReportV1>(&args.report)?;
    let now = Timestamp::now();
    let refused = |reason: String| {
        Error::new(Failure::Approval, format!("approve plan {}: {reason}", args.plan.display()))
            .hint("drill this very plan (`highwater-host drill`), and let a second person approve")
    };
    let approval = ApprovalV1 {
        format: ApprovalV1::FORMAT.to_owned(),
        cluster: plan.cluster.clone(),
        plan_sha256,
        report_sha256,
        target_host: args.host.clone(),
        requester: args.requester.trim().to_owned(),
        approvers: args.approver.iter().map(|name| name.trim().to_owned()).collect(),
        approved_at: now,
        expires_at: now.saturating_add(args.valid_for).unwrap_or(Timestamp::MAX),
    };
    approval.check().map_err(refused)?;
    // The same question that the host will ask: an approval that would be refused there is never written.
    let facts = ApprovalFacts { cluster: &plan.cluster, plan_sha256, report: (&report, report_sha256), host: &args.host, now };
    approval.allows(facts).map_err(refused)?;
    if report.cluster != plan.cluster || report.backup_id != plan.point.backup_id {
        return Err(refused(format!("the report is of {} of cluster {}", report.backup_id, report.cluster)));
    }
    let sha256 = write_document(&args.out, &approval)?;
    let text = format!(
        "{} may replace the data of {} by {} until {}\nrequested by {}, approved by {}\napproval {} (SHA-256 {sha256})\n",
        plan.cluster,
        args.host,
        plan.point.backup_id,
        approval.expires_at,
        approval.requester,
        approval.approvers.join(", "),
        args.out.display(),
    );
    show(json, &json!({"approval": args.out, "sha256": sha256, "expires_at": approval.expires_at, "target_host": args.host}), &text);
    Ok(())
}
