//! Disk, memory and descriptors that ran short, in the words of whoever noticed: the kernel, a tool, a server, a library.
//!
//! What ran short says nothing about a backup or its data: the class is always `Resources`, and the same command succeeds once
//! the resource is back.

use crate::error::{Error, Result};
use highwater_core::Failure;
use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
use std::path::Path;

/// Descriptors that a helper needs for itself: connections, pipes, files being written, with room.
const DESCRIPTORS: u64 = 64;
/// Address space that a helper needs for itself, bytes: its threads' stacks and arenas are reserved, not used. Measured: 450 MiB.
const ADDRESS_SPACE: u64 = 768 << 20;
/// A filesystem with less than this free is full, bytes.
const FULL: u64 = 1 << 20;

/// A resource of the host.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Shortage {
    /// A filesystem, or a quota on it.
    Disk,
    /// Open files, of the process or the machine.
    Descriptors,
    /// Memory.
    Memory,
}

impl Shortage {
    /// What an error number of the kernel says.
    pub(crate) fn of_errno(errno: i32) -> Option<Self> {
        match errno {
            // ENOSPC, EDQUOT
            28 | 122 => Some(Self::Disk),
            // EMFILE, ENFILE
            24 | 23 => Some(Self::Descriptors),
            // ENOMEM
            12 => Some(Self::Memory),
            _ => None,
        }
    }

    /// What a message tells, of a tool, a server or a library.
    pub(crate) fn told_by(text: &str) -> Option<Self> {
        const WORDS: [(Shortage, &[&str]); 3] = [
            (Shortage::Disk, &["No space left on device", "Disk quota exceeded", "Errcode: 28", "errno: 28", "error 28", "os error 28"]),
            (Shortage::Descriptors, &["Too many open files", "Errcode: 24", "errno: 24", "Errcode: 23", "os error 24", "os error 23"]),
            (
                Shortage::Memory,
                &[
                    "Cannot allocate memory",
                    "Cannot map innodb_buffer_pool_size",
                    "cannot allocate memory",
                    "Out of memory",
                    "Errcode: 12",
                    "errno: 12",
                    "os error 12",
                ],
            ),
        ];
        // A longer number is another error: Errcode: 280.
        let ends = |at: usize| !text[at..].starts_with(|c: char| c.is_ascii_digit());
        let says = |word: &str| text.match_indices(word).any(|(at, _)| ends(at + word.len()));
        WORDS.into_iter().find(|(_, words)| words.iter().any(|word| says(word))).map(|(shortage, _)| shortage)
    }

    /// What a person does about it.
    pub(crate) fn hint(self) -> &'static str {
        match self {
            Self::Disk => "free space on that filesystem (`df -h`, `df -i`), then run it again",
            Self::Descriptors => "allow more open files (`ulimit -n`, the unit's LimitNOFILE=, fs.file-max), then run it again",
            Self::Memory => {
                "free memory or raise the limit (`ulimit -v`, the unit's MemoryMax=), then run it again; restore.prepare_memory_mib bounds a prepare"
            }
        }
    }

    /// An error of this shortage.
    pub(crate) fn error(self, message: impl Into<String>) -> Error {
        Error::new(Failure::Resources, message).hint(self.hint())
    }
}

/// Says that the filesystem of `dir` is full, if it is: whoever failed on it may have had no room to say so.
pub(crate) fn full_disk(dir: &Path) -> Option<String> {
    let stat = rustix::fs::statvfs(dir).ok()?;
    let full = stat.f_bavail.saturating_mul(stat.f_frsize) < FULL || (stat.f_files > 0 && stat.f_favail == 0);
    full.then(|| format!("the filesystem of {} is full", dir.display()))
}

/// Raises the limit of open files to what is allowed, and refuses to begin with limits under which nothing can end well.
///
/// # Errors
/// `Resources`.
pub(crate) fn check_limits() -> Result<()> {
    let files = getrlimit(Resource::Nofile);
    if files.current != files.maximum
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: files.maximum, maximum: files.maximum })
    {
        tracing::debug!(%error, "raising the limit of open files");
    }
    if let Some(files) = getrlimit(Resource::Nofile).current.filter(|files| *files < DESCRIPTORS) {
        return Err(Shortage::Descriptors.error(format!("only {files} files may be open, {DESCRIPTORS} are needed at least")));
    }
    if let Some(bytes) = getrlimit(Resource::As).current.filter(|bytes| *bytes < ADDRESS_SPACE) {
        let mib = |bytes: u64| bytes >> 20;
        return Err(Shortage::Memory.error(format!(
            "the address space is limited to {} MiB, {} MiB are needed at least",
            mib(bytes),
            mib(ADDRESS_SPACE)
        )));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_runs_short_is_understood() {
        for (text, shortage) in [
            ("[ERROR] InnoDB: preallocating 12582912 bytes for file ./ibtmp1 failed with error 28", Shortage::Disk),
            (
                "mysqld: Disk is full writing './shop/t.MYD' (Errcode: 28 \"No space left on device\"). Waiting for someone to free space...",
                Shortage::Disk,
            ),
            ("mariabackup: Can't create/write to file '/x' (Errcode: 24 \"Too many open files\")", Shortage::Descriptors),
            ("error trying to connect: tcp open error: Too many open files (os error 24)", Shortage::Descriptors),
            ("[ERROR] InnoDB: Cannot allocate memory for the buffer pool", Shortage::Memory),
            ("2026-11-27 12:32:13 0 [ERROR] InnoDB: Cannot map innodb_buffer_pool_size_max=3000m", Shortage::Memory),
        ] {
            assert_eq!(Shortage::told_by(text), Some(shortage), "{text}");
        }
        for text in ["Errcode: 280", "error 2", "InnoDB: Corrupted page", "error 281 in table"] {
            assert_eq!(Shortage::told_by(text), None, "{text}");
        }
    }
}
