//! The stored formats. Each sample was written once and stays as it is: what was stored must be readable for ever.
//! A new version of a format gets a new sample beside the old one.

use highwater_core::approval::{ApprovalFacts, ApprovalV1};
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::certificate::CertificateV1;
use highwater_core::deployment::DeploymentV1;
use highwater_core::drill::DrillReportV1;
use highwater_core::inventory::InventoryV1;
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::planner::plan_restore;
use highwater_core::promotion::PromotionJournalV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{Document, DocumentError, Sha256};

fn bytes(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/fixtures/v1/{name}.json", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

/// Reads the sample, writes it again, and expects the very same bytes.
fn sample<D: Document>(name: &str) -> D {
    let stored = bytes(name);
    let value = D::parse(&stored).unwrap_or_else(|e| panic!("{name}: {e}: {:?}", std::error::Error::source(&e)));
    assert_eq!(
        String::from_utf8(value.to_bytes()).unwrap(),
        String::from_utf8(stored.clone()).unwrap(),
        "{name} is written differently now"
    );
    // What a newer version added is refused, not ignored: it may change what the rest means.
    let newer = String::from_utf8(stored).unwrap().replacen('{', "{\n  \"added_later\": 1,", 1);
    assert!(matches!(D::parse(newer.as_bytes()), Err(DocumentError::Malformed { .. })), "{name} accepts unknown fields");
    let other = newer.replacen(D::FORMAT, "highwater.other.v9", 1);
    assert!(matches!(D::parse(other.as_bytes()), Err(DocumentError::Format { .. })), "{name} accepts another format");
    value
}

#[test]
fn every_stored_format_of_version_1_is_readable() {
    let manifest: ManifestV1 = sample("manifest");
    let request: BackupRequestV1 = sample("request");
    let plan: RestorePlanV1 = sample("plan");
    let inventory: InventoryV1 = sample("inventory");
    // A field that was added later, within version 1: both kinds are read.
    let columns: InventoryV1 = sample("inventory-columns");
    let digests = |i: &InventoryV1| i.tables.iter().map(|t| t.columns.is_some()).collect::<Vec<_>>();
    assert_eq!((digests(&inventory), digests(&columns)), (vec![false, false], vec![true, true, false]));
    let report: DrillReportV1 = sample("drill-report");
    let approval: ApprovalV1 = sample("approval");
    sample::<CertificateV1>("certificate");
    sample::<DeploymentV1>("deployment");
    let journal: PromotionJournalV1 = sample("promotion-journal");
    assert_eq!(journal.approval_sha256, Sha256::of(&bytes("approval")));

    // The samples belong together, as stored documents do.
    let sha256 = Sha256::of(&bytes("manifest"));
    assert_eq!(request.parent.as_ref().unwrap().link.manifest_sha256, sha256);
    assert_eq!((&inventory.backup_id, &columns.backup_id), (&manifest.backup_id, &manifest.backup_id));
    let stored = StoredManifest::parse(manifest.key(), Some("3HL4kqtJlcpXroDTDmjVBH40Nrjfkd".into()), &bytes("manifest")).unwrap();
    let catalog = Catalog::rebuild(manifest.cluster.clone(), [Found::Manifest(Box::new(stored))]);
    assert_eq!(plan_restore(&catalog, &Target::Latest, &plan.bucket, plan.created_at).unwrap(), plan);
    let plan_sha256 = Sha256::of(&bytes("plan"));
    let facts = ApprovalFacts {
        cluster: &plan.cluster,
        plan_sha256,
        report: (&report, Sha256::of(&bytes("drill-report"))),
        host: &approval.target_host,
        now: approval.approved_at,
    };
    assert_eq!(approval.allows(facts), Ok(()));
}
