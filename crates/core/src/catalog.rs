//! The catalog of one cluster: which backups are committed, and why the others are not.
//!
//! It follows from the manifests alone (I1): [`Catalog::rebuild`] gives the same catalog whatever order they were
//! listed in, and names everything that it could not admit. The rules themselves are in [`crate::chain`].

use crate::Sha256;
use crate::chain::{self, Admitted, BrokenLink, Refusal};
use crate::document::Document;
use crate::ids::{BackupId, BackupKind, ClusterId, Incarnation};
use crate::manifest::{ManifestV1, ObjectRef, Strategy};
use crate::neighbours::Neighbours;
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};

/// A manifest as it lies in the bucket: what was read, and exactly which object it was read from.
#[derive(Debug, Clone, PartialEq)]
pub struct StoredManifest {
    /// What it says.
    pub manifest: ManifestV1,
    /// The key it was found at.
    pub key: String,
    /// S3's version id, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// Bytes stored.
    pub size: u64,
    /// SHA-256 of those bytes.
    pub sha256: Sha256,
}

impl StoredManifest {
    /// A manifest from its bytes.
    ///
    /// # Errors
    /// As [`Document::parse`].
    pub fn parse(key: String, version_id: Option<String>, bytes: &[u8]) -> Result<Self, crate::DocumentError> {
        Ok(Self { manifest: ManifestV1::parse(bytes)?, key, version_id, size: bytes.len() as u64, sha256: Sha256::of(bytes) })
    }

    /// The backup's id.
    pub fn id(&self) -> &BackupId {
        &self.manifest.backup_id
    }

    /// Where it lies, for a plan.
    pub fn object_ref(&self) -> ObjectRef {
        ObjectRef { key: self.key.clone(), version_id: self.version_id.clone(), size: self.size, sha256: self.sha256 }
    }

    /// Restore points in time order; the id decides between two of one instant.
    pub(crate) fn order(&self) -> (Timestamp, &BackupId, Sha256) {
        (self.manifest.finished_at, &self.manifest.backup_id, self.sha256)
    }

    /// The parent and the strategy, of an incremental.
    fn slot(&self) -> Option<(&BackupId, Strategy)> {
        self.manifest.parent.as_ref().map(|link| (&link.backup_id, link.strategy))
    }
}

/// What a listing found where manifests lie.
#[derive(Debug, Clone, PartialEq)]
pub enum Found {
    /// A manifest.
    Manifest(Box<StoredManifest>),
    /// Something there that is no manifest this code can read.
    Unreadable {
        /// Its key.
        key: String,
        /// Why not.
        reason: String,
    },
}

/// A manifest that is in the bucket and not in the catalog.
#[derive(Debug, Clone, PartialEq)]
pub struct Rejected {
    /// Its key.
    pub key: String,
    /// The manifest, if it could be read.
    pub manifest: Option<Box<StoredManifest>>,
    /// Why it was not admitted.
    pub refusal: Refusal,
}

impl Rejected {
    /// The backup it is about: as the manifest says, else as the key says.
    pub fn backup_id(&self) -> Option<BackupId> {
        match &self.manifest {
            Some(stored) => Some(stored.id().clone()),
            None => self.key.rsplit('/').nth(1)?.parse().ok(),
        }
    }

    /// When the backup ended, or was asked for if the manifest cannot be read.
    fn time(&self) -> Option<Timestamp> {
        match &self.manifest {
            Some(stored) => Some(stored.manifest.finished_at),
            None => self.backup_id().map(|id| id.requested_at()),
        }
    }
}

/// The committed backups of one cluster. Every one of them has been admitted by [`chain::admit`].
#[derive(Debug, Clone, PartialEq)]
pub struct Catalog {
    cluster: ClusterId,
    backups: BTreeMap<BackupId, StoredManifest>,
    rejected: Vec<Rejected>,
}

impl Catalog {
    /// A cluster without backups.
    pub fn new(cluster: ClusterId) -> Self {
        Self { cluster, backups: BTreeMap::new(), rejected: Vec::new() }
    }

    /// A catalog of backups that were committed before: each was admitted then, and is not judged again here. Links are,
    /// whenever they are followed.
    pub fn of_committed(cluster: ClusterId, committed: impl IntoIterator<Item = StoredManifest>) -> Self {
        let backups = committed.into_iter().map(|stored| (stored.id().clone(), stored)).collect();
        Self { cluster, backups, rejected: Vec::new() }
    }

    /// The catalog that `found` implies, whatever its order.
    ///
    /// Backups are admitted in the order they finished. Of two that cannot both stand (racing children of one parent,
    /// two contents under one id) the one that a later backup continues stands, because only a committed backup is
    /// ever continued; without that, the one that finished first.
    pub fn rebuild(cluster: ClusterId, found: impl IntoIterator<Item = Found>) -> Self {
        let mut catalog = Self::new(cluster);
        let mut manifests = Vec::new();
        for one in found {
            match one {
                Found::Manifest(stored) => manifests.push(*stored),
                Found::Unreadable { key, reason } => {
                    catalog.rejected.push(Rejected { key, manifest: None, refusal: Refusal::Unreadable { reason } });
                }
            }
        }
        manifests.sort_by(|a, b| a.order().cmp(&b.order()).then_with(|| a.key.cmp(&b.key)));
        let (yielding, first) = split_yielding(manifests);
        let mut neighbours = Neighbours::default();
        for stored in first.into_iter().chain(yielding) {
            match chain::admit_among(catalog.by_id(), &neighbours, &stored) {
                Ok(Admitted::New) => {
                    neighbours.add(&stored);
                    catalog.backups.insert(stored.id().clone(), stored);
                }
                Ok(Admitted::AlreadyCommitted) => {}
                Err(refusal) => {
                    catalog.rejected.push(Rejected { key: stored.key.clone(), manifest: Some(Box::new(stored)), refusal });
                }
            }
        }
        catalog.name_early_children(&neighbours);
        chain::name_cycles(&mut catalog.rejected);
        catalog.rejected.sort_by(|a, b| a.key.cmp(&b.key));
        catalog
    }

    /// A child whose clock says that it finished before its parent was judged before that was known. Its parent is there by now, so the
    /// rule that it breaks is another.
    fn name_early_children(&mut self, neighbours: &Neighbours) {
        for at in 0..self.rejected.len() {
            let rejected = &self.rejected[at];
            let parent = rejected.manifest.as_ref().and_then(|m| m.manifest.parent.as_ref());
            let is_there = parent.is_some_and(|link| self.backups.contains_key(&link.backup_id));
            if let (true, Refusal::ParentUnknown { .. }, Some(stored)) = (is_there, &rejected.refusal, &rejected.manifest)
                && let Err(refusal) = chain::admit_among(self.by_id(), neighbours, stored)
            {
                self.rejected[at].refusal = refusal;
            }
        }
    }

    /// Admits a backup and records it. The same manifest a second time is success (I4).
    ///
    /// # Errors
    /// The rule that it breaks; the catalog is unchanged then.
    pub fn commit(&mut self, stored: StoredManifest) -> Result<Admitted, Refusal> {
        let admitted = chain::admit(self, &stored)?;
        if admitted == Admitted::New {
            self.backups.insert(stored.id().clone(), stored);
        }
        Ok(admitted)
    }

    /// The cluster.
    pub fn cluster(&self) -> &ClusterId {
        &self.cluster
    }

    /// Every committed backup, by id.
    pub fn backups(&self) -> impl Iterator<Item = &StoredManifest> {
        self.backups.values()
    }

    /// What was found and not admitted, by key.
    pub fn rejected(&self) -> &[Rejected] {
        &self.rejected
    }

    /// One committed backup.
    pub fn get(&self, id: &BackupId) -> Option<&StoredManifest> {
        self.backups.get(id)
    }

    /// Its backups, to be looked up one by one.
    pub(crate) fn by_id(&self) -> ById<'_> {
        ById { cluster: &self.cluster, backups: &self.backups }
    }

    /// The committed backups of one incarnation.
    pub fn in_incarnation<'a>(&'a self, incarnation: &'a Incarnation) -> impl Iterator<Item = &'a StoredManifest> {
        self.backups().filter(move |b| b.manifest.incarnation == *incarnation)
    }

    /// The newest restore point.
    pub fn newest(&self) -> Option<&StoredManifest> {
        self.backups().max_by_key(|b| b.order())
    }

    /// The newest full of the newest incarnation.
    pub fn newest_full(&self) -> Option<&StoredManifest> {
        let incarnation = &self.newest()?.manifest.incarnation;
        self.in_incarnation(incarnation).filter(|b| b.manifest.kind == BackupKind::Full).max_by_key(|b| b.order())
    }

    /// The committed children of a backup.
    pub fn children<'a>(&'a self, id: &'a BackupId) -> impl Iterator<Item = &'a StoredManifest> {
        self.backups().filter(move |b| b.manifest.parent.as_ref().is_some_and(|link| link.backup_id == *id))
    }

    /// The backups that a restore of `id` needs, the full first. Every link is checked again on the way.
    ///
    /// # Errors
    /// The first link, seen from `id`, that does not hold.
    pub fn path_to(&self, id: &BackupId) -> Result<Vec<&StoredManifest>, BrokenLink> {
        let broken = |refusal| BrokenLink { backup: id.clone(), refusal };
        let mut at = self.get(id).ok_or_else(|| broken(Refusal::ParentUnknown { parent: id.clone() }))?;
        let mut path = vec![at];
        while let Some(link) = &at.manifest.parent {
            if path.len() > self.backups.len() {
                return Err(broken(Refusal::Cycle { through: at.id().clone() }));
            }
            at = chain::linked_parent(self.by_id(), at, link).map_err(|refusal| BrokenLink { backup: at.id().clone(), refusal })?;
            path.push(at);
        }
        path.reverse();
        Ok(path)
    }

    /// The newest rejected manifest that is younger than every committed backup: the last backup was taken, and
    /// refused, so the chain must not be continued (I2).
    pub fn refused_since_newest(&self) -> Option<&Rejected> {
        let newest = self.newest().map(|b| b.manifest.finished_at);
        self.rejected.iter().filter(|r| r.time() > newest).max_by_key(|r| r.time())
    }
}

/// The committed backups of a cluster as the chain rules see them: each by its id, and never all of them. What one manifest's judgement
/// costs can so not grow with their number, and a rebuild judges every manifest.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ById<'a> {
    cluster: &'a ClusterId,
    backups: &'a BTreeMap<BackupId, StoredManifest>,
}

impl<'a> ById<'a> {
    pub(crate) fn cluster(self) -> &'a ClusterId {
        self.cluster
    }

    pub(crate) fn get(self, id: &BackupId) -> Option<&'a StoredManifest> {
        self.backups.get(id)
    }
}

/// Sets aside the manifests that must yield: those that nothing continues, but whose rival for the same id or the
/// same place behind a parent is continued.
fn split_yielding(manifests: Vec<StoredManifest>) -> (Vec<StoredManifest>, Vec<StoredManifest>) {
    let continued: BTreeSet<(BackupId, Sha256)> =
        manifests.iter().filter_map(|m| m.manifest.parent.as_ref()).map(|link| (link.backup_id.clone(), link.manifest_sha256)).collect();
    let is_continued = |m: &StoredManifest| continued.contains(&(m.id().clone(), m.sha256));
    let taken_ids: BTreeSet<BackupId> = manifests.iter().filter(|m| is_continued(m)).map(|m| m.id().clone()).collect();
    let taken_parents: BTreeSet<BackupId> = manifests
        .iter()
        .filter(|m| is_continued(m))
        .filter_map(|m| m.slot())
        .filter(|(_, strategy)| *strategy == Strategy::Incremental)
        .map(|(parent, _)| parent.clone())
        .collect();
    manifests.into_iter().partition(|m| {
        let rival_of_parent = m.slot().is_some_and(|(p, s)| s == Strategy::Incremental && taken_parents.contains(p));
        !is_continued(m) && (taken_ids.contains(m.id()) || rival_of_parent)
    })
}
