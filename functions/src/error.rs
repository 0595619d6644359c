//! What a function fails with. The names are the contract that the state machines match on (`infra/README.md`).

use highwater_aws::call::{CallError, CallErrorKind};
use highwater_aws::catalog::CatalogError;
use highwater_aws::s3::StoreError;
use highwater_aws::ssm::ConfigError;
use highwater_aws::table::TableError;
use highwater_core::planner::PlanError;
use highwater_core::{DocumentError, Failure, Retry};
use lambda_runtime::Diagnostic;
use std::fmt;

/// The names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Name {
    /// The same event may succeed later: state machines and event sources try again.
    Transient,
    /// Another operation holds the cluster; later it does not.
    LeaseHeld,
    /// The chain cannot be continued: the next backup is a full.
    ChainBroken,
    /// The event is not of the accepted form, which the message shows.
    BadInput,
    /// Trying again cannot help before somebody mends what the message names.
    Permanent,
}

/// A failed invocation.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FunctionError {
    /// Lambda's `errorType`.
    pub name: Name,
    /// What happened to what, and what to do: Lambda's `errorMessage`.
    pub message: String,
}

impl FunctionError {
    /// An error of a name.
    pub fn new(name: Name, message: impl Into<String>) -> Self {
        Self { name, message: message.into() }
    }

    /// An error of a class of failure; the class begins the message.
    pub fn of(failure: Failure, message: impl fmt::Display) -> Self {
        let name = match failure.retry() {
            Retry::Yes => Name::Transient,
            Retry::WithFull => Name::ChainBroken,
            Retry::AfterFix => Name::Permanent,
        };
        Self { name, message: format!("{failure}: {message}") }
    }

    /// An event that cannot be read; `form` shows what is accepted.
    pub fn bad_input(problem: impl fmt::Display, form: &str) -> Self {
        Self::new(Name::BadInput, format!("{problem}; {form}"))
    }
}

impl fmt::Display for FunctionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}: {}", self.name, self.message)
    }
}

impl std::error::Error for FunctionError {}

impl From<StoreError> for FunctionError {
    fn from(error: StoreError) -> Self {
        Self::of(error.kind.failure(), error)
    }
}

impl From<CallError> for FunctionError {
    fn from(error: CallError) -> Self {
        match error.kind {
            CallErrorKind::Unavailable => Self::new(Name::Transient, error.to_string()),
            kind => Self::of(kind.failure(), error),
        }
    }
}

impl From<TableError> for FunctionError {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Call(call) => call.into(),
            // Whoever expects a refusal handles it: here two writers met, and reading again shows who was first.
            TableError::Condition { .. } => Self::new(Name::Transient, format!("the catalog changed meanwhile: {error}")),
            TableError::Unreadable { .. } => Self::of(Failure::Damaged, error),
        }
    }
}

impl From<CatalogError> for FunctionError {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Table(table) => table.into(),
            CatalogError::LeaseHeld(_) => Self::new(Name::LeaseHeld, error.to_string()),
            CatalogError::Contended { .. } => Self::new(Name::Transient, error.to_string()),
            CatalogError::Refused { .. } => Self::of(Failure::ChainBroken, error),
            CatalogError::LeaseLost { .. } | CatalogError::Unknown { .. } | CatalogError::Ended { .. } => {
                Self::new(Name::Permanent, error.to_string())
            }
        }
    }
}

impl From<ConfigError> for FunctionError {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Call(call) if call.kind == CallErrorKind::NotFound => Self::of(
                Failure::Config,
                format!("the cluster is not configured in this deployment: add it to the configuration and deploy ({call})"),
            ),
            ConfigError::Call(call) => call.into(),
            ConfigError::Document { name, source } => {
                Self::of(Failure::Config, format!("the parameter {name}: {source}; deploy the stack again"))
            }
        }
    }
}

impl From<DocumentError> for FunctionError {
    fn from(error: DocumentError) -> Self {
        Self::of(Failure::Document, error)
    }
}

impl From<PlanError> for FunctionError {
    fn from(error: PlanError) -> Self {
        Self::of(error.failure(), error)
    }
}

impl From<FunctionError> for Diagnostic {
    fn from(error: FunctionError) -> Self {
        Self { error_type: format!("{:?}", error.name), error_message: error.message }
    }
}
