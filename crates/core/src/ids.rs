//! Names with a meaning. Each has a checked `FromStr`, a round-trip `Display`, and the same text in
//! JSON, object keys, logs, tags and the CLI.

use crate::Sha256;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// Why a text is not the identifier it should be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not a {what}: expected {expected}")]
pub struct IdError {
    /// The identifier's name, as in the glossary.
    pub what: &'static str,
    /// What was given (cut to 80 characters).
    pub text: String,
    /// The accepted form, readable.
    pub expected: &'static str,
}

fn refuse<T>(what: &'static str, text: &str, expected: &'static str) -> Result<T, IdError> {
    Err(IdError { what, text: text.chars().take(80).collect(), expected })
}

macro_rules! text_serde {
    ($t:ty) => {
        impl Serialize for $t {
            fn serialize<S: serde::Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
                s.collect_str(self)
            }
        }
        impl<'de> Deserialize<'de> for $t {
            fn deserialize<D: serde::Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
                let s = <std::borrow::Cow<'de, str>>::deserialize(d)?;
                s.parse().map_err(serde::de::Error::custom)
            }
        }
    };
}
pub(crate) use text_serde;

/// One logical database: a primary host and whatever replaces it. `[a-z][a-z0-9-]{0,39}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ClusterId(String);

impl FromStr for ClusterId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let ok = s.len() <= 40
            && s.starts_with(|c: char| c.is_ascii_lowercase())
            && s.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-');
        if ok { Ok(Self(s.to_owned())) } else { refuse("cluster id", s, "[a-z][a-z0-9-]{0,39}, like orders-eu") }
    }
}

impl fmt::Display for ClusterId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(ClusterId);

/// A database host as its operator knows it: an EC2 instance id or a host name. `[A-Za-z0-9][A-Za-z0-9.-]{0,62}`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct HostId(String);

impl FromStr for HostId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let ok = s.len() <= 63
            && s.starts_with(|c: char| c.is_ascii_alphanumeric())
            && s.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-' || b == b'.');
        if ok { Ok(Self(s.to_owned())) } else { refuse("host id", s, "[A-Za-z0-9][A-Za-z0-9.-]{0,62}, like i-0123456789abcdef0") }
    }
}

impl fmt::Display for HostId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(HostId);

/// What a backup holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum BackupKind {
    /// Every page; needs no other backup.
    Full,
    /// The pages changed since its one parent.
    Incremental,
}

impl BackupKind {
    /// The word used in ids, logs and keys.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Full => "full",
            Self::Incremental => "incremental",
        }
    }
}

impl fmt::Display for BackupKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// `20261122T020000Z`: compact, sorts by time, safe in a key.
pub(crate) fn stamp(at: Timestamp) -> String {
    at.strftime("%Y%m%dT%H%M%SZ").to_string()
}

pub(crate) fn parse_stamp(s: &str) -> Option<Timestamp> {
    if s.len() != 16 || !s.is_ascii() {
        return None;
    }
    let iso = format!("{}-{}-{}T{}:{}:{}Z", &s[0..4], &s[4..6], &s[6..8], &s[9..11], &s[11..13], &s[13..15]);
    let at: Timestamp = iso.parse().ok()?;
    (stamp(at) == s).then_some(at)
}

pub(crate) fn parse_nonce(s: &str) -> Option<u16> {
    (s.len() == 4 && s.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b))).then(|| u16::from_str_radix(s, 16).ok()).flatten()
}

/// Names one backup: when it was asked for (UTC, to the second), its kind, and a nonce.
/// Sorts by time as text: `20261122T020000Z-full-4f7c`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct BackupId(String);

impl BackupId {
    /// The id of a backup asked for at `at` (cut to the second); `nonce` keeps two askers apart.
    pub fn new(at: Timestamp, kind: BackupKind, nonce: u16) -> Self {
        Self(format!("{}-{kind}-{nonce:04x}", stamp(at)))
    }

    /// The kind that the id states.
    pub fn kind(&self) -> BackupKind {
        if self.0.contains("-full-") { BackupKind::Full } else { BackupKind::Incremental }
    }

    /// When the backup was asked for, to the second.
    pub fn requested_at(&self) -> Timestamp {
        parse_stamp(&self.0[..16]).unwrap_or_default()
    }
}

impl FromStr for BackupId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let parsed = (|| {
            let mut parts = s.splitn(3, '-');
            let at = parse_stamp(parts.next()?)?;
            let kind = match parts.next()? {
                "full" => BackupKind::Full,
                "incremental" => BackupKind::Incremental,
                _ => return None,
            };
            Some(Self::new(at, kind, parse_nonce(parts.next()?)?))
        })();
        match parsed {
            Some(id) => Ok(id),
            None => refuse("backup id", s, "YYYYMMDDTHHMMSSZ-(full|incremental)-xxxx, like 20261122T020000Z-full-4f7c"),
        }
    }
}

impl fmt::Display for BackupId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(BackupId);

/// One life of a data directory; LSNs are comparable only inside one. `20261122T015900Z-8b2e`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(String);

impl Incarnation {
    /// The incarnation first seen at `at` (cut to the second).
    pub fn new(at: Timestamp, nonce: u16) -> Self {
        Self(format!("{}-{nonce:04x}", stamp(at)))
    }

    /// When it was first seen, to the second.
    pub fn first_seen_at(&self) -> Timestamp {
        self.0.get(..16).and_then(parse_stamp).unwrap_or_default()
    }
}

impl FromStr for Incarnation {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let parsed = s.split_once('-').and_then(|(at, nonce)| Some(Self::new(parse_stamp(at)?, parse_nonce(nonce)?)));
        match parsed {
            Some(id) => Ok(id),
            None => refuse("incarnation", s, "YYYYMMDDTHHMMSSZ-xxxx, like 20261122T015900Z-8b2e"),
        }
    }
}

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(Incarnation);

/// Names one drill: when its execution started (UTC, to the second), and a digest of the execution's ARN. Step Functions may
/// ask for a plan twice: both times it is the same drill. Sorts by time as text: `20261122T020000Z-4f7c90ab`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct DrillId(String);

impl DrillId {
    /// The drill of an execution that started at `at`.
    pub fn of_execution(at: Timestamp, execution: &str) -> Self {
        let digest = Sha256::of(execution.as_bytes()).to_string();
        Self(format!("{}-{}", stamp(at), &digest[..8]))
    }

    /// When its execution started, to the second.
    pub fn started_at(&self) -> Timestamp {
        self.0.get(..16).and_then(parse_stamp).unwrap_or_default()
    }
}

impl FromStr for DrillId {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let nonce = |n: &str| n.len() == 8 && n.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match s.split_once('-') {
            Some((at, digest)) if parse_stamp(at).is_some() && nonce(digest) => Ok(Self(s.to_owned())),
            _ => refuse("drill id", s, "YYYYMMDDTHHMMSSZ-xxxxxxxx, like 20261122T020000Z-4f7c90ab"),
        }
    }
}

impl fmt::Display for DrillId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}
text_serde!(DrillId);

/// `v1/<cluster>/`: everything of one cluster lies below it.
pub fn cluster_prefix(cluster: &ClusterId) -> String {
    format!("v1/{cluster}/")
}

/// `v1/<cluster>/<incarnation>/<backup-id>/`: everything of one backup lies below it.
pub fn backup_prefix(cluster: &ClusterId, incarnation: &Incarnation, backup: &BackupId) -> String {
    format!("v1/{cluster}/{incarnation}/{backup}/")
}

/// `v1/<cluster>/drills/<drill-id>/`: everything of one drill lies below it.
pub fn drill_prefix(cluster: &ClusterId, drill: &DrillId) -> String {
    format!("v1/{cluster}/drills/{drill}/")
}

/// `v1/<cluster>/requests/<backup-id>.json`: what asked for a backup.
pub fn request_key(cluster: &ClusterId, backup: &BackupId) -> String {
    format!("v1/{cluster}/requests/{backup}.json")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_refuse_what_is_not_theirs() {
        for good in ["20261122T020000Z-full-4f7c", "20240229T235959Z-incremental-0000"] {
            assert_eq!(good.parse::<BackupId>().unwrap().to_string(), good);
        }
        for bad in [
            "",
            "20261122T020000Z-full",
            "20261322T020000Z-full-4f7c",
            "20261122T020000Z-full-4F7C",
            "20261122T020000Z-diff-4f7c",
            "20261122T020000Z-full-4f7c/..",
            "2026é122T02000Z-full-4f7c",
            "20230229T000000Z-full-0000",
        ] {
            assert!(bad.parse::<BackupId>().is_err(), "{bad}");
        }
        for good in ["a", "orders-eu-1", &"a".repeat(40)] {
            assert_eq!(good.parse::<ClusterId>().unwrap().to_string(), *good);
        }
        for bad in ["", "Orders", "-a", "1a", "a/b", "a_b", "a.b", "..", "a b", "ä", &"a".repeat(41)] {
            assert!(bad.parse::<ClusterId>().is_err(), "{bad}");
        }
        assert_eq!("20261122T015900Z-8b2e".parse::<Incarnation>().unwrap().to_string(), "20261122T015900Z-8b2e");
        assert!("20261122T015900Z-8b2e-1".parse::<Incarnation>().is_err());
        assert!("../etc".parse::<HostId>().is_err());
        assert_eq!("20261122T015900Z-4f7c90ab".parse::<DrillId>().unwrap().to_string(), "20261122T015900Z-4f7c90ab");
        for bad in
            ["20261122T015900Z-4f7c", "20261122T015900Z-4F7C90AB", "20261322T015900Z-4f7c90ab", "../x", "20261122T015900Z-4f7c90ab/.."]
        {
            assert!(bad.parse::<DrillId>().is_err(), "{bad}");
        }
    }

    #[test]
    fn an_id_states_its_kind_and_time() {
        let id: BackupId = "20261122T020000Z-incremental-4f7c".parse().unwrap();
        assert_eq!(id.kind(), BackupKind::Incremental);
        assert_eq!(id.requested_at().to_string(), "2026-11-22T02:00:00Z");
    }

    #[test]
    fn a_drill_is_its_execution_and_sorts_by_its_start() {
        let at = |s: &str| s.parse::<Timestamp>().unwrap();
        let id = DrillId::of_execution(at("2026-11-22T02:00:00.7Z"), "arn:aws:states:eu-west-1:1:execution:drill:a");
        assert_eq!(id, DrillId::of_execution(at("2026-11-22T02:00:00.7Z"), "arn:aws:states:eu-west-1:1:execution:drill:a"));
        assert_eq!(id.to_string().parse::<DrillId>().unwrap(), id);
        assert_eq!(id.started_at(), at("2026-11-22T02:00:00Z"));
        assert_ne!(id, DrillId::of_execution(at("2026-11-22T02:00:00.7Z"), "arn:aws:states:eu-west-1:1:execution:drill:b"));
        assert!(id < DrillId::of_execution(at("2026-11-22T02:00:01Z"), "arn:aws:states:eu-west-1:1:execution:drill:a"));
    }
}
