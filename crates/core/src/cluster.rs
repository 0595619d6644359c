//! A cluster's configuration, as the stack stores it for the functions: one SSM parameter per cluster.

use crate::document::Document;
use crate::ids::{ClusterId, HostId};
use crate::manifest::Strategy;
use crate::schedule::SchedulePolicy;
use jiff::SignedDuration;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A cluster's configuration, version 1. Written by `infra/cdk` with every default filled in; `infra/README.md`
/// explains the keys.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ClusterConfigV1 {
    /// `highwater.cluster.v1`.
    pub format: String,
    /// The cluster.
    pub cluster: ClusterId,
    /// The primary: commands go to it, promotions are approved for it.
    pub host: Primary,
    /// What a restore may take, minutes; none: nobody minds.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub rto_minutes: Option<u32>,
    /// How it is backed up.
    pub backup: BackupConfig,
    /// What `prune` keeps.
    pub keep: KeepConfig,
    /// How it is drilled.
    pub drill: DrillConfig,
    /// How it is promoted.
    pub promotion: PromotionConfig,
}

/// Which host the primary is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(untagged)]
pub enum Primary {
    /// This one.
    Id(HostId),
    /// The one running instance of the deployment that carries a tag when it is asked for.
    Tagged(HostTag),
}

impl fmt::Display for Primary {
    /// The id, or `KEY=VALUE` of the tag.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Id(id) => id.fmt(f),
            Self::Tagged(HostTag { tag, value }) => write!(f, "{tag}={value}"),
        }
    }
}

/// A tag of an instance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct HostTag {
    /// Its key.
    pub tag: String,
    /// Its value.
    pub value: String,
}

/// A tag does not say which host the primary is. Nothing was sent.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{} running instances of this deployment carry the tag {}={}, not exactly one{}: tag the primary and no other host", .found.len(), .tag.tag, .tag.value, names(.found))]
pub struct NotOneHost {
    /// The tag.
    pub tag: HostTag,
    /// Who carries it.
    pub found: Vec<HostId>,
}

fn names(found: &[HostId]) -> String {
    let names: Vec<_> = found.iter().map(ToString::to_string).collect();
    if names.is_empty() { String::new() } else { format!(" ({})", names.join(", ")) }
}

impl HostTag {
    /// The host, of those that carry this tag.
    ///
    /// # Errors
    /// There is none, or more than one.
    pub fn only(&self, mut found: Vec<HostId>) -> Result<HostId, NotOneHost> {
        match found.pop() {
            Some(host) if found.is_empty() => Ok(host),
            last => {
                found.extend(last);
                Err(NotOneHost { tag: self.clone(), found })
            }
        }
    }
}

/// How a cluster is backed up.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct BackupConfig {
    /// EventBridge Scheduler's expression.
    pub schedule: String,
    /// Of the schedule.
    pub timezone: String,
    /// Flexible window, minutes.
    pub window_minutes: u32,
    /// What an incremental continues.
    pub strategy: Strategy,
    /// As [`SchedulePolicy::max_incrementals`].
    pub max_incrementals: u32,
    /// As [`SchedulePolicy::max_full_age`], hours.
    pub full_every_hours: u32,
    /// The command's execution time-out, hours.
    pub timeout_hours: u32,
    /// A restore point older than this is an alarm, hours.
    pub overdue_hours: u32,
}

/// What `prune` keeps; a kept backup keeps what it needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct KeepConfig {
    /// The newest chains, whole.
    pub chains: u32,
    /// The newest restore point of each of so many days.
    pub daily: u32,
    /// Of so many weeks (ISO).
    pub weekly: u32,
    /// Of so many months.
    pub monthly: u32,
}

/// How a cluster is drilled.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct DrillConfig {
    /// EventBridge Scheduler's expression; none: only by hand, after a backup or by the fleet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub schedule: Option<String>,
    /// Of the schedule.
    pub timezone: String,
    /// Flexible window, minutes.
    pub window_minutes: u32,
    /// A drill after each committed backup.
    pub after_each_backup: bool,
    /// The instance's lifetime at most, hours.
    pub timeout_hours: u32,
    /// No passed drill for so long is an alarm, days.
    pub overdue_days: u32,
    /// The image.
    pub image: String,
    /// Types, tried in order.
    pub instance_types: Vec<String>,
    /// TOML of the helper's `[drill]` section.
    pub checks: String,
}

/// How a cluster is promoted.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct PromotionConfig {
    /// The command's execution time-out, hours.
    pub timeout_hours: u32,
}

impl ClusterConfigV1 {
    /// For [`crate::schedule::next_backup`].
    pub fn policy(&self) -> SchedulePolicy {
        SchedulePolicy {
            strategy: self.backup.strategy,
            max_incrementals: self.backup.max_incrementals,
            max_full_age: SignedDuration::from_hours(self.backup.full_every_hours.into()),
            rto_target: self.rto_target(),
        }
    }

    /// What a restore may take.
    pub fn rto_target(&self) -> Option<SignedDuration> {
        self.rto_minutes.map(|minutes| SignedDuration::from_mins(minutes.into()))
    }
}

impl Document for ClusterConfigV1 {
    const FORMAT: &'static str = "highwater.cluster.v1";

    fn format(&self) -> &str {
        &self.format
    }

    fn check(&self) -> Result<(), String> {
        let hours = |what: &str, n: u32| if (1..=48).contains(&n) { Ok(()) } else { Err(format!("{what} is {n}, not 1 to 48 hours")) };
        hours("backup.timeout_hours", self.backup.timeout_hours)?;
        hours("promotion.timeout_hours", self.promotion.timeout_hours)?;
        if self.rto_minutes == Some(0) {
            return Err("rto_minutes is 0: a restore takes longer than nothing".into());
        }
        if self.drill.instance_types.is_empty() {
            return Err("drill.instance_types is empty".into());
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_primary_is_an_id_or_a_tag_that_exactly_one_host_carries() {
        let read = |json: &str| serde_json::from_str::<Primary>(json).unwrap();
        assert_eq!(read(r#""i-0123456789abcdef0""#), Primary::Id("i-0123456789abcdef0".parse().unwrap()));
        let tag = HostTag { tag: "Role".into(), value: "orders primary".into() };
        assert_eq!(read(r#"{"tag": "Role", "value": "orders primary"}"#), Primary::Tagged(tag.clone()));
        for wrong in ["7", r#"{"tag": "Role"}"#, r#"{"tag": "Role", "value": "x", "other": 1}"#, r#""two words""#] {
            assert!(serde_json::from_str::<Primary>(wrong).is_err(), "{wrong}");
        }
        let host = |name: &str| name.parse::<HostId>().unwrap();
        assert_eq!(tag.only(vec![host("i-1")]), Ok(host("i-1")));
        let said = |found| tag.only(found).unwrap_err().to_string();
        assert_eq!(
            said(vec![]),
            "0 running instances of this deployment carry the tag Role=orders primary, not exactly one: tag the primary and no other host"
        );
        assert!(said(vec![host("i-1"), host("i-2")]).contains("(i-1, i-2)"));
    }
}
