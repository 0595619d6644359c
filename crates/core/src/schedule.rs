//! What the next backup is: full or incremental, of which parent, in which incarnation, and why.

use crate::catalog::{Catalog, StoredManifest};
use crate::chain::{life_differences, same_tool, series_difference};
use crate::document::Document;
use crate::identity::SourceIdentity;
use crate::ids::{BackupId, BackupKind, Incarnation};
use crate::manifest::{ParentLink, Strategy, ToolInfo};
use crate::request::{BackupRequestV1, ParentState};
use crate::rto::{self, ChainSize, Measured};
use crate::status::lasting;
use crate::{Failure, Retry};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use std::fmt;

/// How a cluster is backed up.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SchedulePolicy {
    /// What an incremental continues.
    pub strategy: Strategy,
    /// The most incrementals that a restore may have to apply; zero means that every backup is a full.
    pub max_incrementals: u32,
    /// A full older than this is not continued.
    pub max_full_age: SignedDuration,
    /// A chain whose restore is expected to take longer is not continued, if a full alone would take less.
    pub rto_target: Option<SignedDuration>,
}

impl Default for SchedulePolicy {
    /// Incremental, at most 24 of them, a full every week, and no target for restores.
    fn default() -> Self {
        let max_full_age = SignedDuration::from_hours(7 * 24);
        Self { strategy: Strategy::Incremental, max_incrementals: 24, max_full_age, rto_target: None }
    }
}

/// What is known at the moment of deciding.
#[derive(Debug, Clone, Copy)]
pub struct NextFacts<'a> {
    /// The clock.
    pub now: Timestamp,
    /// Keeps two askers of the same second apart.
    pub nonce: u16,
    /// The server as it is now, if somebody looked. The helper looks again in any case.
    pub source: Option<&'a SourceIdentity>,
    /// The tool as it is now, if somebody looked.
    pub tool: Option<&'a ToolInfo>,
    /// What failed attempts left behind.
    pub owed: Option<&'a Owed>,
    /// What a person, or a promotion, insists on.
    pub force: Force,
    /// What drills measured of restores, the newest first; only a policy with a target looks at them.
    pub measured: &'a [Measured],
}

/// What somebody insists on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Force {
    /// Nothing: the rules decide.
    #[default]
    Nothing,
    /// A full.
    Full,
    /// A full in a new incarnation: the data directory was replaced.
    NewIncarnation,
}

/// What the next backup must be at least, because attempts failed, or the data was replaced, since the newest commit. It
/// is kept until a commit settles it: a full that fails too does not bring the broken chain back.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Owed {
    /// What.
    pub force: Force,
    /// Why, for the decision's reason.
    pub why: String,
}

impl Owed {
    /// What is owed after one more failed attempt. Any failure costs the chain: whether the next incremental would fit
    /// is not worth guessing.
    #[must_use]
    pub fn after(before: Option<&Self>, failure: Failure) -> Self {
        let force = if failure.retry() == Retry::WithFull { Force::NewIncarnation } else { Force::Full };
        match before {
            Some(before) if before.force >= force => before.clone(),
            _ => Self { force, why: format!("the last attempt ended with {failure}") },
        }
    }

    /// Whether the commit of `new` behind `newest` gives what is owed.
    pub fn is_settled_by(&self, new: &StoredManifest, newest: Option<&StoredManifest>) -> bool {
        let is_new_life = newest.is_none_or(|newest| newest.manifest.incarnation < new.manifest.incarnation);
        match self.force {
            Force::Nothing => true,
            Force::Full => new.manifest.kind == BackupKind::Full,
            Force::NewIncarnation => is_new_life,
        }
    }
}

/// The next backup.
#[derive(Debug, Clone, PartialEq)]
pub struct Decision {
    /// Its id.
    pub backup_id: BackupId,
    /// Full or incremental.
    pub kind: BackupKind,
    /// Its incarnation.
    pub incarnation: Incarnation,
    /// What an incremental continues.
    pub parent: Option<ParentState>,
    /// Why.
    pub reason: Reason,
}

/// Why the next backup is what it is. Only [`Reason::ContinueChain`] gives an incremental.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "reason", rename_all_fields = "snake_case")]
pub enum Reason {
    /// Nothing is committed yet.
    NoneCommitted,
    /// The server, its data directory or its host is another one: a new incarnation.
    SourceChanged {
        /// What differs.
        differences: String,
    },
    /// The last attempt could not continue the chain, or was refused: LSNs may not be comparable any more, so a new incarnation.
    ChainBroken {
        /// What happened.
        why: String,
    },
    /// Somebody insisted.
    Forced,
    /// The last attempt failed.
    LastFailed {
        /// How.
        why: String,
    },
    /// The server has another major or minor version.
    ServerSeriesChanged {
        /// Before and now.
        change: String,
    },
    /// The tool, or its series, is another one.
    ToolChanged {
        /// Before and now.
        change: String,
    },
    /// One more incremental would make restores longer than allowed.
    ChainTooLong {
        /// Incrementals that a restore of the newest point applies.
        incrementals: u32,
        /// The most allowed.
        limit: u32,
    },
    /// The full is older than allowed.
    FullTooOld {
        /// When it was taken.
        taken_at: Timestamp,
    },
    /// A restore of the newest point is expected to take longer than it may, and one of a full alone is not.
    RestoreTooLong {
        /// Expected, seconds.
        expected_seconds: i64,
        /// Allowed, seconds.
        target_seconds: i64,
    },
    /// Nothing speaks against an incremental.
    ContinueChain,
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoneCommitted => f.write_str("no backup is committed yet"),
            Self::SourceChanged { differences } => write!(f, "the source changed ({differences}): a new incarnation"),
            Self::ChainBroken { why } => write!(f, "the chain is broken ({why}): a new incarnation"),
            Self::Forced => f.write_str("a full was asked for"),
            Self::LastFailed { why } => write!(f, "a full after a failure ({why})"),
            Self::ServerSeriesChanged { change } => write!(f, "{change}"),
            Self::ToolChanged { change } => write!(f, "the tool changed: {change}"),
            Self::ChainTooLong { incrementals, limit } => write!(f, "the chain has {incrementals} incrementals, {limit} are allowed"),
            Self::FullTooOld { taken_at } => write!(f, "the full of {taken_at} is too old"),
            Self::RestoreTooLong { expected_seconds, target_seconds } => {
                let (expected, target) = (lasting(*expected_seconds), lasting(*target_seconds));
                write!(f, "a restore is expected to take {expected}, {target} are allowed: a shorter chain")
            }
            Self::ContinueChain => f.write_str("the chain goes on"),
        }
    }
}

/// Decides the next backup. The same catalog, policy and facts always give the same decision.
pub fn next_backup(catalog: &Catalog, policy: SchedulePolicy, facts: NextFacts<'_>) -> Decision {
    let newest = catalog.newest();
    let chain = continuable(catalog, policy.strategy);
    let reason = reason(catalog, newest, chain.as_ref(), policy, facts);
    let incarnation = match (&reason, newest) {
        (Reason::SourceChanged { .. } | Reason::ChainBroken { .. }, _) => new_incarnation(catalog, facts),
        (Reason::Forced, Some(_)) if facts.force == Force::NewIncarnation => new_incarnation(catalog, facts),
        (_, Some(newest)) => newest.manifest.incarnation.clone(),
        (_, None) => new_incarnation(catalog, facts),
    };
    let parent = match (&reason, chain) {
        (Reason::ContinueChain, Some(chain)) => Some(parent_state(chain.parent, policy.strategy)),
        _ => None,
    };
    let kind = if parent.is_some() { BackupKind::Incremental } else { BackupKind::Full };
    Decision { backup_id: free_id(catalog, kind, facts), kind, incarnation, parent, reason }
}

/// What an incremental could continue.
struct Chain<'a> {
    full: &'a StoredManifest,
    parent: &'a StoredManifest,
    /// Incrementals that a restore of `parent` applies.
    incrementals: usize,
}

/// The newest chain and the backup in it that the strategy continues.
fn continuable(catalog: &Catalog, strategy: Strategy) -> Option<Chain<'_>> {
    let full = catalog.newest_full()?;
    if strategy == Strategy::Differential {
        return Some(Chain { full, parent: full, incrementals: 0 });
    }
    let of_this_full = |b: &&StoredManifest| {
        let path = catalog.path_to(b.id()).unwrap_or_default();
        path.first().is_some_and(|root| root.id() == full.id()) && catalog.children(b.id()).next().is_none()
    };
    let parent = catalog.in_incarnation(&full.manifest.incarnation).filter(of_this_full).max_by_key(|b| b.order())?;
    Some(Chain { full, parent, incrementals: catalog.path_to(parent.id()).map_or(0, |path| path.len() - 1) })
}

/// The first of these that holds, the strongest first: what changes the incarnation, then what only needs a full.
fn reason(
    catalog: &Catalog,
    newest: Option<&StoredManifest>,
    chain: Option<&Chain<'_>>,
    policy: SchedulePolicy,
    facts: NextFacts<'_>,
) -> Reason {
    let Some(newest) = newest else {
        return Reason::NoneCommitted;
    };
    if let Some(is) = facts.source {
        let differences = life_differences(&newest.manifest.source, is);
        if !differences.is_empty() {
            return Reason::SourceChanged { differences: crate::chain::in_words(&differences) };
        }
    }
    if facts.force == Force::NewIncarnation {
        return Reason::Forced;
    }
    if let Some(owed) = facts.owed.filter(|owed| owed.force == Force::NewIncarnation) {
        return Reason::ChainBroken { why: owed.why.clone() };
    }
    if let Some(refused) = catalog.refused_since_newest() {
        return Reason::ChainBroken { why: format!("{} was refused: {}", refused.key, refused.refusal) };
    }
    // An incarnation without a full cannot be: its first backup has no parent to name. Should it be, a full mends it.
    let Some(chain) = chain else {
        return Reason::ChainBroken { why: "no full is left".into() };
    };
    if facts.force == Force::Full {
        return Reason::Forced;
    }
    if let Some(owed) = facts.owed.filter(|owed| owed.force == Force::Full) {
        return Reason::LastFailed { why: owed.why.clone() };
    }
    if let Some(change) = facts.source.and_then(|is| series_difference(&chain.parent.manifest.source, is)) {
        return Reason::ServerSeriesChanged { change: crate::chain::in_words(&[change]) };
    }
    if let Some(is) = facts.tool.filter(|is| !same_tool(&chain.parent.manifest.tool, is)) {
        let was = &chain.parent.manifest.tool;
        return Reason::ToolChanged { change: format!("was {} {}, is {} {}", was.name, was.version, is.name, is.version) };
    }
    let incrementals = u32::try_from(chain.incrementals).unwrap_or(u32::MAX);
    if incrementals >= policy.max_incrementals {
        return Reason::ChainTooLong { incrementals, limit: policy.max_incrementals };
    }
    let taken_at = chain.full.manifest.finished_at;
    if facts.now.duration_since(taken_at) > policy.max_full_age {
        return Reason::FullTooOld { taken_at };
    }
    restore_too_long(catalog, newest, policy, facts).unwrap_or(Reason::ContinueChain)
}

/// Whether a full is due for the sake of restores: it is only where it would help, so that a target nobody can meet does not
/// make every backup a full.
fn restore_too_long(catalog: &Catalog, newest: &StoredManifest, policy: SchedulePolicy, facts: NextFacts<'_>) -> Option<Reason> {
    let target = policy.rto_target?;
    let size = ChainSize::of_backups(&catalog.path_to(newest.id()).ok()?);
    let expected = rto::expected(facts.measured, size)?;
    let full_alone = rto::expected(facts.measured, size.full_alone())?;
    let (expected_seconds, target_seconds) = (expected.as_secs(), target.as_secs());
    (expected > target && full_alone <= target).then_some(Reason::RestoreTooLong { expected_seconds, target_seconds })
}

fn parent_state(parent: &StoredManifest, strategy: Strategy) -> ParentState {
    let manifest = &parent.manifest;
    ParentState {
        link: ParentLink { backup_id: parent.id().clone(), to_lsn: manifest.to_lsn, manifest_sha256: parent.sha256, strategy },
        last_lsn: manifest.last_lsn,
        source: manifest.source.clone(),
        binlog: manifest.binlog.clone(),
    }
}

/// Sorts after every incarnation so far, even if this clock is behind: names and time must agree (see `chain`).
fn new_incarnation(catalog: &Catalog, facts: NextFacts<'_>) -> Incarnation {
    let wanted = Incarnation::new(facts.now, facts.nonce);
    match catalog.backups().map(|b| &b.manifest.incarnation).max() {
        Some(newest) if *newest >= wanted => {
            Incarnation::new(newest.first_seen_at().saturating_add(SignedDuration::from_secs(1)).unwrap_or(facts.now), facts.nonce)
        }
        _ => wanted,
    }
}

fn free_id(catalog: &Catalog, kind: BackupKind, facts: NextFacts<'_>) -> BackupId {
    let taken = |id: &BackupId| catalog.get(id).is_some() || catalog.rejected().iter().any(|r| r.backup_id().as_ref() == Some(id));
    (0..=u16::MAX)
        .map(|step| BackupId::new(facts.now, kind, facts.nonce.wrapping_add(step)))
        .find(|id| !taken(id))
        .unwrap_or_else(|| BackupId::new(facts.now, kind, facts.nonce))
}

impl Decision {
    /// The request that asks a helper for this backup.
    pub fn request(&self, catalog: &Catalog, bucket: &str, created_at: Timestamp, valid_for: SignedDuration) -> BackupRequestV1 {
        BackupRequestV1 {
            format: BackupRequestV1::FORMAT.to_owned(),
            cluster: catalog.cluster().clone(),
            incarnation: self.incarnation.clone(),
            backup_id: self.backup_id.clone(),
            kind: self.kind,
            parent: self.parent.clone(),
            bucket: bucket.to_owned(),
            created_at,
            expires_at: created_at.saturating_add(valid_for).unwrap_or(Timestamp::MAX),
        }
    }
}
