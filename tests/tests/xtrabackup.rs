//! The XtraBackup adapter against the test tool that takes only XtraBackup's options (see `fake_xtrabackup`).

use highwater_core::identity::{ToolName, Vendor};
use highwater_core::{Failure, Lsn};
use highwater_host::signal::Cancel;
use highwater_host::tool::{Prepare, Tool};
use highwater_tests::{Backup, Host, Load, MariaDb, Oracle, S3, Scratch, Snapshot, binary, block_on, mysql_face, run, wait_for};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn tool() -> Tool {
    Tool { name: ToolName::Xtrabackup, path: binary("fake_xtrabackup"), version: "8.0.35".parse().unwrap() }
}

/// Streams a backup with the adapter's argv (pinned by its unit test) and extracts it to `scratch/name`.
fn backup(db: &MariaDb, scratch: &Scratch, name: &str, from_lsn: Option<Lsn>) -> PathBuf {
    let (dir, work) = (scratch.join(name), scratch.join("work"));
    [&dir, &work].iter().for_each(|d| std::fs::create_dir_all(d).unwrap());
    let mut command = scratch.command(binary("fake_xtrabackup"));
    let defaults = format!("--defaults-file={}", db.backup_user().display());
    command.args([&defaults, "--backup", "--stream=xbstream"]).arg(format!("--target-dir={}", work.display())).arg("--parallel=2");
    command.args(from_lsn.map(|lsn| format!("--incremental-lsn={lsn}"))).args(["--lock-ddl=ON", "--lock-ddl-timeout=300"]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::null()).spawn().unwrap();
    run(Command::new("mbstream").arg("-x").arg("-C").arg(&dir).stdin(child.stdout.take().unwrap()));
    assert!(child.wait().unwrap().success());
    dir
}

fn prepare(target_dir: &Path, incremental_dir: Option<&Path>, last: bool) -> Result<(), highwater_host::error::Error> {
    let (_canceller, cancel) = Cancel::manual();
    block_on(tool().prepare(Prepare { target_dir, incremental_dir, last, use_memory_bytes: 64 << 20 }, &cancel))
}

#[test]
fn a_chain_is_prepared_with_apply_log_only_on_all_but_the_last_step_and_holds_the_same_rows() {
    let (db, scratch) = (MariaDb::start(), Scratch::new("xtrabackup"));
    let load = Load::start(&db);
    let full = backup(&db, &scratch, "full", None);
    let checkpoints = Tool::read_checkpoints(&full).unwrap();
    assert_eq!((checkpoints.backup_type.as_str(), checkpoints.redo_frames), ("full-backuped", Some(0)));
    assert_eq!(checkpoints.flushed_lsn, Some(checkpoints.last_lsn));
    let first = backup(&db, &scratch, "first", Some(checkpoints.to_lsn));
    // Without a checkpoint between them two backups share a to_lsn, and the tools take them in any order (trap 3).
    db.run("SET GLOBAL innodb_max_dirty_pages_pct_lwm = 0; SET GLOBAL innodb_max_dirty_pages_pct = 0");
    wait_for("a checkpoint", || {
        let at = db.query::<(String, u64)>("SHOW GLOBAL STATUS LIKE 'Innodb_lsn_last_checkpoint'").pop()?.1;
        (at > Tool::read_checkpoints(&first).unwrap().to_lsn.get()).then_some(())
    });
    let between = backup(&db, &scratch, "between", Some(Tool::read_checkpoints(&first).unwrap().to_lsn));
    assert!(Tool::read_checkpoints(&between).unwrap().to_lsn > checkpoints.to_lsn);
    let second = backup(&db, &scratch, "second", Some(Tool::read_checkpoints(&between).unwrap().to_lsn));
    let position = highwater_host::tool::files::parse_binlog_info(&std::fs::read(second.join("xtrabackup_binlog_info")).unwrap()).unwrap();
    load.stop();

    let error = prepare(&full, Some(&first), false).unwrap_err();
    assert!(error.failure == Failure::Damaged && error.message.contains("not prepared"), "{error}");
    prepare(&full, None, false).unwrap();
    let error = prepare(&full, Some(&second), true).unwrap_err();
    assert!(error.message.contains("starts at LSN"), "{error}");
    prepare(&full, Some(&first), false).unwrap();
    prepare(&full, Some(&between), false).unwrap();
    prepare(&full, Some(&second), true).unwrap();
    assert_eq!(Tool::read_checkpoints(&full).unwrap().backup_type, "full-prepared");
    let error = prepare(&full, Some(&second), true).unwrap_err();
    assert!(error.message.contains("takes no further step"), "{error}");

    let expected = Oracle::of(&db).at(&position);
    Snapshot::of(&MariaDb::open(&full)).assert_same(&expected, "the prepared chain");
}

/// The whole way of the helper's own commands, as for MySQL `version`: the server behind a MySQL face, XtraBackup's and mysqld's stand-ins.
fn the_whole_way_of(version: &str) {
    let (db, s3) = (MariaDb::start(), S3::start());
    let face = db.scratch().join("mysql.sock");
    mysql_face::serve(&db.socket(), &face, version);
    let mut host = Host::new(&db, &s3);
    let defaults = db.backup_user();
    let text = std::fs::read_to_string(&defaults).unwrap().replace("/server.sock", "/mysql.sock");
    std::fs::write(&defaults, text).unwrap();
    host.set("server", "socket", format!("{face:?}"));
    // Exactly what an operator sets who has the tools elsewhere.
    let bin = host.path("bin");
    std::fs::create_dir(&bin).unwrap();
    std::fs::write(bin.join("mysql-version"), version).unwrap();
    for (name, stand_in) in [("xtrabackup", "fake_xtrabackup"), ("mysqld", "fake_mysqld")] {
        std::os::unix::fs::symlink(binary(stand_in), bin.join(name)).unwrap();
    }
    host.set("server", "bin_dir", format!("{bin:?}")).set("backup", "lock_ddl", "\"REDUCED\"");

    let load = Load::start(&db);
    let mut backups = vec![host.full()];
    for _ in 0..2 {
        load.wait_for_progress();
        let next = host.incremental(backups.last().unwrap());
        backups.push(next);
    }
    load.stop();
    let last = &backups[2].manifest;
    assert_eq!((last.source.vendor, last.source.version.to_string().as_str()), (Vendor::Mysql, version));
    assert_eq!((last.tool.name, last.tool.version.to_string().as_str()), (ToolName::Xtrabackup, version));
    let expected = Oracle::of(&db).at(last.binlog.as_ref().unwrap());
    let plan = host.plan_of(&backups.iter().collect::<Vec<&Backup>>());
    let into = host.path("into");
    host.restore(&plan, &into).success();
    assert_eq!(Tool::read_checkpoints(&into.join("data")).unwrap().backup_type, "full-prepared");
    expected.assert_same(&Snapshot::of(&MariaDb::open(&into.join("data"))), version);
    host.drill(&plan).success();
    let report = host.report(&plan);
    assert_eq!(report.server_version.map(|v| v.to_string()).as_deref(), Some(version));

    // A server of another series than the tool's is refused before anything is streamed.
    std::fs::write(bin.join("mysql-version"), "5.7.44").unwrap();
    let request = host.request(None);
    let output = host.run(&["backup", "--request", host.write_request(&request).to_str().unwrap()]);
    assert!(output.failed(Failure::Precondition).error().contains("cannot back up MySQL"), "{output}");
    assert_eq!(host.keys_of(&request), [""; 0]);
}

#[test]
fn mysql_8_0_goes_the_whole_way_of_the_commands_with_stand_ins_for_its_tools() {
    the_whole_way_of("8.0.35");
}

#[test]
fn mysql_8_4_goes_the_whole_way_of_the_commands_with_stand_ins_for_its_tools() {
    the_whole_way_of("8.4.3");
}

#[test]
fn mysql_9_goes_the_whole_way_of_the_commands_with_stand_ins_for_its_tools() {
    the_whole_way_of("9.1.0");
}

#[test]
fn an_option_that_xtrabackup_does_not_know_exits_255_and_the_version_is_read_from_the_banner() {
    for args in [["--no-defaults", "--startup-wait-timeout=3"], ["--backup", "--no-defaults"], ["--no-defaults", "--no-lock"]] {
        let output = Command::new(binary("fake_xtrabackup")).args(args).output().unwrap();
        assert_eq!(output.status.code(), Some(255), "{args:?}");
    }
    let scratch = Scratch::new("bin");
    std::os::unix::fs::symlink(binary("fake_xtrabackup"), scratch.join("xtrabackup")).unwrap();
    let server = highwater_host::config::ServerConfig { bin_dir: Some(scratch.path().to_owned()), ..Default::default() };
    let found = block_on(Tool::find(&server, Vendor::Mysql)).unwrap();
    assert_eq!((found.name, found.version.to_string().as_str()), (ToolName::Xtrabackup, "8.0.35"));
    assert_eq!(found.check_versions("8.0.36".parse().unwrap()).unwrap_err().failure, Failure::Precondition);
}
