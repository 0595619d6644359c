//! Retention (I6), by random histories and by examples on the calendar.

use highwater_core::cluster::KeepConfig;
use highwater_core::retention::{Facts, Hold, Point, REMAINS_KEPT, Reason, Retention, remains_may_go, retain};
use highwater_core::{BackupId, BackupKind};
use jiff::{SignedDuration, Timestamp};
use proptest::prelude::*;
use std::collections::{BTreeMap, BTreeSet};

/// A history: every backup with the hours since the one before it, and what it continues.
fn history() -> impl Strategy<Value = Vec<Point>> {
    let step = (1u32..100, 0u8..8, any::<prop::sample::Index>());
    prop::collection::vec(step, 1..40).prop_map(|steps| {
        let mut at: Timestamp = "2026-01-01T00:30:00Z".parse().unwrap();
        let mut points: Vec<Point> = Vec::new();
        for (nonce, (hours, kind, of)) in steps.into_iter().enumerate() {
            at += SignedDuration::from_hours(hours.into());
            // A full, the next incremental, or a differential beside others.
            let fulls: Vec<_> = points.iter().filter(|p| p.parent.is_none()).map(|p| p.backup_id.clone()).collect();
            let parent = match kind {
                0 | 1 => None,
                2..=5 => points.last().map(|p| p.backup_id.clone()),
                _ if fulls.is_empty() => None,
                _ => Some(of.get(&fulls).clone()),
            };
            let kind = if parent.is_none() { BackupKind::Full } else { BackupKind::Incremental };
            points.push(Point { backup_id: BackupId::new(at, kind, nonce as u16), parent, finished_at: at });
        }
        points
    })
}

fn rules() -> impl Strategy<Value = KeepConfig> {
    (0u32..4, 0u32..6, 0u32..4, 0u32..3).prop_map(|(chains, daily, weekly, monthly)| KeepConfig { chains, daily, weekly, monthly })
}

/// A history with what else is known of it.
fn known() -> impl Strategy<Value = (Vec<Point>, Facts)> {
    let some = || prop::collection::vec(any::<prop::sample::Index>(), 0..3);
    (history(), some(), some(), some(), any::<bool>()).prop_map(|(points, passed, used, locked, legal)| {
        let id = |of: &prop::sample::Index| of.get(&points).backup_id.clone();
        let hold = |of: &prop::sample::Index| match legal {
            true => Hold::Legal,
            false => Hold::Until(of.get(&points).finished_at + SignedDuration::from_hours(24 * 14)),
        };
        let facts = Facts {
            passed: passed.iter().map(id).collect(),
            used: used.iter().map(|of| (id(of), "drill d".to_owned())).collect(),
            locked: locked.iter().map(|of| (id(of), hold(of))).collect(),
        };
        (points, facts)
    })
}

fn kept(decided: &Retention) -> BTreeSet<&BackupId> {
    decided.kept.iter().map(|k| &k.backup_id).collect()
}

fn held(decided: &Retention) -> BTreeSet<&BackupId> {
    decided.held.iter().map(|h| &h.backup_id).collect()
}

fn deleted(decided: &Retention) -> BTreeSet<&BackupId> {
    decided.deleted.iter().map(|d| &d.backup_id).collect()
}

fn full_of<'a>(points: &'a [Point], id: &'a BackupId) -> &'a BackupId {
    let by_id: BTreeMap<_, _> = points.iter().map(|p| (&p.backup_id, p)).collect();
    std::iter::successors(by_id.get(id), |p| p.parent.as_ref().and_then(|id| by_id.get(id))).last().map(|p| &p.backup_id).unwrap()
}

fn chain_of<'a>(points: &'a [Point], id: &'a BackupId) -> BTreeSet<&'a BackupId> {
    points.iter().map(|p| &p.backup_id).filter(|other| full_of(points, other) == full_of(points, id)).collect()
}

proptest! {
    #[test]
    fn i6_nothing_good_is_lost((points, facts) in known(), rules in rules()) {
        let decided = retain(&points, &rules, &facts);
        let (kept, held, deleted) = (kept(&decided), held(&decided), deleted(&decided));
        let all: BTreeSet<_> = points.iter().map(|p| &p.backup_id).collect();
        prop_assert_eq!(kept.len() + held.len() + deleted.len(), all.len(), "each is in one list");
        prop_assert_eq!(&(&(&kept | &held) | &deleted), &all);
        prop_assert!(decided.kept.iter().all(|k| !k.reasons.is_empty()));
        prop_assert!(decided.deleted.iter().all(|d| !d.reasons.is_empty()));

        for p in points.iter().filter(|p| kept.contains(&p.backup_id)) {
            prop_assert!(p.parent.iter().all(|parent| kept.contains(parent)), "{} lost its parent", p.backup_id);
        }
        for p in points.iter().filter(|p| held.contains(&p.backup_id)) {
            prop_assert!(p.parent.iter().all(|parent| !deleted.contains(parent)), "{} lost its parent", p.backup_id);
        }
        let last_full = points.iter().rfind(|p| p.parent.is_none()).map(|p| &p.backup_id).unwrap();
        prop_assert!(chain_of(&points, last_full).is_subset(&kept), "the last chain");
        prop_assert!(kept.contains(&points.last().unwrap().backup_id), "the newest restore point");
        if let Some(proven) = facts.passed.last() {
            prop_assert!(chain_of(&points, proven).is_subset(&kept), "the last chain with a passed drill");
        }
        prop_assert!(facts.used.iter().all(|(id, _)| kept.contains(id)), "what is in use");
        prop_assert!(facts.locked.keys().all(|id| !deleted.contains(id)), "what is locked");
    }

    #[test]
    fn children_go_before_their_parents((points, facts) in known(), rules in rules()) {
        let decided = retain(&points, &rules, &facts);
        let place: BTreeMap<_, _> = decided.deleted.iter().enumerate().map(|(at, d)| (&d.backup_id, at)).collect();
        for p in &points {
            if let (Some(child), Some(parent)) = (place.get(&p.backup_id), p.parent.as_ref().and_then(|parent| place.get(parent))) {
                prop_assert!(child < parent);
            }
        }
    }

    #[test]
    fn what_is_deleted_stays_deleted_as_backups_follow((points, facts) in known(), rules in rules(), cut in any::<prop::sample::Index>()) {
        let earlier = &points[..=cut.index(points.len())];
        let nothing = Facts { passed: BTreeSet::new(), used: Vec::new(), locked: facts.locked.clone() };
        let (then, now) = (retain(earlier, &rules, &nothing), retain(&points, &rules, &nothing));
        let (then, now) = (deleted(&then), kept(&now));
        let needed_again = |id: &&BackupId| {
            // A differential of an old full, or an incremental of an old leaf, that came later.
            chain_of(&points, id).iter().any(|other| !earlier.iter().any(|p| p.backup_id == **other))
        };
        prop_assert!(then.intersection(&now).all(needed_again), "{:?}", then.intersection(&now).collect::<Vec<_>>());
    }

    #[test]
    fn a_second_run_deletes_nothing_more((points, facts) in known(), rules in rules()) {
        let decided = retain(&points, &rules, &facts);
        let gone = deleted(&decided);
        let left: Vec<_> = points.iter().filter(|p| !gone.contains(&p.backup_id)).cloned().collect();
        let again = retain(&left, &rules, &facts);
        prop_assert_eq!(deleted(&again), BTreeSet::new());
        prop_assert_eq!(kept(&again), kept(&decided));
    }

    #[test]
    fn locks_only_hold_back((points, facts) in known(), rules in rules(), seed in any::<u64>()) {
        let decided = retain(&points, &rules, &facts);
        let unlocked = retain(&points, &rules, &Facts { locked: BTreeMap::new(), ..facts.clone() });
        prop_assert_eq!(&decided.kept, &unlocked.kept);
        prop_assert_eq!(&held(&decided) | &deleted(&decided), deleted(&unlocked));
        let mut shuffled = points.clone();
        shuffled.rotate_left(seed as usize % points.len());
        prop_assert_eq!(retain(&shuffled, &rules, &facts), decided, "the order of the points does not matter");
    }

    #[test]
    fn more_to_keep_keeps_no_less((points, facts) in known(), rules in rules(), more in rules()) {
        let most = KeepConfig {
            chains: rules.chains.max(more.chains), daily: rules.daily.max(more.daily),
            weekly: rules.weekly.max(more.weekly), monthly: rules.monthly.max(more.monthly),
        };
        let (less, more) = (retain(&points, &rules, &facts), retain(&points, &most, &facts));
        prop_assert!(kept(&less).is_subset(&kept(&more)));
    }
}

fn point(id: &str, parent: Option<&str>) -> Point {
    let backup_id: BackupId = id.parse().unwrap();
    Point { finished_at: backup_id.requested_at(), parent: parent.map(|p| p.parse().unwrap()), backup_id }
}

const NONE: KeepConfig = KeepConfig { chains: 0, daily: 0, weekly: 0, monthly: 0 };

fn ids(decided: &Retention) -> Vec<String> {
    decided.kept.iter().map(|k| k.backup_id.to_string()).collect()
}

#[test]
fn empty_keep_rules_still_keep_the_last_chain() {
    let points = [
        point("20261101T020000Z-full-0001", None),
        point("20261102T020000Z-incremental-0002", Some("20261101T020000Z-full-0001")),
        point("20261103T020000Z-full-0003", None),
        point("20261104T020000Z-incremental-0004", Some("20261103T020000Z-full-0003")),
    ];
    let decided = retain(&points, &NONE, &Facts::default());
    assert_eq!(ids(&decided), ["20261103T020000Z-full-0003", "20261104T020000Z-incremental-0004"]);
    let gone: Vec<_> = decided.deleted.iter().map(|d| format!("{}: {}", d.backup_id, d.reasons[0])).collect();
    assert_eq!(
        gone,
        ["20261102T020000Z-incremental-0002: its chain is not the last", "20261101T020000Z-full-0001: its chain is not the last"]
    );
    assert_eq!(retain(&points[..1], &NONE, &Facts::default()).deleted, [], "the only backup");
    assert_eq!(retain(&[], &NONE, &Facts::default()), Retention::default());
}

/// Every day's, week's and month's end: `expected` are the ids' days that a rule keeps beside the last.
#[track_caller]
fn check(rules: KeepConfig, times: &[&str], expected: &[&str]) {
    let points: Vec<_> = times.iter().enumerate().map(|(n, t)| point(&format!("{t}-full-{n:04x}"), None)).collect();
    let decided = retain(&points, &rules, &Facts::default());
    let kept: Vec<_> = decided.kept.iter().map(|k| k.backup_id.to_string()[..16].to_owned()).collect();
    assert_eq!(kept, expected);
}

#[test]
fn a_period_is_of_utc_and_keeps_its_newest() {
    let days = ["20261120T230000Z", "20261121T000000Z", "20261121T235959Z", "20261122T000000Z"];
    check(KeepConfig { daily: 2, ..NONE }, &days, &["20261121T235959Z", "20261122T000000Z"]);
    check(KeepConfig { daily: 3, ..NONE }, &days, &["20261120T230000Z", "20261121T235959Z", "20261122T000000Z"]);
    // 2026 has 53 ISO weeks: Sunday 3 January 2027 still is of 2026-W53, as is Thursday 31 December.
    let weeks = ["20261227T020000Z", "20261228T020000Z", "20261231T020000Z", "20270103T020000Z", "20270104T020000Z"];
    check(KeepConfig { weekly: 2, ..NONE }, &weeks, &["20270103T020000Z", "20270104T020000Z"]);
    check(KeepConfig { weekly: 3, ..NONE }, &weeks, &["20261227T020000Z", "20270103T020000Z", "20270104T020000Z"]);
    let months = ["20260131T020000Z", "20260201T020000Z", "20260228T020000Z", "20260301T020000Z"];
    check(KeepConfig { monthly: 12, ..NONE }, &months, &["20260131T020000Z", "20260228T020000Z", "20260301T020000Z"]);
    // Days without a backup do not count: backups that stopped are not forgotten.
    let gaps = ["20250601T020000Z", "20251201T020000Z", "20261122T020000Z"];
    check(KeepConfig { daily: 3, ..NONE }, &gaps, &gaps);
}

#[test]
fn the_reasons_say_what_keeps_and_what_lets_go() {
    let full = "20261101T020000Z-full-0001";
    let points = [
        point(full, None),
        point("20261101T140000Z-incremental-0002", Some(full)),
        point("20261102T020000Z-incremental-0003", Some("20261101T140000Z-incremental-0002")),
        point("20261103T020000Z-full-0004", None),
        point("20261104T020000Z-incremental-0005", Some("20261009T020000Z-full-00ff")),
    ];
    let facts = Facts {
        passed: [points[1].backup_id.clone()].into(),
        used: vec![(points[1].backup_id.clone(), "promotion p-1".into())],
        locked: BTreeMap::new(),
    };
    let rules = KeepConfig { chains: 1, daily: 1, ..NONE };
    let said = |decided: &Retention| {
        let kept = decided.kept.iter().map(|k| (k.backup_id.to_string(), k.reasons.iter().map(Reason::to_string).collect::<Vec<_>>()));
        kept.map(|(id, why)| format!("{id}: {}", why.join("; "))).collect::<Vec<_>>()
    };
    assert_eq!(
        said(&retain(&points, &rules, &facts)),
        [
            "20261101T020000Z-full-0001: it is of the last chain with a passed drill, that on 20261101T140000Z-incremental-0002; 20261102T020000Z-incremental-0003 needs it",
            "20261101T140000Z-incremental-0002: it is of the last chain with a passed drill, that on 20261101T140000Z-incremental-0002; promotion p-1 uses it; 20261102T020000Z-incremental-0003 needs it",
            "20261102T020000Z-incremental-0003: it is of the last chain with a passed drill, that on 20261101T140000Z-incremental-0002",
            "20261103T020000Z-full-0004: it is the newest restore point; it is of the last chain; it is of the last 1 chains; it is the newest of day 2026-11-03",
            "20261104T020000Z-incremental-0005: no full is found at the start of its chain: see `highwater catalog audit`",
        ]
    );

    let year = KeepConfig { weekly: 1, monthly: 1, ..NONE };
    assert!(
        said(&retain(&points, &year, &facts))[3].ends_with("it is the newest of week 2026-W45; it is the newest of month 2026-11"),
        "{:?}",
        said(&retain(&points, &year, &facts))
    );

    let until = "2026-11-15T02:00:00Z".parse().unwrap();
    let locked = Facts { locked: [(points[1].backup_id.clone(), Hold::Until(until))].into(), ..Facts::default() };
    let decided = retain(&points, &rules, &locked);
    let why = |reasons: &[highwater_core::retention::Lapse]| reasons.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ");
    let held: Vec<_> = decided.held.iter().map(|h| format!("{}: {}: {}", h.backup_id, h.hold, why(&h.reasons))).collect();
    let lapsed = "its chain is not the last; day 2026-11-01 is before the last 1 that have a restore point";
    assert_eq!(
        held,
        [
            format!("20261101T140000Z-incremental-0002: locked until 2026-11-15T02:00:00Z: {lapsed}"),
            format!("20261101T020000Z-full-0001: locked until 2026-11-15T02:00:00Z: {lapsed}"),
        ]
    );
    assert_eq!(decided.deleted.len(), 1, "the leaf is not locked");
}

#[test]
fn remains_of_a_failure_wait_for_a_person_and_for_something_newer() {
    let failed: BackupId = "20261101T020000Z-full-0001".parse().unwrap();
    let asked = failed.requested_at();
    let later = asked + REMAINS_KEPT + SignedDuration::from_secs(1);
    assert!(remains_may_go(&failed, Some(asked + SignedDuration::from_hours(1)), later));
    assert!(!remains_may_go(&failed, Some(asked + SignedDuration::from_hours(1)), asked + REMAINS_KEPT));
    assert!(!remains_may_go(&failed, Some(asked - SignedDuration::from_hours(1)), later), "nothing newer is committed");
    assert!(!remains_may_go(&failed, Some(asked), later), "one of the same second is not newer");
    assert!(!remains_may_go(&failed, None, later));
}
