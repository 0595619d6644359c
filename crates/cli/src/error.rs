//! What a command failed with: a class that decides the exit code, what happened, what to do next.

use highwater_aws::catalog::CatalogError;
use highwater_aws::prune::PruneError;
use highwater_aws::s3::StoreError;
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
}

pub(crate) type Result<T> = std::result::Result<T, Error>;

impl Error {
    pub(crate) fn new(failure: Failure, message: impl Into<String>) -> Self {
        Self { failure, message: message.into(), hint: None, shown: false }
    }

    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    pub(crate) fn already_shown(mut self) -> Self {
        self.shown = true;
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
            PruneError::Catalog(CatalogError::Table(TableError::Call(call))) => Self::new(call.kind.failure(), call.to_string())
                .hint("check AWS_PROFILE or AWS_REGION, the table's name, and that you may use it"),
            PruneError::Catalog(error @ CatalogError::Contended { .. }) => {
                Self::new(Failure::Storage, error.to_string()).hint("run it again")
            }
            PruneError::Catalog(error) => Self::new(Failure::Damaged, error.to_string()).hint("see `highwater catalog audit`"),
        }
    }
}

impl From<PlanError> for Error {
    fn from(error: PlanError) -> Self {
        let made = Self::new(error.failure(), error.to_string());
        match &error {
            PlanError::NoBackup { .. } => made.hint("take one: `highwater next-backup`, then `highwater-host backup` on the host"),
            PlanError::NotCommitted { .. } | PlanError::Broken(_) | PlanError::Impossible { .. } => made.hint("see `highwater audit`"),
            PlanError::UnknownBackup { .. } | PlanError::TooEarly { .. } => made.hint("see `highwater backups`"),
        }
    }
}
