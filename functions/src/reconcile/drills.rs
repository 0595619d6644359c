//! Drills that nobody ends any more, and instances that nobody needs.

use super::{Reconcile, Run};
use crate::error::FunctionError;
use crate::metrics::emit;
use crate::record_drill;
use highwater_aws::catalog::drills::{DrillRecord, State};
use highwater_aws::ec2::DrillInstance;
use highwater_aws::sfn::{Answered, ExecutionStatus};
use highwater_core::leak::{Care, OpenDrill, Owner, Seen, care, leaked};
use highwater_core::{ClusterId, DrillId};
use jiff::Timestamp;

/// The name with which a drill's task fails when its instance is gone.
const INSTANCE_GONE: &str = "InstanceGone";

/// The longest `drill.timeout_hours`, for a cluster that is not configured any more.
const LONGEST_HOURS: u32 = 48;

impl Reconcile {
    /// Closes what has ended, hurries what waits for nothing, then ends what leaked.
    pub(super) async fn drills(&self, run: &mut Run) {
        let instances = match self.ec2.drill_instances(&self.deployment).await {
            Ok(instances) => instances,
            Err(error) => return run.fail(error),
        };
        for record in run.of(self.catalog.open_drills().await) {
            run.note(self.care_for(&record, &instances).await);
        }
        let mut leaks = 0u32;
        for instance in instances.iter().filter(|i| !i.is_ending) {
            match self.why_leaked(instance).await {
                Ok(Some(why)) => {
                    leaks += 1;
                    run.note(self.end_leaked(instance, why).await.map(Some));
                }
                Ok(None) => {}
                Err(error) => run.fail(error),
            }
        }
        emit(&self.deployment, None, &[("LeakedInstances", "Count", leaks.into())]);
    }

    /// One drill of the index, which may lag behind.
    async fn care_for(&self, found: &DrillRecord, instances: &[DrillInstance]) -> Result<Option<String>, FunctionError> {
        let Some(record) = self.catalog.drill(&found.cluster, &found.drill_id).await?.filter(|record| !record.state.has_ended()) else {
            return Ok(None);
        };
        let status = self.executions.status(&record.execution).await?;
        let instance = match &record.state {
            State::Running { instance, launched_at, .. } => Some((seen(instances.iter().find(|i| i.id == *instance)), *launched_at)),
            _ => None,
        };
        let (cluster, drill_id) = (&record.cluster, &record.drill_id);
        match care(OpenDrill { execution_runs: status == ExecutionStatus::Running, instance }, Timestamp::now()) {
            Care::Wait => Ok(None),
            Care::Close(why) => {
                record_drill::fail(&self.catalog, &self.topic, &record, why, None).await?;
                Ok(Some(format!("closed drill {drill_id} of {cluster}: {why}")))
            }
            Care::FailTask(why) => {
                let State::Running { instance, task_token, .. } = &record.state else { return Ok(None) };
                match self.executions.fail(task_token, INSTANCE_GONE, &format!("{instance} of drill {drill_id}: {why}")).await? {
                    Answered::Taken => Ok(Some(format!("failed drill {drill_id} of {cluster}: {why}"))),
                    Answered::NobodyWaits => Ok(None),
                }
            }
        }
    }

    /// Why no drill needs an instance; nothing when one may.
    async fn why_leaked(&self, instance: &DrillInstance) -> Result<Option<&'static str>, FunctionError> {
        Ok(leaked(self.owner(instance).await?, instance.launched_at, Timestamp::now()))
    }

    async fn end_leaked(&self, instance: &DrillInstance, why: &str) -> Result<String, FunctionError> {
        self.ec2.terminate(&instance.id).await?;
        let drill = instance.drill.as_deref().unwrap_or("without a name");
        tracing::error!(instance = %instance.id, drill_id = drill, why, "an instance leaked");
        Ok(format!("ended instance {} of drill {drill}: {why}", instance.id))
    }

    async fn owner(&self, instance: &DrillInstance) -> Result<Owner, FunctionError> {
        let cluster: Option<ClusterId> = instance.cluster.as_ref().and_then(|c| c.parse().ok());
        let drill: Option<DrillId> = instance.drill.as_ref().and_then(|d| d.parse().ok());
        let (Some(cluster), Some(drill)) = (cluster, drill) else {
            return Ok(Owner::Unknown);
        };
        match self.catalog.drill(&cluster, &drill).await? {
            None => Ok(Owner::Unknown),
            Some(record) if record.state.has_ended() => Ok(Owner::Ended),
            Some(_) => {
                let config = self.ssm.cluster(&self.clusters, &cluster).await;
                Ok(Owner::Open { timeout_hours: config.map_or(LONGEST_HOURS, |c| c.drill.timeout_hours) })
            }
        }
    }
}

fn seen(instance: Option<&DrillInstance>) -> Seen {
    match instance {
        None => Seen::Absent,
        Some(instance) if instance.is_ending => Seen::Ending,
        Some(_) => Seen::Alive,
    }
}
