//! How a call to an AWS service fails, the same for every service but S3 (which has [`crate::s3::StoreError`]).

use aws_config::retry::RetryConfig;
use aws_config::timeout::TimeoutConfig;
use aws_config::{BehaviorVersion, SdkConfig};
use aws_smithy_runtime_api::client::orchestrator::HttpResponse;
use aws_smithy_runtime_api::client::result::SdkError;
use aws_smithy_types::error::display::DisplayErrorContext;
use aws_smithy_types::error::metadata::ProvideErrorMetadata;
use highwater_core::Failure;
use std::error::Error as StdError;
use std::time::Duration;

/// Why a call failed.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{operation} {subject}: {kind} ({detail})")]
pub struct CallError {
    /// Service and operation as IAM names them, like `ssm:SendCommand`.
    pub operation: &'static str,
    /// What it was about: a table, a key, an instance.
    pub subject: String,
    /// What went wrong.
    pub kind: CallErrorKind,
    /// The service's error code, `""` where it gave none.
    pub code: String,
    /// Code and message of the service, or the transport's.
    pub detail: String,
}

/// The kinds that callers tell apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum CallErrorKind {
    /// Throttled, timed out, reset or an internal error: retried by the SDK, and still failing.
    #[error("the service did not succeed after retries")]
    Unavailable,
    /// Credentials missing, expired or not permitted.
    #[error("access denied")]
    AccessDenied,
    /// What it was about does not exist.
    #[error("not found")]
    NotFound,
    /// The service understood and refused; `code` says why.
    #[error("the service refused the request")]
    Refused,
}

impl CallErrorKind {
    /// The class of failure an operation ends with when nothing handles this.
    pub fn failure(self) -> Failure {
        match self {
            Self::Unavailable => Failure::Storage,
            Self::AccessDenied => Failure::AccessDenied,
            Self::NotFound | Self::Refused => Failure::Precondition,
        }
    }
}

impl CallError {
    /// A service's error in our words.
    pub(crate) fn of<E>(operation: &'static str, subject: impl Into<String>, error: SdkError<E, HttpResponse>) -> Self
    where
        E: ProvideErrorMetadata + StdError + 'static,
    {
        let status = error.raw_response().map(|r| r.status().as_u16());
        let code = error.code().unwrap_or_default().to_owned();
        let kind = match (code.as_str(), status) {
            (c, _) if c.contains("Throttl") || c.contains("LimitExceeded") || c.contains("ThroughputExceeded") => {
                CallErrorKind::Unavailable
            }
            ("ServiceUnavailable" | "InternalServerError" | "InternalError" | "InternalFailure" | "TransactionInProgressException", _) => {
                CallErrorKind::Unavailable
            }
            (c, _) if c.starts_with("AccessDenied") || c.starts_with("UnauthorizedOperation") => CallErrorKind::AccessDenied,
            // The last two as EC2 words them.
            (
                "ExpiredTokenException"
                | "UnrecognizedClientException"
                | "InvalidSignatureException"
                | "MissingAuthenticationToken"
                | "RequestExpired"
                | "AuthFailure",
                _,
            ) => CallErrorKind::AccessDenied,
            (c, _)
                if c.ends_with("NotFound")
                    || c.ends_with("NotFoundException")
                    || c == "ParameterNotFound"
                    || c.ends_with("DoesNotExist") =>
            {
                CallErrorKind::NotFound
            }
            (_, Some(404)) => CallErrorKind::NotFound,
            (_, Some(401 | 403)) => CallErrorKind::AccessDenied,
            (_, Some(400..=499)) => CallErrorKind::Refused,
            _ if matches!(error, SdkError::ConstructionFailure(_)) => CallErrorKind::Refused,
            _ => CallErrorKind::Unavailable,
        };
        let detail = match error.message() {
            Some(message) => format!("{code}: {message}"),
            None => DisplayErrorContext(&error).to_string().chars().take(400).collect(),
        };
        Self { operation, subject: subject.into(), kind, code, detail }
    }
}

/// The configuration that every client is built from: environment, profile or role, five attempts, and time-outs that
/// end a call well before its Lambda ends.
pub async fn sdk_config() -> SdkConfig {
    let timeouts = TimeoutConfig::builder().connect_timeout(Duration::from_secs(3)).operation_attempt_timeout(Duration::from_secs(10));
    aws_config::defaults(BehaviorVersion::latest())
        .retry_config(RetryConfig::standard().with_max_attempts(5))
        .timeout_config(timeouts.build())
        .load()
        .await
}
