use super::*;

fn version(text: &str) -> Version {
    text.parse().unwrap()
}

fn tool(name: ToolName, at: &str) -> Tool {
    Tool { name, path: "/usr/bin/tool".into(), version: version(at) }
}

fn texts(args: &[OsString]) -> Vec<&str> {
    args.iter().map(|a| a.to_str().unwrap()).collect()
}

#[test]
fn banners_tell_the_version() {
    let mariadb = "mariadb-backup based on MariaDB server 10.11.19-MariaDB debian-linux-gnu (x86_64)";
    assert_eq!(mariadb_backup::version(mariadb), Some(version("10.11.19")));
    let noise = "2024-01-01T10:00:00.000000-00:00 0 [Note] [MY-011825] [Xtrabackup] recognized server arguments:\n";
    let percona = format!("{noise}xtrabackup version 8.0.35-31 based on MySQL server 8.0.35 Linux (x86_64) (revision id: 55ec21d7)");
    assert_eq!(xtrabackup::version(&percona), Some(version("8.0.35")));
    assert_eq!(xtrabackup::version("segmentation fault"), None);
}

#[test]
fn a_tool_that_does_not_fit_the_server_is_refused_with_the_fix() {
    let check = |name, tool_at: &str, server: &str, fits: bool| {
        let result = tool(name, tool_at).check_versions(version(server));
        assert_eq!(result.is_ok(), fits, "{name} {tool_at} for {server}: {result:?}");
        if let Err(error) = result {
            assert_eq!(error.failure, Failure::Precondition);
            assert!(error.hint.unwrap().contains("install"));
        }
    };
    check(ToolName::MariadbBackup, "10.11.19", "10.11.19", true);
    check(ToolName::MariadbBackup, "10.11.19", "10.11.6", true);
    check(ToolName::MariadbBackup, "10.11.6", "10.11.19", false);
    check(ToolName::MariadbBackup, "11.4.2", "10.11.19", false);
    check(ToolName::MariadbBackup, "10.6.20", "10.11.19", false);
    check(ToolName::Xtrabackup, "8.0.35", "8.0.35", true);
    check(ToolName::Xtrabackup, "8.0.35", "8.0.34", true);
    check(ToolName::Xtrabackup, "8.0.35", "8.0.36", false);
    check(ToolName::Xtrabackup, "8.4.0", "8.4.3", true);
    check(ToolName::Xtrabackup, "8.0.35", "8.4.0", false);
    check(ToolName::Xtrabackup, "8.4.0", "8.0.36", false);
    check(ToolName::Xtrabackup, "9.1.0", "9.2.0", false);
    check(ToolName::Xtrabackup, "8.0.35", "5.7.44", false);
}

#[test]
fn backup_argv_puts_the_defaults_file_first_and_never_a_password_or_no_lock() {
    let run = |defaults_file, from_lsn| BackupRun {
        defaults_file,
        socket: Some(Path::new("/run/s.sock")),
        user: None,
        from_lsn,
        parallel: 2,
        lock_ddl: None,
        scratch: Path::new("/scratch"),
        nice: 0,
        ionice: IoNice::None,
        redactor: Redactor::default(),
    };
    let full = mariadb_backup::backup_args(&run(Some(Path::new("/etc/hw.cnf")), None));
    let expected =
        ["--defaults-file=/etc/hw.cnf", "--backup", "--stream=xbstream", "--target-dir=/scratch", "--socket=/run/s.sock", "--parallel=2"];
    assert_eq!(texts(&full), expected);
    let incremental = xtrabackup::backup_args(&BackupRun { user: Some("bk"), ..run(None, Some(Lsn::new(77))) });
    let expected = [
        "--no-defaults",
        "--backup",
        "--stream=xbstream",
        "--target-dir=/scratch",
        "--socket=/run/s.sock",
        "--user=bk",
        "--parallel=2",
        "--incremental-lsn=77",
        "--lock-ddl=ON",
        "--lock-ddl-timeout=300",
    ];
    assert_eq!(texts(&incremental), expected);
}

#[test]
fn only_xtrabackup_holds_back_the_rollback_and_only_before_the_last_step() {
    let step = |last| Prepare { target_dir: Path::new("/t"), incremental_dir: Some(Path::new("/i")), last, use_memory_bytes: 1024 };
    let common = ["--no-defaults", "--prepare", "--target-dir=/t", "--incremental-dir=/i", "--use-memory=1024"];
    assert_eq!(texts(&mariadb_backup::prepare_args(&step(false))), common);
    assert_eq!(texts(&xtrabackup::prepare_args(&step(true))), common);
    assert_eq!(texts(&xtrabackup::prepare_args(&step(false))), [&common[..], &["--apply-log-only"]].concat());
}

#[test]
fn directories_that_do_not_belong_together_are_refused_before_the_tool_touches_them() {
    let at = |backup_type: &str, from: u64, to: u64| Checkpoints {
        backup_type: backup_type.into(),
        from_lsn: Lsn::new(from),
        to_lsn: Lsn::new(to),
        last_lsn: Lsn::new(to),
        flushed_lsn: None,
        redo_memory: None,
        redo_frames: None,
        recover_binlog_info: None,
    };
    let check = |before: Checkpoints, incremental: Checkpoints, expected: Result<u64, &str>| {
        let got = continues(Path::new("/t"), &before, Path::new("/i"), &incremental);
        match (got, expected) {
            (Ok(lsn), Ok(expected)) => assert_eq!(lsn.get(), expected),
            (Err(e), Err(text)) => assert!(e.failure == Failure::Damaged && e.message.contains(text), "{e}"),
            (got, _) => panic!("{got:?}"),
        }
    };
    check(at("log-applied", 0, 10), at("incremental", 10, 20), Ok(20));
    check(at("log-applied", 0, 10), at("incremental", 9, 20), Err("starts at LSN 9, the target is at LSN 10"));
    check(at("log-applied", 0, 10), at("full-backuped", 0, 20), Err("not an incremental"));
    check(at("full-backuped", 0, 10), at("incremental", 10, 20), Err("not prepared"));
    check(at("full-prepared", 0, 10), at("incremental", 10, 20), Err("takes no further step"));
}

#[test]
fn checkpoints_are_found_under_both_names() {
    for name in files::CHECKPOINTS {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Tool::read_checkpoints(dir.path()).unwrap_err().failure, Failure::Damaged);
        std::fs::write(dir.path().join(name), "backup_type = log-applied\nfrom_lsn = 0\nto_lsn = 5\nlast_lsn = 7\n").unwrap();
        assert_eq!(Tool::read_checkpoints(dir.path()).unwrap().last_lsn.get(), 7);
    }
}
