//! Promotions that are not closed, and requests whose task does not know what became of them.

use super::{Reconcile, Run};
use crate::error::FunctionError;
use crate::metrics;
use highwater_aws::catalog::CatalogError;
use highwater_aws::catalog::approvals::ApprovalRecord;
use highwater_aws::catalog::promotions::{PromotionRecord, State};
use highwater_aws::sfn::ExecutionStatus;
use highwater_core::consent::RequestState;
use jiff::{SignedDuration, Timestamp};
use serde_json::json;

/// A request's execution is started right after the request is recorded, or not at all.
const STARTED_WITHIN: SignedDuration = SignedDuration::from_mins(10);

impl Reconcile {
    /// Has `finish-promote` look at each open promotion, keeps the lease of those that have not ended, and counts those that
    /// wait for a person. Requests: what is decided is carried out; what can no longer be decided is void.
    pub(super) async fn promotions(&self, run: &mut Run) {
        let (mut stuck, now) = (0u32, Timestamp::now());
        for found in run.of(self.catalog.open_promotions().await) {
            run.note(self.promotion(&found, now, &mut stuck).await);
        }
        // Zero included: its absence is an alarm.
        metrics::emit(&self.deployment, None, &[("StuckPromotions", "Count", stuck.into())]);
        for found in run.of(self.catalog.open_approvals().await) {
            run.note(self.request(&found, now).await);
        }
    }

    async fn promotion(&self, found: &PromotionRecord, now: Timestamp, stuck: &mut u32) -> Result<Option<String>, FunctionError> {
        let (cluster, id) = (&found.cluster, &found.id);
        let Some(record) = self.catalog.promotion(cluster, id).await?.filter(|record| record.open.is_some()) else { return Ok(None) };
        *stuck += u32::from(matches!(record.state, State::Stuck { .. }));
        if record.state.is_unfinished() {
            self.catalog.keep_lease(&record, now).await?;
        }
        self.lambda.call(&self.finish_promote, &json!({"promotion": {"cluster": cluster, "id": id}})).await?;
        Ok(Some(format!("had finish-promote look at promotion {id} of {cluster}, which is {}", record.state.name())))
    }

    async fn request(&self, found: &ApprovalRecord, now: Timestamp) -> Result<Option<String>, FunctionError> {
        let (cluster, id) = (found.request.cluster.clone(), found.request.id.clone());
        let read = self.catalog.approval(&cluster, &id).await?;
        let Some(record) = read.filter(|record| record.open.is_some()) else { return Ok(None) };
        if record.request.state.is_closed() {
            self.lambda.call(&self.finish_promote, &json!({"approval": {"cluster": cluster, "id": id}})).await?;
            return Ok(Some(format!("had finish-promote carry out what was decided on request {id} of {cluster}")));
        }
        let newest = self.catalog.newest_request(&cluster).await?.filter(|newest| *newest > id);
        if let Some(newest) = newest {
            let mut void = record.clone();
            void.request.state = RequestState::Void { reason: format!("superseded by request {newest}") };
            return Ok(self.void(&record, void).await?.then(|| format!("request {id} of {cluster} is void: {newest} is newer")));
        }
        let is_young = now.duration_since(record.request.requested_at) < STARTED_WITHIN;
        let reason = match self.executions.status(&record.execution).await? {
            ExecutionStatus::Running => return Ok(None),
            ExecutionStatus::Gone if is_young => return Ok(None),
            ExecutionStatus::Gone => "its execution was never started",
            ExecutionStatus::Succeeded | ExecutionStatus::Failed => "its execution has ended",
        };
        let mut void = record.clone();
        void.request.state = RequestState::Void { reason: reason.to_owned() };
        void.open = None;
        Ok(self.void(&record, void).await?.then(|| format!("request {id} of {cluster} is void: {reason}")))
    }

    /// Writes a void request, unless a vote was faster. One that stays open is carried out at the next run.
    async fn void(&self, read: &ApprovalRecord, void: ApprovalRecord) -> Result<bool, FunctionError> {
        match self.catalog.replace_approval(read, void, None).await {
            Ok(_) => Ok(true),
            Err(CatalogError::Contended { .. }) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}
