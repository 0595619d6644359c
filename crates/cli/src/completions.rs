//! `completions`.

use crate::Cli;
use crate::error::Result;
use clap::CommandFactory;
use clap_complete::Shell;

/// Arguments of `completions`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater completions bash > /etc/bash_completion.d/highwater\n  highwater completions zsh > \"${fpath[1]}/_highwater\""
)]
pub(crate) struct CompletionsArgs {
    /// The shell.
    shell: Shell,
}

pub(crate) fn run(args: &CompletionsArgs) -> Result<()> {
    clap_complete::generate(args.shell, &mut Cli::command(), "highwater", &mut std::io::stdout());
    Ok(())
}
