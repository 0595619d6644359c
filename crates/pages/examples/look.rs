//! Writes the pages for a look in a browser: `cargo run -p highwater-pages --example look -- DIR`.
#![allow(clippy::unwrap_used, unreachable_pub)]

#[path = "../tests/it/fixture.rs"]
mod fixture;

use fixture::{certificate, cluster, fixture};
use highwater_core::drill::Outcome;
use highwater_pages::{drill_report, status};

fn main() -> std::io::Result<()> {
    let directory = std::path::PathBuf::from(std::env::args_os().nth(1).unwrap_or_else(|| ".".into()));
    let (plan, mut report) = fixture();
    std::fs::write(directory.join("passed.html"), drill_report("d-1", &plan, &report, Some(&certificate())))?;
    report.checks[3].outcome = Outcome::Failed;
    report.outcome = Outcome::Failed;
    std::fs::write(directory.join("failed.html"), drill_report("d-1", &plan, &report, None))?;
    let mut troubled = cluster("orders");
    troubled.problems.push("no restore point for 30 h: see RUNBOOK, “No backup in time”".into());
    let now = "2026-11-22T05:00:00Z".parse().unwrap();
    std::fs::write(directory.join("status.html"), status("highwater", &[troubled, cluster("billing")], now))
}
