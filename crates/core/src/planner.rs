//! From a target to a restore plan: which restore point is meant, and the exact objects that lead to it.

use crate::catalog::{Catalog, StoredManifest};
use crate::chain::{BrokenLink, Refusal};
use crate::document::Document;
use crate::ids::BackupId;
use crate::plan::{PlanServer, PlanStep, RestorePlanV1, RestorePoint, Target};
use crate::{Failure, Lsn};
use jiff::Timestamp;
use std::fmt;

/// Why no plan was made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// The catalog is empty.
    #[error("cluster {cluster} has no committed backup")]
    NoBackup {
        /// The cluster.
        cluster: String,
    },
    /// No backup of this id was ever seen.
    #[error("no backup {asked} is known; {near}. {FORMS}")]
    UnknownBackup {
        /// The id asked for.
        asked: BackupId,
        /// What is near.
        near: Box<Nearest>,
    },
    /// The backup exists and was refused.
    #[error("backup {asked} is not committed: {refusal}; {near}")]
    NotCommitted {
        /// The id asked for.
        asked: BackupId,
        /// Why it is not committed.
        refusal: Box<Refusal>,
        /// What is near.
        near: Box<Nearest>,
    },
    /// Every restore point is after the target.
    #[error("no restore point is at or before {target}; {near}. {FORMS}")]
    TooEarly {
        /// The target.
        target: String,
        /// What is near.
        near: Box<Nearest>,
    },
    /// The catalog holds a link that does not hold.
    #[error("{0}")]
    Broken(Box<BrokenLink>),
    /// The plan contradicts itself: a bug, or a catalog that was tampered with.
    #[error("the plan would be impossible: {reason}")]
    Impossible {
        /// The rule that is broken.
        reason: String,
    },
}

impl PlanError {
    /// The class, for exit codes and error names.
    pub fn failure(&self) -> Failure {
        match self {
            Self::NoBackup { .. } | Self::UnknownBackup { .. } | Self::TooEarly { .. } => Failure::Document,
            Self::NotCommitted { .. } | Self::Broken(_) | Self::Impossible { .. } => Failure::Damaged,
        }
    }
}

/// The forms of a target.
pub const FORMS: &str = "A target is latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z";

/// The restore points around a target that matched none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Nearest {
    /// The newest before it.
    pub before: Option<Point>,
    /// The oldest after it.
    pub after: Option<Point>,
}

/// A restore point in an error message.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// Its backup.
    pub backup_id: BackupId,
    /// Its time.
    pub time: Timestamp,
    /// Its LSN.
    pub last_lsn: Lsn,
}

impl fmt::Display for Nearest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let point = |p: &Point| format!("{} ({}, lsn:{})", p.backup_id, p.time, p.last_lsn);
        match (&self.before, &self.after) {
            (Some(before), Some(after)) => write!(f, "the nearest restore points are {} before and {} after", point(before), point(after)),
            (Some(one), None) => write!(f, "the nearest restore point is {}", point(one)),
            (None, Some(one)) => write!(f, "the earliest restore point is {}", point(one)),
            (None, None) => f.write_str("there is no other restore point"),
        }
    }
}

/// The plan that restores `target`. The same catalog gives the same plan, except for `created_at`.
///
/// # Errors
/// See [`PlanError`]. A plan is never made through a link that does not hold.
pub fn plan_restore(catalog: &Catalog, target: &Target, bucket: &str, now: Timestamp) -> Result<RestorePlanV1, PlanError> {
    let point = resolve(catalog, target)?;
    let path = catalog.path_to(point.id()).map_err(|broken| PlanError::Broken(Box::new(broken)))?;
    let manifest = &point.manifest;
    let plan = RestorePlanV1 {
        format: RestorePlanV1::FORMAT.to_owned(),
        cluster: catalog.cluster().clone(),
        incarnation: manifest.incarnation.clone(),
        target: target.clone(),
        bucket: bucket.to_owned(),
        created_at: now,
        server: PlanServer { vendor: manifest.source.vendor, version: manifest.source.version, settings: manifest.settings.clone() },
        point: RestorePoint {
            backup_id: point.id().clone(),
            last_lsn: manifest.last_lsn,
            time: manifest.finished_at,
            binlog: manifest.binlog.clone(),
        },
        steps: path.into_iter().map(step).collect(),
    };
    plan.check().map_err(|reason| PlanError::Impossible { reason })?;
    Ok(plan)
}

fn step(stored: &StoredManifest) -> PlanStep {
    let m = &stored.manifest;
    PlanStep {
        backup_id: m.backup_id.clone(),
        kind: m.kind,
        from_lsn: m.from_lsn,
        to_lsn: m.to_lsn,
        tool: m.tool.clone(),
        redo_bytes: m.redo_bytes,
        raw_bytes: m.raw_bytes,
        manifest: stored.object_ref(),
        objects: m.objects.clone(),
        inventory: m.inventory.clone(),
    }
}

/// The restore point that a target means: the newest not after it.
fn resolve<'a>(catalog: &'a Catalog, target: &Target) -> Result<&'a StoredManifest, PlanError> {
    let newest = catalog.newest();
    match target {
        Target::Backup(id) => match catalog.get(id) {
            Some(stored) => Ok(stored),
            None => Err(unknown(catalog, id)),
        },
        _ if newest.is_none() => Err(PlanError::NoBackup { cluster: catalog.cluster().to_string() }),
        Target::Latest => newest.ok_or_else(|| PlanError::NoBackup { cluster: catalog.cluster().to_string() }),
        Target::Time(at) => {
            let not_after = catalog.backups().filter(|b| b.manifest.finished_at <= *at);
            not_after.max_by_key(|b| b.order()).ok_or_else(|| too_early(target, catalog.backups().min_by_key(|b| b.order())))
        }
        Target::Lsn(lsn) => {
            // LSNs of different incarnations say nothing about each other: only the newest is searched.
            let here: Vec<_> =
                catalog.backups().filter(|b| newest.is_some_and(|n| n.manifest.incarnation == b.manifest.incarnation)).collect();
            let by_lsn = |b: &&'a StoredManifest| (b.manifest.last_lsn, b.manifest.finished_at, b.id());
            let not_after = here.iter().copied().filter(|b| b.manifest.last_lsn <= *lsn);
            not_after.max_by_key(by_lsn).ok_or_else(|| too_early(target, here.iter().copied().min_by_key(by_lsn)))
        }
    }
}

fn too_early(target: &Target, earliest: Option<&StoredManifest>) -> PlanError {
    PlanError::TooEarly { target: target.to_string(), near: Box::new(Nearest { before: None, after: earliest.map(as_point) }) }
}

fn unknown(catalog: &Catalog, id: &BackupId) -> PlanError {
    let near = Box::new(Nearest {
        before: catalog.backups().filter(|b| b.id() < id).max_by_key(|b| b.id()).map(as_point),
        after: catalog.backups().filter(|b| b.id() > id).min_by_key(|b| b.id()).map(as_point),
    });
    match catalog.rejected().iter().find(|r| r.backup_id().as_ref() == Some(id)) {
        Some(rejected) => PlanError::NotCommitted { asked: id.clone(), refusal: Box::new(rejected.refusal.clone()), near },
        None => PlanError::UnknownBackup { asked: id.clone(), near },
    }
}

fn as_point(stored: &StoredManifest) -> Point {
    Point { backup_id: stored.id().clone(), time: stored.manifest.finished_at, last_lsn: stored.manifest.last_lsn }
}
