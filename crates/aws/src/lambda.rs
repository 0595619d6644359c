//! Lambda: calling another function, without waiting for it.

use crate::call::CallError;
use aws_config::SdkConfig;
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;
use aws_sdk_lambda::types::InvocationType;
use serde::Serialize;

/// Lambda.
#[derive(Debug, Clone)]
pub struct Lambda {
    client: Client,
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
}
