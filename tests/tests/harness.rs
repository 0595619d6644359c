//! The harness itself: what the other tests rest on.

use highwater_aws::s3::StoreErrorKind;
use highwater_core::identity::BinlogPosition;
use highwater_tests::{Load, MariaDb, Oracle, S3, Snapshot, block_on, processes_of, wait_for};

#[test]
fn a_server_survives_kill_and_restart_and_leaves_nothing_behind() {
    let db = MariaDb::start();
    let dir = db.scratch().path().to_owned();
    db.run("CREATE DATABASE a; CREATE TABLE a.t (id INT PRIMARY KEY) ENGINE=InnoDB; INSERT INTO a.t VALUES (1), (2)");
    db.kill();
    assert!(!db.running());
    db.up();
    assert_eq!(db.value::<u64>("SELECT COUNT(*) FROM a.t"), 2);
    db.restart();
    assert_eq!(db.value::<String>("SELECT @@log_bin_basename"), db.datadir().join("binlog").display().to_string());
    assert!(processes_of(&dir).iter().any(|(_, c)| c.contains("mariadbd")));
    drop(db);
    assert_eq!(processes_of(&dir), []);
}

#[test]
fn the_oracle_says_what_the_load_wrote_at_every_position() {
    let db = MariaDb::start();
    let mut load = Load::start(&db);
    let mut oracle = Oracle::of(&db);
    for _ in 0..2 {
        load.wait_for_progress();
        load.pause();
        let (file, position) = db.query::<(String, u64, String, String)>("SHOW MASTER STATUS").pop().map(|r| (r.0, r.1)).unwrap();
        let (now, said) = (Snapshot::of(&db), oracle.at(&BinlogPosition { file, position, gtid: String::new() }));
        assert!(now.rows() > 3000, "{} rows", now.rows());
        said.assert_same(&now, "the oracle");
        db.run("FLUSH BINARY LOGS");
        load.resume();
    }
    let report = load.stop();
    assert_eq!((report.failures, report.last_failure.as_deref()), (0, None));
}

#[test]
#[should_panic(expected = "lacks the row")]
fn a_snapshot_sees_one_changed_value() {
    let db = MariaDb::start();
    Load::fill(&db, 100);
    let before = Snapshot::of(&db);
    db.run("UPDATE shop.orders SET payload = NULL WHERE id = 7");
    before.assert_same(&Snapshot::of(&db), "one value");
}

#[test]
fn the_local_s3_checks_as_s3_does() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    block_on(async {
        bucket.put_new("a", "one".into(), "text/plain").await.unwrap();
        assert_eq!(bucket.put_new("a", "two".into(), "text/plain").await.unwrap_err().kind, StoreErrorKind::AlreadyExists);
        let upload = bucket.begin_upload("b").await.unwrap();
        // The check values of CRC-64/NVME: of nine digits, and of none.
        let crc = 0xae8b_1486_0a79_9888;
        assert_eq!(upload.part(1, "987654321".into(), crc).await.unwrap_err().kind, StoreErrorKind::Mismatch);
        let part = upload.part(1, "123456789".into(), crc).await.unwrap();
        assert_eq!(upload.complete(vec![part.clone()], 9, crc ^ 1).await.unwrap_err().kind, StoreErrorKind::Mismatch);
        upload.complete(vec![part.clone()], 9, crc).await.unwrap();
        upload.complete(vec![part], 9, crc).await.unwrap();
        let head = bucket.head("b", None).await.unwrap();
        assert_eq!((head.size, head.crc64nvme), (9, Some(highwater_aws::s3::crc64nvme_text(crc))));
        assert!(head.version_id.is_some());
        bucket.begin_upload("c").await.unwrap();
    });
    assert_eq!(s3.unfinished_uploads(), ["c"]);
    assert_eq!(s3.keys(""), ["a", "b"]);
    s3.overwrite("a", b"another");
    assert_eq!(s3.get("a"), b"another");
    s3.delete("a");
    assert_eq!(s3.keys(""), ["b"]);
}

#[test]
fn the_store_on_disk_can_be_damaged_where_it_lies() {
    let s3 = S3::start_on_disk();
    s3.put("v1/a", b"good");
    s3.damage("v1/a", |bytes| bytes[0] ^= 1);
    assert_eq!(s3.get("v1/a"), b"food");
    let dir = s3.path().to_owned();
    s3.down();
    s3.up();
    assert_eq!(s3.keys("v1/"), ["v1/a"]);
    drop(s3);
    wait_for("the end of the store", || processes_of(&dir).is_empty().then_some(()));
}
