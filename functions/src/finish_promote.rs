//! `finish-promote`: how a promotion, its resumption or its roll-back ended. An event only says where to look; the truth is
//! what SSM knows of every command on the host since the promotion began: exit codes, and the helper's words.
//!
//! What a crash leaves: an end that is recorded and not answered, with `open`, which `reconcile` finds.

use crate::consent::Consents;
use crate::error::{FunctionError, Name};
use crate::metrics;
use crate::pages::Pages;
use crate::promote::promotion_of;
use crate::serve::{Common, variable};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::promotions::{PromotionRecord, State};
use highwater_aws::sfn::Executions;
use highwater_aws::sns::Topic;
use highwater_aws::ssm::{Invocation, Ssm, comment, operation_of};
use highwater_core::ids::cluster_prefix;
use highwater_core::outcome::{CommandEnd, HostCommand, Judgement, Outcome, decisive, journal_in, judge, promotion_in};
use highwater_core::promotion::{PromotionId, PromotionJournalV1};
use highwater_core::{ClusterId, HostId, Pinned};
use highwater_pages::{Ending, PromotionView, promotion_report};
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

/// What the event must look like, for error messages.
pub const FORM: &str = r#"expected SSM's status event, {"promotion": {"cluster", "id"}}, {"approval": {"cluster", "id"}}, or {"settle": execution, "cluster", "approval", "failure"}"#;

/// A command that was sent is listed after so long at the latest.
const LISTED_WITHIN: SignedDuration = SignedDuration::from_secs(30);

/// How many promotions of a cluster are looked through for an approval.
const RECENT: usize = 50;

/// The event.
#[derive(Debug, Clone, PartialEq, Deserialize)]
#[serde(untagged)]
pub enum Event {
    /// A command's status has changed.
    Status {
        /// Only where to look.
        detail: Detail,
    },
    /// `reconcile`: this promotion is open.
    Promotion {
        /// Which.
        promotion: Which,
    },
    /// `reconcile`: this request is decided, and its task may not know it.
    Approval {
        /// Which.
        approval: Which,
    },
    /// The state machine: the promotion's task failed, or was silent.
    Settle {
        /// The execution.
        settle: String,
        /// The cluster.
        cluster: ClusterId,
        /// The approval.
        approval: Pinned,
        /// Why it asks.
        #[serde(default)]
        failure: Value,
    },
}

/// A promotion or a request.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Which {
    /// The cluster.
    pub cluster: ClusterId,
    /// The id of both.
    pub id: PromotionId,
}

/// What is read of SSM's event.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Detail {
    #[serde(rename = "command-id")]
    command_id: String,
    #[serde(rename = "instance-id")]
    instance_id: String,
}

/// What is known now.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// How it ended; none while that is not known, or nothing of ours has ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub outcome: Option<Outcome>,
    /// In words.
    pub reason: String,
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct FinishPromote {
    deployment: String,
    catalog: CatalogTable,
    consents: Consents,
    executions: Executions,
    ssm: Ssm,
    topic: Topic,
    pages: Pages,
}

/// What the commands of a promotion have said.
#[derive(Debug, Default)]
struct Heard {
    /// Of each what it means, in their order.
    judged: Vec<(HostCommand, Judgement)>,
    /// The newest journal among their results.
    journal: Option<PromotionJournalV1>,
}

/// Reads an event.
///
/// # Errors
/// `BadInput`, with the accepted form.
pub fn parse(event: Value) -> Result<Event, FunctionError> {
    serde_json::from_value(event).map_err(|e| FunctionError::bad_input(e, FORM))
}

fn nothing(reason: impl Into<String>) -> Answer {
    Answer { outcome: None, reason: reason.into() }
}

impl FinishPromote {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub async fn new(common: Common) -> Result<Self, FunctionError> {
        Ok(Self {
            pages: Pages::new(&common).await?,
            topic: Topic::new(&common.sdk, variable("HIGHWATER_TOPIC")?),
            executions: Executions::new(&common.sdk),
            ssm: Ssm::new(&common.sdk),
            consents: Consents::new(&common),
            catalog: CatalogTable::new(common.table),
            deployment: common.deployment,
        })
    }

    /// Handles one event.
    ///
    /// # Errors
    /// `BadInput`; `Transient`, also for a settlement of what has not ended.
    pub async fn handle(&self, event: Value) -> Result<Answer, FunctionError> {
        match parse(event)? {
            Event::Status { detail } => Box::pin(self.status(&detail)).await,
            Event::Promotion { promotion: Which { cluster, id } } => match self.catalog.promotion(&cluster, &id).await? {
                Some(record) => self.finish(record).await,
                None => Ok(nothing(format!("{cluster} has no promotion {id}"))),
            },
            Event::Approval { approval: Which { cluster, id } } => match self.catalog.approval(&cluster, &id).await? {
                Some(record) => {
                    self.consents.carry_out(&record).await?;
                    Ok(nothing(format!("request {id} is {}", record.request.state.describe())))
                }
                None => Ok(nothing(format!("{cluster} has no request {id}"))),
            },
            Event::Settle { settle, cluster, approval, failure } => self.settle(&settle, &cluster, &approval, &failure).await,
        }
    }

    /// A command has ended, or is said to have.
    async fn status(&self, detail: &Detail) -> Result<Answer, FunctionError> {
        let Detail { command_id, instance_id } = detail;
        let Some(invocation) = self.ssm.invocation(command_id, instance_id).await?.filter(Invocation::has_ended) else {
            return Ok(nothing(format!("command {command_id} has not ended")));
        };
        match self.record_of(&invocation, instance_id).await? {
            Some(record) => self.finish(record).await,
            None => Ok(nothing(format!("command {command_id} is of no promotion of this deployment"))),
        }
    }

    /// The promotion that a command was for: by its comment; of a document run by hand, by the approval that the helper names,
    /// else by the host whose promotion is open.
    async fn record_of(&self, invocation: &Invocation, host: &str) -> Result<Option<PromotionRecord>, FunctionError> {
        if let Some((cluster, operation)) = operation_of(&invocation.comment)
            && let Ok(id) = operation.parse()
        {
            return Ok(self.catalog.promotion(&cluster, &id).await?);
        }
        if let Some(said) = promotion_in(&invocation.stdout) {
            let found = self.catalog.recent_promotions(&said.cluster, RECENT).await?;
            return Ok(found.into_iter().find(|p| p.approval.sha256 == said.approval_sha256 && p.host.to_string() == host));
        }
        let open = self.catalog.open_promotions().await?;
        let is_of_host = |p: &PromotionRecord| p.host.to_string() == host && p.state.is_unfinished();
        // Where none is found, it may be the one that cannot be read.
        let (found, unread) = open.into_iter().partition::<Vec<_>, _>(|read| read.as_ref().is_ok_and(is_of_host));
        let decisive = found.into_iter().next().or_else(|| unread.into_iter().find(Result::is_err));
        Ok(decisive.transpose()?)
    }

    /// Records the end, if there is one, answers the task, and tells people.
    async fn finish(&self, read: PromotionRecord) -> Result<Answer, FunctionError> {
        let ended_well = matches!(&read.state, State::Ended { outcome: Outcome::Promoted, .. });
        let (record, journal) = match read.state.is_unfinished() || ended_well {
            true => self.look(&read).await?,
            false => (read.clone(), None),
        };
        let Some((outcome, reason)) = record.state.outcome() else {
            return Ok(nothing(format!("promotion {} has not ended", record.id)));
        };
        if record.open.is_some() || record.state != read.state {
            self.report(&record, journal).await;
        }
        if record.open.is_some() {
            self.executions.succeed(&record.task_token, &json!({"outcome": outcome, "reason": reason})).await?;
            self.catalog.close_promotion(&record).await?;
        }
        if record.state != read.state {
            self.pages.changed().await;
        }
        Ok(Answer { outcome: Some(outcome), reason: reason.to_owned() })
    }

    /// Looks at every command on the host since the promotion began, and records what they say together; with the host's journal.
    async fn look(&self, record: &PromotionRecord) -> Result<(PromotionRecord, Option<PromotionJournalV1>), FunctionError> {
        let (PromotionRecord { cluster, id, host, .. }, now) = (record, Timestamp::now());
        let Some(Heard { judged, journal }) = self.commands(record).await? else { return Ok((record.clone(), None)) };
        let end = match decisive(judged) {
            Some(end) => end,
            // The intent is old enough that a command would be listed: there is none, and no retry will send one now.
            None if record.state == State::Requested && now.duration_since(record.begun_at) > LISTED_WITHIN => {
                Judgement { outcome: Some(Outcome::Refused), reverted: false, reason: "no command was sent".to_owned() }
            }
            None => return Ok((record.clone(), journal)),
        };
        let after = match end.outcome {
            _ if end.reverted => self.catalog.revert_promotion(cluster, id, now).await?,
            Some(outcome) => self.catalog.end_promotion(cluster, id, (outcome, &end.reason), now).await?,
            None => return Ok((record.clone(), journal)),
        };
        if after.state != record.state {
            tracing::info!(%cluster, promotion_id = %id, %host, state = after.state.name(), "{}", end.reason);
            self.tell(&after).await;
        }
        Ok((after, journal))
    }

    /// What the promotion's commands say; `None` while one of them is still on its way.
    async fn commands(&self, record: &PromotionRecord) -> Result<Option<Heard>, FunctionError> {
        let since = record.begun_at.saturating_sub(SignedDuration::from_mins(1)).unwrap_or(record.begun_at);
        let ours = comment(&record.cluster, &record.id.to_string());
        let mut heard = Heard::default();
        let listed = self.ssm.commands_on(&record.host, since).await?;
        let mut wanted: Vec<(String, HostCommand)> = Vec::new();
        for one in &listed {
            match self.command_of(&one.document) {
                Some(HostCommand::Promote) if one.comment == ours => wanted.push((one.command_id.clone(), HostCommand::Promote)),
                Some(by_hand @ (HostCommand::Resume | HostCommand::Rollback)) => wanted.push((one.command_id.clone(), by_hand)),
                _ => {}
            }
        }
        // The list lags; the record's own command does not need it.
        if let State::Running { command_id, .. } = &record.state
            && !wanted.iter().any(|(id, _)| id == command_id)
        {
            wanted.insert(0, (command_id.clone(), HostCommand::Promote));
        }
        for (id, command) in wanted {
            match self.ssm.invocation(&id, &record.host.to_string()).await? {
                // Run by hand for another promotion of this host, before or after.
                Some(end) if promotion_in(&end.stdout).is_some_and(|said| said.approval_sha256 != record.approval.sha256) => {}
                Some(end) if end.has_ended() => {
                    let code = Some(end.exit_code).filter(|code| *code >= 0);
                    heard.judged.push((command, judge(command, CommandEnd { status: &end.status, exit_code: code, output: &end.stdout })));
                    heard.journal = journal_in(&end.stdout).or(heard.journal);
                }
                _ => return Ok(None),
            }
        }
        Ok(Some(heard))
    }

    /// Writes the report for people, with the host's journal if it told it: now, or in an earlier call.
    async fn report(&self, record: &PromotionRecord, journal: Option<PromotionJournalV1>) {
        if let Err(error) = self.try_report(record, journal).await {
            tracing::warn!(cluster = %record.cluster, promotion_id = %record.id, "its report was not written: {}", error.message);
        }
    }

    async fn try_report(&self, record: &PromotionRecord, journal: Option<PromotionJournalV1>) -> Result<(), FunctionError> {
        let PromotionRecord { cluster, id, .. } = record;
        let (ending, at) = match &record.state {
            State::Requested | State::Running { .. } => return Ok(()),
            State::Stuck { since, .. } => (Ending::Stuck, *since),
            State::Ended { outcome, ended_at, .. } => ((*outcome).into(), *ended_at),
            State::Reverted { reverted_at } => (Ending::Reverted, *reverted_at),
        };
        let journal = match journal {
            Some(journal) => Some(journal),
            None => self.commands(record).await?.and_then(|heard| heard.journal),
        };
        let request = self.catalog.approval(cluster, id).await?.map(|found| found.request);
        let page = promotion_report(&PromotionView {
            deployment: &self.deployment,
            id,
            cluster,
            host: Some(&record.host),
            backup_id: Some(&record.backup_id),
            approval: &record.approval,
            request: request.as_ref(),
            ending,
            reason: record.state.outcome().map_or("", |(_, reason)| reason),
            at,
            journal: journal.as_ref(),
        });
        self.pages.report(&page_key(cluster, id, ending), page).await;
        Ok(())
    }

    /// The report of a promotion that `promote` refused before it wrote anything: only its request is known.
    async fn report_refused(&self, cluster: &ClusterId, approval: &Pinned, reason: &str) -> Result<(), FunctionError> {
        let id = approval.key_in(self.consents.bucket.name()).and_then(|key| promotion_of(key, cluster));
        let Some(id) = id else { return Ok(()) };
        let request = self.catalog.approval(cluster, &id).await?.map(|found| found.request);
        let question = request.as_ref().and_then(|request| request.question.as_ref());
        let page = promotion_report(&PromotionView {
            deployment: &self.deployment,
            id: &id,
            cluster,
            host: question.map(|q| &q.host),
            backup_id: question.map(|q| &q.backup_id),
            approval,
            request: request.as_ref(),
            ending: Ending::Refused,
            reason,
            at: Timestamp::now(),
            journal: None,
        });
        self.pages.report(&page_key(cluster, &id, Ending::Refused), page).await;
        Ok(())
    }

    fn command_of(&self, document: &str) -> Option<HostCommand> {
        match document.strip_prefix(&self.deployment)?.strip_prefix('-')? {
            "promote" => Some(HostCommand::Promote),
            "resume" => Some(HostCommand::Resume),
            "rollback" => Some(HostCommand::Rollback),
            _ => None,
        }
    }

    /// The state machine wants an end now.
    async fn settle(&self, execution: &str, cluster: &ClusterId, approval: &Pinned, failure: &Value) -> Result<Answer, FunctionError> {
        let found = self.catalog.recent_promotions(cluster, RECENT).await?;
        let Some(record) = found.into_iter().find(|p| p.execution == *execution && p.approval == *approval) else {
            self.refuse_lost(cluster, approval).await?;
            // `promote` refused before it wrote anything, so nothing was sent.
            let cause = failure["Cause"].as_str().unwrap_or("the promotion was refused before it began; nothing has changed");
            let reason: String = cause.chars().take(2000).collect();
            if let Err(error) = self.report_refused(cluster, approval, &reason).await {
                tracing::warn!(%cluster, "the report of a refusal was not written: {}", error.message);
            }
            return Ok(Answer { outcome: Some(Outcome::Refused), reason });
        };
        let id = record.id.clone();
        let answer = self.finish(record).await?;
        match answer.outcome {
            Some(_) => Ok(answer),
            None => Err(FunctionError::new(Name::Transient, format!("promotion {id} of {cluster} has not ended yet"))),
        }
    }

    /// An approval without a promotion's record: was its command sent all the same?
    ///
    /// # Errors
    /// `Permanent` when it was: the record was lost, and nothing is known of the end.
    async fn refuse_lost(&self, cluster: &ClusterId, approval: &Pinned) -> Result<(), FunctionError> {
        let id = approval.key_in(self.consents.bucket.name()).and_then(|key| promotion_of(key, cluster));
        let Some(id) = id else { return Ok(()) };
        let asked = self.catalog.approval(cluster, &id).await?;
        let Some(question) = asked.and_then(|asked| asked.request.question) else { return Ok(()) };
        let sent = self.ssm.commands_of(&comment(cluster, &id.to_string()), &question.host, question.asked_at).await?;
        match sent.first() {
            None => Ok(()),
            Some(command) => Err(FunctionError::new(
                Name::Permanent,
                format!(
                    "promotion {id} of {cluster} was sent to {} as command {command}, and its record is gone: look at the host",
                    question.host
                ),
            )),
        }
    }

    /// Tells people. What was recorded holds without it.
    async fn tell(&self, record: &PromotionRecord) {
        let (subject, message) = message(&self.deployment, record);
        if matches!(record.state, State::Stuck { .. }) {
            metrics::emit(&self.deployment, None, &[("StuckPromotions", "Count", 1.0)]);
        }
        if let Err(error) = self.topic.publish(&subject, &message).await {
            tracing::warn!(%error, "the end was recorded, but nobody was told");
        }
    }
}

fn page_key(cluster: &ClusterId, id: &PromotionId, ending: Ending) -> String {
    format!("{}promotions/{id}/{}", cluster_prefix(cluster), ending.page_name())
}

fn message(deployment: &str, record: &PromotionRecord) -> (String, String) {
    let PromotionRecord { cluster, host, id, backup_id, .. } = record;
    let run = |document: &str, host: &HostId| format!("aws ssm send-command --document-name {deployment}-{document} --instance-ids {host}");
    let (word, text) = match &record.state {
        State::Ended { outcome: Outcome::Promoted, .. } => (
            "Promoted",
            format!(
                "{host} serves {backup_id} now. A full backup in a new incarnation follows.\nReplicas have to be rebuilt.\n\
                 The old data is kept on the host. To bring it back: {}\n",
                run("rollback", host)
            ),
        ),
        State::Ended { outcome: Outcome::RolledBack, reason, .. } => {
            ("Rolled back", format!("The promotion failed; the old data serves again on {host}.\n{reason}\n"))
        }
        State::Ended { reason, .. } => ("Refused", format!("Nothing has changed on {host}.\n{reason}\n")),
        State::Reverted { .. } => {
            ("Brought back", format!("An operator brought the old data back on {host}. The next backup is a full in a new incarnation.\n"))
        }
        State::Stuck { reason, .. } => (
            "STUCK, ACT NOW",
            format!(
                "Nobody knows which data {host} serves, or whether it serves any.\n{reason}\n\n1. Finish or undo it: {}\n\
                 2. If that does not end it, log in: highwater-host promote --resume says what it sees and what to do.\n\n\
                 Backups of {cluster} wait until it has ended.\n",
                run("resume", host)
            ),
        ),
        State::Requested | State::Running { .. } => ("Runs", String::new()),
    };
    (format!("{word}: promotion of {cluster} ({id})"), format!("Promotion {id} of cluster {cluster}: {word}.\n\n{text}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_event_that_calls_it_is_read() {
        let which = json!({"cluster": "orders", "id": "20261122T020000Z-4f7c"});
        let status =
            json!({"source": "aws.ssm", "detail": {"command-id": "c", "instance-id": "i-1", "document-name": "d", "status": "Success"}});
        assert!(matches!(parse(status), Ok(Event::Status { .. })));
        assert!(matches!(parse(json!({"promotion": which})), Ok(Event::Promotion { .. })));
        assert!(matches!(parse(json!({"approval": which})), Ok(Event::Approval { .. })));
        let approval = json!({"uri": "s3://b/k", "sha256": highwater_core::Sha256::of(b"x")});
        let settle = json!({"settle": "arn", "cluster": "orders", "approval": approval, "failure": {"Error": "x", "Cause": "y"}});
        assert!(matches!(parse(settle), Ok(Event::Settle { .. })));
        for bad in [json!({}), json!({"settle": "arn"}), json!("x")] {
            assert_eq!(parse(bad).unwrap_err().name, Name::BadInput);
        }
    }
}
