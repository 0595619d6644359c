//! The one error type of the helper: a class that decides exit code and retry, a message that says what happened
//! to what, a hint that says what to do next, and the cause.

use crate::shortage::Shortage;
use highwater_aws::s3::{StoreError, StoreErrorKind};
use highwater_core::promotion::PromotionJournalV1;
use highwater_core::{Failure, Retry};
use std::error::Error as StdError;
use std::fmt;

/// A failed operation.
#[derive(Debug)]
pub struct Error {
    /// Decides the exit code and whether a retry helps.
    pub failure: Failure,
    /// What happened to what, without its cause.
    pub message: String,
    /// What a person does next, where the class alone does not say it.
    pub hint: Option<String>,
    /// The promotion that failed, as its journal has it: the control plane's report of it is made from this.
    pub promotion: Option<Box<PromotionJournalV1>>,
    source: Option<Box<dyn StdError + Send + Sync + 'static>>,
}

/// What every function here returns.
pub type Result<T, E = Error> = std::result::Result<T, E>;

impl Error {
    /// An error without a cause.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), hint: None, promotion: None, source: None }
    }

    /// Adds the promotion that failed.
    #[must_use]
    pub fn of(mut self, promotion: &PromotionJournalV1) -> Self {
        self.promotion = Some(Box::new(promotion.clone()));
        self
    }

    /// Adds what a person does next.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// Adds the cause.
    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn StdError + Send + Sync + 'static>>) -> Self {
        self.source = Some(source.into());
        self
    }

    /// The message and every cause, outermost first, joined with `: `. The one place that prints a chain.
    pub fn chain(&self) -> String {
        let mut text = self.message.clone();
        let mut at = self.source.as_deref().map(|e| e as &dyn StdError);
        while let Some(cause) = at {
            let cause_text = cause.to_string();
            if !text.ends_with(&cause_text) {
                text.push_str(": ");
                text.push_str(&cause_text);
            }
            at = cause.source();
        }
        text
    }
}

/// What ran short, if an error or one of its causes is the kernel's word for it.
fn shortage_in(error: &(dyn StdError + 'static)) -> Option<Shortage> {
    let mut at = Some(error);
    while let Some(cause) = at {
        let errno = cause.downcast_ref::<std::io::Error>().and_then(std::io::Error::raw_os_error);
        if let Some(shortage) = errno.and_then(Shortage::of_errno) {
            return Some(shortage);
        }
        at = cause.source();
    }
    None
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl StdError for Error {
    fn source(&self) -> Option<&(dyn StdError + 'static)> {
        self.source.as_deref().map(|e| e as _)
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        // A connection that could not be made for want of a descriptor is not the store's fault.
        if let Some(shortage) = error.detail.as_deref().and_then(Shortage::told_by).filter(|_| error.kind == StoreErrorKind::Unavailable) {
            return shortage.error(error.to_string());
        }
        let failure = error.kind.failure();
        let hint = match failure {
            Failure::AccessDenied => {
                Some("check the host's role and its expiry, the bucket policy, and this host's clock: `highwater-host doctor`".to_owned())
            }
            _ => None,
        };
        Self { failure, message: error.to_string(), hint, promotion: None, source: None }
    }
}

/// Turns any error into ours, with its class and the operation in words ("read /etc/x").
pub trait Context<T> {
    /// `failure` is the class, `operation` verb plus object.
    fn context(self, failure: Failure, operation: impl FnOnce() -> String) -> Result<T>;
}

impl<T, E: Into<Box<dyn StdError + Send + Sync + 'static>>> Context<T> for std::result::Result<T, E> {
    fn context(self, failure: Failure, operation: impl FnOnce() -> String) -> Result<T> {
        self.map_err(|source| {
            let source = source.into();
            let shortage = shortage_in(source.as_ref());
            let (failure, hint) = shortage.map_or((failure, None), |shortage| (Failure::Resources, Some(shortage.hint().to_owned())));
            Error { failure, message: operation(), hint, promotion: None, source: Some(source) }
        })
    }
}

/// The hint that follows from the class alone.
pub fn retry_advice(failure: Failure) -> &'static str {
    match failure.retry() {
        Retry::Yes => "the same command may be run again",
        Retry::AfterFix => "running it again unchanged will fail again",
        Retry::WithFull => "the next backup must be a full",
    }
}
