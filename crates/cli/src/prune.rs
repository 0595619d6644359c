//! `prune --dry-run`: what retention would do. Only the function `prune` may delete; the bucket refuses everyone else.

use crate::catalog::CatalogArgs;
use crate::deployment::Context;
use crate::error::Result;
use crate::output::show;
use highwater_aws::prune::decide;
use highwater_aws::prune::report::{Decided, List};
use highwater_core::cluster::KeepConfig;
use jiff::Timestamp;
use serde_json::json;

/// Arguments of `prune`. The keep rules are the configuration's; try others with the options.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater prune --dry-run --cluster orders\n  highwater prune --dry-run --cluster orders --daily 3 --monthly 0"
)]
pub(crate) struct PruneArgs {
    #[command(flatten)]
    catalog: CatalogArgs,
    /// Required: this command never deletes. To delete now, invoke the function `prune` with {"cluster": "<cluster>"}.
    #[arg(long, required = true)]
    dry_run: bool,
    /// Keep so many of the newest chains. Default: the configuration's; without a deployment 2.
    #[arg(long)]
    chains: Option<u32>,
    /// Keep the newest restore point of so many days that have one (UTC). Default: the configuration's, or 7.
    #[arg(long)]
    daily: Option<u32>,
    /// Of so many ISO weeks. Default: the configuration's, or 4.
    #[arg(long)]
    weekly: Option<u32>,
    /// Of so many months. Default: the configuration's, or 6.
    #[arg(long)]
    monthly: Option<u32>,
}

/// The most entries of a list that are shown.
const LISTED: usize = 5000;

pub(crate) async fn run(args: &PruneArgs, cx: &Context) -> Result<()> {
    let (catalog, bucket) = args.catalog.connect(cx).await?;
    let cluster = &args.catalog.of.cluster;
    let configured = match args.catalog.needs_deployment() {
        true => cx.deployment().await?.config(cluster).await?.keep,
        false => KeepConfig { chains: 2, daily: 7, weekly: 4, monthly: 6 },
    };
    let keep = KeepConfig {
        chains: args.chains.unwrap_or(configured.chains),
        daily: args.daily.unwrap_or(configured.daily),
        weekly: args.weekly.unwrap_or(configured.weekly),
        monthly: args.monthly.unwrap_or(configured.monthly),
    };
    let decision = decide(&catalog, &bucket, cluster, &keep, Timestamp::now()).await?;
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
    show(cx.json, &json!(decided), &text);
    Ok(())
}

fn section(what: &str, list: &List) -> String {
    let lines = list.backups.iter().map(|entry| format!("  {}: {}\n", entry.backup_id, entry.why.join("; ")));
    format!("{} {what}\n", list.count) + &lines.collect::<String>()
}
