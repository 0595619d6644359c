//! The audit of a cluster: every broken invariant, by name, with the backup and the restore points that it costs.
//!
//! It starts from what lies in the bucket, not from what a catalog claims, and judges it again by the chain rules.

use crate::catalog::{Catalog, Found, StoredManifest};
use crate::chain::Refusal;
use crate::ids::{BackupId, ClusterId, cluster_prefix};
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// One object exactly: a key and, where the bucket keeps versions, a version.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct ObjectId {
    /// The key.
    pub key: String,
    /// The version recorded.
    pub version_id: Option<String>,
}

/// What the store says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ObjectFacts {
    /// Bytes stored.
    pub size: u64,
    /// CRC-64/NVME of the whole object, base64, where the store keeps one.
    pub crc64nvme: Option<String>,
    /// The version, where the bucket keeps versions.
    pub version_id: Option<String>,
}

/// What the store says of many objects; `None` for one that is not there.
pub type Heads = BTreeMap<ObjectId, Option<ObjectFacts>>;

/// The result.
#[derive(Debug, Clone, PartialEq)]
pub struct Audit {
    /// The catalog that the manifests imply.
    pub catalog: Catalog,
    /// What is wrong, worst first.
    pub findings: Vec<Finding>,
    /// Objects compared with the store.
    pub objects: usize,
    /// Of these, data objects whose checksum the store does not keep: only their sizes were compared.
    pub without_checksum: usize,
}

/// One broken invariant.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// The backup, as far as it is known.
    pub backup_id: Option<BackupId>,
    /// The object it is about.
    pub key: String,
    /// What is wrong.
    pub problem: Problem,
    /// Committed restore points that cannot be restored because of it.
    pub lost: Vec<BackupId>,
}

/// What can be wrong.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Nothing can be restored at all: no backup yet, or a wrong cluster name.
    #[error("the cluster has no committed backup")]
    NoRestorePoint,
    /// A manifest that breaks a chain rule, and so is no restore point.
    #[error("not a restore point: {0}")]
    NotAdmitted(Refusal),
    /// A recorded object is not in the store.
    #[error("the object is missing")]
    ObjectMissing,
    /// An object has another size.
    #[error("the object has {found} bytes, the manifest records {recorded}")]
    ObjectSize {
        /// In the manifest.
        recorded: u64,
        /// In the store.
        found: u64,
    },
    /// An object has another checksum.
    #[error("the object has CRC-64/NVME {found}, the manifest records {recorded}")]
    ObjectChecksum {
        /// In the manifest.
        recorded: String,
        /// In the store.
        found: String,
    },
    /// The store answered with another version.
    #[error("the object has version {found}, the manifest records {recorded}")]
    ObjectVersion {
        /// In the manifest.
        recorded: String,
        /// In the store.
        found: String,
    },
    /// The object was not looked at although others were: the audit is incomplete.
    #[error("the object was not looked at")]
    ObjectUnchecked,
    /// No binlog position on both sides of a link: whether the server forked between them could not be tested.
    #[error("the link to {parent} rests on LSNs alone: {without} recorded no binlog position")]
    UnprovableLink {
        /// The parent.
        parent: BackupId,
        /// The side that lacks it.
        without: BackupId,
    },
}

impl Problem {
    /// The finding's name: stable, for metrics and scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::NotAdmitted(Refusal::ParentUnknown { .. }) => "OrphanIncremental",
            Self::NotAdmitted(refusal) => refusal.name(),
            Self::NoRestorePoint => "NoRestorePoint",
            Self::ObjectMissing => "ObjectMissing",
            Self::ObjectSize { .. } => "ObjectSize",
            Self::ObjectChecksum { .. } => "ObjectChecksum",
            Self::ObjectVersion { .. } => "ObjectVersion",
            Self::ObjectUnchecked => "ObjectUnchecked",
            Self::UnprovableLink { .. } => "UnprovableLink",
        }
    }

    /// Whether it breaks an invariant. The others are weaknesses that a person should know of.
    pub fn is_broken(&self) -> bool {
        !matches!(self, Self::UnprovableLink { .. })
    }
}

impl fmt::Display for Finding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}: {}", self.problem.name(), self.key, self.problem)?;
        if !self.lost.is_empty() {
            let lost = self.lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
            write!(f, "; lost restore points: {lost}")?;
        }
        Ok(())
    }
}

impl Audit {
    /// Whether an invariant is broken.
    pub fn is_broken(&self) -> bool {
        self.findings.iter().any(|f| f.problem.is_broken())
    }

    /// Committed restore points that some finding makes unrestorable.
    pub fn lost(&self) -> BTreeSet<&BackupId> {
        self.findings.iter().flat_map(|f| &f.lost).collect()
    }
}

/// Every object that the committed backups of a catalog need, to ask the store about.
pub fn objects_of(catalog: &Catalog) -> BTreeSet<ObjectId> {
    catalog.backups().flat_map(objects_of_backup).collect()
}

/// Every object that a backup consists of, its manifest too.
pub fn objects_of_backup(backup: &StoredManifest) -> Vec<ObjectId> {
    recorded(backup).into_iter().map(|r| r.id).collect()
}

/// Audits what was found of a cluster; with `heads`, also the objects themselves.
pub fn audit(cluster: ClusterId, found: impl IntoIterator<Item = Found>, heads: Option<&Heads>) -> Audit {
    audit_catalog(Catalog::rebuild(cluster, found), heads)
}

/// Audits a catalog that was rebuilt already.
pub fn audit_catalog(catalog: Catalog, heads: Option<&Heads>) -> Audit {
    let mut findings: Vec<Finding> = catalog
        .rejected()
        .iter()
        .map(|r| Finding {
            backup_id: r.backup_id(),
            key: r.key.clone(),
            problem: Problem::NotAdmitted(r.refusal.clone()),
            lost: Vec::new(),
        })
        .collect();
    if catalog.newest().is_none() {
        let key = cluster_prefix(catalog.cluster());
        findings.push(Finding { backup_id: None, key, problem: Problem::NoRestorePoint, lost: Vec::new() });
    }
    let (mut objects, mut without_checksum) = (0, 0);
    for backup in catalog.backups() {
        if let Some(heads) = heads {
            for object in recorded(backup) {
                objects += 1;
                let problem = match heads.get(&object.id) {
                    None => Some(Problem::ObjectUnchecked),
                    Some(None) => Some(Problem::ObjectMissing),
                    Some(Some(facts)) => {
                        without_checksum += usize::from(object.crc64nvme.is_some() && facts.crc64nvme.is_none());
                        object.differs(facts)
                    }
                };
                if let Some(problem) = problem {
                    let lost = resting_on(&catalog, backup.id());
                    findings.push(Finding { backup_id: Some(backup.id().clone()), key: object.id.key, problem, lost });
                }
            }
        }
        if let Some(problem) = unprovable(&catalog, backup) {
            findings.push(Finding { backup_id: Some(backup.id().clone()), key: backup.key.clone(), problem, lost: Vec::new() });
        }
    }
    findings.sort_by(|a, b| {
        let rank = |f: &Finding| (!f.problem.is_broken(), std::cmp::Reverse(f.lost.len()), f.key.clone());
        rank(a).cmp(&rank(b))
    });
    Audit { catalog, findings, objects, without_checksum }
}

/// An object as a manifest records it.
struct Recorded {
    id: ObjectId,
    size: u64,
    crc64nvme: Option<String>,
}

impl Recorded {
    fn differs(&self, facts: &ObjectFacts) -> Option<Problem> {
        if facts.size != self.size {
            return Some(Problem::ObjectSize { recorded: self.size, found: facts.size });
        }
        match (&self.crc64nvme, &facts.crc64nvme, &self.id.version_id, &facts.version_id) {
            (Some(recorded), Some(found), _, _) if recorded != found => {
                Some(Problem::ObjectChecksum { recorded: recorded.clone(), found: found.clone() })
            }
            (_, _, Some(recorded), Some(found)) if recorded != found => {
                Some(Problem::ObjectVersion { recorded: recorded.clone(), found: found.clone() })
            }
            _ => None,
        }
    }
}

fn recorded(backup: &StoredManifest) -> Vec<Recorded> {
    let inventory = &backup.manifest.inventory.object;
    let data = backup.manifest.objects.iter().map(|o| Recorded {
        id: ObjectId { key: o.key.clone(), version_id: o.version_id.clone() },
        size: o.size,
        crc64nvme: Some(o.crc64nvme.clone()),
    });
    let small = [(&inventory.key, &inventory.version_id, inventory.size), (&backup.key, &backup.version_id, backup.size)];
    let small = small.map(|(key, version_id, size)| Recorded {
        id: ObjectId { key: key.clone(), version_id: version_id.clone() },
        size,
        crc64nvme: None,
    });
    data.chain(small).collect()
}

/// The restore points that need a backup, itself included.
fn resting_on(catalog: &Catalog, id: &BackupId) -> Vec<BackupId> {
    let needs = |b: &&StoredManifest| catalog.path_to(b.id()).is_ok_and(|path| path.iter().any(|step| step.id() == id));
    catalog.backups().filter(needs).map(|b| b.id().clone()).collect()
}

fn unprovable(catalog: &Catalog, child: &StoredManifest) -> Option<Problem> {
    let parent = catalog.get(&child.manifest.parent.as_ref()?.backup_id)?;
    let without = [parent, child].into_iter().find(|side| side.manifest.binlog.is_none())?;
    Some(Problem::UnprovableLink { parent: parent.id().clone(), without: without.id().clone() })
}
