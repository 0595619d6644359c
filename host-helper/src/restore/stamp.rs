//! The directory of one restore and the stamp in it: a journal that says what the directory holds.
//!
//! Layout: `stamp.json`, `in-use` (a lock), `data/` (the data directory), `incremental-<step>-<try>/` (fetched, not yet
//! applied). What a crash leaves: a stamp that is never ahead of the data. Whoever opens the directory next goes on from
//! a state that is whole, and discards every other: a half-applied directory looks fine and is not (measured).

use crate::durable;
use crate::error::{Context, Error, Result};
use crate::signal::Cancel;
use highwater_core::{Failure, Sha256};
use rustix::fs::{FlockOperation, Mode, OFlags, flock};
use serde::{Deserialize, Serialize};
use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::ErrorKind;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

const STAMP: &str = "stamp.json";
/// What a crash while it was written leaves.
const STAMP_NEW: &str = "stamp.json.new";
const IN_USE: &str = "in-use";
const DATA: &str = "data";
/// Where an isolated server on the data keeps its socket, log and temporary files.
pub(crate) const SERVER: &str = "server";
const INCREMENTAL: &str = "incremental-";
/// Data that goes before the stamp could say so; removed with the incrementals.
const DISCARDED: &str = "incremental-discarded";
const FORMAT: &str = "highwater.restore-stamp.v1";

/// How long a process that an earlier, killed try left behind may keep the directory.
const ORPHAN_WAIT: Duration = Duration::from_secs(600);

/// Who made the directory. A drill removes its directory; it must never remove what `restore` made for a person.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum Purpose {
    Restore,
    Drill,
}

/// What `data/` holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "at", rename_all = "kebab-case")]
pub(crate) enum State {
    /// Some of the full's files, or none.
    Fetching,
    /// The full as the tool streamed it.
    Fetched,
    /// A full that a prepare has begun to change.
    Preparing,
    /// The prepared result of the plan's first `steps` steps, whole.
    Prepared { steps: usize },
    /// A directory that the apply of step `step` (counted from 0, the full) has begun to change.
    Applying { step: usize },
    /// The plan's restore point, on disk.
    Done,
}

impl State {
    /// How many steps are whole in `data/`: `Some(0)` is a fetched full. `None`: the directory proves nothing.
    pub(crate) fn whole_steps(self, all: usize) -> Option<usize> {
        match self {
            Self::Fetching | Self::Preparing | Self::Applying { .. } => None,
            Self::Fetched => Some(0),
            Self::Prepared { steps } => (1..=all).contains(&steps).then_some(steps),
            Self::Done => Some(all),
        }
    }
}

#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
struct Stamp {
    format: String,
    plan_sha256: Sha256,
    purpose: Purpose,
    /// The boot that `state` was reached in. Only `Done` is flushed to disk: after a crash of the machine every other
    /// state may be ahead of the data, and is not trusted.
    boot_id: String,
    /// Runs and tries so far; makes the names of incremental directories unique.
    tries: u32,
    state: State,
}

/// An opened, locked restore directory.
#[derive(Debug)]
pub(crate) struct Workspace {
    path: PathBuf,
    stamp: Stamp,
    /// Held by this process alone: one restore at a time.
    lock: File,
    /// Inherited by every tool and server we start: a killed restore's orphan holds it until it ends.
    _in_use: Option<File>,
}

impl Workspace {
    /// Opens `path` for `plan`: absent, empty, or stamped by the same plan and purpose.
    ///
    /// # Errors
    /// `UnsafeDirectory`, and nothing was touched; `Busy` while another restore works in it; `Resources`; `Interrupted`.
    pub(crate) async fn open(path: &Path, plan: Sha256, purpose: Purpose, cancel: &Cancel) -> Result<Self> {
        let path = std::path::absolute(path).context(Failure::UnsafeDirectory, || format!("resolve {}", path.display()))?;
        let refuse = |why: &str| {
            Error::new(Failure::UnsafeDirectory, format!("{} {why}; nothing in it was touched", path.display()))
                .hint("choose a directory that does not exist or is empty")
        };
        match fs::symlink_metadata(&path) {
            Err(e) if e.kind() == ErrorKind::NotFound => {
                // Others may pass through, so that an unprivileged server reaches `data/`; nobody else may list it.
                let made = DirBuilder::new().recursive(true).mode(0o711).create(&path);
                made.context(Failure::UnsafeDirectory, || format!("create {}", path.display()))?;
            }
            Err(e) => return Err(e).context(Failure::UnsafeDirectory, || format!("look at {}", path.display())),
            Ok(found) if found.is_symlink() => return Err(refuse("is a symbolic link")),
            Ok(found) if !found.is_dir() => return Err(refuse("is not a directory")),
            Ok(_) => {}
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = rustix::fs::open(&path, flags, Mode::empty()).map_err(std::io::Error::from);
        let lock = File::from(opened.context(Failure::UnsafeDirectory, || format!("open {}", path.display()))?);
        // A child of the holder keeps the lock for the moment between its fork and its exec: one refusal proves nothing.
        let mut refusals = 0;
        while flock(&lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            refusals += 1;
            if refusals > 5 {
                return Err(Error::new(Failure::Busy, format!("another restore works in {}", path.display())));
            }
            tokio::time::sleep(Duration::from_millis(100)).await;
        }
        let stamp = match read_stamp(&path)? {
            Found::Nothing => {
                Stamp { format: FORMAT.into(), plan_sha256: plan, purpose, boot_id: boot_id()?, tries: 0, state: State::Fetching }
            }
            Found::Foreign(name) => return Err(refuse(&format!("holds {name:?} and no stamp of ours"))),
            Found::Stamp(stamp) if stamp.plan_sha256 != plan => {
                return Err(refuse(&format!("belongs to the plan {}, this is plan {plan}", stamp.plan_sha256)));
            }
            Found::Stamp(stamp) if stamp.purpose != purpose => {
                return Err(refuse(match stamp.purpose {
                    Purpose::Restore => "was made by a restore, and a drill removes its directory",
                    Purpose::Drill => "is a drill's",
                }));
            }
            Found::Stamp(stamp) => *stamp,
        };
        let mut workspace = Self { path, stamp, lock, _in_use: None };
        workspace.stamp.tries = workspace.stamp.tries.saturating_add(1);
        workspace.write()?;
        workspace._in_use = Some(wait_for_orphans(&workspace.path, cancel).await?);
        Ok(workspace)
    }

    /// The data directory.
    pub(crate) fn data(&self) -> PathBuf {
        self.path.join(DATA)
    }

    /// The directory itself.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// What `data/` holds, as far as the stamp can be trusted.
    pub(crate) fn state(&self) -> Result<State> {
        match self.stamp.state {
            State::Done => Ok(State::Done),
            state if self.stamp.boot_id == boot_id()? => Ok(state),
            _ => Ok(State::Fetching),
        }
    }

    /// Records a state. Called before what invalidates the old one, and after what makes the new one true.
    ///
    /// # Errors
    /// `Resources`.
    pub(crate) fn set(&mut self, state: State) -> Result<()> {
        self.stamp.state = state;
        self.stamp.boot_id = boot_id()?;
        self.write()
    }

    /// An empty `data/`, after removing whatever was there.
    ///
    /// # Errors
    /// `Resources`.
    pub(crate) async fn start_over(&mut self) -> Result<PathBuf> {
        self.set(State::Fetching)?;
        self.remove_incrementals().await?;
        remove(self.data()).await?;
        remove(self.path.join(SERVER)).await?;
        make_private(&self.data())?;
        Ok(self.data())
    }

    /// A new, empty directory for the increment of step `step`: never one that a tool has seen, since a prepare
    /// changes it and a second apply of it succeeds with corrupt data (measured). Beside `data/`, as the tool renames.
    ///
    /// # Errors
    /// `Resources`.
    pub(crate) async fn incremental(&self, step: usize, attempt: u32) -> Result<PathBuf> {
        let dir = self.path.join(format!("{INCREMENTAL}{step}-{}.{attempt}", self.stamp.tries));
        remove(dir.clone()).await?;
        make_private(&dir)?;
        Ok(dir)
    }

    /// Removes every incremental directory.
    ///
    /// # Errors
    /// `Resources`.
    pub(crate) async fn remove_incrementals(&self) -> Result<()> {
        for name in names(&self.path)? {
            if name.starts_with(INCREMENTAL) {
                remove(self.path.join(name)).await?;
            }
        }
        Ok(())
    }

    /// After a failure: removes what cannot be resumed, to give its disk space back. If nothing can, the directory is left
    /// empty, free for another plan.
    pub(crate) async fn give_back(&mut self, all_steps: usize) {
        let worthless = self.state().is_ok_and(|s| s.whole_steps(all_steps).is_none());
        let cleaned = if worthless { self.clear().await } else { self.remove_incrementals().await };
        if let Err(error) = cleaned {
            tracing::warn!(error = error.chain(), "files of the failed restore stay");
        }
    }

    /// Removes everything that is ours, the stamp last.
    async fn clear(&mut self) -> Result<()> {
        // A stamp that vouches for nothing may stay until the data is gone. On a full disk no other can be written before that.
        let vouches = self.stamp.state.whole_steps(usize::MAX).is_some();
        if vouches && let Err(error) = self.set(State::Fetching) {
            if fs::rename(self.data(), self.path.join(DISCARDED)).is_err() {
                return Err(error);
            }
            self.remove_incrementals().await?;
            self.set(State::Fetching)?;
        }
        self.remove_incrementals().await?;
        for name in [DATA, SERVER, IN_USE, STAMP_NEW, STAMP] {
            remove(self.path.join(name)).await?;
        }
        Ok(())
    }

    /// Removes everything that is ours, and the directory if nothing else is in it.
    ///
    /// # Errors
    /// `Resources`.
    pub(crate) async fn remove_all(mut self) -> Result<()> {
        self.clear().await?;
        if let Err(error) = fs::remove_dir(&self.path) {
            // A mount point, or a directory into which somebody else put something.
            tracing::info!(dir = %self.path.display(), %error, "the emptied directory stays");
        }
        Ok(())
    }

    /// Flushes the filesystem that holds the data: after this, `Done` may be said.
    ///
    /// # Errors
    /// `Resources`.
    pub(crate) async fn sync(&self) -> Result<()> {
        let lock = self.lock.try_clone().context(Failure::Resources, || "sync the restored data".into())?;
        let synced = tokio::task::spawn_blocking(move || rustix::fs::syncfs(&lock).map_err(std::io::Error::from)).await;
        let synced = synced.map_err(std::io::Error::other).and_then(|r| r);
        synced.context(Failure::Resources, || format!("flush {} to disk", self.path.display()))
    }

    fn write(&self) -> Result<()> {
        let bytes =
            serde_json::to_vec_pretty(&self.stamp).context(Failure::Resources, || format!("write the stamp of {}", self.path.display()))?;
        durable::replace(&self.path.join(STAMP), &bytes, 0o600)
    }
}

enum Found {
    Nothing,
    Foreign(String),
    Stamp(Box<Stamp>),
}

fn read_stamp(path: &Path) -> Result<Found> {
    let names = names(path)?;
    if !names.iter().any(|n| n == STAMP) {
        // A crash between creating the directory and stamping it leaves at most these; a new filesystem has its own.
        let foreign = names.into_iter().find(|n| n != STAMP_NEW && n != "lost+found");
        return Ok(foreign.map_or(Found::Nothing, Found::Foreign));
    }
    let file = path.join(STAMP);
    let plain = fs::symlink_metadata(&file).is_ok_and(|m| m.is_file() && m.len() < 1 << 16);
    let parsed = plain.then(|| fs::read(&file).ok()).flatten().and_then(|bytes| serde_json::from_slice::<Stamp>(&bytes).ok());
    match parsed {
        Some(stamp) if stamp.format == FORMAT => Ok(Found::Stamp(Box::new(stamp))),
        _ => Ok(Found::Foreign(STAMP.into())),
    }
}

fn names(dir: &Path) -> Result<Vec<String>> {
    let read = || fs::read_dir(dir)?.map(|e| Ok(e?.file_name().to_string_lossy().into_owned())).collect::<std::io::Result<Vec<_>>>();
    read().context(Failure::UnsafeDirectory, || format!("list {}", dir.display()))
}

fn make_private(dir: &Path) -> Result<()> {
    DirBuilder::new().mode(0o700).create(dir).context(Failure::Resources, || format!("create {}", dir.display()))
}

/// Removes a file or tree; links are removed, never followed. What is not there is fine.
async fn remove(path: PathBuf) -> Result<()> {
    let at = path.clone();
    let removed = tokio::task::spawn_blocking(move || match fs::symlink_metadata(&at) {
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(()),
        Err(e) => Err(e),
        Ok(found) if found.is_dir() => fs::remove_dir_all(&at),
        Ok(_) => fs::remove_file(&at),
    });
    let removed = removed.await.map_err(std::io::Error::other).and_then(|r| r);
    removed.context(Failure::Resources, || format!("remove {}", path.display()))
}

/// Takes the lock that our children inherit. A tool that outlived a killed restore still writes to the directory by
/// name: until it ends, nobody may build a new one there.
async fn wait_for_orphans(dir: &Path, cancel: &Cancel) -> Result<File> {
    let path = dir.join(IN_USE);
    let opened = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path);
    let file = opened.context(Failure::Resources, || format!("open {}", path.display()))?;
    rustix::io::fcntl_setfd(&file, rustix::io::FdFlags::empty())
        .map_err(std::io::Error::from)
        .context(Failure::Resources, || format!("share {}", path.display()))?;
    let deadline = tokio::time::Instant::now() + ORPHAN_WAIT;
    let mut said = false;
    while flock(&file, FlockOperation::NonBlockingLockExclusive).is_err() {
        cancel.check()?;
        if tokio::time::Instant::now() > deadline {
            return Err(Error::new(Failure::Busy, format!("a process of an earlier try still uses {}", dir.display()))
                .hint(format!("`fuser -v {}` names it; end it and run this again", path.display())));
        }
        if !std::mem::replace(&mut said, true) {
            tracing::warn!(dir = %dir.display(), "waiting for a tool or server that an earlier try left running");
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    Ok(file)
}

fn boot_id() -> Result<String> {
    let path = "/proc/sys/kernel/random/boot_id";
    fs::read_to_string(path).map(|s| s.trim().to_owned()).context(Failure::Resources, || format!("read {path}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(n: u8) -> Sha256 {
        Sha256::of(&[n])
    }

    async fn open(path: &Path, plan: Sha256, purpose: Purpose) -> Result<Workspace> {
        Workspace::open(path, plan, purpose, &Cancel::manual().1).await
    }

    #[tokio::test]
    async fn only_an_absent_empty_or_own_directory_is_opened_and_others_stay_untouched() {
        let tmp = tempfile::tempdir().unwrap();
        let into = tmp.path().join("a/b");
        drop(open(&into, plan(1), Purpose::Restore).await.unwrap());
        drop(open(&into, plan(1), Purpose::Restore).await.unwrap());

        let before = fs::read(into.join(STAMP)).unwrap();
        for (plan, purpose) in [(plan(2), Purpose::Restore), (plan(1), Purpose::Drill)] {
            let error = open(&into, plan, purpose).await.unwrap_err();
            assert_eq!(error.failure, Failure::UnsafeDirectory, "{error}");
        }
        assert_eq!(fs::read(into.join(STAMP)).unwrap(), before);

        let foreign = tmp.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::write(foreign.join("ibdata1"), "precious").unwrap();
        let link = tmp.path().join("link");
        std::os::unix::fs::symlink(&into, &link).unwrap();
        let torn = tmp.path().join("torn");
        fs::create_dir(&torn).unwrap();
        fs::write(torn.join(STAMP), "{").unwrap();
        for dir in [&foreign, &link, &torn, &foreign.join("ibdata1")] {
            let error = open(dir, plan(1), Purpose::Restore).await.unwrap_err();
            assert_eq!(error.failure, Failure::UnsafeDirectory, "{error}");
        }
        assert_eq!(names(&foreign).unwrap(), ["ibdata1"]);
    }

    #[tokio::test]
    async fn two_restores_do_not_share_a_directory() {
        let tmp = tempfile::tempdir().unwrap();
        let first = open(tmp.path(), plan(1), Purpose::Restore).await.unwrap();
        assert_eq!(open(tmp.path(), plan(1), Purpose::Restore).await.unwrap_err().failure, Failure::Busy);
        drop(first);
        open(tmp.path(), plan(1), Purpose::Restore).await.unwrap();
    }

    #[tokio::test]
    async fn a_directory_is_not_opened_while_an_orphan_of_an_earlier_try_still_uses_it() {
        let tmp = tempfile::tempdir().unwrap();
        let first = open(tmp.path(), plan(1), Purpose::Restore).await.unwrap();
        let mut orphan = std::process::Command::new("sleep").arg("600").spawn().unwrap();
        drop(first);
        let (canceller, cancel) = Cancel::manual();
        let second = Workspace::open(tmp.path(), plan(1), Purpose::Restore, &cancel);
        let stop = async {
            tokio::time::sleep(Duration::from_millis(300)).await;
            canceller.cancel("test");
        };
        assert_eq!(tokio::join!(second, stop).0.unwrap_err().failure, Failure::Interrupted);
        orphan.kill().unwrap();
        orphan.wait().unwrap();
        open(tmp.path(), plan(1), Purpose::Restore).await.unwrap();
    }

    #[tokio::test]
    async fn after_a_reboot_only_done_is_trusted() {
        let tmp = tempfile::tempdir().unwrap();
        let mut work = open(tmp.path(), plan(1), Purpose::Restore).await.unwrap();
        work.set(State::Prepared { steps: 2 }).unwrap();
        assert_eq!(work.state().unwrap(), State::Prepared { steps: 2 });
        work.stamp.boot_id = "another".into();
        assert_eq!(work.state().unwrap(), State::Fetching);
        work.stamp.state = State::Done;
        assert_eq!(work.state().unwrap(), State::Done);
    }

    #[test]
    fn no_state_in_which_a_tool_may_have_half_changed_the_data_is_whole() {
        for state in [State::Fetching, State::Preparing, State::Applying { step: 1 }, State::Prepared { steps: 9 }] {
            assert_eq!(state.whole_steps(3), None, "{state:?}");
        }
        assert_eq!(State::Fetched.whole_steps(3), Some(0));
        assert_eq!(State::Prepared { steps: 2 }.whole_steps(3), Some(2));
        assert_eq!(State::Done.whole_steps(3), Some(3));
    }
}
