//! Carries out what the pure machine decides: looks, asks it for the next step, does the step, looks again.

use super::dirs;
use super::health::{self, ErrorLog, Expected};
use super::journal::{Journal, Store};
use super::primary::{Variables, fence, set_read_only};
use super::service::{POLL, Service, Status, shell_word, wait_until};
use crate::config::{Config, PromoteConfig};
use crate::crash::{crash_point, fail_point};
use crate::error::{Context, Error, Result};
use crate::server::Server;
use crate::shortage::{Shortage, full_disk};
use highwater_core::drill::{Check, CheckKind, Outcome};
use highwater_core::promotion::{Decision, Fence, Goal, Observed, Place, ReadOnly, ServerSeen, Staged, State, Step, in_place, next_step};
use highwater_core::{Failure, Sha256};
use jiff::Timestamp;
use rustix::process::{Pid, Signal, kill_process};
use std::path::PathBuf;
use std::time::Duration;
use tokio::time::{Instant, sleep, timeout};

/// Whether a server answers is known after so long.
const CONNECT_LIMIT: Duration = Duration::from_secs(10);
/// So long service control and the server may contradict each other.
const AGREE_LIMIT: Duration = Duration::from_secs(5);
/// The machine needs at most a stop, two renames for each of two directories, a start and the end; more is a bug.
const MOST_STEPS: usize = 16;

/// One promotion at work.
pub(super) struct Executor<'a> {
    pub(super) config: &'a Config,
    pub(super) promote: &'a PromoteConfig,
    pub(super) store: &'a Store,
    pub(super) service: Service<'a>,
    pub(super) journal: Journal,
}

impl Executor<'_> {
    fn stop_limit(&self) -> Duration {
        Duration::from_secs(self.promote.stop_timeout_s)
    }

    fn start_limit(&self) -> Duration {
        Duration::from_secs(self.promote.start_timeout_s)
    }

    /// Looks at directories and server.
    pub(super) async fn observe(&self) -> Result<Observed> {
        let slots = self.journal.doc.slots.iter().map(dirs::look).collect::<Result<_>>()?;
        Ok(Observed { slots, server: self.server_seen().await? })
    }

    async fn server_seen(&self) -> Result<ServerSeen> {
        let (mut status, mut answers) = (self.service.status().await?, self.connect().await.is_ok());
        // Asked one after the other of a server that starts or stops, as an earlier try may have left it, they contradict each other.
        let until = Instant::now() + AGREE_LIMIT;
        while (&status, answers) == (&Status::Stopped, true) && Instant::now() < until {
            sleep(POLL).await;
            (status, answers) = (self.service.status().await?, self.connect().await.is_ok());
        }
        Ok(match (status, answers) {
            (Status::Unknown(reason), _) => ServerSeen::Unknown(reason),
            (Status::Running, true) => ServerSeen::Answering,
            (Status::Stopped, true) => ServerSeen::Unknown("service control calls it stopped, but it answers".into()),
            (Status::Running | Status::Changing, _) => ServerSeen::Silent,
            // Its process may outlive its entry in service control for a moment.
            (Status::Stopped, false) if self.live_holders()?.iter().any(is_server) => ServerSeen::Silent,
            (Status::Stopped, false) => ServerSeen::Stopped,
        })
    }

    fn live_holders(&self) -> Result<Vec<dirs::Holder>> {
        let mut found = Vec::new();
        for slot in &self.journal.doc.slots {
            found.extend(dirs::holders(&slot.live)?);
        }
        Ok(found)
    }

    async fn connect(&self) -> Result<Server> {
        match timeout(CONNECT_LIMIT, Server::connect(&self.config.server)).await {
            Ok(server) => server,
            Err(_) => Err(Error::new(Failure::Server, "the server took the connection but did not greet")),
        }
    }

    /// Makes the primary read-only and records where its binlog ends.
    pub(super) async fn fence(&self, was: ReadOnly) -> Result<Fence> {
        crash_point!("promote:fence:before");
        fail_point!("promote:fence");
        let mut server = self.connect().await?;
        let fence = fence(&mut server, was).await?;
        server.close().await;
        crash_point!("promote:fence:after");
        tracing::info!(binlog = ?fence.last, "the primary is read-only");
        Ok(fence)
    }

    /// Makes a promoted server read-only if it can still be reached.
    pub(super) async fn fence_promoted(&self) -> Option<Fence> {
        let fenced = async {
            let mut server = self.connect().await?;
            let was = Variables::of(&mut server).await?.read_only();
            let fence = fence(&mut server, was).await?;
            server.close().await;
            Ok::<_, Error>(fence)
        };
        fenced.await.inspect_err(|e| tracing::warn!(error = e.chain(), "the promoted server could not be fenced")).ok()
    }

    /// Goes to where `goal`'s data is in place and the server answers.
    pub(super) async fn drive(&mut self, goal: Goal) -> Result<()> {
        for _ in 0..MOST_STEPS {
            let seen = self.observe().await?;
            let step = match next_step(&self.journal.doc, goal, &seen) {
                Decision::Forward(step) | Decision::Back(step) => step,
                Decision::Ask(reason) => return Err(Error::new(Failure::Stuck, reason)),
                Decision::Done => return Ok(()),
            };
            let name = step_name(step, goal);
            tracing::info!(step = name, "step");
            match step {
                Step::Finish | Step::Abandon => return Ok(()),
                // The start is on record before it happens, with the place in the log that it begins at.
                Step::Start if goal == Goal::New => self.record_start()?,
                _ => {}
            }
            crash_point!(format!("promote:{name}:before"));
            fail_point!(format!("promote:{name}"));
            match step {
                Step::Stop => self.stop(goal).await?,
                Step::Move { slot, from, to } => self.shift(slot, from, to)?,
                Step::Start => self.start().await?,
                Step::Wait => self.wait().await?,
                Step::Finish | Step::Abandon => {}
            }
            crash_point!(format!("promote:{name}:after"));
        }
        Err(Error::new(Failure::Stuck, "the exchange does not come to an end: somebody else starts, stops or renames"))
    }

    fn record_start(&mut self) -> Result<()> {
        let State::Swapping { staged, fence } = self.journal.doc.state.clone() else { return Ok(()) };
        let log_from = self.error_log().end(&self.promote.datadir);
        self.journal.enter(State::Starting { staged, fence, log_from })
    }

    fn shift(&self, slot: usize, from: Place, to: Place) -> Result<()> {
        let Some(slot) = self.journal.doc.slots.get(slot) else {
            return Err(Error::new(Failure::Stuck, format!("the journal has no slot {slot}")));
        };
        dirs::shift(slot.path(from), slot.path(to))
    }

    /// Stops the server and waits until it is gone: no process of it is left with the data open.
    pub(super) async fn stop(&self, goal: Goal) -> Result<()> {
        let deadline = Instant::now() + self.stop_limit();
        let stopped = self.service.stop(self.stop_limit()).await;
        let gone = match stopped {
            Ok(()) => self.wait_stopped(deadline).await,
            Err(error) => Err(error),
        };
        // New data that failed may be ended by force when only that brings the old back. Old data never is.
        let rolling_back = matches!(self.journal.doc.state, State::RollingBack { .. });
        match gone {
            Err(error) if rolling_back && goal == Goal::Old => {
                tracing::warn!(error = error.chain(), "the new server does not stop: killing it");
                for holder in self.live_holders()?.iter().filter(|h| is_server(h)) {
                    if let Some(pid) = Pid::from_raw(holder.pid) {
                        let _ = kill_process(pid, Signal::KILL);
                    }
                }
                self.wait_stopped(Instant::now() + Duration::from_secs(60)).await
            }
            other => other,
        }
    }

    async fn wait_stopped(&self, deadline: Instant) -> Result<()> {
        let gone = wait_until(deadline, async || match self.server_seen().await? {
            ServerSeen::Stopped => Ok(Some(())),
            ServerSeen::Unknown(reason) => Err(Error::new(Failure::Tool, format!("it is not known whether the server stopped: {reason}"))),
            ServerSeen::Silent | ServerSeen::Answering => Ok(None),
        });
        match gone.await? {
            Some(()) => Ok(()),
            None => {
                Err(Error::new(Failure::Tool, format!("the server still runs {} s after it was told to stop", self.promote.stop_timeout_s)))
            }
        }
    }

    /// Refuses to rename what any process still has open.
    pub(super) fn refuse_holders(&self) -> Result<()> {
        match self.live_holders()?.first() {
            None => Ok(()),
            Some(h) => Err(Error::new(Failure::Tool, format!("process {} ({}) still has the data directory open", h.pid, h.command))),
        }
    }

    async fn start(&self) -> Result<()> {
        let mut starting = self.service.start()?;
        let mut was_up = false;
        let deadline = Instant::now() + self.start_limit();
        let up = wait_until(deadline, async || {
            let seen = self.server_seen().await?;
            starting.check()?;
            match seen {
                ServerSeen::Answering => return Ok(Some(())),
                ServerSeen::Silent => was_up = true,
                ServerSeen::Stopped if was_up => return Err(Error::new(Failure::Tool, "the server came up and ended again")),
                ServerSeen::Stopped | ServerSeen::Unknown(_) => {}
            }
            Ok(None)
        });
        match up.await? {
            Some(()) => Ok(()),
            None => Err(Error::new(
                Failure::Tool,
                format!("the server does not answer {} s after it was started", self.promote.start_timeout_s),
            )),
        }
    }

    /// Waits for a server on its way up or down to have arrived.
    async fn wait(&self) -> Result<()> {
        let limit = self.start_limit().max(self.stop_limit());
        let arrived = wait_until(Instant::now() + limit, async || Ok((self.server_seen().await? != ServerSeen::Silent).then_some(())));
        arrived.await?.ok_or_else(|| Error::new(Failure::Tool, format!("the server runs but has not answered for {} s", limit.as_secs())))
    }

    pub(super) fn error_log(&self) -> ErrorLog {
        ErrorLog::new(self.journal.doc.error_log.as_deref(), &self.promote.service, &self.service.log)
    }

    /// Checks the new primary and opens it for writing as the old one was. Every check must have run and passed.
    pub(super) async fn check_new(&self, staged: &Staged, was: ReadOnly, log_from: u64) -> Result<Vec<Check>> {
        crash_point!("promote:check:before");
        fail_point!("promote:check");
        let tables = self.tables(staged.tables_sha256)?;
        let mut server = self.connect().await?;
        let expected = Expected { version: staged.version, tables: &tables, rows: &staged.rows };
        let mut checks = health::examine_primary(&mut server, expected, self.promote, self.start_limit()).await?;
        let since = self.journal.doc.history.iter().rev().find(|e| e.state == "starting").map_or(self.journal.doc.began_at, |e| e.at);
        checks.push(self.error_log().examine(log_from, since).await);
        health::verdict("the new primary", &checks)?;
        set_read_only(&mut server, was).await?;
        server.close().await;
        crash_point!("promote:check:after");
        Ok(checks)
    }

    /// The staged tables, as they were listed in the smoke start.
    fn tables(&self, expected: Sha256) -> Result<Vec<String>> {
        let path = self.tables_path();
        let bytes = std::fs::read(&path).context(Failure::Document, || format!("read {}", path.display()))?;
        if Sha256::of(&bytes) != expected {
            return Err(Error::new(Failure::Document, format!("{} is not the list that the journal names", path.display())));
        }
        serde_json::from_slice(&bytes).context(Failure::Document, || format!("read {}", path.display()))
    }

    pub(super) fn tables_path(&self) -> PathBuf {
        self.store.beside(&self.journal.doc.id, "tables")
    }

    /// Brings the old data back, and opens it as it was. A server that was told to stop just before may still be about to:
    /// it counts as up only when it goes on answering.
    pub(super) async fn restore_old(&mut self, was: ReadOnly) -> Result<()> {
        for _ in 0..3 {
            self.drive(Goal::Old).await?;
            crash_point!("promote:unfence:before");
            if self.reopen(was).await? {
                crash_point!("promote:unfence:after");
                return Ok(());
            }
        }
        Err(Error::new(Failure::Tool, "the old server answers, and then it does not"))
    }

    async fn reopen(&self, was: ReadOnly) -> Result<bool> {
        for _ in 0..10 {
            let opened = async { set_read_only(&mut self.connect().await?, was).await }.await;
            match (opened, self.server_seen().await?) {
                (Ok(()), ServerSeen::Answering) => {}
                (Err(error), ServerSeen::Answering) => return Err(error),
                _ => return Ok(false),
            }
            sleep(POLL).await;
        }
        Ok(true)
    }

    /// Undoes a promotion that failed because of `cause`, and says how that went.
    pub(super) async fn roll_back(&mut self, was: ReadOnly, cause: Error) -> Error {
        tracing::warn!(cause = cause.chain(), "rolling back");
        let reason = cause.chain();
        let new = self.journal.doc.state.new_marks().to_vec();
        if !matches!(self.journal.doc.state, State::RollingBack { .. }) {
            // Without this record a crash now is still undone or finished rightly from the one before.
            if let Err(error) = self.journal.enter(State::RollingBack { new, was, reason: reason.clone() }) {
                tracing::warn!(error = error.chain(), "the roll-back is not on record; going on");
            }
        }
        let back = self.restore_old(was).await;
        let recorded = match back {
            Ok(()) => {
                crash_point!("promote:rolled-back:before");
                self.journal.enter(State::RolledBack { reason: reason.clone(), finished_at: Timestamp::now() })
            }
            Err(error) => return self.stuck(Goal::Old, error, Some(cause)).await,
        };
        if let Err(error) = recorded {
            tracing::warn!(error = error.chain(), "the old data serves, but the journal could not be closed: run `promote --resume`");
        }
        self.discard_staged();
        let error = Error::new(Failure::RolledBack, format!("promotion {} failed, the old data serves again", self.journal.doc.id));
        let undone = self.journal.doc.slots.first().map(|s| s.undone.clone()).filter(|p| p.exists());
        let hint = cause.hint.clone().unwrap_or_else(|| "see the cause; the data on disk is as before".into());
        let kept = undone.map(|p| format!("; the new data is kept in {}", p.display())).unwrap_or_default();
        error.hint(format!("{hint}{kept}")).because(reason)
    }

    /// Removes the restore's work directory, and staged data that never served. Never the place a server looks at.
    pub(super) fn discard_staged(&self) {
        for (i, slot) in self.journal.doc.slots.iter().enumerate() {
            let path = if i == 0 { slot.staged.parent().unwrap_or(&slot.staged) } else { &slot.staged };
            let ours = path.file_name().and_then(|n| n.to_str()).is_some_and(|n| n.contains(".staged-"));
            let is_dir = std::fs::symlink_metadata(path).is_ok_and(|d| d.is_dir());
            if ours
                && is_dir
                && let Err(error) = std::fs::remove_dir_all(path)
            {
                tracing::warn!(%error, path = %path.display(), "could not be removed: remove it by hand");
            }
        }
    }

    /// The end of what a program can do: says what failed and what a person types.
    pub(super) async fn stuck(&self, goal: Goal, failed: Error, cause: Option<Error>) -> Error {
        let cause = cause.map(|c| format!("; it all began with: {}", c.chain())).unwrap_or_default();
        let full = self.journal.doc.slots.first().and_then(|slot| full_disk(slot.live.parent()?));
        let room = full.as_ref().map(|_| format!("first of all: {}\n", Shortage::Disk.hint())).unwrap_or_default();
        let full = full.map(|full| format!("; {full}")).unwrap_or_default();
        let message = format!("promotion {} stands still: {}{full}{cause}", self.journal.doc.id, failed.chain());
        let hint = match self.observe().await {
            Ok(seen) => format!("{room}{}", self.by_hand(goal, &seen)),
            Err(error) => {
                format!("{room}not even the state can be told ({}); the journal is {}", error.chain(), self.journal.path().display())
            }
        };
        Error::new(Failure::Stuck, message).hint(hint)
    }

    /// The exact commands that bring `goal`'s data back, from where everything lies now.
    fn by_hand(&self, goal: Goal, seen: &Observed) -> String {
        let mut seen = Observed { server: ServerSeen::Stopped, ..seen.clone() };
        let mut lines = vec![format!("{}   # and make sure that it has ended", self.service.command_line("stop"))];
        for _ in 0..MOST_STEPS {
            match next_step(&self.journal.doc, goal, &seen) {
                Decision::Forward(Step::Move { slot, from, to }) | Decision::Back(Step::Move { slot, from, to }) => {
                    let (Some(at), Some(paths)) = (seen.slots.get_mut(slot), self.journal.doc.slots.get(slot)) else { break };
                    let word = |place| shell_word(&paths.path(place).display().to_string());
                    lines.push(format!("mv -nT {} {}", word(from), word(to)));
                    let moved = match from {
                        Place::Live => at.live.take(),
                        Place::Aside => at.aside.take(),
                        Place::Staged => at.staged.take(),
                        Place::Undone => at.undone.take(),
                    };
                    match to {
                        Place::Live => at.live = moved,
                        Place::Aside => at.aside = moved,
                        Place::Staged => at.staged = moved,
                        Place::Undone => at.undone = moved,
                    }
                }
                Decision::Ask(reason) => {
                    lines.push(format!("# {reason}"));
                    for slot in &self.journal.doc.slots {
                        let live = shell_word(&slot.live.display().to_string());
                        lines.push(format!(
                            "# the old data is the directory with inode {}; it belongs at {live}: ls -di {live}*",
                            slot.old.inode
                        ));
                    }
                    break;
                }
                _ => break,
            }
        }
        lines.push(self.service.command_line("start"));
        lines.push(format!("highwater-host promote --resume   # closes the journal {}", self.journal.path().display()));
        format!("act now, as root, in this order:\n  {}", lines.join("\n  "))
    }

    /// Whether every directory of the new data is in place.
    pub(super) async fn new_in_place(&self) -> Result<bool> {
        Ok(in_place(&self.journal.doc, Goal::New, &self.observe().await?))
    }
}

/// Whether a process is a database server.
pub(super) fn is_server(holder: &dirs::Holder) -> bool {
    ["mariadbd", "mysqld"].iter().any(|name| holder.command.starts_with(name))
}

/// The name of a step in logs and crash points.
fn step_name(step: Step, goal: Goal) -> &'static str {
    match (step, goal) {
        (Step::Abandon, _) => "abandon",
        (Step::Finish, _) => "finish",
        (Step::Stop, Goal::New) => "stop",
        (Step::Stop, Goal::Old) => "back-stop",
        (Step::Start, Goal::New) => "start",
        (Step::Start, Goal::Old) => "back-start",
        (Step::Wait, _) => "wait",
        (Step::Move { slot: 0, from: Place::Live, to: Place::Aside }, _) => "aside",
        (Step::Move { slot: 0, from: Place::Staged, .. }, _) => "swap",
        (Step::Move { slot: 0, from: Place::Live, .. }, _) => "back-undo",
        (Step::Move { slot: 0, from: Place::Aside, .. }, _) => "back-home",
        (Step::Move { slot: 0, from: Place::Undone, .. }, _) => "again",
        (Step::Move { from: Place::Live, to: Place::Aside, .. }, _) => "aside-binlogs",
        (Step::Move { from: Place::Staged, .. }, _) => "swap-binlogs",
        (Step::Move { from: Place::Live, .. }, _) => "back-undo-binlogs",
        (Step::Move { from: Place::Aside, .. }, _) => "back-home-binlogs",
        (Step::Move { from: Place::Undone, .. }, _) => "again-binlogs",
    }
}

/// A check that something outside the list of checks was done.
pub(super) fn passed(kind: CheckKind, subject: &str, found: String) -> Check {
    Check { kind, subject: subject.into(), outcome: Outcome::Passed, expected: "as before".into(), found, seconds: 0.0 }
}
