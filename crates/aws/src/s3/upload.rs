//! Multipart uploads: checked part by part, and as a whole.
//!
//! A part's CRC-64/NVME is sent along, and S3 refuses a part that differs. Of the whole S3 computes one more, or, where the
//! store keeps no CRC, its ETag is the MD5 of the parts' MD5s. [`Expected`] is what either must be.

use super::{Bucket, Head, StoreError, StoreErrorKind, crc64nvme_text};
use aws_sdk_s3::config::Builder;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumType, CompletedMultipartUpload, CompletedPart};
use bytes::Bytes;
use md5::{Digest, Md5};
use std::time::Duration;

/// How often the completion of an upload is tried: hours of work hang on it.
const COMPLETIONS: u32 = 6;
/// How long to wait at most before it is tried again.
const COMPLETE_AGAIN: Duration = Duration::from_secs(20);
/// How long one completion may take: S3 says minutes for many parts, and a store that copies the parts into one file needs them.
const COMPLETION_TIMEOUT: Duration = Duration::from_secs(600);
/// How long an object is looked for whose completion may still be under way.
const COMPLETION_LOOKS: u32 = 30;
const LOOK_AGAIN: Duration = Duration::from_secs(2);

/// A multipart upload in progress. Dropping it leaves an orphan: call `complete` or `abort`.
#[derive(Debug, Clone)]
pub struct Upload {
    bucket: Bucket,
    key: String,
    id: String,
}

/// A part that S3 has, with the checksum it was sent under.
#[derive(Debug, Clone)]
pub struct UploadedPart {
    completed: CompletedPart,
    /// Its MD5, where the store keeps no CRC and gave the MD5 as the part's ETag.
    md5: Option<[u8; 16]>,
}

/// An object that an upload created, and how S3's word shows that it is what was sent.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Completed {
    /// The version, where the bucket keeps versions.
    pub version_id: Option<String>,
    /// What the whole must have.
    pub expected: Expected,
}

/// What an object that holds the sent bytes has.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Expected {
    /// Bytes.
    pub size: u64,
    /// CRC-64/NVME, as S3 prints it.
    pub crc64nvme: String,
    /// The MD5 of the parts' MD5s, as a store without CRCs makes its ETag of them: known when each part's ETag was its MD5.
    pub e_tag: Option<String>,
}

/// What S3's own word of an object proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// A checksum over every byte is the expected one.
    Same,
    /// Size or checksum are others.
    Different,
    /// The size is right, and the store keeps no checksum that we know.
    None,
}

impl Expected {
    /// Compares what S3 says of an object with what it must say.
    pub fn proof(&self, head: &Head) -> Proof {
        match (head.size == self.size, &head.crc64nvme, &self.e_tag) {
            (false, ..) => Proof::Different,
            (true, Some(crc), _) if *crc == self.crc64nvme => Proof::Same,
            (true, Some(_), _) => Proof::Different,
            // An ETag that differs proves nothing: it is the store's own business what it makes of an object.
            (true, None, Some(e_tag)) if head.e_tag.as_ref() == Some(e_tag) => Proof::Same,
            (true, None, _) => Proof::None,
        }
    }
}

impl Bucket {
    /// Starts a multipart upload with a full-object CRC-64/NVME.
    ///
    /// # Errors
    /// `AccessDenied`, `NotFound` (the bucket), `Unavailable`.
    pub async fn begin_upload(&self, key: &str) -> Result<Upload, StoreError> {
        let answer = self
            .client
            .create_multipart_upload()
            .bucket(&self.name)
            .key(key)
            .content_type("application/zstd")
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .checksum_type(ChecksumType::FullObject)
            .send()
            .await
            .map_err(|e| self.sdk_error("start upload of", key, e))?;
        match answer.upload_id {
            Some(id) => Ok(Upload { bucket: self.clone(), key: key.to_owned(), id }),
            None => Err(self.error("start upload of", key, StoreErrorKind::Unavailable, Some("the answer names no upload id".into()))),
        }
    }
}

impl Upload {
    /// The key it will create.
    pub fn key(&self) -> &str {
        &self.key
    }

    /// S3's id of the upload, for a message about it.
    pub fn id(&self) -> &str {
        &self.id
    }

    /// Uploads part `number` (1 to 10,000). `crc64nvme` is the part's own; S3 refuses a part that differs.
    ///
    /// # Errors
    /// `Mismatch`, `NotFound` (the upload is gone), `AccessDenied`, `Unavailable`.
    pub async fn part(&self, number: u16, bytes: Bytes, crc64nvme: u64) -> Result<UploadedPart, StoreError> {
        let crc = crc64nvme_text(crc64nvme);
        let answer = self
            .bucket
            .client
            .upload_part()
            .bucket(&self.bucket.name)
            .key(&self.key)
            .upload_id(&self.id)
            .part_number(number.into())
            .checksum_crc64_nvme(&crc)
            .body(ByteStream::from(bytes.clone()))
            // The checksum above already covers the body; hashing it once more for the signature buys nothing.
            .customize()
            .disable_payload_signing()
            .send()
            .await
            .map_err(|e| self.bucket.sdk_error(format!("upload part {number} of"), &self.key, e))?;
        let md5 = match (&answer.checksum_crc64_nvme, &answer.e_tag) {
            (Some(stored), _) if *stored == crc => None,
            (Some(stored), _) => {
                let detail = Some(format!("part {number} has CRC-64/NVME {crc}, S3 stored {stored}"));
                return Err(self.bucket.error("upload", &self.key, StoreErrorKind::Mismatch, detail));
            }
            (None, Some(e_tag)) => md5_if_it_is(e_tag.clone(), bytes).await,
            (None, None) => None,
        };
        let completed = CompletedPart::builder().part_number(number.into()).set_e_tag(answer.e_tag).checksum_crc64_nvme(crc).build();
        Ok(UploadedPart { completed, md5 })
    }

    /// Makes the object exist, unless the key is taken. `crc64nvme` and `size` are the whole object's; S3 refuses others.
    ///
    /// The answer may be lost, come late, or be an error although the work is done or goes on (a repeated request finds the
    /// upload gone, or is denied). So after every error we look: an object of our size and checksum is success. Where the
    /// store keeps no checksum the size has to do, and the caller has to read the object back.
    ///
    /// # Errors
    /// `AlreadyExists`, `Mismatch`, `NotFound`, `AccessDenied`, `Unavailable`. The caller aborts the upload then.
    pub async fn complete(&self, mut parts: Vec<UploadedPart>, size: u64, crc64nvme: u64) -> Result<Completed, StoreError> {
        parts.sort_by_key(|p| p.completed.part_number);
        let expected = Expected { size, crc64nvme: crc64nvme_text(crc64nvme), e_tag: e_tag_of(&parts) };
        let parts: Vec<_> = parts.into_iter().map(|p| p.completed).collect();
        let mut in_doubt = false;
        for attempt in 1.. {
            let error = match self.try_complete(parts.clone(), &expected).await {
                Ok(version_id) => return Ok(Completed { version_id, expected }),
                Err(error) => error,
            };
            // Once an answer was lost, the upload's absence and even a denial may only say that it is, or is being, completed.
            let unsure = error.kind == StoreErrorKind::Unavailable;
            let looks = if in_doubt && !unsure { COMPLETION_LOOKS } else { 1 };
            if let Some(version_id) = self.look_for(&expected, looks).await {
                tracing::info!(key = self.key, %error, "the object is there although its completion was not answered well");
                return Ok(Completed { version_id, expected });
            }
            if !unsure || attempt >= COMPLETIONS {
                return Err(error);
            }
            tracing::warn!(key = self.key, attempt, %error, "completing the upload again");
            in_doubt = true;
            tokio::time::sleep(COMPLETE_AGAIN.min(LOOK_AGAIN * (1 << (attempt - 1)))).await;
        }
        Err(self.bucket.error("complete upload of", &self.key, StoreErrorKind::Unavailable, None))
    }

    /// One request, without the SDK's own retries: they would hide that an earlier answer was lost.
    async fn try_complete(&self, parts: Vec<CompletedPart>, expected: &Expected) -> Result<Option<String>, StoreError> {
        let timeouts = TimeoutConfig::builder().read_timeout(COMPLETION_TIMEOUT).operation_attempt_timeout(COMPLETION_TIMEOUT).build();
        let sent = self
            .bucket
            .client
            .complete_multipart_upload()
            .bucket(&self.bucket.name)
            .key(&self.key)
            .upload_id(&self.id)
            .if_none_match("*")
            .checksum_crc64_nvme(&expected.crc64nvme)
            .checksum_type(ChecksumType::FullObject)
            .mpu_object_size(i64::try_from(expected.size).unwrap_or(i64::MAX))
            .multipart_upload(CompletedMultipartUpload::builder().set_parts(Some(parts)).build())
            .customize()
            .config_override(Builder::new().retry_config(RetryConfig::disabled()).timeout_config(timeouts))
            .send()
            .await;
        sent.map(|answer| answer.version_id).map_err(|e| self.bucket.sdk_error("complete upload of", &self.key, e))
    }

    /// The version of the object, if it is there and may be what was sent. Looks `times` times.
    async fn look_for(&self, expected: &Expected, times: u32) -> Option<Option<String>> {
        for look in 0..times {
            if look > 0 {
                tokio::time::sleep(LOOK_AGAIN).await;
            }
            match self.bucket.head(&self.key, None).await {
                Ok(head) if expected.proof(&head) == Proof::Different => return None,
                Ok(head) => return Some(head.version_id),
                Err(_) => {}
            }
        }
        None
    }

    /// Gives the upload up and frees its parts. An upload that is gone already is success.
    ///
    /// # Errors
    /// `AccessDenied`, `Unavailable`: the parts stay until the bucket's lifecycle rule removes them.
    pub async fn abort(&self) -> Result<(), StoreError> {
        let sent = self.bucket.client.abort_multipart_upload().bucket(&self.bucket.name).key(&self.key).upload_id(&self.id).send().await;
        match sent.map_err(|e| self.bucket.sdk_error("abort upload of", &self.key, e)) {
            Err(e) if e.kind != StoreErrorKind::NotFound => Err(e),
            _ => Ok(()),
        }
    }
}

/// The MD5 of a part, if the store's ETag is that.
async fn md5_if_it_is(e_tag: String, bytes: Bytes) -> Option<[u8; 16]> {
    // Ten milliseconds of computing: not in a thread that others wait for.
    let md5: [u8; 16] = tokio::task::spawn_blocking(move || Md5::digest(&bytes).into()).await.ok()?;
    (hex(&md5) == e_tag.trim_matches('"')).then_some(md5)
}

/// The ETag that S3 gives to an object of these parts, if each part's was its MD5.
fn e_tag_of(parts: &[UploadedPart]) -> Option<String> {
    let md5s = parts.iter().map(|part| part.md5).collect::<Option<Vec<_>>>()?;
    Some(format!("{}-{}", hex(&Md5::digest(md5s.concat())), md5s.len()))
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
