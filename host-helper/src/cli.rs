//! The command line of `highwater-host`, and the one place that turns a result into output and an exit code.

use crate::config::{Config, DEFAULT_PATH};
use crate::error::{Context, Error, Result};
use crate::signal::Cancel;
use crate::{backup, doctor, drill, promote, restore, small};
use clap::{Parser, Subcommand};
use highwater_aws::s3::Bucket;
use highwater_core::{Document, Failure, Sha256};
use std::io::IsTerminal;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

/// What `--version` says: the release and its commit, as `make package` names them.
pub const VERSION: &str = match option_env!("HIGHWATER_VERSION") {
    Some(release) => release,
    None => concat!(env!("CARGO_PKG_VERSION"), " (not a release)"),
};

/// Backs up, restores, drills and promotes the MySQL or MariaDB server on this host.
#[derive(Debug, Parser)]
#[command(name = "highwater-host", version = VERSION, after_long_help = highwater_core::failure::exit_code_help())]
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

/// The whole program. It stands here because an `async fn` is compiled where it is first polled: the binary is only linked.
pub fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(cli)).into(),
        Err(error) => could_not_start(error, cli.json).into(),
    }
}

/// Logs go to standard error: JSON lines, or lines for a person at a terminal. `RUST_LOG` chooses more or less.
fn start_log(json: bool) {
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,highwater_host=info,highwater_aws=info"));
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    if json || !terminal { log.json().flatten_event(true).init() } else { log.with_target(false).init() }
}

/// Runs one command and returns the process's exit code.
async fn run(cli: Cli) -> u8 {
    match dispatch(&cli).await {
        Ok(()) => 0,
        Err(error) => report(&error, cli.json),
    }
}

async fn dispatch(cli: &Cli) -> Result<()> {
    let cancel = Cancel::on_signals()?;
    let config = Config::load(&cli.config)?;
    crate::shortage::check_limits()?;
    match &cli.command {
        Command::Doctor(args) => doctor::run(args, &config, cli.json, &cancel).await,
        Command::Backup(args) => backup::run(args, &config, cli.json, &cancel).await,
        Command::Restore(args) => restore::run(args, &config, cli.json, &cancel).await,
        Command::Drill(args) => drill::run(args, &config, cli.json, &cancel).await,
        Command::Promote(args) => promote::run(args, &config, cli.json, &cancel).await,
        Command::Rollback(args) => promote::run_rollback(args, &config, cli.json, &cancel).await,
    }
}

/// What is left to say when nothing could be started, not even this program's own threads: the exit code.
fn could_not_start(error: std::io::Error, json: bool) -> u8 {
    let started: Result<()> = Err(error).context(Failure::Resources, || "start the helper's threads".to_owned());
    started.map_or_else(|error| report(&error, json), |()| 0)
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
        println!("{}", with_promotion(body, error));
    }
    code
}

/// SSM keeps 24,000 characters of what a command wrote, and cut JSON says nothing: the journal is left out before that.
const SSM_KEEPS: usize = 24_000;

fn with_promotion(mut body: serde_json::Value, error: &Error) -> String {
    let without = body.to_string();
    let Some(promotion) = &error.promotion else { return without };
    body["promotion"] = serde_json::json!(promotion);
    let with = body.to_string();
    if with.len() < SSM_KEEPS { with } else { without }
}
