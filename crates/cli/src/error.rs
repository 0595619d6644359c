//! What a command failed with: a class that decides the exit code, what happened, what to do next.

use highwater_aws::call::{CallError, CallErrorKind};
use highwater_aws::catalog::CatalogError;
use highwater_aws::prune::PruneError;
use highwater_aws::s3::StoreError;
use highwater_aws::ssm::ConfigError;
use highwater_aws::table::TableError;
use highwater_core::planner::PlanError;
use highwater_core::{DocumentError, Failure};
use std::error::Error as StdError;

/// A failed command.
#[derive(Debug)]
pub(crate) struct Error {
    pub(crate) failure: Failure,
    pub(crate) message: String,
    pub(crate) hint: Option<String>,
    /// The result on standard output says it already: with `--json`, no second value follows it.
    pub(crate) shown: bool,
    /// Instead of the class's.
    pub(crate) exit_code: Option<u8>,
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), hint: None, shown: false, exit_code: None }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn already_shown(mut self) -> Self {
        self.shown = true;
        self
    }

    pub(crate) fn exit_with(mut self, code: u8) -> Self {
        self.exit_code = Some(code);
        self
    }

    /// `doing` is verb plus object: "read plan.json".
    pub(crate) fn io(doing: String, error: &std::io::Error) -> Self {
        Self::new(Failure::Document, format!("{doing}: {error}"))
    }

    pub(crate) fn document(doing: String, error: &DocumentError) -> Self {
        let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
        Self::new(Failure::Document, format!("{doing}: {error}{cause}"))
    }
}

impl From<StoreError> for Error {
    fn from(error: StoreError) -> Self {
        let failure = error.kind.failure();
        let made = Self::new(failure, error.to_string());
        match failure {
            Failure::AccessDenied => made.hint("check AWS_PROFILE or AWS_REGION, the role's expiry and the bucket policy"),
            Failure::Damaged => made.hint("check the bucket's name and region"),
            _ => made,
        }
    }
}

impl From<PruneError> for Error {
    fn from(error: PruneError) -> Self {
        match error {
            PruneError::Store(error) => error.into(),
            PruneError::Catalog(error) => error.into(),
        }
    }
}

impl From<CatalogError> for Error {
    fn from(error: CatalogError) -> Self {
        match error {
            CatalogError::Table(error) => error.into(),
            CatalogError::Contended { .. } => Self::new(Failure::Storage, error.to_string()).hint("run it again"),
            error => Self::new(Failure::Damaged, error.to_string()).hint("see `highwater catalog audit`"),
        }
    }
}

impl From<TableError> for Error {
    fn from(error: TableError) -> Self {
        match error {
            TableError::Call(call) if call.kind == CallErrorKind::NotFound => {
                Self::new(Failure::Config, call.to_string()).hint("check AWS_PROFILE and AWS_REGION, and the table's name if you gave one")
            }
            TableError::Call(call) => call.into(),
            error => Self::new(Failure::Damaged, error.to_string()).hint("see `highwater catalog audit`"),
        }
    }
}

impl From<CallError> for Error {
    fn from(error: CallError) -> Self {
        let made = Self::new(error.kind.failure(), error.to_string());
        match error.kind {
            CallErrorKind::AccessDenied => made.hint(
                "check AWS_PROFILE and the session's expiry; the policies <deployment>-operator, -restorer and -approver say who may what",
            ),
            CallErrorKind::Unavailable => made.hint("check AWS_REGION and the network, then run it again"),
            CallErrorKind::NotFound | CallErrorKind::Refused => made,
        }
    }
}

impl From<ConfigError> for Error {
    fn from(error: ConfigError) -> Self {
        match error {
            ConfigError::Call(call) => call.into(),
            ConfigError::Document { ref source, .. } => {
                Self::new(Failure::Config, format!("{error}: {source}")).hint("it was written by another version: deploy the stack again")
            }
        }
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        let made = Self::new(error.failure(), error.to_string());
        match &error {
            PlanError::NoBackup { .. } => made.hint(
                "take one: `highwater backup now`; without a deployment `highwater next-backup`, then `highwater-host backup` on the host",
            ),
            PlanError::NotCommitted { .. } | PlanError::Broken(_) | PlanError::Impossible { .. } => made.hint("see `highwater audit`"),
            PlanError::UnknownBackup { .. } | PlanError::TooEarly { .. } => made.hint("see `highwater backups`"),
        }
    }
}
