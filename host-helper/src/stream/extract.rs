//! Writes chunks below a directory, from several threads, and checks at the end that exactly the inventory is there.
//!
//! What is aligned, as almost every page of a database is, goes to the disk directly: copying it into the page cache costs more
//! processor time than all the rest of a restore (measured: 1.6 s of 2.4 s per GB), pushes out what a running server on the same
//! host wants there, and has to be flushed before the restore is done anyway.

use super::xbstream::{Chunk, Layout, Op};
use crate::error::{Context, Error, Result};
use highwater_core::Failure;
use highwater_core::inventory::StreamFile;
use rustix::fs::{AtFlags, FallocateFlags, Mode, OFlags};
use std::collections::{HashMap, VecDeque};
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

/// Where direct writes may begin, in memory and in the file: no file system asks for more.
const ALIGNMENT: usize = 4 << 10;
/// The most bytes of one direct write, and of the memory to align them in.
const DIRECT_BYTES: usize = 2 << 20;
/// Files kept open.
const OPEN_FILES: usize = 256;
const FILE_MODE: Mode = Mode::from_raw_mode(0o640);
const DIR_MODE: Mode = Mode::from_raw_mode(0o750);

/// A directory being filled.
#[derive(Debug)]
pub(super) struct Extractor {
    root: PathBuf,
    root_fd: OwnedFd,
    open: Mutex<OpenFiles>,
    /// Until the file system says that it does not write directly.
    direct: AtomicBool,
}

#[derive(Debug, Default)]
struct OpenFiles {
    by_path: HashMap<(String, Way), Arc<File>>,
    oldest_first: VecDeque<(String, Way)>,
}

/// How bytes get to the disk.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
enum Way {
    Cached,
    Direct,
}

/// A worker's memory for aligning what is written directly.
#[derive(Debug)]
pub(super) struct Aligned {
    memory: Vec<u8>,
    start: usize,
}

impl Aligned {
    pub(super) fn new() -> Self {
        let memory = vec![0; DIRECT_BYTES + ALIGNMENT];
        let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
        Self { memory, start }
    }

    /// A copy of `bytes`, at most [`DIRECT_BYTES`], that begins where a direct write may.
    fn copy_of(&mut self, bytes: &[u8]) -> &[u8] {
        let copy = &mut self.memory[self.start..][..bytes.len()];
        copy.copy_from_slice(bytes);
        copy
    }
}

impl Extractor {
    /// Below `root`, which must be an empty directory.
    ///
    /// # Errors
    /// `UnsafeDirectory`.
    pub(super) fn new(root: &Path) -> Result<Self> {
        let mut entries = std::fs::read_dir(root).context(Failure::UnsafeDirectory, || format!("read {}", root.display()))?;
        if entries.next().is_some() {
            return Err(Error::new(Failure::UnsafeDirectory, format!("{} is not empty", root.display())));
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let root_fd = rustix::fs::open(root, flags, Mode::empty())
            .map_err(std::io::Error::from)
            .context(Failure::UnsafeDirectory, || format!("open {}", root.display()))?;
        Ok(Self { root: root.to_owned(), root_fd, open: Mutex::default(), direct: AtomicBool::new(true) })
    }

    /// Does what one chunk asks for; returns the bytes written. Chunks of one file may come in any order.
    ///
    /// # Errors
    /// `Resources`, or `UnsafeDirectory` when something else changes the directory; `Damaged` for an impossible chunk.
    pub(super) fn chunk(&self, chunk: &Chunk<'_>, aligned: &mut Aligned) -> Result<u64> {
        let path = chunk.header.path;
        let context = || format!("write {}", self.root.join(path).display());
        match chunk.header.op {
            Op::Payload { offset, .. } if self.write_directly(chunk, offset, aligned)? => Ok(chunk.body.len() as u64),
            Op::Payload { .. } | Op::Sparse { .. } => {
                let file = self.cached(path)?;
                if chunk.header.is_ordered() {
                    file.set_len(0).context(Failure::Resources, context)?;
                }
                let Layout { writes, end } = chunk.layout().context(Failure::Damaged, context)?;
                let mut written = 0;
                for (offset, bytes) in &writes {
                    file.write_all_at(bytes, *offset).context(Failure::Resources, context)?;
                    written += bytes.len() as u64;
                }
                let ends_in_hole = writes.last().is_none_or(|(offset, bytes)| offset + (bytes.len() as u64) < end);
                if ends_in_hole && end > 0 {
                    // Never shortens the file, nor touches what another thread wrote there.
                    rustix::fs::fallocate(&*file, FallocateFlags::empty(), end - 1, 1)
                        .map_err(std::io::Error::from)
                        .context(Failure::Resources, context)?;
                }
                Ok(written)
            }
            Op::End => self.cached(path).map(|_| 0),
            Op::Remove => {
                self.forget(path);
                let (dir, name) = self.parent(path)?;
                rustix::fs::unlinkat(&dir, name, AtFlags::empty())
                    .map_err(std::io::Error::from)
                    .context(Failure::Damaged, || format!("remove {}", self.root.join(path).display()))?;
                Ok(0)
            }
            Op::Rename { to } => {
                self.forget(path);
                self.forget(to);
                let ((from_dir, from), (to_dir, to)) = (self.parent(path)?, self.parent(to)?);
                rustix::fs::renameat(&from_dir, from, &to_dir, to)
                    .map_err(std::io::Error::from)
                    .context(Failure::Damaged, || format!("rename {}", self.root.join(path).display()))?;
                Ok(0)
            }
            Op::Seek { .. } | Op::Ignored => Ok(0),
        }
    }

    /// Writes a chunk past the page cache; false when it is not aligned or the file system does not do that.
    ///
    /// A page of the cache is never written both ways: what is aligned at both ends shares none with its neighbours.
    fn write_directly(&self, chunk: &Chunk<'_>, offset: u64, aligned: &mut Aligned) -> Result<bool> {
        let fits = offset.is_multiple_of(ALIGNMENT as u64) && chunk.body.len().is_multiple_of(ALIGNMENT) && !chunk.body.is_empty();
        if !fits || chunk.header.is_ordered() || !self.direct.load(Ordering::Relaxed) {
            return Ok(false);
        }
        let path = chunk.header.path;
        let context = || format!("write {}", self.root.join(path).display());
        // EINVAL, at the opening (tmpfs) or at the first write: not on this file system.
        let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::InvalidInput;
        let file = match self.file(path, Way::Direct)? {
            Err(error) if refused(&error) => return Ok(self.not_directly(path)),
            opened => opened.context(Failure::UnsafeDirectory, context)?,
        };
        let mut at = offset;
        for piece in chunk.body.chunks(DIRECT_BYTES) {
            match file.write_all_at(aligned.copy_of(piece), at) {
                Err(error) if refused(&error) => return Ok(self.not_directly(path)),
                written => written.context(Failure::Resources, context)?,
            }
            at += piece.len() as u64;
        }
        Ok(true)
    }

    fn not_directly(&self, path: &str) -> bool {
        if self.direct.swap(false, Ordering::Relaxed) {
            tracing::debug!(path, "the file system does not write directly: going through the page cache");
        }
        false
    }

    fn forget(&self, path: &str) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_path.retain(|(known, _), _| known != path);
    }

    fn cached(&self, path: &str) -> Result<Arc<File>> {
        let context = || format!("create {}", self.root.join(path).display());
        self.file(path, Way::Cached)?.context(Failure::UnsafeDirectory, context)
    }

    /// The file at `path`, created with its directories if it is new.
    fn file(&self, path: &str, way: Way) -> Result<std::io::Result<Arc<File>>> {
        let key = (path.to_owned(), way);
        if let Some(file) = self.open.lock().unwrap_or_else(PoisonError::into_inner).by_path.get(&key) {
            return Ok(Ok(file.clone()));
        }
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let flags = if way == Way::Direct { flags | OFlags::DIRECT } else { flags };
        let file = match rustix::fs::openat(&dir, name, flags, FILE_MODE) {
            Ok(fd) => Arc::new(File::from(fd)),
            Err(error) => return Ok(Err(error.into())),
        };
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_path.insert(key.clone(), file.clone());
        open.oldest_first.push_back(key);
        if open.oldest_first.len() > OPEN_FILES
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.by_path.remove(&oldest);
        }
        Ok(Ok(file))
    }

    /// Opens the directory of `path`, component by component so that no symbolic link is followed, creating what is missing.
    fn parent<'p>(&self, path: &'p str) -> Result<(OwnedFd, &'p str)> {
        let context = || format!("create the directory of {}", self.root.join(path).display());
        let mut dir = self.root_fd.try_clone().context(Failure::Resources, context)?;
        let (parents, name) = path.rsplit_once('/').unwrap_or(("", path));
        for part in parents.split('/').filter(|p| !p.is_empty()) {
            match rustix::fs::mkdirat(&dir, part, DIR_MODE) {
                Ok(()) | Err(rustix::io::Errno::EXIST) => {}
                Err(e) => return Err(std::io::Error::from(e)).context(Failure::UnsafeDirectory, context),
            }
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            dir = rustix::fs::openat(&dir, part, flags, Mode::empty())
                .map_err(std::io::Error::from)
                .context(Failure::UnsafeDirectory, context)?;
        }
        Ok((dir, name))
    }

    /// Checks that the directory holds exactly `files`, each with its size. It is not durable yet: a restore trusts nothing but
    /// `Done` after a reboot, and syncs before it says so.
    ///
    /// # Errors
    /// `Damaged`, naming a file; `Resources`.
    pub(super) fn finish(self, files: &[StreamFile]) -> Result<()> {
        drop(self.open);
        let mut expected = Expected::new(files);
        check_tree(&self.root, "", &mut expected)?;
        expected.finish()
    }
}

fn check_tree(root: &Path, below: &str, expected: &mut Expected<'_>) -> Result<()> {
    let at = root.join(below);
    let context = || format!("read {}", at.display());
    for entry in std::fs::read_dir(&at).context(Failure::Resources, context)? {
        let entry = entry.context(Failure::Resources, context)?;
        let name = entry.file_name();
        let path = if below.is_empty() { name.to_string_lossy().into_owned() } else { format!("{below}/{}", name.to_string_lossy()) };
        let stat = entry.metadata().context(Failure::Resources, context)?;
        if stat.is_dir() {
            check_tree(root, &path, expected)?;
        } else {
            // What is no file has no size that an inventory could say.
            expected.found(&path, if stat.is_file() { stat.len() } else { u64::MAX })?;
        }
    }
    Ok(())
}

/// The sizes that the files would have, were they written: what a verification compares with the inventory.
#[derive(Debug, Default)]
pub(super) struct Sizes(Mutex<HashMap<String, u64>>);

impl Sizes {
    /// Follows one chunk. Chunks of one file may come in any order, but for the ordered ones.
    ///
    /// # Errors
    /// `Damaged` for an impossible chunk.
    pub(super) fn chunk(&self, chunk: &Chunk<'_>) -> Result<()> {
        let path = chunk.header.path;
        let mut sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match chunk.header.op {
            Op::Payload { .. } | Op::Sparse { .. } | Op::End => {
                let end = chunk.layout().context(Failure::Damaged, || format!("read {path}"))?.end;
                match sizes.get_mut(path) {
                    Some(size) if !chunk.header.is_ordered() => *size = end.max(*size),
                    _ => drop(sizes.insert(path.to_owned(), end)),
                }
            }
            Op::Remove => drop(sizes.remove(path)),
            Op::Rename { to } => {
                if let Some(size) = sizes.remove(path) {
                    sizes.insert(to.to_owned(), size);
                }
            }
            Op::Seek { .. } | Op::Ignored => {}
        }
        Ok(())
    }

    /// Compares with the inventory.
    ///
    /// # Errors
    /// `Damaged`, naming a file.
    pub(super) fn finish(&self, files: &[StreamFile]) -> Result<()> {
        let mut expected = Expected::new(files);
        let sizes = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        sizes.iter().try_for_each(|(path, bytes)| expected.found(path, *bytes))?;
        expected.finish()
    }
}

/// The inventory's files that were not found yet.
struct Expected<'a>(HashMap<&'a str, u64>);

impl<'a> Expected<'a> {
    fn new(files: &'a [StreamFile]) -> Self {
        Self(files.iter().map(|f| (f.path.as_str(), f.bytes)).collect())
    }

    fn found(&mut self, path: &str, bytes: u64) -> Result<()> {
        match self.0.remove(path) {
            Some(expected) if bytes == expected => Ok(()),
            Some(expected) => Err(Error::new(Failure::Damaged, format!("{path} has {bytes} bytes, the inventory says {expected}"))),
            None => Err(Error::new(Failure::Damaged, format!("{path} is in the data, but not in the inventory"))),
        }
    }

    fn finish(self) -> Result<()> {
        match self.0.into_keys().next() {
            Some(path) => Err(Error::new(Failure::Damaged, format!("the inventory lists {path}, but the data does not hold it"))),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::xbstream::{Chunks, Writer};
    use super::*;

    fn extract(root: &Path, stream: &[u8], newest_first: bool) -> Result<Extractor> {
        let extractor = Extractor::new(root)?;
        let mut chunks: Vec<_> = Chunks::new(stream).map(|c| c.unwrap()).collect();
        if newest_first {
            chunks.reverse();
        }
        let mut aligned = Aligned::new();
        chunks.iter().try_for_each(|c| extractor.chunk(c, &mut aligned).map(drop))?;
        Ok(extractor)
    }

    fn files(of: &[(&str, u64)]) -> Vec<StreamFile> {
        of.iter().map(|(path, bytes)| StreamFile { path: (*path).into(), bytes: *bytes }).collect()
    }

    fn sizes(stream: &[u8]) -> Sizes {
        let sizes = Sizes::default();
        Chunks::new(stream).try_for_each(|c| sizes.chunk(&c.unwrap())).unwrap();
        sizes
    }

    fn sample() -> Vec<u8> {
        let mut w = Writer::new(Vec::new());
        w.payload("db/t.ibd", 0, b"0123").unwrap();
        w.payload("db/t.ibd", 4, b"45").unwrap();
        w.sparse("db/s.ibd", 0, &[(3, 2), (4_000, 1), (9, 0)], b"abc").unwrap();
        w.end("empty").unwrap();
        w.into_inner()
    }

    #[test]
    fn chunks_may_be_written_in_any_order() {
        for newest_first in [false, true] {
            let dir = tempfile::tempdir().unwrap();
            let extractor = extract(dir.path(), &sample(), newest_first).unwrap();
            assert_eq!(std::fs::read(dir.path().join("db/t.ibd")).unwrap(), b"012345");
            let sparse = std::fs::read(dir.path().join("db/s.ibd")).unwrap();
            assert_eq!((&sparse[..5], sparse[4_005], sparse.len()), (&b"\0\0\0ab"[..], b'c', 4_015), "the last hole counts");
            extractor.finish(&files(&[("db/t.ibd", 6), ("db/s.ibd", 4_015), ("empty", 0)])).unwrap();
        }
    }

    #[test]
    fn what_is_written_past_the_cache_and_through_it_makes_one_file() {
        // Direct chunks of several writes, an unaligned end, and a neighbour that only the cache can write.
        let whole: Vec<u8> = (0..3 * DIRECT_BYTES + 8_192 + 10).map(|i| (i / 7 % 251) as u8).collect();
        let cuts = [0, 2 * DIRECT_BYTES + 4_096, 3 * DIRECT_BYTES, 3 * DIRECT_BYTES + 100, 3 * DIRECT_BYTES + 8_192, whole.len()];
        let mut w = Writer::new(Vec::new());
        cuts.windows(2).for_each(|cut| w.payload("t.ibd", cut[0] as u64, &whole[cut[0]..cut[1]]).unwrap());
        w.end("t.ibd").unwrap();
        let stream = w.into_inner();
        // The crate's directory is on a disk; /dev/shm, where there is one, writes nothing directly.
        let roots = [Path::new(env!("CARGO_MANIFEST_DIR")), Path::new("/dev/shm")];
        for root in roots.into_iter().filter(|root| root.is_dir()) {
            for newest_first in [false, true] {
                let dir = tempfile::tempdir_in(root).unwrap();
                let extractor = extract(dir.path(), &stream, newest_first).unwrap();
                assert!(std::fs::read(dir.path().join("t.ibd")).unwrap() == whole, "below {}", root.display());
                extractor.finish(&files(&[("t.ibd", whole.len() as u64)])).unwrap();
            }
        }
        let mut aligned = Aligned::new();
        assert_eq!(aligned.copy_of(&whole[..DIRECT_BYTES]).as_ptr().align_offset(ALIGNMENT), 0);
    }

    #[test]
    fn more_files_than_are_kept_open() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Writer::new(Vec::new());
        let names: Vec<String> = (0..3 * OPEN_FILES).map(|i| format!("f{i}")).collect();
        for (offset, byte) in [(0, b"x"), (1, b"y")] {
            names.iter().for_each(|name| w.payload(name, offset, byte).unwrap());
        }
        let extractor = extract(dir.path(), &w.into_inner(), false).unwrap();
        assert!(extractor.open.lock().unwrap().by_path.len() <= OPEN_FILES);
        extractor.finish(&names.iter().map(|n| StreamFile { path: n.clone(), bytes: 2 }).collect::<Vec<_>>()).unwrap();
    }

    #[test]
    fn the_directory_must_hold_exactly_the_inventory() {
        let right = [("db/t.ibd", 6), ("db/s.ibd", 4_015), ("empty", 0)];
        let cases: &[(&[(&str, u64)], &str)] = &[
            (&right[..2], "empty is in the data, but not in the inventory"),
            (&[right[0], right[1], right[2], ("more", 0)], "the inventory lists more, but the data does not hold it"),
            (&[("db/t.ibd", 7), right[1], right[2]], "db/t.ibd has 6 bytes, the inventory says 7"),
        ];
        for (inventory, expected) in cases {
            let dir = tempfile::tempdir().unwrap();
            let error = extract(dir.path(), &sample(), false).unwrap().finish(&files(inventory)).unwrap_err();
            assert_eq!((error.failure, error.message.as_str()), (Failure::Damaged, *expected));
            let error = sizes(&sample()).finish(&files(inventory)).unwrap_err();
            assert_eq!((error.failure, error.message.as_str()), (Failure::Damaged, *expected), "by verification");
        }
    }

    #[test]
    fn symbolic_links_are_never_followed() {
        for link in ["db", "empty"] {
            let (dir, outside) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
            let extractor = Extractor::new(dir.path()).unwrap();
            std::os::unix::fs::symlink(outside.path().join("victim"), dir.path().join(link)).unwrap();
            std::fs::create_dir(outside.path().join("victim")).unwrap();
            let stream = sample();
            let mut aligned = Aligned::new();
            let result = Chunks::new(&stream).try_for_each(|c| extractor.chunk(&c.unwrap(), &mut aligned).map(drop));
            assert_eq!(result.unwrap_err().failure, Failure::UnsafeDirectory, "{link}");
            assert_eq!(std::fs::read_dir(outside.path().join("victim")).unwrap().count(), 0);
        }
        let full = tempfile::tempdir().unwrap();
        std::fs::write(full.path().join("mine"), "").unwrap();
        assert_eq!(Extractor::new(full.path()).unwrap_err().failure, Failure::UnsafeDirectory);
    }

    #[test]
    fn ordered_chunks_replace_remove_and_rename() {
        let dir = tempfile::tempdir().unwrap();
        let mut w = Writer::new(Vec::new());
        w.payload("a", 0, b"long old text").unwrap();
        w.payload("b", 0, b"b").unwrap();
        w.payload("d/c", 0, b"c").unwrap();
        w.rewrite("a", 0, b"new").unwrap();
        w.rewrite("a", 3, b"er").unwrap();
        w.remove("b").unwrap();
        w.rename("d/c", "e/c").unwrap();
        let stream = w.into_inner();
        let extractor = extract(dir.path(), &stream, false).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"newer");
        let expected = files(&[("a", 5), ("e/c", 1)]);
        extractor.finish(&expected).unwrap();
        sizes(&stream).finish(&expected).unwrap();
    }
}
