//! `restore`: from a plan to a prepared data directory.
//!
//! Owns `<into>`: `data/` and the work files beside it. Relies on `stream::fetch` to check every byte, and on the tool to
//! apply. What a crash leaves: a stamped directory; running the same command again goes on from the last whole state, or
//! starts again from the full where the tool may have left something half-done.

use crate::config::Config;
use crate::config::{RestoreConfig, ServerConfig};
use crate::error::{Error, Result};
use crate::signal::Cancel;
use highwater_core::drill::Phase;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Failure, Sha256};
use std::path::{Path, PathBuf};
use std::time::Instant;

pub(crate) mod memory;
mod preflight;
pub(crate) mod stamp;
mod steps;

pub(crate) use preflight::tool_of;
use stamp::{Purpose, State, Workspace};
use steps::Steps;
pub(crate) use steps::phase;

/// How often one run tries when the tool fails. A second try starts from the full with everything fetched anew.
const TRIES: u32 = 2;

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub struct RestoreArgs {
    /// The plan: a file, or s3://bucket/key with --sha256.
    #[arg(long)]
    pub plan: String,
    /// SHA-256 of the plan; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// The directory to restore into: absent, empty, or stamped by an earlier try of the same plan.
    #[arg(long, value_name = "DIR")]
    pub into: PathBuf,
}

/// A restored, prepared data directory.
#[derive(Debug, Clone)]
pub struct Restored {
    /// The data directory itself (below `into`).
    pub datadir: PathBuf,
    /// What was done, and how long it took.
    pub phases: Vec<Phase>,
}

/// Runs it.
///
/// # Errors
/// `UnsafeDirectory`, `Damaged`, `Resources`, `Tool`, …
pub async fn run(args: &RestoreArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let (plan, sha256) = crate::cli::load_document::<RestorePlanV1>(&args.plan, args.sha256).await?;
    let restored = restore(&plan, sha256, &args.into, &config.restore, &config.server, cancel).await?;
    let point = &plan.point;
    if json {
        println!(
            "{}",
            serde_json::json!({ "datadir": restored.datadir, "plan_sha256": sha256, "point": point, "phases": restored.phases })
        );
        return Ok(());
    }
    for phase in &restored.phases {
        println!("{}", phase_line(phase));
    }
    println!("restored {} as of {} (LSN {}) in {}", plan.cluster, point.time, point.last_lsn, restored.datadir.display());
    if let Some(binlog) = &point.binlog {
        println!("binlog position {} {} {}", binlog.file, binlog.position, binlog.gtid);
    }
    Ok(())
}

/// A phase for a person: name, backup, seconds, rate.
pub(crate) fn phase_line(phase: &Phase) -> String {
    let backup = phase.backup_id.as_ref().map(ToString::to_string).unwrap_or_default();
    let mut line = format!("{:<10} {backup:<36} {:>8.1} s", phase.name, phase.seconds);
    if let Some(bytes) = phase.bytes {
        let mib = bytes as f64 / f64::from(1 << 20);
        line.push_str(&format!(" {mib:>10.0} MiB {:>7.0} MiB/s", mib / phase.seconds.max(0.001)));
    }
    line
}

/// Restores `plan` into `into`: data directory at `<into>/data`, work files beside it. Safe to run again after a kill;
/// on a finished restore of the same plan it is success at once, and `phases` is empty. The files belong to us, mode 0700
/// and 0640: the caller gives them to the server's user.
///
/// # Errors
/// As `run`.
pub async fn restore(
    plan: &RestorePlanV1,
    plan_sha256: Sha256,
    into: &Path,
    config: &RestoreConfig,
    server: &ServerConfig,
    cancel: &Cancel,
) -> Result<Restored> {
    let mut work = Workspace::open(into, plan_sha256, Purpose::Restore, cancel).await?;
    let mut phases = Vec::new();
    restore_in(&mut work, plan, config, server, cancel, &mut phases).await?;
    Ok(Restored { datadir: work.data(), phases })
}

/// Restores into an opened directory. The phases done are in `phases`, whether it fails or not.
pub(crate) async fn restore_in(
    work: &mut Workspace,
    plan: &RestorePlanV1,
    config: &RestoreConfig,
    server: &ServerConfig,
    cancel: &Cancel,
    phases: &mut Vec<Phase>,
) -> Result<()> {
    if work.state()? == State::Done {
        return still_there(work);
    }
    let result = try_restore(work, plan, config, server, cancel, phases).await;
    if result.is_err() {
        work.give_back(plan.steps.len()).await;
    }
    result
}

async fn try_restore(
    work: &mut Workspace,
    plan: &RestorePlanV1,
    config: &RestoreConfig,
    server: &ServerConfig,
    cancel: &Cancel,
    phases: &mut Vec<Phase>,
) -> Result<()> {
    let started = Instant::now();
    let ready = preflight::check(plan, work.path(), config, server).await?;
    phases.push(phase("preflight", None, started, None));
    let mut attempt = 1;
    loop {
        cancel.check()?;
        let steps = Steps { plan, ready: &ready, config, cancel, attempt };
        match steps.run(work, phases).await {
            // The stamp says Applying or Preparing now, so that the next try starts from the full.
            Err(error) if error.failure == Failure::Tool && attempt < TRIES => {
                tracing::warn!(attempt, error = error.chain(), "the tool failed: starting again from the full");
                attempt += 1;
            }
            ended => return ended,
        }
    }
}

/// A finished restore whose data directory was moved away or emptied is not called a success again.
fn still_there(work: &Workspace) -> Result<()> {
    let data = work.data();
    let there = std::fs::symlink_metadata(&data).is_ok_and(|m| m.is_dir()) && crate::tool::Tool::read_checkpoints(&data).is_ok();
    if there {
        tracing::info!(datadir = %data.display(), "this plan is restored here already");
        return Ok(());
    }
    Err(Error::new(
        Failure::UnsafeDirectory,
        format!("{} says that it holds a finished restore, but {} does not", work.path().display(), data.display()),
    )
    .hint("it was moved or changed since; restore into a new directory"))
}
