//! What a person wants to know of a cluster, in one value: `highwater status`, the status page and the alarms say the same
//! because they ask here. Pure: whoever calls gathers the facts and looks at the clock.

use crate::catalog::Catalog;
use crate::cluster::{ClusterConfigV1, Primary};
use crate::lease::{Lease, Purpose};
use crate::manifest::ManifestV1;
use crate::promotion::PromotionId;
use crate::rto::{self, ChainSize, Measured};
use crate::schedule::{Force, Owed};
use crate::{BackupId, BackupKind, ClusterId, DrillId, Failure, HostId, Incarnation, Lsn, Retry};
use jiff::{SignedDuration, Timestamp};
use serde::Serialize;
use std::fmt;

/// How long after its time a lease may still have its holder: `reconcile` ends it within minutes.
pub const LEASE_MARGIN: SignedDuration = SignedDuration::from_mins(30);

/// What is known of a cluster.
#[derive(Debug, Clone)]
pub struct Facts<'a> {
    /// Its configuration.
    pub config: &'a ClusterConfigV1,
    /// Its catalog: the window suffices.
    pub catalog: &'a Catalog,
    /// The newest restore point that a drill proved.
    pub proven: Option<Proven>,
    /// The newest backup that failed, whatever came after it.
    pub last_failure: Option<FailedBackup>,
    /// What the next backup must be at least.
    pub owed: Option<&'a Owed>,
    /// Drills, the newest first.
    pub drills: Vec<Drill>,
    /// The lease.
    pub lease: &'a Lease,
    /// A promotion that waits for a person on the host.
    pub stuck: Option<StuckPromotion>,
    /// Requests for a promotion that are not decided, the newest first.
    pub requests: Vec<OpenRequest>,
}

/// A restore point.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RestorePoint {
    /// Its backup.
    pub backup_id: BackupId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its time, by the host's clock.
    pub time: Timestamp,
    /// Its LSN.
    pub last_lsn: Lsn,
    /// How old it is: what was written since is lost with the primary (RPO). Seconds.
    pub age_seconds: i64,
}

/// The newest backup, as far as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LastBackup {
    /// Its id.
    pub backup_id: BackupId,
    /// Full or incremental.
    pub kind: BackupKind,
    /// When the tool was started.
    pub started_at: Timestamp,
    /// When the tool had ended.
    pub finished_at: Timestamp,
    /// Bytes stored.
    pub stored_bytes: u64,
}

/// What a restore of the newest point goes through.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Chain {
    /// The full that it begins with.
    pub full: BackupId,
    /// When that was taken.
    pub full_taken_at: Timestamp,
    /// The full's files, bytes: the size of the database then.
    pub full_raw_bytes: u64,
    /// The backups that a restore needs, the full first.
    pub backups: Vec<BackupId>,
    /// Their files, bytes: what a restore writes.
    pub raw_bytes: u64,
    /// Their objects, bytes: what a restore fetches.
    pub stored_bytes: u64,
}

/// A restore point that a drill proved.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Proven {
    /// Of which backup.
    pub backup_id: BackupId,
    /// Its time, by the host's clock; absent when retention has removed the backup since.
    pub time: Option<Timestamp>,
    /// By which drill.
    pub drill_id: DrillId,
    /// When that passed.
    pub passed_at: Timestamp,
}

/// A backup that failed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FailedBackup {
    /// Which.
    pub backup_id: BackupId,
    /// Its class.
    pub failure: Failure,
    /// What happened.
    pub message: String,
    /// When it was known.
    pub at: Timestamp,
}

/// A drill.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Drill {
    /// Its id, in which is when it began.
    pub drill_id: DrillId,
    /// What it restores.
    pub backup_id: BackupId,
    /// Whether it left a report, and so has a page.
    pub has_report: bool,
    /// How far it is.
    #[serde(flatten)]
    pub state: DrillState,
}

/// How far a drill is.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum DrillState {
    /// It runs.
    Open {
        /// The name of its record's state.
        step: &'static str,
    },
    /// It passed.
    Passed {
        /// When it ended.
        at: Timestamp,
        /// What it measured of a restore; absent of drills recorded before that was kept.
        measured: Option<Measured>,
    },
    /// It did not pass.
    Failed {
        /// When that was known.
        at: Timestamp,
        /// Why.
        reason: String,
    },
}

/// A promotion that waits for a person on the host.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StuckPromotion {
    /// Which.
    pub id: PromotionId,
    /// The host.
    pub host: HostId,
    /// What is known.
    pub reason: String,
    /// Since when.
    pub since: Timestamp,
}

/// A request for a promotion that is not decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OpenRequest {
    /// Which.
    pub id: PromotionId,
    /// Whether votes are awaited; its drill runs before that.
    pub is_waiting: bool,
    /// No vote counts from this moment on; known once votes are awaited.
    pub expires_at: Option<Timestamp>,
}

/// What runs now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Running {
    /// `backup`, `promotion` or `drill`.
    pub what: &'static str,
    /// Its id.
    pub id: String,
    /// Since when, to the second.
    pub since: Timestamp,
    /// How far it is; absent where only the lease is known.
    pub step: Option<&'static str>,
}

/// Restore times.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub struct Rto {
    /// What the newest passed drill measured, seconds.
    pub measured_seconds: Option<f64>,
    /// What a restore of the newest point is expected to take, seconds; absent without a drill that measured.
    pub expected_seconds: Option<i64>,
    /// What it may take by the configuration, seconds.
    pub target_seconds: Option<i64>,
}

impl Rto {
    /// Whether more is expected than may be.
    pub fn is_over_target(&self) -> bool {
        matches!((self.expected_seconds, self.target_seconds), (Some(expected), Some(target)) if expected > target)
    }
}

/// Why a cluster needs a person. Each is an alarm's name and a section of RUNBOOK.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "need", rename_all = "kebab-case")]
pub enum Need {
    /// A promotion and its roll-back failed.
    PromotionStuck {
        /// Which.
        id: PromotionId,
        /// The host.
        host: HostId,
        /// What is known.
        reason: String,
    },
    /// No restore point is young enough.
    BackupsOverdue {
        /// The newest one's age, seconds; absent where there is none.
        age_seconds: Option<i64>,
        /// What is allowed, hours.
        overdue_hours: u32,
    },
    /// The newest restore point cannot be restored, or the server is not the one that was backed up.
    ChainBroken {
        /// How.
        reason: String,
    },
    /// The newest backup failed, and will fail again until something is mended.
    BackupsFailed {
        /// Which.
        backup_id: BackupId,
        /// The class.
        failure: Failure,
        /// What happened.
        message: String,
    },
    /// No drill has passed lately.
    DrillsOverdue {
        /// How long ago the last one did, seconds; absent where none has.
        age_seconds: Option<i64>,
        /// What is allowed, days.
        overdue_days: u32,
    },
    /// The newest drill that ended did not pass.
    DrillsFailed {
        /// Which.
        drill_id: DrillId,
        /// What it restored.
        backup_id: BackupId,
        /// Why.
        reason: String,
    },
    /// The lease has a holder though its time is over.
    LeaseStuck {
        /// Who.
        operation: String,
        /// Since when it might be taken.
        expires_at: Timestamp,
    },
    /// Not even a restore of a full alone would be in time.
    RtoOverTarget {
        /// Expected, seconds.
        expected_seconds: i64,
        /// Allowed, seconds.
        target_seconds: i64,
    },
}

impl Need {
    /// The names of all of them.
    pub const SECTIONS: [&'static str; 8] = [
        "promotion-stuck",
        "backups-overdue",
        "chain-broken",
        "backups-failed",
        "drills-overdue",
        "drills-failed",
        "lease-stuck",
        "rto-over-target",
    ];

    /// The alarm's name without the deployment's, and RUNBOOK's section.
    pub fn section(&self) -> &'static str {
        match self {
            Self::PromotionStuck { .. } => "promotion-stuck",
            Self::BackupsOverdue { .. } => "backups-overdue",
            Self::ChainBroken { .. } => "chain-broken",
            Self::BackupsFailed { .. } => "backups-failed",
            Self::DrillsOverdue { .. } => "drills-overdue",
            Self::DrillsFailed { .. } => "drills-failed",
            Self::LeaseStuck { .. } => "lease-stuck",
            Self::RtoOverTarget { .. } => "rto-over-target",
        }
    }
}

impl fmt::Display for Need {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::PromotionStuck { id, host, reason } => write!(f, "promotion {id} is stuck on {host}: {reason}"),
            Self::BackupsOverdue { age_seconds: None, .. } => f.write_str("there is no restore point"),
            Self::BackupsOverdue { age_seconds: Some(age), overdue_hours } => {
                write!(f, "the newest restore point is {} old, {overdue_hours} h are allowed", lasting(*age))
            }
            Self::ChainBroken { reason } => write!(f, "the chain is broken: {reason}"),
            Self::BackupsFailed { backup_id, failure, message } => write!(f, "backup {backup_id} failed ({failure}): {message}"),
            Self::DrillsOverdue { age_seconds: None, .. } => f.write_str("no drill has ever passed"),
            Self::DrillsOverdue { age_seconds: Some(age), overdue_days } => {
                write!(f, "the last drill passed {} ago, {overdue_days} d are allowed", lasting(*age))
            }
            Self::DrillsFailed { drill_id, backup_id, reason } => write!(f, "drill {drill_id} of {backup_id} did not pass: {reason}"),
            Self::LeaseStuck { operation, expires_at } => write!(f, "{operation} still has the lease, which ended at {expires_at}"),
            Self::RtoOverTarget { expected_seconds, target_seconds } => write!(
                f,
                "a restore is expected to take {}, {} are allowed, and a full would not mend that",
                lasting(*expected_seconds),
                lasting(*target_seconds)
            ),
        }
    }
}

/// A cluster as it is now.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct ClusterStatus {
    /// The cluster.
    pub cluster: ClusterId,
    /// Its primary.
    pub host: Primary,
    /// The newest backup; there is one wherever there is a restore point.
    pub last_backup: Option<LastBackup>,
    /// The newest restore point.
    pub newest: Option<RestorePoint>,
    /// What its restore goes through; absent where a link does not hold.
    pub chain: Option<Chain>,
    /// The newest proven restore point.
    pub proven: Option<Proven>,
    /// Restore times.
    pub rto: Rto,
    /// No restore point younger than this is overdue, hours.
    pub overdue_hours: u32,
    /// No passed drill younger than this is overdue, days.
    pub overdue_days: u32,
    /// The newest failed backup, if nothing was committed since.
    pub last_failure: Option<FailedBackup>,
    /// Why the next backup will be a full in any case, if it will.
    pub next_is_full: Option<String>,
    /// Drills, the newest first.
    pub drills: Vec<Drill>,
    /// What runs now.
    pub running: Vec<Running>,
    /// Requests that wait for votes, or for their drill.
    pub requests: Vec<OpenRequest>,
    /// Why a person is needed, the most urgent first; empty: all is well.
    pub needs: Vec<Need>,
}

impl ClusterStatus {
    /// The status that the facts give at `now`.
    pub fn of(facts: Facts<'_>, now: Timestamp) -> Self {
        let newest = facts.catalog.newest().map(|stored| &stored.manifest);
        let path = newest.map(|m| facts.catalog.path_to(&m.backup_id));
        let measured: Vec<_> = facts.drills.iter().filter_map(measured).collect();
        let (chain, size, broken) = match path {
            Some(Ok(path)) => (chain_of(&path), Some(ChainSize::of_backups(&path)), None),
            Some(Err(broken)) => (None, None, Some(broken.to_string())),
            None => (None, None, None),
        };
        let seconds = |size: ChainSize| rto::expected(&measured, size).map(|d| d.as_secs());
        let rto = Rto {
            measured_seconds: measured.first().map(Measured::seconds),
            expected_seconds: size.and_then(seconds),
            target_seconds: facts.config.rto_target().map(|d| d.as_secs()),
        };
        let last_failure = facts.last_failure.clone().filter(|failed| newest.is_none_or(|m| failed.at > m.finished_at));
        let needs = needs(&facts, newest, broken, last_failure.as_ref(), rto, size.and_then(|s| seconds(s.full_alone())), now);
        Self {
            cluster: facts.config.cluster.clone(),
            host: facts.config.host.clone(),
            last_backup: newest.map(last_backup),
            newest: newest.map(|m| point(m, now)),
            chain,
            rto,
            overdue_hours: facts.config.backup.overdue_hours,
            overdue_days: facts.config.drill.overdue_days,
            next_is_full: next_is_full(&facts, rto, &needs),
            running: running(&facts),
            last_failure,
            needs,
            proven: facts.proven,
            drills: facts.drills,
            requests: facts.requests,
        }
    }
}

fn measured(drill: &Drill) -> Option<Measured> {
    match &drill.state {
        DrillState::Passed { measured, .. } => *measured,
        _ => None,
    }
}

fn last_backup(m: &ManifestV1) -> LastBackup {
    LastBackup {
        backup_id: m.backup_id.clone(),
        kind: m.kind,
        started_at: m.started_at,
        finished_at: m.finished_at,
        stored_bytes: m.stored_bytes,
    }
}

fn point(m: &ManifestV1, now: Timestamp) -> RestorePoint {
    RestorePoint {
        backup_id: m.backup_id.clone(),
        incarnation: m.incarnation.clone(),
        time: m.finished_at,
        last_lsn: m.last_lsn,
        age_seconds: age(m.finished_at, now),
    }
}

fn chain_of(path: &[&crate::catalog::StoredManifest]) -> Option<Chain> {
    let full = path.first()?;
    let sum = |of: fn(&ManifestV1) -> u64| path.iter().map(|b| of(&b.manifest)).fold(0, u64::saturating_add);
    Some(Chain {
        full: full.id().clone(),
        full_taken_at: full.manifest.finished_at,
        full_raw_bytes: full.manifest.raw_bytes,
        backups: path.iter().map(|b| b.id().clone()).collect(),
        raw_bytes: sum(|m| m.raw_bytes),
        stored_bytes: sum(|m| m.stored_bytes),
    })
}

/// Never negative: a host's clock may be ahead.
fn age(at: Timestamp, now: Timestamp) -> i64 {
    now.duration_since(at).as_secs().max(0)
}

fn running(facts: &Facts<'_>) -> Vec<Running> {
    let holder = facts.lease.holder.as_ref().and_then(|holder| {
        let (what, since) = match holder.purpose {
            Purpose::Backup => ("backup", holder.operation.parse::<BackupId>().ok()?.requested_at()),
            Purpose::Promotion => ("promotion", holder.operation.parse::<PromotionId>().ok()?.at()),
        };
        Some(Running { what, id: holder.operation.clone(), since, step: None })
    });
    let drills = facts.drills.iter().filter_map(|drill| match drill.state {
        DrillState::Open { step } => {
            Some(Running { what: "drill", id: drill.drill_id.to_string(), since: drill.drill_id.started_at(), step: Some(step) })
        }
        _ => None,
    });
    holder.into_iter().chain(drills).collect()
}

fn next_is_full(facts: &Facts<'_>, rto: Rto, needs: &[Need]) -> Option<String> {
    if let Some(owed) = facts.owed.filter(|owed| owed.force > Force::Nothing) {
        return Some(owed.why.clone());
    }
    let hopeless = needs.iter().any(|need| matches!(need, Need::RtoOverTarget { .. }));
    match (rto.expected_seconds, rto.target_seconds) {
        (Some(expected), Some(target)) if expected > target && !hopeless => {
            Some(format!("a restore is expected to take {}, {} are allowed", lasting(expected), lasting(target)))
        }
        _ => None,
    }
}

fn needs(
    facts: &Facts<'_>,
    newest: Option<&ManifestV1>,
    broken: Option<String>,
    last_failure: Option<&FailedBackup>,
    rto: Rto,
    full_alone_seconds: Option<i64>,
    now: Timestamp,
) -> Vec<Need> {
    let stuck = facts.stuck.clone().map(|s| Need::PromotionStuck { id: s.id, host: s.host, reason: s.reason });
    let point_age = newest.map(|m| age(m.finished_at, now));
    let overdue_hours = facts.config.backup.overdue_hours;
    let backups = point_age.is_none_or(|age| age > i64::from(overdue_hours) * 3600);
    let drill_age = facts.proven.as_ref().map(|proven| age(proven.passed_at, now));
    let overdue_days = facts.config.drill.overdue_days;
    let drills = drill_age.is_none_or(|age| age > i64::from(overdue_days) * 86_400);
    let chain = broken.or_else(|| last_failure.filter(|f| f.failure.retry() == Retry::WithFull).map(|f| f.message.clone()));
    let failed = last_failure.filter(|f| f.failure.retry() == Retry::AfterFix).cloned();
    let ended = facts.drills.iter().find(|drill| !matches!(drill.state, DrillState::Open { .. }));
    let failed_drill = ended.and_then(|drill| match &drill.state {
        DrillState::Failed { reason, .. } => {
            Some(Need::DrillsFailed { drill_id: drill.drill_id.clone(), backup_id: drill.backup_id.clone(), reason: reason.clone() })
        }
        _ => None,
    });
    let late = |expires_at: Timestamp| now.duration_since(expires_at) > LEASE_MARGIN;
    let holder = facts.lease.holder.as_ref().filter(|holder| late(holder.expires_at) && facts.stuck.is_none());
    let hopeless = match (rto.expected_seconds, rto.target_seconds, full_alone_seconds) {
        (Some(expected_seconds), Some(target_seconds), Some(full)) if expected_seconds > target_seconds && full > target_seconds => {
            Some(Need::RtoOverTarget { expected_seconds, target_seconds })
        }
        _ => None,
    };
    [
        stuck,
        backups.then_some(Need::BackupsOverdue { age_seconds: point_age, overdue_hours }),
        chain.map(|reason| Need::ChainBroken { reason }),
        failed.map(|f| Need::BackupsFailed { backup_id: f.backup_id, failure: f.failure, message: f.message }),
        drills.then_some(Need::DrillsOverdue { age_seconds: drill_age, overdue_days }),
        failed_drill,
        holder.map(|holder| Need::LeaseStuck {
            operation: format!("{} {}", holder.purpose, holder.operation),
            expires_at: holder.expires_at,
        }),
        hopeless,
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// `4 d 2 h`, `3 h 5 min`, `7 min 30 s`, `12 s`: for a person.
pub fn lasting(seconds: i64) -> String {
    let seconds = seconds.max(0);
    let two = |big: i64, unit: &str, small: i64, small_unit: &str| match small {
        0 => format!("{big} {unit}"),
        _ => format!("{big} {unit} {small} {small_unit}"),
    };
    match seconds {
        0..60 => format!("{seconds} s"),
        60..3600 => two(seconds / 60, "min", seconds % 60, "s"),
        3600..86_400 => two(seconds / 3600, "h", seconds % 3600 / 60, "min"),
        _ => two(seconds / 86_400, "d", seconds % 86_400 / 3600, "h"),
    }
}
