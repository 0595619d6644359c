//! Random histories of a server, against a small model that knows the truth: which writes the server held when each
//! backup was taken. A restore, simulated by laying the steps' contents over each other, must give exactly those.
//!
//! The model's helper does what the real one does before it streams: it compares the data directory and asks the server
//! whether it recognises the parent's binlog position. A careless helper skips that, and the catalog must notice by
//! itself, except where it cannot: the same identity, and LSNs that have grown past the old ones again.

use crate::support::*;
use highwater_core::audit::audit;
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::chain;
use highwater_core::identity::Version;
use highwater_core::manifest::{ManifestV1, Strategy as Link};
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::planner::plan_restore;
use highwater_core::schedule::{Decision, Force, NextFacts, Owed, SchedulePolicy, next_backup};
use highwater_core::{BackupId, BackupKind, Failure, Lsn, Sha256};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

const MAX_INCREMENTALS: u32 = 3;

#[derive(Debug, Clone)]
enum Op {
    Write(u8),
    Checkpoint,
    Backup {
        link: Link,
        informed: bool,
        careless: bool,
    },
    FailedBackup {
        link: Link,
    },
    ForcedFull,
    /// Two helpers run one decision at the same time.
    Race {
        link: Link,
    },
    /// A decision is carried out after the next one already was.
    Stale {
        link: Link,
    },
    Snapshot,
    /// The volume comes back from a snapshot: the same identity, older data.
    RollBack,
    /// A copy of the data directory takes over on the same host.
    Copy,
    Reinitialise,
    MoveHost,
    UpgradePatch,
    UpgradeSeries,
    /// Retention, or a person, removes one backup.
    Remove(prop::sample::Index),
}

fn op() -> impl Strategy<Value = Op> {
    let link = prop_oneof![3 => Just(Link::Incremental), 1 => Just(Link::Differential)];
    prop_oneof![
        8 => (1..9u8).prop_map(Op::Write),
        4 => Just(Op::Checkpoint),
        12 => (link.clone(), any::<bool>(), any::<bool>()).prop_map(|(link, informed, careless)| Op::Backup { link, informed, careless }),
        1 => link.clone().prop_map(|link| Op::FailedBackup { link }),
        1 => Just(Op::ForcedFull),
        2 => link.clone().prop_map(|link| Op::Race { link }),
        2 => link.prop_map(|link| Op::Stale { link }),
        2 => Just(Op::Snapshot),
        2 => Just(Op::RollBack),
        1 => Just(Op::Copy),
        1 => Just(Op::Reinitialise),
        1 => Just(Op::MoveHost),
        1 => Just(Op::UpgradePatch),
        1 => Just(Op::UpgradeSeries),
        1 => any::<prop::sample::Index>().prop_map(Op::Remove),
    ]
}

/// A server: its identity and the writes it holds, each with the LSN at which it was logged.
#[derive(Debug, Clone)]
struct Server {
    life: u32,
    host: u32,
    version: Version,
    log: Vec<(u64, u64)>,
    lsn: u64,
    checkpoint: u64,
}

impl Server {
    fn data_after(&self, lsn: u64) -> BTreeSet<u64> {
        self.log.iter().filter(|(at, _)| *at > lsn).map(|(_, write)| *write).collect()
    }
}

/// What the model knows of a backup.
#[derive(Debug, Clone)]
struct Truth {
    /// Everything the server held.
    held: BTreeSet<u64>,
    /// What is in the backup itself.
    content: BTreeSet<u64>,
    life: u32,
    host: u32,
}

#[derive(Debug)]
struct World {
    minute: i64,
    writes: u64,
    lives: u32,
    server: Server,
    snapshot: Option<Server>,
    bucket: Vec<StoredManifest>,
    live: Catalog,
    truth: BTreeMap<Sha256, Truth>,
    owed: Option<Owed>,
}

impl World {
    fn new() -> Self {
        let server = Server { life: 0, host: 1, version: "10.11.19".parse().unwrap(), log: vec![], lsn: 50, checkpoint: 50 };
        let (bucket, live, truth) = (Vec::new(), Catalog::new(cluster()), BTreeMap::new());
        Self { minute: 0, writes: 0, lives: 0, server, snapshot: None, bucket, live, truth, owed: None }
    }

    fn write(&mut self, bytes: u8) {
        self.writes += 1;
        self.server.lsn += u64::from(bytes);
        self.server.log.push((self.server.lsn, self.writes));
    }

    /// Everything in the bucket, starting at `from`, so that the order differs from call to call.
    fn rebuilt(&self, from: usize) -> Catalog {
        let from = from % self.bucket.len().max(1);
        let all = self.bucket[from..].iter().chain(&self.bucket[..from]);
        Catalog::rebuild(cluster(), all.map(|s| Found::Manifest(Box::new(s.clone()))))
    }

    fn source(&self) -> highwater_core::identity::SourceIdentity {
        highwater_core::identity::SourceIdentity {
            host_id: format!("db-{}", self.server.host).parse().unwrap(),
            datadir_id: format!("life-{}", self.server.life),
            version: self.server.version,
            ..source()
        }
    }

    fn decide(&mut self, link: Link, informed: bool, force: Force) -> Decision {
        self.minute += 10;
        let catalog = self.rebuilt(self.minute as usize);
        let (now, here) = (minute(self.minute), self.source());
        let version = self.server.version;
        let tool = highwater_core::manifest::ToolInfo { version, ..tool() };
        let (source, tool) = (informed.then_some(&here), informed.then_some(&tool));
        let facts = NextFacts { now, nonce: 1, source, tool, owed: self.owed.as_ref(), force, measured: &[] };
        let policy = SchedulePolicy { strategy: link, max_incrementals: MAX_INCREMENTALS, ..SchedulePolicy::default() };
        let decision = next_backup(&catalog, policy, facts);
        let whole = Catalog::of_committed(cluster(), self.live.backups().cloned());
        assert_eq!(next_backup(&self.window(), policy, facts), next_backup(&whole, policy, facts), "the window decides otherwise");
        self.check_decision(&catalog, &decision, link, informed);
        decision
    }

    /// What the functions read of a catalog: the committed backups from an id on.
    fn window(&self) -> Catalog {
        let from = self.live.window_from();
        let window = Catalog::of_committed(cluster(), self.live.backups().filter(|b| Some(b.id()) >= from).cloned());
        assert_eq!(window.window_from(), from, "the window of the window is another one");
        window
    }

    /// The window's verdict on a manifest is the whole's; and a backup that was run in its turn needs no more than the window.
    fn check_window(&self, new: &StoredManifest) {
        let window = self.window();
        let Some(from) = self.live.window_from().filter(|from| window.suffices_for(new, from)) else {
            let in_turn = |b: &StoredManifest| new.manifest.started_at > b.manifest.finished_at;
            let of_now = self.live.newest().is_some_and(|n| n.manifest.incarnation <= new.manifest.incarnation);
            let is_stale = !of_now || Some(new.id()) < self.live.window_from() || !self.live.backups().all(in_turn);
            assert!(new.manifest.parent.is_some() || is_stale, "{} needed the whole", new.id());
            return;
        };
        let verdict = |catalog: &Catalog| chain::admit(catalog, new).map_err(|refusal| refusal.name());
        assert_eq!(verdict(&window), verdict(&self.live), "{} judged on the window from {from}", new.id());
    }

    /// The same decision, said in another way.
    fn check_decision(&self, catalog: &Catalog, decision: &Decision, link: Link, informed: bool) {
        let Some(newest) = self.live.newest() else {
            assert_eq!(decision.kind, BackupKind::Full);
            return;
        };
        let same_life = self.truth[&newest.sha256].life == self.server.life && self.truth[&newest.sha256].host == self.server.host;
        let refused_later =
            self.bucket.iter().any(|b| self.live.get(b.id()).is_none() && b.manifest.finished_at > newest.manifest.finished_at);
        let owed = self.owed.as_ref().map(|owed| owed.force);
        assert!(owed.is_none() || decision.kind == BackupKind::Full);
        let broken = refused_later || owed == Some(Force::NewIncarnation) || (informed && !same_life);
        assert_eq!(decision.incarnation != newest.manifest.incarnation, broken, "{}", decision.reason);
        if let Some(parent) = &decision.parent {
            let parent = catalog.get(&parent.link.backup_id).expect("only a committed backup is continued");
            let depth = catalog.path_to(parent.id()).unwrap().len() as u32;
            assert!(!broken && depth <= MAX_INCREMENTALS);
            assert!(link == Link::Incremental || parent.manifest.kind == BackupKind::Full);
            let newer_full =
                |b: &StoredManifest| b.manifest.kind == BackupKind::Full && b.manifest.finished_at > parent.manifest.finished_at;
            assert!(!self.live.backups().any(newer_full) || link == Link::Incremental);
        }
    }

    /// Runs a helper. `nonce` tells two runs of one decision apart; both take five minutes from `started`.
    fn take(&mut self, decision: &Decision, nonce: u16, started: i64, careless: bool) -> Result<StoredManifest, Failure> {
        let parent = decision.parent.as_ref();
        if let Some(parent) = parent {
            let then = &self.truth[&parent.link.manifest_sha256];
            let is_ours = then.held.is_subset(&self.server.data_after(0)) && parent.last_lsn.get() <= self.server.lsn;
            let same_identity = then.life == self.server.life && then.host == self.server.host;
            let grown = self.live.in_incarnation(&decision.incarnation).all(|b| b.manifest.last_lsn.get() <= self.server.lsn);
            if !(is_ours && same_identity) && (!careless || same_identity && grown) {
                return Err(Failure::ChainBroken);
            }
        }
        let from = parent.map_or(0, |p| p.link.to_lsn.get());
        // The tool takes its starting LSN as it comes, whatever the server's own (trap 1); our helper does not.
        if from > self.server.checkpoint {
            return Err(Failure::ChainBroken);
        }
        let version = self.server.version;
        let manifest = ManifestV1 {
            backup_id: BackupId::new(decision.backup_id.requested_at(), decision.kind, nonce),
            incarnation: decision.incarnation.clone(),
            kind: decision.kind,
            parent: parent.map(|p| p.link.clone()),
            from_lsn: Lsn::new(from),
            last_lsn: Lsn::new(self.server.lsn),
            source: self.source(),
            tool: highwater_core::manifest::ToolInfo { version, ..tool() },
            ..full(started, self.server.checkpoint)
        };
        let stored = store(manifest);
        let truth = Truth {
            held: self.server.data_after(0),
            content: self.server.data_after(from),
            life: self.server.life,
            host: self.server.host,
        };
        self.truth.insert(stored.sha256, truth);
        Ok(stored)
    }

    /// Puts the manifest into the bucket and commits it, and compares the answer with the model's.
    fn publish(&mut self, stored: StoredManifest) -> bool {
        let allowed = self.allowed(&stored);
        self.check_window(&stored);
        let settled = self.owed.as_ref().is_some_and(|owed| owed.is_settled_by(&stored, self.live.newest()));
        let answer = self.live.commit(stored.clone());
        assert_eq!(answer.is_ok(), allowed, "{}: {answer:?}", stored.id());
        self.bucket.push(stored);
        if allowed && settled {
            self.owed = None;
        }
        allowed
    }

    /// The rules once more, from the truth instead of the recorded identities.
    fn allowed(&self, new: &StoredManifest) -> bool {
        let (m, truth) = (&new.manifest, &self.truth[&new.sha256]);
        let after = |a: &ManifestV1, b: &ManifestV1| b.started_at >= a.finished_at;
        let fits = |old: &StoredManifest| {
            let (o, old_truth) = (&old.manifest, &self.truth[&old.sha256]);
            if o.incarnation != m.incarnation {
                return (o.incarnation < m.incarnation) == after(o, m) && (after(o, m) || after(m, o));
            }
            let grew = !after(o, m) || (o.to_lsn <= m.to_lsn && o.last_lsn <= m.last_lsn);
            grew && (old_truth.life, old_truth.host) == (truth.life, truth.host)
        };
        let linked = m.parent.as_ref().is_none_or(|link| {
            self.live.get(&link.backup_id).is_some_and(|parent| {
                let alone = !self.live.backups().any(|b| b.manifest.parent.as_ref().is_some_and(|l| l.backup_id == link.backup_id));
                let free = if link.strategy == Link::Incremental { alone } else { parent.manifest.kind == BackupKind::Full };
                let series = parent.manifest.source.version.series() == m.source.version.series();
                free && series && parent.manifest.incarnation == m.incarnation
            })
        });
        linked && self.live.backups().all(fits)
    }

    /// One scheduled backup; whether it was committed.
    fn scheduled(&mut self, link: Link, informed: bool, careless: bool, force: Force) -> bool {
        let decision = self.decide(link, informed, force);
        match self.take(&decision, 1, self.minute, careless) {
            Ok(stored) => {
                // A volume that was rolled back keeps its identity: only its LSNs betray it, after the backup.
                let (lsn, checkpoint) = (self.server.lsn, self.server.checkpoint);
                let seen = |b: &StoredManifest| b.manifest.last_lsn.get() > lsn || b.manifest.to_lsn.get() > checkpoint;
                let rolled_back = self.live.in_incarnation(&decision.incarnation).any(seen);
                let committed = self.publish(stored);
                assert!(committed || !informed || rolled_back, "a decision that knew the server, carried out at once, was refused");
                committed
            }
            Err(failure) => {
                self.owed = Some(Owed::after(self.owed.as_ref(), failure));
                false
            }
        }
    }

    fn step(&mut self, op: &Op) {
        match op {
            Op::Write(bytes) => self.write(*bytes),
            Op::Checkpoint => self.server.checkpoint = self.server.lsn,
            Op::Backup { link, informed, careless } => {
                self.scheduled(*link, *informed, *careless, Force::Nothing);
            }
            Op::FailedBackup { link } => {
                self.decide(*link, true, Force::Nothing);
                self.owed = Some(Owed::after(self.owed.as_ref(), Failure::Storage));
            }
            Op::ForcedFull => {
                self.scheduled(Link::Incremental, true, false, Force::Full);
            }
            Op::Race { link } => {
                let decision = self.decide(*link, true, Force::Nothing);
                let first = self.take(&decision, 2, self.minute, false);
                self.write(3);
                let second = self.take(&decision, 3, self.minute + 1, false);
                for stored in [first, second].into_iter().flatten() {
                    self.publish(stored);
                }
            }
            Op::Stale { link } => {
                let stale = self.decide(*link, true, Force::Nothing);
                self.scheduled(*link, true, false, Force::Nothing);
                self.write(2);
                self.minute += 10;
                if let Ok(stored) = self.take(&stale, 4, self.minute, false) {
                    self.publish(stored);
                }
            }
            Op::Snapshot => self.snapshot = Some(self.server.clone()),
            Op::RollBack => {
                // Only a snapshot of this very data directory can come back with its identity.
                if let Some(snapshot) = self.snapshot.clone().filter(|s| (s.life, s.host) == (self.server.life, self.server.host)) {
                    self.server = Server { version: self.server.version, ..snapshot };
                }
            }
            Op::Copy => self.new_life(self.server.clone()),
            Op::Reinitialise => self.new_life(Server { log: vec![], lsn: 50, checkpoint: 50, ..self.server.clone() }),
            Op::MoveHost => self.server.host += 1,
            Op::UpgradePatch => self.server.version.patch += 1,
            Op::UpgradeSeries => self.server.version.minor += 1,
            Op::Remove(index) => {
                if !self.bucket.is_empty() {
                    self.bucket.remove(index.index(self.bucket.len()));
                    self.live = self.rebuilt(0);
                }
            }
        }
    }

    fn new_life(&mut self, server: Server) {
        self.lives += 1;
        self.server = Server { life: self.lives, ..server };
    }

    /// What a restore of the plan gives.
    fn restored(&self, plan: &RestorePlanV1) -> BTreeSet<u64> {
        plan.steps.iter().flat_map(|step| self.truth[&step.manifest.sha256].content.iter().copied()).collect()
    }

    fn plan(&self, target: Target) -> Option<RestorePlanV1> {
        plan_restore(&self.live, &target, "backups", minute(self.minute)).ok()
    }

    fn check_everything(&self) {
        let (one, other) = (self.rebuilt(0), self.rebuilt(self.bucket.len() / 2));
        assert_eq!(one, other, "the order of the listing changed the catalog");
        assert!(one.backups().eq(self.live.backups()), "a rebuild gives another catalog than the commits did");
        let known = one.backups().count() + one.rejected().len();
        assert_eq!(known, self.bucket.len(), "a manifest disappeared without a word");
        for backup in self.live.backups() {
            let plan = self.plan(Target::Backup(backup.id().clone())).expect("every committed backup can be planned");
            assert_eq!(plan.steps[0].kind, BackupKind::Full);
            assert!(plan.steps.windows(2).all(|w| w[0].to_lsn == w[1].from_lsn && w[0].backup_id != w[1].backup_id));
            assert_eq!(self.restored(&plan), self.truth[&backup.sha256].held, "{} restores other data than it was taken from", backup.id());
            self.check_targets(backup);
        }
        let audit = audit(cluster(), self.bucket.iter().map(|s| Found::Manifest(Box::new(s.clone()))), None);
        let broken = audit.findings.iter().filter(|f| f.problem.is_broken()).count();
        assert_eq!(broken, one.rejected().len() + usize::from(one.newest().is_none()));
    }

    /// Around each backup's time and LSN, the plan is the one that a plain scan finds.
    fn check_targets(&self, backup: &StoredManifest) {
        let newest = self.live.newest().unwrap();
        let latest = self.plan(Target::Latest).map(|p| p.point.time);
        assert_eq!(latest, self.live.backups().map(|b| b.manifest.finished_at).max());
        for at in [backup.manifest.finished_at, backup.manifest.started_at] {
            let expected = self.live.backups().map(|b| b.manifest.finished_at).filter(|t| *t <= at).max();
            assert_eq!(self.plan(Target::Time(at)).map(|p| p.point.time), expected);
        }
        for lsn in [backup.manifest.last_lsn, Lsn::new(backup.manifest.last_lsn.get() - 1)] {
            let here = self.live.in_incarnation(&newest.manifest.incarnation).map(|b| b.manifest.last_lsn);
            assert_eq!(self.plan(Target::Lsn(lsn)).map(|p| p.point.last_lsn), here.filter(|l| *l <= lsn).max());
        }
    }
}

proptest! {
    // As many cases as PROPTEST_CASES says, 256 by default; a failure prints how to replay it.
    #[test]
    fn i1_i2_every_admitted_restore_point_of_any_history_restores_what_the_server_held(ops in prop::collection::vec(op(), 1..30)) {
        let mut world = World::new();
        for op in &ops {
            world.step(op);
            world.check_everything();
        }
    }

    #[test]
    fn i2_after_any_history_the_second_scheduled_backup_is_committed(ops in prop::collection::vec(op(), 1..30)) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        // Nobody tells the schedule that the server changed: it learns from the helper, or from the refusal.
        let link = Link::Incremental;
        let committed = world.scheduled(link, false, true, Force::Nothing) || world.scheduled(link, false, true, Force::Nothing);
        prop_assert!(committed);
        world.check_everything();
    }

    #[test]
    fn i1_any_order_of_any_manifests_gives_one_catalog(ops in prop::collection::vec(op(), 1..25), order in any::<u64>()) {
        let mut world = World::new();
        ops.iter().for_each(|op| world.step(op));
        let mut shuffled = world.bucket.clone();
        shuffled.sort_by_key(|s| Sha256::of(format!("{order}{}", s.id()).as_bytes()));
        let found = shuffled.into_iter().map(|s| Found::Manifest(Box::new(s)));
        prop_assert_eq!(Catalog::rebuild(cluster(), found), world.rebuilt(0));
    }
}
