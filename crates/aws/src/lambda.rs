//! Lambda: calling a function, with or without waiting for its answer.

use crate::call::CallError;
use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde::Serialize;
use serde_json::Value;

/// Lambda.
#[derive(Debug, Clone)]
pub struct Lambda {
    client: Client,
}

/// What a function that was waited for said.
#[derive(Debug, Clone, PartialEq)]
pub enum Said {
    /// Its answer.
    Answer(Value),
    /// It failed: the error's name and message.
    Error {
        /// Its name.
        name: String,
        /// For a person.
        message: String,
    },
}

impl Lambda {
    /// A client.
    pub fn new(config: &SdkConfig) -> Self {
        Self { client: Client::new(config) }
    }

    /// Calls a function asynchronously: Lambda takes the event, and tries again by itself when the function fails.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn call<T: Serialize + Sync>(&self, function: &str, event: &T) -> Result<(), CallError> {
        let payload = Blob::new(serde_json::to_vec(event).unwrap_or_default());
        let sent = self.client.invoke().function_name(function).invocation_type(InvocationType::Event).payload(payload).send().await;
        sent.map(|_| ()).map_err(|e| CallError::of("lambda:InvokeFunction", function, e))
    }

    /// Calls a function and waits for its answer. Not tried again by the function's errors, only by the client's.
    ///
    /// # Errors
    /// Those of the service; an error of the function's own is something said.
    pub async fn ask<T: Serialize + Sync>(&self, function: &str, event: &T) -> Result<Said, CallError> {
        let payload = Blob::new(serde_json::to_vec(event).unwrap_or_default());
        let sent = self.client.invoke().function_name(function).payload(payload).send().await;
        let answer = sent.map_err(|e| CallError::of("lambda:InvokeFunction", function, e))?;
        let said: Value = answer.payload.and_then(|p| serde_json::from_slice(p.as_ref()).ok()).unwrap_or_default();
        let text = |key: &str| said[key].as_str().unwrap_or_default().to_owned();
        Ok(match answer.function_error {
            Some(_) => Said::Error { name: text("errorType"), message: text("errorMessage") },
            None => Said::Answer(said),
        })
    }
}
