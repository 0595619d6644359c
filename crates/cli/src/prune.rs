//! `prune --dry-run`: what retention would do. Only the function `prune` may delete; the bucket refuses everyone else.

use crate::catalog::CatalogArgs;
use crate::error::Result;
use crate::output::show;
use highwater_aws::prune::decide;
use highwater_aws::prune::report::{Decided, List};
use highwater_core::cluster::KeepConfig;
use jiff::Timestamp;
use serde_json::json;

/// Arguments of `prune`. The keep rules are to be those of the deployment's configuration, or ones that you think of.
#[derive(Debug, clap::Args)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Required: this command never deletes. To delete now, invoke the function `prune` with {"cluster": "<cluster>"}.
    #[arg(long, required = true)]
    dry_run: bool,
    /// Keep so many of the newest chains.
    #[arg(long, default_value_t = 2)]
    chains: u32,
    /// Keep the newest restore point of so many days that have one (UTC).
    #[arg(long, default_value_t = 7)]
    daily: u32,
    /// Of so many ISO weeks.
    #[arg(long, default_value_t = 4)]
    weekly: u32,
    /// Of so many months.
    #[arg(long, default_value_t = 6)]
    monthly: u32,
}

/// The most entries of a list that are shown.
const LISTED: usize = 5000;

pub(crate) async fn run(args: &PruneArgs, json: bool) -> Result<()> {
    let of = &args.catalog.of;
    let keep = KeepConfig { chains: args.chains, daily: args.daily, weekly: args.weekly, monthly: args.monthly };
    let decision = decide(&args.catalog.connect().await, &of.connect().await, &of.cluster, &keep, Timestamp::now()).await?;
    let decided = Decided::of(&decision, LISTED);
    let mut text = String::new();
    for (what, list) in [
        ("kept", &decided.kept),
        ("locked", &decided.locked),
        ("to delete", &decided.deleted),
        ("remains of failed backups", &decided.remains),
    ] {
        text.push_str(&section(what, list));
    }
    if decided.later > 0 {
        text.push_str(&format!("{} more are to be deleted by later runs\n", decided.later));
    }
    text.extend(decided.unknown.iter().map(|id| format!("not in the catalog, left alone: {id}: see `highwater catalog audit`\n")));
    show(json, &json!(decided), &text);
    Ok(())
}

fn section(what: &str, list: &List) -> String {
    let lines = list.backups.iter().map(|entry| format!("  {}: {}\n", entry.backup_id, entry.why.join("; ")));
    format!("{} {what}\n", list.count) + &lines.collect::<String>()
}
