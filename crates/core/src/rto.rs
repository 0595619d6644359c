//! How long a restore will take, from how long restores took: drills measure it, sizes scale it.
//!
//! A restore is a sum: a fixed part (preflight, flush, start), the full (fetched, prepared) and each incremental (fetched,
//! applied), the last two in proportion to their files' bytes. Where a drill fetched one incremental while it applied
//! another the sum is more than the clock showed: the prediction errs on the long side.

use crate::catalog::StoredManifest;
use crate::drill::{DrillReportV1, Outcome, Phase};
use crate::ids::BackupKind;
use crate::plan::RestorePlanV1;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};

/// What one passed drill measured of a restore. The checks are not part of it: a real restore is served without them.
#[derive(Debug, Clone, Copy, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Measured {
    /// Phases that belong to no backup: preflight, flush, start. Seconds.
    pub fixed_seconds: f64,
    /// Fetching and preparing the full. Seconds.
    pub full_seconds: f64,
    /// The full's files, bytes.
    pub full_bytes: u64,
    /// Fetching and applying all incrementals. Seconds.
    pub incremental_seconds: f64,
    /// Their files, bytes.
    pub incremental_bytes: u64,
    /// How many incrementals.
    pub incrementals: u32,
}

/// The bytes that a restore would move.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct ChainSize {
    /// The full's files.
    pub full_bytes: u64,
    /// The incrementals' files together.
    pub incremental_bytes: u64,
    /// How many incrementals.
    pub incrementals: u32,
}

impl ChainSize {
    /// Of a plan.
    pub fn of(plan: &RestorePlanV1) -> Self {
        plan.steps.iter().fold(Self::default(), |size, step| size.and(step.kind, step.raw_bytes))
    }

    /// Of the backups that a restore needs ([`crate::catalog::Catalog::path_to`]).
    pub fn of_backups(path: &[&StoredManifest]) -> Self {
        path.iter().fold(Self::default(), |size, backup| size.and(backup.manifest.kind, backup.manifest.raw_bytes))
    }

    fn and(self, kind: BackupKind, raw_bytes: u64) -> Self {
        match kind {
            BackupKind::Full => Self { full_bytes: self.full_bytes.saturating_add(raw_bytes), ..self },
            BackupKind::Incremental => Self {
                incremental_bytes: self.incremental_bytes.saturating_add(raw_bytes),
                incrementals: self.incrementals.saturating_add(1),
                ..self
            },
        }
    }

    /// What is left once a full of the same size has replaced the chain.
    #[must_use]
    pub fn full_alone(self) -> Self {
        Self { full_bytes: self.full_bytes, ..Self::default() }
    }
}

/// Whether a restore in earnest has this phase of a drill too.
pub fn is_of_restore(phase: &Phase) -> bool {
    !matches!(phase.name.as_str(), "check" | "stop")
}

impl Measured {
    /// What a drill measured; nothing if it did not pass.
    pub fn of(plan: &RestorePlanV1, report: &DrillReportV1) -> Option<Self> {
        if report.outcome != Outcome::Passed {
            return None;
        }
        let size = ChainSize::of(plan);
        let seconds = |of: Option<BackupKind>| {
            let phases = report.phases.iter().filter(|p| is_of_restore(p));
            phases.filter(|p| p.backup_id.as_ref().map(|id| id.kind()) == of).map(|p| p.seconds).sum()
        };
        Some(Self {
            fixed_seconds: seconds(None),
            full_seconds: seconds(Some(BackupKind::Full)),
            full_bytes: size.full_bytes,
            incremental_seconds: seconds(Some(BackupKind::Incremental)),
            incremental_bytes: size.incremental_bytes,
            incrementals: size.incrementals,
        })
    }

    /// Everything together, seconds.
    pub fn seconds(&self) -> f64 {
        self.fixed_seconds + self.full_seconds + self.incremental_seconds
    }
}

/// How many drills a prediction looks back.
pub const DRILLS: usize = 5;

/// A restore's expected duration: of the newest [`DRILLS`] measurements (newest first) the median predicts. Nothing
/// without a drill: a guess would be taken for a measurement.
pub fn expected(newest_first: &[Measured], size: ChainSize) -> Option<SignedDuration> {
    let drills = newest_first.get(..newest_first.len().min(DRILLS)).unwrap_or_default();
    let mut seconds: Vec<f64> = drills.iter().filter_map(|m| scaled(m, size)).collect();
    seconds.sort_by(f64::total_cmp);
    let median = *seconds.get(seconds.len() / 2)?;
    SignedDuration::try_from_secs_f64(median).ok()
}

/// One drill's measurement, scaled. Incrementals that it did not have cost per byte what its full cost, and are never
/// predicted to be cheaper than what an apply costs at least: each is a run of the tool.
fn scaled(m: &Measured, size: ChainSize) -> Option<f64> {
    let ratio = |part: u64, of: u64| if of == 0 { None } else { Some(part as f64 / of as f64) };
    let full = m.full_seconds * ratio(size.full_bytes, m.full_bytes)?;
    let incremental = match (size.incrementals, m.incrementals) {
        (0, _) => 0.0,
        (_, 0) => m.full_seconds * ratio(size.incremental_bytes, m.full_bytes)?,
        (now, then) => {
            let by_count = f64::from(now) / f64::from(then);
            let by_bytes = ratio(size.incremental_bytes, m.incremental_bytes).unwrap_or(by_count);
            m.incremental_seconds * by_bytes.max(by_count)
        }
    };
    Some(m.fixed_seconds + full + incremental)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Document;

    const GB: u64 = 1_000_000_000;

    fn measured(full: f64, incremental: f64, incrementals: u32) -> Measured {
        Measured {
            fixed_seconds: 10.0,
            full_seconds: full,
            full_bytes: 100 * GB,
            incremental_seconds: incremental,
            incremental_bytes: u64::from(incrementals) * GB,
            incrementals,
        }
    }

    fn seconds(drills: &[Measured], full: u64, incremental: u64, incrementals: u32) -> Option<i64> {
        let size = ChainSize { full_bytes: full * GB, incremental_bytes: incremental * GB, incrementals };
        expected(drills, size).map(|d| d.as_secs())
    }

    #[test]
    fn nothing_is_predicted_without_a_drill() {
        assert_eq!(seconds(&[], 100, 0, 0), None);
        assert_eq!(seconds(&[Measured { full_bytes: 0, ..measured(100.0, 0.0, 0) }], 100, 0, 0), None);
    }

    #[test]
    fn the_same_chain_takes_what_it_took_and_sizes_scale_it() {
        let drill = [measured(100.0, 20.0, 4)];
        assert_eq!(seconds(&drill, 100, 4, 4), Some(130));
        assert_eq!(seconds(&drill, 200, 4, 4), Some(230));
        assert_eq!(seconds(&drill, 100, 8, 4), Some(150), "bytes decide");
        assert_eq!(seconds(&drill, 100, 0, 8), Some(150), "but each incremental is a run of the tool");
        assert_eq!(seconds(&drill, 100, 0, 0), Some(110));
    }

    #[test]
    fn incrementals_never_drilled_cost_per_byte_what_the_full_cost() {
        assert_eq!(seconds(&[measured(100.0, 0.0, 0)], 100, 10, 3), Some(120));
    }

    #[test]
    fn one_slow_drill_does_not_decide_and_old_ones_are_forgotten() {
        let (usual, slow) = (measured(100.0, 0.0, 0), measured(900.0, 0.0, 0));
        assert_eq!(seconds(&[slow, usual, usual], 100, 0, 0), Some(110));
        assert_eq!(seconds(&[slow, slow, slow, slow, slow, usual, usual, usual], 100, 0, 0), Some(910));
    }

    #[test]
    fn a_drill_that_failed_measures_nothing_and_checks_are_not_a_restore() {
        let plan = RestorePlanV1::parse(include_bytes!("../../../tests/fixtures/v1/plan.json")).unwrap();
        let mut report = DrillReportV1::parse(include_bytes!("../../../tests/fixtures/v1/drill-report.json")).unwrap();
        let of_fixture = Measured::of(&plan, &report).unwrap();
        assert_eq!((of_fixture.fixed_seconds, of_fixture.full_seconds, of_fixture.full_bytes), (0.5, 28.75, 2_779_000_000));
        let check = Phase { name: "check".into(), backup_id: None, seconds: 1e6, bytes: None };
        report.phases.push(check);
        assert_eq!(Measured::of(&plan, &report), Some(of_fixture));
        report.outcome = Outcome::Failed;
        assert_eq!(Measured::of(&plan, &report), None);
    }
}
