//! KMS: signatures with a key that never leaves it (P-256, SHA-256), of a digest made here.

use crate::call::{CallError, CallErrorKind};
use aws_config::SdkConfig;
use aws_sdk_kms::Client;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};
use aws_smithy_types::Blob;
use highwater_core::Sha256;

/// One signing key.
#[derive(Debug, Clone)]
pub struct SigningKey {
    client: Client,
    arn: String,
}

impl SigningKey {
    /// The key `arn`.
    pub fn new(config: &SdkConfig, arn: impl Into<String>) -> Self {
        Self { client: Client::new(config), arn: arn.into() }
    }

    /// Its ARN.
    pub fn arn(&self) -> &str {
        &self.arn
    }

    /// Its public half, DER (SubjectPublicKeyInfo).
    ///
    /// # Errors
    /// Those of the service.
    pub async fn public_key(&self) -> Result<Vec<u8>, CallError> {
        let sent = self.client.get_public_key().key_id(&self.arn).send().await;
        let answer = sent.map_err(|e| CallError::of("kms:GetPublicKey", &self.arn, e))?;
        Ok(answer.public_key.map(Blob::into_inner).unwrap_or_default())
    }

    /// The DER signature of the bytes with this digest. Twice, it is two different signatures.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn sign(&self, digest: Sha256) -> Result<Vec<u8>, CallError> {
        let request = self.client.sign().key_id(&self.arn).message(Blob::new(*digest.as_bytes())).message_type(MessageType::Digest);
        let sent = request.signing_algorithm(SigningAlgorithmSpec::EcdsaSha256).send().await;
        let answer = sent.map_err(|e| CallError::of("kms:Sign", &self.arn, e))?;
        answer.signature.map(Blob::into_inner).ok_or_else(|| CallError {
            operation: "kms:Sign",
            subject: self.arn.clone(),
            kind: CallErrorKind::Unavailable,
            code: String::new(),
            detail: "the answer holds no signature".to_owned(),
        })
    }

    /// Whether a signature is this key's of the bytes with this digest.
    ///
    /// # Errors
    /// Those of the service; a signature that is not is an answer.
    pub async fn verify(&self, digest: Sha256, signature: &[u8]) -> Result<bool, CallError> {
        let request = self.client.verify().key_id(&self.arn).message(Blob::new(*digest.as_bytes())).message_type(MessageType::Digest);
        let request = request.signature(Blob::new(signature)).signing_algorithm(SigningAlgorithmSpec::EcdsaSha256);
        match request.send().await.map_err(|e| CallError::of("kms:Verify", &self.arn, e)) {
            Ok(answer) => Ok(answer.signature_valid),
            Err(error) if error.code.contains("InvalidSignature") => Ok(false),
            Err(error) => Err(error),
        }
    }
}
