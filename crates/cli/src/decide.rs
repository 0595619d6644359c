//! `restore`, `approvals`, `approve`, `deny`: a promotion asked for and voted on at the deployment's URL, as the person whose
//! AWS credentials these are.

use crate::error::{Error, Result};
use crate::output::{show, table};
use highwater_aws::call::sdk_config;
use highwater_aws::function_url::FunctionUrl;
use highwater_core::plan::Target;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Failure, Sha256};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::hash::{BuildHasher, Hasher, RandomState};

/// Where, and for which cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct UrlArgs {
    /// The deployment's approval URL: the stack's output ApprovalUrl. Also read from HIGHWATER_APPROVAL_URL.
    #[arg(long)]
    url: Option<String>,
    /// The cluster.
    #[arg(long)]
    cluster: ClusterId,
}

/// Arguments of `restore`.
#[derive(Debug, clap::Args)]
pub(crate) struct RestoreArgs {
    #[command(flatten)]
    at: UrlArgs,
    /// latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z.
    #[arg(long, default_value = "latest")]
    target: Target,
    /// Of an earlier call whose answer was lost: the same request again.
    #[arg(long, value_name = "ID")]
    request: Option<PromotionId>,
}

/// Arguments of `approvals`.
#[derive(Debug, clap::Args)]
pub(crate) struct ApprovalsArgs {
    #[command(flatten)]
    at: UrlArgs,
}

/// Arguments of `approve`.
#[derive(Debug, clap::Args)]
pub(crate) struct ApproveArgs {
    #[command(flatten)]
    at: UrlArgs,
    /// The request.
    #[arg(long, value_name = "ID")]
    request: PromotionId,
    /// The certificate's SHA-256, as the question shows it: what you approve is this and nothing else.
    #[arg(long, value_name = "HEX")]
    certificate: Sha256,
}

/// Arguments of `deny`.
#[derive(Debug, clap::Args)]
pub(crate) struct DenyArgs {
    #[command(flatten)]
    at: UrlArgs,
    /// The request.
    #[arg(long, value_name = "ID")]
    request: PromotionId,
    /// Why, for everyone who is told.
    #[arg(long)]
    reason: Option<String>,
}

pub(crate) async fn restore(args: &RestoreArgs, json: bool) -> Result<()> {
    // Chosen here, so that whatever is sent again, by the network or by hand, is one request.
    let random = (RandomState::new().build_hasher().finish() & 0xffff) as u16;
    let id = args.request.clone().unwrap_or_else(|| PromotionId::new(Timestamp::now(), random));
    let body = json!({"action": "restore", "cluster": args.at.cluster, "target": args.target, "request_id": id});
    let again = format!("whether it was recorded is not known: the same request again is --request {id}");
    let answer = args.at.post(&body).await.map_err(|e| if e.hint.is_none() { e.hint(again) } else { e })?;
    let text = format!(
        "request {id}: {} of {} is drilled first; then another person has to approve\nexecution {}\nasked as {}\n",
        args.target,
        args.at.cluster,
        word(&answer, "execution"),
        word(&answer, "you"),
    );
    show(json, &answer, &text);
    Ok(())
}

pub(crate) async fn approvals(args: &ApprovalsArgs, json: bool) -> Result<()> {
    let answer = args.at.post(&json!({"action": "list", "cluster": args.at.cluster})).await?;
    let requests = answer["requests"].as_array().cloned().unwrap_or_default();
    let rows: Vec<_> = requests.iter().map(row).collect();
    let mut text = match rows.is_empty() {
        true => format!("no request for a promotion of {}\n", args.at.cluster),
        false => table(&["request", "state", "approvals", "restore point", "of", "host", "expires", "requested by"], &rows),
    };
    for request in requests.iter().filter(|r| r["state"] == "waiting") {
        let (id, certificate) = (word(request, "request_id"), word(&request["question"]["certificate"], "sha256"));
        text.push_str(&format!("\nhighwater approve --cluster {} --request {id} --certificate {certificate}\n", args.at.cluster));
    }
    text.push_str(&format!("\nyou are {}\n", word(&answer, "you")));
    show(json, &answer, &text);
    Ok(())
}

pub(crate) async fn approve(args: &ApproveArgs, json: bool) -> Result<()> {
    let (cluster, request) = (&args.at.cluster, &args.request);
    let body = json!({"action": "approve", "cluster": cluster, "request_id": request, "certificate_sha256": args.certificate});
    voted(&args.at.post(&body).await?, json);
    Ok(())
}

pub(crate) async fn deny(args: &DenyArgs, json: bool) -> Result<()> {
    let (cluster, request) = (&args.at.cluster, &args.request);
    let body = json!({"action": "deny", "cluster": cluster, "request_id": request, "reason": args.reason});
    voted(&args.at.post(&body).await?, json);
    Ok(())
}

fn voted(answer: &Value, json: bool) {
    let note = answer["note"].as_str().map(|note| format!("{note}\n")).unwrap_or_default();
    let text = format!(
        "request {} is {}: {} of {} approvals\n{note}",
        word(answer, "request_id"),
        word(answer, "state"),
        answer["approvals"],
        answer["approvals_needed"]
    );
    show(json, answer, &text);
}

fn row(request: &Value) -> Vec<String> {
    let question = &request["question"];
    let approvals = format!("{} of {}", request["approvals"], request["approvals_needed"]);
    let requester = request["requester"].as_str().unwrap_or("unknown (console)").to_owned();
    let of = |value: &Value, key| word(value, key).to_owned();
    vec![
        of(request, "request_id"),
        of(request, "state"),
        approvals,
        of(question, "backup_id"),
        of(question, "restores_to"),
        of(question, "host"),
        of(question, "expires_at"),
        requester,
    ]
}

fn word<'a>(value: &'a Value, key: &str) -> &'a str {
    value[key].as_str().unwrap_or("-")
}

impl UrlArgs {
    async fn post(&self, body: &Value) -> Result<Value> {
        let url = self.url.clone().or_else(|| std::env::var("HIGHWATER_APPROVAL_URL").ok());
        let url = url.filter(|url| url.starts_with("https://") || url.starts_with("http://127.0.0.1:")).ok_or_else(|| {
            Error::new(Failure::Config, "no approval URL is given, or it does not begin with https://")
                .hint("give --url, or set HIGHWATER_APPROVAL_URL: it is the stack's output ApprovalUrl, and in the question's message")
        })?;
        let sent = FunctionUrl::new(&sdk_config().await, &url).post(body).await;
        let answer = sent.map_err(|e| Error::new(Failure::Storage, e.to_string()))?;
        let parsed: Value = serde_json::from_slice(&answer.body).unwrap_or(Value::Null);
        if (200..300).contains(&answer.status) {
            return Ok(parsed);
        }
        let said = ["error", "Message", "message"].iter().find_map(|key| parsed[*key].as_str());
        let said = said.map_or_else(|| String::from_utf8_lossy(&answer.body).chars().take(400).collect(), str::to_owned);
        let failure = match (answer.status, parsed["error"].is_string()) {
            (403, false) | (401, _) => Failure::AccessDenied,
            (400, _) => Failure::Document,
            (500.., _) => Failure::Storage,
            _ => Failure::Approval,
        };
        let error = Error::new(failure, format!("{said} (HTTP {})", answer.status));
        Err(match failure {
            Failure::AccessDenied => {
                error.hint("the policy <deployment>-approver lets a role call the URL; check AWS_PROFILE and the session's expiry")
            }
            Failure::Approval => error.hint("see `highwater approvals`; nothing has changed"),
            _ => error,
        })
    }
}
