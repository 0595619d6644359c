//! `highwater`: the operator's command. It reads a deployment and asks its functions and machines for what is to be done;
//! it writes files. Only `catalog rebuild --apply` writes to the catalog; nothing here writes to the bucket.

mod audit;
mod backup;
mod backups;
mod catalog;
mod certificate;
mod completions;
mod cost;
mod decide;
mod deployment;
mod drill;
mod error;
mod fetch;
mod follow;
mod next_backup;
mod output;
mod plan;
mod promotion;
mod prune;
mod show;
mod status;
mod write_approval;

use crate::deployment::Context;
use crate::error::{Error, Result};
use clap::{Parser, Subcommand};
use highwater_core::Failure;
use std::process::ExitCode;

/// What `--version` says: the release and its commit, as `make package` names them.
const VERSION: &str = match option_env!("HIGHWATER_VERSION") {
    Some(release) => release,
    None => concat!(env!("CARGO_PKG_VERSION"), " (not a release)"),
};

/// Backups of MySQL and MariaDB with proven restores.
///
/// The deployment is found by its name (--deployment, or HIGHWATER_DEPLOYMENT, else `highwater`) with your AWS credentials and
/// region. Verbs that take --bucket, --table or --url work without a deployment when these are given.
#[derive(Debug, Parser)]
#[command(name = "highwater", version = VERSION, after_long_help = after_help())]
struct Cli {
    /// One JSON value on standard output instead of text; progress as JSON lines on standard error.
    #[arg(long, global = true)]
    json: bool,
    /// The deployment's name. Also read from HIGHWATER_DEPLOYMENT; `highwater` where neither is given.
    #[arg(long, global = true, value_name = "NAME")]
    deployment: Option<String>,
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// How every cluster is: restore points, what is proven, restore times, and what needs a person. Exit 3 when something does.
    Status(status::StatusArgs),
    /// List the backups: of the catalog, or with --bucket of the bucket alone.
    Backups(backups::BackupsArgs),
    /// Show everything known of one backup.
    Show(show::ShowArgs),
    /// Take a backup now.
    #[command(subcommand)]
    Backup(backup::BackupCommand),
    /// Prove a restore point: start a drill and follow it to its verdict.
    Drill(drill::DrillArgs),
    /// Ask for a promotion: the restore point is drilled, then another person has to approve.
    Restore(promotion::RestoreArgs),
    /// Follow a backup, drill or promotion that runs, by its id.
    Follow(follow::FollowArgs),
    /// List the requests for promotions, and what they ask.
    Approvals(decide::ApprovalsArgs),
    /// Approve somebody else's request.
    Approve(decide::ApproveArgs),
    /// Deny a request, or withdraw one's own.
    Deny(decide::DenyArgs),
    /// Verify or show the certificate of a passed drill: the newest one's, a drill's, or a file's (offline).
    #[command(subcommand)]
    Certificate(certificate::CertificateCommand),
    /// Restore a point to a directory of this machine.
    Fetch(fetch::FetchArgs),
    /// Show what retention keeps and deletes, and why.
    Prune(prune::PruneArgs),
    /// Compare the catalog with the bucket, or rebuild it from the manifests.
    #[command(subcommand)]
    Catalog(catalog::CatalogCommand),
    /// Estimate what backups, drills and a month cost.
    Cost(cost::CostArgs),
    /// Look for every broken invariant in the bucket alone. Exit 14 when one is found.
    Audit(audit::AuditArgs),
    /// Decide the next backup and write its request for `highwater-host backup`, where no deployment does it.
    NextBackup(next_backup::NextBackupArgs),
    /// Make a restore plan for `highwater-host restore`, `drill` and `promote`.
    Plan(plan::PlanArgs),
    /// Write the approval that `highwater-host promote` asks for, where no deployment does it.
    WriteApproval(write_approval::WriteApprovalArgs),
    /// Print a shell's completions.
    Completions(completions::CompletionsArgs),
}

/// The exit code of `status` when a cluster needs a person.
const NEEDS_PERSON: u8 = 3;
/// The exit code of whoever stopped following.
const STOPPED_FOLLOWING: u8 = 130;

fn after_help() -> String {
    format!(
        "First look:\n  highwater status\n  highwater backups --cluster orders\n  highwater show 20261122T020000Z-full-4f7c --cluster orders\n\n{}\n\
         \x20   {NEEDS_PERSON}  status: a cluster needs a person\n  {STOPPED_FOLLOWING}  Ctrl-C: what was followed goes on\n",
        highwater_core::failure::exit_code_help().trim_end()
    )
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let context = Context::new(cli.json, cli.deployment);
    let outcome = match tokio::runtime::Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(dispatch(&cli.command, &context)),
        Err(e) => Err(Error::new(Failure::Resources, format!("start the runtime: {e}"))),
    };
    match outcome {
        Ok(code) => code,
        Err(error) => report(&error, cli.json),
    }
}

async fn dispatch(command: &Command, cx: &Context) -> Result<ExitCode> {
    let done = match command {
        Command::Status(args) => return Box::pin(status::run(args, cx)).await,
        Command::Backups(args) => Box::pin(backups::run(args, cx)).await,
        Command::Show(args) => Box::pin(show::run(args, cx)).await,
        Command::Backup(command) => Box::pin(backup::run(command, cx)).await,
        Command::Drill(args) => Box::pin(drill::run(args, cx)).await,
        Command::Restore(args) => Box::pin(promotion::run(args, cx)).await,
        Command::Follow(args) => Box::pin(follow::run(args, cx)).await,
        Command::Approvals(args) => Box::pin(decide::approvals(args, cx)).await,
        Command::Approve(args) => Box::pin(decide::approve(args, cx)).await,
        Command::Deny(args) => Box::pin(decide::deny(args, cx)).await,
        Command::Certificate(command) => Box::pin(certificate::run(command, cx)).await,
        Command::Fetch(args) => Box::pin(fetch::run(args, cx)).await,
        Command::Prune(args) => Box::pin(prune::run(args, cx)).await,
        Command::Catalog(command) => Box::pin(catalog::run(command, cx)).await,
        Command::Cost(args) => Box::pin(cost::run(args, cx)).await,
        Command::Audit(args) => Box::pin(audit::run(args, cx)).await,
        Command::NextBackup(args) => Box::pin(next_backup::run(args, cx)).await,
        Command::Plan(args) => Box::pin(plan::run(args, cx)).await,
        Command::WriteApproval(args) => write_approval::run(args, cx.json),
        Command::Completions(args) => completions::run(args, cx.json),
    };
    done.map(|()| ExitCode::SUCCESS)
}

/// Says once what went wrong and what to do, and gives the exit code. With `--json`, standard error is a JSON line, as the helper's.
#[expect(clippy::print_stderr, reason = "this is where a command's error is shown")]
fn report(error: &Error, json: bool) -> ExitCode {
    let Error { failure, message, hint, shown, exit_code } = error;
    let code = exit_code.unwrap_or_else(|| failure.exit_code());
    if json && !shown {
        let body = serde_json::json!({"error": failure, "message": message, "hint": hint, "retry": failure.retry(), "exit_code": code});
        println!("{body}");
    }
    if json {
        eprintln!("{}", serde_json::json!({"level": "ERROR", "failure": failure, "message": message, "hint": hint}));
        return ExitCode::from(code);
    }
    eprintln!("highwater: {failure}: {message}");
    if let Some(hint) = hint {
        eprintln!("hint: {hint}");
    }
    ExitCode::from(code)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    /// Every verb's help, the nested ones behind their parents.
    fn helps(command: &mut clap::Command, path: &str, into: &mut String) {
        into.push_str(&format!("=== {path}\n{}\n", command.render_long_help()));
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            helps(sub, &path, into);
        }
    }

    #[test]
    fn help_teaches() {
        let mut command = Cli::command().term_width(120);
        command.build();
        let mut text = String::new();
        helps(&mut command, "highwater", &mut text);
        insta::assert_snapshot!("help", text);
    }

    /// The examples of a help: what is typed, without comments.
    fn examples(help: &str) -> Vec<String> {
        let joined = help.replace("\\\n", " ");
        let lines = joined.lines().filter(|line| line.starts_with("  highwater "));
        lines.map(|line| line.split(" #").next().unwrap().split(" > ").next().unwrap().trim().to_owned()).collect()
    }

    /// As a shell splits it, as far as the examples need it.
    fn words(typed: &str) -> Vec<String> {
        let parts = typed.split('"').enumerate();
        let quoted = |(n, part): (usize, &str)| match n % 2 {
            0 => part.split_whitespace().map(str::to_owned).collect::<Vec<_>>(),
            _ => vec![part.to_owned()],
        };
        parts.flat_map(quoted).collect()
    }

    /// Of this command and all below it: `--json` is known, help has examples of this very command, and they can be typed.
    fn walk(command: &mut clap::Command, path: &str, walked: &mut Vec<String>) {
        let help = command.render_long_help().to_string();
        let examples = examples(&help);
        assert!(examples.iter().any(|typed| typed.starts_with(path)), "{path} has no example:\n{help}");
        assert!(command.get_arguments().any(|arg| arg.get_id() == "json"), "{path} knows no --json");
        for typed in examples {
            let typed = typed.replace("SHA256", &"0".repeat(64));
            let parsed = Cli::try_parse_from(words(&typed));
            assert!(parsed.is_ok(), "{typed}: {}", parsed.err().unwrap());
        }
        walked.push(path.to_owned());
        for sub in command.get_subcommands_mut().filter(|sub| sub.get_name() != "help") {
            let path = format!("{path} {}", sub.get_name());
            walk(sub, &path, walked);
        }
    }

    #[test]
    fn every_verb_takes_json_and_shows_examples_that_can_be_typed() {
        // Wide enough that no example is broken.
        let mut command = Cli::command().term_width(1000);
        command.build();
        let mut walked = Vec::new();
        walk(&mut command, "highwater", &mut walked);
        let verbs = [
            "status",
            "backups",
            "show",
            "backup now",
            "drill",
            "restore",
            "follow",
            "approvals",
            "approve",
            "deny",
            "certificate show",
            "certificate verify",
            "fetch",
            "prune",
            "catalog rebuild",
            "catalog audit",
            "cost",
            "completions",
        ];
        for verb in verbs {
            assert!(walked.contains(&format!("highwater {verb}")), "there is no {verb}: {walked:?}");
        }
    }
}
