//! The journal of a promotion, and the pure machine that says what to do next from what the journal intends and
//! what lies on disk.
//!
//! A state says what may have *begun*; how far it got is looked up, never assumed. Directories are known by their
//! [`Mark`], not by their names, so that a crash between any two renames, or a person's own `mv`, is seen for what it is.
//! What holds: whenever a server is started, every directory it uses is the old one or every one is the new one;
//! nothing is moved while a server runs, nothing is moved onto anything, nothing is deleted.

use crate::Sha256;
use crate::document::Document;
use crate::drill::Check;
use crate::identity::{BinlogPosition, Version};
use crate::ids::{BackupId, ClusterId, HostId, IdError, parse_nonce, parse_stamp, stamp, text_serde};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;

/// Names one promotion: when it began (UTC, to the second) and a nonce: `20261122T020000Z-4f7c`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PromotionId(String);

impl PromotionId {
    /// The id of a promotion begun at `at`.
    pub fn new(at: Timestamp, nonce: u16) -> Self {
        Self(format!("{}-{nonce:04x}", stamp(at)))
    }

    /// When it began, to the second.
    pub fn at(&self) -> Timestamp {
        self.0.get(..16).and_then(parse_stamp).unwrap_or_default()
    }
}

impl FromStr for PromotionId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let parsed = s.split_once('-').and_then(|(at, nonce)| Some(Self::new(parse_stamp(at)?, parse_nonce(nonce)?)));
        parsed.ok_or_else(|| IdError {
            what: "promotion id",
            text: s.chars().take(80).collect(),
            expected: "YYYYMMDDTHHMMSSZ-xxxx, like 20261122T020000Z-4f7c",
        })
    }
}

impl fmt::Display for PromotionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(PromotionId);

/// The journal of one promotion, version 1. Kept on the host; written before every side effect.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionJournalV1 {
    /// `highwater.promotion-journal.v1`.
    pub format: String,
    /// The promotion.
    pub id: PromotionId,
    /// The cluster.
    pub cluster: ClusterId,
    /// The host whose data is replaced.
    pub host_id: HostId,
    /// The restore point.
    pub backup_id: BackupId,
    /// SHA-256 of the plan's bytes.
    pub plan_sha256: Sha256,
    /// SHA-256 of the drill report's bytes.
    pub report_sha256: Sha256,
    /// SHA-256 of the approval's bytes: an approval is used once.
    pub approval_sha256: Sha256,
    /// Who asked for it, as the approval says.
    pub requester: String,
    /// Who approved it.
    pub approvers: Vec<String>,
    /// When it began.
    pub began_at: Timestamp,
    /// Where in the source's binlog the restored data ends: a replay to a later point starts here.
    pub restored_to: Option<BinlogPosition>,
    /// The server's error log; none when systemd's journal has it.
    pub error_log: Option<PathBuf>,
    /// What is exchanged: the data directory first, then the binlog directory if it lies outside.
    pub slots: Vec<Slot>,
    /// How far it is.
    pub state: State,
    /// Every state entered, in order.
    pub history: Vec<Entered>,
}

/// A state and when it was entered.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Entered {
    /// The state's name.
    pub state: String,
    /// When.
    pub at: Timestamp,
}

/// One directory that is exchanged as a whole: where it lives, and the sibling places it can be moved to.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Slot {
    /// Where the server looks for it.
    pub live: PathBuf,
    /// Where the old one is kept: `<live>.old-<promotion>`.
    pub aside: PathBuf,
    /// Where the new one is made.
    pub staged: PathBuf,
    /// Where the new one goes when the old one comes back: `<live>.undone-<promotion>`.
    pub undone: PathBuf,
    /// The old directory.
    pub old: Mark,
}

impl Slot {
    /// The path of one of its places.
    pub fn path(&self, place: Place) -> &PathBuf {
        match place {
            Place::Live => &self.live,
            Place::Aside => &self.aside,
            Place::Staged => &self.staged,
            Place::Undone => &self.undone,
        }
    }
}

/// What tells one directory from every other on its filesystem, and stays through renames and reboots.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Mark {
    /// Its inode.
    pub inode: u64,
    /// When the inode was born, nanoseconds since 1970; zero where the filesystem does not say.
    pub born_ns: i64,
}

/// The places of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Place {
    /// Where the server looks.
    Live,
    /// Where the old data is kept.
    Aside,
    /// Where the new data is made.
    Staged,
    /// Where new data goes that was taken out again.
    Undone,
}

/// What was found out about the staged data, and must still hold once it serves.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Staged {
    /// The new directories, in the order of the slots.
    pub marks: Vec<Mark>,
    /// The version of the server that served the staged data.
    pub version: Version,
    /// How many tables it has.
    pub tables: u64,
    /// SHA-256 of the list of tables kept beside the journal.
    pub tables_sha256: Sha256,
    /// Exact row counts of some tables, `schema.table`.
    pub rows: Vec<(String, u64)>,
}

/// Whether the primary took writes before it was fenced: what a roll-back puts back.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ReadOnly {
    /// `read_only`.
    pub read_only: bool,
    /// `super_read_only`, where the server has it.
    pub super_read_only: Option<bool>,
}

/// The fenced primary.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Fence {
    /// What it was before.
    pub was: ReadOnly,
    /// The end of its binlog once it was read-only, if it writes one.
    pub last: Option<BinlogPosition>,
    /// When.
    pub at: Timestamp,
}

/// How far a promotion is. Each state holds what exists then, and is on disk before its side effects begin.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(tag = "name", rename_all = "kebab-case", deny_unknown_fields)]
pub enum State {
    /// The new data is being restored beside the old. The primary is not touched.
    Staging {},
    /// The new data is being tried by an isolated server. The primary is not touched.
    Smoking {},
    /// The primary is being made read-only.
    Fencing {
        /// The new data.
        staged: Staged,
        /// What the primary was before.
        was: ReadOnly,
    },
    /// The primary is being stopped.
    Stopping {
        /// The new data.
        staged: Staged,
        /// The fenced primary.
        fence: Fence,
    },
    /// The directories are being exchanged.
    Swapping {
        /// The new data.
        staged: Staged,
        /// The fenced primary.
        fence: Fence,
    },
    /// The server is being started on the new data and checked.
    Starting {
        /// The new data.
        staged: Staged,
        /// The fenced primary.
        fence: Fence,
        /// Where in the server's error log this start begins, bytes.
        log_from: u64,
    },
    /// The new data serves. The old is kept aside.
    Done {
        /// The new data.
        staged: Staged,
        /// The primary as it was fenced.
        fence: Fence,
        /// When.
        finished_at: Timestamp,
        /// The checks on the new primary.
        checks: Vec<Check>,
    },
    /// Ended before the primary was touched.
    Aborted {
        /// Why.
        reason: String,
        /// When.
        finished_at: Timestamp,
    },
    /// The old data is being brought back because the promotion failed or was cut off.
    RollingBack {
        /// The new directories.
        new: Vec<Mark>,
        /// What the primary was before the fence.
        was: ReadOnly,
        /// Why.
        reason: String,
    },
    /// The promotion failed; the old data serves again.
    RolledBack {
        /// Why.
        reason: String,
        /// When.
        finished_at: Timestamp,
    },
    /// An operator asked for the old data back after success.
    Reverting {
        /// The new data.
        staged: Staged,
        /// The old primary, as it was fenced.
        fence: Fence,
        /// The promoted primary, as it was fenced for this; absent until it was.
        promoted: Option<Fence>,
    },
    /// The old data serves again, as an operator asked.
    Reverted {
        /// When.
        finished_at: Timestamp,
        /// The end of the promoted data's binlog.
        promoted: Option<Fence>,
    },
    /// The old data did not come up for an operator; the promoted data is being brought back.
    Reinstating {
        /// The new data.
        staged: Staged,
        /// The old primary, as it was fenced.
        fence: Fence,
        /// The promoted primary, as it was fenced.
        promoted: Option<Fence>,
        /// Why.
        reason: String,
    },
}

impl State {
    /// Its name, as in the journal.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Staging {} => "staging",
            Self::Smoking {} => "smoking",
            Self::Fencing { .. } => "fencing",
            Self::Stopping { .. } => "stopping",
            Self::Swapping { .. } => "swapping",
            Self::Starting { .. } => "starting",
            Self::Done { .. } => "done",
            Self::Aborted { .. } => "aborted",
            Self::RollingBack { .. } => "rolling-back",
            Self::RolledBack { .. } => "rolled-back",
            Self::Reverting { .. } => "reverting",
            Self::Reverted { .. } => "reverted",
            Self::Reinstating { .. } => "reinstating",
        }
    }

    /// Whether nothing is left to do or undo.
    pub fn is_closed(&self) -> bool {
        matches!(self, Self::Done { .. } | Self::Aborted { .. } | Self::RolledBack { .. } | Self::Reverted { .. })
    }

    /// The new directories, once they are known to be complete.
    pub fn new_marks(&self) -> &[Mark] {
        match self {
            Self::Fencing { staged, .. }
            | Self::Stopping { staged, .. }
            | Self::Swapping { staged, .. }
            | Self::Starting { staged, .. }
            | Self::Done { staged, .. }
            | Self::Reverting { staged, .. }
            | Self::Reinstating { staged, .. } => &staged.marks,
            Self::RollingBack { new, .. } => new,
            Self::Staging {} | Self::Smoking {} | Self::Aborted { .. } | Self::RolledBack { .. } | Self::Reverted { .. } => &[],
        }
    }
}

/// Whose data shall serve.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Goal {
    /// The data the primary had.
    Old,
    /// The restored data.
    New,
}

/// What lies at a slot's four places: the mark of whatever has that name, if anything has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SlotSeen {
    /// At `live`.
    pub live: Option<Mark>,
    /// At `aside`.
    pub aside: Option<Mark>,
    /// At `staged`.
    pub staged: Option<Mark>,
    /// At `undone`.
    pub undone: Option<Mark>,
}

/// The server, as its service control and its socket show it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ServerSeen {
    /// Not running.
    Stopped,
    /// Running, starting or stopping, and not answering.
    Silent,
    /// Running and answering.
    Answering,
    /// Service control contradicts itself or does not know; the reason.
    Unknown(String),
}

/// Everything a decision is made from, besides the journal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Observed {
    /// One for each slot of the journal.
    pub slots: Vec<SlotSeen>,
    /// The server.
    pub server: ServerSeen,
}

/// One side effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Close the journal of a promotion that never touched the primary.
    Abandon,
    /// Stop the server.
    Stop,
    /// Rename a slot's directory from one of its places to another, which is free.
    Move {
        /// Index of the slot.
        slot: usize,
        /// Where it lies.
        from: Place,
        /// Where it goes.
        to: Place,
    },
    /// Start the server: every slot is in place.
    Start,
    /// Wait for a server that runs but does not answer.
    Wait,
    /// Every slot is in place and the server answers: check it, put its settings right, close the journal.
    Finish,
}

/// What to do next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Decision {
    /// Towards the new data.
    Forward(Step),
    /// Towards the old data.
    Back(Step),
    /// Nothing is open.
    Done,
    /// Only a person can tell; the reason.
    Ask(String),
}

/// What `--resume` does with an open journal: the first step, in the direction that the journal and the disk imply.
///
/// Until the new data is wholly in place the promotion is undone; from then on it is finished. A roll-back, once begun, is
/// finished, and so is a person's wish to have the old data back.
pub fn on_crash(journal: &PromotionJournalV1, seen: &Observed) -> Decision {
    match crash_goal(journal, seen) {
        Some(goal) => next_step(journal, goal, seen),
        None if journal.state.is_closed() => Decision::Done,
        None => Decision::Back(Step::Abandon),
    }
}

/// The direction of [`on_crash`]; none when the journal is closed or the primary was never touched.
pub fn crash_goal(journal: &PromotionJournalV1, seen: &Observed) -> Option<Goal> {
    match &journal.state {
        State::Staging {} | State::Smoking {} => None,
        State::Done { .. } | State::Aborted { .. } | State::RolledBack { .. } | State::Reverted { .. } => None,
        State::Fencing { .. } | State::Stopping { .. } | State::RollingBack { .. } | State::Reverting { .. } => Some(Goal::Old),
        State::Swapping { .. } | State::Starting { .. } => Some(if in_place(journal, Goal::New, seen) { Goal::New } else { Goal::Old }),
        State::Reinstating { .. } => Some(Goal::New),
    }
}

/// Whether every slot holds what `goal` wants.
pub fn in_place(journal: &PromotionJournalV1, goal: Goal, seen: &Observed) -> bool {
    seen.slots.len() == journal.slots.len() && slot_moves(journal, goal, seen).all(|m| m == Ok(None))
}

/// The next step towards `goal`. Renames happen only while the server is stopped; it is started only when every slot is in place.
pub fn next_step(journal: &PromotionJournalV1, goal: Goal, seen: &Observed) -> Decision {
    let side = |step| match goal {
        Goal::Old => Decision::Back(step),
        Goal::New => Decision::Forward(step),
    };
    if let ServerSeen::Unknown(reason) = &seen.server {
        return Decision::Ask(format!("it is not known whether the server runs: {reason}"));
    }
    if seen.slots.len() != journal.slots.len() {
        return Decision::Ask("not every directory was looked at".into());
    }
    // Every slot is judged before the first is moved: one that cannot be resolved must not leave the others half way.
    let mut first = None;
    for (slot, found) in slot_moves(journal, goal, seen).enumerate() {
        match found {
            Err(reason) => return Decision::Ask(reason),
            Ok(Some((from, to))) => first = first.or(Some(Step::Move { slot, from, to })),
            Ok(None) => {}
        }
    }
    match (first, &seen.server) {
        (Some(step), ServerSeen::Stopped) => side(step),
        (Some(_), _) => side(Step::Stop),
        (None, ServerSeen::Stopped) => side(Step::Start),
        (None, ServerSeen::Silent) => side(Step::Wait),
        (None, _) => side(Step::Finish),
    }
}

/// For each slot, the next rename towards `goal`, none when it is there, or why nobody but a person can say.
fn slot_moves<'a>(
    journal: &'a PromotionJournalV1,
    goal: Goal,
    seen: &'a Observed,
) -> impl Iterator<Item = Result<Option<(Place, Place)>, String>> + 'a {
    let new = journal.state.new_marks();
    journal.slots.iter().zip(&seen.slots).enumerate().map(move |(i, (slot, seen))| slot_move(slot, new.get(i).copied(), goal, *seen))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Who {
    Nothing,
    Old,
    New,
    Other,
}

fn slot_move(slot: &Slot, new: Option<Mark>, goal: Goal, seen: SlotSeen) -> Result<Option<(Place, Place)>, String> {
    let who = |at: Option<Mark>| match at {
        None => Who::Nothing,
        Some(mark) if mark == slot.old => Who::Old,
        Some(mark) if Some(mark) == new => Who::New,
        Some(_) => Who::Other,
    };
    let [live, aside, staged, undone] = [seen.live, seen.aside, seen.staged, seen.undone].map(who);
    let everywhere = [live, aside, staged, undone];
    let once = |w| everywhere.iter().filter(|at| **at == w).count() <= 1;
    if !once(Who::Old) || !once(Who::New) {
        return Err(format!("one directory is seen at two places around {}", slot.live.display()));
    }
    let unclear = |what: &str| Err(format!("{what} (looked at {})", slot.live.display()));
    let new_at = match (staged, undone) {
        (Who::New, _) => Some(Place::Staged),
        (_, Who::New) => Some(Place::Undone),
        _ => None,
    };
    match (goal, live, aside) {
        (Goal::Old, Who::Old, _) => Ok(None),
        (Goal::Old, Who::Nothing, Who::Old) => Ok(Some((Place::Aside, Place::Live))),
        (Goal::Old, Who::New, Who::Old) if undone == Who::Nothing => Ok(Some((Place::Live, Place::Undone))),
        (Goal::Old, Who::New, Who::Old) => unclear("the place for the undone data is taken"),
        (Goal::New, Who::New, Who::Old) => Ok(None),
        (Goal::New, Who::Nothing, Who::Old) => match new_at {
            Some(from) => Ok(Some((from, Place::Live))),
            None => unclear("the new data is nowhere to be found"),
        },
        (Goal::New, Who::Old, Who::Nothing) if new_at.is_some() => Ok(Some((Place::Live, Place::Aside))),
        (Goal::New, Who::Old, Who::Nothing) => unclear("the new data is nowhere to be found"),
        (Goal::New, Who::Old, _) => unclear("the place for the old data is taken"),
        (_, Who::Other, _) => unclear("neither the old nor the new data is in place, but something else"),
        (_, _, _) => unclear("the old data is not where it was kept"),
    }
}

impl Document for PromotionJournalV1 {
    const FORMAT: &'static str = "highwater.promotion-journal.v1";

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        if self.slots.is_empty() {
            return Err("it exchanges no directory".into());
        }
        let places = self.slots.iter().flat_map(|s| [&s.live, &s.aside, &s.staged, &s.undone]);
        if let Some(path) = places.clone().find(|p| !p.is_absolute()) {
            return Err(format!("{} is not an absolute path", path.display()));
        }
        if places.clone().collect::<std::collections::BTreeSet<_>>().len() != self.slots.len() * 4 {
            return Err("two of its places are one".into());
        }
        let marks = self.state.new_marks();
        if !marks.is_empty() && marks.len() != self.slots.len() {
            return Err(format!("it has {} slots but {} new directories", self.slots.len(), marks.len()));
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests;
