//! Highwater's Lambda functions: a module each, and a thin binary each ([`mains`]) that builds the clients and hands over.
#![warn(missing_docs)]

pub mod consent;
pub mod decide_approval;
pub mod drill_host;
pub mod error;
pub mod finish_backup;
pub mod finish_promote;
pub mod launch_drill;
pub mod mains;
pub mod metrics;
pub mod pages;
pub mod plan_restore;
pub mod primary;
pub mod promote;
pub mod proof;
pub mod prune;
pub mod publish_status;
pub mod reconcile;
pub mod record_drill;
pub mod request_approval;
pub mod serve;
pub mod start_backup;
