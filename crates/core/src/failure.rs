//! How an operation can fail, seen from outside: the contract shared by the helper's exit codes, the
//! Lambdas' error names and the state machines that match on them.

use serde::{Deserialize, Serialize};
use std::fmt;

/// Whether doing the same thing again can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Retry {
    /// The same request may succeed later, unchanged.
    Yes,
    /// Not before somebody changes something; the message says what.
    AfterFix,
    /// The chain cannot be continued: the next backup must be a full.
    WithFull,
}

/// The classes of failure. Each has one exit code and one name, both stable: scripts, SSM documents and
/// state machines depend on them. Exit 0 is success; 1 is a bug in Highwater; 2 is wrong usage of the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum Failure {
    /// The configuration file is missing, unreadable or says something impossible.
    Config,
    /// A request, plan, manifest or other document is malformed, expired or not for this host.
    Document,
    /// The host or server is not ready for the operation: tool missing, versions differ, privileges lacking.
    Precondition,
    /// AWS refused the credentials or the permission.
    AccessDenied,
    /// Stored bytes are missing or differ from what was recorded.
    Damaged,
    /// The backup tool or the database server failed in a way no retry will mend by itself.
    Tool,
    /// A directory is not the empty or stamped directory that it must be.
    UnsafeDirectory,
    /// The approval is missing, expired, or binds another plan, report or host.
    Approval,
    /// The drill ran and a check failed, or could not run.
    ChecksFailed,
    /// The promotion failed; the old data is back and serving.
    RolledBack,
    /// The promotion failed and so did the roll-back: a person must act now.
    Stuck,
    /// The incremental cannot continue its parent: gap, fork, or another identity.
    ChainBroken,
    /// Another operation holds this host or cluster.
    Busy,
    /// Object storage did not answer, or answered with an error that passes.
    Storage,
    /// The database server could not be reached, or closed the connection.
    Server,
    /// The server wrote redo faster than the tool could copy it.
    RedoOverrun,
    /// A signal ended the operation; nothing was published.
    Interrupted,
    /// Disk, memory or descriptors ran short.
    Resources,
}

impl Failure {
    /// Every class, in the order of the exit codes.
    pub const ALL: [Self; 18] = [
        Self::Config,
        Self::Document,
        Self::Precondition,
        Self::AccessDenied,
        Self::Damaged,
        Self::Tool,
        Self::UnsafeDirectory,
        Self::Approval,
        Self::ChecksFailed,
        Self::RolledBack,
        Self::Stuck,
        Self::ChainBroken,
        Self::Busy,
        Self::Storage,
        Self::Server,
        Self::RedoOverrun,
        Self::Interrupted,
        Self::Resources,
    ];

    /// The helper's exit code: 10–29 need a fix first, 30–39 need a full backup, 40–59 may be retried as they are.
    pub fn exit_code(self) -> u8 {
        match self {
            Self::Config => 10,
            Self::Document => 11,
            Self::Precondition => 12,
            Self::AccessDenied => 13,
            Self::Damaged => 14,
            Self::Tool => 15,
            Self::UnsafeDirectory => 16,
            Self::Approval => 17,
            Self::ChecksFailed => 18,
            Self::RolledBack => 19,
            Self::Stuck => 20,
            Self::ChainBroken => 30,
            Self::Busy => 40,
            Self::Storage => 41,
            Self::Server => 42,
            Self::RedoOverrun => 43,
            Self::Interrupted => 44,
            Self::Resources => 45,
        }
    }

    /// The class of a helper's exit code, if it is one.
    pub fn from_exit_code(code: i32) -> Option<Self> {
        Self::ALL.into_iter().find(|f| i32::from(f.exit_code()) == code)
    }

    /// Whether a retry can help; follows from the class alone.
    pub fn retry(self) -> Retry {
        match self {
            Self::Config
            | Self::Document
            | Self::Precondition
            | Self::AccessDenied
            | Self::Damaged
            | Self::Tool
            | Self::UnsafeDirectory
            | Self::Approval
            | Self::ChecksFailed
            | Self::RolledBack
            | Self::Stuck => Retry::AfterFix,
            Self::ChainBroken => Retry::WithFull,
            Self::Busy | Self::Storage | Self::Server | Self::RedoOverrun | Self::Interrupted | Self::Resources => Retry::Yes,
        }
    }

    /// One line for `--help` and the docs.
    pub fn meaning(self) -> &'static str {
        match self {
            Self::Config => "the configuration file is missing or wrong",
            Self::Document => "a request, plan or manifest is malformed, expired or not for this host",
            Self::Precondition => "the host or server is not ready: run `highwater-host doctor`",
            Self::AccessDenied => "AWS refused the credentials or a permission",
            Self::Damaged => "stored bytes are missing or differ from the manifest",
            Self::Tool => "the backup tool or the server failed",
            Self::UnsafeDirectory => "a directory is neither empty nor ours",
            Self::Approval => "the approval does not match, or has expired",
            Self::ChecksFailed => "a drill's check failed or could not run",
            Self::RolledBack => "the promotion failed; the old data is serving again",
            Self::Stuck => "the promotion and its roll-back failed: act now, its hint has the commands",
            Self::ChainBroken => "the incremental cannot continue its parent: take a full",
            Self::Busy => "another operation holds this cluster on this host",
            Self::Storage => "object storage failed or did not answer",
            Self::Server => "the database server could not be reached",
            Self::RedoOverrun => "the server wrote redo faster than it could be copied",
            Self::Interrupted => "a signal ended the operation; nothing was published",
            Self::Resources => "disk, memory or descriptors ran short",
        }
    }
}

/// Every exit code with its meaning: the end of both commands' `--help`.
pub fn exit_code_help() -> String {
    let mut text = String::from("Exit codes: 0 success; 1 a bug in Highwater; 2 wrong usage;\n");
    for failure in Failure::ALL {
        text.push_str(&format!("  {:>2} {:<16} {}\n", failure.exit_code(), failure.to_string(), failure.meaning()));
    }
    text.push_str("10-29: fix something first. 30-39: the next backup must be a full. 40-59: may be run again as it is.");
    text
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(self, f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_their_range_says_whether_to_retry() {
        for failure in Failure::ALL {
            assert_eq!(Failure::from_exit_code(failure.exit_code().into()), Some(failure));
            let expected = match failure.exit_code() {
                10..=29 => Retry::AfterFix,
                30..=39 => Retry::WithFull,
                40..=59 => Retry::Yes,
                other => panic!("{failure} has exit code {other}, outside every range"),
            };
            assert_eq!(failure.retry(), expected, "{failure}");
        }
        assert_eq!(Failure::from_exit_code(0), None);
    }
}
