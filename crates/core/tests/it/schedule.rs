//! What the next backup is, and why.

use crate::support::*;
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::identity::SourceIdentity;
use highwater_core::manifest::{Strategy, ToolInfo};
use highwater_core::rto::{self, ChainSize, Measured};
use highwater_core::schedule::{Force, NextFacts, Owed, Reason, SchedulePolicy, next_backup};
use highwater_core::{BackupKind, Document, Failure};
use jiff::SignedDuration;
use proptest::prelude::*;

fn facts<'a>(at: i64) -> NextFacts<'a> {
    NextFacts { now: minute(at), nonce: 7, source: None, tool: None, owed: None, force: Force::Nothing, measured: &[] }
}

fn chain() -> (StoredManifest, StoredManifest, Catalog) {
    let full = store(full(10, 100));
    let inc = store(child(&full, Strategy::Incremental, 20, 200));
    let catalog = catalog_of(&[&full, &inc]);
    (full, inc, catalog)
}

/// The reason's name, and whether the next backup is a full, in a new incarnation.
fn decide(catalog: &Catalog, policy: SchedulePolicy, facts: NextFacts<'_>) -> (String, BackupKind, bool) {
    let decision = next_backup(catalog, policy, facts);
    let request = decision.request(catalog, "backups", facts.now, SignedDuration::from_hours(2));
    request.check().unwrap();
    assert_eq!(decision, next_backup(catalog, policy, facts), "the same facts give the same decision");
    let new = catalog.backups().all(|b| b.manifest.incarnation != decision.incarnation);
    let reason = serde_json::to_value(&decision.reason).unwrap();
    (reason["reason"].as_str().unwrap().to_owned(), decision.kind, new)
}

#[test]
fn every_reason_has_its_cause() {
    let (_, _, catalog) = chain();
    let policy = SchedulePolicy::default();
    let check = |expected: (&str, BackupKind, bool), policy, facts| {
        let (reason, kind, new) = decide(&catalog, policy, facts);
        assert_eq!((reason.as_str(), kind, new), expected);
    };
    let (full, incremental) = (BackupKind::Full, BackupKind::Incremental);
    check(("ContinueChain", incremental, false), policy, facts(30));
    check(("Forced", full, false), policy, NextFacts { force: Force::Full, ..facts(30) });
    check(("Forced", full, true), policy, NextFacts { force: Force::NewIncarnation, ..facts(30) });
    let after = |failures: &[Failure]| failures.iter().fold(None, |owed: Option<Owed>, f| Some(Owed::after(owed.as_ref(), *f)));
    let (broken, failed) = (after(&[Failure::ChainBroken]), after(&[Failure::Storage]));
    let both = after(&[Failure::Storage, Failure::ChainBroken, Failure::Storage]);
    check(("ChainBroken", full, true), policy, NextFacts { owed: broken.as_ref(), ..facts(30) });
    check(("LastFailed", full, false), policy, NextFacts { owed: failed.as_ref(), ..facts(30) });
    check(("ChainBroken", full, true), policy, NextFacts { owed: both.as_ref(), ..facts(30) });
    check(("ChainTooLong", full, false), SchedulePolicy { max_incrementals: 1, ..policy }, facts(30));
    check(("ContinueChain", incremental, false), SchedulePolicy { max_incrementals: 2, ..policy }, facts(30));
    let hour = SchedulePolicy { max_full_age: SignedDuration::from_mins(60), ..policy };
    check(("ContinueChain", incremental, false), hour, facts(75));
    check(("FullTooOld", full, false), hour, facts(76));
    let (same, same_tool) = (source(), tool());
    check(("ContinueChain", incremental, false), policy, NextFacts { source: Some(&same), tool: Some(&same_tool), ..facts(30) });
    let moved = SourceIdentity { datadir_id: "other".into(), ..source() };
    check(("SourceChanged", full, true), policy, NextFacts { source: Some(&moved), ..facts(30) });
    let upgraded = SourceIdentity { version: "11.4.2".parse().unwrap(), ..source() };
    check(("ServerSeriesChanged", full, false), policy, NextFacts { source: Some(&upgraded), ..facts(30) });
    let newer = ToolInfo { version: "11.4.2".parse().unwrap(), ..tool() };
    check(("ToolChanged", full, false), policy, NextFacts { tool: Some(&newer), ..facts(30) });
    let (reason, kind, new) = decide(&Catalog::new(cluster()), policy, facts(30));
    assert_eq!((reason.as_str(), kind, new), ("NoneCommitted", full, true));
    // A zero allowance means fulls only, for differentials too.
    let fulls = SchedulePolicy { strategy: Strategy::Differential, max_incrementals: 0, ..policy };
    check(("ChainTooLong", full, false), fulls, facts(30));
}

#[test]
fn the_strategy_chooses_the_parent() {
    let (full, inc, catalog) = chain();
    let parent = |catalog: &Catalog, strategy| {
        let policy = SchedulePolicy { strategy, ..SchedulePolicy::default() };
        let state = next_backup(catalog, policy, facts(60)).parent.unwrap();
        assert_eq!(state.link.strategy, strategy);
        state.link.backup_id
    };
    assert_eq!(parent(&catalog, Strategy::Incremental), *inc.id());
    assert_eq!(parent(&catalog, Strategy::Differential), *full.id());
    // From differential to incremental: behind the newest of the siblings.
    let one = store(child(&full, Strategy::Differential, 30, 300));
    let two = store(child(&full, Strategy::Differential, 40, 400));
    assert_eq!(parent(&catalog_of(&[&full, &one, &two]), Strategy::Incremental), *two.id());
    // A new full starts the new chain, even if the old one was continued meanwhile.
    let again = store(crate::support::full(30, 300));
    let mut late = child(&inc, Strategy::Incremental, 31, 310);
    late.finished_at = minute(50);
    let late = store(late);
    assert_eq!(parent(&catalog_of(&[&full, &inc, &again, &late]), Strategy::Incremental), *again.id());
}

#[test]
fn i2_a_refused_backup_makes_the_next_one_a_full_until_one_is_committed() {
    let (full, inc, _) = chain();
    let fork = store(child(&full, Strategy::Incremental, 30, 300));
    let catalog = Catalog::rebuild(cluster(), found(&[&full, &inc, &fork]));
    let decision = next_backup(&catalog, SchedulePolicy::default(), facts(40));
    assert!(matches!(&decision.reason, Reason::ChainBroken { why } if why.contains(&fork.id().to_string())), "{}", decision.reason);
    let mut healed = crate::support::full(40, 400);
    (healed.backup_id, healed.incarnation) = (decision.backup_id, decision.incarnation);
    let catalog = Catalog::rebuild(cluster(), found(&[&full, &inc, &fork, &store(healed)]));
    assert_eq!(decide(&catalog, SchedulePolicy::default(), facts(50)).0, "ContinueChain");
}

#[test]
fn a_new_incarnation_sorts_last_even_if_the_clock_is_behind() {
    let (_, _, catalog) = chain();
    let decision = next_backup(&catalog, SchedulePolicy::default(), NextFacts { force: Force::NewIncarnation, ..facts(-600) });
    assert!(catalog.backups().all(|b| b.manifest.incarnation < decision.incarnation));
    assert_eq!(decision.incarnation.first_seen_at(), minute(0) + SignedDuration::from_secs(1));
    // Of several it is the last that counts.
    let (full, inc, _) = chain();
    let mut promoted = crate::support::full(40, 7);
    promoted.incarnation = highwater_core::Incarnation::new(minute(39), 1);
    let catalog = catalog_of(&[&full, &inc, &store(promoted)]);
    let decision = next_backup(&catalog, SchedulePolicy::default(), NextFacts { force: Force::NewIncarnation, ..facts(-600) });
    assert!(catalog.backups().all(|b| b.manifest.incarnation < decision.incarnation));
}

#[test]
fn what_hangs_on_no_full_is_never_continued() {
    // A catalog that was tampered with: the chain's middle is gone, and a full is left.
    let (full, inc, _) = chain();
    let end = store(child(&inc, Strategy::Incremental, 30, 300));
    let holed = Catalog::of_committed(cluster(), [full.clone(), end]);
    let decision = next_backup(&holed, SchedulePolicy::default(), facts(40));
    assert_eq!(decision.parent.map(|p| p.link.backup_id), Some(full.id().clone()));
}

#[test]
fn i4_an_id_is_never_given_twice() {
    let (full, _, catalog) = chain();
    let at = facts(10);
    let decision = next_backup(&catalog, SchedulePolicy::default(), NextFacts { nonce: 1, force: Force::Full, ..at });
    assert_ne!(decision.backup_id, *full.id());
    assert!(catalog.get(&decision.backup_id).is_none());
}

#[test]
fn an_id_that_a_refused_backup_has_taken_is_not_given_again_and_an_incarnation_neither() {
    let (full, inc, catalog) = chain();
    let mut other = crate::support::full(40, 10);
    other.source.datadir_id = "other".into();
    let other = store(other);
    let refused_full = Catalog::rebuild(cluster(), found(&[&full, &inc, &other]));
    assert_eq!(refused_full.rejected().len(), 1);
    let decision = next_backup(&refused_full, SchedulePolicy::default(), NextFacts { nonce: 1, ..facts(40) });
    assert_eq!(decision.kind, BackupKind::Full);
    assert_ne!(decision.backup_id, *other.id());
    // The very second and nonce of the incarnation that there is.
    let again = NextFacts { force: Force::NewIncarnation, nonce: 0xaaaa, ..facts(0) };
    assert!(next_backup(&catalog, SchedulePolicy::default(), again).incarnation > full.manifest.incarnation);
}

#[test]
fn a_request_says_what_the_parent_was_and_until_when_it_holds() {
    let (_, inc, catalog) = chain();
    let decision = next_backup(&catalog, SchedulePolicy::default(), facts(30));
    let request = decision.request(&catalog, "backups", minute(30), SignedDuration::from_hours(2));
    let (parent, m) = (request.parent.unwrap(), &inc.manifest);
    assert_eq!((&parent.link.backup_id, parent.link.to_lsn, parent.link.manifest_sha256), (&m.backup_id, m.to_lsn, inc.sha256));
    assert_eq!((parent.last_lsn, &parent.source, &parent.binlog), (m.last_lsn, &m.source, &m.binlog));
    assert_eq!((request.created_at, request.expires_at), (minute(30), minute(150)));
    assert_eq!((request.bucket.as_str(), request.backup_id, request.incarnation), ("backups", decision.backup_id, decision.incarnation));
}

#[test]
fn what_is_owed_is_the_strongest_and_first_of_what_was_asked_for_and_only_that_settles_it() {
    let owed = |failures: &[Failure]| failures.iter().fold(None, |owed: Option<Owed>, f| Some(Owed::after(owed.as_ref(), *f))).unwrap();
    let (weak, strong) = (owed(&[Failure::Storage, Failure::Server]), owed(&[Failure::Storage, Failure::ChainBroken]));
    assert_eq!((weak.force, strong.force), (Force::Full, Force::NewIncarnation));
    assert!(weak.why.contains("Storage") && strong.why.contains("ChainBroken"), "{} {}", weak.why, strong.why);
    let (full, inc, _) = chain();
    let again = store(crate::support::full(40, 400));
    let mut renewed = crate::support::full(40, 400);
    renewed.incarnation = highwater_core::Incarnation::new(minute(39), 1);
    let renewed = store(renewed);
    let settles = |owed: &Owed| [&inc, &again, &renewed].map(|new| owed.is_settled_by(new, Some(&full)));
    assert_eq!(settles(&weak), [false, true, true]);
    assert_eq!(settles(&strong), [false, false, true]);
    assert!(strong.is_settled_by(&full, None), "the first of all is a new life");
}

/// A drill of a full of 1000 bytes in `full` seconds and one incremental of 1000 bytes in `incremental`.
fn measured(full: f64, incremental: f64) -> Measured {
    let (full_bytes, incremental_bytes, incrementals) = (1000, 1000, 1);
    Measured { fixed_seconds: 5.0, full_seconds: full, full_bytes, incremental_seconds: incremental, incremental_bytes, incrementals }
}

#[test]
fn a_chain_that_takes_too_long_to_restore_is_not_continued() {
    let (_, _, catalog) = chain();
    let decide = |target: i64, measured: &[Measured]| {
        let policy = SchedulePolicy { rto_target: Some(SignedDuration::from_secs(target)), ..SchedulePolicy::default() };
        decide(&catalog, policy, NextFacts { measured, ..facts(30) }).0
    };
    assert_eq!(decide(74, &[measured(50.0, 20.0)]), "RestoreTooLong", "75 s are expected");
    assert_eq!(decide(75, &[measured(50.0, 20.0)]), "ContinueChain");
    assert_eq!(decide(55, &[measured(50.0, 20.0)]), "RestoreTooLong");
    assert_eq!(decide(54, &[measured(50.0, 20.0)]), "ContinueChain", "a full alone takes 55 s: another one helps nobody");
    assert_eq!(decide(1, &[]), "ContinueChain", "nothing is measured yet");
    let reason = Reason::RestoreTooLong { expected_seconds: 75, target_seconds: 60 };
    assert_eq!(reason.to_string(), "a restore is expected to take 1 min 15 s, 1 min are allowed: a shorter chain");
}

proptest! {
    /// Backups follow each other, of any sizes, under any target: a restore point that would take too long is followed by a
    /// full wherever a full alone would do, and a target that no full can meet changes nothing.
    #[test]
    fn a_target_is_missed_by_one_restore_point_at_most_and_one_that_cannot_be_met_changes_nothing(
        sizes in prop::collection::vec(1..2000u64, 1..30),
        per_full in 1.0..100.0f64,
        per_incremental in 1.0..100.0f64,
        target in 1..300i64,
        differential: bool,
    ) {
        let drills = [measured(per_full, per_incremental)];
        let strategy = if differential { Strategy::Differential } else { Strategy::Incremental };
        let without = SchedulePolicy { strategy, ..SchedulePolicy::default() };
        let with = SchedulePolicy { rto_target: Some(SignedDuration::from_secs(target)), ..without };
        let mut catalog = Catalog::new(cluster());
        for (i, size) in sizes.into_iter().enumerate() {
            let at = 10 * (i as i64 + 1);
            let facts = NextFacts { measured: &drills, ..facts(at) };
            let decision = next_backup(&catalog, with, facts);
            if let Some(newest) = catalog.newest() {
                let chain = ChainSize::of_backups(&catalog.path_to(newest.id()).unwrap());
                let takes = |size| rto::expected(&drills, size).unwrap().as_secs_f64();
                let helps = takes(chain) > target as f64 && takes(chain.full_alone()) <= target as f64;
                prop_assert_eq!(decision.kind, if helps { BackupKind::Full } else { next_backup(&catalog, without, facts).kind });
            }
            let parent = decision.parent.as_ref().map(|p| catalog.get(&p.link.backup_id).unwrap().clone());
            let mut made = match &parent {
                Some(parent) => child(parent, strategy, at, 100 * (i as u64 + 1)),
                None => full(at, 100 * (i as u64 + 1)),
            };
            (made.raw_bytes, made.backup_id, made.incarnation) = (size, decision.backup_id, decision.incarnation);
            catalog.commit(store(made)).unwrap();
        }
    }
}
