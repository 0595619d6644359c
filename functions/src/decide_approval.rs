//! `decide-approval`: requests for promotions, and votes on them, from callers whom IAM vouches for.
//!
//! Behind a Function URL with `AWS_IAM`: Lambda's authorizer puts the caller into the event. An event without it is refused. A
//! direct `lambda:InvokeFunction` could write any caller into the event; no policy of the stack allows one (`infra/README.md`).
//!
//! What a crash leaves: a request without its execution (sent again, it is started), or a decision whose task has no answer
//! (sent again, or by `reconcile`, it is carried out).

use crate::consent::Consents;
use crate::error::{FunctionError, Name};
use crate::serve::{Common, variable};
use highwater_aws::catalog::CatalogError;
use highwater_aws::catalog::approvals::{ApprovalRecord, Recorded};
use highwater_aws::sfn::Started;
use highwater_aws::sns::Topic;
use highwater_core::caller::Caller;
use highwater_core::consent::{ConsentError, Counted, PromotionRequest, RequestState, Situation, Vote, Word};
use highwater_core::plan::Target;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Sha256};
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};

/// What the body must look like, for error messages.
pub const FORM: &str = r#"expected {"action": "restore", "cluster": "orders", "target": "latest"}, {"action": "list", "cluster": "orders"}, {"action": "approve", "cluster": "orders", "request_id": …, "certificate_sha256": …} or {"action": "deny", "cluster": "orders", "request_id": …, "reason": …}"#;

/// How far a request's id may lie from the clock: it orders requests, so nobody may take one from the future.
const ID_TOLERANCE: SignedDuration = SignedDuration::from_mins(5);

/// How often a vote is counted again because the catalog changed under it.
const ATTEMPTS: usize = 5;

/// How many requests are looked at, or listed.
const RECENT: usize = 20;

/// What is asked for.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(tag = "action", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Body {
    /// A promotion. The id makes it safe to send again.
    Restore {
        /// The cluster.
        cluster: ClusterId,
        /// What to restore.
        #[serde(default)]
        target: Option<Target>,
        /// Chosen by the caller, or here.
        #[serde(default)]
        request_id: Option<PromotionId>,
    },
    /// The newest requests.
    List {
        /// The cluster.
        cluster: ClusterId,
    },
    /// Yes.
    Approve {
        /// The cluster.
        cluster: ClusterId,
        /// The request.
        request_id: PromotionId,
        /// What was read and is approved.
        certificate_sha256: Sha256,
    },
    /// No.
    Deny {
        /// The cluster.
        cluster: ClusterId,
        /// The request.
        request_id: PromotionId,
        /// Why.
        #[serde(default)]
        reason: Option<String>,
    },
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct DecideApproval {
    consents: Consents,
    topic: Topic,
    machine: String,
    named_sessions: Vec<String>,
}

/// Why a call is refused: an HTTP status and words.
struct Refused(u16, String);

impl From<FunctionError> for Refused {
    fn from(error: FunctionError) -> Self {
        let status = match error.name {
            Name::BadInput => 400,
            Name::LeaseHeld | Name::ChainBroken => 409,
            Name::Transient => 503,
            Name::Permanent => 500,
        };
        Self(status, error.message)
    }
}

impl From<CatalogError> for Refused {
    fn from(error: CatalogError) -> Self {
        FunctionError::from(error).into()
    }
}

impl From<ConsentError> for Refused {
    fn from(error: ConsentError) -> Self {
        let status = match &error {
            ConsentError::OwnRequest { .. } => 403,
            ConsentError::Expired { .. } => 410,
            _ => 409,
        };
        Self(status, error.to_string())
    }
}

/// Whom the URL's authorizer vouches for, and the body. Whatever lacks the authorizer's part did not come by the URL.
fn parse(event: &Value, named_sessions: &[String]) -> Result<(Caller, Body), Refused> {
    let iam = &event["requestContext"]["authorizer"]["iam"];
    let part = |name: &str| iam[name].as_str().filter(|text| !text.is_empty());
    let (Some(arn), Some(id), Some(account), "2.0") =
        (part("userArn"), part("userId"), part("accountId"), event["version"].as_str().unwrap_or_default())
    else {
        return Err(Refused(403, "IAM vouches for nobody in this event: call the function's URL, signed with SigV4".into()));
    };
    if part("callerId") != Some(id) || arn.split(':').nth(4) != Some(account) {
        return Err(Refused(403, "the event names two callers: IAM vouches for neither".into()));
    }
    let caller = Caller::vouched(arn, id, named_sessions).map_err(|e| Refused(403, e.to_string()))?;
    let bad = |problem: String| Refused::from(FunctionError::bad_input(problem, FORM));
    if event["isBase64Encoded"] == json!(true) {
        return Err(bad("the body is not text: send it as content-type application/json".into()));
    }
    let body = event["body"].as_str().unwrap_or_default();
    Ok((caller, serde_json::from_str(body).map_err(|e| bad(e.to_string()))?))
}

impl DecideApproval {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        let named = std::env::var("HIGHWATER_NAMED_SESSIONS").unwrap_or_default();
        Ok(Self {
            topic: Topic::new(&common.sdk, variable("HIGHWATER_TOPIC")?),
            machine: variable("HIGHWATER_PROMOTION_MACHINE")?,
            named_sessions: named.split(',').filter(|role| !role.is_empty()).map(str::to_owned).collect(),
            consents: Consents::new(&common),
        })
    }

    /// Handles one event; every outcome is an HTTP answer.
    ///
    /// # Errors
    /// None: a function that fails shows its caller nothing.
    pub async fn handle(&self, event: Value) -> Result<Value, FunctionError> {
        let (status, body) = match Box::pin(self.answer(&event)).await {
            Ok((status, body)) => (status, body),
            Err(Refused(status, message)) => {
                tracing::warn!(status, "{message}");
                (status, json!({"error": message}))
            }
        };
        Ok(json!({"statusCode": status, "headers": {"content-type": "application/json"}, "body": body.to_string()}))
    }

    async fn answer(&self, event: &Value) -> Result<(u16, Value), Refused> {
        let (caller, body) = parse(event, &self.named_sessions)?;
        let now = Timestamp::now();
        match body {
            Body::List { cluster } => {
                let found = self.consents.catalog.recent_approvals(&cluster, RECENT).await?;
                let promotions = self.consents.catalog.recent_promotions(&cluster, RECENT).await?;
                let begun = |record: &ApprovalRecord| promotions.iter().find(|promotion| promotion.id == record.request.id);
                let requests: Vec<Value> = found.iter().map(|record| record.shown(begun(record))).collect();
                Ok((200, json!({"cluster": cluster, "requests": requests, "you": caller.to_string()})))
            }
            Body::Restore { cluster, target, request_id } => Box::pin(self.restore(caller, cluster, target, request_id, now)).await,
            Body::Approve { cluster, request_id, certificate_sha256 } => {
                let vote = Vote { by: caller, word: Word::Approve, at: now, reason: None };
                self.vote(&cluster, &request_id, vote, Some(certificate_sha256)).await
            }
            Body::Deny { cluster, request_id, reason } => {
                let reason = reason.map(|text| text.chars().take(500).collect());
                let vote = Vote { by: caller, word: Word::Deny, at: now, reason };
                self.vote(&cluster, &request_id, vote, None).await
            }
        }
    }

    /// Records the request, then starts its execution under its name.
    async fn restore(
        &self,
        caller: Caller,
        cluster: ClusterId,
        target: Option<Target>,
        id: Option<PromotionId>,
        now: Timestamp,
    ) -> Result<(u16, Value), Refused> {
        let catalog = &self.consents.catalog;
        let id = id.unwrap_or_else(|| PromotionId::new(now, (RandomState::new().build_hasher().finish() & 0xffff) as u16));
        let execution = format!("{}:{id}", self.machine.replacen(":stateMachine:", ":execution:", 1));
        let request = PromotionRequest {
            id: id.clone(),
            cluster: cluster.clone(),
            target: target.clone(),
            requester: Some(caller.clone()),
            requested_at: now,
            question: None,
            votes: Vec::new(),
            state: RequestState::Drilling {},
        };
        let earlier = catalog.approval(&cluster, &id).await?;
        if earlier.is_none() {
            self.refuse_unready(&cluster, &id, now).await?;
        }
        let record = match earlier {
            Some(record) => record,
            None => match catalog.record_request(&ApprovalRecord::new(request, execution.clone())).await? {
                Recorded::There(record) => *record,
                Recorded::Superseded(by) => return Err(Refused(409, format!("request {by} is newer: ask again"))),
            },
        };
        let same = record.request.requester.as_ref().is_some_and(|by| by.is(&caller)) && record.request.target == target;
        if !same {
            return Err(Refused(409, format!("request {id} was made by somebody else, or for another target")));
        }
        if record.request.state == (RequestState::Drilling {}) {
            let mut input = json!({"cluster": cluster, "request_id": id});
            if let Some(target) = &target {
                input["target"] = json!(target);
            }
            let started = self.consents.executions.start(&self.machine, &id.to_string(), &input).await.map_err(FunctionError::from)?;
            if started == Started::NameTaken {
                // Its own execution has ended, or somebody took the name for something else: neither will ask for votes.
                self.consents.void(&record, "its execution has ended, or has another input".into()).await?;
                return Err(Refused(409, format!("execution {id} exists already, and is not this request's: ask again")));
            }
        }
        self.supersede_older(&record, &id).await?;
        tracing::info!(%cluster, request_id = %id, %caller, "a promotion was asked for");
        Ok((
            202,
            json!({"request_id": id, "execution": record.execution, "state": record.request.state.describe(), "you": caller.to_string()}),
        ))
    }

    async fn refuse_unready(&self, cluster: &ClusterId, id: &PromotionId, now: Timestamp) -> Result<(), Refused> {
        let catalog = &self.consents.catalog;
        if now.duration_since(id.at()).abs() > ID_TOLERANCE {
            return Err(Refused(400, format!("request id {id} is not of now ({now}): let it be chosen here, or set the clock")));
        }
        if catalog.head(cluster).await?.newest.is_none() {
            return Err(Refused(404, format!("cluster {cluster} has no restore point")));
        }
        match catalog.recent_promotions(cluster, 1).await?.first().filter(|p| p.state.is_unfinished()) {
            Some(open) => Err(Refused(409, format!("promotion {} of {cluster} is {}: it has to end first", open.id, open.state.name()))),
            None => Ok(()),
        }
    }

    /// A newer request takes the place of those before it; their executions are told.
    async fn supersede_older(&self, record: &ApprovalRecord, id: &PromotionId) -> Result<(), Refused> {
        for older in self.consents.catalog.recent_approvals(&record.request.cluster, RECENT).await? {
            if older.request.id < *id && !older.request.state.is_closed() {
                self.consents.void(&older, format!("superseded by request {id}")).await?;
            }
        }
        Ok(())
    }

    /// Counts a vote, records it, and carries out what it decides.
    async fn vote(&self, cluster: &ClusterId, id: &PromotionId, vote: Vote, certificate: Option<Sha256>) -> Result<(u16, Value), Refused> {
        let catalog = &self.consents.catalog;
        for _ in 0..ATTEMPTS {
            let unknown = || Refused(404, format!("cluster {cluster} has no request {id}: see `highwater approvals`"));
            let record = catalog.approval(cluster, id).await?.ok_or_else(unknown)?;
            let head = catalog.head(cluster).await?;
            let newest = catalog.newest_request(cluster).await?.ok_or_else(unknown)?;
            let situation = Situation {
                newest_request: &newest,
                newest_incarnation: head.newest.as_ref().map(|newest| &newest.incarnation),
                now: vote.at,
            };
            let record = match record.request.vote(vote.clone(), certificate, situation)? {
                Counted::Again => record,
                Counted::Changed(request) => {
                    let next = ApprovalRecord { request: *request, ..record.clone() };
                    let as_of = (vote.word == Word::Approve).then_some(&head);
                    match catalog.replace_approval(&record, next, as_of).await {
                        Ok(record) => {
                            self.tell(&record, &vote).await;
                            record
                        }
                        Err(CatalogError::Contended { .. }) => continue,
                        Err(error) => return Err(error.into()),
                    }
                }
            };
            let carried = self.consents.carry_out(&record).await?;
            let mut answer = record.shown(None);
            answer["approval"] = json!(carried.approval);
            if carried.too_late {
                answer["note"] = json!("nobody waits for this decision any more: its execution has ended, or had this answer before");
            }
            return Ok((200, answer));
        }
        Err(Refused(503, format!("request {id} kept changing: try again")))
    }

    /// For everyone to see. The vote counts without it.
    async fn tell(&self, record: &ApprovalRecord, vote: &Vote) {
        let request = &record.request;
        let word = match vote.word {
            Word::Approve => "approved",
            Word::Deny => "denied",
        };
        tracing::info!(cluster = %request.cluster, request_id = %request.id, by = %vote.by, arn = vote.by.arn, "{word}");
        let subject = format!("{word}: replace the data of {} ({})", request.cluster, request.id);
        let why = vote.reason.as_deref().map(|reason| format!("\nReason: {reason}")).unwrap_or_default();
        let state = match request.state {
            RequestState::Waiting {} => {
                format!("{} of {} approvals are there", request.approvers().len(), request.approvals_needed())
            }
            RequestState::Approved {} => "the promotion begins now".to_owned(),
            _ => "nothing has changed on the host".to_owned(),
        };
        let message = format!("{word} by {} at {}{why}\nRequest {}: {state}.\n", vote.by, vote.at, request.id);
        if let Err(error) = self.topic.publish(&subject, &message).await {
            tracing::warn!(%error, "the vote was recorded, but nobody was told");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn event(iam: Value, body: &str) -> Value {
        json!({"version": "2.0", "requestContext": {"authorizer": {"iam": iam}}, "body": body, "isBase64Encoded": false})
    }

    fn ada() -> Value {
        json!({"accountId": "111122223333", "userArn": "arn:aws:iam::111122223333:user/ada", "userId": "AIDA1", "callerId": "AIDA1"})
    }

    const LIST: &str = r#"{"action": "list", "cluster": "orders"}"#;

    #[test]
    fn only_an_event_of_the_urls_authorizer_is_taken() {
        assert!(parse(&event(ada(), LIST), &[]).is_ok());
        let mut cases = vec![event(Value::Null, LIST), json!({"action": "list", "cluster": "orders"}), json!({"body": LIST}), Value::Null];
        for missing in ["accountId", "userArn", "userId", "callerId"] {
            let mut iam = ada();
            iam[missing] = json!("");
            cases.push(event(iam, LIST));
        }
        for (name, other) in [("accountId", "999999999999"), ("callerId", "AIDA2"), ("userId", "AIDA2")] {
            let mut iam = ada();
            iam[name] = json!(other);
            cases.push(event(iam, LIST));
        }
        let mut typed = event(ada(), LIST);
        typed["version"] = json!("1.0");
        cases.push(typed);
        for case in cases {
            assert_eq!(parse(&case, &[]).map(|_| ()).unwrap_err().0, 403, "{case}");
        }
    }

    #[test]
    fn a_body_of_another_form_is_answered_with_the_accepted_ones() {
        for bad in [
            "",
            "{}",
            r#"{"action": "promote", "cluster": "orders"}"#,
            r#"{"action": "approve", "cluster": "orders", "request_id": "20261122T020000Z-4f7c"}"#,
            r#"{"action": "list", "cluster": "Orders"}"#,
            r#"{"action": "deny", "cluster": "orders", "request_id": "x"}"#,
            r#"{"action": "restore", "cluster": "orders", "requester": "ada"}"#,
        ] {
            let Refused(status, message) = parse(&event(ada(), bad), &[]).map(|_| ()).unwrap_err();
            assert_eq!(status, 400, "{bad}");
            assert!(message.ends_with(FORM), "{message}");
        }
    }
}
