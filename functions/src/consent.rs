//! Carrying out what was decided on a request: the approval for the host, the answer for the task. Used by
//! `decide-approval` at once, and by `finish-promote` for what a crash left.

use crate::error::FunctionError;
use crate::serve::Common;
use highwater_aws::catalog::approvals::{ApprovalRecord, approval_key, approval_of};
use highwater_aws::catalog::{CatalogError, CatalogTable};
use highwater_aws::s3::Bucket;
use highwater_aws::sfn::{Answered, Executions};
use highwater_core::Pinned;
use highwater_core::consent::{PromotionRequest, RequestState};
use serde_json::json;

/// What is needed for it.
#[derive(Debug, Clone)]
pub struct Consents {
    /// The catalog.
    pub catalog: CatalogTable,
    /// Where approvals go.
    pub bucket: Bucket,
    /// What waits for them.
    pub executions: Executions,
}

/// What carrying out came to.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Carried {
    /// The approval, if the request was approved.
    pub approval: Option<Pinned>,
    /// Nobody waited for the decision any more: the execution had ended.
    pub too_late: bool,
}

impl Consents {
    /// Of what every function has.
    pub fn new(common: &Common) -> Self {
        let (catalog, executions) = (CatalogTable::new(common.table.clone()), Executions::new(&common.sdk));
        Self { catalog, bucket: common.bucket.clone(), executions }
    }

    /// Stores the approval of an approved request, answers the waiting task, and closes the record. Twice is as good as once:
    /// the approval's bytes follow from the record, and a task takes one answer.
    ///
    /// # Errors
    /// Those of the services; the record stays open then, and the next call goes on.
    pub async fn carry_out(&self, record: &ApprovalRecord) -> Result<Carried, FunctionError> {
        let request = &record.request;
        if !request.state.is_closed() {
            return Ok(Carried::default());
        }
        let approval = match approval_of(request, self.bucket.name()) {
            Some((approval, bytes)) => {
                self.bucket.put_new(&approval_key(request), bytes.into(), "application/json").await?;
                Some(approval)
            }
            None => None,
        };
        let mut too_late = false;
        if let Some(token) = record.token.as_ref().filter(|_| record.open.is_some()) {
            let answered = match (&request.state, &approval) {
                (RequestState::Approved {}, Some(approval)) => {
                    self.executions.succeed(token, &json!({"decision": "approved", "approval": approval})).await?
                }
                (RequestState::Void { reason }, _) => self.executions.fail(token, "Superseded", reason).await?,
                _ => self.executions.succeed(token, &json!({"decision": "denied", "reason": denial(request)})).await?,
            };
            too_late = answered == Answered::NobodyWaits;
        }
        self.close(record).await?;
        Ok(Carried { approval, too_late })
    }

    /// A request that can no longer be decided: recorded, and its task told. Lost against a vote, it changes nothing.
    ///
    /// # Errors
    /// Those of the services.
    pub async fn void(&self, record: &ApprovalRecord, reason: String) -> Result<(), FunctionError> {
        let mut next = record.clone();
        next.request.state = RequestState::Void { reason };
        match self.catalog.replace_approval(record, next, None).await {
            Ok(record) => self.carry_out(&record).await.map(|_| ()),
            Err(CatalogError::Contended { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    async fn close(&self, record: &ApprovalRecord) -> Result<(), FunctionError> {
        if record.open.is_none() {
            return Ok(());
        }
        match self.catalog.replace_approval(record, ApprovalRecord { open: None, ..record.clone() }, None).await {
            Ok(_) | Err(CatalogError::Contended { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }
}

/// Who denied it, and why, for the execution's cause.
fn denial(request: &PromotionRequest) -> String {
    let Some(vote) = request.votes.last() else { return "it was denied".to_owned() };
    let why = vote.reason.as_deref().map(|reason| format!(": {reason}")).unwrap_or_default();
    format!("denied by {}{why}; nothing has changed", vote.by)
}
