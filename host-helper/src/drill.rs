//! `drill`.
use crate::config::{Config, DrillConfig, ServerConfig};
use crate::error::Result;
use crate::server::Server;
use crate::signal::Cancel;
use highwater_core::Sha256;
use highwater_core::plan::PlanServer;
use std::path::{Path, PathBuf};

/// Arguments of `drill`.
#[derive(Debug, clap::Args)]
pub struct DrillArgs {
    /// The plan: a file, or s3://bucket/key with --sha256.
    #[arg(long)]
    pub plan: String,
    /// SHA-256 of the plan; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// Where to restore: absent, empty, or stamped by an earlier try of the same plan. Removed afterwards.
    #[arg(long, value_name = "DIR")]
    pub work: PathBuf,
    /// Where the report goes: a file, or s3://bucket/key.
    #[arg(long)]
    pub report: String,
    /// Keep the restored data.
    #[arg(long)]
    pub keep: bool,
}

/// Runs it.
///
/// # Errors
/// `ChecksFailed`, and whatever stopped it before the checks.
pub async fn run(args: &DrillArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let _ = (args, config, json, cancel);
    todo!("drill")
}

/// A server on restored data that nobody else can reach: one socket in a private directory, no TCP, no replication,
/// no events, no binlog, no grants. Ended when dropped.
#[derive(Debug)]
pub struct IsolatedServer {
    _private: (),
}

impl IsolatedServer {
    /// Starts it and waits until it answers.
    ///
    /// # Errors
    /// `Tool` with the end of its error log; `Precondition` when no server binary of a fitting version is found; `Interrupted`.
    pub async fn start(datadir: &Path, of: &PlanServer, config: &DrillConfig, server: &ServerConfig, cancel: &Cancel) -> Result<Self> {
        let _ = (datadir, of, config, server, cancel);
        todo!("drill")
    }

    /// A new connection to it.
    ///
    /// # Errors
    /// `Server`.
    pub async fn connect(&self) -> Result<Server> {
        todo!("drill")
    }

    /// Shuts it down in order and waits for its end; kills it after a minute.
    ///
    /// # Errors
    /// `Tool` when it had to be killed or exited with an error.
    pub async fn stop(self) -> Result<()> {
        todo!("drill")
    }
}
