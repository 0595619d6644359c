//! Writes chunks below a directory, from several threads, and checks at the end that exactly the inventory is there.

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
use std::sync::{Arc, Mutex, PoisonError};

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
}

#[derive(Debug, Default)]
struct OpenFiles {
    by_path: HashMap<String, Arc<File>>,
    oldest_first: VecDeque<String>,
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
        Ok(Self { root: root.to_owned(), root_fd, open: Mutex::default() })
    }

    /// Does what one chunk asks for; returns the bytes written. Chunks of one file may come in any order.
    ///
    /// # Errors
    /// `Resources`, or `UnsafeDirectory` when something else changes the directory; `Damaged` for an impossible chunk.
    pub(super) fn chunk(&self, chunk: &Chunk<'_>) -> Result<u64> {
        let path = chunk.header.path;
        let context = || format!("write {}", self.root.join(path).display());
        match chunk.header.op {
            Op::Payload { .. } | Op::Sparse { .. } => {
                let file = self.file(path)?;
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
            Op::End => self.file(path).map(|_| 0),
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

    fn forget(&self, path: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).by_path.remove(path);
    }

    /// The file at `path`, created with its directories if it is new.
    fn file(&self, path: &str) -> Result<Arc<File>> {
        if let Some(file) = self.open.lock().unwrap_or_else(PoisonError::into_inner).by_path.get(path) {
            return Ok(file.clone());
        }
        let (dir, name) = self.parent(path)?;
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = rustix::fs::openat(&dir, name, flags, FILE_MODE)
            .map_err(std::io::Error::from)
            .context(Failure::UnsafeDirectory, || format!("create {}", self.root.join(path).display()))?;
        let file = Arc::new(File::from(file));
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.by_path.insert(path.to_owned(), file.clone());
        open.oldest_first.push_back(path.to_owned());
        if open.oldest_first.len() > OPEN_FILES
            && let Some(oldest) = open.oldest_first.pop_front()
        {
            open.by_path.remove(&oldest);
        }
        Ok(file)
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
        let mut expected: HashMap<&str, u64> = files.iter().map(|f| (f.path.as_str(), f.bytes)).collect();
        check_tree(&self.root, "", &mut expected)?;
        if let Some((path, _)) = expected.into_iter().next() {
            return Err(Error::new(Failure::Damaged, format!("the inventory lists {path}, but the data does not hold it")));
        }
        Ok(())
    }
}

fn check_tree(root: &Path, below: &str, expected: &mut HashMap<&str, u64>) -> Result<()> {
    let at = root.join(below);
    let context = || format!("read {}", at.display());
    for entry in std::fs::read_dir(&at).context(Failure::Resources, context)? {
        let entry = entry.context(Failure::Resources, context)?;
        let name = entry.file_name();
        let path = if below.is_empty() { name.to_string_lossy().into_owned() } else { format!("{below}/{}", name.to_string_lossy()) };
        let stat = entry.metadata().context(Failure::Resources, context)?;
        if stat.is_dir() {
            check_tree(root, &path, expected)?;
            continue;
        }
        match expected.remove(path.as_str()) {
            Some(bytes) if stat.is_file() && stat.len() == bytes => {}
            Some(bytes) => {
                return Err(Error::new(Failure::Damaged, format!("{path} has {} bytes, the inventory says {bytes}", stat.len())));
            }
            None => return Err(Error::new(Failure::Damaged, format!("{path} is in the data, but not in the inventory"))),
        }
    }
    Ok(())
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
        chunks.iter().try_for_each(|c| extractor.chunk(c).map(drop))?;
        Ok(extractor)
    }

    fn files(of: &[(&str, u64)]) -> Vec<StreamFile> {
        of.iter().map(|(path, bytes)| StreamFile { path: (*path).into(), bytes: *bytes }).collect()
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
            let result = Chunks::new(&stream).try_for_each(|c| extractor.chunk(&c.unwrap()).map(drop));
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
        let extractor = extract(dir.path(), &w.into_inner(), false).unwrap();
        assert_eq!(std::fs::read(dir.path().join("a")).unwrap(), b"newer");
        extractor.finish(&files(&[("a", 5), ("e/c", 1)])).unwrap();
    }
}
