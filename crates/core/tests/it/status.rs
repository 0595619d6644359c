//! What `status` says of a cluster: the facts that make a person needed, and those that do not.

use crate::support::*;
use highwater_core::catalog::Catalog;
use highwater_core::cluster::{BackupConfig, ClusterConfigV1, DrillConfig, KeepConfig, PromotionConfig};
use highwater_core::lease::{Holder, Lease, Purpose};
use highwater_core::manifest::Strategy;
use highwater_core::rto::Measured;
use highwater_core::schedule::{Force, Owed};
use highwater_core::status::{ClusterStatus, Drill, DrillState, Facts, FailedBackup, Need, OpenRequest, Proven, StuckPromotion, lasting};
use highwater_core::{DrillId, Failure};

pub(crate) fn config(rto_minutes: Option<u32>) -> ClusterConfigV1 {
    ClusterConfigV1 {
        format: "highwater.cluster.v1".into(),
        cluster: cluster(),
        host: highwater_core::cluster::Primary::Id("i-0123456789abcdef0".parse().unwrap()),
        rto_minutes,
        backup: BackupConfig {
            schedule: "rate(1 hour)".into(),
            timezone: "UTC".into(),
            window_minutes: 15,
            strategy: Strategy::Incremental,
            max_incrementals: 24,
            full_every_hours: 168,
            timeout_hours: 12,
            overdue_hours: 2,
        },
        keep: KeepConfig { chains: 2, daily: 7, weekly: 4, monthly: 6 },
        drill: DrillConfig {
            schedule: None,
            timezone: "UTC".into(),
            window_minutes: 60,
            after_each_backup: false,
            timeout_hours: 8,
            overdue_days: 1,
            image: "ami-0123456789abcdef0".into(),
            instance_types: vec!["m7i.large".into()],
            checks: String::new(),
        },
        promotion: PromotionConfig { timeout_hours: 24 },
    }
}

fn drill_id(at: i64) -> DrillId {
    DrillId::of_execution(minute(at), "arn:aws:states:eu-west-1:1:execution:drill:1")
}

/// A drill of the chain below that took `seconds` for its full of 1000 bytes.
fn measured(seconds: f64) -> Measured {
    Measured {
        fixed_seconds: 0.0,
        full_seconds: seconds,
        full_bytes: 1000,
        incremental_seconds: seconds,
        incremental_bytes: 1000,
        incrementals: 1,
    }
}

/// A chain of two at minute 25, its newest point proven at minute 40, nothing wrong.
struct Cluster {
    config: ClusterConfigV1,
    catalog: Catalog,
    proven: Option<Proven>,
    last_failure: Option<FailedBackup>,
    owed: Option<Owed>,
    drills: Vec<Drill>,
    lease: Lease,
    stuck: Option<StuckPromotion>,
    requests: Vec<OpenRequest>,
}

impl Cluster {
    fn well() -> Self {
        let full = store(full(10, 100));
        let inc = store(child(&full, Strategy::Incremental, 20, 200));
        let proven = Proven { backup_id: inc.id().clone(), time: Some(minute(25)), drill_id: drill_id(30), passed_at: minute(40) };
        let passed = DrillState::Passed { at: minute(40), measured: Some(measured(60.0)) };
        Self {
            config: config(Some(10)),
            catalog: catalog_of(&[&full, &inc]),
            drills: vec![Drill { drill_id: drill_id(30), backup_id: inc.id().clone(), has_report: true, state: passed }],
            proven: Some(proven),
            last_failure: None,
            owed: None,
            lease: Lease::default(),
            stuck: None,
            requests: Vec::new(),
        }
    }

    fn at(&self, at: i64) -> ClusterStatus {
        let facts = Facts {
            config: &self.config,
            catalog: &self.catalog,
            proven: self.proven.clone(),
            last_failure: self.last_failure.clone(),
            owed: self.owed.as_ref(),
            drills: self.drills.clone(),
            lease: &self.lease,
            stuck: self.stuck.clone(),
            requests: self.requests.clone(),
        };
        ClusterStatus::of(facts, minute(at))
    }

    /// The sections of RUNBOOK that it needs, and what is said.
    fn needs(&self, at: i64) -> Vec<(&'static str, String)> {
        self.at(at).needs.iter().map(|need| (need.section(), need.to_string())).collect()
    }

    fn failed(failure: Failure, at: i64) -> Self {
        let backup_id = "20261122T003000Z-incremental-0001".parse().unwrap();
        let last_failure = Some(FailedBackup { backup_id, failure, message: "it broke".into(), at: minute(at) });
        Self { last_failure, ..Self::well() }
    }
}

#[test]
fn a_cluster_that_is_well_needs_nobody_and_says_how_well_it_is() {
    let status = Cluster::well().at(60);
    assert_eq!(status.needs, []);
    let newest = status.newest.unwrap();
    assert_eq!((newest.age_seconds, newest.last_lsn.get()), (35 * 60, 210));
    let chain = status.chain.unwrap();
    assert_eq!((chain.backups.len(), chain.raw_bytes, chain.stored_bytes), (2, 2000, 1000));
    assert_eq!(chain.full, chain.backups[0]);
    assert_eq!(status.last_backup.unwrap().backup_id, chain.backups[1]);
    let rto = status.rto;
    assert_eq!((rto.measured_seconds, rto.expected_seconds, rto.target_seconds), (Some(120.0), Some(120), Some(600)));
    assert_eq!((status.next_is_full, status.running, status.last_failure), (None, vec![], None));
}

#[test]
fn whoever_is_needed_is_told_what_for_in_the_runbooks_words() {
    let check = |cluster: Cluster, at, expected: &[(&str, &str)]| {
        let needs = cluster.needs(at);
        let found: Vec<_> = needs.iter().map(|(section, said)| (*section, said.as_str())).collect();
        assert_eq!(found, expected);
        assert!(found.iter().all(|(section, _)| Need::SECTIONS.contains(section)));
    };
    check(Cluster::well(), 25 + 121, &[("backups-overdue", "the newest restore point is 2 h 1 min old, 2 h are allowed")]);
    let nothing = Cluster { catalog: Catalog::new(cluster()), proven: None, drills: vec![], ..Cluster::well() };
    check(nothing, 60, &[("backups-overdue", "there is no restore point"), ("drills-overdue", "no drill has ever passed")]);
    let old = Proven { passed_at: minute(60 - 1441), ..Cluster::well().proven.unwrap() };
    let text = "the last drill passed 1 d ago, 1 d are allowed";
    check(Cluster { proven: Some(old), ..Cluster::well() }, 60, &[("drills-overdue", text)]);

    let text = "backup 20261122T003000Z-incremental-0001 failed (Tool): it broke";
    check(Cluster::failed(Failure::Tool, 31), 60, &[("backups-failed", text)]);
    check(Cluster::failed(Failure::ChainBroken, 31), 60, &[("chain-broken", "the chain is broken: it broke")]);
    check(Cluster::failed(Failure::Storage, 31), 60, &[]);
    check(Cluster::failed(Failure::Tool, 24), 60, &[]);

    let mut failed = Cluster::well();
    let (backup_id, at) = (failed.drills[0].backup_id.clone(), minute(50));
    let state = DrillState::Failed { at, reason: "rows are missing".into() };
    failed.drills.insert(0, Drill { drill_id: drill_id(45), backup_id: backup_id.clone(), has_report: true, state });
    let text = format!("drill {} of {backup_id} did not pass: rows are missing", drill_id(45));
    let drill = |state| Drill { drill_id: drill_id(55), backup_id: backup_id.clone(), has_report: true, state };
    failed.drills.insert(0, drill(DrillState::Open { step: "running" }));
    check(failed, 60, &[("drills-failed", &text)]);
    let mut passed = Cluster::well();
    passed.drills.insert(0, drill(DrillState::Passed { at: minute(58), measured: None }));
    check(passed, 60, &[]);

    let id: highwater_core::promotion::PromotionId = "20261122T003000Z-4f7c".parse().unwrap();
    let stuck = StuckPromotion { id: id.clone(), host: "db-1".parse().unwrap(), reason: "no disk".into(), since: minute(40) };
    let lease = |minutes| {
        let holder = Holder { operation: id.to_string(), purpose: Purpose::Promotion, expires_at: minute(minutes) };
        Lease { token: 3, holder: Some(holder) }
    };
    let text = "promotion 20261122T003000Z-4f7c is stuck on db-1: no disk";
    check(Cluster { stuck: Some(stuck), lease: lease(20), ..Cluster::well() }, 60, &[("promotion-stuck", text)]);
    let text = "promotion 20261122T003000Z-4f7c still has the lease, which ended at 2026-11-22T00:20:00Z";
    check(Cluster { lease: lease(20), ..Cluster::well() }, 60, &[("lease-stuck", text)]);
    check(Cluster { lease: lease(35), ..Cluster::well() }, 60, &[]);
}

#[test]
fn a_restore_that_takes_too_long_makes_the_next_backup_a_full_or_needs_a_person() {
    let over = Cluster { config: config(Some(1)), ..Cluster::well() }.at(60);
    assert!(over.rto.is_over_target());
    assert_eq!(over.next_is_full.unwrap(), "a restore is expected to take 2 min, 1 min are allowed");
    assert_eq!(over.needs, [], "a full mends it");
    let mut slow = Cluster { config: config(Some(1)), ..Cluster::well() };
    slow.drills[0].state = DrillState::Passed { at: minute(40), measured: Some(measured(61.0)) };
    let text = "a restore is expected to take 2 min 2 s, 1 min are allowed, and a full would not mend that";
    assert_eq!(slow.needs(60), [("rto-over-target", text.to_owned())]);
    assert_eq!(slow.at(60).next_is_full, None);
    let nobody_minds = Cluster { config: config(None), ..Cluster::well() }.at(60);
    assert!(!nobody_minds.rto.is_over_target() && nobody_minds.next_is_full.is_none());
}

#[test]
fn what_runs_and_what_is_owed_is_shown() {
    let mut busy = Cluster::well();
    let holder = Holder { operation: "20261122T005000Z-incremental-0001".into(), purpose: Purpose::Backup, expires_at: minute(500) };
    busy.lease = Lease { token: 3, holder: Some(holder) };
    let backup_id = busy.drills[0].backup_id.clone();
    busy.drills.insert(0, Drill { drill_id: drill_id(55), backup_id, has_report: false, state: DrillState::Open { step: "running" } });
    busy.owed = Some(Owed { force: Force::Full, why: "the last attempt ended with Storage".into() });
    let status = busy.at(60);
    let running: Vec<_> = status.running.iter().map(|r| (r.what, r.since, r.step)).collect();
    assert_eq!(running, [("backup", minute(50), None), ("drill", minute(55), Some("running"))]);
    assert_eq!(status.next_is_full.unwrap(), "the last attempt ended with Storage");
    let json = serde_json::to_value(&status.drills[1]).unwrap();
    assert_eq!((&json["state"], &json["measured"]["full_bytes"]), (&"passed".into(), &1000.into()));
}

#[test]
fn a_duration_is_said_in_two_units() {
    let check = |seconds, expected| assert_eq!(lasting(seconds), expected);
    check(-5, "0 s");
    check(59, "59 s");
    check(60, "1 min");
    check(450, "7 min 30 s");
    check(3600 + 300, "1 h 5 min");
    check(86_400 * 4 + 7200, "4 d 2 h");
}
