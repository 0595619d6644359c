//! What may happen: functions that run one step at a time between the steps of all others, a host that gets its commands
//! late or twice, time that runs out. A function that is never continued has crashed; crashes need no step of their own.

use super::explorer::Model;
use super::rules::{Rule, Rules};
use super::state::*;
use crate::support::*;
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::chain::{Admitted, admit};
use highwater_core::cluster::KeepConfig;
use highwater_core::request::BackupRequestV1;
use highwater_core::retention::{Facts, Point, retain};
use highwater_core::schedule::{Force, NextFacts, Owed, SchedulePolicy, next_backup};
use highwater_core::{BackupKind, Document, Failure, Sha256};
use jiff::SignedDuration;
use std::cell::RefCell;
use std::collections::HashSet;
use std::rc::Rc;

/// A function between two of its steps, with what it has read.
#[derive(Debug, Clone, Hash)]
pub(super) enum Function {
    /// start-backup has read `lease`.
    StartLease { lease: Leased, force: bool, nonce: u8 },
    /// start-backup has read `head` too.
    StartRead { lease: Leased, read: Reading, force: bool, nonce: u8 },
    /// start-backup has decided.
    StartDecided { head: Head, lease: Leased, request: Doc<BackupRequestV1>, force: bool },
    /// start-backup has to send the command.
    StartSend { op: usize },
    /// finish-backup has read `head`.
    FinishRead { read: Reading, op: usize },
    /// finish-backup has judged.
    FinishJudged { head: Head, op: usize, verdict: Verdict },
    /// promote has read `head` and `lease`.
    PromoteRead { head: Head, lease: Leased, point: usize },
    /// prune has read `head`; or has chosen already, if the rule that it is read first is gone.
    PruneRead { head: Head, chosen: Option<Vec<usize>> },
    /// prune has chosen what goes.
    PruneChosen { head: Head, victims: Vec<usize> },
    /// A rebuild has compared the bucket with the table.
    RebuildJudged { head: Head, missing: Vec<usize> },
}

/// `head`, and the backups too if the rule that they are read after it is gone.
#[derive(Debug, Clone, Hash)]
pub(super) struct Reading {
    head: Head,
    committed: Option<Vec<usize>>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Verdict {
    Commit,
    Refuse,
    Fail(Option<Ended>),
}

/// One thing that may happen.
#[derive(Debug, Clone, Copy)]
#[allow(dead_code, reason = "names are there for the trace")]
pub(super) enum Action {
    Start {
        force: bool,
    },
    Finish(usize),
    Promote,
    SettlePromotion,
    Prune,
    DeleteMarked(usize),
    Rebuild,
    DrillPasses(usize),
    /// The next step of a function, and its name for the trace.
    Continue(usize, &'static str),
    Double(usize),
    Deliver(usize),
    Publish,
    KillHelper,
    BeginExchange,
    Exchange,
    RollBackServer,
    UpgradeServer,
    ExpireLease,
}

/// The system under certain rules and bounds.
pub(super) struct System {
    pub(super) rules: Rules,
    pub(super) bounds: Left,
    /// A full is committed already.
    pub(super) begun: bool,
    /// States that were seen to recover.
    pub(super) recovered: RefCell<HashSet<u128>>,
}

impl Model for System {
    type State = State;
    type Action = Action;

    fn initial(&self) -> State {
        let mut s = State::new(self.bounds);
        if self.begun {
            let (rules, bounds) = (Rules::default(), Left { starts: 1, finishes: 1, ..Left::default() });
            let first = Self { rules, bounds, begun: false, recovered: RefCell::default() };
            s.left = bounds;
            first.back_up(&mut s);
            s.left = self.bounds;
        }
        s
    }

    fn actions(&self, s: &State) -> Vec<Action> {
        let mut actions: Vec<Action> = s.functions.iter().enumerate().map(|(i, f)| Action::Continue(i, f.name())).collect();
        let mut may = |allowed: bool, action| actions.extend(allowed.then_some(action));
        may(s.left.starts > 0, Action::Start { force: false });
        may(s.left.starts > 0 && s.left.forced > 0, Action::Start { force: true });
        for (op, item) in s.items.iter().enumerate() {
            let command = s.commands[op];
            let over = command.ended.is_some() || !s.holds(op, &self.rules) || s.lease.expired;
            may(s.left.finishes > 0 && item.phase == Phase::Open && over, Action::Finish(op));
            may(s.left.doubles > 0 && command.on_the_way > 0, Action::Double(op));
            may(command.on_the_way > 0, Action::Deliver(op));
            may(s.left.drills > 0 && item.phase == Phase::Committed, Action::DrillPasses(op));
            may(item.phase == Phase::Pruning && s.bucket[op].is_some(), Action::DeleteMarked(op));
        }
        let any_committed = s.committed().next().is_some();
        may(s.left.promotes > 0 && any_committed, Action::Promote);
        may(matches!(s.promotion, Promotion::Exchanged { .. }), Action::SettlePromotion);
        may(s.left.prunes > 0 && any_committed, Action::Prune);
        may(s.left.rebuilds > 0 && any_committed, Action::Rebuild);
        may(s.host.backup.is_some(), Action::Publish);
        may(s.left.kills > 0 && s.host.backup.is_some(), Action::KillHelper);
        let free = s.host.backup.is_none() || !self.rules.on(Rule::HostDoesOneThing);
        may(matches!(s.promotion, Promotion::Sent { .. }) && free && !s.host.exchange, Action::BeginExchange);
        may(s.host.exchange, Action::Exchange);
        may(s.left.roll_backs > 0 && s.host.backup.is_none() && !s.host.exchange, Action::RollBackServer);
        may(s.left.upgrades > 0 && s.host.backup.is_none() && !s.host.exchange, Action::UpgradeServer);
        may(s.left.expiries > 0 && s.lease.holder().is_some() && !s.lease.expired, Action::ExpireLease);
        actions
    }

    fn step(&self, before: &State, action: Action) -> Result<State, String> {
        let mut s = before.clone();
        self.apply(&mut s, action);
        super::properties::check(before, &s)?;
        self.recovers(&s)?;
        Ok(s)
    }
}

impl System {
    /// I2, I4: when everything that runs has crashed and the lease has expired, reconcile and at most two scheduled
    /// backups lead to a committed one.
    fn recovers(&self, s: &State) -> Result<(), String> {
        let mut s = s.clone();
        (s.functions, s.left, s.upset) = (Vec::new(), Left { starts: 2, finishes: 9, ..Left::default() }, true);
        if !self.recovered.borrow_mut().insert(super::explorer::fingerprint(&s)) {
            return Ok(());
        }
        if let Some(running) = s.host.backup.take() {
            s.commands[running.op].ended = Some(Ended::Otherwise);
        }
        if s.host.exchange {
            s.exchange();
        }
        self.settle_promotion(&mut s);
        s.lease.expired = true;
        for op in 0..s.items.len() {
            self.finish(&mut s, op);
        }
        if self.back_up(&mut s) || self.back_up(&mut s) { Ok(()) } else { Err("I2: the second backup was not committed either".into()) }
    }

    /// One whole backup, alone; whether it was committed.
    fn back_up(&self, s: &mut State) -> bool {
        let before = s.items.len();
        self.apply(s, Action::Start { force: false });
        while !s.functions.is_empty() {
            self.apply(s, Action::Continue(0, ""));
        }
        if s.items.len() > before {
            self.apply(s, Action::Deliver(before));
            self.apply(s, Action::Publish);
            self.finish(s, before);
        }
        s.items.get(before).is_some_and(|item| item.phase == Phase::Committed)
    }

    fn finish(&self, s: &mut State, op: usize) {
        if s.items[op].phase == Phase::Open {
            self.apply(s, Action::Finish(op));
        }
        while !s.functions.is_empty() {
            self.apply(s, Action::Continue(0, ""));
        }
    }
}

impl Function {
    fn name(&self) -> &'static str {
        match self {
            Self::StartLease { .. } => "start-backup reads the head",
            Self::StartRead { .. } => "start-backup decides",
            Self::StartDecided { .. } => "start-backup requests",
            Self::StartSend { .. } => "start-backup sends",
            Self::FinishRead { .. } => "finish-backup judges",
            Self::FinishJudged { .. } => "finish-backup settles",
            Self::PromoteRead { .. } => "promote takes the lease",
            Self::PruneRead { .. } => "prune chooses",
            Self::PruneChosen { .. } => "prune marks",
            Self::RebuildJudged { .. } => "rebuild writes",
        }
    }
}

impl System {
    pub(super) fn apply(&self, s: &mut State, action: Action) {
        match action {
            Action::Start { force } => {
                s.left.starts -= 1;
                s.left.forced -= u8::from(force);
                s.functions.push(Function::StartLease { lease: s.lease.clone(), force, nonce: s.left.starts });
            }
            Action::Finish(op) => {
                s.left.finishes -= 1;
                s.functions.push(Function::FinishRead { read: self.read(s), op });
            }
            Action::Promote => {
                s.left.promotes -= 1;
                let point = s.whole().newest().and_then(|newest| s.op(newest.id())).unwrap_or(0);
                s.functions.push(Function::PromoteRead { head: s.head.clone(), lease: s.lease.clone(), point });
            }
            Action::SettlePromotion => self.settle_promotion(s),
            Action::Prune => {
                s.left.prunes -= 1;
                let chosen = (!self.rules.on(Rule::HeadIsReadFirst)).then(|| self.victims(s));
                s.functions.push(Function::PruneRead { head: s.head.clone(), chosen });
            }
            Action::DeleteMarked(op) => {
                s.bucket[op] = None;
                s.items[op].phase = Phase::Gone;
            }
            Action::Rebuild => {
                s.left.rebuilds -= 1;
                let mut catalog = s.whole();
                let found = s.rebuilt();
                // What is unfinished, or marked, has somebody who will end it.
                let may_come = |b: &&StoredManifest| s.op(b.id()).is_some_and(|op| s.items[op].phase == Phase::Failed);
                let missing = found.backups().filter(may_come).filter(|b| catalog.commit((*b).clone()) == Ok(Admitted::New));
                let missing = missing.filter_map(|b| s.op(b.id())).collect();
                s.functions.push(Function::RebuildJudged { head: s.head.clone(), missing });
            }
            Action::DrillPasses(op) => {
                s.left.drills -= 1;
                s.proven = Some(op);
                if self.rules.on(Rule::DrillsCount) {
                    s.head.version += 1;
                }
            }
            Action::Continue(index, _) => {
                let function = s.functions.remove(index);
                self.go_on(s, function);
            }
            Action::Double(op) => {
                s.left.doubles -= 1;
                s.commands[op].on_the_way += 1;
            }
            Action::Deliver(op) => self.deliver(s, op),
            Action::Publish => {
                if let Some(running) = s.host.backup.take() {
                    s.publish(running, &self.rules);
                }
            }
            Action::KillHelper => {
                s.left.kills -= 1;
                if let Some(running) = s.host.backup.take() {
                    s.commands[running.op].ended = Some(Ended::Otherwise);
                    s.items[running.op].disturbed = true;
                }
            }
            Action::BeginExchange => s.host.exchange = true,
            Action::Exchange => s.exchange(),
            Action::RollBackServer => {
                s.left.roll_backs -= 1;
                s.server.back_to(1);
                s.upset = true;
            }
            Action::UpgradeServer => {
                s.left.upgrades -= 1;
                s.server.series += 1;
                s.upset = true;
            }
            Action::ExpireLease => {
                s.left.expiries -= 1;
                s.lease.expired = true;
                s.promotion_disturbed |= s.lease.holder() == Some(PROMOTION);
                s.items
                    .iter_mut()
                    .filter(|item| s.lease.lease.is_held_by(&item.id().to_string(), item.token))
                    .for_each(|i| i.disturbed = true);
            }
        }
        if s.functions.len() > 1 {
            s.functions.sort_by_cached_key(super::explorer::fingerprint);
        }
    }

    fn go_on(&self, s: &mut State, function: Function) {
        match function {
            Function::StartLease { lease, force, nonce } => self.look(s, lease, force, nonce),
            Function::StartRead { lease, read, force, nonce } => self.decide(s, lease, read, (force, nonce)),
            Function::StartDecided { head, lease, request, force } => self.request(s, &head, &lease, (request, force)),
            Function::StartSend { op } => s.commands[op].on_the_way += 1,
            Function::FinishRead { read, op } => self.judge(s, read, op),
            Function::FinishJudged { head, op, verdict } => self.settle(s, &head, op, verdict),
            Function::PromoteRead { head, lease, point } => self.promote(s, &head, &lease, point),
            Function::PruneRead { head, chosen } => {
                let (head, victims) = match chosen {
                    Some(before) => (s.head.clone(), before),
                    None => (head, self.victims(s)),
                };
                if !victims.is_empty() {
                    s.functions.push(Function::PruneChosen { head, victims });
                }
            }
            Function::PruneChosen { head, victims } => {
                if head.version == s.head.version || !self.rules.on(Rule::MarkAtTheVersionRead) {
                    s.head.version += 1;
                    victims.iter().for_each(|op| s.items[*op].phase = Phase::Pruning);
                }
            }
            Function::RebuildJudged { head, missing } => {
                if head.version == s.head.version || !self.rules.on(Rule::RebuildAtTheVersionRead) {
                    s.head.version += 1;
                    missing.iter().for_each(|op| s.items[*op].phase = Phase::Committed);
                    s.head.window_from = s.whole().window_from().cloned();
                    s.upset = true;
                }
            }
        }
    }

    fn read(&self, s: &State) -> Reading {
        let committed = (!self.rules.on(Rule::HeadIsReadFirst)).then(|| s.committed().collect());
        Reading { head: s.head.clone(), committed }
    }

    /// The rest of a reading: the head that a write will be conditional on, the window, and the whole where it is needed.
    fn read_on(&self, s: &State, read: Reading) -> (Head, Catalog, Catalog) {
        let (head, committed) = match read.committed {
            Some(before) => (s.head.clone(), before),
            None => (read.head, s.committed().collect()),
        };
        let inside = |op: &usize| head.window_from.as_ref().is_none_or(|from| s.items[*op].id() >= from);
        let window = s.catalog(committed.iter().copied().filter(inside));
        let whole = s.catalog(committed.iter().copied());
        (head, window, whole)
    }

    /// start-backup: is the cluster free? Whose lease has expired has failed; whose command may not have been sent gets it.
    fn look(&self, s: &mut State, lease: Leased, force: bool, nonce: u8) {
        let holder = (0..s.items.len()).find(|op| lease.holder() == Some(s.items[*op].id().to_string().as_str()));
        if lease.expired {
            if let Some(op) = holder.filter(|op| s.items[*op].phase == Phase::Open) {
                self.settle(s, &s.head.clone(), op, Verdict::Fail(None));
            }
            let lease = s.lease.clone();
            s.functions.push(Function::StartRead { lease, read: self.read(s), force, nonce });
        } else if lease.holder().is_none() || !self.rules.on(Rule::OnlyFreeOrExpiredIsTaken) {
            s.functions.push(Function::StartRead { lease, read: self.read(s), force, nonce });
        } else if let Some(op) = holder.filter(|op| s.commands[*op].ended.is_none() && s.left.doubles > 0) {
            s.left.doubles -= 1;
            s.functions.push(Function::StartSend { op });
        }
    }

    /// start-backup: read the window and decide.
    fn decide(&self, s: &mut State, lease: Leased, read: Reading, (force, nonce): (bool, u8)) {
        let now = minute(s.clock.into());
        s.clock += 1;
        let (head, catalog, _) = self.read_on(s, read);
        let owed = head.owed().filter(|_| self.rules.on(Rule::FailuresAreRemembered));
        let insisted = if force { Force::NewIncarnation } else { Force::Nothing };
        let facts = NextFacts { now, nonce: nonce.into(), source: None, tool: None, owed: owed.as_ref(), force: insisted, measured: &[] };
        let decision = next_backup(&catalog, SchedulePolicy::default(), facts);
        let request = decision.request(&catalog, "backups", now, SignedDuration::from_hours(2));
        let sha256 = Sha256::of(&request.to_bytes());
        s.functions.push(Function::StartDecided { head, lease, request: Doc(Rc::new(request), sha256), force });
    }

    /// start-backup: one transaction takes the lease, creates the item, and remembers what was insisted on.
    fn request(&self, s: &mut State, head: &Head, lease: &Leased, (request, force): (Doc<BackupRequestV1>, bool)) {
        let unchanged = head.version == s.head.version || !self.rules.on(Rule::RequestAtTheVersionRead);
        let same_lease = lease.lease == s.lease.lease || !self.rules.on(Rule::LeaseAsRead);
        if !unchanged || !same_lease {
            return;
        }
        let Some(taken) = lease.taken_by(&request.backup_id.to_string(), &self.rules) else { return };
        let token = taken.lease.token;
        s.lease = taken;
        if force {
            s.head.version += 1;
            s.head.owed = 2;
        }
        s.functions.push(Function::StartSend { op: s.items.len() });
        s.items.push(Item { request, token, phase: Phase::Open, disturbed: false });
        s.bucket.push(None);
        s.commands.push(Command::default());
    }

    /// promote: one transaction takes the lease and creates the record, so that only the first of two takes it.
    fn promote(&self, s: &mut State, head: &Head, lease: &Leased, point: usize) {
        if s.promotion != Promotion::No || head.version != s.head.version {
            return;
        }
        if self.rules.on(Rule::PromotionTakesTheLease) {
            let same_lease = lease.lease == s.lease.lease || !self.rules.on(Rule::LeaseAsRead);
            let Some(taken) = lease.taken_by(PROMOTION, &self.rules).filter(|_| same_lease) else { return };
            s.lease = taken;
        }
        s.promotion = Promotion::Sent { point, token: s.lease.lease.token };
    }

    /// finish-promote: the data is another one, whatever became of the lease.
    fn settle_promotion(&self, s: &mut State) {
        let Promotion::Exchanged { token } = s.promotion else { return };
        s.promotion = Promotion::Settled;
        s.head.version += 1;
        s.owes = true;
        if self.rules.on(Rule::PromotionBreaksTheChain) {
            s.head.owed = 2;
        }
        if s.lease.lease.is_held_by(PROMOTION, token) || !self.rules.on(Rule::ReleaseOnlyOnesOwn) {
            s.lease = Leased { lease: s.lease.lease.released(), expired: false };
        }
    }

    /// The helper gets a command: perhaps late, perhaps again.
    fn deliver(&self, s: &mut State, op: usize) {
        s.commands[op].on_the_way -= 1;
        if s.bucket[op].is_some() && self.rules.on(Rule::ManifestOnlyOnce) {
            s.commands[op].ended = Some(Ended::Well);
            return;
        }
        let busy = s.host.exchange || s.host.backup.is_some();
        if busy && (self.rules.on(Rule::HostDoesOneThing) || s.host.backup.is_some()) {
            // If it is this very operation that runs, how it ends is not known yet.
            if s.host.backup.is_none_or(|running| running.op != op) {
                s.commands[op].ended = Some(Ended::Otherwise);
                s.items[op].disturbed = true;
            }
            return;
        }
        s.server.write();
        let parent = s.items[op].request.parent.clone();
        let knows = parent.is_none_or(|parent| {
            let then = s.op(&parent.link.backup_id).and_then(|op| s.bucket[op].as_ref());
            let is_ours = then.is_some_and(|then| then.held & !s.server.after(0) == 0);
            is_ours && parent.source.datadir_id == Server::datadir(s.server.life) && parent.last_lsn.get() <= s.server.lsn.into()
        });
        if !knows && self.rules.on(Rule::HelperKnowsTheParent) {
            s.commands[op].ended = Some(Ended::ChainBroken);
            s.items[op].disturbed = true;
            return;
        }
        s.host.backup = Some(Running { op, life: s.server.life, started: s.clock });
        s.clock += 1;
    }

    /// finish-backup, and reconcile for what has lost its lease: read the window, judge by the chain rules.
    fn judge(&self, s: &mut State, read: Reading, op: usize) {
        if s.items[op].phase != Phase::Open && self.rules.on(Rule::OnlyOpenIsFinished) {
            return;
        }
        let lost = !s.holds(op, &self.rules);
        let (head, window, whole) = self.read_on(s, read);
        let verdict = match (&s.bucket[op], s.commands[op].ended) {
            _ if lost && self.rules.on(Rule::CommitWithTheLease) => Verdict::Fail(None),
            (Some(published), _) => {
                let new = &published.manifest;
                let suffices = head.window_from.as_ref().is_some_and(|from| window.suffices_for(new, from));
                let admitted = admit(if suffices { &window } else { &whole }, new).is_ok();
                if admitted || !self.rules.on(Rule::CommitWhatIsAdmitted) { Verdict::Commit } else { Verdict::Refuse }
            }
            (None, Some(Ended::Well)) => return,
            (None, Some(ended)) => Verdict::Fail(Some(ended)),
            (None, None) if lost || s.lease.expired => Verdict::Fail(None),
            (None, None) => return,
        };
        s.functions.push(Function::FinishJudged { head, op, verdict });
    }

    /// finish-backup: one transaction settles the item and releases the lease. Refused, it reads again.
    fn settle(&self, s: &mut State, head: &Head, op: usize, verdict: Verdict) {
        let mine = s.holds(op, &self.rules);
        let holds = (s.items[op].phase == Phase::Open || !self.rules.on(Rule::OnlyOpenIsFinished))
            && (head.version == s.head.version || !self.rules.on(Rule::CommitAtTheVersionRead))
            && (mine || matches!(verdict, Verdict::Fail(_)) || !self.rules.on(Rule::CommitWithTheLease));
        if !holds {
            s.functions.push(Function::FinishRead { read: self.read(s), op });
            return;
        }
        s.head.version += 1;
        let owed = head.owed();
        let before = owed.as_ref();
        if verdict == Verdict::Commit {
            let settled =
                s.bucket[op].as_ref().is_some_and(|p| before.is_none_or(|owed| owed.is_settled_by(&p.manifest, s.whole().newest())));
            s.items[op].phase = Phase::Committed;
            s.owes &= s.items[op].request.kind != BackupKind::Full;
            s.head.window_from = s.whole().window_from().cloned();
            s.head.owe(before.filter(|_| !settled));
        } else {
            let failure = match verdict {
                Verdict::Fail(ended) => ended.and_then(Ended::failure).unwrap_or(Failure::Interrupted),
                _ => Failure::ChainBroken,
            };
            s.items[op].phase = Phase::Failed;
            // A newer backup that was committed meanwhile owes nothing to this one.
            if s.whole().newest().is_none_or(|newest| newest.id() < s.items[op].id()) {
                s.owes = true;
                s.head.owe(Some(&Owed::after(before, failure)));
            }
        }
        if mine || !self.rules.on(Rule::ReleaseOnlyOnesOwn) {
            s.lease = Leased { lease: s.lease.lease.released(), expired: false };
        }
    }

    /// prune: what the real retention deletes when only the newest chain is to be kept.
    fn victims(&self, s: &State) -> Vec<usize> {
        let whole = s.whole();
        let point = |b: &StoredManifest| Point {
            backup_id: b.id().clone(),
            parent: b.manifest.parent.as_ref().map(|link| link.backup_id.clone()),
            finished_at: b.manifest.finished_at,
        };
        let points: Vec<Point> = whole.backups().map(point).collect();
        let keep = KeepConfig { chains: 1, daily: 0, weekly: 0, monthly: 0 };
        let passed = s.proven.filter(|_| self.rules.on(Rule::ProvenIsKept)).map(|op| s.items[op].id().clone()).into_iter().collect();
        let retention = retain(&points, &keep, &Facts { passed, ..Facts::default() });
        let deleted: Vec<usize> = retention.deleted.iter().filter_map(|deleted| s.op(&deleted.backup_id)).collect();
        if self.rules.on(Rule::NeededIsKept) {
            return deleted;
        }
        let newest = whole.newest().map(|newest| newest.id().clone());
        s.committed().filter(|op| Some(s.items[*op].id()) != newest.as_ref()).collect()
    }
}
