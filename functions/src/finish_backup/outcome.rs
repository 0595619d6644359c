//! How a backup without a manifest ended, from its commands.

use crate::error::FunctionError;
use highwater_aws::catalog::backups::{BackupRecord, State};
use highwater_aws::ssm::{Invocation, Ssm, comment};
use highwater_core::Failure;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// How long a record may be without a command: `start-backup` is retried for less.
const UNSENT_FOR: SignedDuration = SignedDuration::from_mins(15);

/// How it ended.
#[derive(Debug, PartialEq)]
pub(super) enum End {
    /// It has not.
    NotYet { reason: String },
    /// Without a manifest.
    Failed { failure: Failure, message: String },
}

/// Asks for every command that was sent for a backup: a lost reply may hide one that runs while the recorded one ended as
/// `Busy` because of it.
pub(super) async fn of(ssm: &Ssm, record: &BackupRecord, now: Timestamp) -> Result<End, FunctionError> {
    let Some(asked) = &record.asked else {
        return Ok(failed(Failure::Damaged, "its record names no request"));
    };
    let mut ids = ssm.commands_of(&comment(&record.cluster, &record.backup_id.to_string()), &asked.host, asked.at).await?;
    if let State::Running { command_id, .. } = &record.state
        && !ids.contains(command_id)
    {
        ids.push(command_id.clone());
    }
    let mut commands = Vec::new();
    for id in &ids {
        commands.extend(ssm.invocation(id, &asked.host.to_string()).await?);
    }
    Ok(judge(&commands, asked.at, asked.lease_expires_at, now))
}

fn judge(commands: &[Invocation], asked_at: Timestamp, lease_expires_at: Timestamp, now: Timestamp) -> End {
    let is_late = now >= lease_expires_at;
    if let Some(command) = commands.iter().find(|c| !c.has_ended()) {
        return match is_late {
            true => failed(Failure::Interrupted, &format!("the command {} is still {} after its time", command.command_id, command.status)),
            false => End::NotYet { reason: format!("the command {} is {}", command.command_id, command.status) },
        };
    }
    // Of several commands the helper runs one; the others were told that the host is busy.
    let ends: Vec<_> = commands.iter().map(end_of).collect();
    let telling = ends.iter().find(|(failure, _)| *failure != Failure::Busy).or(ends.first());
    match telling {
        Some((failure, message)) => failed(*failure, message),
        None if now.duration_since(asked_at) < UNSENT_FOR => End::NotYet { reason: "no command was sent yet".to_owned() },
        None => failed(Failure::Interrupted, "no command was sent: start-backup did not come back"),
    }
}

fn failed(failure: Failure, message: &str) -> End {
    End::Failed { failure, message: message.to_owned() }
}

/// The last line that the helper prints when it fails.
#[derive(Deserialize)]
struct HelperError {
    message: String,
    #[serde(default)]
    hint: Option<String>,
}

/// The class of a command that left no manifest, and what happened.
fn end_of(command: &Invocation) -> (Failure, String) {
    let Invocation { command_id, status, exit_code, stdout, stderr, .. } = command;
    let said = stdout.lines().rev().find_map(|line| serde_json::from_str::<HelperError>(line).ok());
    let said = match said {
        Some(HelperError { message, hint: Some(hint) }) => format!("{message}; {hint}"),
        Some(HelperError { message, hint: None }) => message,
        None => stderr.lines().last().unwrap_or_default().to_owned(),
    };
    let said = if said.is_empty() { String::new() } else { format!(": {said}") };
    match (status.as_str(), Failure::from_exit_code(*exit_code)) {
        ("Success", _) => (Failure::Damaged, format!("the command {command_id} succeeded, and no manifest is there{said}")),
        ("Failed", Some(failure)) => (failure, format!("exit code {exit_code}{said}")),
        ("Failed", None) => (Failure::Tool, format!("exit code {exit_code}, which is none of highwater-host's{said}")),
        ("ExecutionTimedOut" | "TimedOut" | "Cancelled" | "Terminated", _) => {
            (Failure::Interrupted, format!("the command {command_id} ended as {status}{said}"))
        }
        _ => (Failure::Precondition, format!("the command {command_id} did not run: {status}; look at the host's SSM agent")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn command(status: &str, exit_code: i32, stdout: &str) -> Invocation {
        Invocation {
            command_id: format!("c-{status}"),
            comment: String::new(),
            document: String::new(),
            status: status.into(),
            exit_code,
            stdout: stdout.into(),
            stderr: "first\nlast words".into(),
        }
    }

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + SignedDuration::from_mins(minute)
    }

    fn check(commands: &[Invocation], now: i64, expected: Option<(Failure, &str)>) {
        match (judge(commands, at(0), at(60), at(now)), expected) {
            (End::NotYet { .. }, None) => {}
            (End::Failed { failure, message }, Some((class, part))) if failure == class && message.contains(part) => {}
            (end, expected) => panic!("{end:?}, expected {expected:?}"),
        }
    }

    #[test]
    fn a_command_says_how_its_backup_failed() {
        let busy = r#"{"error":"Busy","message":"the host is busy","hint":null,"retry":"yes","exit_code":40}"#;
        let gap = "{\"some\":1}\n{\"error\":\"ChainBroken\",\"message\":\"a gap\",\"hint\":\"take a full\",\"exit_code\":30}\n";
        check(&[command("Failed", 30, gap)], 5, Some((Failure::ChainBroken, "exit code 30: a gap; take a full")));
        check(&[command("Failed", 1, "")], 5, Some((Failure::Tool, "last words")));
        check(&[command("Success", 0, "")], 5, Some((Failure::Damaged, "no manifest")));
        check(&[command("ExecutionTimedOut", 137, "")], 5, Some((Failure::Interrupted, "ExecutionTimedOut")));
        check(&[command("DeliveryTimedOut", -1, "")], 5, Some((Failure::Precondition, "did not run")));
        // Two commands for one backup: the one that ran decides, and as long as it runs nothing is decided.
        check(&[command("Failed", 40, busy), command("Failed", 41, "")], 5, Some((Failure::Storage, "exit code 41")));
        check(&[command("Failed", 40, busy), command("InProgress", -1, "")], 5, None);
        check(&[command("Failed", 40, busy)], 5, Some((Failure::Busy, "the host is busy")));
    }

    #[test]
    fn nothing_is_waited_for_without_an_end() {
        check(&[command("InProgress", -1, "")], 60, Some((Failure::Interrupted, "after its time")));
        check(&[], 14, None);
        check(&[], 15, Some((Failure::Interrupted, "no command was sent")));
    }
}
