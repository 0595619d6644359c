//! The operator's command on a bucket: list, decide, plan, audit. Backups are synthetic here: objects of a few bytes, published
//! in the right order, so that every command sees what S3 really answers.

use highwater_aws::s3::Bucket;
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::RestorePlanV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{Document, Failure};
use highwater_tests::{S3, block_on, publish};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A directory for requests and plans, and `highwater` in it.
struct Operator<'a> {
    s3: &'a S3,
    dir: tempfile::TempDir,
}

impl<'a> Operator<'a> {
    fn new(s3: &'a S3) -> Self {
        Self { s3, dir: tempfile::tempdir().unwrap() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.dir.path().join(name)
    }

    /// Runs `highwater --json <args> --bucket backups --cluster orders`; its exit code and what it printed.
    fn run(&self, args: &[&str]) -> (i32, Value) {
        let mut command = Command::new(highwater_tests::binary("highwater"));
        command.arg("--json").args(args).args(["--bucket", "backups", "--cluster", "orders"]);
        let output = command.envs(self.s3.env()).current_dir(self.dir.path()).output().unwrap();
        let text = String::from_utf8(output.stdout).unwrap();
        let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
        (output.status.code().unwrap(), value)
    }

    #[track_caller]
    fn good(&self, args: &[&str]) -> Value {
        let (code, value) = self.run(args);
        assert_eq!(code, 0, "{args:?}: {value}");
        value
    }

    #[track_caller]
    fn fails(&self, failure: Failure, args: &[&str]) -> Value {
        let (code, value) = self.run(args);
        assert_eq!(code, i32::from(failure.exit_code()), "{args:?}: {value}");
        value
    }

    fn read<D: Document>(&self, name: &str) -> D {
        D::parse(&std::fs::read(self.path(name)).unwrap()).unwrap()
    }
}

fn chain(bucket: &Bucket) -> [ManifestV1; 3] {
    let full = publish(bucket, 0, None);
    let one = publish(bucket, 1, Some(&full));
    let two = publish(bucket, 2, Some(&one));
    [full.0, one.0, two.0]
}

fn names(audit: &Value) -> Vec<&str> {
    audit["findings"].as_array().unwrap().iter().map(|f| f["name"].as_str().unwrap()).collect()
}

#[test]
fn i1_the_operator_works_from_the_bucket_alone() {
    let s3 = S3::start();
    let operator = Operator::new(&s3);
    assert_eq!(names(&operator.fails(Failure::Damaged, &["audit"])), ["NoRestorePoint"]);
    operator.fails(Failure::Document, &["plan", "--out", "none.json"]);
    assert_eq!(operator.good(&["next-backup", "--out", "first.json"])["reason"], "NoneCommitted");

    let [full, one, two] = chain(&s3.bucket());
    let listed = operator.good(&["backups"]);
    let ids: Vec<_> = listed["backups"].as_array().unwrap().iter().map(|b| b["backup_id"].as_str().unwrap().to_owned()).collect();
    assert_eq!(ids, [&full, &one, &two].map(|m| m.backup_id.to_string()));
    let audit = operator.good(&["audit"]);
    assert_eq!((audit["objects"].as_u64(), audit["without_checksum"].as_u64()), (Some(9), Some(0)));

    operator.good(&["plan", "--target", &one.backup_id.to_string(), "--out", "plan.json"]);
    let plan: RestorePlanV1 = operator.read("plan.json");
    assert_eq!(plan.steps.iter().map(|s| &s.backup_id).collect::<Vec<_>>(), [&full.backup_id, &one.backup_id]);
    assert!(plan.steps.iter().all(|s| s.manifest.version_id.is_some()), "the plan pins the versions that it was made from");
    let before = std::fs::read(operator.path("plan.json")).unwrap();
    operator.fails(Failure::Document, &["plan", "--out", "plan.json"]);
    assert_eq!(std::fs::read(operator.path("plan.json")).unwrap(), before, "a plan is never overwritten");

    let decided = operator.good(&["next-backup", "--max-full-age", "99999d", "--out", "next.json"]);
    assert_eq!((&decided["reason"], &decided["parent"]), (&"ContinueChain".into(), &two.backup_id.to_string().into()));
    let request: BackupRequestV1 = operator.read("next.json");
    assert_eq!(request.parent.unwrap().last_lsn, two.last_lsn);
    let broken = operator.good(&["next-backup", "--last-exit-code", "30", "--out", "broken.json"]);
    assert_eq!((&broken["reason"], &broken["kind"]), (&"ChainBroken".into(), &"full".into()));
}

#[test]
fn i2_what_is_no_manifest_is_named_and_breaks_the_chain() {
    let s3 = S3::start();
    let operator = Operator::new(&s3);
    let [full, .., two] = chain(&s3.bucket());
    let key = full.key().replace(&full.backup_id.to_string(), "20261123T000000Z-full-0000");
    block_on(s3.bucket().put_new(&key, "{\"format\":\"highwater.manifest.v9\"}".into(), "application/json")).unwrap();
    let listed = operator.good(&["backups"]);
    assert_eq!((&listed["rejected"][0]["key"], &listed["rejected"][0]["rule"]), (&key.clone().into(), &"Unreadable".into()));
    assert_eq!(names(&operator.fails(Failure::Damaged, &["audit"])), ["Unreadable"]);
    let decided = operator.good(&["next-backup", "--max-full-age", "99999d", "--out", "next.json"]);
    assert_eq!(decided["reason"], "ChainBroken");
    assert_ne!(decided["incarnation"], two.incarnation.to_string());
    // The restore points before it are as good as ever.
    assert_eq!(operator.good(&["plan", "--out", "plan.json"])["backup_id"], two.backup_id.to_string());
}

#[test]
fn an_object_that_was_overwritten_or_deleted_stays_reachable_by_its_version() {
    let s3 = S3::start();
    let operator = Operator::new(&s3);
    let [full, one, _] = chain(&s3.bucket());
    s3.overwrite(&full.objects[0].key, b"something else");
    s3.delete(&one.objects[0].key);
    assert_eq!(operator.good(&["audit"])["broken"], 0);
}

#[test]
fn damage_is_found_with_the_restore_points_it_costs() {
    let s3 = S3::start_on_disk();
    let operator = Operator::new(&s3);
    let [full, one, two] = chain(&s3.bucket());
    assert_eq!(operator.good(&["audit"])["broken"], 0);
    s3.damage(&one.objects[0].key, |bytes| bytes.truncate(3));
    let lose = |key: &str| std::fs::remove_file(s3.path().join("store/backups").join(key)).unwrap();
    lose(&two.inventory.object.key);
    let audit = operator.fails(Failure::Damaged, &["audit"]);
    assert_eq!(names(&audit), ["ObjectSize", "ObjectMissing"]);
    let lost = |i: usize| audit["findings"][i]["lost_restore_points"].as_array().unwrap().len();
    assert_eq!((lost(0), lost(1)), (2, 1));
    // The full's manifest is gone: nothing is left that could be planned, and nothing is.
    lose(&full.key());
    let audit = operator.fails(Failure::Damaged, &["audit"]);
    assert_eq!(names(&audit), ["NoRestorePoint", "OrphanIncremental", "OrphanIncremental"]);
    operator.fails(Failure::Damaged, &["plan", "--target", &two.backup_id.to_string(), "--out", "plan.json"]);
    assert!(!Path::new(&operator.path("plan.json")).exists());
}

#[test]
fn an_approval_needs_a_second_person_and_a_passed_drill_of_that_very_plan() {
    let dir = tempfile::tempdir().unwrap();
    let fixture = |name: &str| format!("{}/fixtures/v1/{name}.json", env!("CARGO_MANIFEST_DIR"));
    let out = dir.path().join("approval.json");
    let approve = |plan: &str, report: &str, approver: &str| {
        let mut command = Command::new(highwater_tests::binary("highwater"));
        command.args([
            "write-approval",
            "--plan",
            plan,
            "--report",
            report,
            "--host",
            "db-1",
            "--requester",
            "ada",
            "--approver",
            approver,
        ]);
        command.arg("--out").arg(&out).output().unwrap().status.code().unwrap()
    };
    let refused = i32::from(Failure::Approval.exit_code());
    let (plan, report) = (fixture("plan"), fixture("drill-report"));
    assert_eq!(approve(&plan, &report, "ada"), refused, "nobody approves what they asked for");
    assert_eq!(approve(&plan, &report, " ada "), refused, "nor under the same name with spaces around it");
    // The same plan with one more space is another plan: the drill did not prove these bytes.
    let other = dir.path().join("other.json");
    std::fs::write(&other, [std::fs::read(&plan).unwrap(), b" ".to_vec()].concat()).unwrap();
    assert_eq!(approve(other.to_str().unwrap(), &report, "grace"), refused);
    let failed = dir.path().join("failed.json");
    let text = String::from_utf8(std::fs::read(&report).unwrap()).unwrap().replace("\"passed\"", "\"failed\"");
    std::fs::write(&failed, text).unwrap();
    assert_eq!(approve(&plan, failed.to_str().unwrap(), "grace"), refused, "a failed drill proves nothing");
    assert!(!out.exists());
    assert_eq!(approve(&plan, &report, "grace"), 0);
}
