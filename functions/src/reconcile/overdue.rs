//! What needs a person, of every cluster: metrics, on which alarms stand. The status page and `highwater status` say the same,
//! because all three ask [`gather`].

use super::{Reconcile, Run};
use crate::metrics::{Metric, emit};
use highwater_aws::status::gather;
use highwater_core::status::{ClusterStatus, Need};
use jiff::Timestamp;

/// The metrics that count clusters in need.
const COUNTED: [&str; 6] = ["OverdueBackups", "OverdueDrills", "BrokenChains", "FailingBackups", "StuckLeases", "RestoresOverTarget"];

/// The metric that counts clusters with such a need; none where another one does.
fn counted(need: &Need) -> Option<&'static str> {
    match need {
        Need::BackupsOverdue { .. } => Some("OverdueBackups"),
        Need::DrillsOverdue { .. } => Some("OverdueDrills"),
        Need::ChainBroken { .. } => Some("BrokenChains"),
        Need::BackupsFailed { .. } => Some("FailingBackups"),
        Need::LeaseStuck { .. } => Some("StuckLeases"),
        Need::RtoOverTarget { .. } => Some("RestoresOverTarget"),
        // Counted where it is looked after, also of a cluster that is not configured any more.
        Need::PromotionStuck { .. } => None,
        // The machine's own: it also knows the drills that never had a record.
        Need::DrillsFailed { .. } => None,
    }
}

fn measured(status: &ClusterStatus, now: Timestamp) -> Vec<Metric> {
    let hours = status.newest.as_ref().map(|point| ("RestorePointAgeHours", "None", point.age_seconds as f64 / 3600.0));
    let proven = status.proven.as_ref().map(|proven| now.duration_since(proven.passed_at).as_secs_f64().max(0.0));
    let days = proven.map(|seconds| ("PassedDrillAgeDays", "None", seconds / 86_400.0));
    let restore = status.rto.expected_seconds.map(|seconds| ("ExpectedRestoreSeconds", "Seconds", seconds as f64));
    [hours, days, restore].into_iter().flatten().collect()
}

impl Reconcile {
    /// Measures every configured cluster. A cluster that cannot be measured is an error, after the others were.
    pub(super) async fn overdue(&self, run: &mut Run) {
        let mut counts = COUNTED.map(|name| (name, "Count", 0.0));
        for config in run.of(self.ssm.clusters(&self.clusters).await) {
            let now = Timestamp::now();
            let status = match gather(&self.catalog, &config, now).await {
                Ok(status) => status,
                Err(error) => {
                    run.fail(error);
                    continue;
                }
            };
            for need in &status.needs {
                run.did.push(format!("{}: {need}", status.cluster));
                counts.iter_mut().filter(|(name, _, _)| counted(need) == Some(*name)).for_each(|(_, _, n)| *n += 1.0);
            }
            let metrics = measured(&status, now);
            if !metrics.is_empty() {
                emit(&self.deployment, Some(&status.cluster), &metrics);
            }
        }
        // Written even as zero: silence is an alarm.
        emit(&self.deployment, None, &counts);
    }
}
