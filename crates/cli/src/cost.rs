//! `cost`: estimates by the deployment's price table.

use crate::deployment::Context;
use crate::error::Result;
use crate::output::{show, table};
use highwater_aws::cost::month_use;
use highwater_core::ClusterId;
use highwater_core::cost::{CostConfig, Estimate, Month, month};
use jiff::Timestamp;
use serde_json::json;

/// Arguments of `cost`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater cost\n  highwater cost --cluster orders --json\n\n\
    A month is what is kept now, stored for a month, and the backups and drills of the last thirty days. Prices are `cost.prices` of\n\
    the configuration: examples until you write yours. What has no price is named and not counted.")]
pub(crate) struct CostArgs {
    /// Only this cluster.
    #[arg(long)]
    cluster: Option<ClusterId>,
}

pub(crate) async fn run(args: &CostArgs, cx: &Context) -> Result<()> {
    let deployment = cx.deployment().await?;
    let cost = &deployment.of.cost;
    let clusters: Vec<ClusterId> = match &args.cluster {
        Some(cluster) => vec![deployment.config(cluster).await?.cluster],
        None => deployment.configs().await?.into_iter().map(|c| Ok(c?.cluster)).collect::<Result<_>>()?,
    };
    let (catalog, now, mut months) = (deployment.catalog(), Timestamp::now(), Vec::new());
    for cluster in clusters {
        let used = month_use(&catalog, &cluster, now).await?;
        months.push((cluster, month(&cost.prices, &used)));
    }
    let fixed = args.cluster.is_none().then(|| Estimate::fixed(&cost.prices));
    let total = months.iter().map(|(_, month)| month.total.clone()).chain(fixed.clone()).fold(Estimate::default(), Estimate::and);
    let value = json!({
        "deployment": deployment.of.deployment, "at": now, "currency": cost.prices.currency, "prices": cost.prices,
        "cap_per_month": cost.cap_per_month, "month": total, "fixed": fixed,
        "clusters": months.iter().map(|(cluster, month)| json!({"cluster": cluster, "month": month})).collect::<Vec<_>>(),
    });
    show(cx.json, &value, &text(&months, &total, cost));
    Ok(())
}

fn text(months: &[(ClusterId, Month)], total: &Estimate, cost: &CostConfig) -> String {
    let currency = &cost.prices.currency;
    let money = |amount: f64| match amount {
        a if a > 0.0 && a < 0.01 => format!("{a:.5}"),
        a => format!("{a:.2}"),
    };
    let or_none = |amount: Option<f64>| amount.map_or("-".to_owned(), money);
    let rows: Vec<_> = months
        .iter()
        .map(|(cluster, month)| {
            let counted = |n: usize, each: Option<f64>| format!("{n} × {}", or_none(each));
            vec![
                cluster.to_string(),
                money(month.total.amount),
                format!("{:.1} GB", month.protected_gb),
                or_none(month.per_protected_gb),
                counted(month.backups, month.per_backup),
                counted(month.drills, month.per_drill),
            ]
        })
        .collect();
    let mut text = table(&["cluster", &format!("{currency} a month"), "protected", "for each GB", "backups", "drills"], &rows);
    let lines: Vec<_> = total
        .lines
        .iter()
        .map(|l| vec![l.what.to_owned(), format!("{:.2}", l.quantity), l.unit.to_owned(), l.amount.map_or("no price".to_owned(), money)])
        .collect();
    text.push('\n');
    text.push_str(&table(&["for", "quantity", "of", currency], &lines));
    let cap = match cost.cap_per_month {
        Some(cap) if total.amount > cap => format!("; OVER the cap of {}", money(cap)),
        Some(cap) => format!("; the cap is {}", money(cap)),
        None => String::new(),
    };
    text.push_str(&format!("\nestimated: {} {currency} a month{cap}\nprices: {}\n", money(total.amount), cost.prices.source));
    text.extend(total.unpriced.iter().map(|why| format!("not counted: {why}\n")));
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use highwater_core::Document;
    use highwater_core::cost::{BackupUse, DrillUse, InstanceUse, MonthUse};
    use highwater_core::deployment::DeploymentV1;

    #[test]
    fn a_month_by_cluster_and_by_what_is_paid_for() {
        let instance = |name: &str| InstanceUse { instance_type: Some(name.into()), volume_gib: 100, seconds: 1800.0 };
        let drill = |name: &str| DrillUse { instance: Some(instance(name)), fetched_bytes: 50 << 30 };
        let sample = include_bytes!("../../../tests/fixtures/v1/deployment.json");
        let prices = DeploymentV1::parse(sample).unwrap().cost.prices;
        let cost = CostConfig { cap_per_month: Some(10.0), prices };
        let backups = vec![BackupUse { stored_bytes: 1 << 30 }; 720];
        let used =
            MonthUse { kept_bytes: 300 << 30, protected_bytes: 100 << 30, backups, drills: vec![drill("m7i.large"), drill("x9.metal")] };
        let months =
            [("orders".parse().unwrap(), month(&cost.prices, &used)), ("new".parse().unwrap(), month(&cost.prices, &MonthUse::default()))];
        let total = months.iter().map(|(_, m): &(ClusterId, Month)| m.total.clone()).fold(Estimate::fixed(&cost.prices), Estimate::and);
        insta::assert_snapshot!("cost", text(&months, &total, &cost));
    }
}
