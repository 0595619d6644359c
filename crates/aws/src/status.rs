//! A cluster's status, gathered from the catalog: six small reads, whatever the number of backups.

use crate::catalog::backups::State as BackupState;
use crate::catalog::drills::{DrillRecord, LOOKED_AT, State as DrillRecordState};
use crate::catalog::head::{Head, PassedDrill};
use crate::catalog::promotions::State as PromotionState;
use crate::catalog::{CatalogError, CatalogTable};
use highwater_core::ClusterId;
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::status::{ClusterStatus, Drill, DrillState, Facts, FailedBackup, OpenRequest, Proven, StuckPromotion};
use jiff::Timestamp;

/// Requests and promotions that are looked at: those before them are superseded.
const RECENT: usize = 3;

/// The status of a cluster at `now`.
///
/// # Errors
/// Those of the catalog.
pub async fn gather(catalog: &CatalogTable, config: &ClusterConfigV1, now: Timestamp) -> Result<ClusterStatus, CatalogError> {
    let cluster = &config.cluster;
    let window = catalog.window(cluster).await?;
    let lease = catalog.lease(cluster).await?;
    let drills = catalog.newest_drills(cluster, LOOKED_AT).await?;
    let facts = Facts {
        config,
        catalog: &window.catalog,
        proven: proven(catalog, cluster, &window.head).await?,
        last_failure: last_failure(&window.head),
        owed: window.head.owed.as_ref(),
        drills: drills.into_iter().map(drill).collect(),
        lease: &lease,
        stuck: stuck(catalog, cluster).await?,
        requests: requests(catalog, cluster).await?,
    };
    Ok(ClusterStatus::of(facts, now))
}

async fn proven(catalog: &CatalogTable, cluster: &ClusterId, head: &Head) -> Result<Option<Proven>, CatalogError> {
    let Some(PassedDrill { drill_id, backup_id, at }) = &head.last_passed_drill else {
        return Ok(None);
    };
    // The head's text came from an id, or from a rebuild's listing: what is none has proven nothing that can be shown.
    let Ok(drill_id) = drill_id.parse() else {
        return Ok(None);
    };
    let time = match catalog.backup(cluster, backup_id).await?.map(|record| record.state) {
        Some(BackupState::Committed(committed)) => Some(committed.finished_at),
        _ => None,
    };
    Ok(Some(Proven { backup_id: backup_id.clone(), time, drill_id, passed_at: *at }))
}

fn last_failure(head: &Head) -> Option<FailedBackup> {
    let failed = head.last_failure.clone()?;
    Some(FailedBackup { backup_id: failed.backup_id, failure: failed.failure, message: failed.message, at: failed.at })
}

fn drill(record: DrillRecord) -> Drill {
    let step = record.state.name();
    let has_report = matches!(&record.state, DrillRecordState::Passed(_) | DrillRecordState::Failed { report: Some(_), .. });
    let state = match record.state {
        DrillRecordState::Passed(passed) => DrillState::Passed { at: passed.finished_at, measured: passed.measured },
        DrillRecordState::Failed { reason, failed_at, .. } => DrillState::Failed { at: failed_at, reason },
        _ => DrillState::Open { step },
    };
    Drill { drill_id: record.drill_id, backup_id: record.backup_id, has_report, state }
}

async fn stuck(catalog: &CatalogTable, cluster: &ClusterId) -> Result<Option<StuckPromotion>, CatalogError> {
    let recent = catalog.recent_promotions(cluster, RECENT).await?;
    Ok(recent.into_iter().find_map(|record| match record.state {
        PromotionState::Stuck { reason, since } => Some(StuckPromotion { id: record.id, host: record.host, reason, since }),
        _ => None,
    }))
}

async fn requests(catalog: &CatalogTable, cluster: &ClusterId) -> Result<Vec<OpenRequest>, CatalogError> {
    let recent = catalog.recent_approvals(cluster, RECENT).await?;
    let open = recent.into_iter().map(|record| record.request).filter(|request| !request.state.is_closed());
    Ok(open
        .map(|request| OpenRequest {
            is_waiting: request.question.is_some(),
            expires_at: request.question.map(|question| question.expires_at),
            id: request.id,
        })
        .collect())
}
