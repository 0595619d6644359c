//! What retention reads and writes in the catalog: every backup in brief, what uses them, the marks, the removals.
//!
//! A mark is a transaction on the head's version, so it happens only to the catalog that was decided on: no commit came
//! between. What a crash leaves: marked records, which are no restore points any more; the next run goes on with them.

use super::approvals::ApprovalRecord;
use super::backups::{BackupRecord, State, point_keys};
use super::head::Head;
use super::promotions::PromotionRecord;
use super::{CatalogError, CatalogTable};
use crate::table::{Range, TableError, Write};
use highwater_core::consent::RequestState;
use highwater_core::retention::{Facts, Point};
use highwater_core::{BackupId, ClusterId, DrillId, Incarnation, Sha256};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use std::collections::BTreeMap;

/// The most backups marked by one transaction: a record and two points each, and the head, of 100 writes.
pub const MARKS: usize = 30;

/// How long a passed drill still counts as using its backup: a promotion may be asked for on it.
const DRILL_COUNTS: SignedDuration = SignedDuration::from_hours(24);

/// A backup's record without its manifest.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Brief {
    /// Its id.
    pub backup_id: BackupId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// What an incremental continues.
    #[serde(default)]
    pub parent: Option<BackupId>,
    /// The name of its state ([`State::name`]).
    pub state: String,
    /// The restore point's time; committed and pruning ones have it.
    #[serde(default)]
    pub finished_at: Option<Timestamp>,
    /// Bytes of data; as above.
    #[serde(default)]
    pub stored_bytes: u64,
    /// The manifest's digest; as above.
    #[serde(default)]
    pub manifest_sha256: Option<Sha256>,
    /// Present until what follows its end is done.
    #[serde(default)]
    pub open: Option<String>,
}

const BRIEF: [&str; 8] = ["backup_id", "incarnation", "parent", "state", "finished_at", "stored_bytes", "manifest_sha256", "open"];

/// A drill's record, as far as retention looks at it.
#[derive(Debug, Clone, Deserialize)]
struct DrillBrief {
    drill_id: DrillId,
    backup_id: BackupId,
    #[serde(default)]
    passed_at: Option<Timestamp>,
    #[serde(default)]
    open: Option<String>,
}

const DRILL_BRIEF: [&str; 4] = ["drill_id", "backup_id", "passed_at", "open"];

/// Every backup of a cluster in brief, and what is known beside them.
#[derive(Debug, Clone)]
pub struct Shelf {
    /// The head, read first: marks are conditional on its version.
    pub head: Head,
    /// By id.
    pub backups: Vec<Brief>,
    /// Passed drills and uses; locks are not in the catalog.
    pub facts: Facts,
}

impl Shelf {
    /// The committed backups, for [`highwater_core::retention::retain`].
    pub fn points(&self) -> Vec<Point> {
        let committed = self.backups.iter().filter(|b| b.state == "committed");
        let point = |b: &Brief| Some(Point { backup_id: b.backup_id.clone(), parent: b.parent.clone(), finished_at: b.finished_at? });
        committed.filter_map(point).collect()
    }

    /// Marked backups that something uses all the same: it was begun while they were being marked. What a used backup
    /// rests on is among them.
    pub fn marked_in_use(&self) -> BTreeMap<BackupId, &str> {
        let marked: BTreeMap<_, _> = self.in_state("pruning").map(|b| (&b.backup_id, b.parent.as_ref())).collect();
        let mut in_use = BTreeMap::new();
        for (id, by) in &self.facts.used {
            let mut at = Some(id);
            while let Some((id, parent)) = at.and_then(|id| marked.get_key_value(id)) {
                if in_use.insert((*id).clone(), by.as_str()).is_some() {
                    break;
                }
                at = *parent;
            }
        }
        in_use
    }

    /// The backups in a state, children before parents.
    pub fn in_state<'a>(&'a self, state: &'a str) -> impl Iterator<Item = &'a Brief> {
        self.backups.iter().rev().filter(move |b| b.state == state)
    }
}

impl CatalogTable {
    /// Reads what retention decides on. Manifests are not read: the answer's size is that of the ids.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn shelf(&self, cluster: &ClusterId, now: Timestamp) -> Result<Shelf, CatalogError> {
        let head = self.head(cluster).await?;
        let backups = self.briefs(cluster).await?;
        let mut facts = Facts::default();
        facts.passed.extend(head.last_passed_drill.iter().map(|d| d.backup_id.clone()));
        for b in backups.iter().filter(|b| b.open.is_some()) {
            let used = if b.state == "committed" { Some(b.backup_id.clone()) } else { b.parent.clone() };
            facts.used.extend(used.map(|used| (used, format!("backup {}, not finished,", b.backup_id))));
        }
        self.drills_and_promotions(cluster, &mut facts, now).await?;
        Ok(Shelf { head, backups, facts })
    }

    /// Every backup in brief, by id.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn briefs(&self, cluster: &ClusterId) -> Result<Vec<Brief>, CatalogError> {
        Ok(self.table.query_for(Range::prefixed(cluster, "backup#"), &BRIEF).await?)
    }

    /// The newest backups in brief, the newest first.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn newest_briefs(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<Brief>, CatalogError> {
        Ok(self.table.query_for(Range::prefixed(cluster, "backup#").last(limit), &BRIEF).await?)
    }

    /// What drills have proven, and what unfinished drills, requests and promotions use. A request uses its restore point
    /// as long as a promotion may follow from it, a drill for a while after it has passed: between two records of one
    /// flow there is then no gap.
    async fn drills_and_promotions(&self, cluster: &ClusterId, facts: &mut Facts, now: Timestamp) -> Result<(), CatalogError> {
        let drills: Vec<DrillBrief> = self.table.query_for(Range::prefixed(cluster, "drill#"), &DRILL_BRIEF).await?;
        for drill in drills {
            if drill.open.is_some() || drill.passed_at.is_some_and(|at| now.duration_since(at) < DRILL_COUNTS) {
                facts.used.push((drill.backup_id.clone(), format!("drill {}", drill.drill_id)));
            }
            facts.passed.extend(drill.passed_at.map(|_| drill.backup_id));
        }
        let requests: Vec<ApprovalRecord> = self.table.records(Range::prefixed(cluster, "approval#")).await?;
        for record in requests {
            let ApprovalRecord { request, open, .. } = record;
            let Some(question) = request.question else { continue };
            let valid = SignedDuration::from_hours(question.valid_hours.into());
            let may_follow = matches!(request.state, RequestState::Waiting {} | RequestState::Approved {})
                && now < question.expires_at.saturating_add(valid).unwrap_or(Timestamp::MAX);
            if open.is_some() || may_follow {
                facts.used.push((question.backup_id, format!("request {}", request.id)));
            }
        }
        let promotions: Vec<PromotionRecord> = self.table.records(Range::prefixed(cluster, "promotion#")).await?;
        let open = promotions.into_iter().filter(|p| p.open.is_some() || p.state.is_unfinished());
        facts.used.extend(open.map(|p| (p.backup_id, format!("promotion {}", p.id))));
        Ok(())
    }

    /// Marks committed backups as `pruning` and removes the points by which they are found, in one transaction, if the
    /// catalog is still as `head` was read. Gives the head after it; none when the catalog has changed: decide again.
    ///
    /// # Errors
    /// `Unreadable`; those of the table.
    pub async fn mark(&self, cluster: &ClusterId, head: &Head, backups: &[BackupRecord]) -> Result<Option<Head>, CatalogError> {
        let mut writes = vec![head.put(cluster)?];
        for record in backups {
            let Some(stored) = record.stored()? else { return Ok(None) };
            let mark = Write::update(BackupRecord::key(cluster, &record.backup_id), "SET #state = :pruning")
                .only_if("#state = :committed AND #manifest_sha256 = :sha256")
                .value(":pruning", "pruning")?
                .value(":committed", "committed")?
                .value(":sha256", stored.sha256)?;
            writes.push(mark);
            writes.extend(point_keys(&stored).map(Write::delete));
        }
        match self.table.write(writes).await {
            Ok(()) => Ok(Some(Head { version: head.version + 1, ..head.clone() })),
            Err(TableError::Condition { .. }) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes the record of a backup whose objects are gone. One that is gone already is success.
    ///
    /// # Errors
    /// `Ended` when the record is in another state by now; those of the table.
    pub async fn forget(&self, cluster: &ClusterId, brief: &Brief) -> Result<(), CatalogError> {
        let remove = Write::delete(BackupRecord::key(cluster, &brief.backup_id))
            .only_if("attribute_not_exists(pk) OR #state = :state")
            .value(":state", &brief.state)?;
        match self.table.write(vec![remove]).await {
            Ok(()) => Ok(()),
            Err(TableError::Condition { found, .. }) => {
                let record: Option<BackupRecord> = found.map(crate::table::read_record).transpose()?;
                let state = record.map_or("gone", |record| record.state.name());
                Err(CatalogError::Ended { what: format!("backup {}", brief.backup_id), cluster: cluster.clone(), state })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// The records of backups that are to be marked: all of them committed, or none.
    ///
    /// # Errors
    /// `Unknown`; those of the table.
    pub async fn committed_records(&self, cluster: &ClusterId, ids: &[BackupId]) -> Result<Option<Vec<BackupRecord>>, CatalogError> {
        let mut records = Vec::with_capacity(ids.len());
        for id in ids {
            match self.backup(cluster, id).await? {
                Some(record) if matches!(record.state, State::Committed(_)) => records.push(record),
                _ => return Ok(None),
            }
        }
        Ok(Some(records))
    }
}
