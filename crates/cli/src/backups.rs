//! `backups`.

use crate::ClusterArgs;
use crate::error::Result;
use crate::output::{bytes, show, table};
use highwater_aws::manifests::read_catalog;
use serde_json::json;

/// Arguments of `backups`.
#[derive(Debug, clap::Args)]
pub(crate) struct BackupsArgs {
    #[command(flatten)]
    of: ClusterArgs,
}

pub(crate) async fn run(args: &BackupsArgs, json: bool) -> Result<()> {
    let catalog = read_catalog(&args.of.connect().await, &args.of.cluster).await?;
    let mut backups: Vec<_> = catalog.backups().map(|b| &b.manifest).collect();
    backups.sort_by_key(|m| m.finished_at);
    let rejected: Vec<_> = catalog.rejected().iter().map(|r| (&r.key, &r.refusal)).collect();
    let value = json!({
        "cluster": args.of.cluster,
        "backups": backups.iter().map(|m| json!({
            "backup_id": m.backup_id, "kind": m.kind, "incarnation": m.incarnation, "parent": m.parent, "from_lsn": m.from_lsn,
            "to_lsn": m.to_lsn, "last_lsn": m.last_lsn, "raw_bytes": m.raw_bytes, "stored_bytes": m.stored_bytes,
            "started_at": m.started_at, "finished_at": m.finished_at, "host_id": m.source.host_id, "tool": m.tool,
        })).collect::<Vec<_>>(),
        "rejected": rejected.iter().map(|(key, why)| json!({"key": key, "rule": why.name(), "message": why.to_string()})).collect::<Vec<_>>(),
    });
    let rows: Vec<_> = backups
        .iter()
        .map(|m| {
            let parent = m.parent.as_ref().map_or("-".to_owned(), |p| p.backup_id.to_string());
            let lsns = [m.from_lsn, m.to_lsn, m.last_lsn].map(|l| l.to_string());
            let took = m.finished_at.duration_since(m.started_at).as_secs();
            let mut row = vec![m.backup_id.to_string(), m.kind.to_string(), parent];
            row.extend(lsns);
            row.extend([bytes(m.raw_bytes), bytes(m.stored_bytes), m.finished_at.to_string(), format!("{took} s")]);
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
    show(json, &value, &text);
    Ok(())
}
