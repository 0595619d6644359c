//! `highwater-host backup` on a real server: what is taken, what is refused, and what a failure leaves (nothing).

use highwater_core::inventory::InventoryV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{Failure, Lsn};
use highwater_tests::{Host, Load, MariaDb, Output, Running, S3, block_on, processes_of, wait_for};
use jiff::SignedDuration;
use std::process::Command;

/// The real tool, for the scripts that stand in front of it.
const TOOL: &str = "/usr/bin/mariadb-backup";

#[test]
fn a_full_and_an_incremental_under_load_are_sealed_with_their_inventory() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    db.run("CREATE DATABASE still; CREATE TABLE still.t (id INT PRIMARY KEY, v TEXT, w INT AS (id + 1) VIRTUAL) ENGINE=InnoDB; INSERT INTO still.t (id, v) VALUES (1, 'a'), (2, NULL)");
    host.set("backup", "row_hash_tables", "[\"still.t\"]");
    let load = Load::start(&db);
    wait_for("the last write to lie two whole seconds back", || {
        let age =
            db.value::<i64>("SELECT TIMESTAMPDIFF(SECOND, UPDATE_TIME, NOW()) FROM information_schema.TABLES WHERE TABLE_SCHEMA = 'still'");
        (age > 2).then_some(())
    });
    let full = host.full();
    let incremental = host.incremental(&full);
    assert_eq!(load.stop().failures, 0);

    assert_eq!((full.manifest.from_lsn, incremental.manifest.from_lsn), (Lsn::ZERO, full.manifest.to_lsn));
    assert!(full.manifest.redo_bytes > 0 && full.manifest.binlog.is_some());
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
    request.created_at -= SignedDuration::from_secs(1);
    let other = host.run(&["backup", "--request", host.write_request(&request).to_str().unwrap()]);
    assert!(other.failed(Failure::Document).error().contains("was made for another request"), "{other}");
}

/// Starts a backup.
fn start(host: &Host, request: &BackupRequestV1, more: &[&str]) -> Running {
    let path = host.write_request(request);
    let args: Vec<&str> = ["backup", "--request", path.to_str().unwrap()].into_iter().chain(more.iter().copied()).collect();
    host.start(&args)
}

/// Runs a backup that must fail, and leave nothing: no object, no unfinished upload, no process, no file of the tool.
#[track_caller]
fn refused(host: &Host, s3: &S3, request: &BackupRequestV1, failure: Failure) -> Output {
    let output = start(host, request, &[]).finish();
    output.failed(failure);
    left_nothing(host, s3, request);
    output
}

#[track_caller]
fn left_nothing(host: &Host, s3: &S3, request: &BackupRequestV1) {
    assert_eq!(host.keys_of(request), [""; 0]);
    assert_eq!(s3.unfinished_uploads(), [""; 0]);
    // A killed process is gone a moment after its last sign.
    wait_for("the tool's end", || processes_of(host.scratch().path()).is_empty().then_some(()));
    assert!(!host.path("state/backup.scratch").exists());
}

/// Puts a script in front of the tool; it sees the tool's arguments, and `--version` never reaches it.
fn instead_of_the_tool(host: &mut Host, body: &str) {
    host.scratch().script("mariadb-backup", &format!("[ \"$1\" = --version ] && exec {TOOL} --version\n{body}"));
    let dir = format!("{:?}", host.scratch().path().to_str().unwrap());
    host.set("server", "bin_dir", dir);
}

#[test]
fn a_request_that_expired_or_is_for_another_cluster_is_refused() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let mut late = host.request(None);
    late.created_at -= SignedDuration::from_hours(2);
    late.expires_at = late.created_at + SignedDuration::from_hours(1);
    assert!(refused(&host, &s3, &late, Failure::Document).error().contains("expired at"));
    let mut strange = host.request(None);
    strange.cluster = "other".parse().unwrap();
    assert!(refused(&host, &s3, &strange, Failure::Document).error().contains("cluster other"));
}

#[test]
fn trap_1_a_start_lsn_that_the_server_has_not_reached_is_refused() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let full = host.full();
    let mut request = host.request(Some(&full));
    if let Some(parent) = &mut request.parent {
        (parent.link.to_lsn, parent.last_lsn) = (Lsn::new(999_999_999_999), Lsn::new(999_999_999_999));
    }
    let output = refused(&host, &s3, &request, Failure::ChainBroken);
    assert!(output.error().contains("its redo ends at LSN"), "{output}");
}

#[test]
fn trap_2_a_fork_a_copy_and_a_purged_binlog_break_the_chain_before_anything_is_streamed() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    Load::fill(&db, 50);
    let full = host.full();
    let broken = |why: &str| {
        let output = refused(&host, &s3, &host.request(Some(&full)), Failure::ChainBroken);
        assert!(output.error().contains(why), "{why}: {output}");
        assert!(output.error().starts_with("preflight:"), "{output}");
    };
    // The same files under the same path, copied: what a fork of a restored or cloned disk is.
    db.down();
    let (data, old) = (db.datadir(), db.datadir().with_extension("old"));
    std::fs::rename(data, &old).unwrap();
    highwater_tests::run(Command::new("cp").arg("-a").args([&old, &data.to_path_buf()]));
    db.up();
    broken("data directory was");
    db.down();
    std::fs::remove_dir_all(data).unwrap();
    std::fs::rename(&old, data).unwrap();
    db.up();
    host.incremental(&full);
    // The same directory with another history at the same place of the binlog, or none.
    db.run("FLUSH BINARY LOGS");
    let last = db.query::<(String, u64)>("SHOW BINARY LOGS").pop().unwrap().0;
    db.run(&format!("PURGE BINARY LOGS TO '{last}'"));
    broken("or the file was purged");
    db.run("RESET MASTER");
    broken("its binlog");
}

#[test]
fn without_a_binlog_an_incremental_is_refused_because_nothing_proves_its_parent() {
    let (db, s3) = (MariaDb::start_with(&["skip-log-bin"]), S3::start());
    let host = Host::new(&db, &s3);
    let full = host.full();
    assert_eq!(full.manifest.binlog, None);
    let output = refused(&host, &s3, &host.request(Some(&full)), Failure::ChainBroken);
    assert!(output.error().contains("no binlog position"), "{output}");
}

#[test]
fn a_missing_privilege_is_named_before_anything_is_streamed() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    db.run("REVOKE BINLOG MONITOR ON *.* FROM hw_backup@localhost");
    instead_of_the_tool(&mut host, "echo 'the tool was started' >&2; exit 1");
    let output = refused(&host, &s3, &host.request(None), Failure::Precondition);
    assert!(output.error().contains("lacks BINLOG MONITOR") && !output.error().contains("was started"), "{output}");
    let hint = output.events().find_map(|e| e["hint"].as_str().map(str::to_owned)).unwrap();
    assert_eq!(hint, "GRANT BINLOG MONITOR ON *.* TO 'hw_backup'@'localhost';");
}

#[test]
fn trap_9_sigterm_in_mid_stream_leaves_nothing_though_the_tool_ignores_it() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    for signal in ["TERM", "INT"] {
        let request = host.request(None);
        let run = start(&host, &request, &["--max-rate", "1"]);
        wait_for("the upload", || (!s3.unfinished_uploads().is_empty() || streaming(&host)).then_some(()));
        run.signal(signal);
        run.finish().failed(Failure::Interrupted);
        left_nothing(&host, &s3, &request);
    }
}

/// Whether the tool runs.
fn streaming(host: &Host) -> bool {
    processes_of(host.scratch().path()).iter().any(|(_, command)| command.contains("--stream=xbstream"))
}

#[test]
fn a_tool_killed_in_mid_stream_leaves_nothing() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let request = host.request(None);
    let run = start(&host, &request, &["--max-rate", "1"]);
    let pid = wait_for("the tool", || {
        processes_of(host.scratch().path()).into_iter().find(|(_, c)| c.contains("--stream=xbstream")).map(|(pid, _)| pid)
    });
    highwater_tests::run(Command::new("kill").args(["-9", &pid.to_string()]));
    let output = run.finish();
    assert!(output.failed(Failure::Interrupted).error().contains("was killed by signal 9"), "{output}");
    left_nothing(&host, &s3, &request);
}

#[test]
fn a_store_that_goes_away_in_mid_stream_fails_the_backup_and_ends_the_tool() {
    let (db, s3) = (MariaDb::start(), S3::start_on_disk());
    let mut host = Host::new(&db, &s3);
    // The uploads cannot be given up while the store is away: that is worth a warning.
    host.allow("abort");
    Load::fill(&db, 1000);
    let request = host.request(None);
    let run = start(&host, &request, &["--max-rate", "8"]);
    wait_for("the tool", || streaming(&host).then_some(()));
    s3.down();
    let output = run.finish();
    assert_eq!(output.status.code(), Some(i32::from(Failure::Storage.exit_code())), "{output}");
    wait_for("the tool's end", || processes_of(host.scratch().path()).is_empty().then_some(()));
    s3.up();
    assert_eq!(host.keys_of(&request), [""; 0]);
}

#[test]
fn a_tool_that_lies_or_fails_at_its_end_is_not_believed() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    let scratch = host.scratch().path().display().to_string();
    let mut check = |body: &str, expected: &str| {
        instead_of_the_tool(&mut host, body);
        let output = refused(&host, &s3, &host.request(None), Failure::Tool);
        assert!(output.error().contains(expected), "{body}: {output}");
    };
    check(&format!("{TOOL} \"$@\"; echo 'Error: late' >&2; exit 1"), "exited with 1: Error: late");
    check(&format!("{TOOL} \"$@\"; echo bye >&2"), "its last line is not `completed OK!`");
    check("echo 'completed OK!' >&2", "");
    // Cut between two files: the format cannot tell.
    let drop_the_last_files = format!(
        "d=$(mktemp -d -p {scratch}); {TOOL} \"$@\" | mbstream -x -C $d; cd $d; rm xtrabackup_info; mbstream -c $(find . -type f -printf '%P\\n'); rm -rf $d; echo 'completed OK!' >&2",
    );
    check(&drop_the_last_files, "its stream holds no xtrabackup_info");
    let drop_checkpoints = drop_the_last_files.replace("rm xtrabackup_info", "rm xtrabackup_checkpoints");
    check(&drop_checkpoints, "its stream holds no xtrabackup_checkpoints");
}

#[test]
fn traps_11_and_13_a_flood_on_stderr_is_drained_and_no_secret_passes() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    let hash = "*CD39F2BC03EB4FA6BB54B7DF769B530D7F9EC8F5";
    let grants = format!("GRANT RELOAD ON *.* TO `hw_backup`@`localhost` IDENTIFIED BY PASSWORD '{hash}'");
    let flood = format!("yes \"{grants} correct horse\" | head -n 20000 >&2");
    instead_of_the_tool(&mut host, &format!("{flood}\nexec {TOOL} \"$@\""));
    let request = host.request(None);
    let path = host.write_request(&request);
    let output = host.start_with(&["backup", "--request", path.to_str().unwrap()], &[("RUST_LOG", "debug,hyper=off,aws=off")]).finish();
    output.success();
    let no_secret = |output: &Output| {
        let text = format!("{output}");
        assert!(!text.contains(hash) && !text.contains("correct horse"), "a secret passed");
    };
    no_secret(&output);
    for key in host.keys_of(&request).iter().filter(|k| k.ends_with("manifest.json")) {
        assert!(!String::from_utf8_lossy(&s3.get(key)).contains("correct horse"));
    }
    instead_of_the_tool(&mut host, &format!("echo \"{grants} failed correct horse\" >&2; exit 1"));
    no_secret(&refused(&host, &s3, &host.request(None), Failure::Tool));
}

#[test]
fn trap_12_a_defaults_file_that_is_a_pipe_or_open_to_others_is_refused() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    let pipe = host.path("pipe.cnf");
    highwater_tests::run(Command::new("mkfifo").args(["-m", "600"]).arg(&pipe));
    host.set("server", "defaults_file", format!("{pipe:?}"));
    assert!(refused(&host, &s3, &host.request(None), Failure::Config).error().contains("not a regular file"));
    let open = db.backup_user();
    highwater_tests::run(Command::new("chmod").arg("644").arg(&open));
    host.set("server", "defaults_file", format!("{open:?}"));
    assert!(refused(&host, &s3, &host.request(None), Failure::Config).error().contains("others may read it"));
}

#[test]
fn trap_10_a_redo_log_that_wraps_is_warned_of_early_and_has_a_class_of_its_own() {
    let (db, s3) = (MariaDb::start_with(&["innodb-log-file-size=4M"]), S3::start());
    let host = Host::new(&db, &s3);
    db.run("CREATE DATABASE w; CREATE TABLE w.t (id INT PRIMARY KEY AUTO_INCREMENT, v LONGBLOB) ENGINE=InnoDB; INSERT INTO w.t (v) VALUES (REPEAT('x', 1000000))");
    let request = host.request(None);
    let run = start(&host, &request, &["--max-rate", "1"]);
    wait_for("the tool", || streaming(&host).then_some(()));
    while streaming(&host) {
        db.run("UPDATE w.t SET v = REPEAT(CHAR(97 + RAND() * 25), 1000000)");
        if processes_of(host.scratch().path()).is_empty() {
            break;
        }
    }
    let output = run.finish();
    output.failed(Failure::RedoOverrun);
    let early =
        output.events().position(|e| e["level"] == "WARN" && e["line"].as_str().is_some_and(|l| l.contains("Retrying read of log")));
    assert!(early.is_some(), "{output}");
    assert!(output.error().contains("Was only able to copy log from"), "{output}");
    left_nothing(&host, &s3, &request);
}

#[test]
fn a_second_backup_on_the_same_host_is_told_that_it_is_busy() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let first = start(&host, &host.request(None), &["--max-rate", "4"]);
    wait_for("the tool", || streaming(&host).then_some(()));
    let request = host.request(None);
    let second = start(&host, &request, &[]).finish();
    second.failed(Failure::Busy);
    assert_eq!(host.keys_of(&request), [""; 0]);
    first.finish().success();
}
