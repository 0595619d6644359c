//! The approval of a promotion: binds exactly one plan, one drill report and one host, until it expires.

use crate::Sha256;
use crate::document::Document;
use crate::drill::{DrillReportV1, Outcome};
use crate::ids::{ClusterId, HostId};
use jiff::Timestamp;
use serde::{Deserialize, Serialize};

/// What an approval says where nobody knows who asked: a promotion started in the console. Two have to approve then.
pub const UNKNOWN_REQUESTER: &str = "unknown";

/// An approval, version 1.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ApprovalV1 {
    /// `highwater.approval.v1`.
    pub format: String,
    /// The cluster whose primary is replaced.
    pub cluster: ClusterId,
    /// SHA-256 of the plan's bytes.
    pub plan_sha256: Sha256,
    /// SHA-256 of the bytes of the drill report that proved the plan.
    pub report_sha256: Sha256,
    /// The one host it holds for.
    pub target_host: HostId,
    /// Who asked for the promotion, or [`UNKNOWN_REQUESTER`].
    pub requester: String,
    /// Who approved it; never the requester alone.
    pub approvers: Vec<String>,
    /// When the last of them decided.
    pub approved_at: Timestamp,
    /// Void from this moment on.
    pub expires_at: Timestamp,
}

/// What the helper knows when an approval is shown to it.
#[derive(Debug, Clone, Copy)]
pub struct ApprovalFacts<'a> {
    /// The plan's cluster.
    pub cluster: &'a ClusterId,
    /// SHA-256 of the plan's bytes.
    pub plan_sha256: Sha256,
    /// The report, and SHA-256 of its bytes.
    pub report: (&'a DrillReportV1, Sha256),
    /// This host.
    pub host: &'a HostId,
    /// The host's clock.
    pub now: Timestamp,
}

impl ApprovalV1 {
    /// Whether this approval allows the promotion now.
    ///
    /// # Errors
    /// The first mismatch, in words for a person.
    pub fn allows(&self, facts: ApprovalFacts<'_>) -> Result<(), String> {
        let ApprovalFacts { cluster, plan_sha256, report: (report, report_sha256), host, now } = facts;
        let rule = |holds: bool, reason: String| if holds { Ok(()) } else { Err(reason) };
        rule(self.cluster == *cluster, format!("it is for cluster {}, the plan for {cluster}", self.cluster))?;
        rule(self.target_host == *host, format!("it is for host {}, this is {host}", self.target_host))?;
        rule(self.plan_sha256 == plan_sha256, format!("it approves plan {}, this is plan {plan_sha256}", self.plan_sha256))?;
        rule(self.report_sha256 == report_sha256, format!("it rests on report {}, this is report {report_sha256}", self.report_sha256))?;
        rule(report.plan_sha256 == plan_sha256, format!("the drill report is of plan {}, this is plan {plan_sha256}", report.plan_sha256))?;
        rule(report.outcome == Outcome::Passed, "the drill did not pass".into())?;
        rule(self.approved_at <= now, format!("it was given at {}, but this host's clock says {now}", self.approved_at))?;
        rule(now < self.expires_at, format!("it expired at {}, now is {now}", self.expires_at))
    }
}

impl Document for ApprovalV1 {
    const FORMAT: &'static str = "highwater.approval.v1";
    const MAX_BYTES: usize = 1 << 20;

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        if self.requester.trim().is_empty() {
            return Err("it names no requester".into());
        }
        if self.approvers.is_empty() || self.approvers.iter().any(|a| a.trim().is_empty()) {
            return Err("it names no approver".into());
        }
        if self.approvers.contains(&self.requester) {
            return Err(format!("{} asked for the promotion and cannot approve it", self.requester));
        }
        let same = |a: &String| self.approvers.iter().filter(|b| *b == a).count() > 1;
        if let Some(twice) = self.approvers.iter().find(|a| same(a)) {
            return Err(format!("it names {twice} twice"));
        }
        if self.requester == UNKNOWN_REQUESTER && self.approvers.len() < 2 {
            return Err("nobody knows who asked for it, and only one approved it: two have to".into());
        }
        if self.expires_at <= self.approved_at {
            return Err(format!("it expires at {}, not after {}", self.expires_at, self.approved_at));
        }
        Ok(())
    }
}
