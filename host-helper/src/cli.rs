//! The command line of `highwater-host`, and the one place that turns a result into output and an exit code.

use crate::config::{Config, DEFAULT_PATH};
use crate::error::{Context, Error, Result};
use crate::signal::Cancel;
use crate::{backup, doctor, drill, promote, restore, small};
use clap::{Parser, Subcommand};
use highwater_aws::s3::Bucket;
use highwater_core::{Document, Failure, Sha256};
use std::path::{Path, PathBuf};

/// Backs up, restores, drills and promotes the MySQL or MariaDB server on this host.
#[derive(Debug, Parser)]
#[command(name = "highwater-host", version, after_long_help = highwater_core::failure::exit_code_help())]
pub struct Cli {
    /// The host's configuration.
    #[arg(long, global = true, default_value = DEFAULT_PATH)]
    pub config: PathBuf,
    /// JSON on standard output, JSON lines on standard error.
    #[arg(long, global = true)]
    pub json: bool,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// The commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Check everything a first backup needs; one line each, with the fix.
    Doctor(doctor::DoctorArgs),
    /// Take the backup that a request asks for.
    Backup(backup::BackupArgs),
    /// Restore a plan's data into a new directory, prepared and ready to start.
    Restore(restore::RestoreArgs),
    /// Restore a plan, start an isolated server on it, check the data, report.
    Drill(drill::DrillArgs),
    /// Replace this primary's data by a restored plan, with roll-back on any failure.
    Promote(promote::PromoteArgs),
    /// Bring back the data that the last promotion replaced.
    Rollback(promote::RollbackArgs),
}

/// Reads a document from a path or an `s3://bucket/key` URI.
///
/// # Errors
/// `Document` when it is malformed, not the pinned one, or an s3:// URI without a digest.
pub async fn load_document<D: Document>(location: &str, sha256: Option<Sha256>) -> Result<(D, Sha256)> {
    let bytes = match location.strip_prefix("s3://") {
        Some(rest) => {
            let Some((bucket, key)) = rest.split_once('/') else {
                return Err(Error::new(Failure::Document, format!("{location} names no key")));
            };
            if sha256.is_none() {
                return Err(Error::new(Failure::Document, format!("{location} is given without --sha256")));
            }
            Bucket::connect(bucket).await.get(key, None, D::MAX_BYTES as u64).await?.to_vec()
        }
        None => small::read(Path::new(location), D::MAX_BYTES as u64).context(Failure::Document, || format!("read {location}"))?,
    };
    let found = Sha256::of(&bytes);
    let parsed = match sha256 {
        Some(expected) => D::parse_pinned(&bytes, expected),
        None => D::parse(&bytes),
    };
    Ok((parsed.context(Failure::Document, || format!("read {location}"))?, found))
}

/// Runs one command and returns the process's exit code.
pub async fn run(cli: Cli) -> u8 {
    match dispatch(&cli).await {
        Ok(()) => 0,
        Err(error) => report(&error, cli.json),
    }
}

async fn dispatch(cli: &Cli) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let config = Config::load(&cli.config)?;
    match &cli.command {
        Command::Doctor(args) => doctor::run(args, &config, cli.json, &cancel).await,
        Command::Backup(args) => backup::run(args, &config, cli.json, &cancel).await,
        Command::Restore(args) => restore::run(args, &config, cli.json, &cancel).await,
        Command::Drill(args) => drill::run(args, &config, cli.json, &cancel).await,
        Command::Promote(args) => promote::run(args, &config, cli.json, &cancel).await,
        Command::Rollback(args) => promote::run_rollback(args, &config, cli.json, &cancel).await,
    }
}

/// Says once what went wrong, whether a retry helps and what to do, and gives the exit code.
fn report(error: &Error, json: bool) -> u8 {
    let advice = crate::error::retry_advice(error.failure);
    let code = error.failure.exit_code();
    tracing::error!(failure = %error.failure, exit_code = code, hint = error.hint.as_deref(), retry = advice, "{}", error.chain());
    if json {
        let body = serde_json::json!({
            "error": error.failure, "message": error.chain(), "hint": error.hint, "retry": error.failure.retry(), "exit_code": code,
        });
        println!("{body}");
    }
    code
}
