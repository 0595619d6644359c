//! What retention keeps and what it deletes, and why, for every backup (I6).
//!
//! The rules count restore points that exist, not days that passed: no clock is asked, so a cluster whose backups stopped
//! loses nothing, and what is deleted today would be deleted tomorrow. Days, ISO weeks and months are those of UTC.

use crate::cluster::KeepConfig;
use crate::ids::BackupId;
use jiff::civil::Date;
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::fmt;

/// A committed backup, as far as retention looks at it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Point {
    /// The backup.
    pub backup_id: BackupId,
    /// What an incremental continues.
    pub parent: Option<BackupId>,
    /// The restore point's time.
    pub finished_at: Timestamp,
}

/// What is known beside the backups.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Facts {
    /// Backups that a drill has passed on.
    pub passed: BTreeSet<BackupId>,
    /// Backups that something unfinished uses, and what that is, like `drill 20261122T…`.
    pub used: Vec<(BackupId, String)>,
    /// Backups that Object Lock holds.
    pub locked: BTreeMap<BackupId, Hold>,
}

/// How Object Lock holds a backup.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hold {
    /// Every lock has ended by then.
    Until(Timestamp),
    /// A legal hold: until somebody lifts it.
    Legal,
}

/// The decision: every backup is in exactly one of the lists.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Retention {
    /// Kept, oldest first.
    pub kept: Vec<Kept>,
    /// No rule keeps it, but a lock does: its own, or one of a backup that needs it.
    pub held: Vec<Held>,
    /// To be deleted, in this order: the oldest chain first, in a chain children before parents.
    pub deleted: Vec<Deleted>,
}

/// A kept backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Kept {
    /// Which.
    pub backup_id: BackupId,
    /// Why; never empty.
    pub reasons: Vec<Reason>,
}

/// A backup that goes as soon as its lock ends.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Held {
    /// Which.
    pub backup_id: BackupId,
    /// The last lock among its own and those of the backups that need it.
    pub hold: Hold,
    /// Why nothing else keeps it.
    pub reasons: Vec<Lapse>,
}

/// A backup to delete.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Deleted {
    /// Which.
    pub backup_id: BackupId,
    /// Why nothing keeps it; never empty.
    pub reasons: Vec<Lapse>,
}

/// Why a backup is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Reason {
    /// The newest restore point.
    Newest,
    /// Of the last chain, that of the newest full; no rule is needed for it.
    LastChain,
    /// Of one of the last chains.
    Chain {
        /// How many are kept.
        chains: u32,
    },
    /// Of the last chain that a drill has passed on.
    Proven {
        /// The newest restore point with a passed drill.
        by: BackupId,
    },
    /// The newest restore point of its day, week or month.
    NewestOf(Period),
    /// Something unfinished uses it.
    Used {
        /// What.
        by: String,
    },
    /// A kept backup needs it.
    NeededBy {
        /// The newest of those that do.
        backup_id: BackupId,
    },
    /// Its chain cannot be followed to a full, so nothing can be said of it: `catalog audit` names what is wrong.
    Broken,
}

/// Why a keep rule does not keep a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Lapse {
    /// Enough chains are newer.
    ChainTooOld {
        /// How many are kept: the last one always.
        chains: u32,
    },
    /// Another restore point stands for its period.
    NotNewestOf {
        /// The period.
        period: Period,
        /// The newest of it.
        newest: BackupId,
    },
    /// Enough periods are newer.
    PeriodTooOld {
        /// The period.
        period: Period,
        /// How many are kept.
        keep: u32,
    },
}

/// A day, an ISO week or a month of UTC.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Period {
    unit: Unit,
    first: Date,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Unit {
    Day,
    Week,
    Month,
}

impl Period {
    fn of(unit: Unit, at: Timestamp) -> Self {
        let day = at.to_zoned(TimeZone::UTC).date();
        let back = match unit {
            Unit::Day => 0,
            Unit::Week => day.weekday().to_monday_zero_offset(),
            Unit::Month => day.day() - 1,
        };
        // Only the calendar's very first days have no Monday before them.
        let first = day.checked_sub(SignedDuration::from_hours(24 * i64::from(back))).unwrap_or(day);
        Self { unit, first }
    }
}

impl fmt::Display for Period {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.unit {
            Unit::Day => write!(f, "day {}", self.first),
            Unit::Week => {
                let week = self.first.iso_week_date();
                write!(f, "week {}-W{:02}", week.year(), week.week())
            }
            Unit::Month => write!(f, "month {}", self.first.strftime("%Y-%m")),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Newest => f.write_str("it is the newest restore point"),
            Self::LastChain => f.write_str("it is of the last chain"),
            Self::Chain { chains } => write!(f, "it is of the last {chains} chains"),
            Self::Proven { by } => write!(f, "it is of the last chain with a passed drill, that on {by}"),
            Self::NewestOf(period) => write!(f, "it is the newest of {period}"),
            Self::Used { by } => write!(f, "{by} uses it"),
            Self::NeededBy { backup_id } => write!(f, "{backup_id} needs it"),
            Self::Broken => f.write_str("no full is found at the start of its chain: see `highwater catalog audit`"),
        }
    }
}

impl fmt::Display for Lapse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ChainTooOld { chains: 1 } => f.write_str("its chain is not the last"),
            Self::ChainTooOld { chains } => write!(f, "its chain is not of the last {chains}"),
            Self::NotNewestOf { period, newest } => write!(f, "{newest} stands for {period}"),
            Self::PeriodTooOld { period, keep } => write!(f, "{period} is before the last {keep} that have a restore point"),
        }
    }
}

impl fmt::Display for Hold {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Until(at) => write!(f, "locked until {at}"),
            Self::Legal => f.write_str("under a legal hold"),
        }
    }
}

/// How long what a failed backup left behind is kept: longer than its command could possibly still run, and long
/// enough for a person to look.
pub const REMAINS_KEPT: SignedDuration = SignedDuration::from_hours(7 * 24);

/// Whether the remains of a backup that failed (or was refused) may go: it is past, and something newer is committed.
pub fn remains_may_go(failed: &BackupId, newest: Option<Timestamp>, now: Timestamp) -> bool {
    let asked = failed.requested_at();
    now.duration_since(asked) > REMAINS_KEPT && newest.is_some_and(|newest| newest > asked)
}

/// Decides for every committed backup. The same arguments give the same decision, in whatever order `points` come.
///
/// Locks only move backups from `deleted` to `held`: a caller may ask without them first, and then look only at the
/// locks of what would be deleted.
pub fn retain(points: &[Point], rules: &KeepConfig, facts: &Facts) -> Retention {
    let forest = Forest::of(points);
    let units = [(Unit::Day, rules.daily), (Unit::Week, rules.weekly), (Unit::Month, rules.monthly)];
    let calendar: Vec<_> = units.into_iter().filter(|(_, keep)| *keep > 0).map(|(unit, keep)| Calendar::of(&forest, unit, keep)).collect();
    let reasons = forest.reasons(rules, &calendar, facts);
    let locks = forest.locks(&reasons, facts);
    let lapses = |at: usize| {
        let chain = Lapse::ChainTooOld { chains: rules.chains.max(1) };
        [chain].into_iter().chain(calendar.iter().map(|c| c.lapse(&forest, at))).collect()
    };
    let mut decided = Retention::default();
    for at in forest.children_first() {
        let backup_id = forest.id(at);
        match (&reasons[at], locks[at]) {
            (reasons, _) if !reasons.is_empty() => decided.kept.push(Kept { backup_id, reasons: reasons.clone() }),
            (_, Some(hold)) => decided.held.push(Held { backup_id, hold, reasons: lapses(at) }),
            (_, None) => decided.deleted.push(Deleted { backup_id, reasons: lapses(at) }),
        }
    }
    decided.kept.sort_by_key(|k| forest.place(&k.backup_id));
    decided
}

/// The backups, oldest first, with their links as places in that order.
struct Forest<'a> {
    points: Vec<&'a Point>,
    place: HashMap<&'a BackupId, usize>,
    parent: Vec<Option<usize>>,
    /// The full that a backup rests on; none when it rests on nothing.
    root: Vec<Option<usize>>,
    depth: Vec<usize>,
}

impl<'a> Forest<'a> {
    fn of(points: &'a [Point]) -> Self {
        let mut points: Vec<_> = points.iter().collect();
        points.sort_by_key(|p| (p.finished_at, &p.backup_id));
        let place: HashMap<_, _> = points.iter().enumerate().map(|(at, p)| (&p.backup_id, at)).collect();
        let parent: Vec<_> = points.iter().map(|p| p.parent.as_ref().and_then(|id| place.get(id).copied())).collect();
        let mut forest = Self { root: Vec::new(), depth: Vec::new(), points, place, parent };
        for at in 0..forest.points.len() {
            let path: Vec<_> = forest.upwards(at).collect();
            let full = path.last().copied().filter(|last| forest.points[*last].parent.is_none());
            forest.root.push(full);
            forest.depth.push(path.len());
        }
        forest
    }

    fn id(&self, at: usize) -> BackupId {
        self.points[at].backup_id.clone()
    }

    fn place(&self, id: &BackupId) -> Option<usize> {
        self.place.get(id).copied()
    }

    /// From a backup to its full; ends on a circle too.
    fn upwards(&self, at: usize) -> impl Iterator<Item = usize> {
        std::iter::successors(Some(at), |at| self.parent[*at]).take(self.points.len())
    }

    /// Oldest chain first, in a chain children before parents.
    fn children_first(&self) -> Vec<usize> {
        let mut order: Vec<_> = (0..self.points.len()).collect();
        order.sort_by_key(|at| (self.root[*at], std::cmp::Reverse((self.depth[*at], *at))));
        order
    }

    fn reasons(&self, rules: &KeepConfig, calendar: &[Calendar], facts: &Facts) -> Vec<Vec<Reason>> {
        let sound = || (0..self.points.len()).rev().filter(|at| self.root[*at].is_some());
        let fulls: Vec<_> = sound().filter(|at| self.parent[*at].is_none()).collect();
        let last_chains: BTreeSet<_> = fulls.iter().copied().take(rules.chains as usize).collect();
        let proven = facts.passed.iter().filter_map(|id| self.place(id)).filter(|at| self.root[*at].is_some()).max();
        let mut reasons = vec![Vec::new(); self.points.len()];
        if let Some(newest) = sound().next() {
            reasons[newest].push(Reason::Newest);
        }
        for (at, reasons) in reasons.iter_mut().enumerate() {
            let Some(root) = self.root[at] else {
                reasons.push(Reason::Broken);
                continue;
            };
            if fulls.first() == Some(&root) {
                reasons.push(Reason::LastChain);
            }
            if last_chains.contains(&root) {
                reasons.push(Reason::Chain { chains: rules.chains });
            }
            if let Some(by) = proven.filter(|by| self.root[*by] == Some(root)) {
                reasons.push(Reason::Proven { by: self.id(by) });
            }
            reasons.extend(calendar.iter().filter_map(|c| c.stands_for(self, at)).map(Reason::NewestOf));
        }
        for (id, by) in &facts.used {
            if let Some(at) = self.place(id) {
                reasons[at].push(Reason::Used { by: by.clone() });
            }
        }
        self.keep_ancestors(&mut reasons);
        reasons
    }

    /// A kept backup keeps what it rests on. Newest first, so that the newest is the one named.
    fn keep_ancestors(&self, reasons: &mut [Vec<Reason>]) {
        let needed = |reasons: &[Reason]| reasons.iter().any(|r| matches!(r, Reason::NeededBy { .. }));
        let kept: Vec<_> = (0..reasons.len()).rev().filter(|at| !reasons[*at].is_empty()).collect();
        for at in kept {
            for above in self.upwards(at).skip(1) {
                if needed(&reasons[above]) {
                    break;
                }
                reasons[above].push(Reason::NeededBy { backup_id: self.id(at) });
            }
        }
    }

    /// A locked backup that nothing keeps holds what it rests on as long as itself.
    fn locks(&self, reasons: &[Vec<Reason>], facts: &Facts) -> Vec<Option<Hold>> {
        let mut holds = vec![None; self.points.len()];
        for (id, hold) in &facts.locked {
            let Some(at) = self.place(id).filter(|at| reasons[*at].is_empty()) else { continue };
            for held in self.upwards(at) {
                holds[held] = holds[held].max(Some(*hold));
            }
        }
        holds
    }
}

/// One calendar rule, worked out.
struct Calendar {
    unit: Unit,
    keep: u32,
    /// The newest restore point of every period that is kept.
    newest: BTreeMap<Period, usize>,
}

impl Calendar {
    fn of(forest: &Forest<'_>, unit: Unit, keep: u32) -> Self {
        let mut newest = BTreeMap::new();
        for at in (0..forest.points.len()).rev().filter(|at| forest.root[*at].is_some()) {
            let period = Period::of(unit, forest.points[at].finished_at);
            if !newest.contains_key(&period) {
                if newest.len() >= keep as usize {
                    break;
                }
                newest.insert(period, at);
            }
        }
        Self { unit, keep, newest }
    }

    fn stands_for(&self, forest: &Forest<'_>, at: usize) -> Option<Period> {
        let period = Period::of(self.unit, forest.points[at].finished_at);
        (self.newest.get(&period) == Some(&at)).then_some(period)
    }

    fn lapse(&self, forest: &Forest<'_>, at: usize) -> Lapse {
        let period = Period::of(self.unit, forest.points[at].finished_at);
        match self.newest.get(&period) {
            Some(newest) => Lapse::NotNewestOf { period, newest: forest.id(*newest) },
            None => Lapse::PeriodTooOld { period, keep: self.keep },
        }
    }
}
