//! From a stream that is wholly uploaded to a manifest (I1, I5): checks first, then data, inventory, manifest.

use super::preflight::Ready;
use crate::crash::crash_point;
use crate::error::{Context, Error, Result};
use crate::server::Snapshot;
use crate::stream::{self, StagedStream};
use crate::tool::Checkpoints;
use crate::tool::files::{BACKUP_CNF, BINLOG_INFO, CHECKPOINTS, INFO, Info, REDO, parse_backup_cnf, parse_binlog_info};
use highwater_aws::s3::{Bucket, StoreErrorKind};
use highwater_core::identity::BinlogPosition;
use highwater_core::ids::backup_prefix;
use highwater_core::inventory::InventoryV1;
use highwater_core::manifest::{ManifestV1, ToolInfo};
use highwater_core::request::BackupRequestV1;
use highwater_core::{BackupKind, Document, Failure, Lsn, Sha256};
use jiff::Timestamp;
use std::collections::BTreeMap;

/// What the tool's own files say, once they agree with each other, the request and the server.
#[derive(Debug)]
pub(super) struct Checked {
    checkpoints: Checkpoints,
    binlog: Option<BinlogPosition>,
    redo_bytes: u64,
    raw_bytes: u64,
}

/// Checks a staged stream.
///
/// # Errors
/// `Tool`, naming what does not fit.
pub(super) fn check(staged: &StagedStream, ready: &Ready, request: &BackupRequestV1) -> Result<Checked> {
    let tool = ready.tool.name;
    let wrong = |reason: String| Error::new(Failure::Tool, format!("{tool} says completed OK!, but {reason}"));
    let find = |names: &[&str]| names.iter().find_map(|name| staged.metadata.get(*name)).map(Vec::as_slice);
    let needed = |names: &[&str]| find(names).ok_or_else(|| wrong(format!("its stream holds no {}", names.join(" or "))));

    let parse = |what: &str| format!("read {tool}'s {what}");
    let checkpoints = Checkpoints::parse(needed(&CHECKPOINTS)?).context(Failure::Tool, || parse("checkpoints"))?;
    if let Err(reason) = fits_request(&checkpoints, request) {
        return Err(wrong(reason));
    }
    let info = Info::parse(needed(&INFO)?).context(Failure::Tool, || parse("info"))?;
    if info.partial || info.incremental != (request.kind == BackupKind::Incremental) {
        return Err(wrong(format!("its info says partial = {}, incremental = {}", info.partial, info.incremental)));
    }
    if (info.innodb_from_lsn, info.innodb_to_lsn) != (checkpoints.from_lsn, checkpoints.to_lsn) {
        return Err(wrong(format!("its info says LSN {} to {}, its checkpoints other", info.innodb_from_lsn, info.innodb_to_lsn)));
    }
    let cnf = parse_backup_cnf(needed(&[BACKUP_CNF])?).context(Failure::Tool, || parse(BACKUP_CNF))?;
    let page_size = ready.facts.settings.innodb_page_size.to_string();
    if cnf.get("innodb_page_size") != Some(&page_size) {
        return Err(wrong(format!("its page size is {:?}, the server's {page_size}", cnf.get("innodb_page_size"))));
    }
    // The stream format has no end mark: a stream cut between two chunks looks whole (measured).
    if !INFO.contains(&staged.last_file.as_str()) {
        return Err(wrong(format!("its stream ends with {:?}, not with its info file", staged.last_file)));
    }
    let Some(redo) = staged.files.iter().find(|f| REDO.contains(&f.path.as_str())) else {
        return Err(wrong("its stream holds no redo".into()));
    };
    let binlog = match (find(&BINLOG_INFO), &ready.facts.binlog) {
        (Some(bytes), _) => Some(parse_binlog_info(bytes).context(Failure::Tool, || parse("binlog position"))?),
        (None, None) => None,
        (None, Some(_)) => return Err(wrong("its stream holds no binlog position, although the server writes a binlog".into())),
    };
    if let Some((name, _)) = staged.metadata.iter().find(|(_, bytes)| ready.access.secret_is_in(bytes)) {
        return Err(wrong(format!("{name} holds the password of the backup's user")));
    }
    let raw_bytes = staged.files.iter().map(|f| f.bytes).sum();
    Ok(Checked { redo_bytes: redo.bytes, raw_bytes, checkpoints, binlog })
}

/// Whether the LSNs are those that were asked for. The tools accept any number as a start and report success (measured).
fn fits_request(found: &Checkpoints, request: &BackupRequestV1) -> Result<(), String> {
    let Checkpoints { backup_type, from_lsn, to_lsn, last_lsn, .. } = found;
    let (expected_type, expected_from) = match &request.parent {
        None => ("full-backuped", Lsn::ZERO),
        Some(parent) => ("incremental", parent.link.to_lsn),
    };
    if backup_type != expected_type {
        return Err(format!("its checkpoints say {backup_type}, not {expected_type}"));
    }
    if *from_lsn != expected_from {
        return Err(format!("it starts at LSN {from_lsn}, not at {expected_from}"));
    }
    if from_lsn > to_lsn || to_lsn > last_lsn {
        return Err(format!("its LSNs are out of order: from {from_lsn} to {to_lsn}, last {last_lsn}"));
    }
    match &request.parent {
        Some(parent) if *last_lsn < parent.last_lsn => {
            Err(format!("its redo ends at LSN {last_lsn}, before its parent's at {}", parent.last_lsn))
        }
        _ => Ok(()),
    }
}

/// What is told of the run.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) request_sha256: Sha256,
    pub(super) attempt: u16,
    pub(super) started_at: Timestamp,
    pub(super) finished_at: Timestamp,
}

/// Publishes data, inventory and manifest, in this order, and reads the manifest back.
///
/// # Errors
/// `Damaged` when S3 holds something else than was sent; `Document` when the backup exists meanwhile; what the store says.
pub(super) async fn publish(
    bucket: &Bucket,
    request: &BackupRequestV1,
    ready: &Ready,
    run: Run,
    (staged, checked): (StagedStream, Checked),
    after: &Snapshot,
) -> Result<(ManifestV1, Sha256)> {
    let prefix = backup_prefix(&request.cluster, &request.incarnation, &request.backup_id);
    let (schemas, tables) = ready.before.facts_until(after);
    let inventory = InventoryV1 {
        format: InventoryV1::FORMAT.to_owned(),
        backup_id: request.backup_id.clone(),
        files: staged.files.clone(),
        schemas,
        tables,
    };
    let objects = staged.publish().await?;
    crash_point!("backup:objects");
    let inventory = stream::store_inventory(bucket, &prefix, run.attempt, &inventory).await?;
    crash_point!("backup:inventory");
    let Checked { checkpoints, binlog, redo_bytes, raw_bytes } = checked;
    let manifest = ManifestV1 {
        format: ManifestV1::FORMAT.to_owned(),
        cluster: request.cluster.clone(),
        incarnation: request.incarnation.clone(),
        backup_id: request.backup_id.clone(),
        kind: request.kind,
        parent: request.parent.as_ref().map(|p| p.link.clone()),
        request_sha256: run.request_sha256,
        from_lsn: checkpoints.from_lsn,
        to_lsn: checkpoints.to_lsn,
        last_lsn: checkpoints.last_lsn,
        started_at: run.started_at,
        finished_at: run.finished_at,
        tool: ToolInfo { name: ready.tool.name, version: ready.tool.version },
        source: ready.source.clone(),
        settings: ready.facts.settings.clone(),
        binlog,
        redo_bytes,
        raw_bytes,
        stored_bytes: objects.iter().map(|o| o.size).sum(),
        objects,
        inventory,
        helper_version: env!("CARGO_PKG_VERSION").to_owned(),
    };
    manifest.check().map_err(|reason| Error::new(Failure::Tool, format!("the manifest would be impossible: {reason}")))?;
    let bytes = manifest.to_bytes();
    store_manifest(bucket, &manifest, &bytes).await?;
    crash_point!("backup:manifest");
    Ok((manifest, Sha256::of(&bytes)))
}

async fn store_manifest(bucket: &Bucket, manifest: &ManifestV1, bytes: &[u8]) -> Result<()> {
    let key = manifest.key();
    let stored = match bucket.put_new(&key, bytes.to_vec().into(), "application/json").await {
        Ok(stored) => stored,
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
            let message = format!("{} was published by another run meanwhile; this one is given up", manifest.backup_id);
            return Err(Error::new(Failure::Document, message).because(error));
        }
        Err(error) => return Err(error.into()),
    };
    let found = bucket.get(&key, stored.version_id.as_deref(), bytes.len() as u64 + 1).await?;
    if found != bytes {
        return Err(Error::new(Failure::Damaged, format!("{key} does not hold the manifest that was just written")));
    }
    Ok(())
}

/// The metadata that a stream was judged by, for a debug line.
pub(super) fn names(metadata: &BTreeMap<String, Vec<u8>>) -> String {
    metadata.keys().map(String::as_str).collect::<Vec<_>>().join(" ")
}
