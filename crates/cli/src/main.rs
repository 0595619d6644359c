//! `highwater`: the operator's command. It reads the bucket and writes files; it changes nothing in the bucket. Only `catalog
//! rebuild --apply` writes to the catalog.

mod audit;
mod backups;
mod catalog;
mod certificate;
mod decide;
mod error;
mod next_backup;
mod output;
mod plan;
mod prune;
mod write_approval;

use crate::error::{Error, Result};
use clap::{Args, Parser, Subcommand};
use highwater_aws::s3::Bucket;
use highwater_core::{ClusterId, Failure};
use std::process::ExitCode;

/// What `--version` says: the release and its commit, as `make package` names them.
const VERSION: &str = match option_env!("HIGHWATER_VERSION") {
    Some(release) => release,
    None => concat!(env!("CARGO_PKG_VERSION"), " (not a release)"),
};

/// Backups of MySQL and MariaDB with proven restores: decide, plan, list, audit, approve.
#[derive(Debug, Parser)]
#[command(name = "highwater", version = VERSION, after_long_help = highwater_core::failure::exit_code_help())]
struct Cli {
    /// One JSON value on standard output instead of text.
    #[arg(long, global = true)]
    json: bool,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Decide the next backup and write its request for `highwater-host backup`.
    NextBackup(next_backup::NextBackupArgs),
    /// Make a restore plan for `highwater-host restore`, `drill` and `promote`.
    Plan(plan::PlanArgs),
    /// List the committed backups, and what is in the bucket but not committed.
    Backups(backups::BackupsArgs),
    /// Look for every broken invariant: chains, and every object of every backup. Exit 14 when one is found.
    Audit(audit::AuditArgs),
    /// Compare the catalog with the bucket, or rebuild it from the manifests.
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// Show what retention keeps and deletes, and why.
    Prune(prune::PruneArgs),
    /// Ask for a promotion: the restore point is drilled, then another person has to approve.
    Restore(decide::RestoreArgs),
    /// List the requests for promotions, and what they ask.
    Approvals(decide::ApprovalsArgs),
    /// Approve somebody else's request.
    Approve(decide::ApproveArgs),
    /// Deny a request, or withdraw one's own.
    Deny(decide::DenyArgs),
    /// Write the approval that `highwater-host promote` asks for, where no deployment does it.
    WriteApproval(write_approval::WriteApprovalArgs),
    /// Verify or show the certificate of a passed drill; offline.
    #[command(subcommand)]
    Certificate(certificate::CertificateCommand),
}

/// Which cluster, and where its backups are.
#[derive(Debug, Args)]
struct ClusterArgs {
    /// The bucket that holds the backups.
    #[arg(long)]
    bucket: String,
    /// The cluster.
    #[arg(long)]
    cluster: ClusterId,
}

impl ClusterArgs {
    async fn connect(&self) -> Bucket {
        Bucket::connect(&self.bucket).await
    }
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(dispatch(&cli)),
        Err(e) => Err(Error::new(Failure::Resources, format!("start the runtime: {e}"))),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => report(&error, cli.json),
    }
}

async fn dispatch(cli: &Cli) -> Result<()> {
    match &cli.command {
        Command::NextBackup(args) => next_backup::run(args, cli.json).await,
        Command::Plan(args) => plan::run(args, cli.json).await,
        Command::Backups(args) => backups::run(args, cli.json).await,
        Command::Audit(args) => audit::run(args, cli.json).await,
        Command::Catalog(command) => catalog::run(command, cli.json).await,
        Command::Prune(args) => prune::run(args, cli.json).await,
        Command::Restore(args) => decide::restore(args, cli.json).await,
        Command::Approvals(args) => decide::approvals(args, cli.json).await,
        Command::Approve(args) => decide::approve(args, cli.json).await,
        Command::Deny(args) => decide::deny(args, cli.json).await,
        Command::WriteApproval(args) => write_approval::run(args, cli.json),
        Command::Certificate(command) => certificate::run(command, cli.json),
    }
}

/// Says once what went wrong and what to do, and gives the exit code. With `--json`, standard error is a JSON line, as the helper's.
#[expect(clippy::print_stderr, reason = "this is where a command's error is shown")]
fn report(error: &Error, json: bool) -> ExitCode {
    let Error { failure, message, hint, shown } = error;
    if json && !shown {
        let body = serde_json::json!({
            "error": failure, "message": message, "hint": hint, "retry": failure.retry(), "exit_code": failure.exit_code(),
        });
        println!("{body}");
    }
    if json {
        eprintln!("{}", serde_json::json!({"level": "ERROR", "failure": failure, "message": message, "hint": hint}));
        return ExitCode::from(failure.exit_code());
    }
    eprintln!("highwater: {failure}: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(failure.exit_code())
}
