//! The steps of one try: fetch the full, prepare it, apply each increment while the next one is fetched.

use crate::config::RestoreConfig;
use crate::crash::crash_point;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::restore::preflight::Ready;
use crate::restore::stamp::{State, Workspace};
use crate::signal::Cancel;
use crate::stream::{FetchOptions, fetch};
use crate::tool::{Checkpoints, Prepare, Tool};
use highwater_core::Failure;
use highwater_core::drill::Phase;
use highwater_core::plan::{PlanStep, RestorePlanV1};
use std::path::{Path, PathBuf};
use std::time::Instant;

/// One try of a restore.
pub(crate) struct Steps<'a> {
    pub(crate) plan: &'a RestorePlanV1,
    pub(crate) ready: &'a Ready,
    pub(crate) config: &'a RestoreConfig,
    pub(crate) cancel: &'a Cancel,
    /// Counts the tries of this run, from 1.
    pub(crate) attempt: u32,
}

impl Steps<'_> {
    /// Brings `work` from whatever whole state it is in to the plan's restore point, and flushes it. The phases done are
    /// added to `phases`, also when a later one fails.
    ///
    /// # Errors
    /// `Tool`, and `data/` may be half-changed: the stamp says so. `Damaged`, `Resources`, `Interrupted`; what the store says.
    pub(crate) async fn run(&self, work: &mut Workspace, phases: &mut Vec<Phase>) -> Result<()> {
        let steps = &self.plan.steps;
        let mut whole = match self.resume(work)? {
            Some(whole) => {
                work.remove_incrementals().await?;
                tracing::info!(whole_steps = whole, of = steps.len(), "an earlier try got this far: going on from there");
                whole
            }
            None => {
                let data = work.start_over().await?;
                let Some(full) = steps.first() else { return Err(no_steps()) };
                crash_point!("restore:fetch-full");
                phases.push(self.fetch(full, &data, self.cancel).await?);
                expect(&data, full, &["full-backuped"])?;
                work.set(State::Fetched)?;
                crash_point!("restore:fetched");
                0
            }
        };
        let mut fetched: Option<PathBuf> = None;
        while let Some(step) = steps.get(whole) {
            let increment = match (whole, fetched.take()) {
                (0, _) => None,
                (_, Some(dir)) => Some(dir),
                (k, None) => {
                    let dir = work.incremental(k, self.attempt).await?;
                    phases.push(self.fetch(step, &dir, self.cancel).await?);
                    Some(dir)
                }
            };
            let next = match steps.get(whole + 1) {
                Some(next) => Some((next, work.incremental(whole + 1, self.attempt).await?)),
                None => None,
            };
            if let Some(dir) = &increment {
                expect(dir, step, &["incremental"])?;
            }
            work.set(if whole == 0 { State::Preparing } else { State::Applying { step: whole } })?;
            crash_point!(format!("restore:applying-{whole}"));
            let (applied, next_fetched) =
                Box::pin(self.apply_and_fetch(work, step, increment.as_deref(), next, whole + 1 == steps.len())).await;
            phases.push(applied?);
            // XtraBackup's last prepare, and mariadb-backup's every one, leave one of these.
            expect(&work.data(), step, &["log-applied", "full-prepared"])?;
            whole += 1;
            work.set(State::Prepared { steps: whole })?;
            crash_point!(format!("restore:prepared-{whole}"));
            if let Some((phase, dir)) = next_fetched? {
                phases.push(phase);
                fetched = Some(dir);
            }
        }
        self.finish(work, phases).await
    }

    async fn finish(&self, work: &mut Workspace, phases: &mut Vec<Phase>) -> Result<()> {
        let started = Instant::now();
        work.remove_incrementals().await?;
        work.sync().await?;
        work.set(State::Done)?;
        phases.push(phase("flush", None, started, None));
        Ok(())
    }

    /// The steps that are whole in the directory, if its files agree with its stamp.
    fn resume(&self, work: &Workspace) -> Result<Option<usize>> {
        let Some(whole) = work.state()?.whole_steps(self.plan.steps.len()) else { return Ok(None) };
        let Some(step) = self.plan.steps.get(whole.saturating_sub(1)) else { return Ok(None) };
        let types: &[&str] = if whole == 0 { &["full-backuped"] } else { &["log-applied", "full-prepared"] };
        match expect(&work.data(), step, types) {
            Ok(()) => Ok(Some(whole)),
            Err(error) => {
                tracing::warn!(error = error.chain(), "the directory is not what its stamp says: starting again");
                Ok(None)
            }
        }
    }

    async fn fetch(&self, step: &PlanStep, into: &Path, cancel: &Cancel) -> Result<Phase> {
        let started = Instant::now();
        let progress = Progress::begin(format!("fetch {}", step.backup_id), Some(step.raw_bytes));
        let options = FetchOptions { downloads: self.config.downloads, threads: self.config.threads };
        let bytes = fetch(&self.ready.bucket, step, into, options, progress, cancel).await?;
        Ok(phase("fetch", Some(step), started, Some(bytes)))
    }

    /// Applies `step` and meanwhile fetches `next`. Returns when both have ended: neither may go on writing to a directory
    /// that the caller discards. A failed apply ends the fetch; a failed fetch lets the apply finish, to resume from.
    async fn apply_and_fetch(
        &self,
        work: &Workspace,
        step: &PlanStep,
        increment: Option<&Path>,
        next: Option<(&PlanStep, PathBuf)>,
        last: bool,
    ) -> (Result<Phase>, Result<Option<(Phase, PathBuf)>>) {
        let (stop, stopped) = Cancel::manual();
        let data = work.data();
        let apply = async {
            let started = Instant::now();
            let use_memory_bytes = self.ready.use_memory_bytes;
            let prepare = Prepare { target_dir: &data, incremental_dir: increment, last, use_memory_bytes };
            let applied = self.ready.tool.prepare(prepare, self.cancel).await;
            if applied.is_err() {
                stop.cancel("the failure of the step before");
            }
            let name = if increment.is_some() { "apply" } else { "prepare" };
            applied.map(|()| phase(name, Some(step), started, None))
        };
        let fetch = async {
            match next {
                Some((next, dir)) => self.fetch(next, &dir, &stopped).await.map(|phase| Some((phase, dir))),
                None => Ok(None),
            }
        };
        let both = async { tokio::join!(apply, fetch) };
        tokio::pin!(both);
        tokio::select! {
            ended = &mut both => return ended,
            reason = self.cancel.cancelled() => stop.cancel(reason),
        }
        both.await
    }
}

/// What the checkpoints file of `dir` says is the state after (or of) `step`.
fn expect(dir: &Path, step: &PlanStep, types: &[&str]) -> Result<()> {
    let found: Checkpoints = Tool::read_checkpoints(dir)?;
    if types.contains(&found.backup_type.as_str()) && found.to_lsn == step.to_lsn {
        return Ok(());
    }
    let message = format!(
        "after {}, {} should be {} at LSN {}; its checkpoints file says {} at LSN {}",
        step.backup_id,
        dir.display(),
        types.join(" or "),
        step.to_lsn,
        found.backup_type,
        found.to_lsn
    );
    Err(Error::new(Failure::Damaged, message))
}

fn no_steps() -> Error {
    Error::new(Failure::Document, "the plan has no step")
}

/// A phase that ends now.
pub(crate) fn phase(name: &str, step: Option<&PlanStep>, started: Instant, bytes: Option<u64>) -> Phase {
    Phase { name: name.to_owned(), backup_id: step.map(|s| s.backup_id.clone()), seconds: started.elapsed().as_secs_f64(), bytes }
}
