//! The download pipeline: frame tables, then runs of frames by ranged GETs, then each frame checked and used by itself.
//!
//! Memory: the bytes of runs are counted by a budget until their last frame is done; each worker keeps one decompressed frame.

use super::extract::{Aligned, Extractor, Sizes};
use super::frame::{FrameEntry, FrameTable, SKIPPABLE_HEAD, table_len};
use super::inventory::load_inventory;
use super::xbstream::Chunks;
use super::{FetchOptions, threads};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::signal::Cancel;
use bytes::Bytes;
use highwater_aws::s3::{Bucket, StoreError};
use highwater_core::manifest::DataObject;
use highwater_core::plan::PlanStep;
use highwater_core::{Failure, Sha256};
use std::ops::Range;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, mpsc as std_mpsc};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::task::JoinSet;

/// Stored bytes fetched by one request, unless one frame has more.
const RUN_BYTES: u64 = 8 << 20;
/// Stored bytes between S3 and the workers.
const BUDGET: usize = 64 << 20;
const KIB: usize = 1 << 10;

/// Fetches and extracts one step.
pub(super) async fn extract(
    bucket: &Bucket,
    step: &PlanStep,
    into: &Path,
    options: FetchOptions,
    progress: Progress,
    cancel: &Cancel,
) -> Result<u64> {
    let extractor = Arc::new(Extractor::new(into)?);
    let inventory = load_inventory(bucket, &step.inventory).await?;
    let written = Fetch::start(bucket, options, Use::Extract(extractor.clone()), progress, cancel)?.all(&step.objects).await?;
    let extractor = Arc::try_unwrap(extractor).map_err(|_| bug())?;
    let finish = move || extractor.finish(&inventory.files);
    tokio::task::spawn_blocking(finish).await.map_err(|_| bug())??;
    Ok(written)
}

/// Reads and checks one step's data without writing it.
pub(super) async fn verify(bucket: &Bucket, step: &PlanStep, options: FetchOptions, progress: Progress, cancel: &Cancel) -> Result<u64> {
    let inventory = load_inventory(bucket, &step.inventory).await?;
    let sizes = Arc::new(Sizes::default());
    Fetch::start(bucket, options, Use::Check(sizes.clone()), progress, cancel)?.all(&step.objects).await?;
    sizes.finish(&inventory.files)?;
    Ok(step.objects.iter().map(|o| o.raw_bytes).sum())
}

/// Reads back an object just written, where the store keeps no checksum to compare. The digests of the stored bytes are enough:
/// they were taken from what the compressor made.
pub(super) async fn read_back(bucket: &Bucket, object: &DataObject) -> Result<()> {
    let progress = Progress::begin(format!("read back {}", object.key), Some(object.size));
    let (_keep, cancel) = Cancel::manual();
    let options = FetchOptions { downloads: 4, threads: 0 };
    Fetch::start(bucket, options, Use::Digest, progress, &cancel)?.all(std::slice::from_ref(object)).await.map(drop)
}

/// What is done with a frame.
#[derive(Clone)]
enum Use {
    /// Its stored bytes are compared with the table.
    Digest,
    /// It is decompressed and its chunks are checked as well, and what they would write is counted.
    Check(Arc<Sizes>),
    /// Its chunks are written as well.
    Extract(Arc<Extractor>),
}

/// A frame with the bytes that were stored of it.
struct Frame {
    key: Arc<str>,
    index: usize,
    entry: FrameEntry,
    stored: Bytes,
    _permit: Arc<OwnedSemaphorePermit>,
}

/// Consecutive frames of one object, fetched together.
struct Run {
    bytes: Range<u64>,
    frames: Range<usize>,
    ordered: bool,
}

type Downloaded = (Result<Bytes, StoreError>, Arc<str>, Run, Arc<FrameTable>, OwnedSemaphorePermit);

struct Fetch<'a> {
    bucket: &'a Bucket,
    options: FetchOptions,
    progress: Progress,
    cancel: &'a Cancel,
    budget: Arc<Semaphore>,
    downloads: JoinSet<Downloaded>,
    frames: std_mpsc::Sender<Frame>,
    done: mpsc::UnboundedReceiver<Result<FrameDone>>,
    /// Frames given to the workers and not yet done.
    outstanding: usize,
    written: u64,
}

struct FrameDone {
    stored: u64,
    written: u64,
}

impl<'a> Fetch<'a> {
    fn start(bucket: &'a Bucket, options: FetchOptions, purpose: Use, progress: Progress, cancel: &'a Cancel) -> Result<Self> {
        let (frames, queue) = std_mpsc::channel();
        let (report, done) = mpsc::unbounded_channel();
        let queue = Arc::new(Mutex::new(queue));
        for _ in 0..threads(options.threads) {
            let mut worker = Worker::new(purpose.clone())?;
            let (queue, report) = (queue.clone(), report.clone());
            std::thread::Builder::new()
                .name("hw-extract".into())
                .spawn(move || worker.run(&queue, &report))
                .context(Failure::Resources, || "start the thread hw-extract".to_owned())?;
        }
        let budget = Arc::new(Semaphore::new(BUDGET / KIB));
        Ok(Self { bucket, options, progress, cancel, budget, downloads: JoinSet::new(), frames, done, outstanding: 0, written: 0 })
    }

    /// Fetches every frame of every object; returns the bytes that the workers wrote. The workers have ended when it returns.
    async fn all(mut self, objects: &[DataObject]) -> Result<u64> {
        let result = self.objects(objects).await;
        self.downloads.shutdown().await;
        drop(self.frames);
        while self.done.recv().await.is_some() {}
        result.map(|()| self.written)
    }

    async fn objects(&mut self, objects: &[DataObject]) -> Result<()> {
        for object in objects {
            let table = Arc::new(load_table(self.bucket, object).await?);
            let key: Arc<str> = object.key.as_str().into();
            for run in runs(&table) {
                if run.ordered {
                    self.drain().await?;
                }
                let ordered = run.ordered;
                self.start_run(object, key.clone(), table.clone(), run).await?;
                if ordered {
                    self.drain().await?;
                }
            }
        }
        self.drain().await
    }

    async fn start_run(&mut self, object: &DataObject, key: Arc<str>, table: Arc<FrameTable>, run: Run) -> Result<()> {
        let kib = (run.bytes.end - run.bytes.start).div_ceil(KIB as u64).min((BUDGET / KIB) as u64);
        let mut permit = self.budget.clone().try_acquire_many_owned(kib as u32);
        while permit.is_err() || self.downloads.len() >= self.options.downloads.max(1) {
            self.step().await?;
            if permit.is_err() {
                permit = self.budget.clone().try_acquire_many_owned(kib as u32);
            }
        }
        let Ok(permit) = permit else { return Err(bug()) };
        let (bucket, version) = (self.bucket.clone(), object.version_id.clone());
        self.downloads.spawn(async move {
            let bytes = bucket.get_range(&key, version.as_deref(), run.bytes.clone()).await;
            (bytes, key, run, table, permit)
        });
        Ok(())
    }

    async fn drain(&mut self) -> Result<()> {
        while !self.downloads.is_empty() || self.outstanding > 0 {
            self.step().await?;
        }
        Ok(())
    }

    /// Waits for the next thing that happens.
    async fn step(&mut self) -> Result<()> {
        tokio::select! {
            biased;
            _ = self.cancel.cancelled() => self.cancel.check(),
            Some(done) = self.done.recv(), if self.outstanding > 0 => {
                let FrameDone { stored, written } = done?;
                self.outstanding -= 1;
                self.written += written;
                self.progress.advance(stored);
                Ok(())
            }
            Some(downloaded) = self.downloads.join_next() => self.dispatch(downloaded.map_err(|_| bug())?),
            else => Err(bug()),
        }
    }

    /// Gives a run's frames to the workers.
    fn dispatch(&mut self, (bytes, key, run, table, permit): Downloaded) -> Result<()> {
        let mut bytes = bytes.map_err(|error| {
            let mut error = Error::from(error);
            error.message = format!("fetch frames {}..{}: {}", run.frames.start, run.frames.end, error.message);
            error
        })?;
        let permit = Arc::new(permit);
        for index in run.frames {
            let Some(&entry) = table.0.get(index) else { return Err(bug()) };
            let stored = bytes.split_to((entry.stored_len as usize).min(bytes.len()));
            let frame = Frame { key: key.clone(), index, entry, stored, _permit: permit.clone() };
            self.frames.send(frame).map_err(|_| bug())?;
            self.outstanding += 1;
        }
        Ok(())
    }
}

fn bug() -> Error {
    Error::new(Failure::Resources, "a stage of the download died: this is a bug in Highwater")
}

/// Reads an object's frame table: the one that the manifest pins, and the object's frames exactly.
async fn load_table(bucket: &Bucket, object: &DataObject) -> Result<FrameTable> {
    let key = &object.key;
    let damaged = |what: String| Error::new(Failure::Damaged, format!("the frame table of {key} is damaged: {what}"));
    let expected = table_len(object.frames as usize) - SKIPPABLE_HEAD as u64;
    if object.size.checked_sub(object.table_offset) != Some(expected) || object.table_offset < SKIPPABLE_HEAD as u64 {
        return Err(damaged(format!("{} frames cannot be described from byte {} to {}", object.frames, object.table_offset, object.size)));
    }
    let bytes = bucket.get_range(key, object.version_id.as_deref(), object.table_offset..object.size).await?;
    let found = Sha256::of(&bytes);
    if found != object.table_sha256 {
        return Err(damaged(format!("it has SHA-256 {found}, expected {}", object.table_sha256)));
    }
    let table = FrameTable::decode(&bytes).map_err(damaged)?;
    let raw: u64 = table.0.iter().map(|f| u64::from(f.raw_len)).sum();
    let stored: u64 = table.0.iter().map(|f| u64::from(f.stored_len)).sum();
    if table.0.len() != object.frames as usize || raw != object.raw_bytes || stored != object.table_offset - SKIPPABLE_HEAD as u64 {
        return Err(damaged(format!("it describes {} frames of {raw} bytes in {stored}", table.0.len())));
    }
    Ok(table)
}

/// Groups frames into requests. A frame that must not be reordered is fetched alone.
fn runs(table: &FrameTable) -> Vec<Run> {
    let mut runs: Vec<Run> = Vec::new();
    let mut at = 0;
    for (index, frame) in table.0.iter().enumerate() {
        let end = at + u64::from(frame.stored_len);
        match runs.last_mut() {
            Some(run) if !run.ordered && !frame.ordered && end - run.bytes.start <= RUN_BYTES => {
                (run.bytes.end, run.frames.end) = (end, index + 1);
            }
            _ => runs.push(Run { bytes: at..end, frames: index..index + 1, ordered: frame.ordered }),
        }
        at = end;
    }
    runs
}

/// A worker that panics says so: otherwise its frame would be waited for for ever.
struct TellOfPanic<'a>(&'a mpsc::UnboundedSender<Result<FrameDone>>);

impl Drop for TellOfPanic<'_> {
    fn drop(&mut self) {
        if std::thread::panicking() {
            drop(self.0.send(Err(bug())));
        }
    }
}

struct Worker {
    zstd: zstd::bulk::Decompressor<'static>,
    raw: Vec<u8>,
    aligned: Aligned,
    purpose: Use,
}

impl Worker {
    fn new(purpose: Use) -> Result<Self> {
        let zstd = zstd::bulk::Decompressor::new().context(Failure::Resources, || "start zstd".to_owned())?;
        Ok(Self { zstd, raw: Vec::new(), aligned: Aligned::new(), purpose })
    }

    fn run(&mut self, queue: &Mutex<std_mpsc::Receiver<Frame>>, report: &mpsc::UnboundedSender<Result<FrameDone>>) {
        let _told = TellOfPanic(report);
        loop {
            let frame = queue.lock().unwrap_or_else(PoisonError::into_inner).recv();
            let Ok(frame) = frame else { return };
            let done = self.frame(&frame).map(|written| FrameDone { stored: frame.stored.len() as u64, written });
            if report.send(done).is_err() {
                return;
            }
        }
    }

    /// Checks one frame in full, and writes its chunks if that is asked for.
    fn frame(&mut self, frame: &Frame) -> Result<u64> {
        let Frame { key, index, entry, stored, .. } = frame;
        let context = || format!("frame {index} of {key} is damaged");
        let damaged = |what: String| Error::new(Failure::Damaged, format!("{}: {what}", context()));
        let found = Sha256::of(stored);
        if found != entry.sha256 {
            return Err(damaged(format!("it has SHA-256 {found}, expected {}", entry.sha256)));
        }
        if matches!(self.purpose, Use::Digest) {
            return Ok(0);
        }
        self.raw.clear();
        self.raw.reserve_exact(entry.raw_len as usize);
        self.zstd.decompress_to_buffer(stored, &mut self.raw).context(Failure::Damaged, context)?;
        if self.raw.len() != entry.raw_len as usize {
            return Err(damaged(format!("it holds {} bytes, its table says {}", self.raw.len(), entry.raw_len)));
        }
        let mut written = 0;
        for chunk in Chunks::new(&self.raw) {
            let chunk = chunk.context(Failure::Damaged, context)?;
            chunk.check_crc().context(Failure::Damaged, context)?;
            match &self.purpose {
                Use::Extract(extractor) => written += extractor.chunk(&chunk, &mut self.aligned)?,
                Use::Check(sizes) => sizes.chunk(&chunk)?,
                Use::Digest => {}
            }
        }
        Ok(written)
    }
}
