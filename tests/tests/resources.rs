//! Disk, memory and descriptors that run short, for real: a full tmpfs, RLIMIT_NOFILE, RLIMIT_AS. The error says of what, what it was
//! for and what to do; nothing half-done counts; and the same command succeeds once the resource is back.

use highwater_core::Failure;
use highwater_tests::{Host, Load, MariaDb, Output, PlanFile, S3, Scratch, Snapshot, processes_of, wait_for};
use std::fs;
use std::path::{Path, PathBuf};

/// So few descriptors that nothing begins; so few that the helper does, and the tool does not get through.
const NO_FILES: &[&str] = &["--nofile=40"];
const FEW_FILES: &[&str] = &["--nofile=72"];
/// So little address space that nothing begins.
const NO_MEMORY: &[&str] = &["--as=402653184"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn words(args: &[String]) -> Vec<&str> {
    args.iter().map(String::as_str).collect()
}

/// Failed for want of something, named, with what to do.
#[track_caller]
fn short_of(output: &Output, of: &str, hint: &str) {
    let error = output.failed(Failure::Resources).error();
    assert!(error.contains(of), "{of}: {output}");
    let advice = output.events().find_map(|e| e["hint"].as_str().map(str::to_owned)).unwrap_or_default();
    assert!(advice.contains(hint), "{hint}: {output}");
}

/// Puts a `mariadb-backup` before the real one that fills `disk` before it prepares, as long as the returned file exists.
fn tool_that_fills(host: &mut Host, scratch: &Scratch, disk: &Path) -> PathBuf {
    let flag = scratch.join("fill");
    fs::create_dir_all(scratch.join("bin")).unwrap();
    let body = format!(
        "case \"$*\" in *--prepare*) [ -e {} ] && dd if=/dev/zero of={}/filler bs=64k 2>/dev/null;; esac\nexec /usr/bin/mariadb-backup \"$@\"",
        flag.display(),
        disk.display()
    );
    scratch.script("bin/mariadb-backup", &body);
    let bin = format!("{:?}", text(&scratch.join("bin")));
    host.set("server", "bin_dir", bin);
    fs::write(&flag, "").unwrap();
    flag
}

fn room_again(flag: &Path, disk: &Path) {
    let _ = fs::remove_file(flag);
    fs::remove_file(disk.join("filler")).unwrap();
}

#[test]
fn a_backup_that_runs_short_leaves_nothing_and_succeeds_once_it_has_what_it_needs() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    db.run("CREATE DATABASE many");
    (0..120).for_each(|n| db.run(&format!("CREATE TABLE many.t{n} (id INT PRIMARY KEY) ENGINE=InnoDB")));
    let request = host.request(None);
    let path = host.write_request(&request);
    let args = ["backup", "--request", text(&path)];
    let left_nothing = |host: &Host| {
        assert_eq!(host.keys_of(&request), [""; 0]);
        assert_eq!(s3.unfinished_uploads(), [""; 0]);
        wait_for("the tool's end", || processes_of(host.scratch().path()).is_empty().then_some(()));
    };

    short_of(&host.run_within(NO_FILES, &args), "files may be open", "LimitNOFILE");
    left_nothing(&host);
    // The helper gets by; the tool opens every table.
    short_of(&host.run_within(FEW_FILES, &args), "Too many open files", "LimitNOFILE");
    left_nothing(&host);
    short_of(&host.run_within(NO_MEMORY, &args), "address space", "ulimit -v");
    left_nothing(&host);
    // Where the helper keeps its locks there is no room for a file.
    let disk = host.scratch().small_disk("size=1M,nr_inodes=1");
    let state = format!("{:?}", text(&disk.join("state")));
    host.set("", "state_dir", state);
    short_of(&host.run(&args), text(&disk), "df -i");
    left_nothing(&host);
    host.scratch().small_disk("size=1M,nr_inodes=100");
    host.run(&args).success();
}

/// A full and an incremental of a quiet server.
struct Chain {
    host: Host,
    plan: PlanFile,
    last: Snapshot,
    _db: MariaDb,
    _s3: S3,
}

impl Chain {
    fn new() -> Self {
        let (db, s3) = (MariaDb::start(), S3::start());
        Load::fill(&db, 2000);
        let mut host = Host::new(&db, &s3);
        host.set("restore", "keep_free_mib", "0");
        let full = host.full();
        db.run("UPDATE shop.orders SET cents = cents + 1");
        let last = host.incremental(&full);
        let plan = host.plan_of(&[&full, &last]);
        Self { host, plan, last: Snapshot::of(&db), _db: db, _s3: s3 }
    }
}

#[test]
fn a_restore_that_runs_short_can_be_run_again_and_ends_at_the_restore_point() {
    let mut chain = Chain::new();
    let scratch = Scratch::new("resources");
    let disk = scratch.small_disk("size=400M");
    let into = disk.join("into");
    let args = ["restore", "--plan", text(&chain.plan.path), "--into", text(&into)].map(str::to_owned);
    let args = words(&args);
    short_of(&chain.host.run_within(NO_FILES, &args), "files may be open", "LimitNOFILE");
    short_of(&chain.host.run_within(NO_MEMORY, &args), "address space", "ulimit -v");
    // More than the tool can have: it says so itself, twice.
    chain.host.set("restore", "prepare_memory_mib", "3000");
    chain.host.allow("the tool failed: starting again from the full");
    short_of(&chain.host.run_within(&["--as=2147483648"], &args), "Cannot map", "restore.prepare_memory_mib");
    chain.host.set("restore", "prepare_memory_mib", "0");
    assert!(!into.join("data/ibdata1").exists(), "what the tool left half-done is gone");
    chain.host.run(&args).success();
    chain.last.assert_same(&Snapshot::of(&MariaDb::open(&into.join("data"))), "with room for it");
}

#[test]
fn a_drill_on_a_machine_that_runs_short_blames_the_machine_not_the_backup() {
    let chain = Chain::new();
    let scratch = Scratch::new("resources");
    let disk = scratch.small_disk("size=400M");
    let (work, report) = (disk.join("work"), chain.host.path("report.json"));
    let args = ["drill", "--plan", text(&chain.plan.path), "--work", text(&work), "--report", text(&report)];
    short_of(&chain.host.run_within(NO_FILES, &args), "files may be open", "LimitNOFILE");
    short_of(&chain.host.run_within(NO_MEMORY, &args), "address space", "ulimit -v");
    // Restored, and then the disk is full: the server cannot make its temporary tablespace.
    chain.host.start_with(&args, &[("HIGHWATER_CRASH_AT", "drill:restored")]).finish().killed();
    let mut zeros = scratch.command("dd");
    let filler = format!("of={}/filler", disk.display());
    assert!(!zeros.args(["if=/dev/zero", &filler, "bs=64k"]).output().unwrap().status.success(), "dd ends when the disk is full");
    let output = chain.host.run(&args);
    short_of(&output, "28", "df -h");
    let said = fs::read_to_string(&report).unwrap();
    assert!(said.contains("\"outcome\": \"failed\"") && said.contains("28"), "{said}");
    assert_eq!(processes_of(&work), []);
    room_again(Path::new("/nonexistent"), &disk);
    chain.host.run(&args).success();
    assert!(!work.exists());
}

#[test]
fn a_promotion_that_runs_short_leaves_the_primary_serving_its_old_data() {
    let (scratch, s3) = (Scratch::new("resources"), S3::start_on_disk());
    // The primary's data, what is staged beside it and the journal all lie on the disk that fills up.
    let disk = scratch.small_disk("size=450M");
    tempfile::env::override_temp_dir(&disk).unwrap();
    let db = MariaDb::start();
    let mut host = Host::new(&db, &s3);
    host.promotable(&db).set("restore", "keep_free_mib", "0");
    Load::fill(&db, 200);
    let full = host.full();
    let new = Snapshot::of(&db);
    db.run("DELETE FROM shop.orders WHERE id % 3 = 0");
    let plan = host.plan_of(&[&full]);
    host.drill(&plan).success();
    host.as_root(&db);
    let (old, pid) = (Snapshot::of(&db), db.pid());
    let args = host.promote_args(&plan);
    let untouched = |what: &str| {
        assert_eq!(db.pid(), pid, "{what}: the primary was restarted");
        Snapshot::of(&db).assert_same(&old, what);
        assert_eq!(db.value::<u8>("SELECT @@read_only"), 0, "{what}");
        let beside: Vec<_> = fs::read_dir(db.datadir().parent().unwrap()).unwrap().flatten().map(|e| e.file_name()).collect();
        assert!(!beside.iter().any(|name| name.to_string_lossy().contains(".old-")), "{what}: {beside:?}");
    };

    short_of(&host.run_within(NO_FILES, &words(&args)), "files may be open", "LimitNOFILE");
    untouched("without descriptors");
    short_of(&host.run_within(NO_MEMORY, &words(&args)), "address space", "ulimit -v");
    untouched("without memory");
    let flag = tool_that_fills(&mut host, &scratch, &disk);
    host.allow("the tool failed: starting again from the full");
    let output = host.run(&words(&args));
    assert!(disk.join("filler").exists(), "the disk was full: {output}");
    short_of(&output, "28", "df -h");
    untouched("on a full disk");
    room_again(&flag, &disk);
    // It may write as before, and the same order is obeyed now.
    db.run("INSERT INTO shop.events (what) VALUES ('room again')");
    host.run(&words(&args)).success();
    Snapshot::of(&db).assert_same(&new, "the promoted data");
}
