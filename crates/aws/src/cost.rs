//! What a cluster used in the last thirty days, for [`highwater_core::cost`]: read from the catalog, manifests left out.
//!
//! The reading grows with the number of kept backups (DynamoDB charges an item's size, whatever is projected): a few times a
//! day is right, every few minutes is not.

use crate::catalog::drills::LaunchedOn;
use crate::catalog::{CatalogError, CatalogTable};
use crate::table::Range;
use highwater_core::cost::{BackupUse, DrillUse, InstanceUse, MonthUse};
use highwater_core::{BackupId, ClusterId};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::collections::BTreeMap;

/// What an estimate looks back on.
pub const MONTH: SignedDuration = SignedDuration::from_hours(30 * 24);

#[derive(Debug, Deserialize)]
struct Backup {
    backup_id: BackupId,
    #[serde(default)]
    parent: Option<BackupId>,
    state: String,
    #[serde(default)]
    stored_bytes: u64,
    #[serde(default)]
    committed_at: Option<Timestamp>,
}

const BACKUP: [&str; 5] = ["backup_id", "parent", "state", "stored_bytes", "committed_at"];

#[derive(Debug, Deserialize)]
struct Drill {
    backup_id: BackupId,
    #[serde(default)]
    instance: Option<String>,
    #[serde(default)]
    launched: Option<LaunchedOn>,
    #[serde(default)]
    passed_at: Option<Timestamp>,
    #[serde(default)]
    failed_at: Option<Timestamp>,
    planned_at: Timestamp,
}

const DRILL: [&str; 6] = ["backup_id", "instance", "launched", "passed_at", "failed_at", "planned_at"];

/// What the cluster used.
///
/// # Errors
/// Those of the catalog.
pub async fn month_use(catalog: &CatalogTable, cluster: &ClusterId, now: Timestamp) -> Result<MonthUse, CatalogError> {
    let backups: Vec<Backup> = catalog.table.query_for(Range::prefixed(cluster, "backup#"), &BACKUP).await?;
    let drills: Vec<Drill> = catalog.table.query_for(Range::prefixed(cluster, "drill#"), &DRILL).await?;
    let window = catalog.window(cluster).await?;
    Ok(MonthUse { protected_bytes: window.catalog.newest_full().map_or(0, |full| full.manifest.raw_bytes), ..used(&backups, &drills, now) })
}

fn used(backups: &[Backup], drills: &[Drill], now: Timestamp) -> MonthUse {
    let is_recent = |at: Timestamp| now.duration_since(at) < MONTH;
    let committed: BTreeMap<_, _> = backups.iter().filter(|b| b.state == "committed").map(|b| (&b.backup_id, b)).collect();
    let fetched = |id: &BackupId| {
        let chain = std::iter::successors(committed.get(id), |b| b.parent.as_ref().and_then(|parent| committed.get(parent)));
        chain.take(committed.len()).map(|b| b.stored_bytes).fold(0, u64::saturating_add)
    };
    let drill = |d: &Drill| {
        let ended = d.passed_at.or(d.failed_at).filter(|at| is_recent(*at))?;
        let since = |at: Timestamp| ended.duration_since(at).as_secs_f64().max(0.0);
        let instance = match (&d.launched, &d.instance) {
            (Some(on), _) => {
                Some(InstanceUse { instance_type: Some(on.instance_type.clone()), volume_gib: on.volume_gib, seconds: since(on.at) })
            }
            (None, Some(_)) => Some(InstanceUse { instance_type: None, volume_gib: 0, seconds: since(d.planned_at) }),
            (None, None) => None,
        };
        let fetched_bytes = if instance.is_some() { fetched(&d.backup_id) } else { 0 };
        Some(DrillUse { instance, fetched_bytes })
    };
    let made = backups.iter().filter(|b| b.committed_at.is_some_and(is_recent));
    MonthUse {
        kept_bytes: committed.values().map(|b| b.stored_bytes).fold(0, u64::saturating_add),
        protected_bytes: 0,
        backups: made.map(|b| BackupUse { stored_bytes: b.stored_bytes }).collect(),
        drills: drills.iter().filter_map(drill).collect(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(day: i64) -> Timestamp {
        "2026-11-01T00:00:00Z".parse::<Timestamp>().unwrap() + SignedDuration::from_hours(24 * day)
    }

    fn backup(day: i64, parent: Option<&Backup>, state: &str, stored_bytes: u64) -> Backup {
        let kind = if parent.is_some() { highwater_core::BackupKind::Incremental } else { highwater_core::BackupKind::Full };
        let parent = parent.map(|p| p.backup_id.clone());
        Backup { backup_id: BackupId::new(at(day), kind, 1), parent, state: state.into(), stored_bytes, committed_at: Some(at(day)) }
    }

    #[test]
    fn a_month_counts_what_ended_in_it_and_everything_that_is_kept() {
        let old = backup(0, None, "committed", 100);
        let full = backup(20, None, "committed", 1000);
        let incremental = backup(25, Some(&full), "committed", 10);
        let failed = Backup { committed_at: None, stored_bytes: 0, ..backup(26, None, "failed", 0) };
        let launched = Some(LaunchedOn { instance_type: "m7i.large".into(), volume_gib: 100, at: at(30) });
        let drill = Drill {
            backup_id: incremental.backup_id.clone(),
            instance: Some("i-1".into()),
            launched,
            passed_at: Some(at(30) + SignedDuration::from_mins(10)),
            failed_at: None,
            planned_at: at(30),
        };
        let before =
            Drill { passed_at: Some(at(1)), backup_id: old.backup_id.clone(), launched: None, instance: None, ..drill_like(&drill) };
        let never_launched = Drill { passed_at: None, failed_at: Some(at(31)), launched: None, instance: None, ..drill_like(&drill) };
        let used = used(&[old, full, incremental, failed], &[drill, before, never_launched], at(32));
        assert_eq!((used.kept_bytes, used.backups.len(), used.drills.len()), (1110, 2, 2));
        let instance = used.drills[0].instance.as_ref().unwrap();
        assert_eq!((instance.seconds, instance.volume_gib, used.drills[0].fetched_bytes), (600.0, 100, 1010));
        assert_eq!(used.drills[1], DrillUse { instance: None, fetched_bytes: 0 });
    }

    fn drill_like(d: &Drill) -> Drill {
        let (backup_id, instance, launched) = (d.backup_id.clone(), d.instance.clone(), d.launched.clone());
        Drill { backup_id, instance, launched, passed_at: d.passed_at, failed_at: d.failed_at, planned_at: d.planned_at }
    }
}
