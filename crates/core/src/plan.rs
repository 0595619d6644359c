//! The restore plan: which exact objects, in which order. Data, not shell.

use crate::Lsn;
use crate::document::Document;
use crate::identity::{BinlogPosition, ServerSettings, Vendor, Version};
use crate::ids::{BackupId, BackupKind, ClusterId, IdError, Incarnation, text_serde};
use crate::manifest::{DataObject, InventoryRef, ObjectRef, ToolInfo};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// What a person asks to have back.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Target {
    /// The newest restore point.
    Latest,
    /// Exactly this backup.
    Backup(BackupId),
    /// The newest restore point whose `last_lsn` is not after this, in the newest incarnation.
    Lsn(Lsn),
    /// The newest restore point not after this time.
    Time(Timestamp),
}

impl FromStr for Target {
    type Err = IdError;
    /// `latest`, a backup id, `lsn:3989635331`, or an RFC 3339 time.
    fn from_str(s: &str) -> Result<Self, IdError> {
        if s == "latest" {
            return Ok(Self::Latest);
        }
        if let Some(lsn) = s.strip_prefix("lsn:") {
            return lsn.parse().map(Self::Lsn);
        }
        if let Ok(id) = s.parse() {
            return Ok(Self::Backup(id));
        }
        s.parse().map(Self::Time).map_err(|_| IdError {
            what: "restore target",
            text: s.chars().take(80).collect(),
            expected: "latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z",
        })
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Latest => f.write_str("latest"),
            Self::Backup(id) => id.fmt(f),
            Self::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Self::Time(at) => at.fmt(f),
        }
    }
}
text_serde!(Target);

/// A restore plan, version 1: the full first, then each incremental in the order it is applied.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePlanV1 {
    /// `highwater.restore-plan.v1`.
    pub format: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The incarnation all steps share.
    pub incarnation: Incarnation,
    /// What was asked for.
    pub target: Target,
    /// The bucket to read from.
    pub bucket: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// What the restored data must be served by.
    pub server: PlanServer,
    /// The restore point that the last step ends at.
    pub point: RestorePoint,
    /// The full, then the incrementals.
    pub steps: Vec<PlanStep>,
}

/// The server family and version that the restored data belongs to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanServer {
    /// MariaDB or MySQL.
    pub vendor: Vendor,
    /// The version of the last step's source.
    pub version: Version,
    /// Settings that the restored server must share.
    pub settings: ServerSettings,
}

/// Where a restore ends.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RestorePoint {
    /// The last step's backup.
    pub backup_id: BackupId,
    /// Its `last_lsn`.
    pub last_lsn: Lsn,
    /// Its `finished_at`.
    pub time: Timestamp,
    /// Its binlog position.
    pub binlog: Option<BinlogPosition>,
}

/// One backup to fetch and apply.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PlanStep {
    /// The backup.
    pub backup_id: BackupId,
    /// Full for the first, incremental for the others.
    pub kind: BackupKind,
    /// Equals the step before's `to_lsn`.
    pub from_lsn: Lsn,
    /// Where the step brings the data.
    pub to_lsn: Lsn,
    /// The tool that made it, and must apply it.
    pub tool: ToolInfo,
    /// Bytes of redo in it.
    pub redo_bytes: u64,
    /// Bytes that extraction writes.
    pub raw_bytes: u64,
    /// Its manifest.
    pub manifest: ObjectRef,
    /// Its data.
    pub objects: Vec<DataObject>,
    /// Its inventory.
    pub inventory: InventoryRef,
}

impl RestorePlanV1 {
    /// The most disk space that restoring takes at once: the full, all pages that increments may add, the two largest
    /// neighbours of increments (one is fetched while the other is applied), and the redo that prepare writes.
    pub fn peak_bytes(&self) -> u64 {
        let increments = self.steps.get(1..).unwrap_or_default();
        let data = self.steps.iter().fold(0u64, |sum, s| sum.saturating_add(s.raw_bytes));
        let pair = |pair: &[PlanStep]| pair.iter().fold(0u64, |sum, s| sum.saturating_add(s.raw_bytes));
        let beside = increments.windows(2).map(pair).chain(increments.chunks(1).map(pair)).max().unwrap_or_default();
        let redo = self.steps.iter().map(|s| s.redo_bytes).max().unwrap_or_default();
        data.saturating_add(beside).saturating_add(redo)
    }
}

impl Document for RestorePlanV1 {
    const FORMAT: &'static str = "highwater.restore-plan.v1";

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        let Some((full, incrementals)) = self.steps.split_first() else {
            return Err("it has no step".into());
        };
        if full.kind != BackupKind::Full || full.from_lsn != Lsn::ZERO {
            return Err(format!("it starts with {}, which is not a full", full.backup_id));
        }
        let mut at = full;
        for step in incrementals {
            if step.kind != BackupKind::Incremental {
                return Err(format!("{} follows {} but is not an incremental", step.backup_id, at.backup_id));
            }
            if step.from_lsn != at.to_lsn {
                return Err(format!("{} starts at LSN {}, but {} ends at {}", step.backup_id, step.from_lsn, at.backup_id, at.to_lsn));
            }
            at = step;
        }
        if self.point.backup_id != at.backup_id {
            return Err(format!("it ends with {}, not with its restore point {}", at.backup_id, self.point.backup_id));
        }
        if let Some(empty) = self.steps.iter().find(|s| s.objects.is_empty()) {
            return Err(format!("{} lists no data object", empty.backup_id));
        }
        match self.steps.iter().find(|s| s.tool.name != full.tool.name) {
            Some(other) => Err(format!("{} was made by another tool than {}", other.backup_id, full.backup_id)),
            None => Ok(()),
        }
    }
}
