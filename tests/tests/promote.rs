//! `promote` and `rollback` on real servers: whatever is refused, fails, hangs or is killed, the server ends up with exactly the
//! old data or exactly the new, row by row.

use highwater_core::approval::ApprovalV1;
use highwater_core::drill::DrillReportV1;
use highwater_core::{Document, Failure, Sha256};
use highwater_tests::{Host, MariaDb, PlanFile, Primary, Scratch, Snapshot, run, wait_for};
use jiff::{SignedDuration, Timestamp};
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;

/// The primary runs in the same process as before, on the same data, writable.
#[track_caller]
fn untouched_since(primary: &Primary, pid: u32, what: &str) {
    assert_eq!(primary.db.pid(), Some(pid), "{what}: the primary was restarted");
    primary.serves(&primary.old, what);
    assert_eq!(primary.siblings(".old-"), Vec::<PathBuf>::new(), "{what}");
}

/// The server's start command, wrapped: `before` runs first.
fn wrap_start(primary: &mut Primary, before: &str) {
    let [start, stop, status] = primary.db.service();
    let wrapped = primary.host.scratch().script("start-wrapped", &format!("{before}\nexec {}", start.display()));
    primary.host.set("promote", "service", format!("{{ stop = [{stop:?}], start = [{wrapped:?}], status = [{status:?}] }}"));
}

/// The server's stop command, replaced.
fn replace_stop(primary: &mut Primary, body: &str) {
    let [start, _, status] = primary.db.service();
    let stop = primary.host.scratch().script("stop-replaced", body);
    primary.host.set("promote", "service", format!("{{ stop = [{stop:?}], start = [{start:?}], status = [{status:?}] }}"));
}

/// Mode, owner, group, and the SELinux label: an attribute that root sets and reads whether the kernel enforces it or not.
fn look_of(path: &Path) -> (u32, u32, u32, Option<String>) {
    let found = fs::metadata(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    let mut label = [0u8; 256];
    let label = rustix::fs::lgetxattr(path, LABEL, &mut label).ok().map(|length| String::from_utf8_lossy(&label[..length]).into_owned());
    (found.mode() & 0o7777, found.uid(), found.gid(), label)
}

const LABEL: &str = "security.selinux";

fn set_label(path: &Path, kind: &str) {
    let label = format!("system_u:object_r:{kind}:s0\0");
    rustix::fs::lsetxattr(path, LABEL, label.as_bytes(), rustix::fs::XattrFlags::empty())
        .unwrap_or_else(|e| panic!("{}: {e}", path.display()));
}

#[test]
fn a_promotion_serves_the_restored_data_and_can_be_undone() {
    let mut primary = Primary::start();
    primary.db.run("DROP TABLE shop.counters");
    primary.old = Snapshot::of(&primary.db);
    let datadir = primary.db.datadir().to_owned();
    fs::set_permissions(&datadir, fs::Permissions::from_mode(0o751)).unwrap();
    let looks = |names: &[&str]| names.iter().map(|n| look_of(&datadir.join(n))).collect::<Vec<_>>();
    let names = ["", "ibdata1", "mysql", "mysql/db.frm", "shop", "shop/orders.ibd", "aria_log_control"];
    for (name, kind) in names.iter().zip(["top_t", "file_t", "dir_t", "frm_t", "shop_t", "orders_t", "log_t"]) {
        set_label(&datadir.join(name), kind);
    }
    let before = looks(&names);
    assert_eq!(before[5].3.as_deref(), Some("system_u:object_r:orders_t:s0\0"));
    let binlog_end: String = primary.db.value("SELECT @@gtid_binlog_pos");

    let args = primary.host.promote_args(&primary.plan);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let done = primary.host.run(&args);
    done.success();
    primary.serves(&primary.new, "after the promotion");
    assert_eq!(looks(&names), before, "owners, modes and labels are kept");
    // What only the restored data has looks like its kind.
    assert_eq!(look_of(&datadir.join("shop/counters.MYD")), before[1]);
    let journal = &done.json()["promotion"];
    assert_eq!(journal["state"]["name"], "done");
    assert_eq!(journal["state"]["fence"]["last"]["gtid"], binlog_end.as_str(), "the old binlog's end is on record");
    assert!(journal["restored_to"]["position"].as_u64().unwrap() > 0);
    assert!(journal["state"]["checks"].as_array().unwrap().iter().any(|c| c["kind"] == "row-count"));
    for leftover in ["xtrabackup_checkpoints", "xtrabackup_info", "backup-my.cnf"] {
        assert!(!datadir.join(leftover).exists(), "{leftover} is left in the data directory");
    }
    assert_eq!(primary.siblings(".staged-"), Vec::<PathBuf>::new());
    let old = primary.siblings(".old-");
    assert_eq!(old.len(), 1, "the old data is kept: {old:?}");

    // The same order again, as when its reply was lost: the data written since must survive.
    primary.db.run("INSERT INTO shop.events (what) VALUES ('on the promoted data')");
    let promoted = Snapshot::of(&primary.db);
    let pid = primary.pid();
    assert_eq!(primary.host.run(&args).success().json()["promotion"]["id"], journal["id"]);
    assert_eq!(primary.resume().success().json()["promotion"]["id"], journal["id"]);
    assert_eq!(primary.db.pid(), Some(pid));
    primary.serves(&promoted, "after the second order");

    primary.rollback().success();
    primary.serves(&primary.old, "after the roll-back");
    assert_eq!(looks(&names), before);
    let kept = primary.siblings(".undone-");
    assert_eq!(kept.len(), 1, "the promoted data is kept: {kept:?}");
    let pid = primary.pid();
    primary.rollback().success();
    assert_eq!(primary.db.pid(), Some(pid), "a second roll-back changes nothing");
    primary.host.run(&args).failed(Failure::Approval);
    untouched_since(&primary, pid, "an approval that was used and undone");
    MariaDb::open(&kept[0]);

    // With a new approval it goes again.
    primary.promote().success();
    primary.serves(&primary.new, "after the next promotion");
}

/// Kills a promotion at each point, resumes it, and looks.
fn killed_at(points: &[(&str, bool)]) {
    let primary = Primary::start();
    for (point, new_data) in points {
        let at = format!("promote:{point}");
        primary.start_promotion(&[("HIGHWATER_CRASH_AT", &at)]).finish().killed();
        if at != "promote:done:after" {
            primary.promote().failed(Failure::Precondition);
        }
        if *new_data {
            primary.resume().success();
            primary.serves(&primary.new, &at);
            assert!(primary.siblings(".old-").len() == 1, "{at}: the old data is kept");
            primary.resume().success();
            primary.rollback().success();
            primary.serves(&primary.old, &format!("{at}, rolled back"));
            for path in primary.siblings(".undone-") {
                fs::remove_dir_all(path).unwrap();
            }
        } else {
            primary.resume().failed(Failure::RolledBack);
            primary.serves(&primary.old, &at);
            let pid = primary.pid();
            primary.resume().failed(Failure::RolledBack);
            untouched_since(&primary, pid, &format!("{at}, resumed twice"));
        }
    }
}

#[test]
fn killed_before_the_exchange_it_is_undone() {
    killed_at(&[
        ("stage:before", false),
        ("stage:after", false),
        ("smoke:before", false),
        ("smoke:after", false),
        ("fence:before", false),
        ("fence:after", false),
    ]);
}

#[test]
fn killed_around_the_stop_and_the_first_rename_it_is_undone() {
    killed_at(&[("stop:before", false), ("stop:after", false), ("aside:before", false), ("aside:after", false), ("swap:before", false)]);
}

#[test]
fn killed_once_the_new_data_is_in_place_it_is_finished() {
    killed_at(&[
        ("swap:after", true),
        ("start:before", true),
        ("start:after", true),
        ("check:before", true),
        ("check:after", true),
        ("done:before", true),
        ("done:after", true),
    ]);
}

#[test]
fn killed_while_rolling_back_the_old_data_still_comes_back() {
    let primary = Primary::start();
    let points = ["back-stop:before", "back-stop:after", "back-undo:before", "back-undo:after", "back-home:before", "back-home:after"];
    for point in points.into_iter().chain(["back-start:before", "back-start:after", "unfence:before", "rolled-back:before"]) {
        let at = format!("promote:{point}");
        primary.start_promotion(&[("HIGHWATER_FAIL_AT", "promote:check"), ("HIGHWATER_CRASH_AT", &at)]).finish().killed();
        primary.resume().failed(Failure::RolledBack);
        primary.serves(&primary.old, &at);
        for path in primary.siblings(".undone-") {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn killed_while_an_operator_rolls_back_the_old_data_still_comes_back() {
    let primary = Primary::start();
    for point in ["revert:before", "back-stop:after", "back-undo:after", "back-home:after", "back-start:after", "reverted:before"] {
        primary.promote().success();
        let at = format!("promote:{point}");
        primary.host.start_with(&["rollback"], &[("HIGHWATER_CRASH_AT", &at)]).finish().killed();
        primary.promote().failed(Failure::Precondition);
        primary.resume().success();
        primary.serves(&primary.old, &at);
        for path in primary.siblings(".undone-") {
            fs::remove_dir_all(path).unwrap();
        }
    }
}

#[test]
fn a_failure_at_any_step_brings_the_old_data_back() {
    let primary = Primary::start();
    for step in ["fence", "stop", "aside", "swap", "start", "check", "done"] {
        let at = format!("promote:{step}");
        let failed = primary.start_promotion(&[("HIGHWATER_FAIL_AT", &at)]).finish();
        failed.failed(Failure::RolledBack);
        assert!(failed.error().contains(&format!("injected failure at {at}")), "{failed}");
        primary.serves(&primary.old, &at);
        assert_eq!(primary.siblings(".old-"), Vec::<PathBuf>::new(), "{at}");
        for path in primary.siblings(".undone-") {
            fs::remove_dir_all(path).unwrap();
        }
    }
    let pid = primary.pid();
    for step in ["stage", "smoke"] {
        primary.start_promotion(&[("HIGHWATER_FAIL_AT", &format!("promote:{step}"))]).finish().failed(Failure::Tool);
        untouched_since(&primary, pid, step);
    }
    primary.promote().success();
    primary.serves(&primary.new, "after all those failures");
}

#[test]
fn a_roll_back_that_fails_says_exactly_what_to_type() {
    let primary = Primary::start();
    let stuck = primary.start_promotion(&[("HIGHWATER_FAIL_AT", "promote:check,promote:back-undo")]).finish();
    stuck.failed(Failure::Stuck);
    // The control plane makes its report from the journal in the answer.
    assert_eq!(stuck.json()["promotion"]["state"]["name"], "rolling-back");
    let hint = stuck.json()["hint"].as_str().unwrap().to_owned();
    let (by_hand, last) = hint.split_once('\n').unwrap().1.rsplit_once('\n').unwrap();
    assert!(last.contains("highwater-host promote --resume"), "{hint}");
    assert!(by_hand.contains("mv -nT"), "{hint}");
    run(primary.db.scratch().command("sh").args(["-ec", by_hand]));
    let resumed = primary.resume();
    resumed.failed(Failure::RolledBack);
    assert_eq!(resumed.json()["promotion"]["state"]["name"], "rolled-back");
    primary.serves(&primary.old, "after the commands of the hint");
}

#[test]
fn new_data_that_does_not_start_or_fails_a_check_gives_way_to_the_old() {
    let mut primary = Primary::start();
    // The start command refuses the restored data, as a server does that lacks a plug-in or a key.
    let later = primary.db.datadir().join("shop/later.frm");
    wrap_start(&mut primary, &format!("[ -e {} ] || {{ echo 'cannot start on this' >&2; exit 7; }}", later.display()));
    let failed = primary.promote();
    failed.failed(Failure::RolledBack);
    assert!(failed.error().contains("cannot start on this"), "the server's own words: {}", failed.error());
    primary.serves(&primary.old, "a start that fails");
    assert_eq!(primary.siblings(".undone-").len(), 1, "the new data is kept for a look");
    primary.host.promotable(&primary.db);

    // An assertion that only the new primary can fail: the isolated server writes no binlog.
    primary.host.add("promote.assert", "name = \"no binlog\"\nsql = \"SELECT @@log_bin\"\nexpect = \"0\"");
    let failed = primary.promote();
    failed.failed(Failure::RolledBack);
    assert!(failed.error().contains("no binlog: expected = 0, found 1"), "{}", failed.error());
    primary.serves(&primary.old, "a check that fails on the new primary");

    // And one that the staged copy fails already.
    let pid = primary.pid();
    primary.host.add("promote.assert", "name = \"later\"\nsql = \"SELECT COUNT(*) FROM shop.orders\"\ncompare = \">\"\nexpect = \"1000\"");
    let failed = primary.promote();
    failed.failed(Failure::ChecksFailed);
    assert!(failed.error().contains("later: expected > 1000, found 200"), "{}", failed.error());
    untouched_since(&primary, pid, "a check that fails on the staged copy");
}

#[test]
fn a_stop_command_that_fails_hangs_or_half_works_ends_with_the_old_data() {
    let mut primary = Primary::start();
    primary.host.set("promote", "stop_timeout_s", "3");
    let pid = primary.pid();
    replace_stop(&mut primary, "echo 'not today' >&2; exit 5");
    let failed = primary.promote();
    failed.failed(Failure::RolledBack);
    assert!(failed.error().contains("not today"), "{}", failed.error());
    untouched_since(&primary, pid, "a stop command that fails");

    replace_stop(&mut primary, "sleep 1000");
    primary.promote().failed(Failure::RolledBack);
    untouched_since(&primary, pid, "a stop command that hangs");

    // It says that it is done, and the server runs on.
    replace_stop(&mut primary, "exit 0");
    primary.promote().failed(Failure::RolledBack);
    untouched_since(&primary, pid, "a stop command that lies");

    // It stops the server and never returns.
    let [_, stop, _] = primary.db.service();
    replace_stop(&mut primary, &format!("{}; sleep 1000", stop.display()));
    primary.promote().failed(Failure::RolledBack);
    primary.serves(&primary.old, "a stop command that works and hangs");
    assert_ne!(primary.db.pid(), Some(pid));
}

#[test]
fn only_a_fitting_approval_promotes() {
    let primary = Primary::start();
    let pid = primary.pid();
    let report = primary.host.report_of(&primary.plan);
    let refused = |approval: &ApprovalV1, report: &Path, plan: &Path, what: &str| {
        let approval = primary.host.write_approval(approval);
        let args =
            ["promote", "--plan", plan.to_str().unwrap(), "--approval", approval.to_str().unwrap(), "--report", report.to_str().unwrap()];
        let refused = primary.host.run(&args);
        refused.failed(Failure::Approval);
        assert_eq!(primary.db.pid(), Some(pid), "{what}");
        refused.error()
    };
    let good = || primary.host.approval(&primary.plan);
    let own = primary.plan.path.as_path();
    let now = Timestamp::now();
    let check = |approval: ApprovalV1, what: &str, expected: &str| {
        let error = refused(&approval, &report, own, what);
        assert!(error.contains(expected), "{what}: {error}");
    };
    check(ApprovalV1 { expires_at: now, approved_at: now - SignedDuration::from_mins(1), ..good() }, "expired", "it expired at");
    check(ApprovalV1 { approved_at: now + SignedDuration::from_mins(9), ..good() }, "not yet given", "this host's clock says");
    check(ApprovalV1 { target_host: "db-2".parse().unwrap(), ..good() }, "other host", "it is for host db-2");
    check(ApprovalV1 { cluster: "other".parse().unwrap(), ..good() }, "other cluster", "it is for cluster other");
    check(ApprovalV1 { plan_sha256: Sha256::of(b"x"), ..good() }, "other plan", "it approves plan");
    check(ApprovalV1 { report_sha256: Sha256::of(b"x"), ..good() }, "other report", "it rests on report");
    check(ApprovalV1 { requester: "bob".into(), ..good() }, "own approval", "bob asked for the promotion and cannot approve it");

    // A report that failed, approved all the same.
    let mut bad = DrillReportV1::parse(&fs::read(&report).unwrap()).unwrap();
    bad.failure = Some("the server never came up".into());
    bad.outcome = DrillReportV1::verdict(bad.failure.as_deref(), &bad.checks);
    let bad_report = primary.host.path("failed.report.json");
    fs::write(&bad_report, bad.to_bytes()).unwrap();
    let error = refused(&ApprovalV1 { report_sha256: Sha256::of(&bad.to_bytes()), ..good() }, &bad_report, own, "failed drill");
    assert!(error.contains("the drill did not pass"), "{error}");

    // Another plan than the approved one, by one byte.
    let mut other = primary.plan.plan.clone();
    other.created_at += SignedDuration::from_secs(1);
    let other = primary.host.write_plan(other);
    let error = refused(&good(), &report, &other.path, "a changed plan");
    assert!(error.contains("it approves plan"), "{error}");

    let none = primary.host.run(&["promote", "--plan", own.to_str().unwrap(), "--report", report.to_str().unwrap()]);
    none.failed(Failure::Approval);
    assert!(!primary.host.path("state/promotions").exists(), "a refusal begins no journal");
    untouched_since(&primary, pid, "every refused approval");
}

#[test]
fn what_cannot_be_exchanged_is_refused_before_anything_happens() {
    let mut primary = Primary::start();
    let pid = primary.pid();
    let datadir = primary.db.datadir().to_owned();
    let refuse = |primary: &Primary, failure: Failure, expected: &str| {
        let refused = primary.promote();
        refused.failed(failure);
        assert!(refused.error().contains(expected), "{}", refused.error());
        untouched_since(primary, pid, expected);
        assert!(!primary.host.path("state/promotions/current").exists(), "{expected}: a refusal begins no journal");
        assert_eq!(primary.siblings(".staged-"), Vec::<PathBuf>::new(), "{expected}");
    };
    primary.host.set("restore", "keep_free_mib", "999999999");
    refuse(&primary, Failure::Resources, "MiB free, the promotion needs");
    primary.host.set("restore", "keep_free_mib", "64");

    // Whoever may not ask whether it is a replica needs a grant, not a retry.
    let backup_user = format!("{:?}", primary.db.backup_user());
    primary.host.set("server", "defaults_file", backup_user);
    refuse(&primary, Failure::Precondition, "SLAVE MONITOR");
    primary.host.as_root(&primary.db);

    let link = primary.host.path("link");
    std::os::unix::fs::symlink(&datadir, &link).unwrap();
    primary.host.set("promote", "datadir", format!("{link:?}"));
    refuse(&primary, Failure::Precondition, "is a link or a file");
    primary.host.set("promote", "datadir", "\"/proc\"");
    refuse(&primary, Failure::Precondition, "is a mount point");
    let elsewhere = primary.host.path("elsewhere");
    fs::create_dir(&elsewhere).unwrap();
    primary.host.set("promote", "datadir", format!("{elsewhere:?}"));
    refuse(&primary, Failure::Precondition, "promote.datadir says");
    primary.host.set("promote", "datadir", format!("{datadir:?}"));

    primary.host.set("promote", "binlog_dir", format!("{elsewhere:?}"));
    refuse(&primary, Failure::Precondition, "promote.binlog_dir says");
    primary.host.set("promote", "binlog_dir", format!("{datadir:?}"));
    refuse(&primary, Failure::Config, "the directories cannot be exchanged");

    primary.host.promotable(&primary.db);
    drop_key(&primary.host);
    fs::create_dir_all(elsewhere.join("x")).unwrap();
    std::os::unix::fs::symlink(elsewhere.join("x"), datadir.join("linked")).unwrap();
    refuse(&primary, Failure::Precondition, "leads out of");
    fs::remove_file(datadir.join("linked")).unwrap();

    let mut stranger = Command::new("sleep")
        .arg("1000")
        .current_dir(datadir.join("shop"))
        .stdin(fs::File::open(datadir.join("ibdata1")).unwrap())
        .spawn()
        .unwrap();
    refuse(&primary, Failure::Precondition, "(sleep) works in");
    stranger.kill().unwrap();
    stranger.wait().unwrap();

    primary.db.run("CHANGE MASTER TO master_host = '127.0.0.1', master_user = 'x'");
    refuse(&primary, Failure::Precondition, "itself a replica");
    primary.db.run("RESET SLAVE ALL");

    let mut other = primary.plan.plan.clone();
    other.server.version = "10.6.20".parse().unwrap();
    let plan = std::mem::replace(&mut primary.plan, primary.host.write_plan(other));
    redrill(&primary.host, &plan, &primary.plan);
    refuse(&primary, Failure::Precondition, "the primary runs Mariadb 10.11");
    primary.plan = plan;

    primary.promote().success();
    primary.serves(&primary.new, "with everything put right");
}

/// A passed report for `plan`, as if it had been drilled like `like`.
fn redrill(host: &Host, like: &PlanFile, plan: &PlanFile) {
    let mut report = host.report(like);
    report.plan_sha256 = plan.sha256;
    fs::write(host.report_of(plan), report.to_bytes()).unwrap();
}

/// Takes `promote.binlog_dir` out again: a configuration has no empty value for it.
fn drop_key(host: &Host) {
    let text = fs::read_to_string(host.config()).unwrap();
    let kept: Vec<&str> = text.lines().filter(|l| !l.starts_with("binlog_dir")).collect();
    fs::write(host.config(), kept.join("\n")).unwrap();
}

#[test]
fn one_promotion_at_a_time() {
    let primary = Primary::start();
    let args = primary.host.promote_args(&primary.plan);
    let args: Vec<&str> = args.iter().map(String::as_str).collect();
    let pid = primary.pid();
    let mut first = primary.host.start(&args);
    first.wait_for_log("\"state\":\"staging\"");
    first.signal("STOP");
    primary.promote().failed(Failure::Busy);
    primary.rollback().failed(Failure::Busy);
    primary.resume().failed(Failure::Busy);
    let request = primary.host.write_request(&primary.host.request(None));
    primary.host.run(&["backup", "--request", &request.display().to_string()]).failed(Failure::Busy);
    // Asked to end while it stages, it leaves the primary alone, and what it restored stays for the next try.
    first.signal("TERM");
    first.signal("CONT");
    first.finish().failed(Failure::Interrupted);
    untouched_since(&primary, pid, "interrupted while staging");
    primary.rollback().failed(Failure::Precondition);
    primary.promote().success();
    primary.serves(&primary.new, "the next try");
}

#[test]
fn binlogs_beside_the_data_move_with_it() {
    let binlogs = Scratch::new("binlogs");
    let dir = binlogs.join("log");
    fs::create_dir(&dir).unwrap();
    run(Command::new("chown").arg("mysql:mysql").arg(&dir));
    let mut primary = Primary::on(MariaDb::start_with(&[&format!("log-bin={}/binlog", dir.display())]));
    primary.promote().failed(Failure::Precondition);
    primary.host.set("promote", "binlog_dir", format!("{dir:?}"));
    let kept = |part: &str| {
        let paths = fs::read_dir(binlogs.path()).unwrap().flatten().map(|e| e.path());
        paths.filter(|p| p.file_name().unwrap().to_string_lossy().contains(part)).collect::<Vec<_>>()
    };
    for (point, new_data) in
        [("aside-binlogs:before", false), ("swap:before", false), ("swap-binlogs:before", false), ("swap-binlogs:after", true)]
    {
        let last: String = primary.db.query::<(String, u64)>("SHOW BINARY LOGS").pop().unwrap().0;
        primary.start_promotion(&[("HIGHWATER_CRASH_AT", &format!("promote:{point}"))]).finish().killed();
        if new_data {
            primary.resume().success();
            primary.serves(&primary.new, point);
            let logs: Vec<(String, u64)> = primary.db.query("SHOW BINARY LOGS");
            assert_eq!(logs[0].0, "binlog.000001", "{point}: the new data has binlogs of its own");
            let aside = kept(".old-");
            assert!(aside.len() == 1 && aside[0].join(&last).exists(), "{point}: the old binlogs are kept, {aside:?}");
            primary.rollback().success();
        } else {
            primary.resume().failed(Failure::RolledBack);
        }
        primary.serves(&primary.old, point);
        let logs: Vec<(String, u64)> = primary.db.query("SHOW BINARY LOGS");
        assert!(logs.iter().any(|(name, _)| *name == last), "{point}: the old binlogs are back, {logs:?}");
    }
    wait_for("the old binlogs", || dir.join("binlog.000001").exists().then_some(()));
}
