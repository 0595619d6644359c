//! Every broken invariant is found, by its name.

use crate::support::*;
use highwater_core::audit::{Audit, Heads, ObjectFacts, ObjectId, audit, objects_of};
use highwater_core::catalog::{Catalog, Found};
use highwater_core::manifest::Strategy::*;

fn chain() -> Vec<Found> {
    let full = store(full(10, 100));
    let one = store(child(&full, Incremental, 20, 200));
    let two = store(child(&one, Incremental, 30, 300));
    found(&[&full, &one, &two])
}

fn healthy(found: &[Found]) -> Heads {
    let catalog = Catalog::rebuild(cluster(), found.to_vec());
    let mut heads: Heads = objects_of(&catalog).into_iter().map(|id| (id, None)).collect();
    for (id, facts) in &mut heads {
        let (size, crc64nvme) = if id.key.ends_with("data-000") {
            (500, Some("AAAAAAAAAAA=".to_owned()))
        } else if id.key.ends_with("inventory.json.zst") {
            (7, None)
        } else {
            (catalog.backups().find(|b| b.key == id.key).unwrap().size, None)
        };
        *facts = Some(ObjectFacts { size, crc64nvme, version_id: id.version_id.clone() });
    }
    heads
}

fn names(audit: &Audit) -> Vec<&'static str> {
    audit.findings.iter().map(|f| f.problem.name()).collect()
}

#[test]
fn a_sound_cluster_has_no_finding() {
    let found = chain();
    let audit = audit(cluster(), found.clone(), Some(&healthy(&found)));
    assert_eq!((names(&audit), audit.objects, audit.without_checksum), (vec![], 9, 0));
    assert!(!audit.is_broken());
}

#[test]
fn damage_to_an_object_is_named_with_every_restore_point_it_costs() {
    let found = chain();
    let check = |key: &str, expected: &str, lost: usize, damage: fn(&mut Heads, &ObjectId)| {
        let mut heads = healthy(&found);
        let id = heads.keys().filter(|id| id.key.ends_with(key)).nth(1).unwrap().clone();
        damage(&mut heads, &id);
        let audit = audit(cluster(), found.clone(), Some(&heads));
        assert_eq!(names(&audit), [expected], "{key}");
        assert_eq!(audit.lost().len(), lost, "{key}");
        assert!(audit.is_broken());
        let said = audit.findings[0].to_string();
        assert!(said.contains(&id.key), "{said}");
        let costs = audit.findings[0].lost.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ");
        assert!(said.ends_with(&format!("; lost restore points: {costs}")), "{said}");
    };
    for key in ["data-000", "inventory.json.zst", "manifest.json"] {
        // The second object of each kind is the first incremental's: it and what follows it are lost.
        check(key, "ObjectMissing", 2, |heads, id| {
            heads.insert(id.clone(), None);
        });
        check(key, "ObjectSize", 2, |heads, id| heads.get_mut(id).unwrap().as_mut().unwrap().size += 1);
        check(key, "ObjectSize", 2, |heads, id| heads.get_mut(id).unwrap().as_mut().unwrap().size -= 1);
        check(key, "ObjectUnchecked", 2, |heads, id| {
            heads.remove(id);
        });
    }
    check("data-000", "ObjectChecksum", 2, |heads, id| heads.get_mut(id).unwrap().as_mut().unwrap().crc64nvme = Some("B".into()));
    check("data-000", "ObjectVersion", 2, |heads, id| heads.get_mut(id).unwrap().as_mut().unwrap().version_id = Some("v2".into()));
}

#[test]
fn i5_a_cluster_without_a_restore_point_is_not_sound() {
    let audit = audit(cluster(), [], Some(&Heads::new()));
    assert_eq!(names(&audit), ["NoRestorePoint"]);
    assert!(audit.is_broken());
}

#[test]
fn a_store_without_checksums_is_counted_not_called_good() {
    let found = chain();
    let mut heads = healthy(&found);
    heads.values_mut().flatten().for_each(|facts| facts.crc64nvme = None);
    let audit = audit(cluster(), found, Some(&heads));
    assert_eq!((audit.findings.len(), audit.without_checksum), (0, 3));
}

#[test]
fn what_no_catalog_admits_is_a_finding() {
    let mut found = chain();
    let middle = found.remove(1);
    let audited = audit(cluster(), found.clone(), None);
    assert_eq!(names(&audited), ["OrphanIncremental"]);
    found.push(middle.clone());
    let Found::Manifest(mut twin) = middle else { panic!("a manifest") };
    twin.manifest.redo_bytes += 1;
    found.push(Found::Manifest(Box::new(store(twin.manifest.clone()))));
    found.push(Found::Unreadable { key: "v1/orders/x/y/manifest.json".into(), reason: "malformed".into() });
    let mut elsewhere = full(60, 900);
    elsewhere.objects = twin.manifest.objects.clone();
    found.push(Found::Manifest(Box::new(store(elsewhere))));
    let mut old = full(90, 900);
    old.incarnation = highwater_core::Incarnation::new(minute(-1), 1);
    found.push(Found::Manifest(Box::new(store(old))));
    let mut audited = names(&audit(cluster(), found, None));
    audited.sort_unstable();
    assert_eq!(audited, ["Duplicate", "Impossible", "IncarnationOverlap", "Unreadable"]);
}

#[test]
fn a_link_without_binlog_positions_is_a_weakness() {
    let full = store(full(10, 100));
    let mut inc = child(&full, Incremental, 20, 200);
    inc.binlog = None;
    let audit = audit(cluster(), found(&[&full, &store(inc)]), None);
    assert_eq!(names(&audit), ["UnprovableLink"]);
    assert!(!audit.is_broken() && !audit.findings[0].to_string().contains("lost"), "{}", audit.findings[0]);
    // Either side.
    let mut silent = full.manifest.clone();
    silent.binlog = None;
    let silent = store(silent);
    let audit = highwater_core::audit::audit(cluster(), found(&[&silent, &store(child(&silent, Incremental, 20, 200))]), None);
    assert_eq!(names(&audit), ["UnprovableLink"]);
    assert!(audit.findings[0].to_string().contains(&format!("{} recorded no binlog position", silent.id())), "{}", audit.findings[0]);
}

#[test]
fn the_worst_comes_first_and_what_every_finding_costs_is_counted_once() {
    let full = store(full(10, 100));
    let one = store(child(&full, Incremental, 20, 200));
    let mut two = child(&one, Incremental, 30, 300);
    two.binlog = None;
    let two = store(two);
    let found = found(&[&full, &one, &two]);
    let mut heads = healthy(&found);
    for (id, facts) in &mut heads {
        let of = |backup: &highwater_core::catalog::StoredManifest| id.key.contains(&format!("{}/", backup.id()));
        if id.key.ends_with("data-000") && (of(&full) || of(&two)) {
            *facts = None;
        }
    }
    let audit = audit(cluster(), found, Some(&heads));
    assert_eq!(names(&audit), ["ObjectMissing", "ObjectMissing", "UnprovableLink"]);
    let lost: Vec<usize> = audit.findings.iter().map(|f| f.lost.len()).collect();
    assert_eq!((lost, audit.lost().len()), (vec![3, 1, 0], 3));
    // Manifests that are no restore points beside none that is one.
    let orphans = highwater_core::audit::audit(cluster(), crate::support::found(&[&one, &two]), None);
    assert_eq!(names(&orphans), ["NoRestorePoint", "OrphanIncremental", "OrphanIncremental"]);
}

#[test]
fn a_child_whose_clock_was_set_back_is_a_regression_not_an_orphan() {
    let full = store(full(10, 100));
    let one = store(child(&full, Incremental, 20, 200));
    // Its clock says that it ended before its parent did.
    let early = child(&one, Incremental, 11, 300);
    let early = store(early);
    for order in [[&full, &one, &early], [&early, &one, &full], [&one, &early, &full]] {
        let audit = audit(cluster(), found(&order), None);
        assert_eq!(names(&audit), ["Regression"]);
        assert_eq!(audit.catalog.newest().unwrap().id(), one.id(), "and costs nobody else");
    }
}
