//! `drill`: passes on good data, fails on every kind of bad data with the check that is there for it, and lets nobody in.

use highwater_core::Document;
use highwater_core::Failure;
use highwater_core::drill::{CheckKind, DrillReportV1, Outcome};
use highwater_host::progress::Progress;
use highwater_host::signal::Cancel;
use highwater_host::stream::{FetchOptions, fetch};
use highwater_tests::{Backup, Host, Load, MariaDb, Output, PlanFile, Running, S3, block_on, processes_of, run, wait_for};
use std::fs;
use std::os::unix::fs::{FileExt, MetadataExt};
use std::path::{Path, PathBuf};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// A quiet server with a full backup and an incremental, and rows whose count and hash are known exactly.
struct Subject {
    db: MariaDb,
    s3: S3,
    host: Host,
    full: Backup,
    last: Backup,
}

impl Subject {
    fn new(s3: S3) -> Self {
        let db = MariaDb::start();
        Load::fill(&db, 2000);
        db.run("CREATE EVENT shop.tick ON SCHEDULE EVERY 1 SECOND DO INSERT INTO shop.audit (line) VALUES ('tick')");
        let mut host = Host::new(&db, &s3);
        host.set("backup", "row_hash_tables", "[\"shop.customers\"]");
        let full = host.full();
        db.run("INSERT INTO shop.events (what) SELECT CONCAT('event ', seq) FROM shop.seq_1_to_500; UPDATE shop.customers SET note = 'x' WHERE id < 9");
        db.run("UPDATE shop.orders SET placed = UTC_TIMESTAMP(6) WHERE id = 1");
        // A write has to lie some seconds back before the source can say that a table was not written.
        let settled =
            "SELECT COUNT(*) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'shop' AND UPDATE_TIME > NOW() - INTERVAL 4 SECOND";
        wait_for("quiet tables", || (db.value::<u64>(settled) == 0).then_some(()));
        let last = host.incremental(&full);
        Self { db, s3, host, full, last }
    }

    fn plan(&self) -> PlanFile {
        self.host.plan_of(&[&self.full, &self.last])
    }

    fn start(&self, plan: &PlanFile, work: &Path, env: &[(&str, &str)]) -> Running {
        let report = self.host.report_of(plan);
        self.host.start_with(&["drill", "--plan", text(&plan.path), "--work", text(work), "--report", text(&report)], env)
    }

    /// Drills, but with the restored data changed before the server sees it.
    fn drill_with(&self, change: impl FnOnce(&Path)) -> (Output, DrillReportV1) {
        self.drill_of(self.plan(), change)
    }

    fn drill_of(&self, plan: PlanFile, change: impl FnOnce(&Path)) -> (Output, DrillReportV1) {
        let work = self.host.path("work");
        self.start(&plan, &work, &[("HIGHWATER_CRASH_AT", "drill:restored")]).finish().killed();
        change(&work.join("data"));
        let output = self.start(&plan, &work, &[]).finish();
        assert!(!work.exists(), "the work directory stays");
        assert_eq!(processes_of(&work), []);
        (output, self.host.report(&plan))
    }
}

fn failed(report: &DrillReportV1) -> Vec<(CheckKind, &str)> {
    report.checks.iter().filter(|c| c.outcome == Outcome::Failed).map(|c| (c.kind, c.subject.as_str())).collect()
}

/// Changes data as a server would.
fn with_server(data: &Path, sql: &str) {
    let server = MariaDb::open(data);
    server.run(sql);
    server.down();
}

#[test]
fn a_good_restore_point_passes_and_leaves_nothing_but_its_report() {
    let mut subject = Subject::new(S3::start());
    let host = &mut subject.host;
    host.add("drill.assert", "name = \"orders\"\nsql = \"SELECT COUNT(*) FROM shop.orders\"\nexpect = \"2000\"");
    host.add(
        "drill.assert",
        "name = \"with\"\nsql = \"WITH q AS (SELECT MAX(id) m FROM shop.orders) SELECT m FROM q;\"\ncompare = \">=\"\nexpect = \"2000.0\"",
    );
    host.add("drill.newest", "table = \"shop.orders\"\ncolumn = \"placed\"\nmax_age_s = 600");
    let plan = subject.plan();
    let output = subject.host.drill(&plan);
    output.success();
    let report = subject.host.report(&plan);
    assert_eq!((report.outcome, report.failure.as_deref()), (Outcome::Passed, None));
    assert_eq!(DrillReportV1::parse(output.stdout.as_bytes()).unwrap(), report);
    let found = |kind| report.checks.iter().filter(|c| c.kind == kind).map(|c| c.subject.as_str()).collect::<Vec<_>>();
    assert_eq!(found(CheckKind::ServerUp), ["server"]);
    assert_eq!(found(CheckKind::RestorePoint), ["checkpoints", "binlog position", "redo position"]);
    assert_eq!(found(CheckKind::RowHash), ["shop.customers"]);
    assert_eq!(found(CheckKind::NewestRow), ["shop.orders.placed"]);
    assert_eq!(found(CheckKind::Assertion), ["orders", "with"]);
    assert_eq!(found(CheckKind::ErrorLog), ["error log"]);
    for kind in [CheckKind::Table, CheckKind::CheckTable, CheckKind::RowCount] {
        assert!(found(kind).contains(&"shop.orders") && found(kind).contains(&"mysql.global_priv"), "{kind:?}: {:?}", found(kind));
    }
    let counted = report.checks.iter().find(|c| c.kind == CheckKind::RowCount && c.subject == "shop.orders").unwrap();
    assert!(counted.expected.starts_with("exactly 2000"), "{}", counted.expected);
    for name in ["preflight", "fetch", "prepare", "apply", "start", "check", "stop"] {
        assert!(report.phases.iter().any(|p| p.name == name), "no phase {name}: {:?}", report.phases);
    }
    let left: Vec<_> = fs::read_dir(subject.host.path(""))
        .unwrap()
        .map(|e| e.unwrap().file_name())
        .filter(|n| n.to_string_lossy().starts_with("drill-"))
        .collect();
    assert!(left.is_empty(), "{left:?}");
}

/// What a case does to restored data.
type Change<'a> = Box<dyn Fn(&Path) + 'a>;

#[test]
fn every_kind_of_bad_data_fails_the_check_that_is_there_for_it() {
    let subject = Subject::new(S3::start());
    let old = subject.host.path("old");
    subject.host.restore(&subject.host.plan_of(&[&subject.full]), &old).success();
    let cases: [(&str, CheckKind, &str, Change); 12] = [
        ("an emptied table", CheckKind::RowCount, "shop.events", Box::new(|d| with_server(d, "TRUNCATE shop.events"))),
        ("one row less", CheckKind::RowCount, "shop.orders", Box::new(|d| with_server(d, "DELETE FROM shop.orders WHERE id = 77"))),
        (
            "one changed value",
            CheckKind::RowHash,
            "shop.customers",
            Box::new(|d| with_server(d, "UPDATE shop.customers SET note = 'y' WHERE id = 8")),
        ),
        (
            "another type of column",
            CheckKind::Table,
            "shop.events",
            Box::new(|d| with_server(d, "ALTER TABLE shop.events MODIFY what VARCHAR(5000) NOT NULL")),
        ),
        (
            "a renamed column",
            CheckKind::Table,
            "shop.audit",
            Box::new(|d| with_server(d, "ALTER TABLE shop.audit RENAME COLUMN line TO words")),
        ),
        (
            "another default",
            CheckKind::Table,
            "shop.counters",
            Box::new(|d| with_server(d, "ALTER TABLE shop.counters ALTER n SET DEFAULT 7")),
        ),
        ("a page that is cut", CheckKind::CheckTable, "shop.orders", Box::new(|d| cut(&d.join("shop/orders.ibd"), 20 * 16384 + 5000))),
        ("a missing table", CheckKind::Table, "shop.events", Box::new(|d| with_server(d, "DROP TABLE shop.events"))),
        ("a missing schema", CheckKind::Schema, "shop", Box::new(|d| with_server(d, "DROP DATABASE shop"))),
        (
            "another engine",
            CheckKind::Table,
            "shop.events",
            Box::new(|d| with_server(d, "ALTER TABLE shop.events ROW_FORMAT=DEFAULT, ENGINE=Aria")),
        ),
        ("a damaged page", CheckKind::CheckTable, "shop.orders", Box::new(|d| flip(&d.join("shop/orders.ibd"), 5 * 16384 + 5000))),
        ("old data", CheckKind::RestorePoint, "binlog position", Box::new(|d| replace(d, &old.join("data")))),
    ];
    for (what, kind, on, change) in cases {
        let (output, report) = subject.drill_with(change);
        output.failed(Failure::ChecksFailed);
        assert_eq!((report.outcome, report.failure.as_deref()), (Outcome::Failed, None), "{what}");
        assert!(failed(&report).contains(&(kind, on)), "{what}: {:?}", failed(&report));
    }
}

/// Extracts one backup as the tool streamed it, unprepared.
fn fetched(subject: &Subject, backup: &Backup, name: &str) -> PathBuf {
    let into = subject.host.path(name);
    fs::create_dir(&into).unwrap();
    let step = subject.host.plan_of(&[backup]).plan.steps[0].clone();
    let (_keep, cancel) = Cancel::manual();
    let options = FetchOptions { downloads: 2, threads: 1 };
    let bucket = subject.s3.bucket();
    block_on(fetch(&bucket, &step, &into, options, Progress::begin("test", None), &cancel)).unwrap_or_else(|e| panic!("{}", e.chain()));
    into
}

/// The tool itself has no objection once the LSNs are made to fit: the data tells.
#[test]
fn an_incremental_that_was_left_out_is_missed_in_the_data_though_every_position_is_right() {
    let subject = Subject::new(S3::start());
    let db = &subject.db;
    let lsn = |name: &str| db.query::<(String, u64)>(&format!("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_{name}'")).pop().unwrap().1;
    // Without a checkpoint between them the next increment's redo would hold these changes too (trap 3), and nothing be missing.
    db.run("UPDATE shop.customers SET note = 'left out' WHERE id BETWEEN 100 AND 120");
    let written = lsn("current");
    db.run("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0; SET GLOBAL innodb_max_dirty_pages_pct = 0");
    wait_for("a checkpoint", || (lsn("last_checkpoint") >= written).then_some(()));
    let middle = subject.host.incremental(&subject.last);
    db.run("UPDATE shop.orders SET cents = cents + 1 WHERE id = 7");
    let next = subject.host.incremental(&middle);
    assert!(middle.manifest.to_lsn.get() >= written && subject.last.manifest.to_lsn < middle.manifest.to_lsn);
    let skipped = subject.host.path("skipped");
    subject.host.restore(&subject.host.plan_of(&[&subject.full, &subject.last]), &skipped).success();
    let increment = fetched(&subject, &next, "skipped/increment");
    let checkpoints = skipped.join("data/xtrabackup_checkpoints");
    let forged = fs::read_to_string(&checkpoints)
        .unwrap()
        .replace(&format!("to_lsn = {}", subject.last.manifest.to_lsn), &format!("to_lsn = {}", next.manifest.from_lsn));
    fs::write(&checkpoints, forged).unwrap();
    let mut tool = subject.host.scratch().command("mariadb-backup");
    tool.args(["--no-defaults", "--prepare"]).arg(format!("--target-dir={}", skipped.join("data").display()));
    run(tool.arg(format!("--incremental-dir={}", increment.display())));

    let plan = subject.host.plan_of(&[&subject.full, &subject.last, &middle, &next]);
    let (output, report) = subject.drill_of(plan, |data| replace(data, &skipped.join("data")));
    output.failed(Failure::ChecksFailed);
    let positions = report.checks.iter().filter(|c| c.kind == CheckKind::RestorePoint);
    assert!(positions.clone().count() >= 2 && positions.clone().all(|c| c.outcome == Outcome::Passed), "{:?}", report.checks);
    assert!(failed(&report).contains(&(CheckKind::RowHash, "shop.customers")), "{:?}", failed(&report));
}

#[test]
fn data_that_cannot_be_served_fails_the_drill() {
    let subject = Subject::new(S3::start());
    let unprepared = fetched(&subject, &subject.full, "unprepared");
    let cases: [(&str, &str, Change); 3] = [
        ("a broken system tablespace", "log", Box::new(|d| fs::write(d.join("ibdata1"), vec![7u8; 12 << 20]).unwrap())),
        ("no redo log of its own", "log", Box::new(|d| fs::write(d.join("ib_logfile0"), vec![9u8; 12304]).unwrap())),
        // Trap 8: a server starts on it without complaint.
        ("a full that was never prepared", "not prepared", Box::new(|d| replace(d, &unprepared))),
    ];
    for (what, found, change) in cases {
        let (output, report) = subject.drill_with(change);
        output.failed(Failure::ChecksFailed);
        assert!(failed(&report).contains(&(CheckKind::ServerUp, "server")), "{what}: {:?}", report.checks);
        let check = report.checks.iter().find(|c| c.kind == CheckKind::ServerUp).unwrap();
        assert!(check.found.contains(found), "{what}: {}", check.found);
    }
}

#[test]
fn an_assertion_that_does_not_hold_or_cannot_run_fails_and_none_can_write() {
    let mut subject = Subject::new(S3::start());
    let cases = [
        ("holds", "SELECT COUNT(*) FROM shop.orders", "=", "2000", true),
        ("differs", "SELECT COUNT(*) FROM shop.orders", ">", "2000", false),
        ("null", "SELECT NULL", "!=", "1", false),
        ("no-table", "SELECT COUNT(*) FROM shop.gone", ">=", "0", false),
        ("two-rows", "SELECT id FROM shop.orders", ">=", "0", false),
        ("two-columns", "SELECT 1 AS a, 1 AS b", "=", "1", false),
        ("no-row", "SELECT id FROM shop.orders WHERE id < 0", "!=", "1", false),
        ("two-statements", "SELECT 1; DROP TABLE shop.orders", "=", "1", false),
        ("hostile", "SELECT 1) AS a; DROP TABLE shop.orders; -- ", "=", "1", false),
        ("outfile", "SELECT 1 INTO OUTFILE '/tmp/x'", "=", "1", false),
        ("write", "DELETE FROM shop.orders", "=", "1", false),
        ("side-effect", "SELECT NEXTVAL(shop.ids)", "=", "1", false),
        ("slow", "SELECT SLEEP(1000)", "=", "0", false),
        ("still-there", "SELECT COUNT(*) FROM shop.orders", "=", "2000", true),
        ("no-events", "SELECT @@event_scheduler", "=", "DISABLED", true),
        ("no-network", "SELECT @@skip_networking", "=", "1", true),
        ("no-binlog", "SELECT @@log_bin", "=", "0", true),
        ("no-file", "SELECT LOAD_FILE('/etc/passwd') IS NULL", "=", "1", true),
        (
            "no-feedback",
            "SELECT COUNT(*) FROM information_schema.PLUGINS WHERE PLUGIN_NAME = 'FEEDBACK' AND PLUGIN_STATUS = 'ACTIVE'",
            "=",
            "0",
            true,
        ),
    ];
    for (name, sql, compare, expect, _) in cases {
        subject.host.add("drill.assert", &format!("name = {name:?}\nsql = {sql:?}\ncompare = {compare:?}\nexpect = {expect:?}"));
    }
    subject.host.set("drill", "statement_timeout_s", "5");
    subject.host.add("drill.newest", "table = \"shop.orders\"\ncolumn = \"nonsense\"\nmax_age_s = 600");
    let (output, report) = subject.drill_with(|data| with_server(data, "CREATE SEQUENCE shop.ids"));
    output.failed(Failure::ChecksFailed);
    for (name, _, _, _, passes) in cases {
        let check = report.checks.iter().find(|c| c.kind == CheckKind::Assertion && c.subject == name).unwrap();
        assert_eq!(check.outcome == Outcome::Passed, passes, "{check:?}");
    }
    let mut expected: Vec<_> = cases.iter().filter(|c| !c.4).map(|c| (CheckKind::Assertion, c.0)).collect();
    expected.insert(0, (CheckKind::NewestRow, "shop.orders.nonsense"));
    assert_eq!(failed(&report), expected);
}

#[test]
fn a_drill_without_data_to_look_at_has_failed_and_says_why() {
    let subject = Subject::new(S3::start_on_disk());
    let plan = subject.plan();
    let object = plan.plan.steps[1].objects[0].key.clone();
    let good = subject.s3.get(&object);
    subject.s3.damage(&object, |bytes| bytes[good.len() / 2] ^= 1);
    subject.host.drill(&plan).failed(Failure::Damaged);
    let report = subject.host.report(&plan);
    assert_eq!((report.outcome, report.checks.len()), (Outcome::Failed, 0));
    assert!(report.failure.unwrap().contains(&object));
    assert!(report.phases.iter().any(|p| p.name == "fetch"));
}

/// A drill that is held in its checks by a slow assertion, and its server's process.
fn held(subject: &mut Subject) -> (PlanFile, PathBuf, Running, u32) {
    subject.host.add("drill.assert", "name = \"slow\"\nsql = \"SELECT SLEEP(1000)\"\nexpect = \"0\"");
    subject.host.set("drill", "check_tables", "false");
    let (plan, work) = (subject.plan(), subject.host.path("work"));
    let running = subject.start(&plan, &work, &[]);
    let pid = wait_for("the isolated server", || {
        let up = work.join("server/run/sock").exists();
        up.then(|| processes_of(&work).into_iter().find(|(_, c)| c.contains("mariadbd")).map(|(pid, _)| pid)).flatten()
    });
    (plan, work, running, pid)
}

/// The inodes of the sockets that a process holds.
fn sockets(pid: u32) -> Vec<String> {
    let links = fs::read_dir(format!("/proc/{pid}/fd")).unwrap().filter_map(|e| fs::read_link(e.unwrap().path()).ok());
    links.filter_map(|l| Some(text(&l).strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())).collect()
}

#[test]
fn nobody_reaches_the_isolated_server_and_it_dies_with_its_drill() {
    let mut subject = Subject::new(S3::start());
    subject.host.allow("waiting for a tool or server that an earlier try left running");
    let (plan, work, running, pid) = held(&mut subject);
    let inet = ["tcp", "tcp6", "udp", "udp6"].map(|p| fs::read_to_string(format!("/proc/{pid}/net/{p}")).unwrap_or_default()).concat();
    let own = sockets(pid);
    assert!(!own.is_empty());
    for socket in &own {
        assert!(!inet.lines().any(|l| l.split_whitespace().nth(9) == Some(socket)), "a network socket: {inet}");
    }
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
    let uid: u32 = status.lines().find_map(|l| l.strip_prefix("Uid:")?.split_whitespace().next()?.parse().ok()).unwrap();
    assert!(uid != 0 || !rustix::process::geteuid().is_root(), "the server runs as root");
    let run = fs::metadata(work.join("server/run")).unwrap();
    assert_eq!((run.mode() & 0o777, run.uid()), (0o700, uid));

    running.signal("KILL");
    running.finish().killed();
    wait_for("the server's end", || processes_of(&work).is_empty().then_some(()));
    // What a server ran on is not examined again: the next drill restores anew.
    subject.host.set("drill", "statement_timeout_s", "2");
    let again = subject.start(&plan, &work, &[]).finish();
    again.failed(Failure::ChecksFailed);
    let report = subject.host.report(&plan);
    assert_eq!(failed(&report), [(CheckKind::Assertion, "slow")]);
    assert!(report.phases.iter().any(|p| p.name == "prepare"), "{:?}", report.phases);
}

#[test]
fn a_drill_that_is_asked_to_end_stops_its_server_cleans_up_and_reports() {
    let mut subject = Subject::new(S3::start());
    let (plan, work, running, _) = held(&mut subject);
    running.signal("TERM");
    running.finish().failed(Failure::Interrupted);
    assert!(!work.exists());
    assert_eq!(processes_of(&work), []);
    let report = subject.host.report(&plan);
    assert_eq!(report.outcome, Outcome::Failed);
    assert!(report.failure.unwrap().contains("SIGTERM"));
}

/// Turns one byte of a file round.
fn flip(path: &Path, at: u64) {
    let file = fs::File::options().read(true).write(true).open(path).unwrap();
    let mut byte = [0u8];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 0xff], at).unwrap();
}

/// Ends a file early.
fn cut(path: &Path, at: u64) {
    let file = fs::File::options().write(true).open(path).unwrap();
    assert!(file.metadata().unwrap().len() > at);
    file.set_len(at).unwrap();
}

/// Puts a copy of another data directory in the place of `data`.
fn replace(data: &Path, by: &Path) {
    fs::remove_dir_all(data).unwrap();
    assert!(std::process::Command::new("cp").arg("-a").args([by, data]).status().unwrap().success());
}
