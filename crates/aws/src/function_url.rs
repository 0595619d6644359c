//! Calling a function's URL as the person whose credentials these are: Signature Version 4, checked by Lambda.
//!
//! The Lambda client signs, sends and tries again; only where the request goes is changed, before it is signed.

use crate::call::{CallError, CallErrorKind};
use aws_config::{Region, SdkConfig};
use aws_sdk_lambda::Client;
use aws_sdk_lambda::primitives::Blob;

/// One function's URL.
#[derive(Debug, Clone)]
pub struct FunctionUrl {
    client: Client,
    url: String,
}

/// An answer: HTTP status and body.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UrlAnswer {
    /// HTTP's status.
    pub status: u16,
    /// The body.
    pub body: Vec<u8>,
}

impl FunctionUrl {
    /// The URL as the stack's output `ApprovalUrl` has it. Its region is in it.
    pub fn new(config: &SdkConfig, url: &str) -> Self {
        let mut own = aws_sdk_lambda::config::Builder::from(config);
        if let Some(region) = region_of(url) {
            own = own.region(Region::new(region.to_owned()));
        }
        Self { client: Client::from_conf(own.build()), url: url.to_owned() }
    }

    /// Posts JSON. Any status is an answer; the client tries again what the network or the service lost.
    ///
    /// # Errors
    /// No answer came, or there are no credentials.
    pub async fn post(&self, json: &serde_json::Value) -> Result<UrlAnswer, CallError> {
        const OPERATION: &str = "lambda:InvokeFunctionUrl";
        let url = self.url.clone();
        let sent = self
            .client
            .invoke()
            .function_name("by-its-url")
            .payload(Blob::new(json.to_string()))
            .customize()
            .mutate_request(move |request| {
                // A URL that does not parse leaves the request as it was, for a function that is not there.
                let _ = request.set_uri(url.as_str());
                request.headers_mut().insert("content-type", "application/json");
            })
            .send()
            .await;
        match sent {
            Ok(answer) => {
                let status = u16::try_from(answer.status_code).unwrap_or_default();
                Ok(UrlAnswer { status, body: answer.payload.map(Blob::into_inner).unwrap_or_default() })
            }
            Err(error) => match error.raw_response().and_then(|raw| Some((raw.status().as_u16(), raw.body().bytes()?.to_vec()))) {
                Some((status, body)) => Ok(UrlAnswer { status, body }),
                None => Err(CallError { kind: CallErrorKind::Unavailable, ..CallError::of(OPERATION, &self.url, error) }),
            },
        }
    }
}

/// The region in `https://<id>.lambda-url.<region>.on.aws/`.
fn region_of(url: &str) -> Option<&str> {
    url.split_once(".lambda-url.")?.1.split_once(".on.aws").map(|(region, _)| region)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_names_its_region() {
        assert_eq!(region_of("https://abc.lambda-url.eu-west-1.on.aws/"), Some("eu-west-1"));
        assert_eq!(region_of("http://127.0.0.1:4566/_aws/lambda-url/abc/"), None);
    }
}
