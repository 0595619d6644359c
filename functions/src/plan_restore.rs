//! `plan-restore`: from a cluster and a target to a restore plan. It reads, and writes nothing; twice is as good as once.

use crate::error::FunctionError;
use highwater_aws::manifests::read_catalog;
use highwater_aws::s3::Bucket;
use highwater_core::catalog::Catalog;
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::planner;
use highwater_core::{ClusterId, Document, Sha256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the event must look like, for error messages.
pub const FORM: &str =
    r#"expected {"cluster": "orders"}, with "target" at will: "latest", a backup id, "lsn:<number>" or a time like "2026-11-22T02:00:00Z""#;

/// The event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The cluster.
    pub cluster: ClusterId,
    /// What to restore.
    #[serde(default = "latest")]
    pub target: Target,
}

fn latest() -> Target {
    Target::Latest
}

/// The answer: the plan, and the exact text and digest that it must be stored under.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// SHA-256 of `document`.
    pub plan_sha256: Sha256,
    /// The plan's bytes as text: store these, not a re-serialised `plan`.
    pub document: String,
    /// The plan, for states that look into it.
    pub plan: RestorePlanV1,
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))
}

/// Plans from a catalog.
///
/// # Errors
/// As [`planner::plan_restore`].
pub fn answer(catalog: &Catalog, target: &Target, bucket: &str, now: Timestamp) -> Result<Answer, FunctionError> {
    let plan = planner::plan_restore(catalog, target, bucket, now)?;
    let document = String::from_utf8_lossy(&plan.to_bytes()).into_owned();
    Ok(Answer { plan_sha256: Sha256::of(document.as_bytes()), document, plan })
}

/// Handles one event.
///
/// # Errors
/// `Document` for a bad event or an unknown target, `Damaged` for a broken chain, and those of the store.
pub async fn handle(bucket: &Bucket, event: Value) -> Result<Answer, FunctionError> {
    let event = parse(event)?;
    let catalog = read_catalog(bucket, &event.cluster).await?;
    answer(&catalog, &event.target, bucket.name(), Timestamp::now())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Name;
    use serde_json::json;

    #[test]
    fn the_target_defaults_to_latest() {
        let event = parse(json!({"cluster": "orders"})).unwrap();
        assert_eq!((event.cluster.to_string(), event.target), ("orders".to_owned(), Target::Latest));
        for target in ["latest", "20261122T020000Z-full-4f7c", "lsn:3989635331", "2026-11-22T02:00:00Z"] {
            assert_eq!(parse(json!({"cluster": "orders", "target": target})).unwrap().target.to_string(), target);
        }
    }

    #[test]
    fn a_bad_event_is_answered_with_the_accepted_form() {
        for bad in [
            json!({}),
            json!("orders"),
            json!({"cluster": "Orders"}),
            json!({"cluster": "orders", "target": "yesterday"}),
            json!({"cluster": "orders", "target": 5}),
            json!({"cluster": "orders", "tagret": "latest"}),
        ] {
            let error = parse(bad.clone()).unwrap_err();
            assert_eq!(error.name, Name::BadInput, "{bad}");
            assert!(error.message.ends_with(FORM), "{}", error.message);
            let shown = lambda_runtime::Diagnostic::from(error);
            assert_eq!(shown.error_type, "BadInput");
        }
    }

    #[test]
    fn the_digest_is_that_of_the_document_and_the_document_is_the_plan() {
        let manifest = include_bytes!("../../tests/fixtures/v1/manifest.json");
        let (cluster, key) = {
            let parsed = highwater_core::manifest::ManifestV1::parse(manifest).unwrap();
            (parsed.cluster.clone(), parsed.key())
        };
        let stored = highwater_core::catalog::StoredManifest::parse(key, None, manifest).unwrap();
        let full = highwater_core::catalog::Found::Manifest(Box::new(stored));
        let catalog = Catalog::rebuild(cluster.clone(), [full]);
        let now = "2026-11-23T00:00:00Z".parse().unwrap();
        let planned = answer(&catalog, &Target::Latest, "backups", now).unwrap();
        assert_eq!(RestorePlanV1::parse_pinned(planned.document.as_bytes(), planned.plan_sha256).unwrap(), planned.plan);
        assert_eq!(answer(&catalog, &Target::Latest, "backups", now).unwrap(), planned, "twice gives the same");
        let none = answer(&Catalog::new(cluster), &Target::Latest, "backups", now).unwrap_err();
        assert_eq!(none.name, Name::Permanent);
    }
}
