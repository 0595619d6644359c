//! `head`: what the common questions about a cluster need, in one read, and the version that serialises its changes.
//!
//! Every writer puts the whole head under the condition that the version is still the one it read: [`Head::put`].

use super::{CatalogError, CatalogTable};
use crate::table::{Key, TableError, Write};
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::schedule::Owed;
use highwater_core::{BackupId, ClusterId, Failure, Incarnation, Lsn};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// The head of a cluster's catalog.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Head {
    /// `highwater.catalog.head.v1`.
    pub format: String,
    /// One more with every change; zero before the first.
    pub version: u64,
    /// The newest restore point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest: Option<HeadPoint>,
    /// The newest full of the newest incarnation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub newest_full: Option<BackupId>,
    /// Where the window begins ([`Catalog::window_from`]).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub window_from: Option<BackupId>,
    /// What the next backup must be at least.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub owed: Option<Owed>,
    /// The newest backup that failed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_failure: Option<LastFailure>,
    /// The newest drill that passed.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_passed_drill: Option<PassedDrill>,
}

/// A restore point, in the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HeadPoint {
    /// Its backup.
    pub backup_id: BackupId,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// Its time, by the host's clock.
    pub finished_at: Timestamp,
    /// Its LSN.
    pub last_lsn: Lsn,
}

/// A failed backup, in the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct LastFailure {
    /// The backup.
    pub backup_id: BackupId,
    /// The class.
    pub failure: Failure,
    /// What happened.
    pub message: String,
    /// When it was known.
    pub at: Timestamp,
}

/// A drill that passed, in the head.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PassedDrill {
    /// The drill.
    pub drill_id: String,
    /// The backup it restored.
    pub backup_id: BackupId,
    /// When it passed.
    pub at: Timestamp,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            format: Self::FORMAT.to_owned(),
            version: 0,
            newest: None,
            newest_full: None,
            window_from: None,
            owed: None,
            last_failure: None,
            last_passed_drill: None,
        }
    }
}

impl Head {
    /// The record's format.
    pub const FORMAT: &'static str = "highwater.catalog.head.v1";

    /// Its key.
    pub fn key(cluster: &ClusterId) -> Key {
        Key::of(cluster, "head")
    }

    /// What follows from the committed backups: from all of them, or from a window.
    #[must_use]
    pub fn of_backups(mut self, catalog: &Catalog) -> Self {
        self.newest = catalog.newest().map(HeadPoint::of);
        self.newest_full = catalog.newest_full().map(|full| full.id().clone());
        self.window_from = catalog.window_from().cloned();
        self
    }

    /// Writes this head over the one that it was read as, with the next version. Refused when the head has changed since.
    ///
    /// # Errors
    /// `Unreadable`.
    pub fn put(&self, cluster: &ClusterId) -> Result<Write, TableError> {
        let next = Self { version: self.version + 1, ..self.clone() };
        let write = Write::put(Self::key(cluster), &next)?;
        match self.version {
            0 => Ok(write.only_if("attribute_not_exists(pk)")),
            read => write.only_if("#version = :read").value(":read", read),
        }
    }

    /// Makes the version one more and changes nothing else, where the head is still as it was read; this one then counts as
    /// read after that. Where there is no head yet, only that.
    ///
    /// # Errors
    /// `Unreadable`.
    pub fn next(&mut self, cluster: &ClusterId) -> Result<Write, TableError> {
        let read = self.version;
        if read == 0 {
            return self.unchanged(cluster);
        }
        self.version += 1;
        let write = Write::update(Self::key(cluster), "SET #version = :next").only_if("#version = :read");
        write.value(":read", read)?.value(":next", self.version)
    }

    /// Only the condition: the head has not changed since it was read.
    ///
    /// # Errors
    /// `Unreadable`.
    pub fn unchanged(&self, cluster: &ClusterId) -> Result<Write, TableError> {
        match self.version {
            0 => Ok(Write::check(Self::key(cluster), "attribute_not_exists(pk)")),
            read => Write::check(Self::key(cluster), "#version = :read").value(":read", read),
        }
    }
}

impl HeadPoint {
    fn of(stored: &StoredManifest) -> Self {
        let m = &stored.manifest;
        Self { backup_id: m.backup_id.clone(), incarnation: m.incarnation.clone(), finished_at: m.finished_at, last_lsn: m.last_lsn }
    }
}

impl CatalogTable {
    /// Reads the head; the default one where nothing was written yet.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn head(&self, cluster: &ClusterId) -> Result<Head, CatalogError> {
        Ok(self.table.get(&Head::key(cluster)).await?.unwrap_or_default())
    }
}
