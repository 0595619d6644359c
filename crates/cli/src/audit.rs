//! `audit`.

use crate::deployment::{ClusterArgs, Context};
use crate::error::{Error, Result};
use crate::output::show;
use highwater_aws::manifests::{head_objects, read_catalog};
use highwater_core::Failure;
use highwater_core::audit::{audit_catalog, objects_of};
use serde_json::json;

/// Arguments of `audit`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater audit --cluster orders\n  highwater audit --cluster orders --bucket my-backups      # without the control plane"
)]
pub(crate) struct AuditArgs {
    #[command(flatten)]
    of: ClusterArgs,
}

pub(crate) async fn run(args: &AuditArgs, cx: &Context) -> Result<()> {
    let bucket = args.of.connect(cx).await?;
    let catalog = read_catalog(&bucket, &args.of.cluster).await?;
    let heads = head_objects(&bucket, objects_of(&catalog)).await?;
    let audit = audit_catalog(catalog, Some(&heads));
    let backups = audit.catalog.backups().count();
    let broken = audit.findings.iter().filter(|f| f.problem.is_broken()).count();
    let value = json!({
        "cluster": args.of.cluster, "backups": backups, "objects": audit.objects, "without_checksum": audit.without_checksum, "broken": broken,
        "findings": audit.findings.iter().map(|f| json!({
            "name": f.problem.name(), "backup_id": f.backup_id, "key": f.key, "message": f.problem.to_string(),
            "broken": f.problem.is_broken(), "lost_restore_points": f.lost,
        })).collect::<Vec<_>>(),
    });
    let mut text = format!("{backups} backups, {} objects looked at, {broken} broken invariants\n", audit.objects);
    if audit.without_checksum > 0 {
        text.push_str(&format!("{} objects have no checksum in this store: only their sizes were compared\n", audit.without_checksum));
    }
    for finding in &audit.findings {
        let weight = if finding.problem.is_broken() { "BROKEN" } else { "weak  " };
        text.push_str(&format!("{weight} {finding}\n"));
    }
    show(cx.json, &value, &text);
    match broken {
        0 => Ok(()),
        n => Err(Error::new(Failure::Damaged, format!("cluster {} has {n} broken invariants", args.of.cluster))
            .hint("take a full (`highwater next-backup --full`): it stands on its own")
            .already_shown()),
    }
}
