//! Whatever bytes come in, every reader of outside data answers: no panic, memory bounded by the input, and what it accepts
//! it writes again as something it reads as the same.
//!
//! Inputs are the samples of `tests/corpus/<target>/` (and the stored formats of `tests/fixtures/`), each as it is, cut at
//! every length, and mutated at random. As many mutations as `PROPTEST_CASES` says, 256 for each target by default; a failure
//! prints the input. What once broke a reader is kept in the corpus.

use highwater_aws::catalog::approvals::ApprovalRecord;
use highwater_aws::catalog::backups::BackupRecord;
use highwater_aws::catalog::drills::DrillRecord;
use highwater_aws::catalog::head::Head;
use highwater_aws::catalog::promotions::PromotionRecord;
use highwater_aws::table::{Item, read};
use highwater_core::approval::ApprovalV1;
use highwater_core::certificate::{self, CertificateV1, PublicKey};
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::drill::DrillReportV1;
use highwater_core::inventory::InventoryV1;
use highwater_core::lease::Lease;
use highwater_core::manifest::ManifestV1;
use highwater_core::outcome::promotion_in;
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::promotion::PromotionJournalV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{BackupId, Document, Incarnation, Lsn};
use highwater_functions::{decide_approval, finish_backup, finish_promote, plan_restore, promote, prune, request_approval, start_backup};
use highwater_host::stream::xbstream::{Chunks, Header, Tracker};
use highwater_host::tool::files::{Checkpoints, Info, parse_backup_cnf, parse_binlog_info};
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;
use std::fmt::Debug;
use std::path::Path;
use std::str::FromStr;

/// Counts what this thread holds, and the most it held.
struct Counting;

thread_local! {
    static HELD: Cell<isize> = const { Cell::new(0) };
    static MOST: Cell<isize> = const { Cell::new(0) };
}

fn count(bytes: isize) {
    let held = HELD.get() + bytes;
    HELD.set(held);
    MOST.set(MOST.get().max(held));
}

#[allow(unsafe_code, reason = "an allocator cannot be written without it; every call goes to the system's as it came")]
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        count(layout.size() as isize);
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, at: *mut u8, layout: Layout) {
        count(-(layout.size() as isize));
        unsafe { System.dealloc(at, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that a reader may hold beside a multiple of its input.
const MEMORY: isize = 1 << 20;
/// The multiple: a JSON array of one-digit numbers becomes a list of 24-byte values, and a sparse map of pairs a list of 24.
const MEMORY_PER_BYTE: isize = 64;

/// A reader: whether it accepted the bytes. It panics when it accepts what it would not write again.
type Reader = fn(&[u8]) -> bool;

fn document<D: Document + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(value) = D::parse(bytes) else { return false };
    assert_eq!(D::parse(&value.to_bytes()).expect("what was accepted is written so that it is read"), value);
    true
}

fn text<T: FromStr + ToString + PartialEq + Debug>(bytes: &[u8]) -> bool {
    let Ok(Ok(value)) = std::str::from_utf8(bytes).map(T::from_str) else { return false };
    assert_eq!(value.to_string().parse::<T>().ok().as_ref(), Some(&value));
    true
}

/// An item of the table, from JSON of any shape.
fn item<T: DeserializeOwned + Serialize + Debug>(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return false };
    let Ok(item) = serde_dynamo::to_item::<_, Item>(&json) else { return false };
    let Ok(record) = read::<T>(item) else { return false };
    let again: Item = serde_dynamo::to_item(&record).expect("what was read has a form as an item");
    assert_eq!(format!("{:?}", read::<T>(again).expect("and is read again")), format!("{record:?}"));
    true
}

/// A backup's, whose manifest is a document inside.
fn record(bytes: &[u8]) -> bool {
    let Ok(json) = serde_json::from_slice::<Value>(bytes) else { return false };
    if let Some(Ok(record)) = serde_dynamo::to_item::<_, Item>(&json).ok().map(read::<BackupRecord>) {
        let _ = record.stored();
    }
    item::<BackupRecord>(bytes)
}

fn event(parse: impl Fn(Value) -> bool) -> impl Fn(&[u8]) -> bool {
    move |bytes| serde_json::from_slice(bytes).is_ok_and(&parse)
}

fn xbstream(bytes: &[u8]) -> bool {
    let mut tracker = Tracker::new(16);
    for chunk in Chunks::new(bytes) {
        let Ok(chunk) = chunk else { return false };
        let _ = chunk.layout();
        if chunk.check_crc().is_err() || tracker.chunk(&chunk).is_err() {
            return false;
        }
    }
    // A header says the same whether all of it came at once or byte by byte.
    let whole = Header::parse(bytes);
    for cut in 0..bytes.len().min(64) {
        if let Ok(Some(header)) = Header::parse(&bytes[..cut]) {
            assert_eq!(whole.as_ref().ok().and_then(Option::as_ref), Some(&header));
        }
    }
    tracker.finish().is_ok()
}

const TARGETS: &[(&str, Reader)] = &[
    ("manifest", document::<ManifestV1>),
    ("request", document::<BackupRequestV1>),
    ("plan", document::<RestorePlanV1>),
    ("approval", document::<ApprovalV1>),
    ("inventory", document::<InventoryV1>),
    ("drill-report", document::<DrillReportV1>),
    ("certificate", document::<CertificateV1>),
    ("cluster", document::<ClusterConfigV1>),
    ("promotion-journal", document::<PromotionJournalV1>),
    ("item-backup", record),
    ("item-head", item::<Head>),
    ("item-lease", item::<Lease>),
    ("item-approval", item::<ApprovalRecord>),
    ("item-promotion", item::<PromotionRecord>),
    ("item-drill", item::<DrillRecord>),
    ("event-start-backup", |bytes| event(|e| start_backup::parse(e).is_ok())(bytes)),
    ("event-finish-backup", |bytes| event(|e| finish_backup::parse(e).is_ok())(bytes)),
    ("event-plan-restore", |bytes| event(|e| plan_restore::parse(e).is_ok())(bytes)),
    ("event-request-approval", |bytes| event(|e| request_approval::parse(e).is_ok())(bytes)),
    ("event-promote", |bytes| event(|e| promote::parse(e).is_ok())(bytes)),
    ("event-finish-promote", |bytes| event(|e| finish_promote::parse(e).is_ok())(bytes)),
    ("event-prune", |bytes| event(|e| prune::parse(e).is_ok())(bytes)),
    ("body-decide-approval", |bytes| serde_json::from_slice::<decide_approval::Body>(bytes).is_ok()),
    ("command-comment", |bytes| std::str::from_utf8(bytes).is_ok_and(|text| highwater_aws::ssm::backup_of(text).is_some())),
    ("command-output", |bytes| std::str::from_utf8(bytes).is_ok_and(|text| promotion_in(text).is_some())),
    ("target", text::<Target>),
    ("backup-id", text::<BackupId>),
    ("incarnation", text::<Incarnation>),
    ("lsn", text::<Lsn>),
    ("checkpoints", |bytes| Checkpoints::parse(bytes).is_ok()),
    ("info", |bytes| Info::parse(bytes).is_ok()),
    ("binlog-info", |bytes| parse_binlog_info(bytes).is_ok()),
    ("certificate-key", |bytes| PublicKey::parse(bytes).is_ok()),
    ("certificate-signature", |bytes| certificate::verify(CERTIFICATE, bytes, &PublicKey::parse(KEY).expect("the sample key")).is_ok()),
    ("backup-cnf", |bytes| parse_backup_cnf(bytes).is_ok()),
    ("xbstream", xbstream),
];

/// What a signature is tried on.
const CERTIFICATE: &[u8] = include_bytes!("../fixtures/v1/certificate.json");
const KEY: &[u8] = include_bytes!("../fixtures/v1/certificate-key.der");

/// Reads one input and looks at the memory.
fn run(name: &str, reader: Reader, input: &[u8]) -> bool {
    let before = HELD.get();
    MOST.set(before);
    let accepted = reader(input);
    let most = MOST.get() - before;
    let allowed = MEMORY + MEMORY_PER_BYTE * input.len() as isize;
    assert!(most <= allowed, "{name} held {most} bytes for an input of {}", input.len());
    accepted
}

/// The samples of a target: its corpus, and its stored format.
fn samples(name: &str) -> Vec<Vec<u8>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut paths: Vec<_> = std::fs::read_dir(root.join("corpus").join(name)).into_iter().flatten().flatten().map(|e| e.path()).collect();
    // `inventory.json`, and `inventory-columns.json`.
    let stored = std::fs::read_dir(root.join("fixtures/v1")).expect("the stored formats").flatten().map(|e| e.path());
    let of_this = |stem: &str| stem.strip_prefix(name).is_some_and(|rest| rest.is_empty() || rest.starts_with('-'));
    let is_json = |path: &Path| path.extension().is_some_and(|e| e == "json");
    paths.extend(stored.filter(|p| is_json(p) && p.file_stem().and_then(|s| s.to_str()).is_some_and(of_this)));
    paths.sort();
    paths.iter().filter_map(|path| std::fs::read(path).ok()).collect()
}

/// One change of an input.
#[derive(Debug, Clone)]
enum Change {
    Flip(prop::sample::Index, u8),
    Cut(prop::sample::Index),
    Remove(prop::sample::Index, u8),
    Insert(prop::sample::Index, Vec<u8>),
    Repeat(prop::sample::Index, u8),
    /// A number, a text or a word becomes a hostile one.
    Token(prop::sample::Index, prop::sample::Index),
    Splice(prop::sample::Index, prop::sample::Index),
}

const HOSTILE: &[&[u8]] = &[
    b"-1",
    b"18446744073709551615",
    b"18446744073709551616",
    b"1e999",
    b"null",
    b"[]",
    b"{}",
    b"\"\"",
    b"\"\\u0000\"",
    b"\"../../etc/passwd\"",
    b"\"99999999999999999999\"",
    b"\"20261122T020000Z-full-4f7c\"",
    b"\"9999-12-31T23:59:59.999999999Z\"",
    b"\"-009999-01-01T00:00:00Z\"",
    b"\xff\xfe",
    b"[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[[",
];

fn change() -> impl Strategy<Value = Change> {
    let at = any::<prop::sample::Index>;
    prop_oneof![
        3 => (at(), any::<u8>()).prop_map(|(i, bits)| Change::Flip(i, bits)),
        1 => at().prop_map(Change::Cut),
        2 => (at(), any::<u8>()).prop_map(|(i, len)| Change::Remove(i, len)),
        2 => (at(), vec(any::<u8>(), 1..20)).prop_map(|(i, bytes)| Change::Insert(i, bytes)),
        1 => (at(), any::<u8>()).prop_map(|(i, len)| Change::Repeat(i, len)),
        4 => (at(), at()).prop_map(|(i, token)| Change::Token(i, token)),
        1 => (at(), at()).prop_map(|(i, other)| Change::Splice(i, other)),
    ]
}

fn changed(mut input: Vec<u8>, changes: &[Change], samples: &[Vec<u8>]) -> Vec<u8> {
    for change in changes {
        let place = |i: &prop::sample::Index| i.index(input.len() + 1);
        match change {
            _ if input.is_empty() => break,
            Change::Flip(i, bits) => {
                let at = i.index(input.len());
                input[at] ^= bits;
            }
            Change::Cut(i) => input.truncate(place(i)),
            Change::Remove(i, len) => {
                let at = place(i);
                input.drain(at..(at + usize::from(*len)).min(input.len()));
            }
            Change::Insert(i, bytes) => {
                let at = place(i);
                input.splice(at..at, bytes.iter().copied());
            }
            Change::Repeat(i, len) => {
                let at = place(i);
                let piece = input[at..(at + usize::from(*len)).min(input.len())].to_vec();
                input.splice(at..at, piece);
            }
            Change::Token(i, token) => {
                let range = token_at(&input, i.index(input.len()));
                input.splice(range, HOSTILE[token.index(HOSTILE.len())].iter().copied());
            }
            Change::Splice(i, other) => {
                let other = &samples[other.index(samples.len())];
                input.truncate(place(i));
                input.extend_from_slice(&other[i.index(other.len() + 1)..]);
            }
        }
    }
    input
}

/// The text in quotes, or the word, around a place.
fn token_at(input: &[u8], at: usize) -> std::ops::Range<usize> {
    let is_end = |b: &u8| matches!(b, b',' | b':' | b'{' | b'}' | b'[' | b']' | b'\n' | b'=' | b'\t');
    let from = input[..at].iter().rposition(is_end).map_or(0, |i| i + 1);
    let to = input[at..].iter().position(is_end).map_or(input.len(), |i| at + i);
    from..to.max(from)
}

#[test]
fn whatever_comes_in_is_answered_in_bounded_memory() {
    let mut total = 0;
    for (name, reader) in TARGETS {
        let samples = samples(name);
        assert!(!samples.is_empty(), "{name} has no sample");
        let accepted = samples.iter().filter(|sample| run(name, *reader, sample)).count();
        assert!(accepted > 0, "{name}: no sample is accepted, so nothing behind the first check is ever reached");
        for sample in &samples {
            (0..sample.len().min(2000)).for_each(|cut| {
                run(name, *reader, &sample[..cut]);
            });
        }
        let mut runner = TestRunner::new(Config { failure_persistence: None, ..Config::default() });
        let passed = Cell::new(0);
        let inputs = (any::<prop::sample::Index>(), vec(change(), 1..6));
        let outcome = runner.run(&inputs, |(which, changes)| {
            let input = changed(samples[which.index(samples.len())].clone(), &changes, &samples);
            match std::panic::catch_unwind(|| run(name, *reader, &input)) {
                Ok(accepted) => passed.set(passed.get() + usize::from(accepted)),
                Err(_) => return Err(TestCaseError::fail(format!("{name}: {}", input.escape_ascii()))),
            }
            Ok(())
        });
        outcome.unwrap_or_else(|e| panic!("{e}"));
        let cases = runner.config().cases;
        total += cases as usize + samples.iter().map(|s| s.len().min(2000)).sum::<usize>();
        println!("{name}: {} samples ({accepted} accepted), {cases} mutations ({} accepted)", samples.len(), passed.get());
    }
    println!("{} readers, {total} inputs", TARGETS.len());
}
