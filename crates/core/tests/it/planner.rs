//! Which restore point a target means, and what an answer says when it means none.

use crate::support::*;
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::manifest::Strategy::*;
use highwater_core::plan::Target;
use highwater_core::planner::{PlanError, plan_restore};
use highwater_core::{Document, Failure, Incarnation};

/// An old incarnation with LSNs up to 9010, then full 100 ← inc 200 ← inc 200 (no checkpoint between).
fn world() -> ([StoredManifest; 4], Catalog) {
    let mut old = full(-100, 9000);
    old.incarnation = Incarnation::new(minute(-101), 1);
    old.source.datadir_id = "before the promotion".into();
    let old = store(old);
    let full = store(full(10, 100));
    let one = store(child(&full, Incremental, 20, 200));
    let mut two = child(&one, Incremental, 30, 200);
    two.last_lsn = highwater_core::Lsn::new(250);
    let two = store(two);
    let catalog = catalog_of(&[&old, &full, &one, &two]);
    ([old, full, one, two], catalog)
}

#[test]
fn a_target_means_the_newest_restore_point_not_after_it() {
    let ([old, full, one, two], catalog) = world();
    let check = |target: &str, expected: &StoredManifest| {
        let target: Target = target.parse().unwrap();
        let plan = plan_restore(&catalog, &target, "backups", minute(99)).unwrap();
        plan.check().unwrap();
        assert_eq!((&plan.point.backup_id, &plan.target), (expected.id(), &target), "{target}");
        assert_eq!(plan, highwater_core::plan::RestorePlanV1::parse(&plan.to_bytes()).unwrap());
    };
    check("latest", &two);
    check(&one.id().to_string(), &one);
    check(&old.id().to_string(), &old);
    check("2026-11-22T00:35:00Z", &two);
    check("2026-11-22T00:34:59.999Z", &one);
    check("2026-11-22T00:14:59Z", &old);
    check("2030-01-01T00:00:00Z", &two);
    check("lsn:110", &full);
    check("lsn:209", &full);
    check("lsn:210", &one);
    check("lsn:249", &one);
    check("lsn:250", &two);
    // 9010 is the old incarnation's: LSNs are compared in the newest one only.
    check("lsn:9010", &two);
    assert_eq!(plan_restore(&catalog, &Target::Latest, "b", minute(99)).unwrap().steps.len(), 3);
}

#[test]
fn what_cannot_be_planned_is_explained() {
    let ([_, full, one, two], catalog) = world();
    let error = |catalog: &Catalog, target: &str| plan_restore(catalog, &target.parse().unwrap(), "b", minute(99)).unwrap_err();
    let texts = [
        error(&catalog, "lsn:109"),
        error(&catalog, "2020-01-01T00:00:00Z"),
        error(&catalog, "20261122T002500Z-incremental-0001"),
        error(&Catalog::new(cluster()), "latest"),
    ];
    insta::assert_snapshot!(texts.map(|e| e.to_string()).join("\n"), @r"
    no restore point is at or before lsn:109; the earliest restore point is 20261122T001000Z-full-0001 (2026-11-22T00:15:00Z, lsn:110). A target is latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z
    no restore point is at or before 2020-01-01T00:00:00Z; the earliest restore point is 20261121T222000Z-full-0001 (2026-11-21T22:25:00Z, lsn:9010). A target is latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z
    no backup 20261122T002500Z-incremental-0001 is known; the nearest restore points are 20261122T002000Z-incremental-0001 (2026-11-22T00:25:00Z, lsn:210) before and 20261122T003000Z-incremental-0001 (2026-11-22T00:35:00Z, lsn:250) after. A target is latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z
    cluster orders has no committed backup
    ");
    // The middle of the chain is gone: its end exists in the bucket, and is never planned through the hole.
    let holed = Catalog::rebuild(cluster(), found(&[&full, &two]));
    let refused = error(&holed, &two.id().to_string());
    assert!(matches!(&refused, PlanError::NotCommitted { refusal, .. } if refusal.name() == "ParentUnknown"), "{refused}");
    assert_eq!(refused.failure(), Failure::Damaged);
    assert_eq!(plan_restore(&holed, &Target::Latest, "b", minute(99)).unwrap().point.backup_id, *full.id());
    assert!(matches!(error(&holed, &one.id().to_string()), PlanError::UnknownBackup { .. }));
}

#[test]
fn a_plan_holds_what_its_manifests_say_and_nothing_else() {
    let ([_, full, one, two], catalog) = world();
    let plan = plan_restore(&catalog, &Target::Latest, "backups", minute(99)).unwrap();
    for (step, stored) in plan.steps.iter().zip([&full, &one, &two]) {
        let m = &stored.manifest;
        assert_eq!((&step.backup_id, step.kind, step.from_lsn, step.to_lsn), (&m.backup_id, m.kind, m.from_lsn, m.to_lsn));
        assert_eq!((&step.tool, step.redo_bytes, step.raw_bytes), (&m.tool, m.redo_bytes, m.raw_bytes));
        assert_eq!((&step.manifest, &step.objects, &step.inventory), (&stored.object_ref(), &m.objects, &m.inventory));
    }
    let m = &two.manifest;
    assert_eq!((&plan.point.binlog, plan.point.last_lsn, plan.point.time), (&m.binlog, m.last_lsn, m.finished_at));
    assert_eq!((plan.bucket.as_str(), plan.created_at, &plan.incarnation), ("backups", minute(99), &m.incarnation));
    assert_eq!((plan.server.vendor, plan.server.version, &plan.server.settings), (m.source.vendor, m.source.version, &m.settings));
}

#[test]
fn what_was_asked_for_wrongly_is_told_from_what_is_damaged() {
    let (_, catalog) = world();
    let error = |catalog: &Catalog, target: &str| plan_restore(catalog, &target.parse().unwrap(), "b", minute(99)).unwrap_err();
    for target in ["20261122T002500Z-incremental-0001", "lsn:1", "2020-01-01T00:00:00Z"] {
        assert_eq!(error(&catalog, target).failure(), Failure::Document, "{target}");
    }
    assert_eq!(error(&Catalog::new(cluster()), "latest").failure(), Failure::Document);
    // Among several on either side, the nearest is named.
    let near = error(&catalog, "20261122T000500Z-full-0001").to_string();
    assert!(near.contains("20261121T222000Z-full-0001") && near.contains("20261122T001000Z-full-0001"), "{near}");
    // A catalog that was tampered with: a backup without data is never planned.
    let mut hollow = full(10, 100);
    hollow.objects.clear();
    let mut hollow = store(hollow);
    hollow.manifest.objects.clear();
    let tampered = Catalog::of_committed(cluster(), [hollow]);
    let refused = error(&tampered, "latest");
    assert!(matches!(&refused, PlanError::Impossible { .. }) && refused.failure() == Failure::Damaged, "{refused}");
}
