//! `completions`.

use crate::Cli;
use crate::error::Result;
use crate::output::show;
use clap::CommandFactory;
use clap_complete::Shell;
use serde_json::json;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater completions bash > /etc/bash_completion.d/highwater\n  highwater completions zsh > \"${fpath[1]}/_highwater\""
)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs, json: bool) -> Result<()> {
    let mut script = Vec::new();
    clap_complete::generate(args.shell, &mut Cli::command(), "highwater", &mut script);
    let script = String::from_utf8_lossy(&script);
    show(json, &json!({"shell": args.shell.to_string(), "script": script}), &script);
    Ok(())
}
