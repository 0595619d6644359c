//! `promote` and `rollback`: one server's data directory replaced by restored data, or none of it.
//!
//! Owns: the journal below `state_dir`, the renames around the data directory, the server's stop and start. Relies on: the
//! restore below a sibling of the data directory, the isolated server, service control that tells the truth.
//! A crash leaves an open journal; `promote --resume` finishes or undoes it. Until the new data is in place it is undone,
//! from then on it is finished; nothing is ever deleted that served.

mod dirs;
mod executor;
mod health;
mod journal;
mod preflight;
mod primary;
mod report;
mod service;

use crate::config::{Config, PromoteConfig};
use crate::crash::{crash_point, fail_point};
use crate::drill::IsolatedServer;
use crate::durable;
use crate::error::{Context, Error, Result};
use crate::server::Server;
use crate::signal::Cancel;
use crate::stream::load_inventory;
use executor::Executor;
use highwater_aws::s3::Bucket;
use highwater_core::drill::CheckKind;
use highwater_core::plan::RestorePlanV1;
use highwater_core::promotion::{Goal, Mark, ServerSeen, Staged, State, crash_goal, in_place};
use highwater_core::{Failure, Sha256};
use jiff::Timestamp;
use journal::{Journal, PRIVATE, Store};
use preflight::{Mandate, Ready};
use primary::Variables;
use service::Service;
use std::path::Path;
use std::time::Duration;

/// Arguments of `promote`.
#[derive(Debug, clap::Args)]
pub struct PromoteArgs {
    /// The plan: a file, or s3://bucket/key with --sha256.
    #[arg(long, required_unless_present = "resume")]
    pub plan: Option<String>,
    /// SHA-256 of the plan; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// The approval: a file or s3:// URI.
    #[arg(long)]
    pub approval: Option<String>,
    /// SHA-256 of the approval; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub approval_sha256: Option<Sha256>,
    /// The drill report that the approval rests on: a file or s3:// URI.
    #[arg(long, required_unless_present = "resume")]
    pub report: Option<String>,
    /// SHA-256 of the report; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub report_sha256: Option<Sha256>,
    /// Finish or undo a promotion or roll-back that was cut off; nothing else is needed.
    #[arg(long, conflicts_with_all = ["plan", "approval", "report"])]
    pub resume: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {}

/// Runs `promote`. Run again with the same approval after success, it changes nothing and says so.
///
/// # Errors
/// Before the primary is touched: `Config`, `Document`, `Approval`, `Precondition`, `Busy`, `Resources`, `UnsafeDirectory`, what the
/// restore says, `ChecksFailed`. From then on only `RolledBack` (the old data serves again) and `Stuck` (a person must act).
pub async fn run(args: &PromoteArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let promote = settings(config)?;
    if args.resume {
        return resume(config, promote, json).await;
    }
    let mandate = Mandate::load(args, config).await?;
    let store = Store::open(&config.state_dir)?;
    refuse_open(&store)?;
    if let Some(used) = mandate.used(&store)? {
        return match used.doc.state {
            State::Done { .. } => report::show(&used.doc, json, "This approval was used already; nothing was changed now."),
            _ => Err(Error::new(Failure::Approval, format!("the approval was used by promotion {}, which was rolled back", used.doc.id))
                .hint("an approval holds for one promotion: ask for a new one")
                .of(&used.doc)),
        };
    }
    let look = Service { config: &promote.service, log: store.log() };
    let Ready { journal, work } = preflight::check(&mandate, config, promote, &look).await?;
    cancel.check()?;

    let service = Service { config: &promote.service, log: store.beside(&journal.id, "service.log") };
    let journal = store.begin(journal)?;
    let mut executor = Executor { config, promote, store: &store, service, journal };
    let outcome = match stage(&mut executor, &mandate, &work, cancel).await {
        // From here on signals are noted and not obeyed: half way is the worst place to stop.
        Ok(staged) => exchange(&mut executor, &mandate, staged, cancel).await,
        Err(error) => Err(abort(&mut executor, error)),
    };
    outcome.map_err(|error| error.of(&executor.journal.doc))?;
    report::show(&executor.journal.doc, json, "")
}

fn settings(config: &Config) -> Result<&PromoteConfig> {
    config.promote.as_ref().ok_or_else(|| {
        Error::new(Failure::Config, "this host is not configured to promote")
            .hint("add a [promote] section with datadir and service; see docs/host.toml")
    })
}

fn refuse_open(store: &Store) -> Result<()> {
    match store.current()? {
        Some(journal) if !journal.doc.state.is_closed() => {
            let message = format!("promotion {} is still open, in state {}", journal.doc.id, journal.doc.state.name());
            Err(Error::new(Failure::Precondition, message).hint("finish or undo it first: highwater-host promote --resume"))
        }
        _ => Ok(()),
    }
}

/// Restores beside the primary's data, tries the copy, and makes it ready to be renamed. The primary is not touched.
async fn stage(executor: &mut Executor<'_>, mandate: &Mandate, work: &Path, cancel: &Cancel) -> Result<Staged> {
    let config = executor.config;
    crash_point!("promote:stage:before");
    fail_point!("promote:stage");
    let restored = crate::restore::restore(&mandate.plan, mandate.plan_sha256, work, &config.restore, &config.server, cancel);
    let restored = Box::pin(restored).await?;
    let slots = executor.journal.doc.slots.clone();
    let Some((data, others)) = slots.split_first() else { return Err(Error::new(Failure::Document, "the journal has no slot")) };
    if restored.datadir != data.staged {
        let message = format!("the restore went to {}, not to {}", restored.datadir.display(), data.staged.display());
        return Err(Error::new(Failure::UnsafeDirectory, message));
    }
    crash_point!("promote:stage:after");

    executor.journal.enter(State::Smoking {})?;
    crash_point!("promote:smoke:before");
    fail_point!("promote:smoke");
    let seen = smoke(executor, &mandate.plan, &data.staged, cancel).await?;
    strip(&data.staged)?;
    dirs::dress_like(&data.live, &data.staged)?;
    for slot in others {
        dirs::make_like(&slot.live, &slot.staged)?;
    }
    dirs::sync_filesystem(&data.staged)?;
    let tables = serde_json::to_vec(&seen.tables).context(Failure::Document, || "list the tables".into())?;
    durable::replace(&executor.tables_path(), &tables, PRIVATE)?;
    let marks: Vec<Mark> = slots.iter().filter_map(|s| dirs::mark(&s.staged).transpose()).collect::<Result<_>>()?;
    if marks.len() != slots.len() {
        return Err(Error::new(Failure::UnsafeDirectory, "a staged directory has vanished"));
    }
    crash_point!("promote:smoke:after");
    Ok(Staged { marks, version: seen.version, tables: seen.tables.len() as u64, tables_sha256: Sha256::of(&tables), rows: seen.rows })
}

/// Starts an isolated server on the staged data, looks at the data, and ends the server in order.
async fn smoke(executor: &Executor<'_>, plan: &RestorePlanV1, datadir: &Path, cancel: &Cancel) -> Result<health::Seen> {
    let config = executor.config;
    let Some(step) = plan.steps.last() else { return Err(Error::new(Failure::Document, "the plan has no step")) };
    let inventory = load_inventory(&Bucket::connect(&plan.bucket).await, &step.inventory).await?;
    let limit = Duration::from_secs(config.drill.statement_timeout_s);
    let isolated = Box::pin(IsolatedServer::start(datadir, &plan.server, &config.drill, &config.server, cancel)).await?;
    let seen = async {
        let mut server = isolated.connect().await?;
        let seen = tokio::select! {
            seen = health::examine_staged(&mut server, &inventory, &executor.promote.assert, limit) => seen?,
            reason = cancel.cancelled() => return Err(Error::new(Failure::Interrupted, format!("ended by {reason}; the primary was not touched"))),
        };
        server.close().await;
        Ok(seen)
    }
    .await;
    let stopped = isolated.stop().await;
    let seen = seen?;
    stopped?;
    health::verdict("the smoke start of the staged data", &seen.checks)?;
    Ok(seen)
}

/// Removes from a data directory what only the backup tool put there, and MySQL's `auto.cnf`: with the old `server_uuid` new transactions
/// would get GTIDs that replicas have already seen on the old data, and be skipped by them.
fn strip(datadir: &Path) -> Result<()> {
    let failed = || format!("list {}", datadir.display());
    for entry in std::fs::read_dir(datadir).context(Failure::Resources, failed)? {
        let entry = entry.context(Failure::Resources, failed)?;
        let name = entry.file_name();
        let Some(name) = name.to_str() else { continue };
        let of_the_tool = ["xtrabackup_", "mariadb_backup_"].iter().any(|p| name.starts_with(p)) || name == "backup-my.cnf";
        let is_file = entry.file_type().is_ok_and(|t| t.is_file());
        if is_file && (of_the_tool || name == "auto.cnf") {
            std::fs::remove_file(entry.path()).context(Failure::Resources, || format!("remove {}", entry.path().display()))?;
        }
    }
    Ok(())
}

/// Closes a promotion that never touched the primary. What is restored so far stays for the next try; what was started on does not.
fn abort(executor: &mut Executor<'_>, error: Error) -> Error {
    let resumable = matches!(executor.journal.doc.state, State::Staging {});
    if !resumable {
        executor.discard_staged();
    }
    let finished_at = Timestamp::now();
    if let Err(e) = executor.journal.enter(State::Aborted { reason: error.chain(), finished_at }) {
        tracing::warn!(error = e.chain(), "the journal could not be closed: run `promote --resume`");
    }
    let kept = executor.journal.doc.slots.first().and_then(|s| s.staged.parent()).filter(|p| resumable && p.exists());
    let kept = kept.map(|p| format!("; {} is kept: the same promotion goes on from there", p.display())).unwrap_or_default();
    let hint = error.hint.clone().map(|h| format!("{h}; ")).unwrap_or_default();
    error.hint(format!("{hint}the primary was not touched{kept}"))
}

/// Fences, stops, exchanges, starts and checks. Any failure brings the old data back.
async fn exchange(executor: &mut Executor<'_>, mandate: &Mandate, staged: Staged, cancel: &Cancel) -> Result<()> {
    let was = match last_look(executor, mandate, cancel).await {
        Ok(was) => was,
        Err(error) => return Err(abort(executor, error)),
    };
    if let Err(error) = executor.journal.enter(State::Fencing { staged: staged.clone(), was }) {
        return Err(abort(executor, error));
    }
    match forward(executor, staged, was).await {
        Ok(()) => Ok(()),
        Err(cause) => Err(executor.roll_back(was, cause).await),
    }
}

/// The facts once more: hours may lie between the preflight and now.
async fn last_look(executor: &Executor<'_>, mandate: &Mandate, cancel: &Cancel) -> Result<highwater_core::promotion::ReadOnly> {
    cancel.check()?;
    mandate.holds(executor.config)?;
    preflight::check_primary(mandate, executor.config, executor.promote).await?;
    for slot in &executor.journal.doc.slots {
        if dirs::mark(&slot.live)? != Some(slot.old) {
            return Err(Error::new(Failure::Precondition, format!("{} was exchanged while the data was staged", slot.live.display())));
        }
    }
    let mut server = Server::connect(&executor.config.server).await?;
    let was = Variables::of(&mut server).await?.read_only();
    server.close().await;
    Ok(was)
}

async fn forward(executor: &mut Executor<'_>, staged: Staged, was: highwater_core::promotion::ReadOnly) -> Result<()> {
    let fence = executor.fence(was).await?;
    executor.journal.enter(State::Stopping { staged: staged.clone(), fence: fence.clone() })?;
    crash_point!("promote:stop:before");
    fail_point!("promote:stop");
    executor.stop(Goal::New).await?;
    executor.refuse_holders()?;
    crash_point!("promote:stop:after");
    executor.journal.enter(State::Swapping { staged, fence })?;
    executor.drive(Goal::New).await?;
    finish(executor).await
}

/// Checks the started new data and closes the journal.
async fn finish(executor: &mut Executor<'_>) -> Result<()> {
    let State::Starting { staged, fence, log_from } = executor.journal.doc.state.clone() else {
        return Err(Error::new(Failure::Stuck, format!("the journal is in state {}, not starting", executor.journal.doc.state.name())));
    };
    let mut checks = executor.check_new(&staged, fence.was, log_from).await?;
    checks.push(executor::passed(CheckKind::ServerUp, "read_only", if fence.was.read_only { "on" } else { "off" }.into()));
    crash_point!("promote:done:before");
    fail_point!("promote:done");
    executor.journal.enter(State::Done { staged, fence, finished_at: Timestamp::now(), checks })?;
    crash_point!("promote:done:after");
    executor.discard_staged();
    Ok(())
}

/// Finishes or undoes what a crash left open. Run again, it says the same.
async fn resume(config: &Config, promote: &PromoteConfig, json: bool) -> Result<()> {
    let store = Store::open(&config.state_dir)?;
    let Some(journal) = store.current()? else {
        return report::nothing(json);
    };
    let mut executor = executor_of(config, promote, &store, journal)?;
    resumed(&mut executor).await.map_err(|error| error.of(&executor.journal.doc))?;
    report::show(&executor.journal.doc, json, "")
}

async fn resumed(executor: &mut Executor<'_>) -> Result<()> {
    if !executor.journal.doc.state.is_closed() {
        let seen = executor.observe().await?;
        match (executor.journal.doc.state.clone(), crash_goal(&executor.journal.doc, &seen)) {
            (State::Reverting { .. }, _) => revert(executor).await?,
            (State::Reinstating { .. }, _) => return Err(reinstate(executor, cut_off()).await),
            (_, None) => {
                end_leftovers(executor)?;
                return Err(undone(abort(executor, cut_off()), &executor.journal));
            }
            (state, Some(Goal::Old)) => return Err(executor.roll_back(was_of(&state), cut_off()).await),
            (state, Some(Goal::New)) => {
                let finished = match executor.drive(Goal::New).await {
                    Ok(()) => finish_resumed(executor).await,
                    Err(error) => Err(error),
                };
                if let Err(cause) = finished {
                    return Err(executor.roll_back(was_of(&state), cause).await);
                }
            }
        }
    }
    if !matches!(executor.journal.doc.state, State::Aborted { .. }) {
        executor.discard_staged();
    }
    match &executor.journal.doc.state {
        State::Aborted { reason, .. } | State::RolledBack { reason, .. } => {
            let message = format!("promotion {} did not succeed, the old data serves", executor.journal.doc.id);
            Err(Error::new(Failure::RolledBack, message).because(reason.clone()))
        }
        _ => Ok(()),
    }
}

/// A crash between the exchange and its record leaves `Swapping` with everything in place and the server perhaps running.
async fn finish_resumed(executor: &mut Executor<'_>) -> Result<()> {
    if let State::Swapping { staged, fence } = executor.journal.doc.state.clone() {
        executor.journal.enter(State::Starting { staged, fence, log_from: 0 })?;
    }
    finish(executor).await
}

fn was_of(state: &State) -> highwater_core::promotion::ReadOnly {
    match state {
        State::Fencing { was, .. } | State::RollingBack { was, .. } => *was,
        State::Stopping { fence, .. } | State::Swapping { fence, .. } | State::Starting { fence, .. } => fence.was,
        State::Done { fence, .. } | State::Reverting { fence, .. } | State::Reinstating { fence, .. } => fence.was,
        State::Staging {} | State::Smoking {} | State::Aborted { .. } | State::RolledBack { .. } | State::Reverted { .. } => {
            Default::default()
        }
    }
}

fn cut_off() -> Error {
    Error::new(Failure::Interrupted, "it was cut off")
}

fn undone(error: Error, journal: &Journal) -> Error {
    let hint = error.hint.clone().unwrap_or_default();
    Error::new(Failure::RolledBack, format!("promotion {} was given up before the primary was touched", journal.doc.id)).hint(hint)
}

/// An isolated server may have outlived the helper that was killed: nobody else uses the staged data.
fn end_leftovers(executor: &Executor<'_>) -> Result<()> {
    let Some(slot) = executor.journal.doc.slots.first() else { return Ok(()) };
    for holder in dirs::holders(&slot.staged)?.iter().filter(|h| executor::is_server(h)) {
        tracing::warn!(pid = holder.pid, "ending an isolated server that was left behind");
        if let Some(pid) = rustix::process::Pid::from_raw(holder.pid) {
            let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
        }
    }
    Ok(())
}

fn executor_of<'a>(config: &'a Config, promote: &'a PromoteConfig, store: &'a Store, journal: Journal) -> Result<Executor<'a>> {
    if journal.doc.host_id != config.host_id || journal.doc.slots.first().is_none_or(|s| s.live != promote.datadir) {
        return Err(Error::new(
            Failure::Config,
            format!("promotion {} is of host {} and another data directory", journal.doc.id, journal.doc.host_id),
        )
        .hint("the configuration was changed since it began: put host_id and promote.datadir back"));
    }
    let service = Service { config: &promote.service, log: store.beside(&journal.doc.id, "service.log") };
    Ok(Executor { config, promote, store, service, journal })
}

/// Runs `rollback`. Run again after success, it changes nothing and says so.
///
/// # Errors
/// `Precondition` when there is nothing to roll back; `Tool` when the old data did not come up and the promoted data serves again; `Stuck`.
pub async fn run_rollback(_args: &RollbackArgs, config: &Config, json: bool, _cancel: &Cancel) -> Result<()> {
    let promote = settings(config)?;
    let store = Store::open(&config.state_dir)?;
    let nothing = || Error::new(Failure::Precondition, "there is no promotion to roll back on this host");
    let mut executor = executor_of(config, promote, &store, store.current()?.ok_or_else(nothing)?)?;
    let id = executor.journal.doc.id.clone();
    match executor.journal.doc.state.clone() {
        State::Reverted { .. } => return report::show(&executor.journal.doc, json, "It was rolled back already; nothing was changed now."),
        State::Reverting { .. } => {}
        State::Done { staged, fence, .. } => {
            let seen = executor.observe().await?;
            if !in_place(&executor.journal.doc, Goal::New, &seen) || seen.slots.iter().any(|s| s.undone.is_some()) {
                return Err(Error::new(Failure::Precondition, format!("the directories of promotion {id} are not where it left them"))
                    .hint("the old data must lie at its dated name, the promoted data in place, and no directory at the .undone- name"));
            }
            if let ServerSeen::Unknown(reason) = seen.server {
                return Err(Error::new(Failure::Precondition, format!("it is not known whether the server runs: {reason}")));
            }
            executor.journal.enter(State::Reverting { staged, fence, promoted: None })?;
        }
        State::Aborted { .. } | State::RolledBack { .. } => {
            return Err(nothing().hint(format!("promotion {id} did not succeed; the old data serves")));
        }
        _ => return refuse_open(&store),
    }
    revert(&mut executor).await.map_err(|error| error.of(&executor.journal.doc))?;
    report::show(&executor.journal.doc, json, "")
}

/// Brings the old data back for an operator. If it does not come up, the promoted data serves again.
async fn revert(executor: &mut Executor<'_>) -> Result<()> {
    crash_point!("promote:revert:before");
    let State::Reverting { staged, fence, promoted } = executor.journal.doc.state.clone() else {
        return Err(Error::new(Failure::Stuck, "the journal is not in state reverting"));
    };
    // The promoted server may be what is broken: its fence is wanted, not needed.
    let promoted = match (promoted, executor.new_in_place().await?) {
        (None, true) => executor.fence_promoted().await,
        (found, _) => found,
    };
    executor.journal.enter(State::Reverting { staged, fence: fence.clone(), promoted: promoted.clone() })?;
    match executor.restore_old(fence.was).await {
        Ok(()) => {
            crash_point!("promote:reverted:before");
            executor.journal.enter(State::Reverted { finished_at: Timestamp::now(), promoted })
        }
        Err(cause) => Err(reinstate(executor, cause).await),
    }
}

/// Puts the promoted data back after a roll-back that failed, and says how that went.
async fn reinstate(executor: &mut Executor<'_>, cause: Error) -> Error {
    if let State::Reverting { staged, fence, promoted } = executor.journal.doc.state.clone() {
        let reason = cause.chain();
        if let Err(error) = executor.journal.enter(State::Reinstating { staged, fence, promoted, reason }) {
            return executor.stuck(Goal::New, error, Some(cause)).await;
        }
    }
    match Box::pin(reinstated(executor)).await {
        Ok(()) => Error::new(Failure::Tool, "the old data could not be brought back; the promoted data serves on")
            .hint("see the cause; the old data is kept at its dated name")
            .because(cause.chain()),
        Err(error) => executor.stuck(Goal::New, error, Some(cause)).await,
    }
}

async fn reinstated(executor: &mut Executor<'_>) -> Result<()> {
    executor.drive(Goal::New).await?;
    let State::Reinstating { staged, fence, promoted, .. } = executor.journal.doc.state.clone() else {
        return Err(Error::new(Failure::Stuck, "the journal is not in state reinstating"));
    };
    let mut server = Server::connect(&executor.config.server).await?;
    primary::set_read_only(&mut server, promoted.map_or(fence.was, |p| p.was)).await?;
    server.close().await;
    executor.journal.enter(State::Done { staged, fence, finished_at: Timestamp::now(), checks: Vec::new() })
}
