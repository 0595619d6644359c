//! Step Functions: starting executions, and answering the tasks that wait.

use crate::call::{CallError, CallErrorKind};
use aws_config::SdkConfig;
use aws_sdk_sfn::Client;
use serde::Serialize;

/// The client.
#[derive(Debug, Clone)]
pub struct Executions {
    client: Client,
}

/// What became of a start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Started {
    /// It runs under this ARN: started now, or by an earlier call with the same name and input (I4).
    Runs(String),
    /// The name was used before, by an execution that has ended or got another input.
    NameTaken,
}

/// What became of an answer to a task.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Answered {
    /// The task has it.
    Taken,
    /// Nobody waits for it: answered before, timed out, or its execution has ended.
    NobodyWaits,
}

/// An execution's status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExecutionStatus {
    /// It runs, or waits to be redriven.
    Running,
    /// It succeeded.
    Succeeded,
    /// It failed, timed out or was aborted.
    Failed,
    /// There is none of that name, or no longer.
    Gone,
}

/// An execution, as far as whoever follows it looks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Execution {
    /// How it is.
    pub status: ExecutionStatus,
    /// The name of the error that it failed with.
    pub error: Option<String>,
    /// What that was about.
    pub cause: Option<String>,
}

impl Executions {
    /// The client of a configuration.
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// Starts an execution of a machine. The name makes it idempotent.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn start<T: Serialize + Sync>(&self, machine: &str, name: &str, input: &T) -> Result<Started, CallError> {
        let sent = self.client.start_execution().state_machine_arn(machine).name(name).input(json(input)).send().await;
        match sent.map_err(|e| CallError::of("states:StartExecution", format!("{machine} {name}"), e)) {
            Ok(answer) => Ok(Started::Runs(answer.execution_arn)),
            Err(error) if error.code == "ExecutionAlreadyExists" => Ok(Started::NameTaken),
            Err(error) => Err(error),
        }
    }

    /// Answers a waiting task with its result.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn succeed<T: Serialize + Sync>(&self, token: &str, output: &T) -> Result<Answered, CallError> {
        let sent = self.client.send_task_success().task_token(token).output(json(output)).send().await;
        answered(sent.map_err(|e| CallError::of("states:SendTaskSuccess", "", e)))
    }

    /// Answers a waiting task with a failure: a name that its machine matches on, and the cause for a person.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn fail(&self, token: &str, error: &str, cause: &str) -> Result<Answered, CallError> {
        let cut = |text: &str, limit: usize| text.chars().take(limit).collect::<String>();
        let sent = self.client.send_task_failure().task_token(token).error(cut(error, 256)).cause(cut(cause, 8000)).send().await;
        answered(sent.map_err(|e| CallError::of("states:SendTaskFailure", "", e)))
    }

    /// How an execution is.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn status(&self, execution: &str) -> Result<ExecutionStatus, CallError> {
        Ok(self.describe(execution).await?.status)
    }

    /// How an execution is, and why it failed.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn describe(&self, execution: &str) -> Result<Execution, CallError> {
        use aws_sdk_sfn::types::ExecutionStatus as Sdk;
        let sent = self.client.describe_execution().execution_arn(execution).send().await;
        match sent.map_err(|e| CallError::of("states:DescribeExecution", execution, e)) {
            Ok(answer) => {
                let status = match answer.status {
                    Sdk::Succeeded => ExecutionStatus::Succeeded,
                    Sdk::Failed | Sdk::TimedOut | Sdk::Aborted => ExecutionStatus::Failed,
                    _ => ExecutionStatus::Running,
                };
                let error = answer.error.or_else(|| (status == ExecutionStatus::Failed).then(|| answer.status.as_str().to_owned()));
                Ok(Execution { status, error, cause: answer.cause })
            }
            Err(error) if error.kind == CallErrorKind::NotFound => {
                Ok(Execution { status: ExecutionStatus::Gone, error: None, cause: None })
            }
            Err(error) => Err(error),
        }
    }
}

fn json<T: Serialize>(value: &T) -> String {
    serde_json::to_string(value).unwrap_or_default()
}

fn answered<T>(sent: Result<T, CallError>) -> Result<Answered, CallError> {
    match sent {
        Ok(_) => Ok(Answered::Taken),
        Err(error) if matches!(error.code.as_str(), "TaskTimedOut" | "TaskDoesNotExist" | "InvalidToken") => Ok(Answered::NobodyWaits),
        Err(error) => Err(error),
    }
}
