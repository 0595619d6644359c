//! Object storage: conditional creation, ranged reads, checked multipart uploads. Nothing here deletes, and only [`Bucket::replace`]
//! overwrites, which the bucket of the backups refuses.
//!
//! Relies on: `If-None-Match: *` on PutObject and CompleteMultipartUpload, CRC-64/NVME checksums.
//! Retries: the SDK's (five attempts) on requests; ours (five) on bodies that break off while being read.
//! What a crash leaves: an unfinished multipart upload, which the bucket's lifecycle rule removes.

use aws_sdk_s3::Client;
use aws_sdk_s3::config::retry::RetryConfig;
use aws_sdk_s3::config::timeout::TimeoutConfig;
use aws_sdk_s3::config::{Builder, Credentials, Region, ResponseChecksumValidation};
use aws_sdk_s3::error::{DisplayErrorContext, ProvideErrorMetadata, SdkError};
use aws_sdk_s3::operation::head_object::HeadObjectOutput;
use aws_sdk_s3::primitives::ByteStream;
use aws_sdk_s3::types::{ChecksumAlgorithm, ChecksumMode, ChecksumType, CreateBucketConfiguration};
use base64::Engine;
use base64::engine::general_purpose::STANDARD as BASE64;
use bytes::{Bytes, BytesMut};
use highwater_core::Failure;
use std::error::Error as StdError;
use std::ops::Range;
use std::time::Duration;

mod upload;

pub use upload::{Completed, Expected, Proof, Upload, UploadedPart};

/// How often a request, or the reading of a body, is tried.
const ATTEMPTS: u32 = 5;

/// Why an operation on an object failed.
#[derive(Debug, thiserror::Error)]
#[error("{operation} s3://{bucket}/{key}: {kind}{}", detail.as_deref().map(|d| format!(" ({d})")).unwrap_or_default())]
pub struct StoreError {
    /// Verb, like `get` or `upload part 17 of`.
    pub operation: String,
    /// The bucket.
    pub bucket: String,
    /// The key.
    pub key: String,
    /// What went wrong.
    pub kind: StoreErrorKind,
    /// What the service or the transport said.
    pub detail: Option<String>,
}

/// The kinds of storage error that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum StoreErrorKind {
    /// No such object, version, bucket or upload.
    #[error("not found")]
    NotFound,
    /// The key is taken by something else.
    #[error("the key already holds another object")]
    AlreadyExists,
    /// Credentials missing, expired or not permitted.
    #[error("access denied")]
    AccessDenied,
    /// The service computed another checksum or size than we did, or returned less than asked for.
    #[error("the stored bytes differ from what was sent")]
    Mismatch,
    /// Throttled, timed out, reset, or an internal error of the service: retried, and still failing.
    #[error("the service did not succeed after retries")]
    Unavailable,
    /// The request itself is wrong; retrying cannot help.
    #[error("the service refused the request")]
    Refused,
}

impl StoreErrorKind {
    /// The class of failure an operation ends with when nothing handles this.
    pub fn failure(self) -> Failure {
        match self {
            Self::NotFound | Self::Mismatch => Failure::Damaged,
            Self::AlreadyExists => Failure::Document,
            Self::AccessDenied => Failure::AccessDenied,
            Self::Unavailable => Failure::Storage,
            Self::Refused => Failure::Precondition,
        }
    }
}

/// What S3 says of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Head {
    /// Bytes stored.
    pub size: u64,
    /// CRC-64/NVME of the whole object as S3 computed it, base64; absent where the store keeps none.
    pub crc64nvme: Option<String>,
    /// The ETag, without its quotation marks.
    pub e_tag: Option<String>,
    /// The version, where the bucket keeps versions.
    pub version_id: Option<String>,
}

/// An object that now exists.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The version, where the bucket keeps versions.
    pub version_id: Option<String>,
}

/// What became of an object that was to be replaced.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Replaced {
    /// It has the new bytes.
    Done,
    /// It was not the one that was read any more: nothing was written.
    Changed,
}

/// CRC-64/NVME in the form S3 prints: base64 of eight big-endian bytes.
pub fn crc64nvme_text(crc: u64) -> String {
    BASE64.encode(crc.to_be_bytes())
}

/// One bucket.
#[derive(Debug, Clone)]
pub struct Bucket {
    pub(crate) client: Client,
    name: String,
}

/// A store at an address of its own, with its own credentials: a local S3, for tests and demonstrations.
#[derive(Debug, Clone)]
pub struct Endpoint {
    /// `http://127.0.0.1:9000`.
    pub url: String,
    /// The region that requests are signed for.
    pub region: String,
    /// The access key.
    pub access_key_id: String,
    /// Its secret.
    pub secret_access_key: String,
}

impl Endpoint {
    /// What the clients of other services at this address are built from.
    pub async fn sdk_config(&self) -> aws_config::SdkConfig {
        self.loader().load().await
    }

    fn loader(&self) -> aws_config::ConfigLoader {
        let credentials = Credentials::new(&self.access_key_id, &self.secret_access_key, None, None, "given");
        aws_config::from_env().endpoint_url(&self.url).region(Region::new(self.region.clone())).credentials_provider(credentials)
    }
}

impl Bucket {
    /// A client for `name`, configured as the SDK configures itself: environment, profile, instance role.
    pub async fn connect(name: &str) -> Self {
        Self::configured(name, aws_config::from_env()).await
    }

    /// A client for `name` at `endpoint`; the environment is not asked.
    pub async fn connect_to(name: &str, endpoint: &Endpoint) -> Self {
        Self::configured(name, endpoint.loader()).await
    }

    async fn configured(name: &str, loader: aws_config::ConfigLoader) -> Self {
        let shared = loader
            .retry_config(RetryConfig::standard().with_max_attempts(ATTEMPTS).with_max_backoff(Duration::from_secs(10)))
            .timeout_config(
                TimeoutConfig::builder()
                    .connect_timeout(Duration::from_secs(5))
                    .read_timeout(Duration::from_secs(30))
                    .operation_attempt_timeout(Duration::from_secs(120))
                    .build(),
            )
            .load()
            .await;
        // Every object is read against a SHA-256 of ours; S3's own checksum of it, computed once more, would prove nothing further.
        let config = Builder::from(&shared).response_checksum_validation(ResponseChecksumValidation::WhenRequired).build();
        Self { client: Client::from_conf(config), name: name.to_owned() }
    }

    /// The bucket's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub(crate) fn error(&self, operation: impl Into<String>, key: &str, kind: StoreErrorKind, detail: Option<String>) -> StoreError {
        StoreError { operation: operation.into(), bucket: self.name.clone(), key: key.to_owned(), kind, detail }
    }

    pub(crate) fn sdk_error<E>(&self, operation: impl Into<String>, key: &str, error: SdkError<E>) -> StoreError
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let status = error.raw_response().map(|r| r.status().as_u16());
        let code = error.code().unwrap_or_default().to_owned();
        let kind = match (code.as_str(), status) {
            ("NoSuchKey" | "NoSuchVersion" | "NoSuchBucket" | "NoSuchUpload" | "NotFound", _) => StoreErrorKind::NotFound,
            ("PreconditionFailed", _) | (_, Some(412)) => StoreErrorKind::AlreadyExists,
            ("BadDigest" | "XAmzContentChecksumMismatch" | "XAmzContentSHA256Mismatch", _) => StoreErrorKind::Mismatch,
            (
                "SlowDown" | "InternalError" | "ServiceUnavailable" | "RequestTimeout" | "ConditionalRequestConflict" | "OperationAborted",
                _,
            ) => StoreErrorKind::Unavailable,
            ("ExpiredToken" | "InvalidAccessKeyId" | "SignatureDoesNotMatch" | "AccessDenied" | "RequestTimeTooSkewed", _) => {
                StoreErrorKind::AccessDenied
            }
            (_, Some(404)) => StoreErrorKind::NotFound,
            // The answer to a HEAD names no code. Our HEADs are well-formed: S3 says 400 to expired credentials.
            ("", Some(400)) => StoreErrorKind::AccessDenied,
            (_, Some(401 | 403)) => StoreErrorKind::AccessDenied,
            (_, Some(400 | 405 | 411 | 413 | 416 | 501)) => StoreErrorKind::Refused,
            _ => match &error {
                SdkError::ConstructionFailure(_) => StoreErrorKind::Refused,
                SdkError::DispatchFailure(failure) if failure.is_user() => StoreErrorKind::AccessDenied,
                _ if no_credentials(&error) => StoreErrorKind::AccessDenied,
                _ => StoreErrorKind::Unavailable,
            },
        };
        let detail = match error.message() {
            Some(message) => format!("{code}: {message}"),
            // The answer to HEAD has no body, and so no words.
            None if kind == StoreErrorKind::NotFound => code,
            None => DisplayErrorContext(&error).to_string().chars().take(400).collect(),
        };
        self.error(operation, key, kind, Some(detail))
    }

    /// Reads a small object whole.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Unavailable`; `Refused` when it is larger than `max_bytes` (nothing is read then).
    pub async fn get(&self, key: &str, version_id: Option<&str>, max_bytes: u64) -> Result<Bytes, StoreError> {
        let head = self.head(key, version_id).await?;
        if head.size > max_bytes {
            let detail = format!("it has {} bytes, more than the {max_bytes} allowed", head.size);
            return Err(self.error("get", key, StoreErrorKind::Refused, Some(detail)));
        }
        if head.size == 0 {
            return Ok(Bytes::new());
        }
        self.get_range(key, version_id, 0..head.size).await
    }

    /// Reads exactly the bytes of `range`, trying again when the body breaks off.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Unavailable`; `Mismatch` when the object ends before the range does.
    pub async fn get_range(&self, key: &str, version_id: Option<&str>, range: Range<u64>) -> Result<Bytes, StoreError> {
        let wanted = usize::try_from(range.end.saturating_sub(range.start)).unwrap_or(usize::MAX);
        if wanted == 0 {
            return Ok(Bytes::new());
        }
        let mut last = None;
        for attempt in 0..ATTEMPTS {
            if attempt > 0 {
                tokio::time::sleep(Duration::from_millis(100 << attempt)).await;
            }
            let answer = self
                .client
                .get_object()
                .bucket(&self.name)
                .key(key)
                .set_version_id(version_id.map(str::to_owned))
                .range(format!("bytes={}-{}", range.start, range.end - 1))
                .send()
                .await
                .map_err(|e| match e.raw_response().map(|r| r.status().as_u16()) {
                    Some(416) => self.error("get", key, StoreErrorKind::Mismatch, Some(format!("it ends before byte {}", range.start))),
                    _ => self.sdk_error("get", key, e),
                })?;
            match read_body(answer.body, wanted).await {
                Ok(bytes) if bytes.len() == wanted => return Ok(bytes),
                // S3 answers a range that runs past the end with what there is: the object is shorter than recorded.
                Ok(bytes) if answer.content_length == i64::try_from(bytes.len()).ok() => {
                    let detail = format!("bytes {}..{} were asked for, it holds {} of them", range.start, range.end, bytes.len());
                    return Err(self.error("get", key, StoreErrorKind::Mismatch, Some(detail)));
                }
                Ok(bytes) => last = Some(format!("the body broke off after {} of {wanted} bytes", bytes.len())),
                Err(e) => last = Some(format!("the body broke off: {e}")),
            }
            tracing::warn!(key, attempt, detail = last.as_deref(), "reading a body again");
        }
        Err(self.error("get", key, StoreErrorKind::Unavailable, last))
    }

    /// What S3 says of an object, with its checksum.
    ///
    /// An absent object S3 calls forbidden, unless the caller may list the bucket whatever the prefix. Ours may list their prefixes
    /// only, so they ask the listing, which knows its prefix.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Unavailable`.
    pub async fn head(&self, key: &str, version_id: Option<&str>) -> Result<Head, StoreError> {
        let sent = self
            .client
            .head_object()
            .bucket(&self.name)
            .key(key)
            .set_version_id(version_id.map(str::to_owned))
            .checksum_mode(ChecksumMode::Enabled)
            .send()
            .await;
        match sent.map_err(|e| self.sdk_error("head", key, e)) {
            Ok(answer) => Ok(head_of(&answer)),
            Err(error) if error.kind == StoreErrorKind::AccessDenied && version_id.is_none() && self.is_absent(key).await => {
                Err(self.error("head", key, StoreErrorKind::NotFound, None))
            }
            Err(error) => Err(error),
        }
    }

    /// Whether the listing says that there is no such object; false when it says nothing.
    async fn is_absent(&self, key: &str) -> bool {
        let listed = self.client.list_objects_v2().bucket(&self.name).prefix(key).max_keys(1).send().await;
        // A longer key sorts after this one.
        listed.is_ok_and(|page| page.contents().first().and_then(|object| object.key()) != Some(key))
    }

    /// Creates a small object; never overwrites. When the key is taken by the very same bytes (a repeated
    /// request, a lost reply), that is success.
    ///
    /// # Errors
    /// `AlreadyExists` when the key holds other bytes; `AccessDenied`, `Unavailable`.
    pub async fn put_new(&self, key: &str, bytes: Bytes, content_type: &str) -> Result<Stored, StoreError> {
        match self.put_where_free(key, bytes.clone(), content_type).await {
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
                let head = self.head(key, None).await?;
                let same = head.size == bytes.len() as u64 && self.get(key, head.version_id.as_deref(), head.size).await? == bytes;
                if same { Ok(Stored { version_id: head.version_id }) } else { Err(error) }
            }
            done => done,
        }
    }

    /// Creates a small object where the key is free, and reads nothing: for a caller who may not read there.
    ///
    /// # Errors
    /// `AlreadyExists`, whatever the key holds; `AccessDenied`, `Unavailable`.
    pub async fn put_where_free(&self, key: &str, bytes: Bytes, content_type: &str) -> Result<Stored, StoreError> {
        let sent = self
            .client
            .put_object()
            .bucket(&self.name)
            .key(key)
            .content_type(content_type)
            .if_none_match("*")
            .checksum_algorithm(ChecksumAlgorithm::Crc64Nvme)
            .body(ByteStream::from(bytes))
            .send()
            .await;
        sent.map(|answer| Stored { version_id: answer.version_id }).map_err(|e| self.sdk_error("put", key, e))
    }

    /// The ETag of an object, if there is one: for [`Bucket::replace`].
    ///
    /// # Errors
    /// `AccessDenied` (also of an absent object, where the bucket may not be listed), `Unavailable`.
    pub async fn e_tag(&self, key: &str) -> Result<Option<String>, StoreError> {
        match self.head(key, None).await {
            Ok(head) => Ok(head.e_tag),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Puts a small object in the place of the one with this ETag, or where none was: what others put there meanwhile stays.
    ///
    /// # Errors
    /// `NotFound` (the bucket), `AccessDenied`, `Unavailable`.
    pub async fn replace(&self, key: &str, e_tag: Option<&str>, bytes: Bytes, content_type: &str) -> Result<Replaced, StoreError> {
        let put = self.client.put_object().bucket(&self.name).key(key).content_type(content_type);
        let put = match e_tag {
            Some(e_tag) => put.if_match(format!("\"{e_tag}\"")),
            None => put.if_none_match("*"),
        };
        match put.checksum_algorithm(ChecksumAlgorithm::Crc64Nvme).body(ByteStream::from(bytes)).send().await {
            Ok(_) => Ok(Replaced::Done),
            Err(error) => match self.sdk_error("replace", key, error) {
                error if error.kind == StoreErrorKind::AlreadyExists => Ok(Replaced::Changed),
                // It was deleted. Where none was expected, it is the bucket that is not found.
                error if error.kind == StoreErrorKind::NotFound && e_tag.is_some() => Ok(Replaced::Changed),
                error => Err(error),
            },
        }
    }

    /// The keys below a prefix, in order, a page after the other.
    ///
    /// # Errors
    /// `AccessDenied`, `NotFound` (the bucket), `Unavailable`.
    pub async fn list(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let mut keys = Vec::new();
        let mut pages = self.client.list_objects_v2().bucket(&self.name).prefix(prefix).into_paginator().send();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| self.sdk_error("list", prefix, e))?;
            keys.extend(page.contents.unwrap_or_default().into_iter().filter_map(|o| o.key));
        }
        Ok(keys)
    }

    /// Creates the bucket: for tests and demonstrations. A bucket that is ours already is success.
    ///
    /// # Errors
    /// `AccessDenied`, `Unavailable`, `Refused`.
    pub async fn create(&self) -> Result<(), StoreError> {
        // S3 wants the region said in every region but its first.
        let region = self.client.config().region().map(Region::as_ref).filter(|region| *region != "us-east-1");
        let location = region.map(|r| CreateBucketConfiguration::builder().location_constraint(r.into()).build());
        match self.client.create_bucket().bucket(&self.name).set_create_bucket_configuration(location).send().await {
            Ok(_) => Ok(()),
            Err(e) if matches!(e.code(), Some("BucketAlreadyOwnedByYou" | "BucketAlreadyExists")) => Ok(()),
            Err(e) => Err(self.sdk_error("create bucket", "", e)),
        }
    }
}

async fn read_body(mut body: ByteStream, wanted: usize) -> Result<Bytes, aws_sdk_s3::primitives::ByteStreamError> {
    let Some(first) = body.try_next().await? else {
        return Ok(Bytes::new());
    };
    if first.len() == wanted {
        return Ok(first);
    }
    let mut all = BytesMut::with_capacity(wanted);
    all.extend_from_slice(&first);
    while let Some(chunk) = body.try_next().await? {
        all.extend_from_slice(&chunk);
    }
    Ok(all.freeze())
}

fn head_of(answer: &HeadObjectOutput) -> Head {
    // A composite checksum is one of the parts' checksums, not of the bytes: it proves nothing to us.
    let composite = answer.checksum_type == Some(ChecksumType::Composite);
    Head {
        size: answer.content_length.and_then(|n| u64::try_from(n).ok()).unwrap_or_default(),
        crc64nvme: answer.checksum_crc64_nvme.clone().filter(|_| !composite),
        e_tag: answer.e_tag.as_deref().map(|e_tag| e_tag.trim_matches('"').to_owned()),
        version_id: answer.version_id.clone(),
    }
}

/// Whether the request was never sent because no credentials were found.
fn no_credentials(error: &(dyn StdError + 'static)) -> bool {
    let mut at = Some(error);
    while let Some(e) = at {
        if e.to_string().contains("no providers in chain provided credentials")
            || e.to_string().contains("the credential provider was not enabled")
        {
            return true;
        }
        at = e.source();
    }
    false
}
