//! The rules seen from outside the crate: named refusals, decisions, plans, audits, stored formats, and random
//! histories against a small reference model.
#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test may stop at the first surprise")]

mod audit;
mod certificate;
mod chain;
mod documents;
mod fixtures;
mod model;
mod planner;
mod protocol;
mod retention;
mod schedule;
mod status;
mod support;
