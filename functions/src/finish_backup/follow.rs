//! What follows the end of a backup: metrics, the locks of its chain, a drill; or a message that it failed. All of it may
//! be done again: a lock is only ever extended, a drill has the backup's name.

use crate::error::FunctionError;
use crate::metrics::emit;
use crate::pages::Status;
use crate::serve::Common;
use highwater_aws::catalog::backups::{BackupRecord, State};
use highwater_aws::sfn::Executions;
use highwater_aws::sns::Topic;
use highwater_aws::ssm::Ssm;
use highwater_core::Failure;
use highwater_core::catalog::StoredManifest;
use serde_json::json;

#[derive(Debug, Clone)]
pub(super) struct Follow {
    deployment: String,
    clusters: String,
    ssm: Ssm,
    executions: Executions,
    machine: String,
    topic: Topic,
    status: Status,
}

impl Follow {
    pub(super) fn new(common: Common, ssm: &Ssm, topic: String, machine: String) -> Result<Self, FunctionError> {
        Ok(Self {
            status: Status::new(&common)?,
            executions: Executions::new(&common.sdk),
            topic: Topic::new(&common.sdk, topic),
            ssm: ssm.clone(),
            deployment: common.deployment,
            clusters: common.clusters,
            machine,
        })
    }

    /// What follows the state of an ended backup. `new` is what was committed just now: it is measured once.
    pub(super) async fn up(&self, record: &BackupRecord, new: Option<&StoredManifest>) -> Result<(), FunctionError> {
        let followed = match &record.state {
            State::Committed(_) => self.committed(record, new).await,
            State::Failed { failure, message, .. } => self.failed(record, *failure, message).await,
            State::Requested | State::Running { .. } | State::Pruning(_) => return Ok(()),
        };
        // What ended shows, also while something that follows cannot be done.
        self.status.changed().await;
        followed
    }

    async fn committed(&self, record: &BackupRecord, new: Option<&StoredManifest>) -> Result<(), FunctionError> {
        if let Some(stored) = new {
            let m = &stored.manifest;
            let seconds = m.finished_at.duration_since(m.started_at).as_secs_f64();
            let measured = [("StoredBytes", "Bytes", m.stored_bytes as f64), ("BackupSeconds", "Seconds", seconds)];
            emit(&self.deployment, Some(&record.cluster), &measured);
        }
        let config = self.ssm.cluster(&self.clusters, &record.cluster).await?;
        if config.drill.after_each_backup {
            let input = json!({"cluster": record.cluster, "target": record.backup_id});
            let started = self.executions.start(&self.machine, &format!("{}-{}", record.cluster, record.backup_id), &input).await?;
            tracing::info!(cluster = %record.cluster, backup_id = %record.backup_id, "a drill after the backup: {started:?}");
        }
        Ok(())
    }

    async fn failed(&self, record: &BackupRecord, failure: Failure, message: &str) -> Result<(), FunctionError> {
        let (cluster, id) = (&record.cluster, &record.backup_id);
        emit(&self.deployment, None, &[("FailedBackups", "Count", 1.0)]);
        let subject = format!("Highwater {}: backup of {cluster} failed ({failure})", self.deployment);
        let text = format!("{id} of {cluster} failed: {}.\n\n{message}\n\nThe next backup will be a full.\n", failure.meaning());
        Ok(self.topic.publish(&subject, &text).await?)
    }
}
