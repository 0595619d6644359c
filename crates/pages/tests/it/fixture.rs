//! What the tests and the example show: the stored fixtures, and two clusters.

use highwater_core::Document;
use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::plan::RestorePlanV1;
use highwater_pages::{BackupView, CertificateView, ClusterView, DrillView, Proof};

pub fn fixture() -> (RestorePlanV1, DrillReportV1) {
    let plan = RestorePlanV1::parse(include_bytes!("../../../../tests/fixtures/v1/plan.json")).unwrap();
    (plan, DrillReportV1::parse(include_bytes!("../../../../tests/fixtures/v1/drill-report.json")).unwrap())
}

pub fn certificate() -> CertificateView {
    CertificateView {
        uri: "s3://backups/v1/orders/drills/d/certificate.json".into(),
        sha256: highwater_core::Sha256::of(b"c"),
        key: "arn:aws:kms:eu-west-1:1:key/k".into(),
    }
}

pub fn cluster(name: &str) -> ClusterView {
    let backup = |id: &str, parent: Option<&str>, at: &str, proven| BackupView {
        id: id.parse().unwrap(),
        parent: parent.map(|p| p.parse().unwrap()),
        at: at.parse().unwrap(),
        stored: 1_130_000_000,
        proven,
    };
    let (full, one, two) = ("20261122T020000Z-full-4f7c", "20261122T030000Z-incremental-0001", "20261122T040000Z-incremental-0002");
    ClusterView {
        cluster: name.parse().unwrap(),
        problems: Vec::new(),
        overdue_after: 26.0 * 3600.0,
        proven: Some(Proof { backup_id: full.parse().unwrap(), drill_id: "d-7".into(), at: "2026-11-22T02:40:00Z".parse().unwrap() }),
        expected_restore: Some(1234.0),
        backups: vec![
            backup("20261115T020000Z-full-0a0a", None, "2026-11-15T02:01:00Z", false),
            backup(full, None, "2026-11-22T02:00:41Z", true),
            backup(one, Some(full), "2026-11-22T03:00:11Z", false),
            backup(two, Some(one), "2026-11-22T04:00:12Z", false),
        ],
        drills: vec![DrillView {
            id: "d-7".into(),
            backup_id: full.parse().unwrap(),
            outcome: Outcome::Passed,
            at: "2026-11-22T02:40:00Z".parse().unwrap(),
            restore_seconds: Some(812.0),
            report: Some("../v1/orders/drills/d-7/report.html".into()),
        }],
    }
}
