//! `restore`: asks for a promotion at the deployment's URL, and follows it: drill, votes, promotion.

use crate::decide::UrlArgs;
use crate::deployment::{Context, Deployment};
use crate::drill;
use crate::error::{Error, Result};
use crate::follow::{Followed, Seen, executions, unknown, until_ended};
use crate::output::{show, word};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::promotions::{PromotionRecord, State};
use highwater_aws::sfn::{ExecutionStatus, Executions};
use highwater_core::consent::{PromotionRequest, RequestState};
use highwater_core::outcome::Outcome;
use highwater_core::plan::Target;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Failure};
use jiff::Timestamp;
use serde_json::json;
use std::hash::{BuildHasher, Hasher, RandomState};

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater restore --cluster orders\n  highwater restore --cluster orders --target 2026-11-22T02:00:00Z\n  highwater restore --cluster orders --request 20261122T025000Z-4f7c     # the same request again\n\nNothing changes before another person has approved. Ctrl-C stops following, not the request: `highwater deny` withdraws it."
)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    at: UrlArgs,
    /// latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z.
    #[arg(long, default_value = "latest")]
    target: Target,
    /// Of an earlier call whose answer was lost: the same request again.
    #[arg(long, value_name = "ID")]
    request: Option<PromotionId>,
    /// Ask, and do not follow.
    #[arg(long)]
    no_wait: bool,
}

pub(crate) async fn run(args: &RestoreArgs, cx: &Context) -> Result<()> {
    let cluster = &args.at.cluster;
    // A URL works without a stack's description; where that is at hand, what it can tell is told before anything is asked.
    let deployment = match args.at.given().is_some() && !cx.is_named {
        true => None,
        false => Some(cx.deployment().await?),
    };
    if let Some(deployment) = &deployment {
        check(deployment, cluster, &args.target).await?;
    }
    // Chosen here, so that whatever is sent again, by the network or by hand, is one request.
    let random = (RandomState::new().build_hasher().finish() & 0xffff) as u16;
    let id = args.request.clone().unwrap_or_else(|| PromotionId::new(Timestamp::now(), random));
    let body = json!({"action": "restore", "cluster": cluster, "target": args.target, "request_id": id});
    let again = format!("whether it was recorded is not known: the same request again is --request {id}");
    let answer = args.at.post(&body, deployment.as_ref(), cx).await.map_err(|e| if e.hint.is_none() { e.hint(again) } else { e })?;
    let text = format!(
        "request {id}: {} of {cluster} is drilled first; then another person has to approve\nexecution {}\nasked as {}\n",
        args.target,
        word(&answer, "execution"),
        word(&answer, "you"),
    );
    match deployment.filter(|_| !args.no_wait) {
        None => {
            show(cx.json, &answer, &text);
            Ok(())
        }
        Some(deployment) => {
            if !cx.json {
                show(false, &answer, &text);
            }
            follow(&deployment, cluster, &id, cx).await
        }
    }
}

/// Whether the cluster and the target exist, if this caller may look: an approver may not, and the drill will say.
async fn check(deployment: &Deployment, cluster: &ClusterId, target: &Target) -> Result<()> {
    let checked = async {
        deployment.config(cluster).await?;
        drill::plan(deployment, cluster, target).await
    };
    match checked.await {
        Ok(_) => Ok(()),
        Err(error) if error.failure == Failure::AccessDenied => Ok(()),
        Err(error) => Err(error),
    }
}

/// Follows a request to its end, and says how it ended.
pub(crate) async fn follow(deployment: &Deployment, cluster: &ClusterId, id: &PromotionId, cx: &Context) -> Result<()> {
    let (catalog, machine) = (deployment.catalog(), executions(deployment));
    let followed = Followed { what: "promotion", id: id.to_string(), cluster, began: id.at(), usually: None };
    let ended = until_ended(&followed, cx, async || look(&catalog, &machine, cluster, id).await).await?;
    say(ended, cluster, id, cx)
}

/// How a request ended.
enum Ended {
    /// Without a promotion.
    Refused(Box<PromotionRequest>),
    Promoted(Box<PromotionRecord>),
}

async fn look(catalog: &CatalogTable, machine: &Executions, cluster: &ClusterId, id: &PromotionId) -> Result<Seen<Ended>> {
    if let Some(record) = catalog.promotion(cluster, id).await? {
        return Ok(match &record.state {
            State::Requested | State::Running { .. } => Seen::Runs(format!("promoting on {} ({})", record.host, record.state.name())),
            _ => Seen::Ended(Ended::Promoted(Box::new(record))),
        });
    }
    let record = catalog.approval(cluster, id).await?.ok_or_else(|| unknown("request", id, cluster))?;
    let request = record.request;
    Ok(match &request.state {
        RequestState::Drilling {} => Seen::Runs("its restore point is being drilled".to_owned()),
        RequestState::Waiting {} => {
            let until = request.question.as_ref().map_or_else(String::new, |question| format!(" until {}", question.expires_at));
            let (given, needed) = (request.approvers().len(), request.approvals_needed());
            Seen::Runs(format!("waits for votes{until}, {given} of {needed} (`highwater approvals --cluster {cluster}`)"))
        }
        RequestState::Approved {} => match machine.status(&record.execution).await? {
            ExecutionStatus::Running => Seen::Runs("approved, about to begin".to_owned()),
            // Ended, and no promotion was begun: the last look may have been just before it was.
            _ => match catalog.promotion(cluster, id).await? {
                Some(_) => Seen::Runs("promoting".to_owned()),
                None => Seen::Ended(Ended::Refused(Box::new(request))),
            },
        },
        RequestState::Denied {} | RequestState::Void { .. } => Seen::Ended(Ended::Refused(Box::new(request))),
    })
}

fn say(ended: Ended, cluster: &ClusterId, id: &PromotionId, cx: &Context) -> Result<()> {
    match ended {
        Ended::Refused(request) => {
            let state = request.state.describe();
            show(cx.json, &json!({"cluster": cluster, "request_id": id, "outcome": "not promoted", "reason": state}), "");
            Err(Error::new(Failure::Approval, format!("request {id} of {cluster} is {state}: nothing has changed")).already_shown())
        }
        Ended::Promoted(record) => {
            let (outcome, reason) = record.state.outcome().unwrap_or((Outcome::Stuck, record.state.name()));
            let value = json!({
                "cluster": cluster, "request_id": id, "outcome": outcome, "reason": reason, "host": record.host, "backup_id": record.backup_id,
            });
            let text = format!("promotion {id} of {cluster}: {}: {reason}\n", outcome.as_str());
            let failure = match outcome {
                Outcome::Promoted => {
                    show(
                        cx.json,
                        &value,
                        &format!("{text}{} serves {}; the next backup is a full in a new incarnation\n", record.host, record.backup_id),
                    );
                    return Ok(());
                }
                Outcome::RolledBack => Failure::RolledBack,
                Outcome::Refused => Failure::Precondition,
                Outcome::Stuck => Failure::Stuck,
            };
            show(cx.json, &value, &text);
            let hint = if failure == Failure::Stuck {
                "act now; RUNBOOK: promotion-stuck"
            } else {
                "the old data serves; the reason says what to mend"
            };
            Err(Error::new(failure, format!("promotion {id} of {cluster} was not done: {reason}")).hint(hint).already_shown())
        }
    }
}
