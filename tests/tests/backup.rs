//! `highwater-host backup` on a real server: what is taken, what is refused, and what a failure leaves (nothing).

use highwater_core::inventory::InventoryV1;
use highwater_core::{Document, Failure, Lsn};
use highwater_tests::{Host, Load, MariaDb, S3, block_on};

#[test]
fn a_full_and_an_incremental_under_load_are_sealed_with_their_inventory() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    db.run("CREATE DATABASE still; CREATE TABLE still.t (id INT PRIMARY KEY, v TEXT, w INT AS (id + 1) VIRTUAL) ENGINE=InnoDB; INSERT INTO still.t (id, v) VALUES (1, 'a'), (2, NULL)");
    host.set("backup", "row_hash_tables", "[\"still.t\"]");
    let load = Load::start(&db);
    let full = host.full();
    let incremental = host.incremental(&full);
    assert_eq!(load.stop().failures, 0);

    assert_eq!((full.manifest.from_lsn, incremental.manifest.from_lsn), (Lsn::ZERO, full.manifest.to_lsn));
    assert!(full.manifest.redo_bytes > 0 && full.manifest.binlog.is_some());
    assert!(incremental.manifest.raw_bytes < full.manifest.raw_bytes);
    let inventory = inventory_of(&s3, &full.manifest);
    let still = inventory.tables.iter().find(|t| t.schema == "still").expect("the table that nobody writes to");
    let rows = still.rows.as_ref().expect("its rows were counted");
    assert_eq!((rows.before, rows.after, still.throughout, still.engine.as_str()), (2, 2, true, "InnoDB"));
    assert!(rows.unwritten, "two seconds had passed since its last write: {still:?}");
    let hash = still.hash.as_ref().expect("its rows were hashed");
    assert!(hash.unwritten && hash.before == hash.after && hash.before.starts_with("2:"));
    let orders = inventory.tables.iter().find(|t| t.table == "orders").expect("a table under load");
    assert!(orders.rows.as_ref().is_some_and(|rows| !rows.unwritten));
    assert!(s3.unfinished_uploads().is_empty());
}

fn inventory_of(s3: &S3, manifest: &highwater_core::manifest::ManifestV1) -> InventoryV1 {
    let bucket = s3.bucket();
    block_on(highwater_host::stream::load_inventory(&bucket, &manifest.inventory)).unwrap_or_else(|e| panic!("{}", e.chain()))
}

#[test]
fn a_repeated_request_is_done_once_and_another_request_may_not_take_its_id() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let mut request = host.request(None);
    let first = host.take(&request);
    let keys = host.keys_of(&request);
    let path = first.request.to_str().unwrap();
    // Also when the server is gone: the answer lies in the bucket.
    db.down();
    let again = host.run(&["backup", "--request", path]);
    assert_eq!(again.success().json()["already_done"], true);
    assert_eq!(again.json()["manifest_sha256"], first.object.sha256.to_string());
    assert_eq!(host.keys_of(&request), keys);
    request.created_at = request.created_at - jiff::SignedDuration::from_secs(1);
    let other = host.run(&["backup", "--request", host.write_request(&request).to_str().unwrap()]);
    assert!(other.failed(Failure::Document).error().contains("was made for another request"), "{other}");
    assert!(InventoryV1::FORMAT.ends_with("v1"));
}
