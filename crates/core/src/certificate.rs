//! The certificate of a passed drill: which exact objects were restored, by what, how long it took, and how it was checked.
//!
//! It is signed as it is stored: `certificate.sig` is the DER ECDSA signature (P-256, SHA-256) of `certificate.json`'s bytes, so
//! `openssl dgst -sha256 -verify KEY -signature certificate.sig certificate.json` says the same as [`verify`], without Highwater.
//! The same drill gives the same bytes, whenever they are made (I4): nothing in them is from the moment of signing.

use crate::document::{Document, DocumentError, Pinned};
use crate::drill::{DrillReportV1, Outcome, Phase};
use crate::identity::{ToolName, Vendor, Version};
use crate::ids::{BackupId, ClusterId, DrillId, HostId, Incarnation};
use crate::manifest::ToolInfo;
use crate::plan::{PlanStep, RestorePlanV1, RestorePoint};
use crate::{Failure, Sha256};
use jiff::Timestamp;
use p256::ecdsa::signature::hazmat::PrehashVerifier;
use p256::ecdsa::{Signature, VerifyingKey};
use p256::pkcs8::DecodePublicKey;
use serde::{Deserialize, Serialize};

/// The file name of the certificate below a drill's prefix.
pub const CERTIFICATE_NAME: &str = "certificate.json";
/// The file name of its signature, beside it.
pub const SIGNATURE_NAME: &str = "certificate.sig";

/// A certificate, version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CertificateV1 {
    /// `highwater.certificate.v1`.
    pub format: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The drill.
    pub drill_id: DrillId,
    /// The Step Functions execution that was the drill.
    pub execution: String,
    /// The instance it ran on.
    pub instance: HostId,
    /// The plan that it proved.
    pub plan: Pinned,
    /// The report that says so.
    pub report: Pinned,
    /// The life of the data directory.
    pub incarnation: Incarnation,
    /// The restore point that was reached.
    pub point: RestorePoint,
    /// Every object that was read, in the order of the plan.
    pub objects: Vec<ProvenObject>,
    /// What took part.
    pub versions: Versions,
    /// When the drill began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How long each phase took, in order.
    pub phases: Vec<Phase>,
    /// Checks that ran; every one of them passed.
    pub checks: u64,
    /// The key that signs: its ARN.
    pub signing_key: String,
}

/// One exact object that the drill restored from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ProvenObject {
    /// The backup it belongs to.
    pub backup_id: BackupId,
    /// Its key.
    pub key: String,
    /// S3's version id, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// Bytes stored.
    pub size: u64,
    /// How its bytes are known.
    pub checksum: Checksum,
}

/// A checksum, named.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Checksum {
    /// Of a small document.
    Sha256(Sha256),
    /// Of a data object, base64 as S3 prints it.
    Crc64Nvme(String),
}

/// The versions of what took part.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Versions {
    /// MariaDB or MySQL.
    pub vendor: Vendor,
    /// The server that was backed up.
    pub source: Version,
    /// The server that served the restored data.
    pub restored: Version,
    /// The tool that made the backups.
    pub tool: ToolName,
    /// Its version, at the last of them.
    pub tool_version: Version,
}

/// Which drill a certificate is for.
#[derive(Debug, Clone)]
pub struct Drilled<'a> {
    /// The drill.
    pub drill_id: &'a DrillId,
    /// Its execution.
    pub execution: &'a str,
    /// The instance that was launched for it.
    pub instance: &'a HostId,
    /// The plan, and where it lies.
    pub plan: (&'a RestorePlanV1, &'a Pinned),
    /// The report, and where it lies.
    pub report: (&'a DrillReportV1, &'a Pinned),
    /// ARN of the key that will sign.
    pub signing_key: &'a str,
}

/// The certificate that a drill has earned.
///
/// # Errors
/// Why it has earned none, for a person (I5): it did not pass, or its report is of something else.
pub fn certify(drilled: &Drilled<'_>) -> Result<CertificateV1, String> {
    let Drilled { plan: (plan, plan_at), report: (report, report_at), instance, .. } = *drilled;
    let rule = |holds: bool, reason: String| if holds { Ok(()) } else { Err(reason) };
    rule(report.outcome == Outcome::Passed, "the report says failed".into())?;
    report.check().map_err(|reason| format!("the report is impossible: {reason}"))?;
    rule(report.plan_sha256 == plan_at.sha256, format!("the report is of plan {}, this is plan {}", report.plan_sha256, plan_at.sha256))?;
    rule(report.cluster == plan.cluster, format!("the report is of cluster {}, the plan of {}", report.cluster, plan.cluster))?;
    let point = &plan.point.backup_id;
    rule(report.backup_id == *point, format!("the report is of {}, the plan ends with {point}", report.backup_id))?;
    rule(report.host_id == *instance, format!("the report is from {}, the drill ran on {instance}", report.host_id))?;
    let restored = report.server_version.ok_or("the report names no server version")?;
    let last = plan.steps.last().ok_or("the plan has no step")?;
    let ToolInfo { name: tool, version: tool_version } = last.tool;
    Ok(CertificateV1 {
        format: CertificateV1::FORMAT.to_owned(),
        cluster: plan.cluster.clone(),
        drill_id: drilled.drill_id.clone(),
        execution: drilled.execution.to_owned(),
        instance: instance.clone(),
        plan: plan_at.clone(),
        report: report_at.clone(),
        incarnation: plan.incarnation.clone(),
        point: plan.point.clone(),
        objects: plan.steps.iter().flat_map(objects).collect(),
        versions: Versions { vendor: plan.server.vendor, source: plan.server.version, restored, tool, tool_version },
        started_at: report.started_at,
        finished_at: report.finished_at,
        phases: report.phases.clone(),
        checks: report.checks.len() as u64,
        signing_key: drilled.signing_key.to_owned(),
    })
}

fn objects(step: &PlanStep) -> Vec<ProvenObject> {
    let small = |object: &crate::manifest::ObjectRef| ProvenObject {
        backup_id: step.backup_id.clone(),
        key: object.key.clone(),
        version_id: object.version_id.clone(),
        size: object.size,
        checksum: Checksum::Sha256(object.sha256),
    };
    let data = step.objects.iter().map(|object| ProvenObject {
        backup_id: step.backup_id.clone(),
        key: object.key.clone(),
        version_id: object.version_id.clone(),
        size: object.size,
        checksum: Checksum::Crc64Nvme(object.crc64nvme.clone()),
    });
    [small(&step.manifest), small(&step.inventory.object)].into_iter().chain(data).collect()
}

impl Document for CertificateV1 {
    const FORMAT: &'static str = "highwater.certificate.v1";

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        let rule = |holds: bool, reason: &str| if holds { Ok(()) } else { Err(reason.to_owned()) };
        rule(!self.objects.is_empty(), "it names no object")?;
        rule(self.checks > 0, "no check ran")?;
        rule(self.started_at <= self.finished_at, "the drill ended before it began")
    }
}

/// Why a certificate proves nothing.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// Not a public key that we can use.
    #[error("the key is no P-256 public key in PEM or DER (SubjectPublicKeyInfo): {0}")]
    Key(String),
    /// Not a signature at all.
    #[error("the signature is no DER ECDSA signature of P-256")]
    SignatureForm,
    /// A signature of other bytes, or by another key.
    #[error("the signature is not this key's over these bytes: the certificate was changed, or another key signed it")]
    Signature,
    /// Signed, but not a certificate that this code reads.
    #[error("the certificate cannot be read")]
    Document(#[from] DocumentError),
    /// It is about something else.
    #[error("the certificate is of {what} {certified}, this is {what} {given}")]
    Other {
        /// `plan` or `report`.
        what: &'static str,
        /// In the certificate.
        certified: Sha256,
        /// What it was held against.
        given: Sha256,
    },
}

impl CertificateError {
    /// The reason's name: stable, for scripts.
    pub fn name(&self) -> &'static str {
        match self {
            Self::Key(_) => "Key",
            Self::SignatureForm => "SignatureForm",
            Self::Signature => "Signature",
            Self::Document(_) => "Document",
            Self::Other { what: "plan", .. } => "OtherPlan",
            Self::Other { .. } => "OtherReport",
        }
    }

    /// The class of failure.
    pub fn failure(&self) -> Failure {
        match self {
            Self::Key(_) | Self::Document(_) => Failure::Document,
            Self::SignatureForm | Self::Signature | Self::Other { .. } => Failure::Damaged,
        }
    }
}

/// The public half of the key that signs.
#[derive(Debug, Clone)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// From PEM or DER, as `aws kms get-public-key` gives it.
    ///
    /// # Errors
    /// `Key`.
    pub fn parse(bytes: &[u8]) -> Result<Self, CertificateError> {
        let key = match std::str::from_utf8(bytes) {
            Ok(text) if text.contains("-----BEGIN") => VerifyingKey::from_public_key_pem(text.trim()),
            _ => VerifyingKey::from_public_key_der(bytes),
        };
        key.map(Self).map_err(|e| CertificateError::Key(e.to_string()))
    }
}

/// Whether bytes have the form of a signature at all: what has not is not worth asking a key about.
pub fn is_signature(bytes: &[u8]) -> bool {
    Signature::from_der(bytes).is_ok()
}

/// Reads a certificate whose signature holds. The signature is checked before anything is parsed.
///
/// # Errors
/// `SignatureForm`, `Signature`, `Document`.
pub fn verify(bytes: &[u8], signature: &[u8], key: &PublicKey) -> Result<CertificateV1, CertificateError> {
    let signature = Signature::from_der(signature).map_err(|_| CertificateError::SignatureForm)?;
    key.0.verify_prehash(Sha256::of(bytes).as_bytes(), &signature).map_err(|_| CertificateError::Signature)?;
    Ok(CertificateV1::parse(bytes)?)
}

impl CertificateV1 {
    /// Whether it is about this plan and this report, as far as they are given.
    ///
    /// # Errors
    /// `Other`.
    pub fn is_of(&self, plan: Option<Sha256>, report: Option<Sha256>) -> Result<(), CertificateError> {
        let same = |what, certified: Sha256, given: Option<Sha256>| match given {
            Some(given) if given != certified => Err(CertificateError::Other { what, certified, given }),
            _ => Ok(()),
        };
        same("plan", self.plan.sha256, plan)?;
        same("report", self.report.sha256, report)
    }
}
