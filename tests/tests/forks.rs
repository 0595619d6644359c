//! Chains that fork: whatever the operator or the machines did, the wrong incremental is refused before a byte is streamed where the helper
//! can know, and at the write where only the catalog can; then the next backup is a full of a new incarnation, and the chain goes on.

use highwater_core::request::BackupRequestV1;
use highwater_core::{BackupKind, Document, Failure};
use highwater_tests::{Backup, Host, Load, MariaDb, Output, S3, binary, run};
use serde_json::Value;
use std::path::Path;
use std::process::Command;

const OF: [&str; 5] = ["--json", "--bucket", "backups", "--cluster", "shop"];

fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

fn operator(host: &Host, command: &str, more: &[&str]) -> Output {
    host.cli(&[&OF[..1], &[command], &OF[1..], more].concat())
}

/// What the operator's command decides for the next backup after an exit code, taken.
#[track_caller]
fn next(host: &Host, last_exit_code: Option<Failure>) -> (Value, Backup) {
    let at = (0..).map(|n| host.path(&format!("next-{n}.json"))).find(|path| !path.exists()).unwrap();
    let code = last_exit_code.map(|failure| failure.exit_code().to_string());
    let more = code.iter().flat_map(|code| ["--last-exit-code", code.as_str()]);
    let decided = operator(host, "next-backup", &["--out", text(&at)].into_iter().chain(more).collect::<Vec<_>>());
    let request = BackupRequestV1::parse(&std::fs::read(&at).unwrap()).unwrap();
    host.run(&["backup", "--request", text(&at)]).success();
    (decided.success().json(), host.backup_of(&request, at))
}

/// The audit names this refusal of this backup; the next backup is a full of a new incarnation, and the one after it continues.
#[track_caller]
fn refused_at_the_write(host: &Host, wrong: &Backup, rule: &str) -> Backup {
    let audit = operator(host, "audit", &[]);
    let findings = audit.json()["findings"].as_array().unwrap().clone();
    let id = wrong.manifest.backup_id.to_string();
    assert!(findings.iter().any(|f| f["backup_id"] == id.as_str() && f["name"] == rule), "{rule} of {id}: {audit}");
    let (decided, full) = next(host, None);
    assert_eq!((&decided["reason"], full.manifest.kind), (&"ChainBroken".into(), BackupKind::Full), "{decided}");
    assert!(full.manifest.incarnation > wrong.manifest.incarnation);
    let (decided, incremental) = next(host, None);
    assert_eq!((&decided["reason"], incremental.manifest.kind), (&"ContinueChain".into(), BackupKind::Incremental), "{decided}");
    incremental
}

/// Every file of `from`, over the files of `to`: the same inodes, other contents, as `rsync --inplace` or `cp` restores by hand.
fn copy_over(from: &Path, to: &Path) {
    run(Command::new("cp").arg("-rT").args([from, to]));
}

#[test]
fn a_server_that_is_not_the_one_of_the_chain_is_refused_before_anything_is_streamed() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    Load::fill(&db, 200);
    let full = host.full();
    let refused = |host: &Host, parent: &Backup, why: &[&str]| {
        let request = host.request(Some(parent));
        let output = host.run(&["backup", "--request", text(&host.write_request(&request))]);
        let error = output.failed(Failure::ChainBroken).error();
        // Another host's request is refused before anything is asked of the server.
        let before = error.starts_with("preflight:") || error.contains("this is db-2");
        assert!(why.iter().any(|why| error.contains(why)) && before, "{why:?}: {output}");
        assert_eq!(host.keys_of(&request), [""; 0]);
    };

    // Restored by hand, in place: inodes and server are the same, the redo has gone back.
    db.down();
    let saved = db.scratch().join("saved");
    run(Command::new("cp").arg("-a").arg(db.datadir()).arg(&saved));
    db.up();
    db.run("INSERT INTO shop.events (what) SELECT REPEAT('x', 2000) FROM shop.seq_1_to_2000");
    let incremental = host.incremental(&full);
    db.down();
    copy_over(&saved, db.datadir());
    db.up();
    refused(&host, &incremental, &["its redo ends at LSN"]);
    // And gone on, past the parent: only the binlog remembers another way.
    while db.value::<u64>("SELECT VARIABLE_VALUE FROM information_schema.GLOBAL_STATUS WHERE VARIABLE_NAME = 'Innodb_lsn_current'")
        <= incremental.manifest.last_lsn.get() + 100_000
    {
        db.run("INSERT INTO shop.events (what) SELECT REPEAT('y', 2000) FROM shop.seq_1_to_2000");
    }
    refused(&host, &incremental, &["its binlog"]);
    let (decided, renewed) = next(&host, Some(Failure::ChainBroken));
    assert_eq!((&decided["reason"], renewed.manifest.kind), (&"ChainBroken".into(), BackupKind::Full), "{decided}");
    assert!(renewed.manifest.incarnation > full.manifest.incarnation);
    operator(&host, "audit", &[]).success();

    // Re-initialised on the same host; failed over to another one, or a second host that thinks it is the cluster's.
    let other = MariaDb::start();
    let again = Host::new(&other, &s3);
    refused(&again, &renewed, &["data directory was"]);
    let mut elsewhere = Host::new(&other, &s3);
    elsewhere.set("", "host_id", "\"db-2\"");
    refused(&elsewhere, &renewed, &["was taken on db-1, this is db-2"]);
    // The old one never stopped, and continues its own chain.
    let continued = host.incremental(&renewed);
    assert_eq!(continued.manifest.kind, BackupKind::Incremental);
    // Who takes over says so by its first full, in a new incarnation.
    let (decided, taken_over) = next(&elsewhere, Some(Failure::ChainBroken));
    assert_eq!((&decided["reason"], taken_over.manifest.kind), (&"ChainBroken".into(), BackupKind::Full), "{decided}");
    assert!(taken_over.manifest.incarnation > renewed.manifest.incarnation);
    operator(&host, "audit", &[]).success();
    // And the one that was replaced can no longer be the newest, whatever it publishes.
    let late = host.incremental(&continued);
    let findings = operator(&host, "audit", &[]).json()["findings"].to_string();
    assert!(findings.contains(&late.manifest.backup_id.to_string()), "{findings}");
}

#[test]
fn what_only_the_catalog_can_know_is_refused_at_the_write_and_a_clock_set_back_before_it() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    Load::fill(&db, 50);
    let full = host.full();

    // A second child of one parent, asked for after the first had ended.
    let first = host.incremental(&full);
    let second = host.incremental(&full);
    assert_eq!(first.manifest.from_lsn, second.manifest.from_lsn);
    let parent = refused_at_the_write(&host, &second, "Fork");

    // Two at once, by two helpers that do not know of each other: one of them stands.
    let mut beside = Host::new(&db, &s3);
    beside.set("", "state_dir", format!("{:?}", text(&beside.path("another-state"))));
    let requests = [host.request(Some(&parent)), beside.request(Some(&parent))];
    let files = [host.write_request(&requests[0]), beside.write_request(&requests[1])];
    let slowly = |host: &Host, file: &Path| host.start(&["backup", "--max-rate", "2", "--request", text(file)]);
    let running = [slowly(&host, &files[0]), slowly(&beside, &files[1])];
    for run in running {
        run.finish().success();
    }
    let [one, other] = [0, 1].map(|n| host.backup_of(&requests[n], files[n].clone()));
    let wrong = if one.manifest.finished_at <= other.manifest.finished_at { other } else { one };
    refused_at_the_write(&host, &wrong, "RacingChild");

    // A second host that takes a full for the cluster, in the incarnation of the first.
    let (_, newest) = next(&host, None);
    let other = MariaDb::start();
    let mut elsewhere = Host::new(&other, &s3);
    elsewhere.set("", "host_id", "\"db-2\"");
    let mut request = elsewhere.request(None);
    request.incarnation = newest.manifest.incarnation.clone();
    let wrong = elsewhere.take(&request);
    let parent = refused_at_the_write(&host, &wrong, "SourceChanged");

    // The host's clock was set back: what it took would have begun before its parent ended. It says so before it streams.
    let request = host.request(Some(&parent));
    let file = host.write_request(&request);
    let mut late = host.scratch().command("faketime");
    late.args(["--exclude-monotonic", "-f", "-2h"]).arg(binary("highwater-host"));
    let output = host.run_by(late, &["backup", "--request", text(&file)], &[]);
    assert!(output.failed(Failure::Precondition).error().contains("this host's clock says"), "{output}");
    assert_eq!(host.keys_of(&request), [""; 0]);
    host.run(&["backup", "--request", text(&file)]).success();
}
