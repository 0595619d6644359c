//! Certificates: what earns one, and that a signed one proves exactly what it says. The sample was signed by OpenSSL.

use highwater_core::certificate::{CertificateError, CertificateV1, Checksum, Drilled, PublicKey, certify, verify};
use highwater_core::drill::{DrillReportV1, Outcome};
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, HostId, Pinned, Sha256};
use p256::ecdsa::signature::hazmat::PrehashSigner;
use p256::ecdsa::{Signature, SigningKey};
use p256::pkcs8::{EncodePublicKey, LineEnding};
use proptest::prelude::*;

fn fixture(name: &str) -> Vec<u8> {
    std::fs::read(format!("{}/../../tests/fixtures/v1/{name}", env!("CARGO_MANIFEST_DIR"))).unwrap()
}

fn pinned(name: &str) -> Pinned {
    let uri = format!("s3://highwater-backups/v1/orders/drills/20261122T090000Z-4f7c90ab/{name}");
    Pinned { uri, sha256: Sha256::of(&fixture(if name == "plan.json" { "plan.json" } else { "drill-report.json" })) }
}

/// What the sample's drill has earned, after `change`.
fn earned(change: impl FnOnce(&mut RestorePlanV1, &mut DrillReportV1, &mut HostId)) -> Result<CertificateV1, String> {
    let mut plan = RestorePlanV1::parse(&fixture("plan.json")).unwrap();
    let mut report = DrillReportV1::parse(&fixture("drill-report.json")).unwrap();
    let mut instance = report.host_id.clone();
    change(&mut plan, &mut report, &mut instance);
    certify(&Drilled {
        drill_id: &"20261122T090000Z-4f7c90ab".parse().unwrap(),
        execution: "arn:aws:states:eu-west-1:123456789012:execution:highwater-drill:5e8d",
        instance: &instance,
        plan: (&plan, &pinned("plan.json")),
        report: (&report, &pinned("report.json")),
        signing_key: "arn:aws:kms:eu-west-1:123456789012:key/0c9e2d3a-1111-2222-3333-444455556666",
    })
}

#[test]
fn the_samples_drill_earned_the_samples_certificate() {
    let certificate = earned(|_, _, _| ()).unwrap();
    assert_eq!(String::from_utf8(certificate.to_bytes()).unwrap(), String::from_utf8(fixture("certificate.json")).unwrap());
    assert_eq!(certificate.objects.len(), 3, "manifest, inventory, data");
    assert!(matches!(certificate.objects[2].checksum, Checksum::Crc64Nvme(_)));
}

#[test]
fn a_drill_that_did_not_pass_or_is_of_something_else_earns_none() {
    let refused = |what: &str, change: fn(&mut RestorePlanV1, &mut DrillReportV1, &mut HostId)| {
        let reason = earned(change).unwrap_err();
        assert!(reason.contains(what), "{what}: {reason}");
    };
    refused("says failed", |_, report, _| report.outcome = Outcome::Failed);
    refused("impossible", |_, report, _| report.checks.clear());
    refused("impossible", |_, report, _| report.checks[0].outcome = Outcome::Failed);
    refused("impossible", |_, report, _| report.failure = Some("no disk".into()));
    refused("is of plan", |_, report, _| report.plan_sha256 = Sha256::of(b"another"));
    refused("of cluster", |_, report, _| report.cluster = "billing".parse().unwrap());
    refused("the plan ends with", |_, report, _| report.backup_id = "20261122T030000Z-full-0000".parse().unwrap());
    refused("the drill ran on", |_, _, instance| *instance = "i-0123".parse().unwrap());
    refused("no server version", |_, report, _| report.server_version = None);
}

#[test]
fn a_certificate_signed_elsewhere_is_verified_with_pem_and_der_and_by_no_other_key() {
    let (bytes, signature) = (fixture("certificate.json"), fixture("certificate.sig"));
    for key in ["certificate-key.pem", "certificate-key.der"] {
        let key = PublicKey::parse(&fixture(key)).unwrap();
        assert_eq!(verify(&bytes, &signature, &key).unwrap(), earned(|_, _, _| ()).unwrap());
    }
    let name = |result: Result<CertificateV1, CertificateError>| result.unwrap_err().name();
    assert_eq!(name(verify(&bytes, &signature, &signer(7).1)), "Signature");
    let (key, public) = signer(7);
    assert_eq!(name(verify(b"{}", &sign(&key, b"{}"), &public)), "Document", "signed, but no certificate");
    for other in [&b""[..], b"-----BEGIN PUBLIC KEY-----\nAAAA\n-----END PUBLIC KEY-----\n", b"\x30\x00"] {
        assert_eq!(PublicKey::parse(other).unwrap_err().name(), "Key");
    }
}

#[test]
fn a_certificate_is_of_its_plan_and_report_only() {
    let certificate = earned(|_, _, _| ()).unwrap();
    let (plan, report) = (Some(certificate.plan.sha256), Some(certificate.report.sha256));
    assert!(certificate.is_of(plan, report).is_ok() && certificate.is_of(None, None).is_ok());
    assert_eq!(certificate.is_of(report, None).unwrap_err().name(), "OtherPlan");
    assert_eq!(certificate.is_of(plan, plan).unwrap_err().name(), "OtherReport");
}

fn signer(seed: u8) -> (SigningKey, PublicKey) {
    let key = SigningKey::from_slice(&[seed; 32]).unwrap();
    let pem = key.verifying_key().to_public_key_pem(LineEnding::LF).unwrap();
    (key, PublicKey::parse(pem.as_bytes()).unwrap())
}

fn sign(key: &SigningKey, bytes: &[u8]) -> Vec<u8> {
    let signature: Signature = key.sign_prehash(Sha256::of(bytes).as_bytes()).unwrap();
    signature.to_der().as_bytes().to_vec()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// Whatever byte of the certificate or of its signature changes, and however: it is refused.
    #[test]
    fn any_changed_byte_is_refused(at in any::<prop::sample::Index>(), flip in 1u8.., cut in any::<bool>(), in_signature in any::<bool>()) {
        let (mut bytes, mut signature) = (fixture("certificate.json"), fixture("certificate.sig"));
        let key = PublicKey::parse(&fixture("certificate-key.pem")).unwrap();
        let changed = if in_signature { &mut signature } else { &mut bytes };
        let at = at.index(changed.len());
        if cut { changed.truncate(at) } else { changed[at] ^= flip }
        let refused = verify(&bytes, &signature, &key).unwrap_err();
        prop_assert!(matches!(refused.name(), "Signature" | "SignatureForm"), "{}", refused.name());
    }

    #[test]
    fn only_the_key_that_signed_verifies(ours in 1u8..=250, theirs in 1u8..=250) {
        let ((key, public), (_, other)) = (signer(ours), signer(theirs));
        let bytes = fixture("certificate.json");
        let signature = sign(&key, &bytes);
        prop_assert!(verify(&bytes, &signature, &public).is_ok());
        prop_assert_eq!(verify(&bytes, &signature, &other).is_ok(), ours == theirs);
    }
}
