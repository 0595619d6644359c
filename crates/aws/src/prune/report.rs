//! A retention decision for a reader: the function's answer, and what the command shows.

use super::Decision;
use highwater_core::BackupId;
use highwater_core::retention::Hold;
use jiff::Timestamp;
use serde::Serialize;

/// The decision, for a reader.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Decided {
    /// Kept, oldest first.
    pub kept: List,
    /// Deleted by this run, or, for a dry run, by the next; children first.
    pub deleted: List,
    /// Kept by a lock only.
    pub locked: List,
    /// What failed backups left.
    pub remains: List,
    /// What is to be deleted beyond what one run takes on.
    pub later: usize,
    /// Backups in the bucket that the catalog does not know: left alone. `highwater catalog audit` says more.
    pub unknown: Vec<BackupId>,
}

/// A list that is cut where it would grow too long.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct List {
    /// How many there are.
    pub count: usize,
    /// The first of them.
    pub backups: Vec<Entry>,
}

/// One backup.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Entry {
    /// Which.
    pub backup_id: BackupId,
    /// Why, in words.
    pub why: Vec<String>,
    /// When its lock ends; none for a legal hold.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub until: Option<Timestamp>,
}

impl Entry {
    fn new(backup_id: &BackupId, why: impl IntoIterator<Item = String>) -> Self {
        Self { backup_id: backup_id.clone(), why: why.into_iter().collect(), until: None }
    }

    fn locked(backup_id: &BackupId, hold: Hold, why: impl IntoIterator<Item = String>) -> Self {
        let until = match hold {
            Hold::Until(at) => Some(at),
            Hold::Legal => None,
        };
        Self { until, ..Self::new(backup_id, std::iter::once(hold.to_string()).chain(why)) }
    }
}

impl Decided {
    /// From a decision; each list cut to `listed`.
    pub fn of(decision: &Decision, listed: usize) -> Self {
        let list = |entries: Vec<Entry>| List { count: entries.len(), backups: entries.into_iter().take(listed).collect() };
        let retention = &decision.retention;
        let marked = decision.marked.iter().map(|b| Entry::new(&b.backup_id, ["an earlier run has marked it".to_owned()]));
        let deleted = retention.deleted.iter().map(|d| Entry::new(&d.backup_id, d.reasons.iter().map(ToString::to_string)));
        let remains = decision.remains.iter().map(|r| {
            let why = format!("{} bytes of a backup that never became a restore point", r.bytes);
            match r.hold {
                Some(hold) => Entry::locked(&r.backup_id, hold, [why]),
                None => Entry::new(&r.backup_id, [why]),
            }
        });
        Self {
            kept: list(retention.kept.iter().map(|k| Entry::new(&k.backup_id, k.reasons.iter().map(ToString::to_string))).collect()),
            deleted: list(marked.chain(deleted).collect()),
            locked: list(
                retention.held.iter().map(|h| Entry::locked(&h.backup_id, h.hold, h.reasons.iter().map(ToString::to_string))).collect(),
            ),
            remains: list(remains.collect()),
            later: decision.later,
            unknown: decision.unknown.clone(),
        }
    }
}
