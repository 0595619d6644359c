//! Metrics: one line of CloudWatch's embedded metric format on stdout, which Lambda's log carries to CloudWatch.

use highwater_core::ClusterId;
use jiff::Timestamp;
use serde_json::{Value, json};

/// Namespace of every metric.
pub const NAMESPACE: &str = "Highwater";

/// A measured value: name and CloudWatch's unit.
pub type Metric = (&'static str, &'static str, f64);

/// Writes metrics of a deployment, or of one of its clusters.
#[allow(clippy::print_stdout)] // The format's transport is the log.
pub fn emit(deployment: &str, cluster: Option<&ClusterId>, metrics: &[Metric]) {
    println!("{}", line(deployment, cluster, metrics, Timestamp::now()));
}

/// The line. Source: CloudWatch, "Embedded metric format specification".
fn line(deployment: &str, cluster: Option<&ClusterId>, metrics: &[Metric], now: Timestamp) -> Value {
    let mut dimensions = vec!["deployment"];
    let mut line = json!({"deployment": deployment});
    if let Some(cluster) = cluster {
        dimensions.push("cluster");
        line["cluster"] = json!(cluster);
    }
    let defined: Vec<_> = metrics.iter().map(|(name, unit, _)| json!({"Name": name, "Unit": unit})).collect();
    line["_aws"] = json!({
        "Timestamp": now.as_millisecond(),
        "CloudWatchMetrics": [{"Namespace": NAMESPACE, "Dimensions": [dimensions], "Metrics": defined}],
    });
    for (name, _, value) in metrics {
        line[*name] = json!(value);
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_names_its_dimensions_and_carries_each_value() {
        let cluster = "orders".parse().unwrap();
        let line = line("highwater", Some(&cluster), &[("BackupSeconds", "Seconds", 3.5)], "2026-11-22T02:00:00Z".parse().unwrap());
        assert_eq!(line["_aws"]["CloudWatchMetrics"][0]["Dimensions"], json!([["deployment", "cluster"]]));
        assert_eq!((&line["deployment"], &line["cluster"], &line["BackupSeconds"]), (&json!("highwater"), &json!("orders"), &json!(3.5)));
        assert_eq!(line["_aws"]["Timestamp"], json!(1_795_312_800_000_i64));
    }
}
