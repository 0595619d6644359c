//! `backup now`: asks the function that the schedule asks, so that the same rules hold, and follows the backup to its commit.

use crate::deployment::{Context, Deployment, OfCluster};
use crate::error::{Error, Result};
use crate::follow::{Followed, Seen, Step, Usual, unknown, until_ended};
use crate::output::{bytes, show};
use highwater_aws::catalog::backups::{BackupRecord, State};
use highwater_aws::lambda::{Lambda, Said};
use highwater_core::status::lasting;
use highwater_core::{BackupId, ClusterId, Failure};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};

/// What to do about backups.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  highwater backup now --cluster orders")]
pub(crate) enum BackupCommand {
    /// Start a backup and follow it until it is committed or has failed.
    Now(NowArgs),
}

/// Arguments of `backup now`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater backup now --cluster orders\n  highwater backup now --cluster orders --full\n\nFull or incremental is decided as for the schedule; the reason is shown."
)]
pub(crate) struct NowArgs {
    #[command(flatten)]
    of: OfCluster,
    /// A full in any case.
    #[arg(long)]
    full: bool,
    /// Start it, and do not wait for its end.
    #[arg(long)]
    no_wait: bool,
}

/// How many backups are looked at for how long one usually takes.
const LOOKED_AT: usize = 20;

pub(crate) async fn run(BackupCommand::Now(args): &BackupCommand, cx: &Context) -> Result<()> {
    let (deployment, config) = args.of.find(cx).await?;
    let cluster = &config.cluster;
    // Of this very call: the client's retries begin one backup.
    let once = format!("by hand {} {:016x}", Timestamp::now(), RandomState::new().build_hasher().finish());
    let mut event = json!({"cluster": cluster, "once": once});
    if args.full {
        event["force"] = json!("full");
    }
    let answer = match Lambda::new(&deployment.sdk).ask(&deployment.of.start_backup, &event).await? {
        Said::Answer(answer) => answer,
        Said::Error { name, message } => return Err(refused(&name, &message, cluster)),
    };
    let text = |key: &str| answer[key].as_str().unwrap_or_default();
    let backup_id: BackupId = match text("outcome") {
        "waits" => {
            let message = format!("promotion {} has the cluster: no backup was started", text("promotion"));
            return Err(Error::new(Failure::Busy, message).hint(format!("highwater follow {} --cluster {cluster}", text("promotion"))));
        }
        _ => text("backup_id").parse().map_err(|_| Error::new(Failure::Document, format!("start-backup answered {answer}")))?,
    };
    if args.no_wait {
        let reason = if answer["outcome"] == "running" { "it runs already".to_owned() } else { text("reason").to_owned() };
        show(cx.json, &answer, &format!("{backup_id}: {reason}\nhighwater follow {backup_id} --cluster {cluster}\n"));
        return Ok(());
    }
    follow(&deployment, cluster, &backup_id, cx).await
}

fn refused(name: &str, message: &str, cluster: &ClusterId) -> Error {
    match name {
        "LeaseHeld" => Error::new(Failure::Busy, message).hint(format!("highwater status --cluster {cluster}")),
        "Transient" => Error::new(Failure::Storage, message).hint("run it again"),
        "BadInput" => Error::new(Failure::Document, message),
        _ => Error::new(Failure::Precondition, message).hint("RUNBOOK: function-errors"),
    }
}

/// Follows a backup to its end, and says how it ended.
pub(crate) async fn follow(deployment: &Deployment, cluster: &ClusterId, id: &BackupId, cx: &Context) -> Result<()> {
    let catalog = deployment.catalog();
    let recent = catalog.recent_backups(cluster, LOOKED_AT).await?;
    let seconds = recent.iter().filter(|r| r.backup_id.kind() == id.kind()).filter_map(duration);
    let followed = Followed { what: "backup", id: id.to_string(), cluster, url: None, began: id.requested_at() };
    let usual = Usual::of(followed.began, seconds);
    let record = until_ended(&followed, cx, async || {
        let record = catalog.backup(cluster, id).await?.ok_or_else(|| unknown("backup", id, cluster))?;
        Ok(match record.state.is_unfinished() {
            true => Seen::Runs(Step { says: record.state.name().to_owned(), usual }),
            false => Seen::Ended(record),
        })
    })
    .await?;
    ended(&record, cx)
}

/// From the asking to the commit, seconds.
fn duration(record: &BackupRecord) -> Option<i64> {
    match (&record.state, &record.asked) {
        (State::Committed(committed), Some(asked)) => Some(committed.committed_at.duration_since(asked.at).as_secs()),
        _ => None,
    }
}

fn ended(record: &BackupRecord, cx: &Context) -> Result<()> {
    let (id, cluster) = (&record.backup_id, &record.cluster);
    let reason = record.asked.as_ref().map(|asked| asked.reason.clone());
    let mut value = json!({"cluster": cluster, "backup_id": id, "kind": id.kind(), "state": record.state.name(), "reason": reason});
    match &record.state {
        State::Failed { failure, message, .. } => {
            (value["failure"], value["message"]) = (json!(failure), json!(message));
            show(cx.json, &value, "");
            Err(Error::new(*failure, format!("backup {id} of {cluster} failed: {message}"))
                .hint(format!("highwater show {id} --cluster {cluster}; RUNBOOK: backups-failed"))
                .already_shown())
        }
        _ => {
            let manifest = record.stored()?.map(|stored| stored.manifest);
            let details: Option<(Value, String)> = manifest.map(|m| {
                let took = m.finished_at.duration_since(m.started_at).as_secs();
                let text = format!("{} restored, {} stored, {}", bytes(m.raw_bytes), bytes(m.stored_bytes), lasting(took));
                (
                    json!({"finished_at": m.finished_at, "raw_bytes": m.raw_bytes, "stored_bytes": m.stored_bytes, "last_lsn": m.last_lsn}),
                    text,
                )
            });
            value["committed"] = json!(details.as_ref().map(|(value, _)| value));
            let details = details.map_or_else(String::new, |(_, text)| format!(": {text}"));
            let because = reason.map_or_else(String::new, |reason| format!("because {reason}\n"));
            show(cx.json, &value, &format!("{id} of {cluster} is {}{details}\n{because}", record.state.name()));
            Ok(())
        }
    }
}
