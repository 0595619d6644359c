//! `restore`.
use crate::config::Config;
use crate::config::{RestoreConfig, ServerConfig};
use crate::error::Result;
use crate::signal::Cancel;
use highwater_core::Sha256;
use highwater_core::drill::Phase;
use highwater_core::plan::RestorePlanV1;
use std::path::{Path, PathBuf};

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
    let _ = (args, config, json, cancel);
    todo!("restore")
}

/// Restores `plan` into `into`: data directory at `<into>/data`, work files beside it. Safe to run again after a kill.
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
    let _ = (plan, plan_sha256, into, config, server, cancel);
    todo!("restore")
}
