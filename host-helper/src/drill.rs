//! `drill`.
use crate::config::Config;
use crate::error::Result;
use crate::signal::Cancel;
use highwater_core::Sha256;
use std::io::{Read, Seek, SeekFrom};
use std::path::{Path, PathBuf};

mod server;

pub use server::IsolatedServer;

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

/// An error log, or the last MiB of it.
fn read_log(path: &Path) -> std::io::Result<String> {
    const MOST: u64 = 1 << 20;
    let mut file = std::fs::File::open(path)?;
    let size = file.metadata()?.len();
    file.seek(SeekFrom::Start(size.saturating_sub(MOST)))?;
    let mut bytes = Vec::new();
    file.take(MOST).read_to_end(&mut bytes)?;
    Ok(String::from_utf8_lossy(&bytes).into_owned())
}
