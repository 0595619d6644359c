//! What a passed drill leaves in the bucket, made here: plan, report, certificate and signature, as `record-drill` writes them.

use crate::{Cloud, block_on};
use highwater_aws::kms::SigningKey;
use highwater_core::certificate::{CERTIFICATE_NAME, Drilled, SIGNATURE_NAME, certify};
use highwater_core::drill::{Check, CheckKind, DrillReportV1, Outcome};
use highwater_core::ids::drill_prefix;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, DrillId, HostId, Pinned, Sha256};
use jiff::Timestamp;

/// The report of a drill of `plan` that began and passed `at`.
pub fn passed_report(plan: &RestorePlanV1, plan_sha256: Sha256, host_id: HostId, at: Timestamp) -> DrillReportV1 {
    let check = |kind| Check {
        kind,
        subject: "server".into(),
        outcome: Outcome::Passed,
        expected: String::new(),
        found: String::new(),
        seconds: 0.1,
    };
    DrillReportV1 {
        format: DrillReportV1::FORMAT.into(),
        cluster: plan.cluster.clone(),
        backup_id: plan.point.backup_id.clone(),
        plan_sha256,
        host_id,
        outcome: Outcome::Passed,
        failure: None,
        server_version: Some(plan.server.version),
        started_at: at,
        finished_at: at,
        phases: Vec::new(),
        checks: vec![check(CheckKind::ServerUp), check(CheckKind::RowCount)],
    }
}

/// Leaves the proof of a drill of `plan` that began `at` and was the execution `named`; gives its id and where its certificate
/// lies. `sign` makes the digest that is signed: [`Sha256::of`] for a genuine one.
pub fn leave_proof(
    cloud: &Cloud,
    plan: &RestorePlanV1,
    (named, at): (&str, Timestamp),
    sign: impl Fn(&[u8]) -> Sha256,
) -> (DrillId, Pinned) {
    let bucket = cloud.bucket();
    let drill_id = DrillId::of_execution(at, named);
    let put = |name: &str, bytes: Vec<u8>| {
        let key = format!("{}{name}", drill_prefix(&plan.cluster, &drill_id));
        let sha256 = Sha256::of(&bytes);
        block_on(bucket.put_new(&key, bytes.into(), "application/octet-stream")).expect("put a part of the proof");
        Pinned::object(bucket.name(), &key, sha256)
    };
    let plan_at = put("plan.json", plan.to_bytes());
    let report = passed_report(plan, plan_at.sha256, "i-0d0000000000000d0".parse().expect("a host id"), at);
    let report_at = put("report.json", report.to_bytes());
    let key = cloud.output("SigningKey");
    let certificate = certify(&Drilled {
        drill_id: &drill_id,
        execution: named,
        instance: &report.host_id,
        plan: (plan, &plan_at),
        report: (&report, &report_at),
        signing_key: key,
    });
    let bytes = certificate.expect("a passed drill").to_bytes();
    let signature = block_on(SigningKey::new(&cloud.sdk(), key).sign(sign(&bytes))).expect("sign");
    let certificate = put(CERTIFICATE_NAME, bytes);
    put(SIGNATURE_NAME, signature);
    (drill_id, certificate)
}
