//! `promote`: what was approved is checked once more, the lease is taken, and the command goes to the approved host.
//!
//! What a crash leaves: nothing; or a record in state `requested` under the lease, and perhaps a command that the record does
//! not name. A retry looks for one by its comment before it sends another. Two commands of one approval would be harmless: the
//! helper uses an approval once.

use crate::error::{FunctionError, Name};
use crate::primary::Primaries;
use crate::proof::{self, Drilled};
use crate::serve::{Common, variable};
use highwater_aws::call::CallErrorKind;
use highwater_aws::catalog::head::Head;
use highwater_aws::catalog::promotions::{PromotionRecord, State};
use highwater_aws::catalog::{CatalogError, CatalogTable};
use highwater_aws::kms::SigningKey;
use highwater_aws::s3::Bucket;
use highwater_aws::ssm::{Command, Ssm, comment};
use highwater_aws::table::Record;
use highwater_core::approval::ApprovalV1;
use highwater_core::certificate::CertificateV1;
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::consent::{PromotionRequest, Shown, Situation};
use highwater_core::ids::cluster_prefix;
use highwater_core::outcome::Outcome;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Document, Failure, HostId, Pinned};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use std::time::Duration;

/// What the event must look like, for error messages.
pub const FORM: &str =
    r#"expected what restore-primary sends: {"drill": {"cluster", "drill_id", …}, "approval": {"uri", "sha256"}, "execution", "token"}"#;

/// How long a command waits for its host: people wait too.
const DELIVER_WITHIN: Duration = Duration::from_secs(900);

/// What a lease outlives its command by, hours: time for the end to be noticed. `reconcile` renews it meanwhile.
const LEASE_MARGIN_HOURS: u32 = 2;

/// The event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The drill's result.
    pub drill: Drilled,
    /// The approval.
    pub approval: Pinned,
    /// The execution.
    pub execution: String,
    /// The token of the task that waits for the end.
    pub token: String,
}

/// The answer of the invocation; the task's comes from finish-promote.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The promotion.
    pub promotion_id: PromotionId,
    /// How far it is.
    pub state: &'static str,
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct Promote {
    clusters: String,
    document: String,
    catalog: CatalogTable,
    bucket: Bucket,
    ssm: Ssm,
    primaries: Primaries,
    key: SigningKey,
}

/// What may be promoted now.
struct Approved {
    certificate: CertificateV1,
    config: ClusterConfigV1,
    host: HostId,
    request: PromotionRequest,
    head: Head,
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))
}

/// The promotion whose approval lies at this key.
pub fn promotion_of(key: &str, cluster: &ClusterId) -> Option<PromotionId> {
    key.strip_prefix(&cluster_prefix(cluster))?.strip_prefix("promotions/")?.strip_suffix("/approval.json")?.parse().ok()
}

fn refused(reason: impl std::fmt::Display) -> FunctionError {
    FunctionError::of(Failure::Approval, reason)
}

impl Promote {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        Ok(Self {
            document: variable("HIGHWATER_PROMOTE_DOCUMENT")?,
            key: SigningKey::new(&common.sdk, variable("HIGHWATER_SIGNING_KEY")?),
            primaries: Primaries::new(&common),
            ssm: Ssm::new(&common.sdk),
            clusters: common.clusters,
            catalog: CatalogTable::new(common.table),
            bucket: common.bucket,
        })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput`; `LeaseHeld` while a backup runs; `Permanent` for whatever was not approved like this, and a host that takes
    /// no command; `Transient`.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        let event = parse(event)?;
        let cluster = &event.drill.cluster;
        let key = event.approval.key_in(self.bucket.name());
        let id = key.and_then(|key| promotion_of(key, cluster));
        let (Some(key), Some(id)) = (key, id) else {
            return Err(FunctionError::bad_input(format!("{} is no approval of {cluster}", event.approval.uri), FORM));
        };
        let record = match self.catalog.promotion(cluster, &id).await? {
            Some(record) if record.execution != event.execution => {
                return Err(refused(format!("promotion {id} belongs to {}", record.execution)));
            }
            // The task was tried again: its end goes to the new token.
            Some(record) => self.catalog.awaited_by(&record, &event.token).await?,
            None => Box::pin(self.begin(&event, key, id)).await?,
        };
        let record = if record.state == State::Requested { Box::pin(self.send(&event, key, record)).await? } else { record };
        Ok(Answer { promotion_id: record.id, state: record.state.name() })
    }

    /// Checks everything that was approved against what is.
    async fn approved(&self, event: &Event, key: &str, id: &PromotionId, now: Timestamp) -> Result<Approved, FunctionError> {
        let cluster = &event.drill.cluster;
        let bytes = self.bucket.get(key, None, ApprovalV1::MAX_BYTES as u64).await?;
        ApprovalV1::parse_pinned(&bytes, event.approval.sha256)?;
        let (certificate, at) = proof::certificate(&self.bucket, &self.key, &event.drill).await?;
        let config = self.ssm.cluster(&self.clusters, cluster).await?;
        let host = self.primaries.of(&config).await?;
        let found = self.catalog.approval(cluster, id).await?;
        let asked = found.ok_or_else(|| refused(format!("cluster {cluster} has no request {id}")))?;
        if asked.execution != event.execution {
            return Err(refused(format!("request {id} belongs to {}, this is {}", asked.execution, event.execution)));
        }
        let head = self.catalog.head(cluster).await?;
        let newest = self.catalog.newest_request(cluster).await?.ok_or_else(|| refused("no request is known"))?;
        let newest_incarnation = head.newest.as_ref().map(|newest| &newest.incarnation);
        let situation = Situation { newest_request: &newest, newest_incarnation, now };
        let (plan, report) = (certificate.plan.sha256, certificate.report.sha256);
        let shown = Shown { approval: event.approval.sha256, certificate: at.sha256, plan, report };
        asked.request.may_promote(shown, &host, situation).map_err(refused)?;
        Ok(Approved { certificate, config, host, request: asked.request, head })
    }

    /// Writes the intent of what was approved, and takes the lease.
    async fn begin(&self, event: &Event, key: &str, id: PromotionId) -> Result<PromotionRecord, FunctionError> {
        let (cluster, now) = (&event.drill.cluster, Timestamp::now());
        let Approved { certificate, config, host, request, head } = self.approved(event, key, &id, now).await?;
        let record = PromotionRecord {
            format: PromotionRecord::FORMAT.to_owned(),
            id,
            cluster: cluster.clone(),
            host,
            backup_id: certificate.point.backup_id.clone(),
            approval: event.approval.clone(),
            execution: event.execution.clone(),
            task_token: event.token.clone(),
            token: 0,
            begun_at: now,
            lease_hours: config.promotion.timeout_hours + LEASE_MARGIN_HOURS,
            state: State::Requested,
            open: Some(PromotionRecord::OPEN.to_owned()),
        };
        match self.catalog.begin_promotion(record, &request, &head, now).await {
            Ok(record) => {
                tracing::info!(%cluster, promotion_id = %record.id, token = record.token, "begun");
                Ok(record)
            }
            Err(error @ CatalogError::Contended { .. }) => Err(FunctionError::new(Name::Transient, error.to_string())),
            Err(error) => Err(error.into()),
        }
    }

    /// Sends the command, unless it was sent: of what was approved, wherever else the record may point by now.
    async fn send(&self, event: &Event, key: &str, record: PromotionRecord) -> Result<PromotionRecord, FunctionError> {
        let (cluster, now) = (&record.cluster, Timestamp::now());
        let comment = comment(cluster, &record.id.to_string());
        let since = record.begun_at.saturating_sub(SignedDuration::from_mins(1)).unwrap_or(record.begun_at);
        let sent = self.ssm.commands_of(&comment, &record.host, since).await?;
        if let Some(command_id) = sent.first() {
            return Ok(self.catalog.promotion_sent(&record, command_id, now).await?);
        }
        let Approved { certificate, config, host, .. } = self.approved(event, key, &record.id, now).await?;
        if record.host != host || record.approval != event.approval {
            return Err(refused(format!(
                "the record of promotion {} is not of what was approved: run `highwater catalog audit`",
                record.id
            )));
        }
        // The moment before the effect: who lost the lease sends nothing.
        self.catalog.ensure_promotion_held(&record).await?;
        let command = Command {
            document: &self.document,
            host: &record.host,
            comment,
            parameters: parameters(&record, &certificate, &config),
            deliver_within: DELIVER_WITHIN,
        };
        match self.ssm.send(&command).await {
            Ok(command_id) => {
                tracing::info!(%cluster, promotion_id = %record.id, command_id, "sent");
                Ok(self.catalog.promotion_sent(&record, &command_id, now).await?)
            }
            // A service that refused has sent nothing; one that did not answer may have.
            Err(error) if error.kind != CallErrorKind::Unavailable => {
                let reason = format!("no command could be sent: {error}");
                self.catalog.end_promotion(cluster, &record.id, (Outcome::Refused, &reason), now).await?;
                Err(error.into())
            }
            Err(error) => Err(error.into()),
        }
    }
}

/// The promote document's.
fn parameters(record: &PromotionRecord, certificate: &CertificateV1, config: &ClusterConfigV1) -> Vec<(&'static str, String)> {
    vec![
        ("planUri", certificate.plan.uri.clone()),
        ("planSha256", certificate.plan.sha256.to_string()),
        ("approvalUri", record.approval.uri.clone()),
        ("approvalSha256", record.approval.sha256.to_string()),
        ("reportUri", certificate.report.uri.clone()),
        ("reportSha256", certificate.report.sha256.to_string()),
        ("executionTimeout", (u64::from(config.promotion.timeout_hours) * 3600).to_string()),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_approvals_place_names_its_promotion() {
        let orders = "orders".parse().unwrap();
        let id = promotion_of("v1/orders/promotions/20261122T020000Z-4f7c/approval.json", &orders);
        assert_eq!(id.unwrap().to_string(), "20261122T020000Z-4f7c");
        for other in [
            "v1/other/promotions/20261122T020000Z-4f7c/approval.json",
            "v1/orders/drills/20261122T020000Z-4f7c/approval.json",
            "v1/orders/promotions/20261122T020000Z-4f7c/x/approval.json",
            "v1/orders/promotions/approval.json",
        ] {
            assert_eq!(promotion_of(other, &orders), None, "{other}");
        }
    }
}
