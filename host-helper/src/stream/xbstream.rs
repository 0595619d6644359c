//! The tools' stream format, xbstream (Percona) alias mbstream (MariaDB): read, checked, written.
//!
//! A stream is a log of operations on files. Almost all of them append: payloads of many files interleave, each file's
//! payloads are contiguous. MariaDB 10.11 added operations that are not commutative, for tables that DDL changed during the backup:
//! a file is streamed a second time (`REWRITE`), removed, renamed, or positioned (`S`). They are told apart by
//! [`Header::is_ordered`], because a parallel restore must not exchange them with others.
//!
//! Nothing here trusts the input: every length has a limit before anything is allocated or skipped.

use highwater_core::inventory::safe_relative_path;

mod tracker;
mod writer;

#[cfg(test)]
mod tests;

pub use tracker::Tracker;
pub use writer::Writer;

/// What every chunk begins with.
const MAGIC: &[u8; 8] = b"XBSTCK01";
/// Magic, flags, type, path length.
const FIXED: usize = 14;
/// The tools refuse paths of 512 bytes and more.
const PATH_LIMIT: usize = 511;
/// The tools write 10 MiB at most, unless their read buffer was enlarged.
const PAYLOAD_LIMIT: u64 = 32 << 20;
/// Holes in one sparse chunk.
const MAP_LIMIT: u32 = 1 << 20;
/// A reader may skip a chunk of a type it does not know.
const FLAG_IGNORABLE: u8 = 0x01;
/// MariaDB: the chunk belongs to a file that is streamed a second time and replaces the first.
const FLAG_REWRITE: u8 = 0x02;

/// The longest header there is: two paths (rename), or one and the fields of a sparse chunk.
pub const HEADER_LIMIT: usize = FIXED + 2 * PATH_LIMIT + 4 + 24;
/// The longest chunk there is.
pub const CHUNK_LIMIT: usize = HEADER_LIMIT + PAYLOAD_LIMIT as usize + 8 * MAP_LIMIT as usize;

/// Why bytes are not an xbstream.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Malformed {
    /// The bytes at a chunk's start are not its magic.
    #[error("no chunk begins where one must")]
    Magic,
    /// A type this code does not know, and may not skip.
    #[error("unknown chunk type {0:#04x}")]
    Type(u8),
    /// A path that is too long, not UTF-8, or leaves the data directory.
    #[error("the path {0:?} is not a safe relative path")]
    Path(String),
    /// A length or offset out of bounds.
    #[error("{path}: impossible {what} {value}")]
    Bounds {
        /// The chunk's file.
        path: String,
        /// Which field.
        what: &'static str,
        /// What it says.
        value: u64,
    },
    /// The payload is not what the tool wrote.
    #[error("{path}: the chunk at offset {offset} has CRC-32 {found:08x}, its header says {expected:08x}")]
    Crc {
        /// The chunk's file.
        path: String,
        /// Offset of the chunk in its file.
        offset: u64,
        /// The header's.
        expected: u32,
        /// The payload's.
        found: u32,
    },
    /// A chunk that does not continue its file.
    #[error("{path}: {what}")]
    Order {
        /// The chunk's file.
        path: String,
        /// What is wrong.
        what: String,
    },
    /// The stream ends inside a chunk or with files still open.
    #[error("the stream was cut: {0}")]
    Cut(String),
    /// More files than are supported.
    #[error("the stream holds more than {0} files")]
    Files(usize),
}

/// What a chunk does to the file at its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Op<'a> {
    /// Writes the body at `offset`.
    Payload {
        /// Where in the file.
        offset: u64,
        /// CRC-32 of the body.
        crc: u32,
    },
    /// Percona: writes pieces of the body with holes between them, from `offset` on. The body is the map, then the data.
    Sparse {
        /// Where in the file.
        offset: u64,
        /// CRC-32 of the body.
        crc: u32,
        /// Pairs in the map: bytes to skip, bytes to write.
        pairs: usize,
    },
    /// Closes the file, creating it if it has no payload.
    End,
    /// MariaDB: the next payload starts at `offset`.
    Seek {
        /// Where in the file.
        offset: u64,
    },
    /// MariaDB: deletes the file.
    Remove,
    /// MariaDB: gives the file another path.
    Rename {
        /// The new path.
        to: &'a str,
    },
    /// An unknown chunk that says it may be skipped.
    Ignored,
}

/// The header of one chunk; the body follows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Header<'a> {
    /// The file.
    pub path: &'a str,
    /// What is done.
    pub op: Op<'a>,
    /// Whether the file replaces one streamed before.
    pub rewrite: bool,
    /// Bytes of this header.
    pub len: usize,
    /// Bytes of the body.
    pub body_len: usize,
}

/// Takes little-endian fields off a byte slice; `None` when it is too short.
struct Fields<'a> {
    rest: &'a [u8],
    taken: usize,
}

impl<'a> Fields<'a> {
    fn bytes(&mut self, n: usize) -> Option<&'a [u8]> {
        let (head, rest) = self.rest.split_at_checked(n)?;
        self.rest = rest;
        self.taken += n;
        Some(head)
    }

    fn array<const N: usize>(&mut self) -> Option<[u8; N]> {
        self.bytes(N)?.try_into().ok()
    }

    fn u32(&mut self) -> Option<u32> {
        self.array().map(u32::from_le_bytes)
    }

    fn u64(&mut self) -> Option<u64> {
        self.array().map(u64::from_le_bytes)
    }
}

/// Checks a path's length before its bytes have to be there, then the path.
fn path_len(len: u32) -> Result<usize, Malformed> {
    match usize::try_from(len) {
        Ok(n) if (1..=PATH_LIMIT).contains(&n) => Ok(n),
        _ => Err(Malformed::Path(format!("<{len} bytes>"))),
    }
}

fn path(bytes: &[u8]) -> Result<&str, Malformed> {
    match std::str::from_utf8(bytes) {
        Ok(path) if safe_relative_path(path) => Ok(path),
        _ => Err(Malformed::Path(String::from_utf8_lossy(bytes).into_owned())),
    }
}

/// Tells MariaDB's seek from Percona's sparse chunk, by what follows the path. A seek is an offset and then the next chunk (or,
/// in `whole` chunks, the end); in a sparse chunk the upper half of the payload length, always zero, lies where the next
/// chunk's magic would be.
fn is_seek(rest: &[u8], whole: bool) -> Option<bool> {
    match rest.get(8..12) {
        Some(bytes) => Some(bytes != [0; 4]),
        None => whole.then_some(rest.len() == 8),
    }
}

impl<'a> Header<'a> {
    /// Reads the header that `bytes` begins with; `None` when more bytes are needed to tell.
    ///
    /// # Errors
    /// Whatever no further byte can mend.
    pub fn parse(bytes: &'a [u8]) -> Result<Option<Self>, Malformed> {
        Self::parse_fields(bytes, false)
    }

    /// Reads the header that `bytes`, which end where a chunk ends, begin with.
    ///
    /// # Errors
    /// As [`Self::parse`], or `Cut`.
    pub fn parse_whole(bytes: &'a [u8]) -> Result<Self, Malformed> {
        Self::parse_fields(bytes, true)?.ok_or_else(|| Malformed::Cut("a chunk's header is incomplete".into()))
    }

    fn parse_fields(bytes: &'a [u8], whole: bool) -> Result<Option<Self>, Malformed> {
        let seen = bytes.len().min(MAGIC.len());
        if bytes[..seen] != MAGIC[..seen] {
            return Err(Malformed::Magic);
        }
        Self::fields(Fields { rest: bytes, taken: 0 }, whole).transpose()
    }

    /// `None` stands for "more bytes are needed", so that `?` ends the reading of fields.
    fn fields(mut f: Fields<'a>, whole: bool) -> Option<Result<Self, Malformed>> {
        macro_rules! valid {
            ($checked:expr) => {
                match $checked {
                    Ok(value) => value,
                    Err(error) => return Some(Err(error)),
                }
            };
        }
        f.bytes(MAGIC.len())?;
        let [flags, kind] = f.array()?;
        if !matches!(kind, b'P' | b'E' | b'S' | b'D' | b'R') && flags & FLAG_IGNORABLE == 0 {
            return Some(Err(Malformed::Type(kind)));
        }
        let len = valid!(path_len(f.u32()?));
        let path_text = valid!(path(f.bytes(len)?));
        let bounded = |what, value: u64, limit: u64| match value <= limit {
            true => Ok(value),
            false => Err(Malformed::Bounds { path: path_text.to_owned(), what, value }),
        };
        let mut body_len = 0;
        let op = match kind {
            b'E' => Op::End,
            b'D' => Op::Remove,
            b'R' => {
                let len = valid!(path_len(f.u32()?));
                Op::Rename { to: valid!(path(f.bytes(len)?)) }
            }
            b'S' if is_seek(f.rest, whole)? => Op::Seek { offset: valid!(bounded("offset", f.u64()?, i64::MAX as u64)) },
            _ => {
                let pairs = if kind == b'S' { f.u32()? } else { 0 };
                valid!(bounded("sparse map", pairs.into(), MAP_LIMIT.into()));
                let payload = valid!(bounded("payload length", f.u64()?, PAYLOAD_LIMIT));
                let offset = valid!(bounded("offset", f.u64()?, i64::MAX as u64 - PAYLOAD_LIMIT));
                let crc = f.u32()?;
                let pairs = pairs as usize;
                body_len = pairs * 8 + payload as usize;
                match kind {
                    b'P' => Op::Payload { offset, crc },
                    b'S' => Op::Sparse { offset, crc, pairs },
                    _ => Op::Ignored,
                }
            }
        };
        Some(Ok(Self { path: path_text, op, rewrite: flags & FLAG_REWRITE != 0, len: f.taken, body_len }))
    }

    /// Header and body together.
    pub fn chunk_len(&self) -> usize {
        self.len + self.body_len
    }

    /// Whether a restore must have done every chunk before this one, and none after it, when it does this one.
    pub fn is_ordered(&self) -> bool {
        match self.op {
            Op::Seek { .. } | Op::Remove | Op::Rename { .. } => true,
            // The first chunk of a second version empties the file; its later ones append as ever.
            Op::Payload { offset, .. } | Op::Sparse { offset, .. } => self.rewrite && offset == 0,
            Op::End | Op::Ignored => false,
        }
    }
}

/// What a chunk writes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Layout<'a> {
    /// An offset in the file, and the bytes.
    pub writes: Vec<(u64, &'a [u8])>,
    /// Where the file stands after them.
    pub end: u64,
}

/// One whole chunk.
#[derive(Debug, Clone, Copy)]
pub struct Chunk<'a> {
    /// Its header.
    pub header: Header<'a>,
    /// Its body.
    pub body: &'a [u8],
}

impl<'a> Chunk<'a> {
    /// Compares the body with the header's CRC-32.
    ///
    /// # Errors
    /// `Crc`.
    pub fn check_crc(&self) -> Result<(), Malformed> {
        let (offset, expected) = match self.header.op {
            Op::Payload { offset, crc } | Op::Sparse { offset, crc, .. } => (offset, crc),
            Op::End | Op::Seek { .. } | Op::Remove | Op::Rename { .. } | Op::Ignored => return Ok(()),
        };
        let found = crc32fast::hash(self.body);
        if found == expected { Ok(()) } else { Err(Malformed::Crc { path: self.header.path.to_owned(), offset, expected, found }) }
    }

    /// What this chunk writes.
    ///
    /// # Errors
    /// `Bounds` when a sparse map does not describe its payload.
    pub fn layout(&self) -> Result<Layout<'a>, Malformed> {
        let (mut at, pairs) = match self.header.op {
            Op::Payload { offset, .. } => return Ok(Layout { writes: vec![(offset, self.body)], end: offset + self.body.len() as u64 }),
            Op::Sparse { offset, pairs, .. } => (offset, pairs),
            _ => return Ok(Layout { writes: Vec::new(), end: 0 }),
        };
        let wrong = |value| Malformed::Bounds { path: self.header.path.to_owned(), what: "sparse map", value };
        let (map, mut data) = self.body.split_at_checked(pairs * 8).ok_or_else(|| wrong(pairs as u64))?;
        let mut fields = Fields { rest: map, taken: 0 };
        let mut writes = Vec::with_capacity(pairs);
        while let (Some(skip), Some(len)) = (fields.u32(), fields.u32()) {
            at += u64::from(skip);
            let (piece, rest) = data.split_at_checked(len as usize).ok_or_else(|| wrong(len.into()))?;
            if !piece.is_empty() {
                writes.push((at, piece));
            }
            at += u64::from(len);
            data = rest;
        }
        if data.is_empty() { Ok(Layout { writes, end: at }) } else { Err(wrong(data.len() as u64)) }
    }
}

/// The chunks of a slice that holds whole chunks only.
#[derive(Debug, Clone)]
pub struct Chunks<'a>(&'a [u8]);

impl<'a> Chunks<'a> {
    /// Over `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }
}

impl<'a> Iterator for Chunks<'a> {
    type Item = Result<Chunk<'a>, Malformed>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.0.is_empty() {
            return None;
        }
        let parsed = Header::parse_whole(self.0).and_then(|header| {
            let whole = self.0.split_at_checked(header.chunk_len());
            let (chunk, rest) = whole.ok_or_else(|| Malformed::Cut(format!("a chunk of {} is incomplete", header.path)))?;
            self.0 = rest;
            Ok(Chunk { header, body: &chunk[header.len..] })
        });
        if parsed.is_err() {
            self.0 = &[];
        }
        Some(parsed)
    }
}
