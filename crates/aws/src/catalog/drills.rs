//! `drill#<id>`: one drill from its plan to its result. Ids sort by time.
//!
//! A record is made with the plan, before anything is launched, and says what is about to happen before it happens; every
//! change is conditional on the version that was read. `open` stays until the result is known.

use super::backups::{BackupRecord, State as BackupState};
use super::head::{Head, PassedDrill};
use super::{ATTEMPTS, CatalogError, CatalogTable};
use crate::table::{Key, Range, Record, TableError, Write, read_record};
use highwater_core::certificate::CertificateV1;
use highwater_core::plan::Target;
use highwater_core::rto::Measured;
use highwater_core::{BackupId, ClusterId, DrillId, HostId, Pinned};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// Among how many drills those that passed are looked for: more than a prediction needs, since some fail.
pub const LOOKED_AT: usize = 4 * highwater_core::rto::DRILLS;

/// One drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct DrillRecord {
    /// `highwater.catalog.drill.v1`.
    pub format: String,
    /// Its cluster.
    pub cluster: ClusterId,
    /// Its id.
    pub drill_id: DrillId,
    /// One more with every change; what a change is conditional on.
    pub version: u64,
    /// The Step Functions execution.
    pub execution: String,
    /// What was asked for.
    pub target: Target,
    /// The restore point that it is.
    pub backup_id: BackupId,
    /// The plan.
    pub plan: Pinned,
    /// When it was planned.
    pub planned_at: Timestamp,
    /// What its instance is, for the cost; absent before there is one, and from records older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub launched: Option<LaunchedOn>,
    /// Where it is.
    #[serde(flatten)]
    pub state: State,
    /// `drill` until its result is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
}

/// An instance, as far as it costs.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LaunchedOn {
    /// Its type.
    pub instance_type: String,
    /// Its volume, GiB.
    pub volume_gib: u64,
    /// When it was launched.
    pub at: Timestamp,
}

/// Where a drill is. Each state holds only what exists then.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "state", rename_all = "lowercase")]
pub enum State {
    /// The plan is stored.
    Planned,
    /// An instance was, or is about to be, asked for.
    Launching {
        /// How often one was: the number of the launch that may be under way.
        launch: u32,
    },
    /// The instance exists, and gets the task's token.
    Running {
        /// Number of the launch that gave it.
        launch: u32,
        /// The instance.
        instance: HostId,
        /// With this the execution is answered when the instance cannot.
        task_token: String,
        /// When it was known.
        launched_at: Timestamp,
    },
    /// It passed: the restore point is proven.
    Passed(Box<Passed>),
    /// It did not.
    Failed {
        /// The instance, if there was one.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        instance: Option<HostId>,
        /// Why, for a person.
        reason: String,
        /// The report, if one was written.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        report: Option<Pinned>,
        /// When it was known.
        failed_at: Timestamp,
    },
}

/// A passed drill.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Passed {
    /// Where it ran.
    pub instance: HostId,
    /// Its report.
    pub report: Pinned,
    /// Its certificate; the signature lies beside it.
    pub certificate: Pinned,
    /// When it ended, by the report.
    pub finished_at: Timestamp,
    /// What it measured of a restore; absent from records older than this field.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub measured: Option<Measured>,
    /// When it was recorded.
    pub passed_at: Timestamp,
}

impl State {
    /// Its name.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Planned => "planned",
            Self::Launching { .. } => "launching",
            Self::Running { .. } => "running",
            Self::Passed(_) => "passed",
            Self::Failed { .. } => "failed",
        }
    }

    /// Whether the result is known.
    pub fn has_ended(&self) -> bool {
        matches!(self, Self::Passed(_) | Self::Failed { .. })
    }

    /// The instance, where one is known.
    pub fn instance(&self) -> Option<&HostId> {
        match self {
            Self::Planned | Self::Launching { .. } => None,
            Self::Running { instance, .. } => Some(instance),
            Self::Passed(passed) => Some(&passed.instance),
            Self::Failed { instance, .. } => instance.as_ref(),
        }
    }
}

impl Record for DrillRecord {
    const FORMAT: &'static str = "highwater.catalog.drill.v1";

    fn place(&self) -> Key {
        Self::key(&self.cluster, &self.drill_id)
    }

    fn name(&self) -> String {
        format!("drill {} of {}", self.drill_id, self.cluster)
    }
}

impl DrillRecord {
    /// The value of `open`.
    pub const OPEN: &'static str = "drill";

    /// A drill that only its certificate, which lies at `at`, still tells of. What was asked for, and when it was recorded,
    /// nobody knows any more: the restore point and the drill's own times stand for them.
    pub fn rebuilt(certificate: CertificateV1, at: Pinned) -> Self {
        let CertificateV1 { cluster, drill_id, execution, instance, plan, report, point, started_at, finished_at, .. } = certificate;
        Self {
            format: Self::FORMAT.to_owned(),
            cluster,
            drill_id,
            version: 1,
            execution,
            target: Target::Backup(point.backup_id.clone()),
            backup_id: point.backup_id,
            plan,
            planned_at: started_at,
            launched: None,
            state: State::Passed(Box::new(Passed {
                instance,
                report,
                certificate: at,
                finished_at,
                measured: None,
                passed_at: finished_at,
            })),
            open: None,
        }
    }

    /// Its key.
    pub fn key(cluster: &ClusterId, id: &DrillId) -> Key {
        Key::of(cluster, format!("drill#{id}"))
    }

    /// This record in another state.
    fn next(&self, state: State) -> Self {
        let open = Some(Self::OPEN.to_owned()).filter(|_| !state.has_ended());
        Self { version: self.version + 1, state, open, ..self.clone() }
    }

    /// Puts `next`, if the record is still as `self` was read.
    fn replace_by(&self, next: &Self) -> Result<Write, TableError> {
        Write::put(Self::key(&self.cluster, &self.drill_id), next)?.only_if("#version = :read").value(":read", self.version)
    }
}

impl PassedDrill {
    /// What the head says of a drill, if it passed.
    pub fn of(record: &DrillRecord) -> Option<Self> {
        let State::Passed(passed) = &record.state else { return None };
        Some(Self { drill_id: record.drill_id.to_string(), backup_id: record.backup_id.clone(), at: passed.finished_at })
    }
}

impl CatalogTable {
    /// One drill's record.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn drill(&self, cluster: &ClusterId, id: &DrillId) -> Result<Option<DrillRecord>, CatalogError> {
        Ok(self.table.record(&DrillRecord::key(cluster, id)).await?)
    }

    /// Records a drill that is planned. A record that is there already stays, and is given back: it was first (I4).
    ///
    /// # Errors
    /// `Ended` when retention has marked the backup meanwhile; those of the table.
    pub async fn plan_drill(&self, record: DrillRecord) -> Result<DrillRecord, CatalogError> {
        let write = Write::create(DrillRecord::key(&record.cluster, &record.drill_id), &record)?;
        // Whoever marks the backup afterwards sees this record; whoever marked it before is seen here.
        let stands = Write::check(BackupRecord::key(&record.cluster, &record.backup_id), "#state = :committed");
        match self.table.write(vec![write, stands.value(":committed", "committed")?]).await {
            Ok(()) => Ok(record),
            Err(TableError::Condition { index: 0, found: Some(found) }) => Ok(read_record(found)?),
            Err(TableError::Condition { index: 1, .. }) => Err(CatalogError::Ended {
                what: format!("backup {}", record.backup_id),
                cluster: record.cluster,
                state: "no restore point any more",
            }),
            Err(error) => Err(error.into()),
        }
    }

    /// Moves a drill on. The record that is written is given back.
    ///
    /// # Errors
    /// `Condition` when the record changed since it was read; those of the table.
    pub async fn move_drill(&self, record: &DrillRecord, state: State) -> Result<DrillRecord, CatalogError> {
        let next = record.next(state);
        self.table.write(vec![record.replace_by(&next)?]).await?;
        Ok(next)
    }

    /// Records that a drill passed, in its record and in the head: there only while its backup is a restore point, and if no
    /// later drill has passed.
    ///
    /// # Errors
    /// `Contended`; `Condition` when the record changed since it was read; those of the table.
    pub async fn pass_drill(&self, record: &DrillRecord, passed: Passed) -> Result<DrillRecord, CatalogError> {
        let cluster = &record.cluster;
        let at = passed.finished_at;
        let next = record.next(State::Passed(Box::new(passed)));
        let latest = PassedDrill { drill_id: record.drill_id.to_string(), backup_id: record.backup_id.clone(), at };
        for _ in 0..ATTEMPTS {
            let head = self.head(cluster).await?;
            let stands = self.backup(cluster, &record.backup_id).await?.is_some_and(|b| matches!(b.state, BackupState::Committed(_)));
            let is_later = head.last_passed_drill.as_ref().is_none_or(|last| last.at < latest.at);
            let mut writes = vec![record.replace_by(&next)?];
            if stands && is_later {
                writes.push(Head { last_passed_drill: Some(latest.clone()), ..head }.put(cluster)?);
            }
            match self.table.write(writes).await {
                Ok(()) => return Ok(next),
                // The head: a backup was committed meanwhile.
                Err(TableError::Condition { index: 1, .. }) => continue,
                Err(error) => return Err(error.into()),
            }
        }
        Err(CatalogError::Contended { cluster: cluster.clone(), doing: "recording a passed drill" })
    }

    /// Every drill whose result is not known, of all clusters: from the index, so each is to be read again before it is acted on.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn open_drills(&self) -> Result<Vec<Result<DrillRecord, TableError>>, TableError> {
        self.table.open(DrillRecord::OPEN).await
    }

    /// What the newest drills measured of restores, the newest first.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn measured(&self, cluster: &ClusterId) -> Result<Vec<Measured>, CatalogError> {
        let drills = self.newest_drills(cluster, LOOKED_AT).await?;
        let measured = |record: DrillRecord| match record.state {
            State::Passed(passed) => passed.measured,
            _ => None,
        };
        Ok(drills.into_iter().filter_map(measured).collect())
    }

    /// The newest drills of a cluster, the newest first.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn newest_drills(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<DrillRecord>, CatalogError> {
        Ok(self.table.records(Range::prefixed(cluster, "drill#").last(limit)).await?)
    }
}
