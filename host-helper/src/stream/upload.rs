//! The upload pipeline: reader → bounded queue → compressors → in order → parts → bounded uploads.
//!
//! Memory: raw frames in flight are counted by a budget that each holds until its compressed bytes are in a part;
//! parts in flight by `buffer_bytes`. When S3 is slow the parts fill first, then the frames, then the pipe: only then does the tool wait.
//! What a crash leaves: unfinished multipart uploads, which the bucket's lifecycle rule removes.

use super::frame::{FrameEntry, FrameTable, SKIPPABLE_HEAD, table_len};
use super::source::{RawFrame, Seen, Source, malformed};
use super::xbstream::{Chunks, Malformed};
use super::{Limits, StagedStream, UploadOptions, threads};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::signal::Cancel;
use bytes::Bytes;
use crc_fast::CrcAlgorithm::Crc64Nvme;
use highwater_aws::s3::{Bucket, StoreError, Upload, UploadedPart};
use highwater_core::{Failure, Sha256};
use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use std::time::Duration;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use tokio::task::JoinSet;

/// Raw bytes between the tool and the parts.
const RAW_BUDGET: usize = 64 << 20;
/// Frames between the tool and the parts: small frames must not be many either.
const FRAMES_IN_FLIGHT: usize = 32;
/// Budgets count in this unit.
const KIB: usize = 1 << 10;

/// A frame on its way to a compressor.
struct Job {
    raw: RawFrame,
    position: u64,
    permit: OwnedSemaphorePermit,
    reply: oneshot::Sender<Result<Compressed>>,
}

/// A frame as it will be stored.
struct Compressed {
    bytes: Vec<u8>,
    entry: FrameEntry,
    _permit: OwnedSemaphorePermit,
}

/// Buffers that are used again. What it may hold is bounded by the frames in flight.
#[derive(Clone, Default)]
struct Pool(Arc<Mutex<Vec<Vec<u8>>>>);

impl Pool {
    fn take(&self) -> Vec<u8> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default()
    }

    fn give(&self, buffer: Vec<u8>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).push(buffer);
    }
}

/// Runs the pipeline to its end; on any error every upload has been aborted when it returns.
pub(super) async fn run<R: Read + Send + 'static>(
    input: R,
    bucket: &Bucket,
    options: UploadOptions,
    limits: Limits,
    progress: Progress,
    cancel: &Cancel,
) -> Result<StagedStream> {
    let (raw_pool, stored_pool) = (Pool::default(), Pool::default());
    let (jobs, job_queue) = std_mpsc::channel::<Job>();
    let (order, frames) = mpsc::channel(FRAMES_IN_FLIGHT);
    let (end, seen) = oneshot::channel();
    let source = Source::new(input, limits, options.max_bytes_per_second, progress, cancel.clone());
    let reader = Reader {
        budget: Arc::new(Semaphore::new(RAW_BUDGET / KIB)),
        runtime: tokio::runtime::Handle::current(),
        pool: raw_pool.clone(),
        jobs,
        order,
    };
    // Threads of our own: a reader that never returns must not hold up the runtime's end.
    spawn("hw-read", move || drop(end.send(reader.run(source))))?;
    let job_queue = Arc::new(Mutex::new(job_queue));
    for _ in 0..threads(options.threads) {
        let compressor = Compressor::new(options.compression_level, raw_pool.clone(), stored_pool.clone())?;
        let queue = job_queue.clone();
        spawn("hw-compress", move || compressor.run(&queue))?;
    }
    let mut sink = Sink::new(bucket.clone(), options, limits);
    match sink.drive(frames, seen, &stored_pool, cancel).await {
        Ok(seen) => Ok(StagedStream {
            files: seen.files,
            last_file: seen.last_file,
            metadata: seen.metadata,
            stream_bytes: seen.stream_bytes,
            bucket: sink.bucket,
            objects: sink.objects,
        }),
        Err(error) => {
            sink.parts.shutdown().await;
            abort_all(sink.objects).await;
            Err(error)
        }
    }
}

fn spawn(name: &str, body: impl FnOnce() + Send + 'static) -> Result<()> {
    std::thread::Builder::new().name(name.into()).spawn(body).context(Failure::Resources, || format!("start the thread {name}"))?;
    Ok(())
}

struct Reader {
    budget: Arc<Semaphore>,
    runtime: tokio::runtime::Handle,
    pool: Pool,
    jobs: std_mpsc::Sender<Job>,
    order: mpsc::Sender<oneshot::Receiver<Result<Compressed>>>,
}

impl Reader {
    /// Reads to the end, or until nobody listens any more.
    fn run<R: Read>(self, mut source: Source<R>) -> Result<Seen> {
        let mut position = 0;
        while let Some(size) = source.next_frame_size()? {
            let kib = u32::try_from(size.div_ceil(KIB).min(RAW_BUDGET / KIB)).unwrap_or(u32::MAX);
            let permit = self.runtime.block_on(self.budget.clone().acquire_many_owned(kib)).map_err(|_| abandoned())?;
            let mut buffer = self.pool.take();
            if buffer.len() < size {
                buffer.resize(size, 0);
            }
            let raw = source.fill_frame(buffer)?;
            let len = raw.len as u64;
            let (reply, result) = oneshot::channel();
            self.order.blocking_send(result).map_err(|_| abandoned())?;
            self.jobs.send(Job { raw, position, permit, reply }).map_err(|_| abandoned())?;
            position += len;
        }
        source.finish()
    }
}

/// Said by a thread whose counterpart has gone; the counterpart's own error is the one that counts.
fn abandoned() -> Error {
    Error::new(Failure::Interrupted, "the upload was given up")
}

struct Compressor {
    zstd: zstd::bulk::Compressor<'static>,
    raw_pool: Pool,
    stored_pool: Pool,
}

impl Compressor {
    fn new(level: i32, raw_pool: Pool, stored_pool: Pool) -> Result<Self> {
        let zstd = zstd::bulk::Compressor::new(level).context(Failure::Config, || format!("use compression level {level}"))?;
        Ok(Self { zstd, raw_pool, stored_pool })
    }

    fn run(mut self, queue: &Mutex<std_mpsc::Receiver<Job>>) {
        loop {
            let job = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(Job { raw, position, permit, reply }) = job else { return };
            let result = self.frame(&raw, position, permit);
            self.raw_pool.give(raw.buffer);
            drop(reply.send(result));
        }
    }

    fn frame(&mut self, raw: &RawFrame, position: u64, permit: OwnedSemaphorePermit) -> Result<Compressed> {
        let data = &raw.buffer[..raw.len];
        for chunk in Chunks::new(data) {
            chunk.and_then(|c| c.check_crc()).map_err(|e: Malformed| malformed(position, e))?;
        }
        let mut bytes = self.stored_pool.take();
        bytes.clear();
        bytes.reserve(zstd::zstd_safe::compress_bound(data.len()));
        self.zstd.compress_to_buffer(data, &mut bytes).context(Failure::Resources, || "compress a frame".to_owned())?;
        let entry =
            FrameEntry { raw_len: raw.len as u32, stored_len: bytes.len() as u32, ordered: raw.ordered, sha256: Sha256::of(&bytes) };
        Ok(Compressed { bytes, entry, _permit: permit })
    }
}

/// One object: its upload, its parts, and what the manifest will say of it.
#[derive(Debug)]
pub(super) struct StagedObject {
    pub upload: Upload,
    pub parts: Vec<UploadedPart>,
    pub size: u64,
    pub raw_bytes: u64,
    pub crc64nvme: u64,
    pub frames: u32,
    pub table_offset: u64,
    pub table_sha256: Sha256,
}

/// The writing end.
struct Sink {
    bucket: Bucket,
    options: UploadOptions,
    limits: Limits,
    objects: Vec<StagedObject>,
    /// The last object's frames and the part being filled, while it takes more.
    open: Option<(FrameTable, Vec<u8>)>,
    parts: JoinSet<Sent>,
    gate: Arc<Semaphore>,
    /// Bytes of the parts that are being uploaded or wait for it.
    held: usize,
}

/// An uploaded part: which object, how many bytes were held, and what S3 said.
struct Sent {
    object: usize,
    bytes: usize,
    result: Result<UploadedPart, StoreError>,
}

impl Sink {
    fn new(bucket: Bucket, options: UploadOptions, limits: Limits) -> Self {
        let gate = Arc::new(Semaphore::new(options.uploads.max(1)));
        Self { bucket, options, limits, objects: Vec::new(), open: None, parts: JoinSet::new(), gate, held: 0 }
    }

    async fn drive(
        &mut self,
        mut frames: mpsc::Receiver<oneshot::Receiver<Result<Compressed>>>,
        mut seen: oneshot::Receiver<Result<Seen>>,
        pool: &Pool,
        cancel: &Cancel,
    ) -> Result<Seen> {
        let mut reader_said = None;
        loop {
            let result = tokio::select! {
                biased;
                _ = cancel.cancelled() => { cancel.check()?; continue }
                Some(sent) = self.parts.join_next() => { self.record(sent)?; continue }
                said = &mut seen, if reader_said.is_none() => {
                    reader_said = Some(said.map_err(|_| bug("the reader"))??);
                    continue;
                }
                next = frames.recv() => match next {
                    Some(result) => result,
                    None => break,
                },
            };
            let compressed = self.or_sooner(result, cancel).await?.map_err(|_| bug("a compressor"))??;
            self.take(&compressed, cancel).await?;
            pool.give(compressed.bytes);
        }
        let seen = match reader_said {
            Some(seen) => seen,
            None => seen.await.map_err(|_| bug("the reader"))??,
        };
        self.seal(cancel).await?;
        while !self.parts.is_empty() {
            self.wait_for_part(cancel).await?;
        }
        Ok(seen)
    }

    /// Waits for `future`, but not past a cancellation or a part that failed.
    async fn or_sooner<T>(&mut self, future: impl Future<Output = T>, cancel: &Cancel) -> Result<T> {
        let mut future = std::pin::pin!(future);
        loop {
            tokio::select! {
                biased;
                _ = cancel.cancelled() => cancel.check()?,
                Some(sent) = self.parts.join_next() => self.record(sent)?,
                value = &mut future => return Ok(value),
            }
        }
    }

    async fn wait_for_part(&mut self, cancel: &Cancel) -> Result<()> {
        tokio::select! {
            biased;
            _ = cancel.cancelled() => cancel.check(),
            Some(sent) = self.parts.join_next() => self.record(sent),
        }
    }

    fn record(&mut self, sent: Result<Sent, tokio::task::JoinError>) -> Result<()> {
        let Sent { object, bytes, result } = sent.map_err(|_| bug("an upload"))?;
        self.held -= bytes;
        self.objects[object].parts.push(result?);
        Ok(())
    }

    /// Adds a frame to the open object, or to a new one when it would not fit any more.
    async fn take(&mut self, frame: &Compressed, cancel: &Cancel) -> Result<()> {
        if let (Some((table, _)), Some(object)) = (&self.open, self.objects.last()) {
            let frames = table.0.len() + 1;
            let size = object.size + frame.bytes.len() as u64 + table_len(frames);
            if size > self.limits.object_bytes() || frames > self.limits.frames_per_object as usize {
                self.seal(cancel).await?;
            }
        }
        if self.open.is_none() {
            self.begin(cancel).await?;
        }
        self.append(&frame.bytes, cancel).await?;
        if let (Some((table, _)), Some(object)) = (&mut self.open, self.objects.last_mut()) {
            table.0.push(frame.entry);
            object.raw_bytes += u64::from(frame.entry.raw_len);
        }
        Ok(())
    }

    async fn begin(&mut self, cancel: &Cancel) -> Result<()> {
        let key = format!("{}data-{:04x}-{:03}", self.options.prefix, self.options.attempt, self.objects.len());
        // Not cut short by a cancellation: an upload whose id we never learn could not be aborted.
        let upload = self.bucket.begin_upload(&key).await?;
        let table_sha256 = Sha256::of(b"");
        self.objects.push(StagedObject {
            upload,
            parts: Vec::new(),
            size: 0,
            raw_bytes: 0,
            crc64nvme: 0,
            frames: 0,
            table_offset: 0,
            table_sha256,
        });
        self.open = Some((FrameTable::default(), Vec::new()));
        cancel.check()
    }

    /// Adds bytes to the part being filled, sending it each time it is full.
    async fn append(&mut self, mut bytes: &[u8], cancel: &Cancel) -> Result<()> {
        while let (false, Some(object)) = (bytes.is_empty(), self.objects.last()) {
            let parts_before = self.limits.parts_in(object.size);
            let capacity = self.limits.part_bytes(parts_before);
            let filled = self.open.as_ref().map_or(0, |(_, part)| part.len());
            if filled == 0 {
                self.admit(capacity, cancel).await?;
            }
            let (Some((_, part)), Some(object)) = (&mut self.open, self.objects.last_mut()) else { return Ok(()) };
            part.reserve_exact(capacity - filled);
            let (now, later) = bytes.split_at(bytes.len().min(capacity - filled));
            part.extend_from_slice(now);
            object.size += now.len() as u64;
            bytes = later;
            if part.len() == capacity {
                self.send(parts_before);
            }
        }
        Ok(())
    }

    /// Waits until a part of `bytes` may be held as well.
    async fn admit(&mut self, bytes: usize, cancel: &Cancel) -> Result<()> {
        while self.held + bytes > self.options.buffer_bytes && !self.parts.is_empty() {
            self.wait_for_part(cancel).await?;
        }
        Ok(())
    }

    /// Sends the part being filled; `parts_before` is how many the object has already.
    fn send(&mut self, parts_before: u16) {
        let index = self.objects.len() - 1;
        let (Some((_, part)), Some(object)) = (&mut self.open, self.objects.last_mut()) else { return };
        let body = Bytes::from(std::mem::take(part));
        let crc = crc_fast::checksum(Crc64Nvme, &body);
        object.crc64nvme =
            if parts_before == 0 { crc } else { crc_fast::checksum_combine(Crc64Nvme, object.crc64nvme, crc, body.len() as u64) };
        let (upload, gate, bytes) = (object.upload.clone(), self.gate.clone(), body.len());
        self.held += bytes;
        self.parts.spawn(async move {
            let _permit = gate.acquire_owned().await;
            Sent { object: index, bytes, result: upload.part(parts_before + 1, body, crc).await }
        });
    }

    /// Adds the frame table to the open object and sends its last part.
    async fn seal(&mut self, cancel: &Cancel) -> Result<()> {
        let Some((table, _)) = &mut self.open else { return Ok(()) };
        let table = std::mem::take(table);
        let bytes = table.encode();
        if let Some(object) = self.objects.last_mut() {
            object.frames = table.0.len() as u32;
            object.table_offset = object.size + SKIPPABLE_HEAD as u64;
            object.table_sha256 = Sha256::of(&bytes[SKIPPABLE_HEAD..]);
        }
        self.append(&bytes, cancel).await?;
        let filled = self.open.as_ref().map_or(0, |(_, part)| part.len());
        if let (true, Some(object)) = (filled > 0, self.objects.last()) {
            self.send(self.limits.parts_in(object.size - filled as u64));
        }
        self.open = None;
        Ok(())
    }
}

fn bug(who: &str) -> Error {
    Error::new(Failure::Resources, format!("{who} of the pipeline died: this is a bug in Highwater"))
}

/// Aborts uploads, trying again: an orphan costs money until the bucket's lifecycle rule removes it.
pub(super) async fn abort_all(objects: Vec<StagedObject>) {
    let aborts: JoinSet<()> = objects.into_iter().map(|object| abort(object.upload)).collect();
    aborts.join_all().await;
}

async fn abort(upload: Upload) {
    let Err(_) = upload.abort().await else { return };
    tokio::time::sleep(Duration::from_secs(1)).await;
    if let Err(error) = upload.abort().await {
        let (key, upload_id) = (upload.key(), upload.id());
        tracing::warn!(key, upload_id, %error, "an unfinished upload stays until the bucket's lifecycle rule removes it");
    }
}
