//! Disk, memory and descriptors that run short, for real: a full tmpfs, RLIMIT_NOFILE, RLIMIT_AS. The error says of what, what it was
//! for and what to do; nothing half-done counts; and the same command succeeds once the resource is back.

use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::{Document, Failure};
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

/// A disk that is full, in the words of a server, a library or the kernel, and what to do.
#[track_caller]
fn disk_full(output: &Output) {
    short_of(output, "", "df -h");
    let words = ["error 28", "errno: 28", "Errcode: 28", "No space left on device"];
    assert!(words.iter().any(|word| output.error().contains(word)), "{output}");
}

/// A program before the real one of its name that first fills a disk, while it is armed.
struct Filler {
    flag: PathBuf,
    filler: PathBuf,
    /// Where the program lies.
    bin: PathBuf,
}

impl Filler {
    /// It strikes when it is called with `word` among its arguments.
    fn before(scratch: &Scratch, disk: &Path, real: &Path, word: &str) -> Self {
        let name = text(Path::new(real.file_name().unwrap()));
        let it = Self { flag: scratch.join(format!("fill-{name}")), filler: disk.join("filler"), bin: scratch.join("bin") };
        let (flag, filler, real) = (it.flag.display(), it.filler.display(), real.display());
        fs::create_dir_all(&it.bin).unwrap();
        let fill = format!("rm -f {filler}; dd if=/dev/zero of={filler} bs=64k; truncate -s -$(cat {flag})K {filler}");
        let body = format!("case \"$*\" in *{word}*) [ -e {flag} ] && {{ {fill}; }} 2>/dev/null;; esac\nexec {real} \"$@\"");
        scratch.script(&format!("bin/{name}"), &body);
        it
    }

    /// The same, where `host` looks first for its programs.
    fn for_host(host: &mut Host, scratch: &Scratch, disk: &Path, real: &str, word: &str) -> Self {
        let it = Self::before(scratch, disk, Path::new(real), word);
        host.set("server", "bin_dir", format!("{:?}", text(&it.bin)));
        it
    }

    /// Arms it: so much is left free.
    fn leave(&self, kib: u64) {
        let _ = fs::remove_file(&self.filler);
        fs::write(&self.flag, kib.to_string()).unwrap();
    }

    /// Disarms it and gives the room back; it has to have struck.
    #[track_caller]
    fn give_back(&self) {
        fs::remove_file(&self.flag).unwrap();
        fs::remove_file(&self.filler).expect("the disk was filled");
    }
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

/// So many rows are new since the full, and of every kind: pages of a table, a table of its own, undo, what the tool copies as files.
/// Applying them takes room.
fn grow(db: &MariaDb, rows: u64) {
    db.run(&format!(
        "UPDATE shop.orders SET cents = cents + 1, payload = RANDOM_BYTES(500);
         CREATE TABLE shop.later (id INT PRIMARY KEY, what TEXT NOT NULL);
         INSERT INTO shop.later SELECT seq, HEX(RANDOM_BYTES(400)) FROM shop.seq_1_to_{rows};
         UPDATE shop.later SET what = REVERSE(what);
         INSERT INTO shop.audit (line) SELECT HEX(RANDOM_BYTES(90)) FROM shop.seq_1_to_{rows}"
    ));
}

/// A full and a larger incremental of a quiet server.
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
        grow(&db, 20_000);
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

/// Bytes that the files below a directory take.
fn bytes_of(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir(dir).unwrap().map(Result::unwrap);
    entries.map(|e| if e.path().is_dir() { bytes_of(&e.path()) } else { e.metadata().unwrap().blocks() * 512 }).sum()
}

#[test]
fn a_disk_that_fills_up_while_the_tool_prepares_is_never_called_good() {
    let mut chain = Chain::new();
    let scratch = Scratch::new("resources");
    let disk = scratch.small_disk("size=600M");
    let into = disk.join("into");
    let args = ["restore", "--plan", text(&chain.plan.path), "--into", text(&into)];
    let filler = Filler::for_host(&mut chain.host, &scratch, &disk, "/usr/bin/mariadb-backup", "--incremental-dir");
    chain.host.run(&args).success();
    // What applying the incremental adds to the full, about.
    let growth_kib = (bytes_of(&into.join("data")) - chain.plan.plan.steps[0].raw_bytes) >> 10;
    assert!(growth_kib > 32 << 10, "{growth_kib} KiB");
    fs::remove_dir_all(&into).unwrap();
    // Nothing; enough for the pages, and not for the recovery that follows them; not enough for the last files.
    for room_kib in [0, growth_kib / 3, growth_kib * 2 / 3] {
        filler.leave(room_kib);
        let output = chain.host.run(&args);
        filler.give_back();
        disk_full(&output);
        let left: Vec<_> = fs::read_dir(&into).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(left.is_empty(), "with {room_kib} of {growth_kib} KiB, what the tool left half-done stays: {left:?}");
    }
    chain.host.run(&args).success();
    chain.last.assert_same(&Snapshot::of(&MariaDb::open(&into.join("data"))), "with room for it");
}

#[test]
fn a_drill_on_a_machine_that_runs_short_blames_the_machine_not_the_backup() {
    let mut chain = Chain::new();
    let scratch = Scratch::new("resources");
    let disk = scratch.small_disk("size=600M");
    let (work, report) = (disk.join("work"), chain.host.path("report.json"));
    let args = ["drill", "--plan", text(&chain.plan.path), "--work", text(&work), "--report", text(&report)];
    short_of(&chain.host.run_within(NO_FILES, &args), "files may be open", "LimitNOFILE");
    short_of(&chain.host.run_within(NO_MEMORY, &args), "address space", "ulimit -v");
    let filler = Filler::for_host(&mut chain.host, &scratch, &disk, "/usr/sbin/mariadbd", "--datadir=");
    // What the server cannot hold in memory goes to the disk; when that is full it speaks of a corrupted index.
    let wide = "SELECT DISTINCT REPEAT(HEX(payload), 100) AS wide, id FROM shop.orders";
    chain.host.add("drill.assert", &format!("name = \"wide\"\nsql = \"SELECT COUNT(*) FROM ({wide}) t\"\nexpect = \"2000\""));
    // Nothing: the server cannot make its temporary tablespace. Enough for that, and not for what a check needs.
    for room_kib in [0, 160 << 10] {
        filler.leave(room_kib);
        let output = chain.host.run(&args);
        filler.give_back();
        disk_full(&output);
        let said = DrillReportV1::parse(&fs::read(&report).unwrap()).unwrap();
        assert_eq!(said.outcome, Outcome::Failed);
        assert_eq!(said.failure.as_deref(), Some(output.error().as_str()), "the machine is to blame");
        assert_eq!(said.server_version.is_some(), room_kib > 0, "{room_kib} KiB");
        assert_eq!(processes_of(&work), []);
        fs::remove_file(&report).unwrap();
    }
    chain.host.run(&args).success();
    assert!(!work.exists());
}

#[test]
fn a_promotion_that_runs_short_leaves_the_primary_serving_its_old_data() {
    let (scratch, s3) = (Scratch::new("resources"), S3::start_on_disk());
    // The primary's data, what is staged beside it and the journal all lie on the disk that fills up.
    let disk = scratch.small_disk("size=500M");
    tempfile::env::override_temp_dir(&disk).unwrap();
    let db = MariaDb::start();
    let mut host = Host::new(&db, &s3);
    host.promotable(&db).set("restore", "keep_free_mib", "0");
    Load::fill(&db, 200);
    let full = host.full();
    grow(&db, 2000);
    let last = host.incremental(&full);
    let new = Snapshot::of(&db);
    db.run("DELETE FROM shop.orders WHERE id % 3 = 0");
    let plan = host.plan_of(&[&full, &last]);
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
    // While the copy is prepared, and when an isolated server tries it.
    for (real, word) in [("/usr/bin/mariadb-backup", "--incremental-dir"), ("/usr/sbin/mariadbd", "--datadir=")] {
        let filler = Filler::for_host(&mut host, &scratch, &disk, real, word);
        filler.leave(0);
        let output = host.run(&words(&args));
        disk_full(&output);
        untouched(real);
        filler.give_back();
    }
    // The new data is in place, and on the full disk neither it nor the old can be served: nothing is lost, and with room it is undone.
    let [start, stop, status] = db.service();
    let filler = Filler::before(&scratch, &disk, &start, "");
    host.set("promote", "service", format!("{{ stop = [{stop:?}], start = [{:?}], status = [{status:?}] }}", filler.bin.join("start")));
    host.allow("rolling back").allow("the roll-back is not on record");
    filler.leave(0);
    let output = host.run(&words(&args));
    let (said, advice) = (output.failed(Failure::Stuck).error(), output.json()["hint"].as_str().unwrap_or_default().to_owned());
    assert!(said.contains("is full") && advice.contains("df -h") && advice.contains("promote --resume"), "{output}");
    assert!(!db.running());
    filler.give_back();
    host.run(&["promote", "--resume"]).failed(Failure::RolledBack);
    Snapshot::of(&db).assert_same(&old, "after the roll-back");
    assert_eq!(db.value::<u8>("SELECT @@read_only"), 0);
    // It may write as before, and the same order is obeyed now.
    db.run("INSERT INTO shop.events (what) VALUES ('room again')");
    host.run(&words(&args)).success();
    Snapshot::of(&db).assert_same(&new, "the promoted data");
}
