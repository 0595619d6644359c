//! The helper on the database host: `highwater-host`. One command, one process; it changes nothing it was not asked to,
//! and whatever it starts it also ends.

pub mod cli;
pub mod config;
pub mod error;
pub mod progress;
pub mod signal;

pub mod server;
pub mod tool;

pub mod stream;

pub mod backup;
pub mod doctor;
pub mod drill;
pub mod promote;
pub mod restore;

mod crash;
mod durable;
mod lock;
mod shortage;
mod small;
