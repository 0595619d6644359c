//! `backups`: the newest backups of a cluster, from the catalog; with `--bucket`, every committed one from the manifests alone.

use crate::deployment::{ClusterArgs, Context};
use crate::error::Result;
use crate::output::{bytes, show, table};
use highwater_aws::catalog::backups::{BackupRecord, State};
use highwater_aws::catalog::drills::{LOOKED_AT, State as DrillState};
use highwater_aws::manifests::read_catalog;
use highwater_aws::s3::Bucket;
use highwater_core::BackupId;
use highwater_core::manifest::ManifestV1;
use highwater_core::status::lasting;
use serde_json::{Value, json};
use std::collections::BTreeSet;

/// Arguments of `backups`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater backups --cluster orders\n  highwater backups --cluster orders --limit 500 --json\n  highwater backups --cluster orders --bucket my-backups    # without the control plane"
)]
pub(crate) struct BackupsArgs {
    #[command(flatten)]
    of: ClusterArgs,
    /// The most that are listed, the newest ones; with --bucket all are.
    #[arg(long, default_value_t = 50, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

pub(crate) async fn run(args: &BackupsArgs, cx: &Context) -> Result<()> {
    match &args.of.bucket {
        Some(bucket) => of_bucket(&Bucket::connect(bucket).await, args, cx).await,
        None => of_catalog(args, cx).await,
    }
}

/// From the catalog: what failed and what runs too, and what is proven.
async fn of_catalog(args: &BackupsArgs, cx: &Context) -> Result<()> {
    let (deployment, cluster) = (cx.deployment().await?, &args.of.cluster);
    deployment.config(cluster).await?;
    let catalog = deployment.catalog();
    let limit = usize::try_from(args.limit).unwrap_or(usize::MAX);
    let records = catalog.recent_backups(cluster, limit).await?;
    let drills = catalog.newest_drills(cluster, LOOKED_AT.max(limit)).await?;
    let proven: BTreeSet<_> = drills.into_iter().filter(|d| matches!(d.state, DrillState::Passed(_))).map(|d| d.backup_id).collect();
    let backups: Vec<_> =
        records.iter().rev().map(|record| Ok((record, record.stored()?.map(|stored| stored.manifest)))).collect::<Result<_>>()?;
    let value = json!({
        "cluster": cluster,
        "backups": backups.iter().map(|(record, manifest)| one(record, manifest.as_ref(), &proven)).collect::<Vec<_>>(),
    });
    let rows: Vec<_> = backups.iter().map(|(record, manifest)| row(record, manifest.as_ref(), &proven)).collect();
    let head = ["backup", "state", "parent", "restore point", "restored", "stored", "took", "proven"];
    let text = match rows.is_empty() {
        true => format!("cluster {cluster} has no backup yet: highwater backup now --cluster {cluster}\n"),
        false => table(&head, &rows),
    };
    show(cx.json, &value, &text);
    Ok(())
}

fn one(record: &BackupRecord, manifest: Option<&ManifestV1>, proven: &BTreeSet<BackupId>) -> Value {
    let mut value = manifest.map_or_else(|| json!({"backup_id": record.backup_id, "kind": record.backup_id.kind()}), described);
    value["state"] = json!(record.state.name());
    value["proven"] = json!(proven.contains(&record.backup_id));
    value["reason"] = json!(record.asked.as_ref().map(|asked| &asked.reason));
    if let State::Failed { failure, message, failed_at } = &record.state {
        value["failed"] = json!({"failure": failure, "message": message, "at": failed_at});
    }
    value
}

fn row(record: &BackupRecord, manifest: Option<&ManifestV1>, proven: &BTreeSet<BackupId>) -> Vec<String> {
    let parent = record.parent.as_ref().map_or("-".to_owned(), ToString::to_string);
    let state = match &record.state {
        State::Failed { failure, .. } => format!("failed ({failure})"),
        state => state.name().to_owned(),
    };
    let is_proven = if proven.contains(&record.backup_id) { "yes" } else { "-" };
    let mut row = vec![record.backup_id.to_string(), state, parent];
    row.extend(match manifest {
        Some(m) => [m.finished_at.to_string(), bytes(m.raw_bytes), bytes(m.stored_bytes), took(m)],
        None => ["-", "-", "-", "-"].map(str::to_owned),
    });
    row.push(is_proven.to_owned());
    row
}

fn took(m: &ManifestV1) -> String {
    lasting(m.finished_at.duration_since(m.started_at).as_secs())
}

fn described(m: &ManifestV1) -> Value {
    json!({
        "backup_id": m.backup_id, "kind": m.kind, "incarnation": m.incarnation, "parent": m.parent, "from_lsn": m.from_lsn,
        "to_lsn": m.to_lsn, "last_lsn": m.last_lsn, "raw_bytes": m.raw_bytes, "stored_bytes": m.stored_bytes,
        "started_at": m.started_at, "finished_at": m.finished_at, "host_id": m.source.host_id, "tool": m.tool,
    })
}

/// From the manifests alone: what is committed by them, and what they refuse.
async fn of_bucket(bucket: &Bucket, args: &BackupsArgs, cx: &Context) -> Result<()> {
    let catalog = read_catalog(bucket, &args.of.cluster).await?;
    let mut backups: Vec<_> = catalog.backups().map(|b| &b.manifest).collect();
    backups.sort_by_key(|m| m.finished_at);
    let rejected: Vec<_> = catalog.rejected().iter().map(|r| (&r.key, &r.refusal)).collect();
    let value = json!({
        "cluster": args.of.cluster,
        "backups": backups.iter().map(|m| described(m)).collect::<Vec<_>>(),
        "rejected": rejected.iter().map(|(key, why)| json!({"key": key, "rule": why.name(), "message": why.to_string()})).collect::<Vec<_>>(),
    });
    let rows: Vec<_> = backups
        .iter()
        .map(|m| {
            let parent = m.parent.as_ref().map_or("-".to_owned(), |p| p.backup_id.to_string());
            let lsns = [m.from_lsn, m.to_lsn, m.last_lsn].map(|l| l.to_string());
            let mut row = vec![m.backup_id.to_string(), m.kind.to_string(), parent];
            row.extend(lsns);
            row.extend([bytes(m.raw_bytes), bytes(m.stored_bytes), m.finished_at.to_string(), took(m)]);
            row
        })
        .collect();
    let head = ["backup", "kind", "parent", "from LSN", "to LSN", "last LSN", "restored", "stored", "finished", "took"];
    let mut text = match rows.is_empty() {
        true => format!("cluster {} has no committed backup\n", args.of.cluster),
        false => table(&head, &rows),
    };
    for (key, why) in rejected {
        text.push_str(&format!("not in the catalog: {key}: {why}\n"));
    }
    show(cx.json, &value, &text);
    Ok(())
}
