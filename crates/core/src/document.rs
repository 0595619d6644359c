//! Stored JSON: every document carries `format`, is read by the type of that version, and is refused
//! with a reason when it is too large, of another format, or breaks a rule of its own.

use crate::Sha256;
use serde::{Deserialize, Serialize, de::DeserializeOwned};

/// A stored document exactly: where it lies, and the digest of its bytes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Pinned {
    /// `s3://<bucket>/<key>`.
    pub uri: String,
    /// SHA-256 of its bytes.
    pub sha256: Sha256,
}

impl Pinned {
    /// An object of a bucket.
    pub fn object(bucket: &str, key: &str, sha256: Sha256) -> Self {
        Self { uri: format!("s3://{bucket}/{key}"), sha256 }
    }

    /// The key, if it is one of `bucket`.
    pub fn key_in(&self, bucket: &str) -> Option<&str> {
        self.uri.strip_prefix("s3://")?.strip_prefix(bucket)?.strip_prefix('/').filter(|key| !key.is_empty())
    }
}

/// Why bytes are not the document they should be.
#[derive(Debug, thiserror::Error)]
pub enum DocumentError {
    /// Larger than the type allows; it was not parsed.
    #[error("a {format} of {bytes} bytes is larger than the {limit} allowed")]
    TooLarge {
        /// The expected format.
        format: &'static str,
        /// The size found.
        bytes: usize,
        /// The limit.
        limit: usize,
    },
    /// Another format or version than this code reads.
    #[error("expected format {expected:?}, found {found:?}; a newer Highwater may have written it")]
    Format {
        /// The expected format.
        expected: &'static str,
        /// The `format` field found, or empty.
        found: String,
    },
    /// Not JSON of the right shape.
    #[error("malformed {format}")]
    Malformed {
        /// The expected format.
        format: &'static str,
        /// What the JSON reader said, with line and column.
        source: serde_json::Error,
    },
    /// Well-formed, but impossible.
    #[error("impossible {format}: {reason}")]
    Impossible {
        /// The expected format.
        format: &'static str,
        /// The rule that is broken.
        reason: String,
    },
    /// The bytes are not those whose digest was given.
    #[error("the {format} has SHA-256 {found}, expected {expected}")]
    Digest {
        /// The expected format.
        format: &'static str,
        /// The digest asked for.
        expected: Sha256,
        /// The digest of the bytes.
        found: Sha256,
    },
}

/// A stored JSON document of one format and version.
pub trait Document: Serialize + DeserializeOwned {
    /// The value of its `format` field, like `highwater.manifest.v1`.
    const FORMAT: &'static str;
    /// The most bytes that are read.
    const MAX_BYTES: usize = 16 << 20;

    /// The value's `format` field, as read.
    fn format(&self) -> &str;

    /// The rules that the types alone do not hold; the reason when one is broken.
    fn check(&self) -> Result<(), String>;

    /// Reads and checks a document.
    ///
    /// # Errors
    /// Any [`DocumentError`] except `Digest`.
    fn parse(bytes: &[u8]) -> Result<Self, DocumentError> {
        #[derive(serde::Deserialize)]
        struct Head {
            #[serde(default)]
            format: String,
        }
        let format = Self::FORMAT;
        if bytes.len() > Self::MAX_BYTES {
            return Err(DocumentError::TooLarge { format, bytes: bytes.len(), limit: Self::MAX_BYTES });
        }
        let malformed = |source| DocumentError::Malformed { format, source };
        let head: Head = serde_json::from_slice(bytes).map_err(malformed)?;
        if head.format != format {
            return Err(DocumentError::Format { expected: format, found: head.format.chars().take(80).collect() });
        }
        let value: Self = serde_json::from_slice(bytes).map_err(malformed)?;
        value.check().map_err(|reason| DocumentError::Impossible { format, reason })?;
        Ok(value)
    }

    /// Reads a document whose digest is known. The digest is compared before anything is parsed.
    ///
    /// # Errors
    /// Any [`DocumentError`].
    fn parse_pinned(bytes: &[u8], expected: Sha256) -> Result<Self, DocumentError> {
        let found = Sha256::of(bytes);
        if found != expected {
            return Err(DocumentError::Digest { format: Self::FORMAT, expected, found });
        }
        Self::parse(bytes)
    }

    /// The bytes to store: indented JSON with a final newline, made to be read by a person too.
    fn to_bytes(&self) -> Vec<u8> {
        let mut bytes = serde_json::to_vec_pretty(self).unwrap_or_default();
        bytes.push(b'\n');
        bytes
    }
}
