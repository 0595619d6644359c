//! The streaming pipeline against real S3 servers, a real backup and the real `mbstream`.

use highwater_aws::s3::{Bucket, Expected, Head, Proof};
use highwater_core::identity::ToolName;
use highwater_core::inventory::{InventoryV1, StreamFile};
use highwater_core::manifest::{DataObject, InventoryRef, ObjectRef, ToolInfo};
use highwater_core::plan::PlanStep;
use highwater_core::{BackupId, BackupKind, Document, Failure, Lsn, Sha256};
use highwater_host::error::{Error, Result};
use highwater_host::progress::Progress;
use highwater_host::signal::Cancel;
use highwater_host::stream::xbstream::Writer;
use highwater_host::stream::{
    FetchOptions, Limits, StagedStream, UploadOptions, fetch, load_inventory, store_inventory, upload_within, verify,
};
use highwater_tests::{Call, Fault, Load, MariaDb, Proxy, Rule, S3, Scratch, block_on, run, wait_for};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

const PREFIX: &str = "v1/orders/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c/";

/// Frames of 100 kB, parts of 64 kB then 128 kB, at most 8 to an object.
const SMALL: Limits =
    Limits { frame_bytes: 100_000, part_bytes: 64 << 10, first_parts: 4, later_part_bytes: 128 << 10, parts_per_object: 8, ..Limits::S3 };
const OBJECT_BYTES: u64 = (4 * 64 + 4 * 128) << 10;

/// For the store on disk, which refuses parts below S3's 5 MiB: an object is one or two of them.
const DISK: Limits =
    Limits { frame_bytes: 100_000, part_bytes: 5 << 20, first_parts: 8, later_part_bytes: 5 << 20, parts_per_object: 1, ..Limits::S3 };

fn options() -> UploadOptions {
    UploadOptions {
        prefix: PREFIX.into(),
        attempt: 7,
        compression_level: 1,
        threads: 2,
        uploads: 3,
        buffer_bytes: 1 << 20,
        max_bytes_per_second: 0,
    }
}

fn begin() -> Progress {
    Progress::begin("test", None)
}

async fn stage(bucket: &Bucket, limits: Limits, source: impl Read + Send + 'static) -> Result<StagedStream> {
    let (_keep, cancel) = Cancel::manual();
    upload_within(limits, source, bucket, options(), begin(), &cancel).await
}

/// Uploads, publishes and stores the inventory: what a restore plan lists.
async fn store(bucket: &Bucket, limits: Limits, source: impl Read + Send + 'static) -> Result<PlanStep> {
    let staged = stage(bucket, limits, source).await?;
    let (files, raw_bytes) = (staged.files.clone(), staged.stream_bytes);
    let objects = staged.publish().await?;
    Ok(step(raw_bytes, objects, store_inventory(bucket, PREFIX, 7, &inventory(files)).await?))
}

fn inventory(files: Vec<StreamFile>) -> InventoryV1 {
    InventoryV1 { format: InventoryV1::FORMAT.into(), backup_id: backup_id(), files, schemas: vec![], tables: vec![] }
}

fn backup_id() -> BackupId {
    "20261122T020000Z-full-4f7c".parse().unwrap()
}

fn step(raw_bytes: u64, objects: Vec<DataObject>, inventory: InventoryRef) -> PlanStep {
    PlanStep {
        backup_id: backup_id(),
        kind: BackupKind::Full,
        from_lsn: Lsn::ZERO,
        to_lsn: Lsn::ZERO,
        tool: ToolInfo { name: ToolName::MariadbBackup, version: "10.11.19".parse().unwrap() },
        redo_bytes: 0,
        raw_bytes,
        manifest: ObjectRef { key: String::new(), version_id: None, size: 0, sha256: Sha256::of(b"") },
        objects,
        inventory,
    }
}

async fn fetch_to(bucket: &Bucket, step: &PlanStep, into: &Path) -> Result<u64> {
    let (_keep, cancel) = Cancel::manual();
    std::fs::create_dir(into).unwrap();
    fetch(bucket, step, into, FetchOptions { downloads: 3, threads: 2 }, begin(), &cancel).await
}

async fn verified(bucket: &Bucket, step: &PlanStep) -> Result<u64> {
    let (_keep, cancel) = Cancel::manual();
    verify(bucket, step, FetchOptions { downloads: 3, threads: 2 }, begin(), &cancel).await
}

/// `n` bytes that do not compress.
fn noise(seed: u64, n: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut bytes = Vec::with_capacity(n + 8);
    while bytes.len() < n {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        bytes.extend_from_slice(&state.to_le_bytes());
    }
    bytes.truncate(n);
    bytes
}

/// A stream of `chunks` incompressible chunks of 10 kB in two files that alternate, and the info file last.
fn sample(chunks: u64) -> Vec<u8> {
    let mut w = Writer::new(Vec::new());
    for i in 0..chunks {
        let file = if i % 2 == 0 { "db/even.ibd" } else { "db/odd.ibd" };
        w.payload(file, i / 2 * 10_000, &noise(i + 1, 10_000)).unwrap();
    }
    w.end("db/even.ibd").unwrap();
    w.end("db/odd.ibd").unwrap();
    w.payload("xtrabackup_info", 0, b"uuid = 1\n").unwrap();
    w.end("xtrabackup_info").unwrap();
    w.into_inner()
}

fn cursor(bytes: &[u8]) -> std::io::Cursor<Vec<u8>> {
    std::io::Cursor::new(bytes.to_vec())
}

/// Panics unless two directories hold the same.
fn assert_same_tree(left: &Path, right: &Path) {
    run(Command::new("diff").arg("-r").arg(left).arg(right));
}

/// What `mbstream -x` makes of a stream.
fn mbstream(stream: &Path, into: &Path) {
    std::fs::create_dir(into).unwrap();
    run(Command::new("mbstream").arg("-x").arg("-C").arg(into).stdin(std::fs::File::open(stream).unwrap()));
}

fn assert_nothing_left(s3: &S3) {
    assert_eq!(s3.unfinished_uploads(), Vec::<String>::new(), "unfinished uploads");
    assert_eq!(s3.keys(PREFIX), Vec::<String>::new(), "objects");
}

#[test]
fn a_real_backup_under_load_comes_back_as_mbstream_extracts_it_with_and_without_our_tool() {
    let (db, s3, scratch) = (MariaDb::start(), S3::start(), Scratch::new("stream"));
    let load = Load::start(&db);
    let stream = scratch.join("full.xb");
    run(Command::new("mariadb-backup")
        .args(["--no-defaults", "--backup", "--stream=xbstream", "--parallel=2", "--user=root"])
        .arg(format!("--socket={}", db.socket().display()))
        .stdout(std::fs::File::create(&stream).unwrap())
        .stderr(Stdio::null()));
    load.stop();
    mbstream(&stream, &scratch.join("reference"));

    let bucket = s3.bucket();
    let limits = Limits { frame_bytes: 1 << 20, frames_per_object: 5, ..Limits::S3 };
    let step = block_on(store(&bucket, limits, std::fs::File::open(&stream).unwrap())).unwrap();
    assert!(step.objects.len() > 1, "{} objects", step.objects.len());
    assert!(step.objects.iter().all(|o| o.version_id.is_some()));
    let raw_bytes = std::fs::metadata(&stream).unwrap().len();
    assert_eq!(block_on(verified(&bucket, &step)).unwrap(), raw_bytes);
    block_on(fetch_to(&bucket, &step, &scratch.join("fetched"))).unwrap();
    assert_same_tree(&scratch.join("fetched"), &scratch.join("reference"));

    // By hand: the objects one after the other, zstd, mbstream.
    let stored: Vec<u8> = step.objects.iter().flat_map(|o| s3.get(&o.key)).collect();
    std::fs::write(scratch.join("objects.zst"), stored).unwrap();
    run(Command::new("zstd").args(["-qd", "objects.zst", "-o", "by-hand.xb"]).current_dir(scratch.path()));
    run(Command::new("cmp").args(["by-hand.xb", "full.xb"]).current_dir(scratch.path()));
}

#[test]
fn operations_that_do_not_commute_are_done_in_their_order_as_mbstream_does_them() {
    let (s3, scratch) = (S3::start_on_disk(), Scratch::new("ordered"));
    let mut w = Writer::new(Vec::new());
    for (i, table) in ["a", "b", "c", "d"].iter().enumerate() {
        let path = format!("db/{table}.MYD");
        for chunk in 0..12 {
            w.payload(&path, chunk * 20_000, &noise(i as u64 * 100 + chunk, 20_000)).unwrap();
        }
        w.end(&path).unwrap();
    }
    // What mariadb-backup streams for tables that DDL changed meanwhile: a second version, longer or shorter, a removal, a renaming.
    for chunk in 0..20 {
        w.rewrite("db/a.MYD", chunk * 20_000, &noise(900 + chunk, 20_000)).unwrap();
    }
    w.end("db/a.MYD").unwrap();
    w.rewrite("db/b.MYD", 0, b"short").unwrap();
    w.end("db/b.MYD").unwrap();
    w.remove("db/c.MYD").unwrap();
    w.rename("db/d.MYD", "db/c.MYD").unwrap();
    w.payload("log", 0, &noise(1000, 50_000)).unwrap();
    w.seek("log", 10).unwrap();
    w.payload("log", 10, b"overwritten").unwrap();
    w.end("log").unwrap();
    let bytes = w.into_inner();
    std::fs::write(scratch.join("stream.xb"), &bytes).unwrap();
    mbstream(&scratch.join("stream.xb"), &scratch.join("reference"));

    let bucket = s3.bucket();
    let step = block_on(store(&bucket, Limits { frame_bytes: 30_000, ..DISK }, cursor(&bytes))).unwrap();
    for round in 0..5 {
        let into = scratch.join(format!("fetched{round}"));
        block_on(fetch_to(&bucket, &step, &into)).unwrap();
        assert_same_tree(&into, &scratch.join("reference"));
    }
}

#[test]
fn an_object_takes_exactly_its_parts_and_the_next_one_the_rest() {
    let (s3, scratch) = (S3::start(), Scratch::new("parts"));
    let bucket = s3.bucket();
    let mut seen = Vec::new();
    // Nine chunks to a frame, and nothing compresses. Eight frames and one of six chunks fit into an object; one of seven does not.
    for chunks in [1, 60, 78, 79, 150, 151] {
        let bytes = sample(chunks);
        let step = block_on(store(&bucket, SMALL, cursor(&bytes))).unwrap();
        assert_eq!(step.objects.iter().map(|o| o.raw_bytes).sum::<u64>(), bytes.len() as u64);
        assert!(step.objects.iter().all(|o| o.size <= OBJECT_BYTES));
        let into = scratch.join(format!("{chunks}"));
        block_on(fetch_to(&bucket, &step, &into)).unwrap();
        seen.push((chunks, step.objects.len()));
        for key in s3.keys(PREFIX) {
            s3.delete(&key);
        }
    }
    assert_eq!(seen, [(1, 1), (60, 1), (78, 1), (79, 2), (150, 2), (151, 3)]);
}

#[test]
fn parts_end_exactly_with_the_object_one_byte_before_and_one_after() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let size_of = |limits| {
        block_on(async {
            let step = store(&bucket, limits, cursor(&sample(60))).await.unwrap();
            assert_eq!(step.objects.len(), 1);
            verified(&bucket, &step).await.unwrap();
            step.objects[0].size
        })
    };
    let clean = || s3.keys(PREFIX).iter().for_each(|key| s3.delete(key));
    let whole = Limits { part_bytes: 1 << 20, first_parts: 8, ..SMALL };
    let size = size_of(whole) as usize;
    clean();
    // One part that the object just fills, two of which the second holds one byte, and one that lacks a byte.
    for part_bytes in [size, size - 1, size + 1, size.div_ceil(2), size.div_ceil(3)] {
        assert_eq!(size_of(Limits { part_bytes, ..whole }) as usize, size, "parts of {part_bytes}");
        clean();
    }
    assert_nothing_left(&s3);
}

#[test]
fn what_the_tool_damaged_is_refused_and_nothing_stays_in_s3() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let whole = sample(150);
    let boundary = whole.len() - (14 + "xtrabackup_info".len());
    let flip = |at: usize| {
        let mut bytes = whole.clone();
        bytes[at] ^= 0x10;
        bytes
    };
    let chunk = 14 + "db/even.ibd".len() + 20;
    let cases = [
        ("cut at a chunk boundary (mbstream: rc 0)", whole[..boundary].to_vec(), "have no end"),
        ("cut inside a chunk", whole[..1_000_000].to_vec(), "inside a chunk"),
        ("empty", Vec::new(), "it holds no file"),
        ("magic", flip(0), "no chunk begins"),
        (
            "flags (not covered by the CRC)",
            {
                let mut b = whole.clone();
                b[9] = b'?';
                b
            },
            "unknown chunk type",
        ),
        ("path (not covered by the CRC)", flip(14 + 4), "its file is at"),
        ("offset", flip(14 + "db/even.ibd".len() + 8), "its file is at"),
        ("crc", flip(chunk - 1), "has CRC-32"),
        ("payload", flip(chunk + 5_000), "has CRC-32"),
        ("payload, late", flip(whole.len() - 5_000), "has CRC-32"),
    ];
    for (what, bytes, expected) in cases {
        let error = block_on(stage(&bucket, SMALL, std::io::Cursor::new(bytes))).unwrap_err();
        assert_eq!(error.failure, Failure::Tool, "{what}");
        assert!(error.chain().contains(expected), "{what}: {}", error.chain());
        assert_nothing_left(&s3);
    }
}

#[test]
fn what_s3_damaged_is_refused_by_object_and_frame() {
    let (s3, scratch) = (S3::start_on_disk(), Scratch::new("damage"));
    let bucket = s3.bucket();
    let step = block_on(store(&bucket, DISK, cursor(&sample(700)))).unwrap();
    let [first, second, ..] = &step.objects[..] else { panic!("{} objects", step.objects.len()) };
    let (first_bytes, second_bytes) = (s3.get(&first.key), s3.get(&second.key));
    let inventory = &step.inventory.object.key;
    type Damage = fn(&mut Vec<u8>);
    let cases: &[(&str, &str, Damage, &str)] = &[
        ("a bit of the first frame", &first.key, |b| b[1_000] ^= 1, "frame 0 of"),
        (
            "a bit of the table",
            &first.key,
            |b| {
                let at = b.len() - 500;
                b[at] ^= 1
            },
            "frame table",
        ),
        (
            "a bit of a middle frame",
            &second.key,
            |b| {
                let at = b.len() / 2;
                b[at] ^= 1
            },
            "frame 10 of",
        ),
        (
            "the table's magic",
            &second.key,
            |b| {
                let at = b.len() - 340;
                b[at] ^= 1
            },
            "",
        ),
        ("a truncated object", &second.key, |b| b.truncate(b.len() - 1), "not"),
        ("a longer object", &second.key, |b| b.extend_from_slice(b"x"), ""),
        ("an empty object", &second.key, |b| b.clear(), ""),
        ("the inventory", inventory, |b| b[40] ^= 1, "inventory"),
    ];
    for (i, (what, key, damage, expected)) in cases.iter().enumerate() {
        let before = s3.get(key);
        s3.damage(key, damage);
        let result = block_on(fetch_to(&bucket, &step, &scratch.join(format!("{i}"))));
        if *what == "a longer object" {
            // Bytes that no document describes are never read.
            result.unwrap();
        } else {
            let error = result.unwrap_err();
            assert_eq!(error.failure, Failure::Damaged, "{what}: {}", error.chain());
            assert!(error.chain().contains(expected) || expected == &"not", "{what}: {}", error.chain());
            assert_eq!(block_on(verified(&bucket, &step)).unwrap_err().failure, Failure::Damaged, "{what}");
        }
        s3.damage(key, |b| *b = before);
    }
    // The two objects exchanged, and one of them in the place of both.
    for (what, a, b) in [("exchanged", &second_bytes, &first_bytes), ("the first twice", &first_bytes, &first_bytes)] {
        s3.damage(&first.key, |bytes| bytes.clone_from(a));
        s3.damage(&second.key, |bytes| bytes.clone_from(b));
        let error = block_on(verified(&bucket, &step)).unwrap_err();
        assert_eq!(error.failure, Failure::Damaged, "{what}: {}", error.chain());
    }
    s3.damage(&first.key, |bytes| bytes.clone_from(&first_bytes));
    std::fs::remove_file(s3.path().join("store/backups").join(&second.key)).unwrap();
    assert_eq!(block_on(verified(&bucket, &step)).unwrap_err().failure, Failure::Damaged, "deleted");
}

#[test]
fn a_plan_that_names_versions_reads_them_even_when_newer_ones_hide_them() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let step = block_on(store(&bucket, SMALL, cursor(&sample(60)))).unwrap();
    let key = &step.objects[0].key;
    s3.overwrite(key, &s3.get(&step.inventory.object.key));
    block_on(verified(&bucket, &step)).unwrap();
    let mut newest = step.clone();
    newest.objects[0].version_id = None;
    assert_eq!(block_on(verified(&bucket, &newest)).unwrap_err().failure, Failure::Damaged);
}

#[test]
fn a_document_that_describes_other_frames_is_refused() {
    let s3 = S3::start_on_disk();
    let bucket = s3.bucket();
    let step = block_on(store(&bucket, DISK, cursor(&sample(60)))).unwrap();
    let with = |change: fn(&mut DataObject)| {
        let mut step = step.clone();
        change(&mut step.objects[0]);
        block_on(verified(&bucket, &step)).unwrap_err().failure
    };
    assert_eq!(with(|o| o.frames -= 1), Failure::Damaged);
    assert_eq!(with(|o| o.frames = u32::MAX), Failure::Damaged);
    assert_eq!(with(|o| o.table_offset += 44), Failure::Damaged);
    assert_eq!(with(|o| o.table_offset = 0), Failure::Damaged);
    assert_eq!(with(|o| o.size += 1), Failure::Damaged);
    assert_eq!(with(|o| o.raw_bytes += 1), Failure::Damaged);
    assert_eq!(with(|o| o.table_sha256 = Sha256::of(b"")), Failure::Damaged);
    let mut other = step.clone();
    other.inventory.files += 1;
    assert_eq!(block_on(load_inventory(&bucket, &other.inventory)).unwrap_err().failure, Failure::Damaged);
}

#[test]
fn a_taken_key_is_never_overwritten_and_the_upload_is_given_up() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let staged = block_on(stage(&bucket, SMALL, cursor(&sample(150)))).unwrap();
    assert_eq!(s3.keys(PREFIX), Vec::<String>::new(), "nothing is visible before it is published");
    let key = format!("{PREFIX}data-0007-001");
    s3.put(&key, b"somebody else's");
    let error = block_on(staged.publish()).unwrap_err();
    assert_eq!(error.failure, Failure::Document, "{}", error.chain());
    assert_eq!(s3.get(&key), b"somebody else's");
    assert_eq!(s3.unfinished_uploads(), Vec::<String>::new());
}

/// Completes an upload of one part to `s3` by way of a proxy with these rules; gives what it said, and how often each rule was met.
fn complete_meeting(s3: &S3, rules: &[Rule]) -> (Result<Vec<DataObject>>, Vec<u32>) {
    let proxy = Proxy::before(s3, rules);
    let staged = block_on(stage(&S3::bucket_at(proxy.url()), DISK, cursor(&sample(150)))).unwrap();
    (block_on(staged.publish()), proxy.met())
}

#[test]
fn an_upload_whose_completion_was_answered_badly_is_found_or_tried_again() {
    let lost = [
        vec![Fault::LoseAnswer],
        vec![Fault::DoneButAnswer(Fault::ERROR_IN_200)],
        vec![Fault::DoneButAnswer(Fault::UNAVAILABLE)],
        vec![Fault::DoneButAnswer(Fault::ACCESS_DENIED)],
        vec![Fault::Answer(Fault::ERROR_IN_200)],
        vec![Fault::Answer(Fault::UNAVAILABLE), Fault::LoseAnswer],
        vec![Fault::Answer(Fault::UNAVAILABLE), Fault::DoneButAnswer(Fault::ACCESS_DENIED)],
    ];
    for store in [S3::start, S3::start_on_disk] {
        for faults in &lost {
            let s3 = store();
            let rules: Vec<Rule> = faults.iter().map(|fault| Rule::once(Call::Complete, *fault)).collect();
            let (published, met) = complete_meeting(&s3, &rules);
            let objects = published.unwrap_or_else(|e| panic!("{faults:?}: {}", e.chain()));
            assert!(met.iter().all(|met| *met == 1), "{faults:?} were met {met:?} times");
            assert_eq!(objects.len(), 1, "{faults:?}");
            assert_eq!(s3.get(&objects[0].key).len() as u64, objects[0].size);
            assert_eq!(s3.keys(PREFIX), [objects[0].key.as_str()]);
        }
    }
}

#[test]
fn an_upload_that_cannot_be_completed_says_so_and_leaves_nothing() {
    for (fault, expected, tries) in [(Fault::ACCESS_DENIED, Failure::AccessDenied, 1), (Fault::UNAVAILABLE, Failure::Storage, 6)] {
        let s3 = S3::start();
        let (published, met) = complete_meeting(&s3, &[Rule::always(Call::Complete, Fault::Answer(fault))]);
        assert_eq!(met, [tries]);
        let error = published.unwrap_err();
        assert_eq!(error.failure, expected, "{}", error.chain());
        assert!(error.message.contains("complete upload of"), "{}", error.chain());
        assert_nothing_left(&s3);
    }
}

/// Stages a stream of objects of two parts on the disk's store, as files there until they are one object; gives the path of part 2.
fn staged_part(s3: &S3) -> (StagedStream, PathBuf) {
    let staged = block_on(stage(&s3.bucket(), Limits { parts_per_object: 2, ..DISK }, cursor(&sample(700)))).unwrap();
    let part = run(Command::new("find").arg(s3.path()).args(["-name", ".upload*part-2*"]));
    (staged, PathBuf::from(part.trim()))
}

#[test]
fn a_store_without_checksums_is_read_back_when_its_etag_is_not_that_of_the_parts() {
    let s3 = S3::start_on_disk();
    let (staged, part) = staged_part(&s3);
    let mut bytes = std::fs::read(&part).unwrap_or_else(|e| panic!("read {}: {e}", part.display()));
    bytes[500] ^= 1;
    std::fs::write(part, bytes).unwrap();
    let error = block_on(staged.publish()).unwrap_err();
    assert_eq!(error.failure, Failure::Damaged, "{}", error.chain());
    assert!(error.message.contains("frame 5"), "{}", error.chain());
}

#[test]
fn an_etag_of_the_parts_md5s_proves_an_object_of_a_store_without_checksums() {
    let s3 = S3::start_on_disk();
    let (staged, _) = staged_part(&s3);
    let objects = block_on(staged.publish()).unwrap();
    let head = block_on(s3.bucket().head(&objects[0].key, None)).unwrap();
    let expected =
        |e_tag: Option<&String>| Expected { size: objects[0].size, crc64nvme: objects[0].crc64nvme.clone(), e_tag: e_tag.cloned() };
    assert!(head.crc64nvme.is_none() && head.e_tag.as_ref().is_some_and(|e| e.ends_with("-2")), "{head:?}");
    assert_eq!(expected(head.e_tag.as_ref()).proof(&head), Proof::Same);
    // No other ETag proves that the object is wrong: only reading it back does.
    for unknown in [None, Some(&"0123456789abcdef0123456789abcdef-2".to_owned())] {
        assert_eq!(expected(unknown).proof(&head), Proof::None);
    }
    // Where there is a CRC, nothing else counts.
    let keeps = |crc: &str| Head { crc64nvme: Some(crc.into()), ..head.clone() };
    assert_eq!(expected(head.e_tag.as_ref()).proof(&keeps("AAAAAAAAAAA=")), Proof::Different);
    assert_eq!(expected(None).proof(&keeps(&objects[0].crc64nvme)), Proof::Same);
    assert_eq!(expected(None).proof(&Head { size: 1, ..head }), Proof::Different);
}

/// A tool that writes a while and then never again, nor ends.
struct Stuck(std::io::Cursor<Vec<u8>>);

impl Read for Stuck {
    fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
        match self.0.read(out)? {
            0 => loop {
                std::thread::park();
            },
            n => Ok(n),
        }
    }
}

#[test]
fn a_cancelled_upload_ends_at_once_and_leaves_nothing_though_its_tool_is_stuck() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let (canceller, cancel) = Cancel::manual();
    let whole = sample(150);
    let progress = begin();
    let enough = whole.len() as u64 - 100_000;
    let task = {
        let (bucket, progress, source) = (bucket.clone(), progress.clone(), Stuck(cursor(&whole[..whole.len() - 50])));
        std::thread::spawn(move || block_on(upload_within(SMALL, source, &bucket, options(), progress, &cancel)))
    };
    wait_for("the stream to be read", || (progress.done() > enough && !s3.unfinished_uploads().is_empty()).then_some(()));
    let asked = Instant::now();
    canceller.cancel("SIGTERM");
    let error = task.join().unwrap().unwrap_err();
    assert_eq!(error.failure, Failure::Interrupted);
    assert!(asked.elapsed() < Duration::from_secs(5), "{:?}", asked.elapsed());
    assert_nothing_left(&s3);
}

#[test]
fn a_staged_stream_can_be_given_up() {
    let s3 = S3::start();
    let staged = block_on(stage(&s3.bucket(), SMALL, cursor(&sample(150)))).unwrap();
    assert_eq!(s3.unfinished_uploads().len(), 2);
    block_on(staged.abort());
    assert_nothing_left(&s3);
}

#[test]
fn a_frozen_s3_delays_the_upload_but_holds_up_no_more_of_the_tool_than_the_buffer_allows() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let whole = sample(3_000);
    s3.freeze();
    let progress = begin();
    let task = {
        let (bucket, progress, source) = (bucket.clone(), progress.clone(), cursor(&whole));
        let (_keep, cancel) = Cancel::manual();
        // Two frames of 100 kB a part: the buffer holds ten parts, and the pipe before it some frames.
        std::thread::spawn(move || block_on(upload_within(SMALL, source, &bucket, options(), progress, &cancel)))
    };
    wait_for("the first frames", || (progress.done() > 1_000_000).then_some(()));
    // It stands still when many looks in a row see the same; an upload that took no notice would go on to the end.
    let (mut last, mut same) = (0, 0);
    let taken = wait_for("the tool to be held up", || {
        let now = progress.done();
        same = if now == last { same + 1 } else { 0 };
        last = now;
        (same == 50).then_some(now)
    });
    assert!(taken < 6_000_000, "{taken} bytes were taken from the tool though S3 took none");
    s3.thaw();
    let staged = task.join().unwrap().unwrap();
    assert_eq!(staged.stream_bytes, whole.len() as u64);
    block_on(staged.abort());
}

#[test]
fn an_s3_that_dies_midway_is_a_storage_error_that_may_be_retried() {
    let s3 = S3::start();
    let bucket = s3.bucket();
    let progress = begin();
    let task = {
        let (bucket, progress) = (bucket.clone(), progress.clone());
        let (_keep, cancel) = Cancel::manual();
        let slow = UploadOptions { max_bytes_per_second: 20_000_000, ..options() };
        std::thread::spawn(move || block_on(upload_within(SMALL, cursor(&sample(4_000)), &bucket, slow, progress, &cancel)))
    };
    wait_for("an upload", || (progress.done() > 5_000_000).then_some(()));
    s3.down();
    let error: Error = task.join().unwrap().unwrap_err();
    assert_eq!(error.failure, Failure::Storage, "{}", error.chain());
    assert!(error.message.contains("data-0007-"), "{}", error.chain());
}

#[test]
fn an_s3_that_dies_while_it_is_read_is_a_storage_error_too() {
    let (s3, scratch) = (S3::start_on_disk(), Scratch::new("dies"));
    let bucket = s3.bucket();
    let step = block_on(store(&bucket, DISK, cursor(&sample(150)))).unwrap();
    s3.down();
    let error = block_on(fetch_to(&bucket, &step, &scratch.join("into"))).unwrap_err();
    assert_eq!(error.failure, Failure::Storage, "{}", error.chain());
    s3.up();
    block_on(fetch_to(&bucket, &step, &scratch.join("again"))).unwrap();
}

#[test]
fn a_disk_that_is_full_is_named_with_the_file_that_did_not_fit() {
    let (s3, scratch) = (S3::start_on_disk(), Scratch::new("full"));
    let bucket = s3.bucket();
    let step = block_on(store(&bucket, DISK, cursor(&sample(600)))).unwrap();
    let small = scratch.small_disk("size=1M");
    let error = block_on(fetch_to(&bucket, &step, &small.join("into"))).unwrap_err();
    assert_eq!(error.failure, Failure::Resources, "{}", error.chain());
    assert!(error.message.contains("/small/into/db/") && error.chain().contains("No space left"), "{}", error.chain());
    scratch.small_disk("size=100M");
    block_on(fetch_to(&bucket, &step, &small.join("again"))).unwrap();
}

#[test]
fn a_verification_finds_what_an_extraction_would_of_files_and_sizes() {
    let s3 = S3::start_on_disk();
    let bucket = s3.bucket();
    let staged = block_on(stage(&bucket, DISK, cursor(&sample(60)))).unwrap();
    let (files, raw_bytes) = (staged.files.clone(), staged.stream_bytes);
    let objects = block_on(staged.publish()).unwrap();
    let with = |attempt, files| {
        let inventory = block_on(store_inventory(&bucket, PREFIX, attempt, &inventory(files))).unwrap();
        block_on(verified(&bucket, &step(raw_bytes, objects.clone(), inventory)))
    };
    with(1, files.clone()).unwrap();
    let refused = |attempt, files| {
        let error = with(attempt, files).unwrap_err();
        assert_eq!(error.failure, Failure::Damaged);
        error.message
    };
    let mut longer = files.clone();
    longer[0].bytes += 1;
    assert_eq!(refused(2, longer), "db/even.ibd has 300000 bytes, the inventory says 300001");
    assert!(refused(3, files[1..].to_vec()).contains("not in the inventory"));
    let more = [&files[..], &[StreamFile { path: "db/more.ibd".into(), bytes: 0 }]].concat();
    assert!(refused(4, more).contains("the inventory lists db/more.ibd"));
}

#[test]
fn a_cancelled_fetch_ends() {
    let (s3, scratch) = (S3::start_on_disk(), Scratch::new("cancel"));
    let bucket = s3.bucket();
    let step = block_on(store(&bucket, DISK, cursor(&sample(150)))).unwrap();
    let (canceller, cancel) = Cancel::manual();
    canceller.cancel("SIGINT");
    let into = scratch.join("into");
    std::fs::create_dir(&into).unwrap();
    let options = FetchOptions { downloads: 3, threads: 2 };
    let error = block_on(fetch(&bucket, &step, &into, options, begin(), &cancel)).unwrap_err();
    assert_eq!(error.failure, Failure::Interrupted);
}
