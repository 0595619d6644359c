//! Documents by way of the bucket, as the control plane hands them over: exactly the pinned bytes, or nothing happens.

use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::{Document, Failure, Sha256};
use highwater_tests::{Host, Load, MariaDb, S3, block_on};

#[test]
fn a_document_from_the_bucket_is_the_pinned_one_or_nothing_happens() {
    let (db, s3) = (MariaDb::start(), S3::start());
    Load::fill(&db, 200);
    let host = Host::new(&db, &s3);
    let put = |key: &str, bytes: Vec<u8>| {
        let sha256 = Sha256::of(&bytes).to_string();
        block_on(s3.bucket().put_new(key, bytes.into(), "application/json")).unwrap();
        (format!("s3://backups/{key}"), sha256)
    };

    let request = host.request(None);
    let (uri, sha256) = put("requests/one.json", request.to_bytes());
    let other = Sha256::of(b"other").to_string();
    host.run(&["backup", "--request", &uri]).failed(Failure::Document);
    host.run(&["backup", "--request", &uri, "--sha256", &other]).failed(Failure::Document);
    host.run(&["backup", "--request", "s3://backups/requests/none.json", "--sha256", &sha256]).failed(Failure::Damaged);
    assert_eq!(host.keys_of(&request), [] as [String; 0]);
    host.run(&["backup", "--request", &uri, "--sha256", &sha256]).success();

    let path = host.write_request(&request);
    let plan = host.plan_of(&[&host.backup_of(&request, path)]);
    let (uri, sha256) = put("plans/one.json", plan.plan.to_bytes());
    let work = host.path("work").display().to_string();
    let drill = |sha256: &str, report: &str| host.run(&["drill", "--plan", &uri, "--sha256", sha256, "--work", &work, "--report", report]);
    drill(&other, "s3://backups/drills/one/report.json").failed(Failure::Document);
    drill(&sha256, "s3://backups/drills/one/report.json").success();
    let first = s3.get("drills/one/report.json");
    let report = DrillReportV1::parse(&first).unwrap();
    assert_eq!((report.outcome, report.plan_sha256), (Outcome::Passed, plan.sha256));
    // Another drill has another report; the first stays as it is.
    drill(&sha256, "s3://backups/drills/one/report.json").failed(Failure::Document);
    assert_eq!(s3.get("drills/one/report.json"), first);
}
