//! Clusters without a young restore point, or without a drill that passed lately: metrics, on which alarms stand.

use super::Reconcile;
use crate::error::{FunctionError, Name};
use crate::metrics::{Metric, emit};
use highwater_aws::catalog::head::Head;
use highwater_core::cluster::ClusterConfigV1;
use jiff::Timestamp;

/// How old the newest of a cluster's are; `None` where there is none.
#[derive(Debug, PartialEq)]
struct Ages {
    restore_point_hours: Option<f64>,
    passed_drill_days: Option<f64>,
}

impl Ages {
    fn of(head: &Head, now: Timestamp) -> Self {
        let hours = |at: Timestamp| now.duration_since(at).as_secs_f64() / 3600.0;
        Self {
            restore_point_hours: head.newest.as_ref().map(|newest| hours(newest.finished_at)),
            passed_drill_days: head.last_passed_drill.as_ref().map(|drill| hours(drill.at) / 24.0),
        }
    }

    /// Having none at all is overdue too.
    fn backup_is_overdue(&self, config: &ClusterConfigV1) -> bool {
        self.restore_point_hours.is_none_or(|hours| hours > f64::from(config.backup.overdue_hours))
    }

    fn drill_is_overdue(&self, config: &ClusterConfigV1) -> bool {
        self.passed_drill_days.is_none_or(|days| days > f64::from(config.drill.overdue_days))
    }

    fn metrics(&self) -> Vec<Metric> {
        let hours = self.restore_point_hours.map(|age| ("RestorePointAgeHours", "None", age));
        let days = self.passed_drill_days.map(|age| ("PassedDrillAgeDays", "None", age));
        hours.into_iter().chain(days).collect()
    }
}

impl Reconcile {
    /// Measures every configured cluster. A cluster that cannot be measured is an error, after the others were.
    pub(super) async fn overdue(&self) -> Result<Vec<String>, FunctionError> {
        let (mut did, mut errors) = (Vec::new(), Vec::new());
        let (mut backups, mut drills) = (0u32, 0u32);
        for config in self.ssm.clusters(&self.clusters).await? {
            let measured = match config {
                Ok(config) => self.catalog.head(&config.cluster).await.map(|head| (config, head)).map_err(FunctionError::from),
                Err(error) => Err(error.into()),
            };
            let (config, head) = match measured {
                Ok(measured) => measured,
                Err(error) => {
                    errors.push(error.message);
                    continue;
                }
            };
            let ages = Ages::of(&head, Timestamp::now());
            if ages.backup_is_overdue(&config) {
                backups += 1;
                did.push(format!("{}: no restore point is younger than {} hours", config.cluster, config.backup.overdue_hours));
            }
            if ages.drill_is_overdue(&config) {
                drills += 1;
                did.push(format!("{}: no drill passed within {} days", config.cluster, config.drill.overdue_days));
            }
            let metrics = ages.metrics();
            if !metrics.is_empty() {
                emit(&self.deployment, Some(&config.cluster), &metrics);
            }
        }
        // Written even as zero: silence is an alarm.
        emit(&self.deployment, None, &[("OverdueBackups", "Count", backups.into()), ("OverdueDrills", "Count", drills.into())]);
        if errors.is_empty() { Ok(did) } else { Err(FunctionError::new(Name::Permanent, errors.join("; "))) }
    }
}
