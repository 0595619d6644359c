//! `next-backup`.

use crate::deployment::{ClusterArgs, Context};
use crate::error::{Error, Result};
use crate::output::{show, write_document};
use highwater_aws::manifests::read_catalog;
use highwater_core::manifest::Strategy;
use highwater_core::schedule::{Force, NextFacts, Owed, SchedulePolicy, next_backup};
use highwater_core::{Failure, Retry};
use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use std::hash::{BuildHasher, Hasher};
use std::path::PathBuf;

/// Arguments of `next-backup`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater next-backup --cluster orders --bucket my-backups --out request.json")]
pub(crate) struct NextBackupArgs {
    #[command(flatten)]
    of: ClusterArgs,
    /// What an incremental continues: the backup before it (incremental) or the full (differential).
    #[arg(long, default_value = "incremental")]
    strategy: Strategy,
    /// The most incrementals that a restore may have to apply.
    #[arg(long, default_value_t = SchedulePolicy::default().max_incrementals, value_name = "N")]
    max_incrementals: u32,
    /// Take a full when the last one is older than this, like 7d or 36h.
    #[arg(long, default_value = "7d", value_parser = duration, value_name = "AGE")]
    max_full_age: SignedDuration,
    /// Ask for a full in any case.
    #[arg(long)]
    full: bool,
    /// Ask for a full in a new incarnation: after a promotion, or when the data directory was replaced.
    #[arg(long)]
    new_incarnation: bool,
    /// The exit code of the last `highwater-host backup`, if it failed: the next one is a full then; 30 also starts a new incarnation.
    #[arg(long, value_name = "CODE")]
    last_exit_code: Option<i32>,
    /// The request is not to be started later than this after now.
    #[arg(long, default_value = "2h", value_parser = duration, value_name = "TIME")]
    valid_for: SignedDuration,
    /// The request's file; never overwritten.
    #[arg(long, value_name = "FILE")]
    out: PathBuf,
}

/// `90s`, `2h`, `7d`, `1d 12h`: days have 24 hours.
pub(crate) fn duration(text: &str) -> std::result::Result<SignedDuration, String> {
    let bad = || format!("{text:?} is not a duration: expected one above zero, like 2h or 7d");
    let span: jiff::Span = text.parse().map_err(|_| bad())?;
    let duration = span.to_duration(jiff::SpanRelativeTo::days_are_24_hours()).map_err(|_| bad())?;
    if duration > SignedDuration::ZERO { Ok(duration) } else { Err(bad()) }
}

/// Four hexadecimal digits that keep two askers of one second apart; nothing rests on their being secret.
fn nonce() -> u16 {
    let random = std::collections::hash_map::RandomState::new().build_hasher().finish();
    (random & 0xffff) as u16
}

pub(crate) async fn run(args: &NextBackupArgs, cx: &Context) -> Result<()> {
    let last_failure = args.last_exit_code.filter(|code| *code != 0).map(|code| {
        Failure::from_exit_code(code).ok_or_else(|| Error::new(Failure::Document, format!("{code} is no exit code of highwater-host")))
    });
    let last_failure = last_failure.transpose()?;
    let owed = last_failure.map(|failure| Owed::after(None, failure));
    let facts = NextFacts {
        now: Timestamp::now(),
        nonce: nonce(),
        source: None,
        tool: None,
        owed: owed.as_ref(),
        force: match (args.new_incarnation, args.full) {
            (true, _) => Force::NewIncarnation,
            (false, true) => Force::Full,
            (false, false) => Force::Nothing,
        },
        measured: &[],
    };
    let policy = SchedulePolicy {
        strategy: args.strategy,
        max_incrementals: args.max_incrementals,
        max_full_age: args.max_full_age,
        ..SchedulePolicy::default()
    };
    let bucket = args.of.connect(cx).await?;
    let catalog = read_catalog(&bucket, &args.of.cluster).await?;
    let decision = next_backup(&catalog, policy, facts);
    let request = decision.request(&catalog, bucket.name(), facts.now, args.valid_for);
    let sha256 = write_document(&args.out, &request)?;
    let parent = decision.parent.as_ref().map(|p| p.link.backup_id.to_string());
    let behind = parent.as_deref().map(|p| format!(" behind {p}")).unwrap_or_default();
    let mut text = format!(
        "{}{behind}: {}\nincarnation {}\nrequest {} (SHA-256 {sha256})\n",
        decision.backup_id,
        decision.reason,
        decision.incarnation,
        args.out.display(),
    );
    if let Some(failure) = last_failure.filter(|f| f.retry() == Retry::AfterFix) {
        text.push_str(&format!("the last attempt ended with {failure}: running it again unchanged will fail again\n"));
    }
    let mut value = json!({
        "backup_id": decision.backup_id, "kind": decision.kind, "incarnation": decision.incarnation, "parent": parent,
        "message": decision.reason.to_string(), "request": args.out, "sha256": sha256,
        "rejected": catalog.rejected().iter().map(|r| json!({"key": r.key, "rule": r.refusal.name(), "message": r.refusal.to_string()})).collect::<Vec<_>>(),
    });
    if let (Some(into), Ok(serde_json::Value::Object(reason))) = (value.as_object_mut(), serde_json::to_value(&decision.reason)) {
        into.extend(reason);
    }
    for rejected in catalog.rejected() {
        text.push_str(&format!("not in the catalog: {}: {}\n", rejected.key, rejected.refusal));
    }
    show(cx.json, &value, &text);
    Ok(())
}
