//! Systems Manager: the clusters' configuration, and commands on hosts.

use crate::call::{CallError, CallErrorKind};
use aws_config::SdkConfig;
use aws_sdk_ssm::Client;
use aws_sdk_ssm::config::retry::RetryConfig;
use aws_sdk_ssm::types::{CommandFilter, CommandFilterKey};
use highwater_core::cluster::ClusterConfigV1;
use highwater_core::deployment::DeploymentV1;
use highwater_core::{BackupId, ClusterId, Document, DocumentError, HostId};
use jiff::Timestamp;
use std::collections::HashMap;
use std::time::Duration;

/// Systems Manager.
#[derive(Debug, Clone)]
pub struct Ssm {
    client: Client,
}

/// Why a cluster's configuration cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    /// The service; `NotFound` for a cluster that is not configured.
    #[error(transparent)]
    Call(#[from] CallError),
    /// The parameter is no configuration.
    #[error("the parameter {name}")]
    Document {
        /// The parameter.
        name: String,
        /// Why not.
        source: DocumentError,
    },
}

/// A command to send.
#[derive(Debug, Clone)]
pub struct Command<'a> {
    /// The document.
    pub document: &'a str,
    /// Where it runs.
    pub host: &'a HostId,
    /// What it is for: [`comment`].
    pub comment: String,
    /// The document's parameters.
    pub parameters: Vec<(&'a str, String)>,
    /// It is not delivered later than this after it was sent.
    pub deliver_within: Duration,
}

/// A command on a host, as the service knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Invocation {
    /// The command.
    pub command_id: String,
    /// Its comment.
    pub comment: String,
    /// Its document.
    pub document: String,
    /// The status in detail, as the service spells it: `Success`, `Failed`, `ExecutionTimedOut`, `Undeliverable` …
    pub status: String,
    /// Of the script; -1 where it has none (yet).
    pub exit_code: i32,
    /// The first 24,000 characters.
    pub stdout: String,
    /// The first 8,000.
    pub stderr: String,
}

/// A command on a host, as a list shows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// The command.
    pub command_id: String,
    /// Its comment.
    pub comment: String,
    /// Its document.
    pub document: String,
}

impl Invocation {
    /// Whether it will not change any more. Every status that is not on the way is an end.
    pub fn has_ended(&self) -> bool {
        !matches!(self.status.as_str(), "Pending" | "InProgress" | "Delayed" | "Cancelling" | "")
    }
}

/// The comment by which an operation's commands are found: `highwater <cluster> <operation>`.
pub fn comment(cluster: &ClusterId, operation: &str) -> String {
    format!("highwater {cluster} {operation}")
}

/// The operation of a comment.
pub fn operation_of(comment: &str) -> Option<(ClusterId, &str)> {
    let (cluster, operation) = comment.strip_prefix("highwater ")?.split_once(' ')?;
    Some((cluster.parse().ok()?, operation))
}

/// The backup of a comment.
pub fn backup_of(comment: &str) -> Option<(ClusterId, BackupId)> {
    let (cluster, operation) = operation_of(comment)?;
    Some((cluster, operation.parse().ok()?))
}

impl Ssm {
    /// A client.
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// The configuration of a cluster, from the parameter `<path>/<cluster>`.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub async fn cluster(&self, path: &str, cluster: &ClusterId) -> Result<ClusterConfigV1, ConfigError> {
        let name = format!("{path}/{cluster}");
        let answer = self.client.get_parameter().name(&name).send().await.map_err(|e| CallError::of("ssm:GetParameter", &name, e))?;
        parse(&name, answer.parameter.and_then(|p| p.value).as_deref())
    }

    /// The deployment of this name, from the parameter that its stack wrote.
    ///
    /// # Errors
    /// See [`ConfigError`].
    pub async fn deployment(&self, name: &str) -> Result<DeploymentV1, ConfigError> {
        let name = DeploymentV1::parameter(name);
        let answer = self.client.get_parameter().name(&name).send().await.map_err(|e| CallError::of("ssm:GetParameter", &name, e))?;
        parse(&name, answer.parameter.and_then(|p| p.value).as_deref())
    }

    /// The configuration of every cluster below `path`, by name. One that cannot be read is an error of its own: it does
    /// not hide the others.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn clusters(&self, path: &str) -> Result<Vec<Result<ClusterConfigV1, ConfigError>>, CallError> {
        let mut pages = self.client.get_parameters_by_path().path(path).into_paginator().send();
        let mut found = Vec::new();
        while let Some(page) = pages.next().await {
            let page = page.map_err(|e| CallError::of("ssm:GetParametersByPath", path, e))?;
            for parameter in page.parameters.unwrap_or_default() {
                let name = parameter.name.unwrap_or_default();
                found.push((parse(&name, parameter.value.as_deref()), name));
            }
        }
        found.sort_by(|a, b| a.1.cmp(&b.1));
        Ok(found.into_iter().map(|(config, _)| config).collect())
    }

    /// Sends a command and gives its id. Not tried again by itself: a lost reply may hide a command that runs, which
    /// [`Ssm::commands_of`] finds.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn send(&self, command: &Command<'_>) -> Result<String, CallError> {
        let subject = format!("{} on {}", command.document, command.host);
        let parameters: HashMap<_, _> = command.parameters.iter().map(|(k, v)| ((*k).to_owned(), vec![v.clone()])).collect();
        let answer = self
            .client
            .send_command()
            .document_name(command.document)
            .instance_ids(command.host.to_string())
            .comment(&command.comment)
            .set_parameters(Some(parameters))
            .timeout_seconds(i32::try_from(command.deliver_within.as_secs()).unwrap_or(i32::MAX))
            .customize()
            .config_override(aws_sdk_ssm::config::Builder::new().retry_config(RetryConfig::disabled()))
            .send()
            .await
            .map_err(|e| CallError::of("ssm:SendCommand", &subject, e))?;
        answer.command.and_then(|c| c.command_id).ok_or_else(|| CallError {
            operation: "ssm:SendCommand",
            subject,
            kind: CallErrorKind::Unavailable,
            code: String::new(),
            detail: "the answer names no command".to_owned(),
        })
    }

    /// The ids of the commands with this comment on a host, since a time.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn commands_of(&self, comment: &str, host: &HostId, since: Timestamp) -> Result<Vec<String>, CallError> {
        let found = self.commands_on(host, since).await?;
        Ok(found.into_iter().filter(|c| c.comment == comment).map(|c| c.command_id).collect())
    }

    /// The commands on a host since a time, in the order in which they were sent.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn commands_on(&self, host: &HostId, since: Timestamp) -> Result<Vec<Listed>, CallError> {
        const OPERATION: &str = "ssm:ListCommandInvocations";
        let after = CommandFilter::builder().key(CommandFilterKey::InvokedAfter).value(since.strftime("%Y-%m-%dT%H:%M:%SZ").to_string());
        let after = after.build().map_err(|e| CallError {
            operation: OPERATION,
            subject: host.to_string(),
            kind: CallErrorKind::Refused,
            code: String::new(),
            detail: e.to_string(),
        })?;
        let mut pages = self.client.list_command_invocations().instance_id(host.to_string()).filters(after).into_paginator().items().send();
        let mut found = Vec::new();
        while let Some(one) = pages.next().await {
            let one = one.map_err(|e| CallError::of(OPERATION, host.to_string(), e))?;
            let at = one.requested_date_time.map(|at| (at.secs(), at.subsec_nanos())).unwrap_or_default();
            let (comment, document) = (one.comment.unwrap_or_default(), one.document_name.unwrap_or_default());
            found.extend(one.command_id.map(|command_id| (at, Listed { command_id, comment, document })));
        }
        found.sort_by_key(|(at, _)| *at);
        Ok(found.into_iter().map(|(_, listed)| listed).collect())
    }

    /// What the service knows of a command on a host; `None` where it knows no such command (yet).
    ///
    /// # Errors
    /// Those of the service.
    pub async fn invocation(&self, command_id: &str, host: &str) -> Result<Option<Invocation>, CallError> {
        let sent = self.client.get_command_invocation().command_id(command_id).instance_id(host).send().await;
        let answer = match sent.map_err(|e| CallError::of("ssm:GetCommandInvocation", format!("{command_id} on {host}"), e)) {
            Ok(answer) => answer,
            Err(error) if error.kind == CallErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        let text = |field: Option<String>| field.unwrap_or_default();
        let status = answer.status_details.filter(|s| !s.is_empty()).or_else(|| answer.status.map(|s| s.as_str().to_owned()));
        Ok(Some(Invocation {
            command_id: command_id.to_owned(),
            comment: text(answer.comment),
            document: text(answer.document_name),
            status: text(status),
            exit_code: answer.response_code,
            stdout: text(answer.standard_output_content),
            stderr: text(answer.standard_error_content),
        }))
    }
}

fn parse<D: Document>(name: &str, value: Option<&str>) -> Result<D, ConfigError> {
    let error = |source| ConfigError::Document { name: name.to_owned(), source };
    D::parse(value.unwrap_or_default().as_bytes()).map_err(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_comment_names_its_operation() {
        let (cluster, id) = ("orders".parse().unwrap(), "20261122T020000Z-full-4f7c".parse().unwrap());
        let text = comment(&cluster, "20261122T020000Z-full-4f7c");
        assert_eq!(backup_of(&text), Some((cluster, id)));
        for other in ["", "highwater", "highwater orders", "highwater Orders 20261122T020000Z-full-4f7c", "by hand"] {
            assert_eq!(backup_of(other), None, "{other}");
        }
    }
}
