//! The rules of Highwater, pure: no AWS, no runtime, no filesystem, no clock, no randomness.
//! Time and ids are arguments. A shell (the helper, a Lambda, the CLI) gathers facts, calls a
//! function here, and carries out the decision it gets back.
#![warn(missing_docs)]

pub mod digest;
pub mod failure;
pub mod ids;
pub mod lsn;

pub mod identity;
pub mod inventory;
pub mod manifest;
pub mod request;

pub mod audit;
pub mod catalog;
pub mod chain;
pub mod cluster;
pub mod cost;
pub mod deployment;
pub mod lease;
pub mod plan;
pub mod planner;
pub mod retention;
pub mod rto;
pub mod schedule;
pub mod status;
pub mod window;

pub mod approval;
pub mod caller;
pub mod certificate;
pub mod consent;
pub mod drill;
pub mod leak;
pub mod outcome;
pub mod promotion;

#[cfg(test)]
mod counted;
mod document;
mod neighbours;

pub use digest::Sha256;
pub use document::{Document, DocumentError, Pinned};
pub use failure::{Failure, Retry};
pub use ids::{BackupId, BackupKind, ClusterId, DrillId, HostId, Incarnation};
pub use lsn::Lsn;
