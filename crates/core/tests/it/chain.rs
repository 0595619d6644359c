//! I2: each rule of the chain refuses by its own name, and nothing else is refused.

use crate::support::*;
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::chain::{Admitted, Refusal, admit};
use highwater_core::identity::ToolName;
use highwater_core::manifest::{ManifestV1, Strategy::*};
use highwater_core::{BackupKind, Incarnation, Lsn, Sha256};

/// full (minute 10, LSN 100) ← inc (minute 20, LSN 200), committed.
fn chain() -> (StoredManifest, StoredManifest, Catalog) {
    let full = store(full(10, 100));
    let inc = store(child(&full, Incremental, 20, 200));
    let catalog = catalog_of(&[&full, &inc]);
    (full, inc, catalog)
}

fn name(catalog: &Catalog, new: &StoredManifest) -> &'static str {
    match admit(catalog, new) {
        Ok(Admitted::New) => "New",
        Ok(Admitted::AlreadyCommitted) => "AlreadyCommitted",
        Err(refusal) => {
            assert!(!refusal.to_string().is_empty());
            refusal.name()
        }
    }
}

/// A second incremental behind the chain, after `change`.
fn check(expected: &str, change: impl Fn(&mut ManifestV1)) {
    let (_, inc, catalog) = chain();
    let mut manifest = child(&inc, Incremental, 30, 300);
    change(&mut manifest);
    assert_eq!(name(&catalog, &store(manifest)), expected);
}

#[test]
fn i2_each_broken_link_is_refused_by_its_name() {
    check("New", |_| {});
    check("OtherCluster", |m| m.cluster = "other".parse().unwrap());
    check("SelfParent", |m| m.parent.as_mut().unwrap().backup_id = m.backup_id.clone());
    check("ParentUnknown", |m| m.parent.as_mut().unwrap().backup_id = "20261122T000000Z-full-ffff".parse().unwrap());
    check("ParentDigest", |m| m.parent.as_mut().unwrap().manifest_sha256 = Sha256::of(b"another"));
    check("OtherIncarnation", |m| m.incarnation = Incarnation::new(minute(29), 1));
    check("SourceChanged", |m| m.source.host_id = "db-2".parse().unwrap());
    check("SourceChanged", |m| m.source.server_uid = "other".into());
    check("SourceChanged", |m| m.source.datadir_id = "other".into());
    check("SourceChanged", |m| m.source.vendor = highwater_core::identity::Vendor::Mysql);
    check("SourceChanged", |m| m.source.version = "10.12.0".parse().unwrap());
    check("SourceChanged", |m| m.settings.innodb_page_size = 4096);
    check("SourceChanged", |m| m.settings.lower_case_table_names = 1);
    check("ToolChanged", |m| m.tool.name = ToolName::Xtrabackup);
    check("ToolChanged", |m| m.tool.version = "10.12.0".parse().unwrap());
    check("ParentNotFull", |m| m.parent.as_mut().unwrap().strategy = Differential);
    check("Regression", |m| m.started_at = minute(24));
    check("New", |m| m.started_at = minute(25));
    check("Regression", |m| (m.to_lsn, m.last_lsn) = (Lsn::new(200), Lsn::new(209)));
}

#[test]
fn i2_what_may_change_within_a_series_does_not_break_a_chain() {
    check("New", |m| m.source.version = "10.11.20".parse().unwrap());
    check("New", |m| m.tool.version = "10.11.20".parse().unwrap());
    check("New", |m| m.settings.encrypted = true);
    check("New", |m| m.binlog = None);
}

#[test]
fn i2_a_gap_and_an_overlap_are_told_apart() {
    for (from, expected) in [(201, "Gap"), (199, "Overlap"), (200, "New")] {
        check(expected, |m| {
            m.from_lsn = Lsn::new(from);
            m.parent.as_mut().unwrap().to_lsn = Lsn::new(from);
        });
    }
    // The tool's own numbers contradict each other: no such manifest is believed at all (trap 1).
    check("Impossible", |m| m.to_lsn = Lsn::new(150));
    check("Impossible", |m| m.last_lsn = Lsn::new(299));
    check("Impossible", |m| m.parent.as_mut().unwrap().to_lsn = Lsn::new(199));
}

#[test]
fn i2_a_link_is_judged_again_whenever_it_is_followed() {
    let (full, _, _) = chain();
    let mut less = child(&full, Incremental, 20, 100);
    less.last_lsn = Lsn::new(109);
    let less = store(less);
    let tampered = Catalog::of_committed(cluster(), [full, less.clone()]);
    assert_eq!(tampered.path_to(less.id()).unwrap_err().refusal.name(), "Regression");
}

#[test]
fn i2_one_lsn_for_all_backups_does_not_let_their_order_change() {
    // Trap 3: no checkpoint between the backups, every to_lsn is 100.
    let full = store(full(10, 100));
    let one = store(child(&full, Incremental, 20, 100));
    let two = store(child(&one, Incremental, 30, 100));
    let three = store(child(&two, Incremental, 40, 100));
    let catalog = catalog_of(&[&full, &one]);
    assert_eq!(name(&catalog, &three), "ParentUnknown");
    assert_eq!(name(&catalog, &two), "New");
    let catalog = catalog_of(&[&full, &one, &two, &three]);
    let path: Vec<_> = catalog.path_to(three.id()).unwrap().iter().map(|b| b.id().clone()).collect();
    assert_eq!(path, [full.id(), one.id(), two.id(), three.id()].map(Clone::clone));
    // A child of the full starts at the right LSN too, and is a fork all the same.
    assert_eq!(name(&catalog, &store(child(&full, Incremental, 50, 100))), "Fork");
}

#[test]
fn i2_a_second_child_is_a_fork_or_a_race() {
    let (full, inc, catalog) = chain();
    let fork = store(child(&full, Incremental, 30, 300));
    assert_eq!(admit(&catalog, &fork), Err(Refusal::Fork { parent: full.id().clone(), child: inc.id().clone() }));
    let racing = store(child(&full, Incremental, 24, 300));
    assert_eq!(admit(&catalog, &racing), Err(Refusal::RacingChild { parent: full.id().clone(), child: inc.id().clone() }));
    let same_second = store(child(&full, Incremental, 25, 300));
    assert_eq!(name(&catalog, &same_second), "Fork", "it started when the other had ended");
}

#[test]
fn i2_differentials_of_one_full_stand_beside_each_other() {
    let full = store(full(10, 100));
    let one = store(child(&full, Differential, 20, 200));
    let two = store(child(&full, Differential, 30, 300));
    let catalog = catalog_of(&[&full, &one, &two]);
    assert_eq!(catalog.path_to(two.id()).unwrap().len(), 2);
    // No link is between the two, and yet the second must not have seen less: it would be another server's.
    assert_eq!(name(&catalog_of(&[&full, &two]), &store(child(&full, Differential, 40, 299))), "Regression");
    // A chain may go on behind a differential when the strategy changes, but not behind the full.
    assert_eq!(name(&catalog, &store(child(&two, Incremental, 40, 400))), "New");
    assert_eq!(name(&catalog, &store(child(&full, Incremental, 40, 400))), "Fork");
}

#[test]
fn i2_a_full_must_fit_its_incarnation_too() {
    let (_, _, catalog) = chain();
    assert_eq!(name(&catalog, &store(full(30, 200))), "New");
    let check = |expected: &str, change: &dyn Fn(&mut ManifestV1)| {
        let mut manifest = full(30, 300);
        change(&mut manifest);
        assert_eq!(name(&catalog, &store(manifest)), expected);
    };
    check("New", &|m| m.source.version = "11.4.2".parse().unwrap());
    check("SourceChanged", &|m| m.source.datadir_id = "other".into());
    check("SourceChanged", &|m| m.settings.innodb_page_size = 4096);
    check("Regression", &|m| m.to_lsn = Lsn::new(199));
    check("Regression", &|m| (m.to_lsn, m.last_lsn) = (Lsn::new(200), Lsn::new(209)));
    // It ran while the incremental ran: nothing can be said about which has seen more.
    check("New", &|m| (m.started_at, m.finished_at, m.to_lsn) = (minute(22), minute(26), Lsn::new(150)));
    check("Impossible", &|m| m.from_lsn = Lsn::new(5));
}

#[test]
fn i2_an_incremental_that_was_committed_late_is_still_compared() {
    let (full, inc, _) = chain();
    let late = store(child(&full, Differential, 12, 210));
    assert_eq!(name(&catalog_of(&[&full]), &late), "Regression", "it started before the full had ended");
    let mut late = child(&full, Differential, 15, 210);
    late.finished_at = minute(16);
    assert_eq!(name(&catalog_of(&[&full, &inc]), &store(late)), "Regression", "an earlier backup cannot have seen more");
    // The later one ended at 200, its redo at 210: neither may be passed, each for itself.
    for (to, last, expected) in [(201, 210, "Regression"), (200, 211, "Regression"), (200, 210, "New"), (150, 160, "New")] {
        let mut late = child(&full, Differential, 15, to);
        (late.finished_at, late.last_lsn) = (minute(16), Lsn::new(last));
        assert_eq!(name(&catalog_of(&[&full, &inc]), &store(late)), expected, "{to}, {last}");
    }
}

#[test]
fn i2_incarnations_do_not_overlap() {
    let (_, _, mut catalog) = chain();
    let mut next = full(30, 7);
    next.incarnation = Incarnation::new(minute(28), 1);
    next.source.datadir_id = "restored".into();
    let next = store(next);
    catalog.commit(next.clone()).unwrap();
    // The old primary comes back to life and backs up again.
    assert_eq!(name(&catalog, &store(full(50, 900))), "IncarnationOverlap");
    // A new primary whose clock is behind would never be the newest restore point.
    let mut slow = full(1, 7);
    slow.incarnation = Incarnation::new(minute(60), 1);
    slow.source.datadir_id = "third".into();
    assert_eq!(name(&catalog, &store(slow)), "IncarnationOverlap");
}

#[test]
fn i4_the_same_manifest_again_is_success_and_another_one_is_not() {
    let (full, _, mut catalog) = chain();
    let before = catalog.clone();
    assert_eq!(catalog.commit(full.clone()), Ok(Admitted::AlreadyCommitted));
    let mut other = full.manifest.clone();
    other.redo_bytes += 1;
    assert_eq!(name(&catalog, &store(other)), "Duplicate");
    let mut moved = full.clone();
    moved.key = moved.key.replace("orders", "orders-2");
    assert_eq!(name(&catalog, &moved), "Misplaced");
    assert_eq!(catalog, before);
}

#[test]
fn i1_a_rebuild_keeps_the_racing_child_that_was_continued() {
    let full = store(full(10, 100));
    let early = store(child(&full, Incremental, 20, 200));
    let mut late = child(&full, Incremental, 21, 200);
    late.finished_at = minute(27);
    let late = store(late);
    let next = store(child(&late, Incremental, 30, 300));
    // The one that finished later was committed first, as its child proves.
    let live = catalog_of(&[&full, &late, &next]);
    for order in [[&full, &early, &late, &next], [&next, &late, &early, &full], [&early, &next, &full, &late]] {
        let rebuilt = Catalog::rebuild(cluster(), found(&order));
        assert!(rebuilt.backups().eq(live.backups()));
        assert_eq!(rebuilt.rejected().iter().map(|r| r.refusal.name()).collect::<Vec<_>>(), ["RacingChild"]);
    }
    // Nothing continues either: the one that finished first.
    let rebuilt = Catalog::rebuild(cluster(), found(&[&late, &full, &early]));
    assert!(rebuilt.get(early.id()).is_some() && rebuilt.get(late.id()).is_none());
}

#[test]
fn i1_a_rebuild_names_everything_it_cannot_admit() {
    let (full, inc, _) = chain();
    let mut exchanged = full.manifest.clone();
    exchanged.redo_bytes += 1;
    let orphan = store(child(&inc, Incremental, 30, 300));
    let mut a = child(&inc, Incremental, 40, 400);
    let mut b = child(&orphan, Incremental, 50, 500);
    (a.parent.as_mut().unwrap().backup_id, b.parent.as_mut().unwrap().backup_id) = (b.backup_id.clone(), a.backup_id.clone());
    let (a, b, exchanged) = (store(a), store(b), store(exchanged));
    let mut all = found(&[&full, &orphan, &a, &b, &full]);
    all.push(Found::Unreadable { key: "v1/orders/x/20261122T000000Z-full-0000/manifest.json".into(), reason: "malformed".into() });
    let names = |catalog: &Catalog| catalog.rejected().iter().map(|r| r.refusal.name()).collect::<Vec<_>>();
    let catalog = Catalog::rebuild(cluster(), all);
    assert_eq!(names(&catalog), ["ParentUnknown", "Cycle", "Cycle", "Unreadable"]);
    assert_eq!(catalog.backups().count(), 1);
    // Of two contents under one id, one leads round in a circle and one to nothing.
    let mut other = child(&orphan, Incremental, 40, 400);
    (other.finished_at, other.backup_id) = (minute(46), a.manifest.backup_id.clone());
    let circles = Catalog::rebuild(cluster(), found(&[&full, &a, &b, &store(other)]));
    let mut named: Vec<_> =
        circles.rejected().iter().map(|r| (r.manifest.as_ref().unwrap().manifest.finished_at, r.refusal.name())).collect();
    named.sort();
    assert_eq!(named, [(minute(45), "Cycle"), (minute(46), "ParentUnknown"), (minute(55), "Cycle")]);
    // A full that was exchanged: its own child proves which one is the right one.
    let catalog = Catalog::rebuild(cluster(), found(&[&exchanged, &inc, &full]));
    assert_eq!(names(&catalog), ["Duplicate"]);
    assert_eq!(catalog.get(full.id()).unwrap().sha256, full.sha256);
    // Alone, the exchanged one leaves the child without its parent.
    assert_eq!(names(&Catalog::rebuild(cluster(), found(&[&exchanged, &inc]))), ["ParentDigest"]);
    assert_eq!(full.manifest.kind, BackupKind::Full);
}
