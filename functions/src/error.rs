//! What a function fails with: the error name that state machines match on is the name of a [`Failure`].

use highwater_aws::s3::StoreError;
use highwater_core::Failure;
use highwater_core::planner::PlanError;
use lambda_runtime::Diagnostic;

/// A failed invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    /// Its name is Lambda's `errorType`.
    pub failure: Failure,
    /// What happened to what, and what to do: Lambda's `errorMessage`.
    pub message: String,
}

impl FunctionError {
    /// An error of a class.
    pub fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into() }
    }
}

impl From<StoreError> for FunctionError {
    fn from(error: StoreError) -> Self {
        Self::new(error.kind.failure(), error.to_string())
    }
}

impl From<PlanError> for FunctionError {
    fn from(error: PlanError) -> Self {
        Self::new(error.failure(), error.to_string())
    }
}

impl From<FunctionError> for Diagnostic {
    fn from(error: FunctionError) -> Self {
        Self { error_type: error.failure.to_string(), error_message: error.message }
    }
}
