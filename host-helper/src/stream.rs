//! The streaming pipeline: the tool's xbstream to S3 objects and back, in bounded memory.

use crate::error::Result;
use crate::progress::Progress;
use crate::signal::Cancel;
use highwater_aws::s3::Bucket;
use highwater_core::inventory::StreamFile;
use highwater_core::manifest::DataObject;
use highwater_core::plan::PlanStep;
use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

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

/// A stream that is wholly uploaded and not yet visible: publish it or abort it.
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
}

/// Reads `source` to its end, checks it as an xbstream, and uploads it. On any error every upload is aborted.
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
    let _ = (source, bucket, options, progress, cancel);
    todo!("stream")
}

impl StagedStream {
    /// Makes the objects exist and checks what S3 stored, object by object.
    ///
    /// # Errors
    /// `Damaged` when S3 stored something else; what the store says. The uploads are aborted then.
    pub async fn publish(self) -> Result<Vec<DataObject>> {
        todo!("stream")
    }

    /// Gives everything up.
    pub async fn abort(self) {
        todo!("stream")
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
    let _ = (bucket, step, into, options, progress, cancel);
    todo!("stream")
}
