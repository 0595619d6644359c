//! Backups that are not closed: whose event was lost, whose function broke off, or which simply run.

use super::{Reconcile, Run};
use crate::error::FunctionError;
use highwater_aws::catalog::backups::BackupRecord;
use serde_json::json;

impl Reconcile {
    /// Has `finish-backup` look at every one of them: it knows how to tell those that run.
    pub(super) async fn backups(&self, run: &mut Run) {
        for record in run.of(self.catalog.open_backups().await) {
            run.note(self.backup(&record).await);
        }
    }

    async fn backup(&self, record: &BackupRecord) -> Result<Option<String>, FunctionError> {
        let (cluster, id) = (&record.cluster, &record.backup_id);
        self.lambda.call(&self.finish_backup, &json!({"cluster": cluster, "backup_id": id})).await?;
        Ok(Some(format!("had finish-backup look at {id} of {cluster}, which is {}", record.state.name())))
    }
}
