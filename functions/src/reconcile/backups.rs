//! Backups that are not closed: whose event was lost, whose function broke off, or which simply run.

use super::Reconcile;
use crate::error::FunctionError;
use serde_json::json;

impl Reconcile {
    /// Has `finish-backup` look at every one of them: it knows how to tell those that run.
    pub(super) async fn backups(&self) -> Result<Vec<String>, FunctionError> {
        let mut did = Vec::new();
        for record in self.catalog.open_backups().await? {
            let (cluster, id) = (&record.cluster, &record.backup_id);
            self.lambda.call(&self.finish_backup, &json!({"cluster": cluster, "backup_id": id})).await?;
            did.push(format!("had finish-backup look at {id} of {cluster}, which is {}", record.state.name()));
        }
        Ok(did)
    }
}
