//! The streaming pipeline: the tool's xbstream to S3 objects and back, in bounded memory.
//!
//! Up: chunks are checked, gathered into frames, compressed, hashed, and uploaded in parts. Down: each frame is fetched,
//! checked, decompressed and written to its files independently of all others. `docs/FORMAT.md` describes what is stored.
//! What a crash leaves: unfinished multipart uploads (up), a directory to be discarded (down).

use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::signal::Cancel;
use highwater_aws::s3::{Bucket, Expected, Proof, crc64nvme_text};
use highwater_core::Failure;
use highwater_core::inventory::StreamFile;
use highwater_core::manifest::DataObject;
use highwater_core::plan::PlanStep;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

mod extract;
mod fetch;
mod frame;
mod inventory;
mod source;
mod upload;
pub mod xbstream;

pub use inventory::{load_inventory, store_inventory};

/// The tools' small metadata files, kept while they stream by: checkpoints, info, binlog position, settings.
pub const METADATA_FILES: [&str; 7] = [
    "xtrabackup_checkpoints",
    "xtrabackup_info",
    "xtrabackup_binlog_info",
    "mariadb_backup_checkpoints",
    "mariadb_backup_info",
    "mariadb_backup_binlog_info",
    "backup-my.cnf",
];

/// How a stream is stored.
#[derive(Debug, Clone)]
pub struct UploadOptions {
    /// Where the objects go: `backup_prefix(…)`.
    pub prefix: String,
    /// Keeps this try's keys apart from another's of the same backup: `data-<attempt>-<nnn>`.
    pub attempt: u16,
    /// zstd level.
    pub compression_level: i32,
    /// Compression threads; 0 for one a processor.
    pub threads: usize,
    /// Uploads in flight.
    pub uploads: usize,
    /// Compressed bytes held while S3 is slow.
    pub buffer_bytes: usize,
    /// The most bytes read from the source a second; 0 for no limit.
    pub max_bytes_per_second: u64,
}

/// The sizes at which frames, parts and objects are cut. Tests make them small.
#[derive(Debug, Clone, Copy)]
pub struct Limits {
    /// A frame is closed before it would grow beyond this, unless one chunk alone does.
    pub frame_bytes: usize,
    /// The size of an object's first parts.
    pub part_bytes: usize,
    /// How many parts have that size.
    pub first_parts: u16,
    /// The size of those after them.
    pub later_part_bytes: usize,
    /// Parts of one object; then the next object begins.
    pub parts_per_object: u16,
    /// Frames of one object; then the next object begins.
    pub frames_per_object: u32,
    /// Files of one stream.
    pub files: usize,
}

impl Limits {
    /// What S3 allows (10,000 parts of 5 MiB to 5 GiB) and memory permits: 150 GB an object, and any number of objects.
    pub const S3: Self = Self {
        frame_bytes: 4 << 20,
        part_bytes: 8 << 20,
        first_parts: 2_000,
        later_part_bytes: 16 << 20,
        parts_per_object: 10_000,
        frames_per_object: frame::FRAMES_LIMIT,
        files: 1_000_000,
    };

    /// The size of the part after `parts_before` others.
    fn part_bytes(&self, parts_before: u16) -> usize {
        if parts_before < self.first_parts { self.part_bytes } else { self.later_part_bytes }
    }

    /// The most bytes of an object.
    fn object_bytes(&self) -> u64 {
        let first = self.first_parts.min(self.parts_per_object);
        self.part_bytes as u64 * u64::from(first) + self.later_part_bytes as u64 * u64::from(self.parts_per_object - first)
    }

    /// How many whole parts lie in an object's first `bytes` bytes.
    fn parts_in(&self, bytes: u64) -> u16 {
        let first = self.part_bytes as u64 * u64::from(self.first_parts);
        let parts = match bytes.checked_sub(first) {
            None => bytes / self.part_bytes as u64,
            Some(later) => u64::from(self.first_parts) + later / self.later_part_bytes as u64,
        };
        u16::try_from(parts).unwrap_or(u16::MAX)
    }
}

/// A stream that is wholly uploaded and not yet visible. Dropping it leaves orphans: call `publish` or `abort`.
#[derive(Debug)]
pub struct StagedStream {
    /// Files of the stream, in order of first appearance.
    pub files: Vec<StreamFile>,
    /// The path of the file whose end came last.
    pub last_file: String,
    /// The contents of the tool's small metadata files, by file name.
    pub metadata: BTreeMap<String, Vec<u8>>,
    /// Bytes of stream.
    pub stream_bytes: u64,
    bucket: Bucket,
    objects: Vec<upload::StagedObject>,
}

/// Reads `source` to its end, checks it as an xbstream, and uploads it. On any error every upload is aborted.
///
/// `source` is read in a thread of its own. When an upload fails or is cancelled this returns at once, although a `read` may
/// still block there: whoever owns the other end (the tool) closes it. Do not drop the future: cancel it.
///
/// # Errors
/// `Tool` when the stream is malformed; what the store says; `Interrupted`.
pub async fn upload<R: Read + Send + 'static>(
    source: R,
    bucket: &Bucket,
    options: UploadOptions,
    progress: Progress,
    cancel: &Cancel,
) -> Result<StagedStream> {
    upload::run(source, bucket, options, Limits::S3, progress, cancel).await
}

/// As [`upload`], with other limits.
///
/// # Errors
/// As [`upload`].
pub async fn upload_within<R: Read + Send + 'static>(
    limits: Limits,
    source: R,
    bucket: &Bucket,
    options: UploadOptions,
    progress: Progress,
    cancel: &Cancel,
) -> Result<StagedStream> {
    upload::run(source, bucket, options, limits, progress, cancel).await
}

impl StagedStream {
    /// Makes the objects exist and checks what S3 stored, object by object: its CRC-64/NVME; where the store keeps none, an
    /// ETag made of the parts' MD5s; and where it is not that either, the object is read back.
    ///
    /// # Errors
    /// `Damaged` when S3 stored something else; what the store says. The uploads are aborted then.
    pub async fn publish(self) -> Result<Vec<DataObject>> {
        let mut waiting = self.objects.into_iter();
        let mut published = Vec::new();
        while let Some(object) = waiting.next() {
            match publish_one(&self.bucket, object).await {
                Ok(done) => published.push(done),
                Err((failed, error)) => {
                    upload::abort_all(failed.into_iter().chain(waiting).collect()).await;
                    return Err(error);
                }
            }
        }
        Ok(published)
    }

    /// Gives everything up.
    pub async fn abort(self) {
        upload::abort_all(self.objects).await;
    }
}

/// Completes one upload and compares what S3 stored with what was sent.
async fn publish_one(bucket: &Bucket, mut object: upload::StagedObject) -> Result<DataObject, (Option<upload::StagedObject>, Error)> {
    let parts = std::mem::take(&mut object.parts);
    let completed = match object.upload.complete(parts, object.size, object.crc64nvme).await {
        Ok(completed) => completed,
        Err(error) => return Err((Some(object), error.into())),
    };
    let published = DataObject {
        key: object.upload.key().to_owned(),
        version_id: completed.version_id.clone(),
        size: object.size,
        raw_bytes: object.raw_bytes,
        crc64nvme: crc64nvme_text(object.crc64nvme),
        frames: object.frames,
        table_offset: object.table_offset,
        table_sha256: object.table_sha256,
    };
    check_stored(bucket, &published, &completed.expected).await.map_err(|e| (None, e))?;
    Ok(published)
}

async fn check_stored(bucket: &Bucket, object: &DataObject, expected: &Expected) -> Result<()> {
    let head = bucket.head(&object.key, object.version_id.as_deref()).await?;
    match expected.proof(&head) {
        Proof::Same => Ok(()),
        Proof::None => fetch::read_back(bucket, object).await,
        Proof::Different => {
            let crc = head.crc64nvme.as_deref().unwrap_or("unknown");
            let message = format!(
                "{} has {} bytes and CRC-64/NVME {crc} in S3; {} bytes and {} were sent",
                object.key, head.size, object.size, object.crc64nvme
            );
            Err(Error::new(Failure::Damaged, message))
        }
    }
}

/// How a backup is fetched.
#[derive(Debug, Clone, Copy)]
pub struct FetchOptions {
    /// Ranged GETs in flight.
    pub downloads: usize,
    /// Decompressing and writing threads; 0 for one a processor.
    pub threads: usize,
}

/// Fetches one step's data and extracts it below `into`, which must exist and be empty. Every byte is checked against
/// the plan: frame tables, frames, chunks, file sizes against the inventory. Returns the bytes written.
///
/// # Errors
/// `Damaged`, naming object and frame; `Resources`; what the store says; `Interrupted`. `into` must then be discarded.
pub async fn fetch(
    bucket: &Bucket,
    step: &PlanStep,
    into: &Path,
    options: FetchOptions,
    progress: Progress,
    cancel: &Cancel,
) -> Result<u64> {
    fetch::extract(bucket, step, into, options, progress, cancel).await
}

/// Reads and checks everything that [`fetch`] would, and writes nothing. Returns the bytes of stream.
///
/// # Errors
/// As [`fetch`].
pub async fn verify(bucket: &Bucket, step: &PlanStep, options: FetchOptions, progress: Progress, cancel: &Cancel) -> Result<u64> {
    fetch::verify(bucket, step, options, progress, cancel).await
}

/// Enlarges a pipe to 1 MiB where the system allows it: fewer switches between the tool and us.
pub fn widen_pipe(fd: impl std::os::fd::AsFd) {
    if let Err(error) = rustix::pipe::fcntl_setpipe_size(fd, 1 << 20) {
        tracing::debug!(%error, "the pipe keeps its size");
    }
}

/// How many threads `asked` stands for.
fn threads(asked: usize) -> usize {
    if asked > 0 { asked } else { std::thread::available_parallelism().map_or(2, Into::into).min(8) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_grow_and_an_object_ends_before_s3s_limits() {
        let limits = Limits::S3;
        assert_eq!(limits.object_bytes(), 2_000 * (8 << 20) + 8_000 * (16 << 20));
        assert!(limits.object_bytes() < 5 << 40 && limits.parts_per_object <= 10_000 && limits.part_bytes >= 5 << 20);
        assert_eq!(limits.parts_in(limits.object_bytes()), 10_000);
        let mut at = 0;
        for part in 0..limits.parts_per_object {
            assert_eq!(limits.parts_in(at), part);
            at += limits.part_bytes(part) as u64;
            assert_eq!(limits.parts_in(at - 1), part);
        }
        assert_eq!(at, limits.object_bytes());
    }
}
