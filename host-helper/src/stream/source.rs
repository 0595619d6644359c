//! The reading end: the tool's stream into frames of whole chunks, in one thread.

use super::xbstream::{Chunk, Header, Malformed, Op, Tracker};
use super::{Limits, METADATA_FILES};
use crate::error::{Context, Error, Result};
use crate::progress::Progress;
use crate::signal::Cancel;
use highwater_core::Failure;
use highwater_core::inventory::StreamFile;
use std::collections::BTreeMap;
use std::io::Read;
use std::time::{Duration, Instant};

/// How far a read may go past the chunk that is wanted: carried over to the next frame when that begins there.
const LOOKAHEAD: usize = 64 << 10;
/// The most bytes of one metadata file.
const METADATA_LIMIT: usize = 1 << 20;

/// What is known of the stream at its end.
#[derive(Debug)]
pub(super) struct Seen {
    pub files: Vec<StreamFile>,
    pub last_file: String,
    pub metadata: BTreeMap<String, Vec<u8>>,
    pub stream_bytes: u64,
}

/// Whole chunks.
#[derive(Debug)]
pub(super) struct RawFrame {
    /// The chunks are `buffer[..len]`.
    pub buffer: Vec<u8>,
    pub len: usize,
    pub ordered: bool,
}

/// Cuts a stream into frames.
pub(super) struct Source<R> {
    input: R,
    limits: Limits,
    tracker: Tracker,
    metadata: BTreeMap<String, Vec<u8>>,
    /// Bytes read beyond the last frame.
    carry: Vec<u8>,
    /// Bytes of stream in the frames so far.
    position: u64,
    rate: RateLimit,
    progress: Progress,
    cancel: Cancel,
}

impl<R: Read> Source<R> {
    pub(super) fn new(input: R, limits: Limits, max_bytes_per_second: u64, progress: Progress, cancel: Cancel) -> Self {
        let rate = RateLimit::new(max_bytes_per_second);
        let tracker = Tracker::new(limits.files);
        Self { input, limits, tracker, metadata: BTreeMap::new(), carry: Vec::new(), position: 0, rate, progress, cancel }
    }

    /// Bytes that the next frame's buffer needs; `None` at the stream's end. Waits for the next chunk's header.
    pub(super) fn next_frame_size(&mut self) -> Result<Option<usize>> {
        let mut filled = self.carry.len();
        let mut carry = std::mem::take(&mut self.carry);
        carry.resize(LOOKAHEAD.max(filled), 0);
        let header = self.header(&mut carry, 0, &mut filled)?.map(|h| h.chunk_len);
        carry.truncate(filled);
        self.carry = carry;
        Ok(header.map(|chunk| chunk.max(self.limits.frame_bytes) + LOOKAHEAD))
    }

    /// Fills the next frame into `buffer`, which has at least the size that [`Self::next_frame_size`] gave.
    pub(super) fn fill_frame(&mut self, mut buffer: Vec<u8>) -> Result<RawFrame> {
        let mut filled = self.carry.len();
        buffer[..filled].copy_from_slice(&self.carry);
        self.carry.clear();
        let (mut end, mut ordered) = (0, false);
        while let Some(next) = self.header(&mut buffer, end, &mut filled)? {
            let full = end + next.chunk_len > self.limits.frame_bytes || (next.is_ordered && !ordered);
            if end > 0 && full {
                break;
            }
            ordered |= next.is_ordered;
            let chunk_end = end + next.chunk_len;
            while filled < chunk_end {
                if self.read(&mut buffer, chunk_end, &mut filled)? == 0 {
                    let at = self.position + end as u64;
                    return Err(malformed(at, Malformed::Cut(format!("it ends at byte {} inside a chunk", self.position + filled as u64))));
                }
            }
            self.accept(&buffer[end..chunk_end], end)?;
            end = chunk_end;
        }
        self.carry.extend_from_slice(&buffer[end..filled]);
        self.position += end as u64;
        Ok(RawFrame { buffer, len: end, ordered })
    }

    /// The header at `at`, reading as far as it takes; `None` when the stream ends just there.
    fn header(&mut self, buffer: &mut [u8], at: usize, filled: &mut usize) -> Result<Option<NextChunk>> {
        loop {
            let position = self.position + at as u64;
            let header = Header::parse(&buffer[at..*filled]).map_err(|e| malformed(position, e))?;
            match header.map(|h| NextChunk { chunk_len: h.chunk_len(), is_ordered: h.is_ordered() }) {
                Some(next) => return Ok(Some(next)),
                None if self.read(buffer, at + 1, filled)? > 0 => {}
                None if *filled == at => return Ok(None),
                None => return Err(malformed(position, Malformed::Cut("it ends inside a chunk's header".into()))),
            }
        }
    }

    /// Reads at least one byte, and not much further than `wanted`; 0 at the stream's end.
    fn read(&mut self, buffer: &mut [u8], wanted: usize, filled: &mut usize) -> Result<usize> {
        self.cancel.check()?;
        let limit = (wanted + LOOKAHEAD).min(buffer.len());
        let n = loop {
            match self.input.read(&mut buffer[*filled..limit]) {
                Err(e) if e.kind() == std::io::ErrorKind::Interrupted => {}
                other => break other.context(Failure::Tool, || "read the tool's stream".to_owned())?,
            }
        };
        *filled += n;
        self.progress.advance(n as u64);
        self.rate.spend(n as u64, &self.cancel)?;
        Ok(n)
    }

    /// Follows one whole chunk, and keeps it if it is of a metadata file. Its CRC is checked by whoever compresses it.
    fn accept(&mut self, bytes: &[u8], at: usize) -> Result<()> {
        let position = self.position + at as u64;
        let header = Header::parse(bytes).map_err(|e| malformed(position, e))?;
        let Some(header) = header else { return Ok(()) };
        let chunk = Chunk { header, body: &bytes[header.len..] };
        self.tracker.chunk(&chunk).map_err(|e| malformed(position, e))?;
        if !METADATA_FILES.contains(&header.path) {
            return Ok(());
        }
        let kept = self.metadata.entry(header.path.to_owned()).or_default();
        if header.is_ordered() {
            kept.clear();
        }
        if let Op::Payload { .. } = header.op {
            if kept.len() + chunk.body.len() > METADATA_LIMIT {
                return Err(Error::new(Failure::Tool, format!("the tool's {} is larger than {METADATA_LIMIT} bytes", header.path)));
            }
            kept.extend_from_slice(chunk.body);
        }
        Ok(())
    }

    /// Ends the stream.
    pub(super) fn finish(self) -> Result<Seen> {
        let (files, last_file) = self.tracker.finish().map_err(|e| malformed(self.position, e))?;
        Ok(Seen { files, last_file, metadata: self.metadata, stream_bytes: self.position })
    }
}

struct NextChunk {
    chunk_len: usize,
    is_ordered: bool,
}

/// A stream that is not what the tool should have written.
pub(super) fn malformed(position: u64, error: Malformed) -> Error {
    Error::new(Failure::Tool, format!("the tool's stream is malformed at byte {position}"))
        .because(error)
        .hint("the tool, its host's memory or the pipe damaged it: read the tool's own messages")
}

/// Lets bytes through at a rate, with a tenth of a second's worth of burst.
struct RateLimit {
    bytes_per_second: u64,
    ahead_until: Instant,
}

impl RateLimit {
    fn new(bytes_per_second: u64) -> Self {
        Self { bytes_per_second, ahead_until: Instant::now() }
    }

    /// Waits until `bytes` more are due, in steps that notice a cancellation.
    fn spend(&mut self, bytes: u64, cancel: &Cancel) -> Result<()> {
        if self.bytes_per_second == 0 {
            return Ok(());
        }
        const BURST: Duration = Duration::from_millis(100);
        let cost = Duration::from_secs_f64(bytes as f64 / self.bytes_per_second as f64);
        self.ahead_until = self.ahead_until.max(Instant::now()) + cost;
        loop {
            let wait = self.ahead_until.saturating_duration_since(Instant::now());
            if wait <= BURST {
                return Ok(());
            }
            cancel.check()?;
            std::thread::sleep((wait - BURST).min(Duration::from_millis(200)));
        }
    }
}
