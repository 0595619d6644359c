//! `backup`.
use crate::config::Config;
use crate::error::Result;
use crate::signal::Cancel;
use highwater_core::Sha256;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// The request: a file, or s3://bucket/key with --sha256.
    #[arg(long)]
    pub request: String,
    /// SHA-256 of the request; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// The most MiB read from the tool a second; overrides the configuration.
    #[arg(long, value_name = "MIB_PER_S")]
    pub max_rate: Option<u32>,
}

/// Runs it.
///
/// # Errors
/// Every class except those of restores and promotions.
pub async fn run(args: &BackupArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let _ = (args, config, json, cancel);
    todo!("backup")
}
