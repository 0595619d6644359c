//! The catalog in DynamoDB: a file per kind of record. Everything of a cluster lies in its partition.
//!
//! Relies on [`crate::table`]: consistent reads, all-or-nothing transactions. Whatever must be serial is made so by the
//! [`head`]'s version: each write that changes what a decision rests on is conditional on the version that was read.
//! What a crash leaves: an unfinished record with `open`, which `reconcile` finds, and a lease that expires.

pub mod approvals;
pub mod backups;
pub mod drills;
pub mod head;
pub mod lease;
pub mod promotions;
pub mod prune;
mod window;

pub use window::Window;

use crate::table::{Table, TableError};
use highwater_core::chain::Refusal;
use highwater_core::lease::LeaseHeld;
use highwater_core::{BackupId, ClusterId};

/// How often a decision is made again because the catalog changed under it.
const ATTEMPTS: usize = 8;

/// The catalog's table, by its records.
#[derive(Debug, Clone)]
pub struct CatalogTable {
    pub(crate) table: Table,
}

/// Why the catalog was not changed.
#[derive(Debug, thiserror::Error)]
pub enum CatalogError {
    /// Another operation has the cluster.
    #[error(transparent)]
    LeaseHeld(#[from] LeaseHeld),
    /// The operation lost its lease: another one has the cluster, or had it since.
    #[error("{operation} of {cluster} lost its lease (token {token}) to {to}: it changes nothing any more")]
    LeaseLost {
        /// The cluster.
        cluster: ClusterId,
        /// The operation.
        operation: String,
        /// Its token.
        token: u64,
        /// Who has, or had, the lease since.
        to: String,
    },
    /// The backup was refused by the chain rules (I2).
    #[error("{backup} was refused: {refusal}")]
    Refused {
        /// The backup.
        backup: BackupId,
        /// The rule.
        refusal: Refusal,
    },
    /// No such record.
    #[error("the catalog has no {what} of cluster {cluster}")]
    Unknown {
        /// What was looked for.
        what: String,
        /// The cluster.
        cluster: ClusterId,
    },
    /// The record is in another state than the change needs.
    #[error("{what} of {cluster} is {state}: it stays as it is")]
    Ended {
        /// The record.
        what: String,
        /// The cluster.
        cluster: ClusterId,
        /// Its state.
        state: &'static str,
    },
    /// The catalog kept changing between the decision and its write.
    #[error("the catalog of {cluster} kept changing while {doing}")]
    Contended {
        /// The cluster.
        cluster: ClusterId,
        /// What was tried.
        doing: &'static str,
    },
    /// The table.
    #[error(transparent)]
    Table(#[from] TableError),
}

impl CatalogTable {
    /// The catalog in `table`.
    pub fn new(table: Table) -> Self {
        Self { table }
    }

    /// The table itself, for the kinds of records that live elsewhere.
    pub fn table(&self) -> &Table {
        &self.table
    }
}
