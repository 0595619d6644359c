//! `doctor`.
use crate::config::Config;
use crate::error::Result;
use crate::signal::Cancel;

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
pub struct DoctorArgs {
    /// The bucket that backups go to, to test its permissions.
    #[arg(long)]
    pub bucket: Option<String>,
}

/// Runs it.
///
/// # Errors
/// `Precondition` when a line fails.
pub async fn run(args: &DoctorArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let _ = (args, config, json, cancel);
    todo!("doctor")
}
