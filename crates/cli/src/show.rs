//! `show`: everything known of one backup.

use crate::deployment::{Context, OfCluster};
use crate::error::{Error, Result};
use crate::output::{bytes, fields, show};
use highwater_aws::catalog::backups::{BackupRecord, State};
use highwater_aws::catalog::drills::{DrillRecord, LOOKED_AT, State as DrillState};
use highwater_core::manifest::ManifestV1;
use highwater_core::status::lasting;
use highwater_core::{BackupId, Failure};
use serde_json::json;

/// Arguments of `show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater show 20261122T020000Z-full-4f7c --cluster orders")]
pub(crate) struct ShowArgs {
    /// The backup, as `highwater backups` lists it.
    backup: BackupId,
    #[command(flatten)]
    of: OfCluster,
}

pub(crate) async fn run(args: &ShowArgs, cx: &Context) -> Result<()> {
    let (deployment, _) = args.of.find(cx).await?;
    let (catalog, cluster) = (deployment.catalog(), &args.of.cluster);
    let unknown = || {
        Error::new(Failure::Document, format!("the catalog of {cluster} has no backup {}", args.backup))
            .hint(format!("highwater backups --cluster {cluster}"))
    };
    let record = catalog.backup(cluster, &args.backup).await?.ok_or_else(unknown)?;
    let manifest = record.stored()?.map(|stored| stored.manifest);
    let drills = catalog.newest_drills(cluster, LOOKED_AT).await?;
    let drills: Vec<_> = drills.into_iter().filter(|d| d.backup_id == args.backup).collect();
    let value = json!({
        "cluster": cluster, "backup_id": record.backup_id, "kind": record.backup_id.kind(), "state": record.state.name(),
        "incarnation": record.incarnation, "parent": record.parent, "record": record.state,
        "asked": record.asked.as_ref().map(|a| json!({"at": a.at, "host": a.host, "reason": a.reason, "force": a.force, "request_key": a.request_key})),
        "manifest": manifest,
        "drills": drills.iter().map(|d| json!({"drill_id": d.drill_id, "state": d.state.name(), "execution": d.execution})).collect::<Vec<_>>(),
    });
    show(cx.json, &value, &text(&record, manifest.as_ref(), &drills));
    Ok(())
}

fn text(record: &BackupRecord, manifest: Option<&ManifestV1>, drills: &[DrillRecord]) -> String {
    let mut rows = vec![
        ("backup", record.backup_id.to_string()),
        ("cluster", record.cluster.to_string()),
        ("state", record.state.name().to_owned()),
        ("incarnation", record.incarnation.to_string()),
    ];
    rows.extend(record.parent.iter().map(|parent| ("continues", parent.to_string())));
    if let Some(asked) = &record.asked {
        rows.extend([("asked for", format!("{}, of {}", asked.at, asked.host)), ("because", asked.reason.clone())]);
    }
    match &record.state {
        State::Requested => {}
        State::Running { command_id, sent_at } => rows.push(("command", format!("{command_id}, sent {sent_at}"))),
        State::Failed { failure, message, failed_at } => rows.push(("failed", format!("{failed_at} ({failure}): {message}"))),
        State::Committed(committed) | State::Pruning(committed) => {
            rows.push(("committed", committed.committed_at.to_string()));
            rows.push(("chain begins with", committed.full.to_string()));
            rows.push(("manifest", format!("{} (SHA-256 {})", committed.manifest_key, committed.manifest_sha256)));
        }
    }
    if let Some(m) = manifest {
        let took = lasting(m.finished_at.duration_since(m.started_at).as_secs());
        let binlog = m.binlog.as_ref().map_or("none".to_owned(), |b| format!("{} {} {}", b.file, b.position, b.gtid));
        rows.extend([
            ("restore point", m.finished_at.to_string()),
            ("LSN", format!("{} to {}, last {}", m.from_lsn, m.to_lsn, m.last_lsn)),
            ("took", took),
            ("size", format!("{} restored, {} stored in {} objects", bytes(m.raw_bytes), bytes(m.stored_bytes), m.objects.len())),
            ("binlog", binlog),
            ("source", format!("{} {:?} {}", m.source.host_id, m.source.vendor, m.source.version)),
            ("tool", format!("{} {}", m.tool.name, m.tool.version)),
        ]);
    }
    let drill = |d: &DrillRecord| match &d.state {
        DrillState::Failed { reason, .. } => format!("{} failed: {reason}", d.drill_id),
        state => format!("{} {}", d.drill_id, state.name()),
    };
    match drills {
        [] => rows.push(("drills", "none of the newest drills restored this very point".to_owned())),
        drills => rows.extend(drills.iter().map(|d| ("drill", drill(d)))),
    }
    fields(&rows)
}
