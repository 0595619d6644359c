//! `prune`: retention of every cluster, or of one. A dry run makes the same decision by the same code, and stops there.
//!
//! Time: a run takes most of the function's fifteen minutes at most; what it did not get to, the next one does. Clusters
//! share what is left of the time evenly, so none starves another. One that fails does not stop the others.

use crate::error::{FunctionError, Name};
use crate::metrics;
use crate::pages::Status;
use crate::serve::Common;
use highwater_aws::catalog::CatalogTable;
use highwater_aws::prune::report::Decided;
use highwater_aws::prune::{Done, PruneError, decide, prune};
use highwater_aws::ssm::Ssm;
use highwater_core::ClusterId;
use highwater_core::cluster::ClusterConfigV1;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::{Duration, Instant};

/// What the event must look like, for error messages.
pub const FORM: &str = r#"expected {}, with "dry_run": true and "cluster": "orders" at will"#;

/// How long a run begins new work: well below the function's time-out.
const BUDGET: Duration = Duration::from_secs(12 * 60);

/// The most entries of each list in the answer: of one cluster that was asked for, and of each when all are.
const LISTED: (usize, usize) = (5000, 50);

/// The event.
#[derive(Debug, Clone, PartialEq, Default, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// Only decide.
    #[serde(default)]
    pub dry_run: bool,
    /// Only this cluster.
    #[serde(default)]
    pub cluster: Option<ClusterId>,
}

/// The answer.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// As asked.
    pub dry_run: bool,
    /// A report for each cluster.
    pub clusters: Vec<Report>,
}

/// What retention means for one cluster.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// The cluster.
    pub cluster: ClusterId,
    /// The decision: the same of a dry run and of a run.
    #[serde(flatten)]
    pub decided: Decided,
    /// What a run did; nothing for a dry run.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub done: Option<Done>,
}

/// What the function has.
#[derive(Debug)]
pub struct Prune {
    common: Common,
    catalog: CatalogTable,
    ssm: Ssm,
    status: Status,
}

impl Prune {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        let (catalog, ssm) = (CatalogTable::new(common.table.clone()), Ssm::new(&common.sdk));
        Ok(Self { catalog, ssm, status: Status::new(&common)?, common })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput`; when any cluster failed, after all others are done: `Transient` if it may succeed later.
    pub async fn handle(&self, event: Value, now: Timestamp) -> Result<Answer, FunctionError> {
        let event = parse(event)?;
        let end = Instant::now() + BUDGET;
        let configs = match &event.cluster {
            Some(cluster) => vec![self.ssm.cluster(&self.common.clusters, cluster).await],
            None => self.ssm.clusters(&self.common.clusters).await?,
        };
        let listed = if event.cluster.is_some() { LISTED.0 } else { LISTED.1 };
        let (mut clusters, mut failed) = (Vec::new(), Vec::new());
        let all = configs.len();
        for (at, config) in configs.into_iter().enumerate() {
            let share = end.saturating_duration_since(Instant::now()) / u32::try_from(all - at).unwrap_or(1);
            let report = match config {
                Ok(config) => {
                    self.one(&config, event.dry_run, now, Instant::now() + share, listed).await.map_err(|e| (Some(config.cluster), e))
                }
                Err(error) => Err((None, error.into())),
            };
            match report {
                Ok(report) => clusters.push(report),
                Err((cluster, error)) => {
                    tracing::error!(cluster = cluster.map(|c| c.to_string()), name = ?error.name, "{}", error.message);
                    failed.push(error);
                }
            }
        }
        if !event.dry_run {
            self.status.changed().await;
        }
        match failed.iter().find(|e| e.name != Name::Transient).or(failed.first()) {
            None => Ok(Answer { dry_run: event.dry_run, clusters }),
            Some(worst) => {
                let messages = failed.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join("; ");
                Err(FunctionError::new(worst.name, format!("retention of {} of {all} clusters failed: {messages}", failed.len())))
            }
        }
    }

    async fn one(
        &self,
        config: &ClusterConfigV1,
        dry_run: bool,
        now: Timestamp,
        deadline: Instant,
        listed: usize,
    ) -> Result<Report, FunctionError> {
        let (catalog, bucket, cluster, keep) = (&self.catalog, &self.common.bucket, &config.cluster, &config.keep);
        let (decision, done) = match dry_run {
            true => (decide(catalog, bucket, cluster, keep, now).await?, None),
            false => {
                let (decision, done) = prune(catalog, bucket, cluster, keep, now, deadline).await?;
                let stored = decision.kept_bytes() as f64;
                let freed = done.freed_bytes as f64;
                metrics::emit(&self.common.deployment, Some(cluster), &[("KeptBytes", "Bytes", stored), ("FreedBytes", "Bytes", freed)]);
                (decision, Some(done))
            }
        };
        Ok(Report { cluster: cluster.clone(), decided: Decided::of(&decision, listed), done })
    }
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))
}

impl From<PruneError> for FunctionError {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Catalog(error) => error.into(),
            PruneError::Store(error) => error.into(),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn an_event_may_be_empty_and_a_bad_one_is_answered_with_the_accepted_form() {
        assert_eq!(parse(json!({})).unwrap(), Event::default());
        assert_eq!(parse(json!({"dry_run": true, "cluster": "orders"})).unwrap().cluster.unwrap().to_string(), "orders");
        for bad in [json!({"dryrun": true}), json!({"dry_run": "yes"}), json!({"cluster": "Orders"}), json!("orders")] {
            let error = parse(bad.clone()).unwrap_err();
            assert_eq!(error.name, Name::BadInput, "{bad}");
            assert!(error.message.ends_with(FORM), "{}", error.message);
        }
    }
}
