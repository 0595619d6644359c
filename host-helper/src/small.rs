//! Small files that somebody else wrote: a document, what a backup's stream left in a directory. Their size is not believed.

use std::fs::File;
use std::io::{Error, ErrorKind, Read, Result};
use std::path::Path;

/// The most bytes of the tools' own files: checkpoints, info, binlog position, settings.
pub(crate) const TOOL_FILE_BYTES: u64 = 1 << 20;

/// Reads a file of at most `limit` bytes, whatever its size is said to be: a hole in a restored file costs no disk, and a
/// device has no end.
///
/// # Errors
/// `InvalidData` when it is larger; those of opening and reading.
pub(crate) fn read(path: &Path, limit: u64) -> Result<Vec<u8>> {
    let mut bytes = Vec::new();
    File::open(path)?.take(limit.saturating_add(1)).read_to_end(&mut bytes)?;
    match bytes.len() as u64 > limit {
        true => Err(Error::new(ErrorKind::InvalidData, format!("it has more than {limit} bytes"))),
        false => Ok(bytes),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_without_an_end_or_with_a_huge_hole_is_refused_without_being_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("f");
        std::fs::write(&path, "12345").unwrap();
        assert_eq!(read(&path, 5).unwrap(), b"12345");
        File::options().write(true).open(&path).unwrap().set_len(1 << 40).unwrap();
        for path in [path.as_path(), Path::new("/dev/zero")] {
            assert_eq!(read(path, TOOL_FILE_BYTES).unwrap_err().kind(), ErrorKind::InvalidData);
        }
        assert_eq!(read(&dir.path().join("none"), 5).unwrap_err().kind(), ErrorKind::NotFound);
    }
}
