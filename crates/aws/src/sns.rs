//! Notifications to people.

use crate::call::CallError;
use aws_config::SdkConfig;
use aws_sdk_sns::Client;

/// One topic.
#[derive(Debug, Clone)]
pub struct Topic {
    client: Client,
    arn: String,
}

impl Topic {
    /// The topic `arn`.
    pub fn new(config: &SdkConfig, arn: impl Into<String>) -> Self {
        Self { client: Client::new(config), arn: arn.into() }
    }

    /// Publishes a message. Subjects are ASCII of at most 99 characters on one line: what does not fit is cut.
    ///
    /// # Errors
    /// Those of the service.
    pub async fn publish(&self, subject: &str, message: &str) -> Result<(), CallError> {
        let subject: String = subject.chars().map(|c| if c == ' ' || c.is_ascii_graphic() { c } else { '?' }).take(99).collect();
        let sent = self.client.publish().topic_arn(&self.arn).subject(subject).message(message).send().await;
        sent.map(|_| ()).map_err(|e| CallError::of("sns:Publish", &self.arn, e))
    }
}
