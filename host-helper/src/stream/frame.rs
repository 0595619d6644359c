//! Frames and the frame table: how an object is cut, and how each piece is checked alone.
//!
//! An object is zstd frames, each of whole chunks, then one zstd skippable frame whose content is the table:
//! `HWFRAMES`, u32 count, u32 zero, then per frame u32 raw length, u32 stored length, u32 flags, SHA-256 of the stored bytes.
//! Everything is little-endian. `zstd -d` skips the table, so an object can be read without this code.

use super::xbstream::CHUNK_LIMIT;
use highwater_core::Sha256;

/// The skippable frame's magic; the last digit is free to choose.
const SKIPPABLE: u32 = 0x184D_2A57;
const MAGIC: &[u8; 8] = b"HWFRAMES";
const ENTRY: usize = 44;
const TABLE_HEAD: usize = 16;
/// Bytes of a skippable frame before its content.
pub(super) const SKIPPABLE_HEAD: usize = 8;
/// The most frames in an object: bounds the table (2.9 MB).
pub(super) const FRAMES_LIMIT: u32 = 1 << 16;
const FLAG_ORDERED: u32 = 1;

/// One frame, as the table describes it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct FrameEntry {
    /// Bytes of stream in it.
    pub raw_len: u32,
    /// Bytes stored.
    pub stored_len: u32,
    /// A restore finishes every frame before it first, and starts none after it until it is done.
    pub ordered: bool,
    /// Of the stored bytes.
    pub sha256: Sha256,
}

/// The frames of one object.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct FrameTable(pub(super) Vec<FrameEntry>);

/// Bytes that a table of `frames` frames adds to its object.
pub(super) fn table_len(frames: usize) -> u64 {
    (SKIPPABLE_HEAD + TABLE_HEAD + frames * ENTRY) as u64
}

impl FrameTable {
    /// The skippable frame; its content begins [`SKIPPABLE_HEAD`] bytes in.
    pub(super) fn encode(&self) -> Vec<u8> {
        let content = (TABLE_HEAD + self.0.len() * ENTRY) as u32;
        let mut out = Vec::with_capacity(SKIPPABLE_HEAD + content as usize);
        out.extend_from_slice(&SKIPPABLE.to_le_bytes());
        out.extend_from_slice(&content.to_le_bytes());
        out.extend_from_slice(MAGIC);
        out.extend_from_slice(&(self.0.len() as u32).to_le_bytes());
        out.extend_from_slice(&0u32.to_le_bytes());
        for frame in &self.0 {
            out.extend_from_slice(&frame.raw_len.to_le_bytes());
            out.extend_from_slice(&frame.stored_len.to_le_bytes());
            out.extend_from_slice(&u32::from(frame.ordered).to_le_bytes());
            out.extend_from_slice(frame.sha256.as_bytes());
        }
        out
    }

    /// Reads the content of the skippable frame.
    ///
    /// # Errors
    /// What is wrong with it, in words.
    pub(super) fn decode(content: &[u8]) -> Result<Self, String> {
        let (head, entries) = content.split_at_checked(TABLE_HEAD).ok_or("it is too short")?;
        if !head.starts_with(MAGIC) || head[12..] != [0; 4] {
            return Err("it is not a frame table of this version".into());
        }
        let word = |at: &[u8]| at.try_into().map(u32::from_le_bytes).unwrap_or_default();
        let count = word(&head[8..12]);
        if count == 0 || count > FRAMES_LIMIT || entries.len() != count as usize * ENTRY {
            return Err(format!("{count} frames cannot be in {} bytes", content.len()));
        }
        let frames = entries.chunks_exact(ENTRY).enumerate().map(|(i, entry)| {
            let (raw_len, stored_len, flags) = (word(&entry[..4]), word(&entry[4..8]), word(&entry[8..12]));
            let sha256: [u8; 32] = entry[12..].try_into().map_err(|_| "it is cut")?;
            if raw_len == 0 || raw_len as usize > RAW_LIMIT || stored_len == 0 || stored_len as usize > STORED_LIMIT {
                return Err(format!("frame {i} cannot have {raw_len} bytes in {stored_len}"));
            }
            if flags & !FLAG_ORDERED != 0 {
                return Err(format!("frame {i} has the unknown flags {flags:#x}"));
            }
            Ok(FrameEntry { raw_len, stored_len, ordered: flags & FLAG_ORDERED != 0, sha256: Sha256::from_bytes(sha256) })
        });
        frames.collect::<Result<_, String>>().map(Self)
    }
}

/// The most bytes of stream in a frame: one longest chunk, or the target and a bit.
pub(super) const RAW_LIMIT: usize = CHUNK_LIMIT;
/// The most bytes stored of a frame: zstd's bound for incompressible data.
pub(super) const STORED_LIMIT: usize = RAW_LIMIT + RAW_LIMIT / 128;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_table_reads_back_and_nothing_else_does() {
        let entry = |n: u32| FrameEntry { raw_len: n * 10, stored_len: n, ordered: n == 2, sha256: Sha256::of(&n.to_le_bytes()) };
        let table = FrameTable((1..4).map(entry).collect());
        let bytes = table.encode();
        assert_eq!(bytes.len() as u64, table_len(3));
        let content = &bytes[SKIPPABLE_HEAD..];
        assert_eq!(FrameTable::decode(content), Ok(table));
        for cut in 0..content.len() {
            assert!(FrameTable::decode(&content[..cut]).is_err(), "cut at {cut}");
        }
        for (at, what) in [(0, "magic"), (8, "count"), (12, "reserved"), (TABLE_HEAD + 8, "flags")] {
            let mut bytes = content.to_vec();
            bytes[at] ^= 0x40;
            assert!(FrameTable::decode(&bytes).is_err(), "{what}");
        }
        assert!(FrameTable::decode(&FrameTable::default().encode()[SKIPPABLE_HEAD..]).is_err(), "no frame");
    }
}
