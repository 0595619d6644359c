//! What a drill checks, and the report it writes. A check that did not run has failed (I5).

use crate::Sha256;
use crate::document::Document;
use crate::identity::Version;
use crate::ids::{BackupId, ClusterId, HostId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// A drill's report, version 1.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillReportV1 {
    /// `highwater.drill-report.v1`.
    pub format: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The restore point that was proven or not.
    pub backup_id: BackupId,
    /// SHA-256 of the plan's bytes.
    pub plan_sha256: Sha256,
    /// Where the drill ran.
    pub host_id: HostId,
    /// Passed only if the server came up and at least one check ran and every check passed.
    pub outcome: Outcome,
    /// Why it failed, when it failed before the checks; for a person.
    pub failure: Option<String>,
    /// The version of the server that served the restored data, if it came up.
    pub server_version: Option<Version>,
    /// When the drill began.
    pub started_at: Timestamp,
    /// When it ended.
    pub finished_at: Timestamp,
    /// How long each phase took, in order.
    pub phases: Vec<Phase>,
    /// Every check, in order.
    pub checks: Vec<Check>,
}

/// Passed or failed; nothing between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// It held.
    Passed,
    /// It did not hold, or could not be tested.
    Failed,
}

/// One timed phase.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Phase {
    /// `fetch`, `prepare`, `apply`, `start`, `check`, … and the backup it worked on, if one.
    pub name: String,
    /// The backup it worked on.
    pub backup_id: Option<BackupId>,
    /// Wall time, seconds.
    pub seconds: f64,
    /// Bytes it moved, if it moved any.
    pub bytes: Option<u64>,
}

/// One check and how it ended.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Check {
    /// What kind of check.
    pub kind: CheckKind,
    /// What it looked at: a table `schema.table`, an assertion's name, or the server.
    pub subject: String,
    /// How it ended.
    pub outcome: Outcome,
    /// What had to be, and how strictly: `exactly 100000`, `between 99000 and 101000: written during the backup`.
    pub expected: String,
    /// What was found, or why the check could not run.
    pub found: String,
    /// Wall time, seconds.
    pub seconds: f64,
}

/// The kinds of check.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum CheckKind {
    /// The isolated server started on the restored data and answers.
    ServerUp,
    /// The data directory states the restore point's LSN.
    RestorePoint,
    /// A schema of the inventory exists.
    Schema,
    /// A table of the inventory exists with its engine.
    Table,
    /// CHECK TABLE reports nothing but OK.
    CheckTable,
    /// COUNT(*) against the source's counts.
    RowCount,
    /// A row hash against the source's.
    RowHash,
    /// The newest value of a time column is young enough.
    NewestRow,
    /// A user's SQL assertion.
    Assertion,
    /// The server's error log holds no corruption or crash.
    ErrorLog,
}

impl DrillReportV1 {
    /// The outcome that the rest of the report implies: the one place that decides it.
    ///
    /// Passed needs no `failure`, a passed [`CheckKind::ServerUp`], at least one further check, and no failed one.
    pub fn verdict(failure: Option<&str>, checks: &[Check]) -> Outcome {
        let up = checks.iter().any(|c| c.kind == CheckKind::ServerUp);
        let looked_at_data = checks.iter().any(|c| {
            matches!(c.kind, CheckKind::CheckTable | CheckKind::RowCount | CheckKind::RowHash | CheckKind::Assertion | CheckKind::NewestRow)
        });
        let all = checks.iter().all(|c| c.outcome == Outcome::Passed);
        if failure.is_none() && up && looked_at_data && all { Outcome::Passed } else { Outcome::Failed }
    }
}

impl Document for DrillReportV1 {
    const FORMAT: &'static str = "highwater.drill-report.v1";
    // A check per table of a million tables would be 500 MB: such a report is cut by the drill, never here.
    const MAX_BYTES: usize = 64 << 20;

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        let implied = Self::verdict(self.failure.as_deref(), &self.checks);
        if implied == self.outcome { Ok(()) } else { Err(format!("it says {:?}, but its checks say {implied:?}", self.outcome)) }
    }
}
