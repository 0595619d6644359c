//! `request-approval`: a drill of a promotion has passed; the question goes to the people who may answer it.
//!
//! What a crash leaves: a recorded question that nobody was told of. A retry brings the task's new token, which is recorded,
//! and tells them again. A question that SNS does not take stands all the same: whoever asked for the promotion sees it in
//! `highwater approvals`, and an emergency does not wait for SNS.

use crate::error::{FunctionError, Name};
use crate::primary::Primaries;
use crate::proof::{self, Drilled};
use crate::serve::{Common, variable};
use highwater_aws::catalog::approvals::{ApprovalRecord, Recorded};
use highwater_aws::catalog::{CatalogError, CatalogTable};
use highwater_aws::kms::SigningKey;
use highwater_aws::s3::Bucket;
use highwater_aws::sns::Topic;
use highwater_aws::ssm::Ssm;
use highwater_core::certificate::CertificateV1;
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::consent::{PromotionRequest, Question, RequestState, Situation};
use highwater_core::promotion::PromotionId;
use highwater_core::{Failure, Pinned};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// What the event must look like, for error messages.
pub const FORM: &str = r#"expected what restore-primary sends: {"drill": {"cluster", "drill_id", …}, "request_id": null or an id, "execution", "started", "token"}"#;

/// The event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Event {
    /// The drill's result.
    pub drill: Drilled,
    /// The request that decide-approval took; none for a console start.
    pub request_id: Option<PromotionId>,
    /// The execution.
    pub execution: String,
    /// When it started: what a console start is ordered by among requests.
    pub started: Timestamp,
    /// The token of the task that waits.
    pub token: String,
}

/// The answer of the invocation; the task's comes from decide-approval.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// The request.
    pub request_id: PromotionId,
    /// How far it is.
    pub state: String,
    /// How many have to approve.
    pub approvals_needed: usize,
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct RequestApproval {
    clusters: String,
    catalog: CatalogTable,
    bucket: Bucket,
    ssm: Ssm,
    primaries: Primaries,
    key: SigningKey,
    topic: Topic,
    hours: i64,
    approvers: u32,
    url: String,
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))
}

impl RequestApproval {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing or wrong.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        let number = |name: &str| {
            let text = variable(name)?;
            let wrong = || FunctionError::of(Failure::Config, format!("{name} is {text:?}, not a number from 1 to 336"));
            text.parse::<u32>().ok().filter(|n| (1..=336).contains(n)).ok_or_else(wrong)
        };
        Ok(Self {
            hours: number("HIGHWATER_APPROVAL_HOURS")?.into(),
            approvers: number("HIGHWATER_APPROVERS")?,
            primaries: Primaries::new(&common),
            url: variable("HIGHWATER_APPROVAL_URL")?,
            topic: Topic::new(&common.sdk, variable("HIGHWATER_TOPIC")?),
            key: SigningKey::new(&common.sdk, variable("HIGHWATER_SIGNING_KEY")?),
            ssm: Ssm::new(&common.sdk),
            clusters: common.clusters,
            catalog: CatalogTable::new(common.table),
            bucket: common.bucket,
        })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput`; `Permanent` for a certificate that proves nothing, a request of another execution, one that is superseded
    /// or closed; `Transient`.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        let event = parse(event)?;
        let (certificate, at) = proof::certificate(&self.bucket, &self.key, &event.drill).await?;
        let config = self.ssm.cluster(&self.clusters, &event.drill.cluster).await?;
        let record = self.record(&event).await?;
        let record = self.ask(&event, record, &certificate, at, &config).await?;
        let request = &record.request;
        if let (RequestState::Waiting {}, Some(question)) = (&request.state, &request.question) {
            let (subject, message) = message(request, question, &certificate, &self.url, Timestamp::now());
            if let Err(error) = self.topic.publish(&subject, &message).await {
                tracing::error!(cluster = %request.cluster, request_id = %request.id, %error, "nobody was told of the question");
            }
            tracing::info!(cluster = %request.cluster, request_id = %request.id, "asked for {} approval(s)", request.approvals_needed());
        }
        Ok(Answer { request_id: request.id.clone(), state: request.state.describe(), approvals_needed: request.approvals_needed() })
    }

    /// The request of this execution: the one it names, or a new one without a requester.
    async fn record(&self, event: &Event) -> Result<ApprovalRecord, FunctionError> {
        let cluster = &event.drill.cluster;
        let refused = |reason: String| FunctionError::of(Failure::Approval, reason);
        if let Some(id) = &event.request_id {
            let found = self.catalog.approval(cluster, id).await?;
            let record =
                found.ok_or_else(|| refused(format!("cluster {cluster} has no request {id}: leave request_id out, or ask by the URL")))?;
            // Whoever starts an execution by hand cannot borrow somebody else's request, and be taken for its requester.
            return match record.execution == event.execution {
                true => Ok(record),
                false => Err(refused(format!("request {id} belongs to {}, this is {}", record.execution, event.execution))),
            };
        }
        let digest = highwater_core::Sha256::of(event.execution.as_bytes());
        let nonce = digest.as_bytes().first_chunk::<2>().map_or(0, |two| u16::from_be_bytes(*two));
        let request = PromotionRequest {
            id: PromotionId::new(event.started, nonce),
            cluster: cluster.clone(),
            target: None,
            requester: None,
            requested_at: event.started,
            question: None,
            votes: Vec::new(),
            state: RequestState::Drilling {},
        };
        let id = request.id.clone();
        match self.catalog.record_request(&ApprovalRecord::new(request, event.execution.clone())).await? {
            Recorded::There(record) if record.execution == event.execution => Ok(*record),
            Recorded::There(record) => Err(refused(format!("request {id} belongs to {}: start again", record.execution))),
            Recorded::Superseded(by) => Err(refused(format!("this promotion is superseded by request {by}"))),
        }
    }

    /// Writes the question, and the token of the task that waits, into the request.
    async fn ask(
        &self,
        event: &Event,
        record: ApprovalRecord,
        certificate: &CertificateV1,
        at: Pinned,
        config: &ClusterConfigV1,
    ) -> Result<ApprovalRecord, FunctionError> {
        let (request, now) = (&record.request, Timestamp::now());
        let refused = |reason: String| FunctionError::of(Failure::Approval, reason);
        if matches!(request.state, RequestState::Approved {} | RequestState::Denied {}) {
            // Decided between two tries of the task, or denied before its drill ended: `reconcile` answers the new token.
            let next = ApprovalRecord { token: Some(event.token.clone()), open: Some(ApprovalRecord::OPEN.to_owned()), ..record.clone() };
            return self.replace(&record, next).await;
        }
        let head = self.catalog.head(&request.cluster).await?;
        let Some(newest) = self.catalog.newest_request(&request.cluster).await? else {
            return Err(FunctionError::new(Name::Transient, "the newest request is not known yet"));
        };
        let incarnation = head.newest.as_ref().map(|newest| newest.incarnation.clone());
        let situation = Situation { newest_request: &newest, newest_incarnation: incarnation.as_ref(), now };
        request.refuse_superseded(situation).map_err(|e| refused(e.to_string()))?;
        if request.state.is_closed() {
            return Err(refused(format!("request {} is {}", request.id, request.state.describe())));
        }
        let incarnation = incarnation.ok_or_else(|| refused(format!("cluster {} has no restore point", request.cluster)))?;
        let host = self.primaries.of(config).await?;
        let mut next = record.clone();
        next.token = Some(event.token.clone());
        next.request.state = RequestState::Waiting {};
        // A retry asks the same question again, with the same end.
        next.request.question.get_or_insert_with(|| Question {
            drill_id: certificate.drill_id.clone(),
            backup_id: certificate.point.backup_id.clone(),
            restores_to: certificate.point.time,
            certificate: at,
            plan: certificate.plan.clone(),
            report: certificate.report.clone(),
            host,
            incarnation,
            asked_at: now,
            expires_at: now.saturating_add(SignedDuration::from_hours(self.hours)).unwrap_or(Timestamp::MAX),
            valid_hours: config.promotion.timeout_hours,
            approvers: self.approvers,
        });
        self.replace(&record, next).await
    }

    async fn replace(&self, read: &ApprovalRecord, next: ApprovalRecord) -> Result<ApprovalRecord, FunctionError> {
        match self.catalog.replace_approval(read, next, None).await {
            Err(error @ CatalogError::Contended { .. }) => Err(FunctionError::new(Name::Transient, error.to_string())),
            done => Ok(done?),
        }
    }
}

/// What a person reads at three in the morning: what happens, to what, what is lost, how to decide, until when.
fn message(request: &PromotionRequest, question: &Question, certificate: &CertificateV1, url: &str, now: Timestamp) -> (String, String) {
    let (cluster, host) = (&request.cluster, &question.host);
    let subject = format!("Approve or deny: replace the data of {cluster} ({})", request.id);
    let needed = match request.approvals_needed() {
        1 => "One other person has to approve.".to_owned(),
        n if request.requester.is_some() => format!("{n} other people have to approve."),
        n => format!("{n} different people have to approve."),
    };
    let by = request.requester.as_ref().map_or_else(|| "not known (it was started in the console)".to_owned(), ToString::to_string);
    let who = format!("{by}\n             {needed}");
    let seconds: f64 = certificate.phases.iter().map(|phase| phase.seconds).sum();
    let command = |word: &str| format!("  highwater {word} --url {url} --cluster {cluster} --request {}", request.id);
    let message = format!(
        "The database of cluster {cluster} on host {host} is to be REPLACED by restored data.

Restore point  {backup} of {to}
Age            {age}
WILL BE LOST   everything written to {cluster} after {to}
Proven by      drill {drill}: restored in {seconds:.0} s, {checks} checks passed
Certificate    {certificate} (signed; verified now)
Requested by   {who}
Decide before  {expires} (in {left}); then nothing happens

While it runs, {cluster} is out of service for the exchange only, and its backups wait. The old data is kept on the host.
If you did not expect this: deny it.

{approve} --certificate {certificate}
{deny}

Look first:
  highwater approvals --url {url} --cluster {cluster}
",
        backup = question.backup_id,
        to = question.restores_to,
        age = words(now.duration_since(question.restores_to)),
        drill = question.drill_id,
        checks = certificate.checks,
        certificate = question.certificate.sha256,
        expires = question.expires_at,
        left = words(question.expires_at.duration_since(now)),
        approve = command("approve"),
        deny = command("deny"),
    );
    (subject, message)
}

/// `2 d 3 h`, `5 h 12 min`, `8 min`.
fn words(duration: SignedDuration) -> String {
    let minutes = duration.as_mins().max(0);
    match (minutes / 1440, minutes / 60 % 24, minutes % 60) {
        (0, 0, m) => format!("{m} min"),
        (0, h, m) => format!("{h} h {m} min"),
        (d, h, _) => format!("{d} d {h} h"),
    }
}
