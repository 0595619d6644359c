//! The whole way, as an operator goes it: both commands, nothing made by hand, on an S3 that behaves as S3 does.

use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::plan::RestorePlanV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{BackupKind, Document, Failure};
use highwater_tests::{Backup, Host, Load, MariaDb, Oracle, Output, PlanFile, S3, Snapshot};
use std::path::PathBuf;

const OF: [&str; 4] = ["--bucket", "backups", "--cluster", "shop"];

struct Operator<'a>(&'a Host);

impl Operator<'_> {
    fn highwater(&self, args: &[&str]) -> Output {
        self.0.cli(args)
    }

    /// Asks what comes next, and has it asked for in a file.
    fn next(&self, name: &str, more: &[&str]) -> (PathBuf, BackupRequestV1) {
        let path = self.0.path(&format!("{name}.json"));
        self.highwater(&[&["next-backup"], &OF[..], &["--out", path.to_str().unwrap()], more].concat()).success();
        let request = BackupRequestV1::parse(&std::fs::read(&path).unwrap()).unwrap();
        (path, request)
    }

    /// Asks, and takes it.
    fn back_up(&self, name: &str, more: &[&str]) -> Backup {
        let (path, request) = self.next(name, more);
        self.0.run(&["backup", "--request", path.to_str().unwrap()]).success();
        self.0.backup_of(&request, path)
    }

    fn plan(&self, name: &str, target: &str) -> PlanFile {
        let path = self.0.path(&format!("{name}.plan.json"));
        self.highwater(&[&["plan"], &OF[..], &["--target", target, "--out", path.to_str().unwrap()]].concat()).success();
        let bytes = std::fs::read(&path).unwrap();
        PlanFile { path, plan: RestorePlanV1::parse(&bytes).unwrap(), sha256: highwater_core::Sha256::of(&bytes) }
    }
}

#[test]
fn from_the_first_backup_to_a_promotion_and_on_in_a_new_incarnation() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let mut host = Host::new(&db, &s3);
    host.promotable(&db);
    host.add("drill.assert", "name = \"customers\"\nsql = \"SELECT COUNT(*) FROM shop.customers\"\nexpect = \"1000\"");
    let load = Load::start(&db);
    let operator = Operator(&host);

    let full = operator.back_up("first", &[]);
    let second = operator.back_up("second", &[]);
    let third = operator.back_up("third", &[]);
    assert_eq!((full.manifest.kind, second.manifest.kind), (BackupKind::Full, BackupKind::Incremental));
    assert_eq!(third.manifest.parent.as_ref().map(|p| &p.backup_id), Some(&second.manifest.backup_id));
    load.stop();
    operator.highwater(&[&["audit"], &OF[..]].concat()).success();

    // A time, an LSN and an id that all mean the second backup.
    let by_time = operator.plan("time", &second.manifest.finished_at.to_string());
    let by_lsn = operator.plan("lsn", &format!("lsn:{}", second.manifest.last_lsn));
    let by_id = operator.plan("id", &second.manifest.backup_id.to_string());
    for plan in [&by_time, &by_lsn, &by_id] {
        assert_eq!(plan.plan.point.backup_id, second.manifest.backup_id);
        assert_eq!(plan.plan.steps.len(), 2);
    }
    let expected = Oracle::of(&db).at(second.manifest.binlog.as_ref().unwrap());

    host.drill(&by_time).success();
    let report: DrillReportV1 = host.report(&by_time);
    assert_eq!((report.outcome, report.backup_id), (Outcome::Passed, second.manifest.backup_id.clone()));

    let (plan, report, approval) = (by_time.path.clone(), host.report_of(&by_time), host.path("approval.json"));
    let (plan, report, approval) = (plan.to_str().unwrap(), report.to_str().unwrap(), approval.to_str().unwrap());
    let approve =
        ["write-approval", "--plan", plan, "--report", report, "--host", "db-1", "--requester", "alice", "--out", approval, "--approver"];
    let alone = operator.highwater(&[&approve[..], &["alice"]].concat());
    assert_eq!(alone.status.code(), Some(Failure::Approval.exit_code().into()), "nobody approves their own request: {alone}");
    operator.highwater(&[&approve[..], &["bob"]].concat()).success();

    let replaced = Snapshot::of(&db);
    host.as_root(&db);
    host.run(&["promote", "--plan", plan, "--report", report, "--approval", approval]).success();
    expected.assert_same(&Snapshot::of(&db), "the promoted data");

    // The promoted server is another life: it cannot continue the chain, and says so before it streams anything.
    let operator = Operator(&host);
    let (path, request) = operator.next("after", &[]);
    host.run(&["backup", "--request", path.to_str().unwrap()]).failed(Failure::ChainBroken);
    assert_eq!(host.keys_of(&request), Vec::<String>::new());
    let code = Failure::ChainBroken.exit_code().to_string();
    let fresh = operator.back_up("fresh", &["--last-exit-code", &code, "--new-incarnation"]);
    assert_eq!(fresh.manifest.kind, BackupKind::Full);
    assert_ne!(fresh.manifest.incarnation, full.manifest.incarnation);
    operator.highwater(&[&["audit"], &OF[..]].concat()).success();
    assert_eq!(operator.plan("latest", "latest").plan.point.backup_id, fresh.manifest.backup_id);
    assert!(s3.unfinished_uploads().is_empty());

    host.run(&["rollback"]).success();
    replaced.assert_same(&Snapshot::of(&db), "the data that was replaced");
}
