//! `approvals`, `approve`, `deny`: promotions voted on at the deployment's URL, as the person whose AWS credentials these are.

use crate::deployment::{Context, Deployment};
use crate::error::{Error, Result};
use crate::output::{show, table, word};
use highwater_aws::call::sdk_config;
use highwater_aws::function_url::FunctionUrl;
use highwater_core::promotion::PromotionId;
use highwater_core::{ClusterId, Failure, Sha256};
use serde_json::{Value, json};

/// Where, and for which cluster.
#[derive(Debug, clap::Args)]
pub(crate) struct UrlArgs {
    /// The approval URL. Default: HIGHWATER_APPROVAL_URL, else the deployment's.
    #[arg(long)]
    pub(crate) url: Option<String>,
    /// The cluster.
    #[arg(long)]
    pub(crate) cluster: ClusterId,
}

/// Arguments of `approvals`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater approvals --cluster orders")]
pub(crate) struct ApprovalsArgs {
    #[command(flatten)]
    at: UrlArgs,
}

/// Arguments of `approve`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater approvals --cluster orders      # shows the whole command for each request\n  highwater approve --cluster orders --request 20261122T025000Z-4f7c --certificate SHA256"
)]
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
#[command(after_help = "Examples:\n  highwater deny --cluster orders --request 20261122T025000Z-4f7c --reason \"wrong restore point\"")]
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

pub(crate) async fn approvals(args: &ApprovalsArgs, cx: &Context) -> Result<()> {
    let answer = args.at.post(&json!({"action": "list", "cluster": args.at.cluster}), None, cx).await?;
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
    show(cx.json, &answer, &text);
    Ok(())
}

pub(crate) async fn approve(args: &ApproveArgs, cx: &Context) -> Result<()> {
    let (cluster, request) = (&args.at.cluster, &args.request);
    let body = json!({"action": "approve", "cluster": cluster, "request_id": request, "certificate_sha256": args.certificate});
    voted(&args.at.post(&body, None, cx).await?, cx.json);
    Ok(())
}

pub(crate) async fn deny(args: &DenyArgs, cx: &Context) -> Result<()> {
    let (cluster, request) = (&args.at.cluster, &args.request);
    let body = json!({"action": "deny", "cluster": cluster, "request_id": request, "reason": args.reason});
    voted(&args.at.post(&body, None, cx).await?, cx.json);
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

impl UrlArgs {
    /// The URL, if it is given.
    pub(crate) fn given(&self) -> Option<String> {
        self.url.clone().or_else(|| std::env::var("HIGHWATER_APPROVAL_URL").ok()).filter(|url| !url.is_empty())
    }

    /// The URL: given, or the deployment's.
    async fn url(&self, deployment: Option<&Deployment>, cx: &Context) -> Result<String> {
        let url = match (self.given(), deployment) {
            (Some(url), _) => url,
            (None, Some(deployment)) => deployment.of.approval_url.clone(),
            (None, None) => cx.deployment().await?.of.approval_url,
        };
        match url.starts_with("https://") || url.starts_with("http://127.0.0.1:") {
            true => Ok(url),
            false => Err(Error::new(Failure::Config, format!("the approval URL {url:?} does not begin with https://"))
                .hint("it is the stack's output ApprovalUrl, and in the question's message")),
        }
    }

    pub(crate) async fn post(&self, body: &Value, deployment: Option<&Deployment>, cx: &Context) -> Result<Value> {
        let url = self.url(deployment, cx).await?;
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
