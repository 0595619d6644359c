//! `highwater-host doctor`: each line says what it found, and each failed one its fix.

use highwater_core::Failure;
use highwater_tests::{Host, MariaDb, Output, S3};
use serde_json::Value;
use std::process::Command;

/// The line of a check.
fn line(output: &Output, name: &str) -> Value {
    let report: Value = output.stdout.lines().find_map(|l| serde_json::from_str(l).ok()).unwrap_or_else(|| panic!("no report: {output}"));
    let lines = report["checks"].as_array().cloned().unwrap_or_default();
    lines.into_iter().find(|l| l["name"] == name).unwrap_or_else(|| panic!("no line {name:?}: {output}"))
}

#[test]
fn a_host_that_is_ready_is_told_so() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    let output = host.run(&["doctor", "--bucket", "backups"]);
    output.success();
    assert_eq!(output.json()["ready"], true);
    for name in [
        "server",
        "tool",
        "versions",
        "privilege RELOAD",
        "privilege PROCESS",
        "privilege BINLOG MONITOR",
        "privilege SELECT",
        "binlog",
        "redo",
        "datadir",
        "encryption",
        "memory",
        "disk",
        "state_dir",
        "clock",
        "s3 create",
        "s3 read",
        "s3 conditions",
        "s3 list",
        "s3 multipart",
    ] {
        assert_eq!(line(&output, name)["status"], "ok", "{name}: {output}");
    }
    assert!(s3.unfinished_uploads().is_empty());
    assert!(!output.stdout.contains("correct horse"));
    // For a person: the same lines as text.
    host.full();
}

#[test]
fn every_privilege_that_lacks_is_a_line_with_its_grant() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    for privilege in ["RELOAD", "PROCESS", "BINLOG MONITOR", "SELECT"] {
        db.run(&format!("REVOKE {privilege} ON *.* FROM hw_backup@localhost"));
        let output = host.run(&["doctor", "--bucket", "backups"]);
        output.failed(Failure::Precondition);
        let found = line(&output, &format!("privilege {privilege}"));
        assert_eq!(found["status"], "fail", "{output}");
        let fix = found["fix"].as_str().unwrap().to_owned();
        assert_eq!(fix, format!("GRANT {privilege} ON *.* TO 'hw_backup'@'localhost';"));
        // The fix fixes it.
        db.run(&fix);
        host.run(&["doctor", "--bucket", "backups"]).success();
    }
}

#[test]
fn what_is_wrong_is_named_and_the_other_checks_still_run() {
    let (db, s3) = (MariaDb::start_with(&["skip-log-bin"]), S3::start());
    let mut host = Host::new(&db, &s3);
    let output = host.run(&["doctor", "--bucket", "backups"]);
    assert_eq!(line(output.success(), "binlog")["status"], "warn");
    let output = host.run(&["doctor", "--bucket", "nobodys"]);
    output.failed(Failure::Precondition);
    assert_eq!((line(&output, "s3 create")["status"].as_str(), line(&output, "server")["status"].as_str()), (Some("fail"), Some("ok")));
    std::fs::create_dir_all(host.path("state")).unwrap();
    highwater_tests::run(Command::new("chmod").arg("755").arg(host.path("state")));
    let output = host.run(&["doctor", "--bucket", "backups"]);
    assert!(line(output.failed(Failure::Precondition), "state_dir")["fix"].as_str().unwrap().starts_with("chmod 700"));
    highwater_tests::run(Command::new("chmod").arg("700").arg(host.path("state")));
    db.down();
    let output = host.run(&["doctor", "--bucket", "backups"]);
    output.failed(Failure::Precondition);
    assert_eq!((line(&output, "server")["status"].as_str(), line(&output, "s3 create")["status"].as_str()), (Some("fail"), Some("ok")));
    host.set("server", "defaults_file", "\"/nonexistent.cnf\"");
    assert_eq!(line(&host.run(&["doctor"]), "defaults_file")["status"], "fail");
}
