//! What a promotion rests on: the certificate of its drill, read from its place and verified by the key that signs.

use crate::error::FunctionError;
use highwater_aws::kms::SigningKey;
use highwater_aws::s3::Bucket;
use highwater_core::certificate::{CERTIFICATE_NAME, CertificateV1, SIGNATURE_NAME, is_signature};
use highwater_core::ids::drill_prefix;
use highwater_core::{ClusterId, Document, DrillId, Failure, Pinned, Sha256};
use serde::Deserialize;

/// What is read of a drill's result: where its certificate lies follows from it.
#[derive(Debug, Clone, PartialEq, Deserialize)]
pub struct Drilled {
    /// The cluster.
    pub cluster: ClusterId,
    /// The drill.
    pub drill_id: DrillId,
}

/// Reads and verifies the certificate of a drill.
///
/// # Errors
/// `Permanent` when there is none, or it is not signed by the key, or it is of another drill; those of the services.
pub async fn certificate(bucket: &Bucket, key: &SigningKey, drill: &Drilled) -> Result<(CertificateV1, Pinned), FunctionError> {
    let prefix = drill_prefix(&drill.cluster, &drill.drill_id);
    let at = format!("{prefix}{CERTIFICATE_NAME}");
    let bytes = bucket.get(&at, None, CertificateV1::MAX_BYTES as u64).await?;
    let signature = bucket.get(&format!("{prefix}{SIGNATURE_NAME}"), None, 4096).await?;
    let sha256 = Sha256::of(&bytes);
    let refused = |reason: &str| FunctionError::of(Failure::Approval, format!("{at}: {reason}; drill again"));
    // The signature before the content: nothing that somebody else wrote is parsed.
    if !is_signature(&signature) {
        return Err(refused("what lies beside it is no signature"));
    }
    if !key.verify(sha256, &signature).await? {
        return Err(refused("the signature is not the deployment's key's over these bytes: the certificate was changed"));
    }
    let certificate = CertificateV1::parse(&bytes)?;
    if certificate.cluster != drill.cluster || certificate.drill_id != drill.drill_id {
        return Err(refused("it is the certificate of another drill"));
    }
    Ok((certificate, Pinned::object(bucket.name(), &at, sha256)))
}
