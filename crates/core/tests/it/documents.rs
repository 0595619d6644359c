//! What each stored document refuses of itself, one rule at a time: a sample that is read, then the same with one thing wrong.

use highwater_core::approval::{ApprovalFacts, ApprovalV1, UNKNOWN_REQUESTER};
use highwater_core::certificate::CertificateV1;
use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::manifest::ManifestV1;
use highwater_core::promotion::PromotionJournalV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{ClusterId, Document, DocumentError, HostId, Sha256};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

fn sample(path: &str) -> Value {
    let path = format!("{}/../../tests/{path}", env!("CARGO_MANIFEST_DIR"));
    serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap()
}

/// The sample is read; with `change`, which says what it breaks, it is refused for `reason`.
#[track_caller]
fn refused<D: Document>(path: &str, reason: &str, change: &dyn Fn(&mut Value)) {
    let mut document = sample(path);
    D::parse(document.to_string().as_bytes()).unwrap();
    change(&mut document);
    match D::parse(document.to_string().as_bytes()) {
        Err(DocumentError::Impossible { reason: found, .. }) => assert!(found.contains(reason), "{reason}: {found}"),
        Err(other) => panic!("{reason}: {other}"),
        Ok(_) => panic!("{reason}: it was read"),
    }
}

#[test]
fn an_approval_names_a_requester_and_enough_others_and_a_time() {
    let refused = refused::<ApprovalV1>;
    let path = "fixtures/v1/approval.json";
    refused(path, "names no requester", &|a| a["requester"] = json!(" "));
    refused(path, "names no approver", &|a| a["approvers"] = json!([]));
    refused(path, "names no approver", &|a| a["approvers"] = json!(["grace", ""]));
    refused(path, "cannot approve it", &|a| a["approvers"] = json!(["grace", "ada"]));
    refused(path, "twice", &|a| a["approvers"] = json!(["grace", "grace"]));
    refused(path, "two have to", &|a| a["requester"] = json!(UNKNOWN_REQUESTER));
    refused(path, "not after", &|a| a["expires_at"] = a["approved_at"].clone());
    let mut two = sample(path);
    (two["requester"], two["approvers"]) = (json!(UNKNOWN_REQUESTER), json!(["grace", "linus"]));
    ApprovalV1::parse(two.to_string().as_bytes()).unwrap();
}

#[test]
fn an_approval_allows_nothing_but_what_it_names_while_it_holds() {
    let read = |path: &str| serde_json::to_vec(&sample(path)).unwrap();
    let approval = ApprovalV1::parse(&read("fixtures/v1/approval.json")).unwrap();
    let mut report = DrillReportV1::parse(&read("fixtures/v1/drill-report.json")).unwrap();
    report.plan_sha256 = approval.plan_sha256;
    let (orders, billing): (ClusterId, ClusterId) = ("orders".parse().unwrap(), "billing".parse().unwrap());
    let another: HostId = "i-0fedcba9876543210".parse().unwrap();
    let (mut of_another_plan, mut failed) = (report.clone(), report.clone());
    of_another_plan.plan_sha256 = Sha256::of(b"another");
    failed.outcome = Outcome::Failed;
    let good = ApprovalFacts {
        cluster: &orders,
        plan_sha256: approval.plan_sha256,
        report: (&report, approval.report_sha256),
        host: &approval.target_host,
        now: approval.approved_at,
    };
    approval.allows(good).unwrap();
    let second = SignedDuration::from_secs(1);
    let refused = |facts: ApprovalFacts<'_>, reason: &str| {
        let found = approval.allows(facts).unwrap_err();
        assert!(found.contains(reason), "{reason}: {found}");
    };
    refused(ApprovalFacts { cluster: &billing, ..good }, "for cluster orders");
    refused(ApprovalFacts { host: &another, ..good }, "this is i-0fedcba9876543210");
    refused(ApprovalFacts { plan_sha256: Sha256::of(b"another"), ..good }, "it approves plan");
    refused(ApprovalFacts { report: (&report, Sha256::of(b"another")), ..good }, "it rests on report");
    refused(ApprovalFacts { report: (&of_another_plan, approval.report_sha256), ..good }, "the drill report is of plan");
    refused(ApprovalFacts { report: (&failed, approval.report_sha256), ..good }, "did not pass");
    refused(ApprovalFacts { now: approval.approved_at - second, ..good }, "it was given at");
    refused(ApprovalFacts { now: approval.expires_at, ..good }, "it expired at");
    approval.allows(ApprovalFacts { now: approval.expires_at - second, ..good }).unwrap();
}

#[test]
fn a_request_is_of_one_kind_and_its_parent_and_time_are_possible() {
    let refused = refused::<BackupRequestV1>;
    let path = "fixtures/v1/request.json";
    refused(path, "does not name a backup of kind full", &|r| r["kind"] = json!("full"));
    refused(path, "its own parent", &|r| r["parent"]["link"]["backup_id"] = r["backup_id"].clone());
    refused(path, "is before its to_lsn", &|r| r["parent"]["last_lsn"] = json!("1"));
    refused(path, "needs its parent", &|r| r["parent"] = Value::Null);
    refused(path, "cannot have a parent", &|r| {
        (r["kind"], r["backup_id"]) = (json!("full"), json!("20261122T080000Z-full-09ab"));
    });
    refused(path, "no bucket is named", &|r| r["bucket"] = json!(""));
    refused(path, "not after", &|r| r["expires_at"] = r["created_at"].clone());
}

#[test]
fn a_manifest_is_of_one_kind_in_order_and_its_sums_are_its_objects() {
    let refused = refused::<ManifestV1>;
    let path = "fixtures/v1/manifest.json";
    let link = json!({
        "backup_id": "20261122T010000Z-full-0001", "to_lsn": "0", "strategy": "incremental",
        "manifest_sha256": "4d5aff1ac24456ac2bad7ea1245398c59561bbc9f2ce274da4eb238722abc35a",
    });
    refused(path, "says incremental", &|m| m["kind"] = json!("incremental"));
    refused(path, "names a parent", &|m| m["parent"] = link.clone());
    refused(path, "starts at LSN", &|m| m["from_lsn"] = json!("7"));
    refused(path, "is after last_lsn", &|m| m["last_lsn"] = json!("1"));
    refused(path, "before it started", &|m| m["finished_at"] = json!("2026-11-22T01:00:00Z"));
    refused(path, "no data object", &|m| (m["objects"], m["stored_bytes"]) = (json!([]), json!(0)));
    refused(path, "not one of this backup's", &|m| m["objects"][0]["key"] = json!("v1/orders/elsewhere/data-000"));
    refused(path, "is empty or its frame table", &|m| m["objects"][0]["frames"] = json!(0));
    refused(path, "not the sum", &|m| m["stored_bytes"] = json!(1));
    refused(path, "overflow", &|m| {
        let mut more = m["objects"][0].clone();
        (more["key"], more["size"]) = (json!(more["key"].as_str().unwrap().replace("data-000", "data-001")), json!(0));
        (more["raw_bytes"], more["size"], more["table_offset"]) = (json!(u64::MAX), json!(100), json!(8));
        m["stored_bytes"] = json!(m["stored_bytes"].as_u64().unwrap() + 100);
        m["objects"].as_array_mut().unwrap().push(more);
    });
}

#[test]
fn a_backup_that_is_its_own_parent_is_refused_as_a_document_too() {
    let mut m = ManifestV1::parse(&serde_json::to_vec(&sample("fixtures/v1/manifest.json")).unwrap()).unwrap();
    let id = "20261122T020000Z-incremental-4f7c";
    let prefix = m.key().replace("manifest.json", "");
    let own = prefix.replace("20261122T020000Z-full-4f7c", id);
    let mut json = serde_json::to_value(&m).unwrap();
    (json["kind"], json["backup_id"]) = (json!("incremental"), json!(id));
    json["objects"][0]["key"] = json!(m.objects[0].key.replace(&prefix, &own));
    json["inventory"]["key"] = json!(m.inventory.object.key.replace(&prefix, &own));
    let parent = |of: &str| {
        json!({
            "backup_id": of, "to_lsn": "0", "strategy": "incremental",
            "manifest_sha256": "4d5aff1ac24456ac2bad7ea1245398c59561bbc9f2ce274da4eb238722abc35a",
        })
    };
    json["parent"] = parent("20261122T010000Z-full-0001");
    m = ManifestV1::parse(json.to_string().as_bytes()).unwrap();
    assert_eq!(m.backup_id.to_string(), id);
    json["parent"] = parent(id);
    let refused = ManifestV1::parse(json.to_string().as_bytes()).unwrap_err().to_string();
    assert!(refused.contains("its own parent"), "{refused}");
}

#[test]
fn a_certificate_names_objects_and_checks_and_a_drill_that_ended_after_it_began() {
    let refused = refused::<CertificateV1>;
    let path = "fixtures/v1/certificate.json";
    refused(path, "names no object", &|c| c["objects"] = json!([]));
    refused(path, "no check ran", &|c| c["checks"] = json!(0));
    refused(path, "ended before it began", &|c| c["finished_at"] = json!(Timestamp::UNIX_EPOCH));
}

#[test]
fn a_journal_exchanges_something_between_places_of_its_own() {
    let refused = refused::<PromotionJournalV1>;
    let path = "corpus/promotion-journal/staging.json";
    refused(path, "exchanges no directory", &|j| j["slots"] = json!([]));
    refused(path, "not an absolute path", &|j| j["slots"][0]["aside"] = json!("data.old"));
    refused(path, "two of its places are one", &|j| j["slots"][0]["undone"] = j["slots"][0]["live"].clone());
}
