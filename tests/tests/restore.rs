//! `restore`: every restore point comes back identical, in any order, after any interruption; and nothing else is touched.

use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::identity::{ToolName, Vendor};
use highwater_core::manifest::ToolInfo;
use highwater_core::{Document, Failure};
use highwater_tests::{Backup, Host, Load, MariaDb, Oracle, Output, PlanFile, S3, Snapshot, wait_for};
use std::fs;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{SystemTime, UNIX_EPOCH};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn snapshot(into: &Path) -> Snapshot {
    Snapshot::of(&MariaDb::open(&into.join("data")))
}

fn restore_args<'a>(plan: &'a PlanFile, into: &'a Path) -> [&'a str; 5] {
    ["restore", "--plan", text(&plan.path), "--into", text(into)]
}

/// Dies at a named point of its code, as by `kill -9`.
fn crash(host: &Host, plan: &PlanFile, into: &Path, point: &str) -> Output {
    host.start_with(&restore_args(plan, into), &[("HIGHWATER_CRASH_AT", point)]).finish()
}

/// A seed from the clock, or the one to replay; printed, so that a failure shows it.
fn seed() -> u64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_nanos() as u64;
    let seed = std::env::var("HIGHWATER_SEED").map_or(now, |s| s.parse().unwrap());
    println!("HIGHWATER_SEED={seed}");
    seed
}

/// 0..n in an order that the seed decides.
fn shuffled(n: usize, mut seed: u64) -> Vec<usize> {
    let mut order: Vec<usize> = (0..n).collect();
    for i in (1..n).rev() {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        order.swap(i, (seed >> 33) as usize % (i + 1));
    }
    order
}

/// Takes a full and three more under write load and DDL, asks the oracle what each must hold, and restores every plan in
/// random order.
fn every_point_is_identical(next: impl Fn(&Host, &[Backup]) -> Backup, plan: impl Fn(&Host, &[Backup], usize) -> PlanFile) {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let load = Load::start(&db);
    let mut backups = vec![host.full()];
    for _ in 0..3 {
        load.wait_for_progress();
        let backup = next(&host, &backups);
        backups.push(backup);
    }
    load.wait_for_progress();
    load.stop();
    let mut oracle = Oracle::of(&db);
    let expected: Vec<Snapshot> = backups.iter().map(|b| oracle.at(b.manifest.binlog.as_ref().unwrap())).collect();
    assert!(expected.windows(2).all(|pair| pair[0] != pair[1]), "the load wrote between any two backups");
    for point in shuffled(backups.len(), seed()) {
        let into = host.path(&format!("restore-{point}"));
        let output = host.restore(&plan(&host, &backups, point), &into);
        assert_eq!(output.success().json()["datadir"], text(&into.join("data")));
        expected[point].assert_same(&snapshot(&into), &format!("restore point {point}"));
        fs::remove_dir_all(&into).unwrap();
    }
}

#[test]
fn every_restore_point_of_a_chain_of_incrementals_is_identical() {
    every_point_is_identical(
        |host, backups| host.incremental(backups.last().unwrap()),
        |host, backups, point| host.plan_of(&backups[..=point].iter().collect::<Vec<_>>()),
    );
}

#[test]
fn every_restore_point_of_differentials_is_identical() {
    every_point_is_identical(
        |host, backups| host.differential(&backups[0]),
        |host, backups, point| match point {
            0 => host.plan_of(&[&backups[0]]),
            _ => host.plan_of(&[&backups[0], &backups[point]]),
        },
    );
}

/// A full and two incrementals of a quiet server, and what the last one holds.
struct Chain {
    db: MariaDb,
    s3: S3,
    host: Host,
    backups: Vec<Backup>,
    last: Snapshot,
}

impl Chain {
    fn on(s3: S3) -> Self {
        let db = MariaDb::start();
        Load::fill(&db, 3000);
        let host = Host::new(&db, &s3);
        let mut backups = vec![host.full()];
        for round in 1..=2 {
            db.run(&format!("UPDATE shop.orders SET cents = cents + {round}; DELETE FROM shop.orders WHERE id % 7 = {round}"));
            db.run("INSERT INTO shop.events (what) SELECT CONCAT('event ', seq) FROM shop.seq_1_to_2000");
            let next = host.incremental(backups.last().unwrap());
            backups.push(next);
        }
        let last = Snapshot::of(&db);
        Self { db, s3, host, backups, last }
    }

    fn plan(&self) -> PlanFile {
        self.host.plan_of(&self.backups.iter().collect::<Vec<_>>())
    }
}

#[test]
fn a_restore_killed_at_any_step_is_finished_by_running_it_again() {
    let chain = Chain::on(S3::start());
    let plan = chain.plan();
    let points = [
        "restore:fetch-full",
        "restore:fetched",
        "restore:applying-0",
        "restore:prepared-1",
        "restore:applying-1",
        "restore:prepared-2",
        "restore:applying-2",
        "restore:prepared-3",
    ];
    for point in points {
        let into = chain.host.path("into");
        crash(&chain.host, &plan, &into, point).killed();
        let again = chain.host.restore(&plan, &into);
        let phases = again.success().json()["phases"].as_array().unwrap().clone();
        let fetched_full = phases.iter().any(|p| p["name"] == "fetch" && p["backup_id"] == chain.backups[0].manifest.backup_id.to_string());
        let whole = ["restore:fetched", "restore:prepared-1", "restore:prepared-2", "restore:prepared-3"].contains(&point);
        // Traps 4 and 5: what a tool may have half-changed is thrown away, what is whole is used.
        assert_eq!(fetched_full, !whole, "{point}: {phases:?}");
        let left: Vec<_> =
            fs::read_dir(&into).unwrap().map(|e| e.unwrap().file_name()).filter(|n| n.to_string_lossy().starts_with("inc")).collect();
        assert!(left.is_empty(), "{point}: {left:?}");
        chain.last.assert_same(&snapshot(&into), point);
        fs::remove_dir_all(&into).unwrap();
    }
}

/// Puts a `mariadb-backup` before the real one (`$real`), for which `script` decides what an apply (`$inc`, `$target`) does.
fn tool_that(host: &mut Host, script: &str) -> PathBuf {
    let bin = host.path("bin");
    fs::create_dir_all(&bin).unwrap();
    let real = ["/usr/bin/mariadb-backup", "/usr/local/bin/mariadb-backup"].into_iter().find(|p| Path::new(p).exists()).unwrap();
    let body = format!(
        "real={real}; dir={}\nfor arg; do case $arg in --incremental-dir=*) inc=${{arg#*=}};; --target-dir=*) target=${{arg#*=}};; esac; done\n\
         if [ -n \"$inc\" ]; then\n{script}\nfi\nexec $real \"$@\"",
        host.path("").display()
    );
    host.scratch().script("bin/mariadb-backup", &body);
    let quoted = format!("{:?}", text(&bin));
    host.set("server", "bin_dir", quoted);
    host.path("applies")
}

#[test]
fn a_failed_apply_starts_again_from_the_full_with_increments_fetched_anew() {
    let mut chain = Chain::on(S3::start());
    // Trap 5: the tool does its work, and then says that it failed. Trap 6: both directories lie on one filesystem.
    let applies = tool_that(
        &mut chain.host,
        "stat -c '%d %i' $inc $target | tr '\\n' ' ' >>$dir/applies; echo >>$dir/applies\n\
         if [ $(wc -l <$dir/applies) = 2 ]; then $real \"$@\"; echo 'InnoDB: a made-up failure' >&2; exit 1; fi",
    );
    chain.host.allow("the tool failed: starting again from the full");
    let (plan, into) = (chain.plan(), chain.host.path("into"));
    chain.host.restore(&plan, &into).success();
    chain.last.assert_same(&snapshot(&into), "after the failed apply");
    let log = fs::read_to_string(applies).unwrap();
    let lines: Vec<Vec<&str>> = log.lines().map(|l| l.split_whitespace().collect()).collect();
    assert_eq!(lines.len(), 4, "two applies, of which the second fails, and two more: {log}");
    assert!(lines.iter().all(|l| l[0] == l[2]), "another filesystem: {log}");
}

#[test]
fn a_tool_that_always_fails_is_tried_a_bounded_number_of_times() {
    let mut chain = Chain::on(S3::start());
    let applies = tool_that(&mut chain.host, "echo $inc >>$dir/applies; echo 'no luck' >&2; exit 1");
    chain.host.allow("the tool failed: starting again from the full");
    let (plan, into) = (chain.plan(), chain.host.path("into"));
    let output = chain.host.restore(&plan, &into);
    assert!(output.failed(Failure::Tool).error().contains("no luck"), "{output}");
    let applies = fs::read_to_string(applies).unwrap();
    let mut dirs: Vec<&str> = applies.lines().collect();
    dirs.dedup();
    assert_eq!(dirs.len(), 2, "two tries, each with an increment of its own: {applies}");
    assert!(!into.join("data").exists(), "what cannot be resumed gives its space back");
}

#[test]
fn a_tool_that_outlives_its_killed_restore_is_waited_for() {
    let mut chain = Chain::on(S3::start());
    tool_that(&mut chain.host, "if [ ! -e $dir/orphaned ]; then touch $dir/orphaned; while [ ! -e $dir/go ]; do sleep 0.05; done; fi");
    chain.host.allow("waiting for a tool or server that an earlier try left running");
    let (plan, into) = (chain.plan(), chain.host.path("into"));
    let first = chain.host.start(&restore_args(&plan, &into));
    wait_for("the first apply", || chain.host.path("orphaned").exists().then_some(()));
    assert_eq!(chain.host.restore(&plan, &into).failed(Failure::Busy).status.code(), Some(40));
    first.signal("KILL");
    first.finish().killed();
    // Whether the tool died with it or not: its apply goes on, if at all, beside nothing that we build.
    let second = chain.host.start(&restore_args(&plan, &into));
    fs::write(chain.host.path("go"), "").unwrap();
    second.finish().success();
    chain.last.assert_same(&snapshot(&into), "beside an orphan");
}

#[test]
fn a_finished_restore_is_success_again_and_stays_untouched() {
    let chain = Chain::on(S3::start());
    let (plan, into) = (chain.plan(), chain.host.path("into"));
    let first = chain.host.restore(&plan, &into);
    let names: Vec<String> =
        first.success().json()["phases"].as_array().unwrap().iter().map(|p| p["name"].as_str().unwrap().to_owned()).collect();
    for (name, times) in [("preflight", 1), ("fetch", 3), ("prepare", 1), ("apply", 2)] {
        assert_eq!(names.iter().filter(|n| *n == name).count(), times, "{name} in {names:?}");
    }
    let mark = |name: &str| fs::metadata(into.join("data").join(name)).map(|m| (m.ino(), m.mtime(), m.mtime_nsec())).unwrap();
    let before = (mark("ibdata1"), mark("xtrabackup_checkpoints"));
    // Even with the backups gone: there is nothing left to do.
    chain.s3.down();
    chain.host.restore(&plan, &into).success();
    assert_eq!((mark("ibdata1"), mark("xtrabackup_checkpoints")), before);
    chain.last.assert_same(&snapshot(&into), "restored once");
    fs::rename(into.join("data"), chain.host.path("elsewhere")).unwrap();
    chain.host.restore(&plan, &into).failed(Failure::UnsafeDirectory);
}

#[test]
fn a_directory_that_is_not_this_plans_own_is_refused_and_untouched() {
    let chain = Chain::on(S3::start());
    let (plan, other) = (chain.plan(), chain.host.plan_of(&[&chain.backups[0]]));
    let host = &chain.host;

    let precious = host.path("precious");
    fs::create_dir(&precious).unwrap();
    fs::write(precious.join("ibdata1"), "precious").unwrap();
    let output = host.restore(&plan, &precious);
    assert!(output.failed(Failure::UnsafeDirectory).error().contains("ibdata1"), "{output}");
    assert_eq!(fs::read_dir(&precious).unwrap().count(), 1);

    let others = host.path("others");
    host.restore(&other, &others).success();
    let stamp = fs::read(others.join("stamp.json")).unwrap();
    host.restore(&plan, &others).failed(Failure::UnsafeDirectory);
    let report = host.path("report.json");
    // A drill removes its directory: never one that was restored for a person.
    host.run(&["drill", "--plan", text(&other.path), "--work", text(&others), "--report", text(&report)]).failed(Failure::UnsafeDirectory);
    assert_eq!(fs::read(others.join("stamp.json")).unwrap(), stamp);
    assert!(others.join("data/ibdata1").exists());

    let link = host.path("link");
    std::os::unix::fs::symlink(&others, &link).unwrap();
    host.restore(&other, &link).failed(Failure::UnsafeDirectory);
    let datadir = chain.db.datadir().to_owned();
    host.restore(&plan, &datadir).failed(Failure::UnsafeDirectory);
    assert!(chain.db.running() && chain.db.value::<u64>("SELECT COUNT(*) FROM shop.orders") > 0);
}

#[test]
fn what_another_engine_or_tool_made_is_refused_by_every_command_before_anything_is_done() {
    let mut chain = Chain::on(S3::start());
    let good = chain.plan();
    chain.host.drill(&good).success();
    chain.host.promotable(&chain.db).as_root(&chain.db);
    let here = good.plan.server.version;
    let Chain { db, host, .. } = &mut chain;
    // The restored data's vendor, version and tool; what restore, drill and promote say, and what there is to install.
    let other = "11.4.2".parse().unwrap();
    let of_mysql = (Vendor::Mysql, "8.0.35".parse().unwrap());
    let cases = [
        (of_mysql, (ToolName::Xtrabackup, of_mysql.1), ["xtrabackup 8.0.35, here is no xtrabackup"; 2], "the primary runs Mariadb"),
        (
            (Vendor::Mariadb, here),
            (ToolName::MariadbBackup, other),
            ["11.4.2, here is mariadb-backup"; 2],
            "11.4.2, here is mariadb-backup",
        ),
        ((Vendor::Mariadb, here), (ToolName::Xtrabackup, here), [", here is mariadb-backup"; 2], ", here is mariadb-backup"),
        (
            (Vendor::Mariadb, other),
            (ToolName::MariadbBackup, here),
            ["differ in server.version", "a MariaDB 11.4 server"],
            "the primary runs",
        ),
    ];
    for (n, ((vendor, version), (name, tool_version), [restore, drill], promote)) in cases.into_iter().enumerate() {
        let mut plan = good.plan.clone();
        (plan.server.vendor, plan.server.version) = (vendor, version);
        plan.steps.iter_mut().for_each(|step| step.tool = ToolInfo { name, version: tool_version });
        let plan = host.write_plan(plan);
        let mut report = host.report(&good);
        report.plan_sha256 = plan.sha256;
        fs::write(host.report_of(&plan), report.to_bytes()).unwrap();
        let refused = |output: &Output, words: &str| {
            let failure = if words.contains("differ") { Failure::Document } else { Failure::Precondition };
            assert!(output.failed(failure).error().contains(words), "{words}: {output}");
            let hint = output.events().find_map(|e| e["hint"].as_str().map(str::to_owned));
            assert!(hint.is_some_and(|hint| !hint.is_empty()), "{output}");
        };
        let args = host.promote_args(&plan);
        refused(&host.run(&args.iter().map(String::as_str).collect::<Vec<_>>()), promote);
        let into = host.path(&format!("into-{n}"));
        refused(&host.restore(&plan, &into), restore);
        assert!(!into.join("data").exists(), "something was fetched");
        let (work, report) = (host.path(&format!("work-{n}")), host.path(&format!("report-{n}.json")));
        refused(&host.run(&["drill", "--plan", text(&plan.path), "--work", text(&work), "--report", text(&report)]), drill);
        assert!(!work.exists(), "something was made");
        let said = DrillReportV1::parse(&fs::read(&report).unwrap()).unwrap();
        assert!(said.outcome == Outcome::Failed && said.failure.is_some_and(|f| f.contains(drill)), "case {n}");
    }

    // The server is not what this host's configuration says.
    let request = host.request(None);
    let backup = ["backup", "--request", text(&host.write_request(&request))].map(str::to_owned);
    let promote = host.promote_args(&good);
    let pid = db.pid();
    for engine in ["mysql-8.0", "mariadb-11.4"] {
        host.set("server", "engine", format!("{engine:?}"));
        for args in [backup.to_vec(), promote.clone()] {
            let output = host.run(&args.iter().map(String::as_str).collect::<Vec<_>>());
            let error = output.failed(Failure::Precondition).error();
            assert!(error.contains(&format!("{engine} is expected here, the server is Mariadb {here}")), "{output}");
        }
        host.run(&["doctor"]).failed(Failure::Precondition);
    }
    assert_eq!(host.keys_of(&request), [""; 0]);
    let beside: Vec<_> = fs::read_dir(db.datadir().parent().unwrap()).unwrap().map(|e| e.unwrap().file_name()).collect();
    assert!(!beside.iter().any(|name| name.to_string_lossy().contains(".staged-")), "{beside:?}");
    assert_eq!((db.pid(), db.value::<u8>("SELECT @@read_only")), (pid, 0));
    host.set("server", "engine", format!("\"mariadb-{}.{}\"", here.major, here.minor));
    host.run(&backup.each_ref().map(String::as_str)).success();
}

#[test]
fn a_disk_that_is_too_small_is_refused_before_anything_is_fetched() {
    let mut chain = Chain::on(S3::start());
    chain.host.set("restore", "keep_free_mib", "1000000000");
    let (plan, into) = (chain.plan(), chain.host.path("into"));
    let output = chain.host.restore(&plan, &into);
    assert!(output.failed(Failure::Resources).error().contains("MiB free"), "{output}");
    assert!(!into.join("data").exists());
}

#[test]
fn a_disk_that_fills_up_in_the_middle_is_an_error_of_the_host_and_with_room_the_next_try_succeeds() {
    let mut chain = Chain::on(S3::start());
    chain.host.set("restore", "keep_free_mib", "0");
    // No more files than a few: preflight, which counts bytes, does not foresee it.
    let into = chain.host.scratch().small_disk("size=2G,nr_inodes=40").join("into");
    let plan = chain.plan();
    let output = chain.host.restore(&plan, &into);
    let error = output.failed(Failure::Resources).error();
    assert!(error.contains("/small/into/data/") && error.contains("No space left on device"), "{output}");
    chain.host.scratch().small_disk("size=2G,nr_inodes=100000");
    chain.host.restore(&plan, &into).success();
    chain.last.assert_same(&snapshot(&into), "with room for it");
}

#[test]
fn a_damaged_object_is_found_and_named_and_nothing_is_left() {
    let chain = Chain::on(S3::start_on_disk());
    let (plan, into) = (chain.plan(), chain.host.path("into"));
    for (step, at_end) in [(0, false), (1, false), (2, true)] {
        let object = &plan.plan.steps[step].objects[0];
        let good = chain.s3.get(&object.key);
        chain.s3.damage(&object.key, |bytes| if at_end { bytes.truncate(bytes.len() / 2) } else { bytes[good.len() / 3] ^= 0x40 });
        let output = chain.host.restore(&plan, &into);
        assert!(output.failed(Failure::Damaged).error().contains(&object.key), "{output}");
        chain.s3.damage(&object.key, |bytes| *bytes = good);
    }
    let manifest = &plan.plan.steps[1].manifest;
    let good = chain.s3.get(&manifest.key);
    chain.s3.damage(&manifest.key, |bytes| bytes[good.len() / 2] ^= 1);
    let output = chain.host.restore(&plan, &into);
    assert!(output.failed(Failure::Damaged).error().contains(&manifest.key), "{output}");
    chain.s3.damage(&manifest.key, |bytes| *bytes = good);
    // Mended, the same directory serves.
    chain.host.restore(&plan, &into).success();
    chain.last.assert_same(&snapshot(&into), "after the damage was mended");
}

#[test]
fn a_plan_that_its_manifests_contradict_is_refused() {
    let chain = Chain::on(S3::start());
    let (full, first, second) = (&chain.backups[0], &chain.backups[1], &chain.backups[2]);
    let refused = |plan: PlanFile, field: &str| {
        let into = chain.host.path("into");
        let output = chain.host.restore(&plan, &into);
        assert!(output.failed(Failure::Document).error().contains(field), "{output}");
        // Empty again: the next plan finds a directory that it may use.
        assert_eq!(fs::read_dir(&into).unwrap().count(), 0);
    };
    // Trap 3: LSNs cannot tell that an increment was left out where no checkpoint came between; the parent's link does.
    let mut skipping = chain.host.plan_of(&[full, second]).plan;
    skipping.steps[1].from_lsn = full.manifest.to_lsn;
    refused(chain.host.write_plan(skipping), "parent");
    let mut late = chain.host.plan_of(&[full, first]).plan;
    late.point.time = second.manifest.finished_at;
    refused(chain.host.write_plan(late), "point.time");
    let mut small = chain.host.plan_of(&[full]).plan;
    small.steps[0].raw_bytes = 1;
    refused(chain.host.write_plan(small), "raw_bytes");
}
