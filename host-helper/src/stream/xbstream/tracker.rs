//! The order of a stream's chunks, and the files it leaves behind.

use super::{Chunk, Malformed, Op};
use highwater_core::inventory::StreamFile;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Follows every file through a stream: the order of chunks is right, and what exists at its end.
#[derive(Debug)]
pub struct Tracker {
    files: Vec<Option<StreamFile>>,
    by_path: HashMap<Box<str>, Tracked>,
    open: usize,
    last_closed: String,
    files_limit: usize,
}

#[derive(Debug, Clone, Copy)]
struct Tracked {
    index: usize,
    position: u64,
    is_open: bool,
}

impl Tracker {
    /// Of an empty stream.
    pub fn new(files_limit: usize) -> Self {
        Self { files: Vec::new(), by_path: HashMap::new(), open: 0, last_closed: String::new(), files_limit }
    }

    /// Takes the next chunk.
    ///
    /// # Errors
    /// `Order`, `Files`, `Bounds`.
    pub fn chunk(&mut self, chunk: &Chunk<'_>) -> Result<(), Malformed> {
        let Chunk { header, .. } = chunk;
        let order = |what: String| Err(Malformed::Order { path: header.path.to_owned(), what });
        match header.op {
            Op::Ignored => {}
            Op::Payload { offset, .. } | Op::Sparse { offset, .. } => {
                let end = chunk.layout()?.end;
                let file = self.opened(header.path, header.rewrite)?;
                if file.position != offset {
                    let expected = file.position;
                    return order(format!("a chunk is for offset {offset}, its file is at {expected}"));
                }
                file.position = end;
                let index = file.index;
                if let Some(Some(file)) = self.files.get_mut(index) {
                    file.bytes = file.bytes.max(end);
                }
            }
            Op::Seek { offset } => match self.by_path.get_mut(header.path) {
                Some(file) if file.is_open => file.position = offset,
                _ => return order("it is positioned, but not open".into()),
            },
            Op::End => {
                self.opened(header.path, header.rewrite)?.is_open = false;
                self.open -= 1;
                header.path.clone_into(&mut self.last_closed);
            }
            Op::Remove => {
                let index = self.closed(header.path)?;
                self.by_path.remove(header.path);
                self.files[index] = None;
            }
            Op::Rename { to } => {
                let index = self.closed(header.path)?;
                if self.by_path.get(to).is_some_and(|f| f.is_open) {
                    return order(format!("it is renamed to {to}, which is open"));
                }
                self.by_path.remove(header.path);
                let moved = Tracked { index, position: 0, is_open: false };
                if let Some(replaced) = self.by_path.insert(to.into(), moved) {
                    self.files[replaced.index] = None;
                }
                if let Some(Some(file)) = self.files.get_mut(index) {
                    to.clone_into(&mut file.path);
                }
            }
        }
        Ok(())
    }

    /// The open file at `path`; opened by this chunk if it is new, or replaces one that is closed.
    fn opened(&mut self, path: &str, rewrite: bool) -> Result<&mut Tracked, Malformed> {
        match self.by_path.entry(path.into()) {
            Entry::Occupied(entry) => {
                let file = entry.into_mut();
                if !file.is_open {
                    if !rewrite {
                        return Err(Malformed::Order { path: path.to_owned(), what: "it goes on after its end".into() });
                    }
                    (file.is_open, file.position) = (true, 0);
                    self.open += 1;
                    if let Some(Some(file)) = self.files.get_mut(file.index) {
                        file.bytes = 0;
                    }
                }
                Ok(file)
            }
            Entry::Vacant(entry) => {
                if self.files.len() >= self.files_limit {
                    return Err(Malformed::Files(self.files_limit));
                }
                self.files.push(Some(StreamFile { path: path.to_owned(), bytes: 0 }));
                self.open += 1;
                Ok(entry.insert(Tracked { index: self.files.len() - 1, position: 0, is_open: true }))
            }
        }
    }

    fn closed(&self, path: &str) -> Result<usize, Malformed> {
        let order = |what: &str| Malformed::Order { path: path.to_owned(), what: what.into() };
        match self.by_path.get(path) {
            Some(file) if !file.is_open => Ok(file.index),
            Some(_) => Err(order("it is removed or renamed while open")),
            None => Err(order("it is removed or renamed, but was never streamed")),
        }
    }

    /// The files that exist at the stream's end, in order of first appearance, and the one that was closed last.
    ///
    /// # Errors
    /// `Cut` when the stream is empty or a file was never closed.
    pub fn finish(self) -> Result<(Vec<StreamFile>, String), Malformed> {
        if self.open > 0 {
            let open = self.by_path.iter().find(|(_, f)| f.is_open).map(|(path, _)| path.as_ref()).unwrap_or_default();
            return Err(Malformed::Cut(format!("{} files have no end, {open} among them", self.open)));
        }
        let files: Vec<StreamFile> = self.files.into_iter().flatten().collect();
        if files.is_empty() { Err(Malformed::Cut("it holds no file".into())) } else { Ok((files, self.last_closed)) }
    }
}
