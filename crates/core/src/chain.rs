//! The chain rules (I2): when a backup may be committed, and the named reason when it may not.
//!
//! The tools do not hold these rules themselves (measured): they accept an LSN from the future, they back up and
//! prepare a fork of the server without complaint, and with no checkpoint between them several backups share one
//! LSN, so that any order of them "fits". A link is therefore an id, a digest and an LSN together, and the source
//! must be the same server on the same data directory.

use crate::catalog::{ById, Catalog, Rejected, StoredManifest};
use crate::document::Document;
use crate::identity::SourceIdentity;
use crate::ids::{BackupId, BackupKind, ClusterId, Incarnation};
use crate::manifest::{ManifestV1, ParentLink, Strategy, ToolInfo};
use crate::neighbours::Neighbours;
use crate::{Lsn, Sha256};
use jiff::Timestamp;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

/// How a backup was admitted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Admitted {
    /// It is new and may be recorded.
    New,
    /// The very same manifest is committed already (I4).
    AlreadyCommitted,
}

/// Why a backup was not admitted. Each sentence continues "backup … was refused: ".
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// No manifest that this code can read.
    #[error("its manifest cannot be read: {reason}")]
    Unreadable {
        /// Why not.
        reason: String,
    },
    /// The manifest says something impossible.
    #[error("its manifest is impossible: {reason}")]
    Impossible {
        /// The rule that is broken.
        reason: String,
    },
    /// Another cluster's manifest.
    #[error("it belongs to cluster {found}, not to {expected}")]
    OtherCluster {
        /// This catalog's cluster.
        expected: ClusterId,
        /// The manifest's.
        found: ClusterId,
    },
    /// The manifest does not lie where it says.
    #[error("its manifest lies at {key}, but says that it belongs at {expected}")]
    Misplaced {
        /// Where it was found.
        key: String,
        /// Where its content belongs.
        expected: String,
    },
    /// The id is taken by other content.
    #[error("its id is committed already with manifest {committed}, this one is {found}")]
    Duplicate {
        /// The committed manifest's digest.
        committed: Sha256,
        /// This one's.
        found: Sha256,
    },
    /// It names itself as parent.
    #[error("it is its own parent")]
    SelfParent,
    /// Its parent links come back to it.
    #[error("its parents lead back to {through}: no full is ever reached")]
    Cycle {
        /// A backup on the cycle.
        through: BackupId,
    },
    /// The parent is not committed.
    #[error("its parent {parent} is not a committed backup")]
    ParentUnknown {
        /// The parent named.
        parent: BackupId,
    },
    /// The parent's manifest is not the one that was continued.
    #[error("it continues {parent} with manifest {linked}, but the committed manifest of {parent} is {committed}: it was exchanged")]
    ParentDigest {
        /// The parent.
        parent: BackupId,
        /// The digest in the link.
        linked: Sha256,
        /// The committed manifest's.
        committed: Sha256,
    },
    /// The parent lived in another data directory's life; their LSNs cannot be compared.
    #[error("it belongs to incarnation {found}, its parent {parent} to {expected}")]
    OtherIncarnation {
        /// The parent.
        parent: BackupId,
        /// The parent's incarnation.
        expected: Incarnation,
        /// This one's.
        found: Incarnation,
    },
    /// Two incarnations in each other's time: an old primary still backs up, or a clock is wrong.
    #[error("it ran from {started_at} to {finished_at}, inside or on the wrong side of incarnation {other}")]
    IncarnationOverlap {
        /// The other incarnation.
        other: Incarnation,
        /// When this backup started.
        started_at: Timestamp,
        /// When it ended.
        finished_at: Timestamp,
    },
    /// Taken from another server, data directory or host than the rest of its incarnation.
    #[error("the source is not the one of {since}: {}", in_words(differences))]
    SourceChanged {
        /// The committed backup it was compared with.
        since: BackupId,
        /// What differs.
        differences: Vec<Difference>,
    },
    /// Made by another tool, or another series of it, than its parent.
    #[error("it was made by {} {}, its parent {parent} by {} {}", is.name, is.version, was.name, was.version)]
    ToolChanged {
        /// The parent.
        parent: BackupId,
        /// The parent's tool.
        was: ToolInfo,
        /// This one's.
        is: ToolInfo,
    },
    /// Changes between the parent and this backup are in neither.
    #[error("it starts at LSN {from_lsn}, but its parent {parent} ends at {parent_to_lsn}: the changes between are in neither")]
    Gap {
        /// The parent.
        parent: BackupId,
        /// Where the parent ends.
        parent_to_lsn: Lsn,
        /// Where this one starts.
        from_lsn: Lsn,
    },
    /// It starts before its parent ends; the tool would refuse to apply it.
    #[error("it starts at LSN {from_lsn}, before its parent {parent} ends at {parent_to_lsn}")]
    Overlap {
        /// The parent.
        parent: BackupId,
        /// Where the parent ends.
        parent_to_lsn: Lsn,
        /// Where this one starts.
        from_lsn: Lsn,
    },
    /// LSN or time ran backwards: a fork, a restored snapshot, lost redo, or a clock that was set back.
    #[error("{back} went back since {since}")]
    Regression {
        /// The committed backup on the other side.
        since: BackupId,
        /// What went back.
        back: Back,
    },
    /// The parent was continued already, and this backup started after that.
    #[error("its parent {parent} was continued by {child} already: this is a fork of the chain")]
    Fork {
        /// The parent.
        parent: BackupId,
        /// The child that is committed.
        child: BackupId,
    },
    /// Two backups continued one parent at the same time, and the other was committed first.
    #[error("{child} ran at the same time, continues the same parent {parent}, and was committed first")]
    RacingChild {
        /// The parent.
        parent: BackupId,
        /// The child that is committed.
        child: BackupId,
    },
    /// A differential whose parent is no full.
    #[error("it is a differential, but its parent {parent} is not a full")]
    ParentNotFull {
        /// The parent.
        parent: BackupId,
    },
}

impl Refusal {
    /// The rule's name: stable, for metrics, findings and tests.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Unreadable { .. } => "Unreadable",
            Self::Impossible { .. } => "Impossible",
            Self::OtherCluster { .. } => "OtherCluster",
            Self::Misplaced { .. } => "Misplaced",
            Self::Duplicate { .. } => "Duplicate",
            Self::SelfParent => "SelfParent",
            Self::Cycle { .. } => "Cycle",
            Self::ParentUnknown { .. } => "ParentUnknown",
            Self::ParentDigest { .. } => "ParentDigest",
            Self::OtherIncarnation { .. } => "OtherIncarnation",
            Self::IncarnationOverlap { .. } => "IncarnationOverlap",
            Self::SourceChanged { .. } => "SourceChanged",
            Self::ToolChanged { .. } => "ToolChanged",
            Self::Gap { .. } => "Gap",
            Self::Overlap { .. } => "Overlap",
            Self::Regression { .. } => "Regression",
            Self::Fork { .. } => "Fork",
            Self::RacingChild { .. } => "RacingChild",
            Self::ParentNotFull { .. } => "ParentNotFull",
        }
    }
}

/// A link that does not hold.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the link of {backup} does not hold: {refusal}")]
pub struct BrokenLink {
    /// The child.
    pub backup: BackupId,
    /// Why.
    pub refusal: Refusal,
}

/// What ran backwards. `was` is the earlier backup's value, `is` the later one's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Back {
    /// The checkpoint.
    ToLsn {
        /// Earlier.
        was: Lsn,
        /// Later.
        is: Lsn,
    },
    /// The end of the copied redo.
    LastLsn {
        /// Earlier.
        was: Lsn,
        /// Later.
        is: Lsn,
    },
    /// The clock: a child that started before its parent ended.
    Clock {
        /// The parent's end.
        was: Timestamp,
        /// The child's start.
        is: Timestamp,
    },
}

impl fmt::Display for Back {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ToLsn { was, is } => write!(f, "the checkpoint LSN ({was}, then {is})"),
            Self::LastLsn { was, is } => write!(f, "the LSN of the copied redo ({was}, then {is})"),
            Self::Clock { was, is } => write!(f, "the clock (the parent ended {was}, the child started {is})"),
        }
    }
}

/// One respect in which two sources differ.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Difference {
    /// Which.
    pub what: Aspect,
    /// The committed backup's value.
    pub was: String,
    /// The new one's.
    pub is: String,
}

/// The respects in which sources are compared.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Aspect {
    /// The host.
    Host,
    /// MariaDB or MySQL.
    Vendor,
    /// The server's own id.
    ServerUid,
    /// The data directory.
    Datadir,
    /// `innodb_page_size`: it cannot change without a new data directory.
    PageSize,
    /// The server's major and minor version. A link cannot cross it, an incarnation can.
    Series,
    /// `lower_case_table_names`. A link cannot cross it, an incarnation can.
    LowerCaseTableNames,
}

impl Aspect {
    fn words(self) -> &'static str {
        match self {
            Self::Host => "host",
            Self::Vendor => "vendor",
            Self::ServerUid => "server uid",
            Self::Datadir => "data directory",
            Self::PageSize => "innodb_page_size",
            Self::Series => "server series",
            Self::LowerCaseTableNames => "lower_case_table_names",
        }
    }
}

/// Differences, for a sentence.
pub fn in_words(differences: &[Difference]) -> String {
    differences.iter().map(|d| format!("{} was {}, is {}", d.what.words(), d.was, d.is)).collect::<Vec<_>>().join("; ")
}

fn differing<T: PartialEq>(what: Aspect, was: T, is: T, text: impl Fn(&T) -> String) -> Option<Difference> {
    (was != is).then(|| Difference { what, was: text(&was), is: text(&is) })
}

/// What must not change within an incarnation: host, vendor, server and data directory.
pub fn life_differences(was: &SourceIdentity, is: &SourceIdentity) -> Vec<Difference> {
    let text = |v: &&String| (*v).clone();
    [
        differing(Aspect::Host, &was.host_id, &is.host_id, |v| v.to_string()),
        differing(Aspect::Vendor, was.vendor, is.vendor, |v| format!("{v:?}")),
        differing(Aspect::ServerUid, &was.server_uid, &is.server_uid, text),
        differing(Aspect::Datadir, &was.datadir_id, &is.datadir_id, text),
    ]
    .into_iter()
    .flatten()
    .collect()
}

/// The server's series, when it changed.
pub fn series_difference(was: &SourceIdentity, is: &SourceIdentity) -> Option<Difference> {
    differing(Aspect::Series, was.version.series(), is.version.series(), |(major, minor)| format!("{major}.{minor}"))
}

/// Whether an incremental made by `is` can be applied after one made by `was`: the same tool, the same series.
pub fn same_tool(was: &ToolInfo, is: &ToolInfo) -> bool {
    was.name == is.name && was.version.series() == is.version.series()
}

fn number<T: ToString>(n: &T) -> String {
    n.to_string()
}

fn source_of_life(was: &ManifestV1, is: &ManifestV1) -> Vec<Difference> {
    let page_size = differing(Aspect::PageSize, was.settings.innodb_page_size, is.settings.innodb_page_size, number);
    life_differences(&was.source, &is.source).into_iter().chain(page_size).collect()
}

fn source_of_link(was: &ManifestV1, is: &ManifestV1) -> Vec<Difference> {
    let (a, b) = (was.settings.lower_case_table_names, is.settings.lower_case_table_names);
    let more = [series_difference(&was.source, &is.source), differing(Aspect::LowerCaseTableNames, a, b, number)];
    source_of_life(was, is).into_iter().chain(more.into_iter().flatten()).collect()
}

/// Whether a backup may be committed to a catalog. Nothing is changed: [`Catalog::commit`] does that.
///
/// # Errors
/// The first rule broken: first what the manifest is, then its parent link, then its place in the incarnation.
pub fn admit(catalog: &Catalog, new: &StoredManifest) -> Result<Admitted, Refusal> {
    admit_among(catalog.by_id(), &Neighbours::of(catalog.backups()), new)
}

/// The same, with the neighbours of the catalog's backups at hand: for one of many.
pub(crate) fn admit_among(catalog: ById<'_>, neighbours: &Neighbours, new: &StoredManifest) -> Result<Admitted, Refusal> {
    let manifest = &new.manifest;
    if manifest.cluster != *catalog.cluster() {
        return Err(Refusal::OtherCluster { expected: catalog.cluster().clone(), found: manifest.cluster.clone() });
    }
    if new.key != manifest.key() {
        return Err(Refusal::Misplaced { key: new.key.clone(), expected: manifest.key() });
    }
    if let Some(committed) = catalog.get(&manifest.backup_id) {
        return match committed.sha256 == new.sha256 {
            true => Ok(Admitted::AlreadyCommitted),
            false => Err(Refusal::Duplicate { committed: committed.sha256, found: new.sha256 }),
        };
    }
    if manifest.parent.as_ref().is_some_and(|link| link.backup_id == manifest.backup_id) {
        return Err(Refusal::SelfParent);
    }
    manifest.check().map_err(|reason| Refusal::Impossible { reason })?;
    if let Some(link) = &manifest.parent {
        let parent = linked_parent(catalog, new, link)?;
        place_behind_parent((catalog, neighbours), new, parent, link.strategy)?;
    }
    place_in_incarnation((catalog, neighbours), manifest)?;
    place_among_incarnations(neighbours, manifest)?;
    Ok(Admitted::New)
}

/// The parent of `child`, if the link to it holds.
///
/// # Errors
/// The rule of the link that is broken.
pub(crate) fn linked_parent<'a>(catalog: ById<'a>, child: &StoredManifest, link: &ParentLink) -> Result<&'a StoredManifest, Refusal> {
    let parent = catalog.get(&link.backup_id).ok_or_else(|| Refusal::ParentUnknown { parent: link.backup_id.clone() })?;
    let (id, was, is) = (|| parent.id().clone(), &parent.manifest, &child.manifest);
    if is.incarnation != was.incarnation {
        return Err(Refusal::OtherIncarnation { parent: id(), expected: was.incarnation.clone(), found: is.incarnation.clone() });
    }
    if link.manifest_sha256 != parent.sha256 {
        return Err(Refusal::ParentDigest { parent: id(), linked: link.manifest_sha256, committed: parent.sha256 });
    }
    let differences = source_of_link(was, is);
    if !differences.is_empty() {
        return Err(Refusal::SourceChanged { since: id(), differences });
    }
    if !same_tool(&was.tool, &is.tool) {
        return Err(Refusal::ToolChanged { parent: id(), was: was.tool.clone(), is: is.tool.clone() });
    }
    let (parent_to_lsn, from_lsn) = (was.to_lsn, is.from_lsn);
    if from_lsn > parent_to_lsn {
        return Err(Refusal::Gap { parent: id(), parent_to_lsn, from_lsn });
    }
    if from_lsn < parent_to_lsn {
        return Err(Refusal::Overlap { parent: id(), parent_to_lsn, from_lsn });
    }
    if is.started_at < was.finished_at {
        return Err(Refusal::Regression { since: id(), back: Back::Clock { was: was.finished_at, is: is.started_at } });
    }
    if is.last_lsn < was.last_lsn {
        return Err(Refusal::Regression { since: id(), back: Back::LastLsn { was: was.last_lsn, is: is.last_lsn } });
    }
    match link.strategy == Strategy::Differential && was.kind != BackupKind::Full {
        true => Err(Refusal::ParentNotFull { parent: id() }),
        false => Ok(parent),
    }
}

/// The place behind the parent must be free, except that differentials of one full stand beside each other.
fn place_behind_parent(
    (catalog, neighbours): (ById<'_>, &Neighbours),
    new: &StoredManifest,
    parent: &StoredManifest,
    strategy: Strategy,
) -> Result<(), Refusal> {
    if strategy == Strategy::Differential {
        return Ok(());
    }
    let Some(child) = neighbours.first_child(parent.id()).and_then(|id| catalog.get(id)) else {
        return Ok(());
    };
    let (parent, raced) = (parent.id().clone(), new.manifest.started_at < child.manifest.finished_at);
    let child = child.id().clone();
    Err(if raced { Refusal::RacingChild { parent, child } } else { Refusal::Fork { parent, child } })
}

/// Within an incarnation there is one source, and of two backups that did not run at the same time the later one
/// has seen at least as much redo. This holds between chains and between siblings too, where no link is.
fn place_in_incarnation((catalog, neighbours): (ById<'_>, &Neighbours), new: &ManifestV1) -> Result<(), Refusal> {
    let Some(life) = neighbours.life(&new.incarnation) else {
        return Ok(());
    };
    if let Some(one) = catalog.get(&life.one) {
        let differences = source_of_life(&one.manifest, new);
        if !differences.is_empty() {
            return Err(Refusal::SourceChanged { since: life.one.clone(), differences });
        }
    }
    let refused = |since: &BackupId, back| Err(Refusal::Regression { since: since.clone(), back });
    let (start, end) = (new.started_at, new.finished_at);
    if let Some((was, since)) = life.to_lsn_before(start).filter(|(was, _)| *was > new.to_lsn) {
        return refused(since, Back::ToLsn { was, is: new.to_lsn });
    }
    if let Some((was, since)) = life.last_lsn_before(start).filter(|(was, _)| *was > new.last_lsn) {
        return refused(since, Back::LastLsn { was, is: new.last_lsn });
    }
    if let Some((is, since)) = life.to_lsn_after(end).filter(|(is, _)| *is < new.to_lsn) {
        return refused(since, Back::ToLsn { was: new.to_lsn, is });
    }
    match life.last_lsn_after(end).filter(|(is, _)| *is < new.last_lsn) {
        Some((is, since)) => refused(since, Back::LastLsn { was: new.last_lsn, is }),
        None => Ok(()),
    }
}

/// Incarnations follow each other in the order of their names. Otherwise "the newest restore point" could be one of
/// an old primary that came back to life, or a new primary with a slow clock would never be the newest.
fn place_among_incarnations(neighbours: &Neighbours, new: &ManifestV1) -> Result<(), Refusal> {
    let (start, end) = (new.started_at, new.finished_at);
    let other = neighbours.earlier_not_ended(&new.incarnation, start).or_else(|| neighbours.later_begun(&new.incarnation, end));
    match other {
        Some(other) => Err(Refusal::IncarnationOverlap { other: other.clone(), started_at: start, finished_at: end }),
        None => Ok(()),
    }
}

/// Gives rejected manifests whose parents only lead round in a circle the name they deserve.
pub(crate) fn name_cycles(rejected: &mut [Rejected]) {
    let mut parents: BTreeMap<BackupId, BackupId> = BTreeMap::new();
    for stored in rejected.iter().filter_map(|r| r.manifest.as_ref()) {
        if let Some(link) = &stored.manifest.parent {
            parents.entry(stored.id().clone()).or_insert_with(|| link.backup_id.clone());
        }
    }
    let circles = circles(&parents);
    for one in rejected {
        let (Refusal::ParentUnknown { parent }, Some(id)) = (&one.refusal, one.backup_id()) else { continue };
        // Of two contents under one id, the other one may have another parent.
        let through = if parents.get(&id) == Some(parent) { circles.get(&id) } else { circles.get(parent) };
        if let Some(through) = through {
            one.refusal = Refusal::Cycle { through: through.clone() };
        }
    }
}

/// Of every id whose parents never end, the first that they lead to twice. Each link is followed once.
fn circles<K: Ord + Clone>(parents: &BTreeMap<K, K>) -> BTreeMap<K, K> {
    let (mut circles, mut done) = (BTreeMap::new(), BTreeSet::new());
    for start in parents.keys() {
        let (mut path, mut place, mut at) = (Vec::new(), BTreeMap::new(), Some(start));
        while let Some(id) = at.filter(|id| !done.contains(*id) && !place.contains_key(*id)) {
            place.insert(id, path.len());
            path.push(id);
            at = parents.get(id);
        }
        let Some(end) = at else {
            done.extend(path);
            continue;
        };
        // Either this path has closed a circle at `end`, or it has met an older path that leads to one, or to none.
        let closed = place.get(end).copied().unwrap_or(path.len());
        let through = if closed < path.len() { Some(end.clone()) } else { circles.get(end).cloned() };
        if let Some(through) = through {
            circles.extend(path.iter().take(closed).map(|id| ((*id).clone(), through.clone())));
            circles.extend(path.iter().skip(closed).map(|id| ((*id).clone(), (*id).clone())));
        }
        done.extend(path);
    }
    circles
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::counted::{Counted, compared};

    /// `n` links: one way to no full, one circle, and many that end in a circle.
    fn links(n: u32) -> [Vec<(u32, u32)>; 3] {
        let path = (0..n).map(|i| (i, i + 1)).collect();
        let circle = (0..n).map(|i| (i, (i + 1) % n)).collect();
        let into_one = (0..n).map(|i| (i, if i < 2 { 1 - i } else { i - 1 })).collect();
        [path, circle, into_one]
    }

    #[test]
    fn i1_naming_circles_follows_each_link_once_however_many_there_are() {
        for kind in 0..3 {
            let per_link = |n: u32| {
                let parents = links(n)[kind].iter().map(|(child, parent)| (Counted(*child), Counted(*parent))).collect();
                let (count, found) = compared(|| circles(&parents).len());
                assert_eq!(found, if kind == 0 { 0 } else { n as usize });
                count / u64::from(n)
            };
            let (few, many) = (per_link(500), per_link(4_000));
            assert!(many <= 2 * few, "kind {kind}: {few} comparisons for each of 500 links, {many} for each of 4,000");
        }
    }
}
