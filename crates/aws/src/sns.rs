//! Notifications to people.

use crate::call::CallError;
use aws_config::SdkConfig;
use aws_sdk_sns::Client;
use std::time::Duration;

/// Throttling by names of SNS's own, which the SDK does not know as such and so does not try again.
const THROTTLED: [&str; 2] = ["KMSThrottling", "Throttled"];

/// How often a throttled message is sent.
const ATTEMPTS: u32 = 5;

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
        let mut attempt = 1;
        loop {
            let sent = self.client.publish().topic_arn(&self.arn).subject(&subject).message(message).send().await;
            match sent.map_err(|e| CallError::of("sns:Publish", &self.arn, e)) {
                Ok(_) => return Ok(()),
                Err(error) if THROTTLED.contains(&error.code.as_str()) && attempt < ATTEMPTS => {
                    tokio::time::sleep(Duration::from_millis(200 << attempt)).await;
                    attempt += 1;
                }
                Err(error) => return Err(error),
            }
        }
    }
}
