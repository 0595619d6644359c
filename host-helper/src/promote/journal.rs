//! The journal on disk: `<state_dir>/promotions/<id>.json`, and `current`, which names the newest.
//!
//! Every write replaces a whole file ([`durable`]): after a crash a journal is the one before or the one after. The host's lock, held for the life of the process, keeps promotions and backups apart.

use crate::durable;
use crate::error::{Context, Result};
use crate::lock::HostLock;
use highwater_core::promotion::{Entered, PromotionId, PromotionJournalV1, State};
use highwater_core::{Document, Failure};
use jiff::Timestamp;
use std::fs;
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};

/// Journals are for us alone.
pub(super) const PRIVATE: u32 = 0o600;

/// The journals of this host, locked.
pub(super) struct Store {
    dir: PathBuf,
    _lock: HostLock,
}

impl Store {
    /// Takes the host's lock, and with it the journals, for this process.
    pub(super) fn open(state_dir: &Path) -> Result<Self> {
        let lock = HostLock::take(state_dir)?;
        let dir = state_dir.join("promotions");
        let made = fs::DirBuilder::new().recursive(true).mode(0o700).create(&dir);
        made.context(Failure::Config, || format!("create {}", dir.display()))?;
        Ok(Self { dir, _lock: lock })
    }

    /// The newest journal, if there was ever a promotion here.
    pub(super) fn current(&self) -> Result<Option<Journal>> {
        let path = self.dir.join("current");
        let id = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(e) => return Err(e).context(Failure::Document, || format!("read {}", path.display())),
        };
        let id: PromotionId = id.trim().parse().context(Failure::Document, || format!("read {}", path.display()))?;
        Ok(Some(Journal::read(self.dir.join(format!("{id}.json")))?))
    }

    /// Every journal kept here, newest first.
    pub(super) fn all(&self) -> Result<Vec<Journal>> {
        let failed = || format!("list {}", self.dir.display());
        let mut paths = Vec::new();
        for entry in fs::read_dir(&self.dir).context(Failure::Resources, failed)? {
            let path = entry.context(Failure::Resources, failed)?.path();
            let is_journal = path.extension().is_some_and(|e| e == "json")
                && path.file_stem().and_then(|s| s.to_str()).is_some_and(|s| s.parse::<PromotionId>().is_ok());
            if is_journal {
                paths.push(path);
            }
        }
        paths.sort_unstable_by(|a, b| b.cmp(a));
        paths.into_iter().map(Journal::read).collect()
    }

    /// Begins a journal. It counts from the moment `current` names it.
    pub(super) fn begin(&self, doc: PromotionJournalV1) -> Result<Journal> {
        let mut journal = Journal { path: self.dir.join(format!("{}.json", doc.id)), doc };
        let first = journal.doc.state.clone();
        journal.enter(first)?;
        durable::replace(&self.dir.join("current"), format!("{}\n", journal.doc.id).as_bytes(), PRIVATE)?;
        Ok(journal)
    }

    /// Where the output of service control goes before there is a journal.
    pub(super) fn log(&self) -> PathBuf {
        self.dir.join("service.log")
    }

    /// A file beside the journal of `id`.
    pub(super) fn beside(&self, id: &PromotionId, suffix: &str) -> PathBuf {
        self.dir.join(format!("{id}.{suffix}"))
    }
}

/// One promotion's journal.
pub(super) struct Journal {
    path: PathBuf,
    pub(super) doc: PromotionJournalV1,
}

impl Journal {
    fn read(path: PathBuf) -> Result<Self> {
        let bytes = fs::read(&path).context(Failure::Document, || format!("read the journal {}", path.display()))?;
        let doc = PromotionJournalV1::parse(&bytes).context(Failure::Document, || format!("read the journal {}", path.display()))?;
        Ok(Self { path, doc })
    }

    /// Puts `state` on disk. Its side effects may begin when this returns.
    pub(super) fn enter(&mut self, state: State) -> Result<()> {
        let mut doc = self.doc.clone();
        let name = state.name();
        doc.history.push(Entered { state: name.to_owned(), at: Timestamp::now() });
        doc.state = state;
        durable::replace(&self.path, &doc.to_bytes(), PRIVATE)?;
        self.doc = doc;
        tracing::info!(promotion = %self.doc.id, state = name, "journal");
        Ok(())
    }

    /// Where it lies.
    pub(super) fn path(&self) -> &Path {
        &self.path
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn two_processes_never_hold_the_journals_at_once() {
        let dir = tempfile::tempdir().unwrap();
        let first = Store::open(dir.path()).unwrap();
        assert_eq!(Store::open(dir.path()).err().map(|e| e.failure), Some(Failure::Busy));
        drop(first);
        assert!(Store::open(dir.path()).unwrap().current().unwrap().is_none());
    }
}
