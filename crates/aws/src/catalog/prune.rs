//! What retention reads and writes in the catalog: every backup in brief, what uses them, the marks, the removals.
//!
//! A mark is a transaction on the head's version, so it happens only to the catalog that was decided on: no commit came
//! between. What a crash leaves: marked records, which are no restore points any more; the next run goes on with them.

use super::backups::{BackupRecord, State, point_keys};
use super::head::Head;
use super::{CatalogError, CatalogTable};
use crate::table::{Range, TableError, Write};
use highwater_core::retention::{Facts, Point};
use highwater_core::{BackupId, ClusterId, Incarnation};
use jiff::Timestamp;
use serde::Deserialize;

/// The most backups marked by one transaction: a record and two points each, and the head, of 100 writes.
pub const MARKS: usize = 30;

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
    /// Present until what follows its end is done.
    #[serde(default)]
    pub open: Option<String>,
}

const BRIEF: [&str; 7] = ["backup_id", "incarnation", "parent", "state", "finished_at", "stored_bytes", "open"];

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

    /// The backups in a state, children before parents.
    pub fn in_state<'a>(&'a self, state: &'a str) -> impl Iterator<Item = &'a Brief> {
        self.backups.iter().rev().filter(move |b| b.state == state)
    }
}

impl CatalogTable {
    /// Reads what retention decides on. Manifests are not read: the answer's size is that of the ids.
    ///
    /// # Errors
    /// `Unreadable` also for an unfinished drill, approval or promotion that does not say what it uses; those of the table.
    pub async fn shelf(&self, cluster: &ClusterId) -> Result<Shelf, CatalogError> {
        let head = self.head(cluster).await?;
        let backups: Vec<Brief> = self.table.query_for(Range::prefixed(cluster, "backup#"), &BRIEF).await?;
        let mut facts = Facts::default();
        facts.passed.extend(head.last_passed_drill.iter().map(|d| d.backup_id.clone()));
        for b in backups.iter().filter(|b| b.open.is_some()) {
            let by = format!("backup {}", b.backup_id);
            match b.state.as_str() {
                "committed" => facts.used.push((b.backup_id.clone(), "the end of its own commit".to_owned())),
                _ => facts.used.extend(b.parent.clone().map(|parent| (parent, by))),
            }
        }
        Ok(Shelf { head, backups, facts })
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
                let record: Option<BackupRecord> = found.map(crate::table::read).transpose()?;
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
