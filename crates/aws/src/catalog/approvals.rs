//! `approval#<request-id>`: a request for a promotion, its votes, and the task that waits for them; and `approval`, which
//! names the cluster's newest request: a newer one supersedes every one before it, by that one write.

use super::head::Head;
use super::promotions::PromotionRecord;
use super::{CatalogError, CatalogTable};
use crate::table::{Key, Range, Record, TableError, Write};
use highwater_core::consent::PromotionRequest;
use highwater_core::ids::cluster_prefix;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Document, Pinned, Sha256};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// One request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ApprovalRecord {
    /// `highwater.catalog.approval.v1`.
    pub format: String,
    /// One more with every change.
    pub version: u64,
    /// The request and its votes.
    pub request: PromotionRequest,
    /// The execution that carries it; no other one can use it.
    pub execution: String,
    /// The token of the task that waits for the decision, once it waits.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    /// `approval` until it is decided and its task has the answer.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub open: Option<String>,
}

/// The cluster's newest request.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct Newest {
    format: String,
    newest: PromotionId,
}

/// What became of a request that was to be recorded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Recorded {
    /// It is there: as given, or as an earlier call left it (I4).
    There(Box<ApprovalRecord>),
    /// A newer request exists: nothing was recorded.
    Superseded(PromotionId),
}

/// Key of a request's approval.
pub fn approval_key(request: &PromotionRequest) -> String {
    format!("{}promotions/{}/approval.json", cluster_prefix(&request.cluster), request.id)
}

/// The approval of an approved request: its place in `bucket`, and its bytes. The same every time.
pub fn approval_of(request: &PromotionRequest, bucket: &str) -> Option<(Pinned, Vec<u8>)> {
    let bytes = request.approval()?.to_bytes();
    Some((Pinned::object(bucket, &approval_key(request), Sha256::of(&bytes)), bytes))
}

fn newest_key(cluster: &ClusterId) -> Key {
    Key::of(cluster, "approval")
}

impl Record for ApprovalRecord {
    const FORMAT: &'static str = "highwater.catalog.approval.v1";

    fn place(&self) -> Key {
        key(&self.request.cluster, &self.request.id)
    }

    fn name(&self) -> String {
        format!("request {} of {}", self.request.id, self.request.cluster)
    }
}

impl ApprovalRecord {
    /// The value of `open`.
    pub const OPEN: &'static str = "approval";

    /// A request that nobody has voted on.
    pub fn new(request: PromotionRequest, execution: String) -> Self {
        let (format, open) = (Self::FORMAT.to_owned(), Some(Self::OPEN.to_owned()));
        Self { format, version: 1, request, execution, token: None, open }
    }

    /// The request as its voters, and whoever follows it, see it, with what became of it. Its task's token is nobody's business.
    pub fn shown(&self, promotion: Option<&PromotionRecord>) -> Value {
        let request = &self.request;
        json!({
            "request_id": request.id, "cluster": request.cluster, "target": request.target, "state": request.state.describe(),
            "requester": request.requester.as_ref().map(ToString::to_string), "requested_at": request.requested_at,
            "question": request.question, "votes": request.votes, "approvals_needed": request.approvals_needed(),
            "approvals": request.approvers().len(), "execution": self.execution, "promotion": promotion.map(PromotionRecord::shown),
        })
    }
}

fn key(cluster: &ClusterId, id: &PromotionId) -> Key {
    Key::of(cluster, format!("approval#{id}"))
}

/// Only the condition: no newer request exists.
///
/// # Errors
/// `Unreadable`.
pub fn is_newest(request: &PromotionRequest) -> Result<Write, TableError> {
    Write::check(newest_key(&request.cluster), "#newest = :id").value(":id", &request.id)
}

impl CatalogTable {
    /// Records a request and makes it the cluster's newest.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn record_request(&self, record: &ApprovalRecord) -> Result<Recorded, CatalogError> {
        let (cluster, id) = (&record.request.cluster, &record.request.id);
        let newest = Newest { format: "highwater.catalog.newest-request.v1".to_owned(), newest: id.clone() };
        let newest = Write::put(newest_key(cluster), &newest)?.only_if("attribute_not_exists(pk) OR #newest <= :id").value(":id", id)?;
        match self.table.write(vec![Write::create(record.place(), record)?, newest]).await {
            Ok(()) => Ok(Recorded::There(Box::new(record.clone()))),
            Err(TableError::Condition { .. }) => match (self.approval(cluster, id).await?, self.newest_request(cluster).await?) {
                (Some(there), _) => Ok(Recorded::There(Box::new(there))),
                (None, Some(newer)) => Ok(Recorded::Superseded(newer)),
                (None, None) => Err(CatalogError::Contended { cluster: cluster.clone(), doing: "a request was recorded" }),
            },
            Err(error) => Err(error.into()),
        }
    }

    /// One request.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn approval(&self, cluster: &ClusterId, id: &PromotionId) -> Result<Option<ApprovalRecord>, CatalogError> {
        Ok(self.table.record(&key(cluster, id)).await?)
    }

    /// The id of the newest request.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn newest_request(&self, cluster: &ClusterId) -> Result<Option<PromotionId>, CatalogError> {
        let newest: Option<Newest> = self.table.get(&newest_key(cluster)).await?;
        Ok(newest.map(|n| n.newest))
    }

    /// The newest requests, the newest first.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn recent_approvals(&self, cluster: &ClusterId, limit: usize) -> Result<Vec<ApprovalRecord>, CatalogError> {
        Ok(self.table.records(Range::prefixed(cluster, "approval#").last(limit)).await?)
    }

    /// Writes a request over the one that was read. `as_of` is the head that a vote rests on: if it is given, the vote is
    /// recorded only while that head and this request are still the newest.
    ///
    /// # Errors
    /// `Contended`: read and judge again. Those of the table.
    pub async fn replace_approval(
        &self,
        read: &ApprovalRecord,
        next: ApprovalRecord,
        as_of: Option<&Head>,
    ) -> Result<ApprovalRecord, CatalogError> {
        let next = ApprovalRecord { version: read.version + 1, ..next };
        let mut writes = vec![Write::put(read.place(), &next)?.only_if("#version = :read").value(":read", read.version)?];
        if let Some(head) = as_of {
            writes.push(is_newest(&read.request)?);
            writes.push(head.unchanged(&read.request.cluster)?);
        }
        match self.table.write(writes).await {
            Ok(()) => Ok(next),
            Err(TableError::Condition { .. }) => {
                Err(CatalogError::Contended { cluster: read.request.cluster.clone(), doing: "a request was changed" })
            }
            Err(error) => Err(error.into()),
        }
    }

    /// Requests that are not decided, or whose task has no answer yet. From the index, which lags.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn open_approvals(&self) -> Result<Vec<Result<ApprovalRecord, TableError>>, TableError> {
        self.table.open(ApprovalRecord::OPEN).await
    }
}
