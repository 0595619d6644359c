//! Everything on a database host is killed, at moments that a seed decides: the helper, the backup tool, the server, alone or
//! together. What runs next ends well, every restore point holds exactly its rows, and the server serves exactly the rows that
//! it should.

use highwater_core::Failure;
use highwater_core::drill::Outcome;
use highwater_core::request::BackupRequestV1;
use highwater_tests::{Backup, Host, Load, MariaDb, Output, PlanFile, Primary, Running, S3, Snapshot, Torture, processes_of, wait_for};
use std::fs;
use std::path::Path;
use std::process::Command;
use std::thread::sleep;
use std::time::{Duration, Instant};

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed())
}

/// Kills a run after `moment`, and waits for its end. It may have ended before.
fn cut(mut run: Running, moment: Duration) -> Output {
    // The moment is what the seed decided; nothing is waited for.
    sleep(moment);
    run.kill();
    run.finish()
}

fn kill(pid: u32) -> bool {
    Command::new("kill").args(["-9", &pid.to_string()]).status().unwrap().success()
}

/// A small shop, its host, and a chain of backups.
struct Shop {
    db: MariaDb,
    s3: S3,
    host: Host,
    chain: Vec<Backup>,
    /// How long a full takes.
    full: Duration,
}

impl Shop {
    fn open() -> Self {
        let (db, s3) = (MariaDb::start(), S3::start());
        Load::fill(&db, 100);
        let host = Host::new(&db, &s3);
        host.full();
        let (full, took) = timed(|| host.full());
        Self { db, s3, host, chain: vec![full], full: took }
    }

    fn write(&self) {
        self.db.run("INSERT INTO shop.events (what) VALUES (UUID()); UPDATE shop.orders SET cents = cents + 1 WHERE id % 7 = 3");
    }

    /// A request for the next backup: an incremental more often than not.
    fn next(&self, torture: &mut Torture) -> BackupRequestV1 {
        self.host.request(self.chain.last().filter(|_| torture.pick(3) > 0))
    }

    fn start(&self, request: &BackupRequestV1) -> Running {
        let path = self.host.write_request(request);
        self.host.start(&["backup", "--request", text(&path)])
    }

    /// Takes a backup, and continues the chain with it.
    fn take(&mut self, request: &BackupRequestV1) {
        let backup = self.host.take(request);
        if backup.manifest.parent.is_none() {
            self.chain.clear();
        }
        self.chain.push(backup);
    }

    fn plan(&self) -> PlanFile {
        self.host.plan_of(&self.chain.iter().collect::<Vec<_>>())
    }

    fn restored(&self) -> Snapshot {
        let into = self.host.path("restored");
        self.host.restore(&self.plan(), &into).success();
        let found = snapshot(&into);
        fs::remove_dir_all(&into).unwrap();
        found
    }

    /// The newest restore point holds what the server does, no restore point is half-good, and nothing of a run is left.
    fn is_sound(&self, torture: &Torture) {
        self.restored().assert_same(&Snapshot::of(&self.db), "the newest restore point");
        self.host.cli(&["audit", "--bucket", "backups", "--cluster", "shop"]).success();
        wait_for("the end of every process", || processes_of(self.host.scratch().path()).is_empty().then_some(()));
        let unfinished = self.s3.unfinished_uploads();
        assert!(
            unfinished.len() as u64 <= torture.kills(),
            "only a killed helper leaves an upload to the bucket's lifecycle: {unfinished:?}"
        );
    }

    /// What a failed run may leave: nothing.
    fn left_nothing(&self, request: &BackupRequestV1) {
        assert_eq!(self.host.keys_of(request), [""; 0]);
        let id = request.backup_id.to_string();
        let unfinished: Vec<_> = self.s3.unfinished_uploads().into_iter().filter(|key| key.contains(&id)).collect();
        assert_eq!(unfinished, [""; 0]);
    }

    /// Processes of the host whose command line has this in it.
    fn processes(&self, part: &str) -> Vec<u32> {
        processes_of(self.host.scratch().path()).into_iter().filter(|(_, command)| command.contains(part)).map(|(pid, _)| pid).collect()
    }
}

fn snapshot(into: &Path) -> Snapshot {
    Snapshot::of(&MariaDb::open(&into.join("data")))
}

#[test]
fn a_backup_whose_helper_is_killed_at_any_moment_is_whole_or_nothing_and_the_next_one_succeeds() {
    let (mut shop, mut torture) = (Shop::open(), Torture::begin("backup: helper"));
    while torture.goes_on(4, 320) {
        shop.write();
        let (request, moment) = (shop.next(&mut torture), torture.moment(shop.full));
        let ended = cut(shop.start(&request), moment);
        // SSM delivers the request again, or `finish-backup` has given it up and a full is owed.
        let again = if torture.pick(2) == 0 { request.clone() } else { shop.host.request(None) };
        shop.take(&again);
        if ended.was_killed() {
            torture.survived(&format!("{} after {moment:?}", request.kind.as_str()));
        }
        if torture.is_time_for_a_look() {
            shop.is_sound(&torture);
        }
    }
    shop.is_sound(&torture);
    torture.end();
}

#[test]
fn a_backup_killed_at_a_named_point_is_whole_or_nothing_and_is_taken_again() {
    let (mut shop, mut torture) = (Shop::open(), Torture::begin("backup: crash points"));
    for point in ["backup:streamed", "backup:objects", "backup:inventory", "backup:manifest"] {
        let request = shop.host.request(None);
        let path = shop.host.write_request(&request);
        shop.host.start_with(&["backup", "--request", text(&path)], &[("HIGHWATER_CRASH_AT", point)]).finish().killed();
        let is_there = shop.host.keys_of(&request).iter().any(|key| key.ends_with("manifest.json"));
        assert_eq!(is_there, point == "backup:manifest", "{point}");
        shop.take(&request);
        torture.survived(point);
    }
    shop.is_sound(&torture);
    torture.end();
}

#[test]
fn a_tool_killed_at_any_moment_fails_its_backup_and_the_same_request_succeeds() {
    let (mut shop, mut torture) = (Shop::open(), Torture::begin("backup: tool"));
    while torture.goes_on(2, 40) {
        shop.write();
        let (request, moment) = (shop.next(&mut torture), torture.moment(shop.full));
        let running = shop.start(&request);
        sleep(moment);
        let killed = shop.processes("--stream=xbstream").into_iter().filter(|pid| kill(*pid)).count();
        let ended = running.finish();
        if killed > 0 && !ended.status.success() {
            let failure = ended.status.code().and_then(Failure::from_exit_code);
            assert!(matches!(failure, Some(Failure::Interrupted | Failure::Tool)), "{ended}");
            ended.failed(failure.unwrap());
            shop.left_nothing(&request);
            torture.survived(&format!("{} after {moment:?}", request.kind.as_str()));
        } else {
            // It had not begun, or had ended.
            ended.success();
        }
        shop.take(&request);
        if torture.is_time_for_a_look() {
            shop.is_sound(&torture);
        }
    }
    shop.is_sound(&torture);
    torture.end();
}

#[test]
fn a_server_killed_during_its_backup_keeps_its_rows_and_the_next_backup_succeeds() {
    let (mut shop, mut torture) = (Shop::open(), Torture::begin("backup: server"));
    while torture.goes_on(1, 30) {
        shop.write();
        let rows = Snapshot::of(&shop.db);
        let (request, moment) = (shop.next(&mut torture), torture.moment(shop.full));
        let mut running = shop.start(&request);
        sleep(moment);
        shop.db.kill();
        // The whole host, now and then, as by a loss of power.
        let power = torture.pick(3) == 0;
        if power {
            running.kill();
        }
        let ended = running.finish();
        shop.db.up();
        rows.assert_same(&Snapshot::of(&shop.db), "after the server's own recovery");
        if !power && !ended.status.success() {
            shop.left_nothing(&request);
        }
        // A server that went down is no other server: its chain goes on.
        let again = shop.host.request(shop.chain.last().filter(|_| !ended.status.success() && !power));
        shop.take(&again);
        torture.survived(&format!("{}{} after {moment:?}", request.kind.as_str(), if power { ", helper too," } else { "" }));
        if torture.is_time_for_a_look() {
            shop.is_sound(&torture);
        }
    }
    shop.is_sound(&torture);
    torture.end();
}

/// A shop with a chain of three.
fn chain() -> (Shop, PlanFile, Snapshot) {
    let mut shop = Shop::open();
    for _ in 0..2 {
        shop.write();
        let request = shop.host.request(shop.chain.last());
        shop.take(&request);
    }
    let (plan, rows) = (shop.plan(), Snapshot::of(&shop.db));
    (shop, plan, rows)
}

#[test]
fn a_restore_whose_helper_or_tool_is_killed_at_any_moments_is_finished_by_running_it_again() {
    let ((mut shop, plan, rows), mut torture) = (chain(), Torture::begin("restore: helper, tool"));
    for line in ["the tool failed: starting again from the full", "waiting for a tool or server that an earlier try left running"] {
        shop.host.allow(line);
    }
    let into = shop.host.path("into");
    let args = ["restore", "--plan", text(&plan.path), "--into", text(&into)];
    let (_, whole) = timed(|| shop.host.run(&args).success().status);
    fs::remove_dir_all(&into).unwrap();
    while torture.goes_on(3, 180) {
        let mut points = Vec::new();
        for _ in 0..=torture.pick(2) {
            let moment = torture.moment(whole);
            let mut running = shop.host.start(&args);
            sleep(moment);
            let tools = if torture.pick(3) == 0 { shop.processes("--prepare") } else { Vec::new() };
            if tools.is_empty() {
                running.kill();
                points.extend(running.finish().was_killed().then(|| format!("helper after {moment:?}")));
            } else {
                points.extend(tools.into_iter().filter(|pid| kill(*pid)).map(|_| format!("tool after {moment:?}")));
                // It begins again from the full by itself, or says that the tool failed.
                let ended = running.finish();
                assert!(
                    ended.status.success()
                        || ended.status.code() == Some(Failure::Tool.exit_code().into())
                        || ended.status.code() == Some(Failure::Interrupted.exit_code().into()),
                    "{ended}"
                );
            }
        }
        shop.host.run(&args).success();
        rows.assert_same(&snapshot(&into), &points.join(", "));
        fs::remove_dir_all(&into).unwrap();
        points.iter().for_each(|point| torture.survived(point));
    }
    torture.end();
}

#[test]
fn a_drill_whose_helper_or_server_is_killed_at_any_moment_never_passes_by_that_and_the_next_one_passes() {
    let ((shop, plan, _), mut torture) = (chain(), Torture::begin("drill: helper, server"));
    let (work, report) = (shop.host.path("work"), shop.host.report_of(&plan));
    let args = ["drill", "--plan", text(&plan.path), "--work", text(&work), "--report", text(&report)];
    let (_, whole) = timed(|| shop.host.run(&args).success().status);
    while torture.goes_on(2, 60) {
        let mut running = shop.host.start(&args);
        let point = if torture.pick(2) == 0 {
            let moment = torture.moment(whole);
            sleep(moment);
            running.kill();
            let ended = running.finish();
            ended.was_killed().then(|| format!("helper after {moment:?}"))
        } else {
            let isolated = || processes_of(&work).into_iter().find(|(_, command)| command.contains("mariadbd ")).map(|(pid, _)| pid);
            wait_for("the isolated server", isolated);
            let moment = torture.moment(whole / 4);
            sleep(moment);
            let killed = isolated().is_some_and(kill);
            let ended = running.finish();
            let found = shop.host.report(&plan).outcome;
            assert_eq!(ended.status.success(), found == Outcome::Passed, "{ended}");
            (killed && !ended.status.success()).then(|| format!("server {moment:?} after its start"))
        };
        wait_for("the end of every process", || processes_of(&work).is_empty().then_some(()));
        shop.host.run(&args).success();
        assert_eq!(shop.host.report(&plan).outcome, Outcome::Passed);
        assert!(!work.exists(), "the work directory stays");
        if let Some(point) = point {
            torture.survived(&point);
        }
    }
    torture.end();
}

/// A person resumes what was cut off; afterwards nothing is open, and the server serves exactly the old or the new rows, writable.
fn serves_new(primary: &Primary, what: &str) -> bool {
    let resumed = primary.resume();
    let rolled_back = i32::from(Failure::RolledBack.exit_code());
    assert!(matches!(resumed.status.code(), Some(code) if code == 0 || code == rolled_back), "{what}: {resumed}");
    if !primary.db.running() {
        // It was killed, not stopped: whatever supervises it starts it again.
        primary.db.up();
    }
    let found = Snapshot::of(&primary.db);
    let is_new = found == primary.new;
    found.assert_same(if is_new { &primary.new } else { &primary.old }, what);
    primary.is_writable(what);
    is_new
}

/// Nothing is kept of the new rows any more.
fn forget_new(primary: &Primary) {
    primary.siblings(".undone-").into_iter().for_each(|path| fs::remove_dir_all(path).unwrap());
}

#[test]
fn a_promotion_and_a_roll_back_killed_at_any_moment_end_at_exactly_the_old_or_the_new_rows() {
    let (primary, mut torture) = (Primary::start(), Torture::begin("promote, rollback: helper"));
    let (_, promotion) = timed(|| primary.promote().success().status);
    let (_, roll_back) = timed(|| primary.rollback().success().status);
    forget_new(&primary);
    while torture.goes_on(2, 90) {
        let moment = torture.moment(promotion);
        let ended = cut(primary.start_promotion(&[]), moment);
        let point = format!("promote after {moment:?}");
        if !serves_new(&primary, &point) {
            primary.promote().success();
            assert!(serves_new(&primary, "the next promotion"));
        }
        if ended.was_killed() {
            torture.survived(&point);
        }
        let moment = torture.moment(roll_back);
        let ended = cut(primary.host.start(&["rollback"]), moment);
        let point = format!("rollback after {moment:?}");
        if serves_new(&primary, &point) {
            primary.rollback().success();
            assert!(!serves_new(&primary, "the next roll-back"));
        }
        if ended.was_killed() {
            torture.survived(&point);
        }
        forget_new(&primary);
    }
    torture.end();
}

#[test]
fn a_server_killed_during_a_promotion_ends_with_exactly_the_old_or_the_new_rows() {
    let (primary, mut torture) = (Primary::start(), Torture::begin("promote: server"));
    let (_, promotion) = timed(|| primary.promote().success().status);
    primary.rollback().success();
    forget_new(&primary);
    while torture.goes_on(1, 20) {
        let moment = torture.moment(promotion);
        let running = primary.start_promotion(&[]);
        sleep(moment);
        let killed = primary.db.pid().is_some_and(kill);
        let ended = running.finish();
        assert_ne!(ended.status.code(), Some(i32::from(Failure::Stuck.exit_code())), "{ended}");
        let point = format!("server after {moment:?}");
        let is_new = serves_new(&primary, &point);
        assert!(is_new || !ended.status.success(), "{point}: promoted, it says, and serves the old rows: {ended}");
        if is_new {
            primary.rollback().success();
        }
        assert!(!serves_new(&primary, "the end of the round"));
        forget_new(&primary);
        if killed {
            torture.survived(&point);
        }
    }
    torture.end();
}
