//! `plan-restore`: from what an execution of the drill machine got to a stored plan and an open drill.
//!
//! Idempotent by the execution: the drill's id follows from it, the plan is created and never overwritten (the first stays,
//! whatever is newer by the second time), and the record is made once. What a crash leaves: a plan that no record names;
//! the next try takes it up. A drill whose objects are not what was stored is recorded too, and answered as refused: the
//! machine has `record-drill` fail it, so that people hear of it and it counts as a drill that did not pass.

use crate::drill_host::{self, PLAN_NAME};
use crate::error::{FunctionError, Name};
use crate::serve::Common;
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::drills::{DrillRecord, State};
use highwater_aws::manifests::head_objects;
use highwater_aws::s3::{Bucket, StoreErrorKind};
use highwater_aws::ssm::{ConfigError, Ssm};
use highwater_aws::table::Record;
use highwater_core::audit::{audit_catalog, objects_of};
use highwater_core::catalog::Catalog;
use highwater_core::ids::drill_prefix;
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::planner::{PlanError, plan_restore};
use highwater_core::{BackupId, ClusterId, Document, DrillId, Failure, Pinned, Sha256};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the input must look like, for error messages.
pub const FORM: &str =
    r#"expected {"cluster": "orders"}, with "target" at will: "latest", a backup id, "lsn:<number>" or a time like "2026-11-22T02:00:00Z""#;

/// The event, made by the state machine.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
struct Event {
    input: Value,
    execution: String,
    started: Timestamp,
}

/// The input of the execution: what a person, a schedule or another machine wrote.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Input {
    /// The cluster.
    pub cluster: ClusterId,
    /// What to restore.
    #[serde(default = "latest")]
    pub target: Target,
    /// Written by a machine that starts this one, so that the console links them.
    #[serde(default, rename = "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID")]
    _started_by: Option<String>,
}

fn latest() -> Target {
    Target::Latest
}

/// The answer, and what the drill machine hands to its other functions.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Drill {
    /// The drill.
    pub drill_id: DrillId,
    /// Its cluster.
    pub cluster: ClusterId,
    /// What was asked for.
    pub target: Target,
    /// The restore point that it is.
    pub backup_id: BackupId,
    /// The plan.
    pub plan: Pinned,
    /// Why nothing is to be launched for it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub refused: Option<TaskFailure>,
}

/// Why a task of the machine ended without an answer of success, as Step Functions writes an error.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
pub struct TaskFailure {
    /// Its name.
    pub error: String,
    /// What happened; of an error that has no more than a name, nothing.
    #[serde(default)]
    pub cause: Option<String>,
}

impl Drill {
    fn of(record: &DrillRecord, refused: Option<TaskFailure>) -> Self {
        let DrillRecord { drill_id, cluster, target, backup_id, plan, .. } = record.clone();
        Self { drill_id, cluster, target, backup_id, plan, refused }
    }
}

/// Reads an execution's input.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(input: Value) -> Result<Input, FunctionError> {
    serde_json::from_value(input).map_err(|e| FunctionError::bad_input(e, FORM))
}

type PinnedPlan = (RestorePlanV1, Pinned);

/// What the function works with.
#[derive(Debug, Clone)]
pub struct PlanRestore {
    catalog: CatalogTable,
    bucket: Bucket,
    ssm: Ssm,
    clusters: String,
}

impl PlanRestore {
    /// With the common clients.
    pub fn new(common: Common) -> Self {
        let Common { sdk, table, bucket, clusters, .. } = common;
        Self { catalog: CatalogTable::new(table), bucket, ssm: Ssm::new(&sdk), clusters }
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput` before anything is done: an input of another form, an unknown cluster or target. `Permanent`: a broken
    /// chain, a configuration that cannot be used. A missing or changed object is an answer: [`Drill::refused`].
    pub async fn handle(&self, event: Value) -> Result<Drill, FunctionError> {
        let Event { input, execution, started } = serde_json::from_value(event)
            .map_err(|e| FunctionError::bad_input(e, "the drill machine makes this event: start an execution of it"))?;
        let input = parse(input)?;
        let cluster = &input.cluster;
        let drill_id = DrillId::of_execution(started, &execution);
        let (record, read) = match self.catalog.drill(cluster, &drill_id).await? {
            Some(record) => (record, None),
            None => self.planned(&input, &drill_id, &execution, started).await?,
        };
        if record.execution != execution {
            let message = format!("drill {drill_id} of {cluster} belongs to {}: start another execution", record.execution);
            return Err(FunctionError::new(Name::Permanent, message));
        }
        let broken = if record.state == State::Planned { self.broken(&record, read).await? } else { None };
        Ok(Drill::of(&record, broken.map(|cause| TaskFailure { error: format!("{:?}", Failure::Damaged), cause: Some(cause) })))
    }

    /// A new drill's record, made with its plan, and what was read of the catalog for it.
    async fn planned(
        &self,
        input: &Input,
        drill_id: &DrillId,
        execution: &str,
        started: Timestamp,
    ) -> Result<(DrillRecord, Option<Catalog>), FunctionError> {
        let cluster = &input.cluster;
        self.check_configuration(cluster).await?;
        let ((plan, at), read) = self.plan(input, drill_id, started).await?;
        let record = DrillRecord {
            format: DrillRecord::FORMAT.to_owned(),
            cluster: cluster.clone(),
            drill_id: drill_id.clone(),
            version: 1,
            execution: execution.to_owned(),
            target: plan.target.clone(),
            backup_id: plan.point.backup_id.clone(),
            plan: at,
            planned_at: started,
            launched: None,
            state: State::Planned,
            open: Some(DrillRecord::OPEN.to_owned()),
        };
        let record = self.catalog.plan_drill(record).await?;
        tracing::info!(%cluster, %drill_id, backup_id = %record.backup_id, steps = plan.steps.len(), "planned");
        Ok((record, read))
    }

    /// What the launch will need: found wanting here, it costs nothing yet.
    async fn check_configuration(&self, cluster: &ClusterId) -> Result<(), FunctionError> {
        let config = match self.ssm.cluster(&self.clusters, cluster).await {
            Ok(config) => config,
            Err(ConfigError::Call(call)) if call.kind == highwater_aws::call::CallErrorKind::NotFound => {
                return Err(FunctionError::bad_input(format!("this deployment has no cluster {cluster}"), FORM));
            }
            Err(error) => return Err(error.into()),
        };
        drill_host::host_toml(cluster, &config.drill.checks).map(drop)
    }

    /// The drill's plan: the one that is stored, or a new one, with what was read of the catalog for it.
    async fn plan(&self, input: &Input, drill_id: &DrillId, now: Timestamp) -> Result<(PinnedPlan, Option<Catalog>), FunctionError> {
        let key = format!("{}{PLAN_NAME}", drill_prefix(&input.cluster, drill_id));
        if let Some(stored) = self.stored(&key).await? {
            return Ok((stored, None));
        }
        let window = self.catalog.window_for(&input.cluster, &input.target).await?;
        let plan = plan_restore(&window.catalog, &input.target, self.bucket.name(), now).map_err(|error| match error {
            PlanError::UnknownBackup { .. } | PlanError::TooEarly { .. } => FunctionError::bad_input(error, FORM),
            error => error.into(),
        })?;
        let bytes = plan.to_bytes();
        match self.bucket.put_new(&key, bytes.clone().into(), "application/json").await {
            Ok(_) => Ok(((plan, Pinned::object(self.bucket.name(), &key, Sha256::of(&bytes))), Some(window.catalog))),
            // Another try of this execution was first.
            Err(error) if error.kind == StoreErrorKind::AlreadyExists => Ok((self.stored(&key).await?.ok_or(error)?, None)),
            Err(error) => Err(error.into()),
        }
    }

    async fn stored(&self, key: &str) -> Result<Option<PinnedPlan>, FunctionError> {
        match self.bucket.get(key, None, RestorePlanV1::MAX_BYTES as u64).await {
            Ok(bytes) => Ok(Some((RestorePlanV1::parse(&bytes)?, Pinned::object(self.bucket.name(), key, Sha256::of(&bytes))))),
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// The first object of the restore point that is not in the bucket with the size and checksum of its manifest.
    async fn broken(&self, record: &DrillRecord, read: Option<Catalog>) -> Result<Option<String>, FunctionError> {
        let DrillRecord { cluster, backup_id, .. } = record;
        let point = Target::Backup(backup_id.clone());
        let catalog = match read {
            Some(catalog) => catalog,
            None => self.catalog.window_for(cluster, &point).await?.catalog,
        };
        let steps = plan_restore(&catalog, &point, self.bucket.name(), record.planned_at)?.steps;
        let path = Catalog::of_committed(cluster.clone(), steps.iter().filter_map(|step| catalog.get(&step.backup_id).cloned()));
        let heads = head_objects(&self.bucket, objects_of(&path)).await?;
        let findings = audit_catalog(path, Some(&heads)).findings;
        Ok(findings.iter().find(|f| f.problem.is_broken()).map(|broken| format!("plan {backup_id} of {cluster}: {broken}")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_target_defaults_to_latest() {
        let input = parse(json!({"cluster": "orders"})).unwrap();
        assert_eq!((input.cluster.to_string(), input.target), ("orders".to_owned(), Target::Latest));
        for target in ["latest", "20261122T020000Z-full-4f7c", "lsn:3989635331", "2026-11-22T02:00:00Z"] {
            assert_eq!(parse(json!({"cluster": "orders", "target": target})).unwrap().target.to_string(), target);
        }
        let by_machine =
            json!({"cluster": "orders", "AWS_STEP_FUNCTIONS_STARTED_BY_EXECUTION_ID": "arn:aws:states:eu-west-1:1:execution:fleet:1"});
        assert!(parse(by_machine).is_ok(), "as drill-fleet and restore-primary start it");
    }

    #[test]
    fn a_bad_input_is_answered_with_the_accepted_form() {
        for bad in [
            json!({}),
            json!("orders"),
            json!(null),
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
}
