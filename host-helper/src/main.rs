//! `highwater-host`: see `highwater_host::cli`.

use clap::Parser;
use highwater_host::cli::{Cli, run};
use std::process::ExitCode;
use tracing_subscriber::EnvFilter;

fn main() -> ExitCode {
    let cli = Cli::parse();
    start_log(cli.json);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    match runtime {
        Ok(runtime) => runtime.block_on(run(cli)).into(),
        Err(error) => {
            tracing::error!(%error, "start the runtime");
            ExitCode::FAILURE
        }
    }
}

/// Logs go to standard error: JSON lines, or lines for a person at a terminal. `RUST_LOG` chooses more or less.
fn start_log(json: bool) {
    use std::io::IsTerminal;
    let filter = EnvFilter::try_from_default_env().unwrap_or_else(|_| EnvFilter::new("warn,highwater_host=info,highwater_aws=info"));
    let terminal = std::io::stderr().is_terminal();
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(terminal);
    if json || !terminal { log.json().flatten_event(true).init() } else { log.with_target(false).init() }
}
