//! `restore`: asks for a promotion at the deployment's URL, and follows it: drill, votes, promotion. It is followed by the catalog,
//! or by the URL itself for who may only ask and approve: both tell a request alike (`ApprovalRecord::shown`).

use crate::decide::UrlArgs;
use crate::deployment::{Context, Deployment};
use crate::drill;
use crate::error::{Error, Result};
use crate::follow::{Followed, Seen, Step, Usual, executions, unknown, until_ended};
use crate::output::{show, word};
use highwater_aws::call::CallErrorKind;
use highwater_aws::sfn::ExecutionStatus;
use highwater_core::outcome::Outcome;
use highwater_core::plan::Target;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Failure};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater restore --cluster orders\n  highwater restore --cluster orders --target 2026-11-22T02:00:00Z\n  highwater restore --cluster orders --no-wait\n  highwater restore --cluster orders --request 20261122T025000Z-4f7c     # the same request again\n\nNothing changes before another person has approved. Ctrl-C stops following, not the request: `highwater deny` withdraws it.\n\nExit code 0: the restored data serves. 17: denied, expired or superseded; 12: the host refused; 19: it failed, and the old data\nserves again: with these three nothing has changed. 20: stuck, act now. 130: Ctrl-C, it goes on."
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

/// Where a request is looked at.
#[derive(Debug)]
pub(crate) enum Source<'a> {
    /// By the catalog.
    Catalog(&'a UrlArgs, Deployment),
    /// By the approval URL, of whose deployment this caller may read no more, or nothing.
    Url(&'a UrlArgs, Option<Deployment>),
}

/// How many requests are looked at for how long theirs took.
const LOOKED_AT: usize = 20;

/// What this caller may look at. A URL that was given works without a deployment, and another one that happens to be there is not asked.
pub(crate) async fn source<'a>(at: &'a UrlArgs, cx: &Context) -> Result<Source<'a>> {
    if at.given().is_some() && !cx.is_named {
        return Ok(Source::Url(at, None));
    }
    let deployment = cx.deployment().await?;
    let looked = async {
        deployment.config(&at.cluster).await?;
        Ok::<_, Error>(deployment.catalog().newest_request(&at.cluster).await?)
    };
    match looked.await {
        Ok(_) => Ok(Source::Catalog(at, deployment)),
        Err(error) if error.failure == Failure::AccessDenied => Ok(Source::Url(at, Some(deployment))),
        Err(error) => Err(error),
    }
}

impl Source<'_> {
    fn at(&self) -> &UrlArgs {
        match self {
            Self::Catalog(at, _) | Self::Url(at, _) => at,
        }
    }

    fn deployment(&self) -> Option<&Deployment> {
        match self {
            Self::Catalog(_, deployment) => Some(deployment),
            Self::Url(_, deployment) => deployment.as_ref(),
        }
    }

    /// The newest requests.
    async fn recent(&self, cx: &Context) -> Result<Vec<Value>> {
        let cluster = &self.at().cluster;
        match self {
            Self::Catalog(_, deployment) => {
                let catalog = deployment.catalog();
                let promotions = catalog.recent_promotions(cluster, LOOKED_AT).await?;
                let requests = catalog.recent_approvals(cluster, LOOKED_AT).await?;
                Ok(requests.iter().map(|record| record.shown(promotions.iter().find(|p| p.id == record.request.id))).collect())
            }
            Self::Url(at, deployment) => {
                let mut answer = at.post(&json!({"action": "list", "cluster": cluster}), deployment.as_ref(), cx).await?;
                match answer["requests"].take() {
                    Value::Array(requests) => Ok(requests),
                    _ => Err(Error::new(Failure::Document, format!("the approval URL answered without requests: {answer}"))),
                }
            }
        }
    }

    /// One request.
    async fn request(&self, id: &PromotionId, cx: &Context) -> Result<Value> {
        let cluster = &self.at().cluster;
        let found = match self {
            Self::Catalog(_, deployment) => {
                let catalog = deployment.catalog();
                let promotion = catalog.promotion(cluster, id).await?;
                catalog.approval(cluster, id).await?.map(|record| record.shown(promotion.as_ref()))
            }
            Self::Url(..) => self.recent(cx).await?.into_iter().find(|request| request["request_id"] == json!(id)),
        };
        found.ok_or_else(|| unknown("request", id, cluster))
    }

    /// Whether the execution of a request runs; nothing where this caller may not ask.
    async fn runs(&self, execution: &str) -> Result<Option<bool>> {
        let Self::Catalog(_, deployment) = self else { return Ok(None) };
        match executions(deployment).status(execution).await {
            Ok(status) => Ok(Some(status == ExecutionStatus::Running)),
            Err(error) if error.kind == CallErrorKind::AccessDenied => Ok(None),
            Err(error) => Err(error.into()),
        }
    }
}

pub(crate) async fn run(args: &RestoreArgs, cx: &Context) -> Result<()> {
    let (at, cluster) = (&args.at, &args.at.cluster);
    let source = source(at, cx).await?;
    if let Source::Catalog(_, deployment) = &source {
        // What can be told before anything is asked.
        drill::plan(deployment, cluster, &args.target).await?;
    }
    // Chosen here, so that whatever is sent again, by the network or by hand, is one request.
    let random = (RandomState::new().build_hasher().finish() & 0xffff) as u16;
    let id = args.request.clone().unwrap_or_else(|| PromotionId::new(Timestamp::now(), random));
    let body = json!({"action": "restore", "cluster": cluster, "target": args.target, "request_id": id});
    let again = format!("whether it was recorded is not known: the same request again is --request {id}");
    let answer = at.post(&body, source.deployment(), cx).await.map_err(|e| if e.hint.is_none() { e.hint(again) } else { e })?;
    let text = format!(
        "request {id}: {} of {cluster} is drilled first; then another person has to approve\nexecution {}\nasked as {}\n",
        args.target,
        word(&answer, "execution"),
        word(&answer, "you"),
    );
    if args.no_wait {
        show(cx.json, &answer, &text);
        return Ok(());
    }
    if !cx.json {
        show(false, &answer, &text);
    }
    follow(&source, &id, cx).await
}

/// Follows a request to its end, and says how it ended.
pub(crate) async fn follow(source: &Source<'_>, id: &PromotionId, cx: &Context) -> Result<()> {
    let cluster = &source.at().cluster;
    let recent = source.recent(cx).await?;
    let url = source.at().url.as_deref().filter(|_| source.deployment().is_none());
    let followed = Followed { what: "promotion", id: id.to_string(), cluster, url, began: id.at() };
    let ended = until_ended(&followed, cx, async || look(source, id, &recent, cx).await).await?;
    say(&ended, cluster, id, cx)
}

/// The request as it is now: it ended with that, or its step.
async fn look(source: &Source<'_>, id: &PromotionId, recent: &[Value], cx: &Context) -> Result<Seen<Value>> {
    let request = source.request(id, cx).await?;
    let (promotion, question, cluster) = (&request["promotion"], &request["question"], &source.at().cluster);
    let runs = |says: String, usual: Option<Usual>| Ok(Seen::Runs(Step { says, usual }));
    if promotion["outcome"].is_string() {
        return Ok(Seen::Ended(request));
    }
    if promotion.is_object() {
        let usual = time(&promotion["begun_at"]).and_then(|began| Usual::of(began, recent.iter().filter_map(promoting)));
        return runs(format!("promoting on {} ({})", word(promotion, "host"), word(promotion, "state")), usual);
    }
    match word(&request, "state") {
        "drilling" => {
            let usual = time(&request["requested_at"]).and_then(|began| Usual::of(began, recent.iter().filter_map(drilling)));
            runs("its restore point is being drilled".to_owned(), usual)
        }
        "waiting" => {
            let (given, needed, until) = (&request["approvals"], &request["approvals_needed"], word(question, "expires_at"));
            runs(format!("waits for votes until {until}, {given} of {needed} (`highwater approvals --cluster {cluster}`)"), None)
        }
        // Ended, and no promotion was begun: the last look may have been just before it was.
        "approved" if source.runs(word(&request, "execution")).await? == Some(false) => match source.request(id, cx).await? {
            request if request["promotion"].is_object() => runs("promoting".to_owned(), None),
            request => Ok(Seen::Ended(request)),
        },
        "approved" => runs("approved, about to begin".to_owned(), None),
        _ => Ok(Seen::Ended(request)),
    }
}

fn time(value: &Value) -> Option<Timestamp> {
    value.as_str()?.parse().ok()
}

/// Of a request: from the asking to the question, seconds.
fn drilling(request: &Value) -> Option<i64> {
    Some(time(&request["question"]["asked_at"])?.duration_since(time(&request["requested_at"])?).as_secs())
}

/// Of a promotion that succeeded, seconds.
fn promoting(request: &Value) -> Option<i64> {
    let promotion = &request["promotion"];
    let promoted = promotion["outcome"] == json!(Outcome::Promoted);
    promoted.then(|| Some(time(&promotion["ended_at"])?.duration_since(time(&promotion["begun_at"])?).as_secs()))?
}

fn say(request: &Value, cluster: &ClusterId, id: &PromotionId, cx: &Context) -> Result<()> {
    let promotion = &request["promotion"];
    if promotion.is_null() {
        let state = word(request, "state");
        show(cx.json, &json!({"cluster": cluster, "request_id": id, "outcome": "not promoted", "reason": state}), "");
        return Err(Error::new(Failure::Approval, format!("request {id} of {cluster} is {state}: nothing has changed")).already_shown());
    }
    let outcome: Outcome = serde_json::from_value(promotion["outcome"].clone())
        .map_err(|e| Error::new(Failure::Document, format!("how promotion {id} ended cannot be read: {e}")))?;
    let (host, backup_id, reason) = (word(promotion, "host"), word(promotion, "backup_id"), word(promotion, "reason"));
    let value = json!({
        "cluster": cluster, "request_id": id, "outcome": outcome, "reason": reason, "host": host, "backup_id": backup_id,
    });
    let text = format!("promotion {id} of {cluster}: {}: {reason}\n", outcome.as_str());
    let failure = match outcome {
        Outcome::Promoted => {
            show(cx.json, &value, &format!("{text}{host} serves {backup_id}; the next backup is a full in a new incarnation\n"));
            return Ok(());
        }
        Outcome::RolledBack => Failure::RolledBack,
        Outcome::Refused => Failure::Precondition,
        Outcome::Stuck => Failure::Stuck,
    };
    show(cx.json, &value, &text);
    let hint = match failure {
        Failure::Stuck => "act now; RUNBOOK: promotion-stuck",
        _ => "the old data serves; the reason says what to mend",
    };
    Err(Error::new(failure, format!("promotion {id} of {cluster} was not done: {reason}")).hint(hint).already_shown())
}
