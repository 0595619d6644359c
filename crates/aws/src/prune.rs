//! Retention of one cluster: the decision, and what carries it out. A dry run is the decision alone.
//!
//! Order: a mark in the catalog (from then on it is no restore point), then the manifest (from then on a rebuild does not
//! find it), then its other objects, then the record. Children go before their parents. A crash anywhere leaves marked
//! records, and the next run goes on with them. Locks are looked at before the mark: a locked backup stays a restore point.

pub mod report;

use crate::catalog::prune::{Brief, MARKS, Shelf};
use crate::catalog::{CatalogError, CatalogTable};
use crate::manifests::each;
use crate::s3::{Bucket, StoreError, StoreErrorKind};
use crate::table::TableError;
use crate::versions::Version;
use highwater_core::audit::{ObjectId, objects_of_backup};
use highwater_core::cluster::KeepConfig;
use highwater_core::ids::{backup_prefix, cluster_prefix, request_key};
use highwater_core::manifest::MANIFEST_NAME;
use highwater_core::retention::{Hold, Retention, remains_may_go, retain};
use highwater_core::{BackupId, ClusterId, Incarnation};
use jiff::Timestamp;
use serde::Serialize;
use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

/// The most backups that one run marks, and the most remains that it removes; the rest is for the next run.
const PER_RUN: usize = 1000;

/// The most unknown backups that are named: with more, the catalog is not one to sweep by.
const UNKNOWN_NAMED: usize = 20;

/// How often a run decides again because the catalog changed under it.
const ATTEMPTS: usize = 5;

/// Why retention could not be decided or carried out.
#[derive(Debug, thiserror::Error)]
pub enum PruneError {
    /// The catalog.
    #[error(transparent)]
    Catalog(#[from] CatalogError),
    /// The bucket.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<TableError> for PruneError {
    fn from(error: TableError) -> Self {
        Self::Catalog(error.into())
    }
}

/// What is to be done with a cluster.
#[derive(Debug, Clone)]
pub struct Decision {
    /// Every committed backup: kept, held by a lock, or to be deleted now.
    pub retention: Retention,
    /// How many more are to be deleted by later runs.
    pub later: usize,
    /// What earlier runs marked and did not finish, children before parents.
    pub marked: Vec<Brief>,
    /// What backups that came to nothing have left in the bucket.
    pub remains: Vec<Remains>,
    /// Backups with a manifest in the bucket that the catalog does not know. They are left alone.
    pub unknown: Vec<BackupId>,
    shelf: Shelf,
}

impl Decision {
    /// Bytes of the committed backups that stay, data only.
    pub fn kept_bytes(&self) -> u64 {
        let going: BTreeSet<_> = self.retention.deleted.iter().map(|d| &d.backup_id).collect();
        self.shelf.in_state("committed").filter(|b| !going.contains(&b.backup_id)).map(|b| b.stored_bytes).sum()
    }
}

/// Objects below the prefix of a backup that never became a restore point.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remains {
    /// The backup.
    pub backup_id: BackupId,
    /// Bytes, all versions.
    pub bytes: u64,
    /// A lock that still holds them.
    pub hold: Option<Hold>,
    versions: Vec<Version>,
}

/// What was done.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Done {
    /// Backups whose objects and records are gone.
    pub deleted: Vec<BackupId>,
    /// Backups whose remains are gone.
    pub swept: Vec<BackupId>,
    /// Bytes of all deleted versions.
    pub freed_bytes: u64,
    /// Marked, but not gone yet, and why.
    pub unfinished: BTreeMap<BackupId, String>,
}

/// Decides for a cluster. Reads only.
///
/// # Errors
/// Those of the catalog and the bucket.
pub async fn decide(
    catalog: &CatalogTable,
    bucket: &Bucket,
    cluster: &ClusterId,
    keep: &KeepConfig,
    now: Timestamp,
) -> Result<Decision, PruneError> {
    let mut shelf = catalog.shelf(cluster, now).await?;
    let points = shelf.points();
    let candidates: Vec<_> = retain(&points, keep, &shelf.facts).deleted.into_iter().map(|d| d.backup_id).collect();
    let considered: BTreeSet<_> = candidates.iter().take(PER_RUN).cloned().collect();
    let locks = each(considered.iter().cloned(), |id| lock_of(catalog.clone(), bucket.clone(), cluster.clone(), id, now)).await?;
    shelf.facts.locked = locks.into_iter().filter_map(|(id, hold)| Some((id, hold?))).collect();
    let mut retention = retain(&points, keep, &shelf.facts);
    let undecided = retention.deleted.len();
    retention.deleted.retain(|d| considered.contains(&d.backup_id));
    let later = undecided - retention.deleted.len();
    let (remains, unknown) = remains(bucket, cluster, &shelf, now).await?;
    Ok(Decision { retention, later, marked: shelf.in_state("pruning").cloned().collect(), remains, unknown, shelf })
}

/// Decides and carries it out until `deadline`: no backup is begun after it.
///
/// # Errors
/// `Contended` when the catalog kept changing; those of the catalog and the bucket. What was marked stays marked.
pub async fn prune(
    catalog: &CatalogTable,
    bucket: &Bucket,
    cluster: &ClusterId,
    keep: &KeepConfig,
    now: Timestamp,
    deadline: Instant,
) -> Result<(Decision, Done), PruneError> {
    for _ in 0..ATTEMPTS {
        let decision = decide(catalog, bucket, cluster, keep, now).await?;
        if mark(catalog, cluster, &decision).await? {
            let done = carry_out(catalog, bucket, cluster, &decision, now, deadline).await?;
            return Ok((decision, done));
        }
    }
    Err(CatalogError::Contended { cluster: cluster.clone(), doing: "retention marked backups" }.into())
}

/// Marks what is to be deleted; `false` when the catalog is not the one decided on any more.
async fn mark(catalog: &CatalogTable, cluster: &ClusterId, decision: &Decision) -> Result<bool, PruneError> {
    let ids: Vec<_> = decision.retention.deleted.iter().map(|d| d.backup_id.clone()).collect();
    let mut head = decision.shelf.head.clone();
    for ids in ids.chunks(MARKS) {
        let Some(records) = catalog.committed_records(cluster, ids).await? else { return Ok(false) };
        let Some(next) = catalog.mark(cluster, &head, &records).await? else { return Ok(false) };
        head = next;
    }
    Ok(true)
}

async fn carry_out(
    catalog: &CatalogTable,
    bucket: &Bucket,
    cluster: &ClusterId,
    decision: &Decision,
    now: Timestamp,
    deadline: Instant,
) -> Result<Done, PruneError> {
    let mut done = Done::default();
    let briefs: BTreeMap<_, _> = decision.shelf.backups.iter().map(|b| (&b.backup_id, b)).collect();
    let new = decision.retention.deleted.iter().filter_map(|d| briefs.get(&d.backup_id).copied());
    // Who planned with a backup before the mark has recorded it by now, or is refused: from here on nobody can begin to use one.
    let again = catalog.shelf(cluster, now).await?;
    let in_use = again.marked_in_use();
    let mut waiting: BTreeSet<BackupId> = BTreeSet::new();
    for brief in decision.marked.iter().chain(new) {
        let id = &brief.backup_id;
        let gone = if let Some(by) = in_use.get(id) {
            Err(format!("{by} uses it"))
        } else if waiting.contains(id) {
            Err("a backup that needs it is not gone yet".to_owned())
        } else if Instant::now() >= deadline {
            Err("the run's time was over: the next run goes on".to_owned())
        } else {
            let prefix = backup_prefix(cluster, &brief.incarnation, id);
            delete(bucket, versions_of(bucket, cluster, &prefix, id).await?).await?.map_err(|hold| hold.to_string())
        };
        match gone {
            Ok(bytes) => {
                let marked = Brief { state: "pruning".to_owned(), ..brief.clone() };
                catalog.forget(cluster, &marked).await?;
                tracing::info!(%cluster, backup_id = %id, bytes, "deleted");
                done.freed_bytes += bytes;
                done.deleted.push(id.clone());
            }
            Err(why) => {
                waiting.extend(brief.parent.clone());
                done.unfinished.insert(id.clone(), why);
            }
        }
    }
    for left in decision.remains.iter().filter(|r| r.hold.is_none()) {
        if Instant::now() >= deadline {
            break;
        }
        if let Ok(bytes) = delete(bucket, left.versions.clone()).await? {
            tracing::info!(%cluster, backup_id = %left.backup_id, bytes, "remains of a failed backup deleted");
            done.freed_bytes += bytes;
            done.swept.push(left.backup_id.clone());
        }
    }
    Ok(done)
}

/// What holds any of a committed backup's objects. One that is missing is held by nothing.
async fn lock_of(
    catalog: CatalogTable,
    bucket: Bucket,
    cluster: ClusterId,
    id: BackupId,
    now: Timestamp,
) -> Result<(BackupId, Option<Hold>), PruneError> {
    let record = catalog.backup(&cluster, &id).await?;
    let mut last = None;
    // A record that changed meanwhile is noticed by the mark.
    let stored = record.map(|record| record.stored()).transpose()?.flatten();
    for object in stored.iter().flat_map(objects_of_backup) {
        last = last.max(hold_of(&bucket, &object, now).await?);
    }
    Ok((id, last))
}

async fn hold_of(bucket: &Bucket, object: &ObjectId, now: Timestamp) -> Result<Option<Hold>, StoreError> {
    match bucket.lock(object).await {
        Ok(lock) => Ok(lock.hold(now)),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
        Err(error) => Err(error),
    }
}

/// Everything below a backup's prefix, and its request.
async fn versions_of(bucket: &Bucket, cluster: &ClusterId, prefix: &str, id: &BackupId) -> Result<Vec<Version>, StoreError> {
    let mut versions = bucket.versions(prefix).await?;
    versions.extend(bucket.versions(&request_key(cluster, id)).await?);
    Ok(versions)
}

/// Deletes versions: manifests first, then the other objects, then the markers that may hide them. Gives the bytes, or the
/// lock that did not let it finish.
async fn delete(bucket: &Bucket, versions: Vec<Version>) -> Result<Result<u64, Hold>, StoreError> {
    let bytes = versions.iter().map(|v| v.size).sum();
    let stage = |v: &Version| if v.is_marker { 2 } else { usize::from(!v.key.ends_with(MANIFEST_NAME)) };
    for at in 0..3 {
        let these = versions.iter().filter(|v| stage(v) == at).cloned();
        let deleted = each(these, |v| {
            let bucket = bucket.clone();
            async move { bucket.delete_version(&v.key, &v.version_id).await }
        });
        match deleted.await {
            Ok(_) => {}
            Err(error) if error.kind == StoreErrorKind::AccessDenied => return held_by(bucket, &versions).await?.map(Err).ok_or(error),
            Err(error) => return Err(error),
        }
    }
    Ok(Ok(bytes))
}

async fn held_by(bucket: &Bucket, versions: &[Version]) -> Result<Option<Hold>, StoreError> {
    let now = Timestamp::now();
    let objects = versions.iter().filter(|v| !v.is_marker).map(|v| ObjectId { key: v.key.clone(), version_id: Some(v.version_id.clone()) });
    let holds = each(objects, |object| {
        let bucket = bucket.clone();
        async move { hold_of(&bucket, &object, now).await }
    });
    Ok(holds.await?.into_iter().max().flatten())
}

/// What lies in the bucket for backups that are no restore points: of failed ones everything, also a refused manifest; of
/// ones that the catalog does not know only what has no manifest. Those with one are named: a rebuild may know better.
async fn remains(bucket: &Bucket, cluster: &ClusterId, shelf: &Shelf, now: Timestamp) -> Result<(Vec<Remains>, Vec<BackupId>), StoreError> {
    let known: BTreeMap<_, _> = shelf.backups.iter().map(|b| (&b.backup_id, b)).collect();
    let newest = shelf.head.newest.as_ref().map(|newest| newest.finished_at);
    let (mut remains, mut unknown) = (Vec::new(), Vec::new());
    for (incarnation, backup_id) in backup_folders(bucket, cluster).await? {
        let record = known.get(&backup_id);
        let failed = record.is_some_and(|b| b.state == "failed" && b.open.is_none() && b.incarnation == incarnation);
        if !(failed || record.is_none()) || !remains_may_go(&backup_id, newest, now) || remains.len() == PER_RUN {
            continue;
        }
        let prefix = backup_prefix(cluster, &incarnation, &backup_id);
        let versions = versions_of(bucket, cluster, &prefix, &backup_id).await?;
        if !failed && versions.iter().any(|v| v.key == format!("{prefix}{MANIFEST_NAME}")) {
            unknown.push(backup_id);
            if unknown.len() == UNKNOWN_NAMED {
                break;
            }
            continue;
        }
        let hold = held_by(bucket, &versions).await?;
        remains.push(Remains { backup_id, bytes: versions.iter().map(|v| v.size).sum(), hold, versions });
    }
    Ok((remains, unknown))
}

/// Every folder of a backup: incarnation and id. Other folders (drills, requests, promotions) are none.
pub async fn backup_folders(bucket: &Bucket, cluster: &ClusterId) -> Result<Vec<(Incarnation, BackupId)>, StoreError> {
    let last = |folder: &str| folder.trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned();
    let mut found = Vec::new();
    for folder in bucket.folders(&cluster_prefix(cluster)).await? {
        let Ok(incarnation) = last(&folder).parse::<Incarnation>() else { continue };
        let ids = bucket.folders(&folder).await?.into_iter().filter_map(|folder| last(&folder).parse().ok());
        found.extend(ids.map(|id| (incarnation.clone(), id)));
    }
    Ok(found)
}
