//! Writes the format.

use super::{FLAG_REWRITE, MAGIC};

/// Writes a stream, for tests and benchmarks.
#[derive(Debug)]
pub struct Writer<W>(W);

impl<W: std::io::Write> Writer<W> {
    /// Onto `out`.
    pub fn new(out: W) -> Self {
        Self(out)
    }

    /// The stream so far.
    pub fn into_inner(self) -> W {
        self.0
    }

    fn start(&mut self, flags: u8, kind: u8, path: &str) -> std::io::Result<()> {
        self.0.write_all(MAGIC)?;
        self.0.write_all(&[flags, kind])?;
        self.text(path)
    }

    fn text(&mut self, path: &str) -> std::io::Result<()> {
        self.0.write_all(&(path.len() as u32).to_le_bytes())?;
        self.0.write_all(path.as_bytes())
    }

    fn body(&mut self, payload_len: usize, offset: u64, body: &[u8]) -> std::io::Result<()> {
        self.0.write_all(&(payload_len as u64).to_le_bytes())?;
        self.0.write_all(&offset.to_le_bytes())?;
        self.0.write_all(&crc32fast::hash(body).to_le_bytes())?;
        self.0.write_all(body)
    }

    /// A payload.
    ///
    /// # Errors
    /// The writer's, as for every function here.
    pub fn payload(&mut self, path: &str, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.start(0, b'P', path)?;
        self.body(data.len(), offset, data)
    }

    /// A payload of a file that replaces an earlier one.
    #[expect(clippy::missing_errors_doc, reason = "said at `payload`")]
    pub fn rewrite(&mut self, path: &str, offset: u64, data: &[u8]) -> std::io::Result<()> {
        self.start(FLAG_REWRITE, b'P', path)?;
        self.body(data.len(), offset, data)
    }

    /// A sparse payload: `(skip, write)` pairs over `data`.
    #[expect(clippy::missing_errors_doc, reason = "said at `payload`")]
    pub fn sparse(&mut self, path: &str, offset: u64, map: &[(u32, u32)], data: &[u8]) -> std::io::Result<()> {
        self.start(0, b'S', path)?;
        self.0.write_all(&(map.len() as u32).to_le_bytes())?;
        let mut body: Vec<u8> = map.iter().flat_map(|(skip, len)| [skip.to_le_bytes(), len.to_le_bytes()]).flatten().collect();
        body.extend_from_slice(data);
        self.body(data.len(), offset, &body)
    }

    /// The end of a file.
    #[expect(clippy::missing_errors_doc, reason = "said at `payload`")]
    pub fn end(&mut self, path: &str) -> std::io::Result<()> {
        self.start(0, b'E', path)
    }

    /// MariaDB's seek.
    #[expect(clippy::missing_errors_doc, reason = "said at `payload`")]
    pub fn seek(&mut self, path: &str, offset: u64) -> std::io::Result<()> {
        self.start(0, b'S', path)?;
        self.0.write_all(&offset.to_le_bytes())
    }

    /// MariaDB's removal.
    #[expect(clippy::missing_errors_doc, reason = "said at `payload`")]
    pub fn remove(&mut self, path: &str) -> std::io::Result<()> {
        self.start(0, b'D', path)
    }

    /// MariaDB's renaming.
    #[expect(clippy::missing_errors_doc, reason = "said at `payload`")]
    pub fn rename(&mut self, path: &str, to: &str) -> std::io::Result<()> {
        self.start(0, b'R', path)?;
        self.text(to)
    }
}
