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
        let header = Header::parse_whole(bytes).map_err(|e| malformed(position, e))?;
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

#[cfg(test)]
mod tests {
    use super::super::xbstream::{Chunks, Writer};
    use super::*;

    /// The bytes of each frame, and whether it is ordered.
    type Frames = Vec<(Vec<u8>, bool)>;

    /// Gives its bytes in reads of `step` bytes.
    struct Dribble<'a>(&'a [u8], usize);

    impl Read for Dribble<'_> {
        fn read(&mut self, out: &mut [u8]) -> std::io::Result<usize> {
            let n = out.len().min(self.1).min(self.0.len());
            out[..n].copy_from_slice(&self.0[..n]);
            self.0 = &self.0[n..];
            Ok(n)
        }
    }

    fn frames(bytes: &[u8], step: usize, frame_bytes: usize, cancel: &Cancel) -> Result<(Frames, Seen)> {
        let limits = Limits { frame_bytes, ..Limits::S3 };
        let mut source = Source::new(Dribble(bytes, step), limits, 0, Progress::begin("test", None), cancel.clone());
        let mut frames = Vec::new();
        while let Some(size) = source.next_frame_size()? {
            let frame = source.fill_frame(vec![0; size])?;
            frames.push((frame.buffer[..frame.len].to_vec(), frame.ordered));
        }
        Ok((frames, source.finish()?))
    }

    fn sample() -> Vec<u8> {
        let mut w = Writer::new(Vec::new());
        for i in 0..40u64 {
            w.payload("big", i * 3_000, &vec![i as u8; 3_000]).unwrap();
            w.end(&format!("small{i}")).unwrap();
        }
        w.payload("big", 120_000, &vec![7; 200_000]).unwrap();
        w.end("big").unwrap();
        w.payload("log", 0, b"0123").unwrap();
        w.seek("log", 1).unwrap();
        w.payload("log", 1, b"x").unwrap();
        w.end("log").unwrap();
        w.remove("small3").unwrap();
        w.rename("small4", "small5").unwrap();
        w.payload("xtrabackup_info", 0, b"uuid =").unwrap();
        w.payload("xtrabackup_info", 6, b" 1\n").unwrap();
        w.end("xtrabackup_info").unwrap();
        w.into_inner()
    }

    #[test]
    fn frames_hold_whole_chunks_and_together_are_the_stream() {
        let bytes = sample();
        let (_keep, cancel) = Cancel::manual();
        for (step, target) in [(1 << 20, 10_000), (1 << 20, 1), (1 << 20, 1 << 20), (700, 50_000), (1, 20_000)] {
            let (frames, seen) = frames(&bytes, step, target, &cancel).unwrap();
            let mut joined = Vec::new();
            for (frame, ordered) in &frames {
                let chunks: Vec<_> = Chunks::new(frame).map(|c| c.unwrap().header.is_ordered()).collect();
                assert!(frame.len() <= target || chunks.len() == 1, "{} bytes in {} chunks", frame.len(), chunks.len());
                assert_eq!(chunks[0], *ordered, "an ordered chunk begins its frame, and no other frame holds one");
                assert!(*ordered || !chunks.contains(&true));
                joined.extend_from_slice(frame);
            }
            assert!(joined == bytes, "reads of {step}, frames of {target}");
            assert_eq!(seen.stream_bytes, bytes.len() as u64);
            assert_eq!(seen.last_file, "xtrabackup_info");
            assert_eq!(seen.metadata["xtrabackup_info"], b"uuid = 1\n");
            assert_eq!(seen.files.len(), 41);
            assert_eq!(seen.files[0].bytes, 320_000);
        }
    }

    #[test]
    fn a_cut_at_a_chunk_boundary_or_inside_is_an_error_of_the_tool() {
        let bytes = sample();
        let (_keep, cancel) = Cancel::manual();
        let boundary = bytes.len() - (14 + "xtrabackup_info".len());
        for cut in [0, 5, boundary, boundary + 3, bytes.len() - 1, 100_000, 250_000] {
            let error = frames(&bytes[..cut], 1 << 20, 10_000, &cancel).unwrap_err();
            assert_eq!(error.failure, Failure::Tool, "cut at {cut}");
            assert!(error.chain().contains("was cut"), "cut at {cut}: {}", error.chain());
        }
    }

    #[test]
    fn a_metadata_file_has_a_limit_and_cancelling_ends_the_reading() {
        let (canceller, cancel) = Cancel::manual();
        let mut w = Writer::new(Vec::new());
        w.payload("backup-my.cnf", 0, &vec![b'x'; METADATA_LIMIT + 1]).unwrap();
        let bytes = w.into_inner();
        assert!(frames(&bytes, 1 << 20, 10_000, &cancel).unwrap_err().chain().contains("is larger than"));
        canceller.cancel("test");
        assert_eq!(frames(&sample(), 10, 10_000, &cancel).unwrap_err().failure, Failure::Interrupted);
    }

    #[test]
    fn a_rate_is_kept() {
        let (_keep, cancel) = Cancel::manual();
        let bytes = sample();
        let rate = bytes.len() as u64 * 2;
        let begun = Instant::now();
        let mut source = Source::new(Dribble(&bytes, 4_096), Limits::S3, rate, Progress::begin("test", None), cancel);
        while let Some(size) = source.next_frame_size().unwrap() {
            source.fill_frame(vec![0; size]).unwrap();
        }
        assert!(begun.elapsed() >= Duration::from_millis(380), "half a second's bytes, less the burst, took {:?}", begun.elapsed());
    }
}
