//! `promote` and `rollback`.
use crate::config::Config;
use crate::error::Result;
use crate::signal::Cancel;
use highwater_core::Sha256;

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
    #[arg(long, required_unless_present = "resume")]
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
    /// Finish or undo a promotion that was cut off; nothing else is needed.
    #[arg(long, conflicts_with_all = ["plan", "approval", "report"])]
    pub resume: bool,
}

/// Arguments of `rollback`.
#[derive(Debug, clap::Args)]
pub struct RollbackArgs {}

/// Runs `promote`.
///
/// # Errors
/// `Approval`, `RolledBack`, `Stuck`, …
pub async fn run(args: &PromoteArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let _ = (args, config, json, cancel);
    todo!("promote")
}

/// Runs `rollback`.
///
/// # Errors
/// `Stuck`, …
pub async fn run_rollback(args: &RollbackArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let _ = (args, config, json, cancel);
    todo!("promote")
}
