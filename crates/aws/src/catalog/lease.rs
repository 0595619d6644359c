//! `lease`: who may touch a cluster's data (I3). The rules are [`highwater_core::lease`]'s; here they become conditions.

use super::{CatalogError, CatalogTable};
use crate::table::{Key, TableError, Write};
use highwater_core::ClusterId;
use highwater_core::lease::Lease;
use serde::{Deserialize, Serialize};

/// The record.
#[derive(Debug, Clone, Serialize, Deserialize)]
struct LeaseRecord {
    format: String,
    #[serde(flatten)]
    lease: Lease,
}

/// The record's format.
pub(crate) const FORMAT: &str = "highwater.catalog.lease.v1";

fn key(cluster: &ClusterId) -> Key {
    Key::of(cluster, "lease")
}

/// Makes the lease what `next` says, if it is still as it was read.
///
/// # Errors
/// `Unreadable`.
pub fn change(cluster: &ClusterId, read: &Lease, next: &Lease) -> Result<Write, TableError> {
    let write = Write::put(key(cluster), &LeaseRecord { format: FORMAT.to_owned(), lease: next.clone() })?;
    match &read.holder {
        None if read.token == 0 => Ok(write.only_if("attribute_not_exists(pk)")),
        None => write.only_if("#token = :token AND attribute_not_exists(#holder)").value(":token", read.token),
        Some(holder) => {
            let condition = "#token = :token AND #holder.#operation = :operation AND #holder.#expires_at = :expires_at";
            write
                .only_if(condition)
                .value(":token", read.token)?
                .value(":operation", &holder.operation)?
                .value(":expires_at", holder.expires_at)
        }
    }
}

/// Releases the lease, if `operation` holds it under `token`.
///
/// # Errors
/// `Unreadable`.
pub fn release(cluster: &ClusterId, operation: &str, token: u64) -> Result<Write, TableError> {
    Write::update(key(cluster), "REMOVE #holder")
        .only_if("#token = :token AND #holder.#operation = :operation")
        .value(":token", token)?
        .value(":operation", operation)
}

/// Only the condition: `operation` holds the lease under `token`.
///
/// # Errors
/// `Unreadable`.
pub fn held(cluster: &ClusterId, operation: &str, token: u64) -> Result<Write, TableError> {
    Write::check(key(cluster), "#token = :token AND #holder.#operation = :operation").value(":token", token)?.value(":operation", operation)
}

impl CatalogTable {
    /// Reads the lease; a free one where nobody had it yet.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn lease(&self, cluster: &ClusterId) -> Result<Lease, CatalogError> {
        let record: Option<LeaseRecord> = self.table.get(&key(cluster)).await?;
        Ok(record.map(|record| record.lease).unwrap_or_default())
    }

    /// Whether `operation` lost the lease it had under `token`, and to whom.
    pub(crate) async fn ensure_held(&self, cluster: &ClusterId, operation: &str, token: u64) -> Result<(), CatalogError> {
        let lease = self.lease(cluster).await?;
        if lease.is_held_by(operation, token) {
            return Ok(());
        }
        let to = match lease.holder {
            Some(holder) => format!("{} {} (token {})", holder.purpose, holder.operation, lease.token),
            None => format!("an operation that has ended (token {})", lease.token),
        };
        Err(CatalogError::LeaseLost { cluster: cluster.clone(), operation: operation.to_owned(), token, to })
    }
}
