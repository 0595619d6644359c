//! The lease of a cluster (I3): at most one operation that touches its data runs at a time.
//!
//! Whoever takes the lease gets a token greater than every one before. A record written under a token is committed only
//! while the lease still carries that token and that holder, so an operation that lost its lease changes nothing. An
//! expired lease that nobody took is still its holder's: the token decides, the clock only says when it may be taken.

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use std::fmt;

/// A cluster's lease. It is released by clearing the holder, never deleted: the token outlives every holder.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Lease {
    /// The fencing token of the newest holder; zero before the first.
    pub token: u64,
    /// Who holds it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub holder: Option<Holder>,
}

/// Who holds a lease.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Holder {
    /// The operation: a backup's or a promotion's id.
    pub operation: String,
    /// What it does.
    pub purpose: Purpose,
    /// When somebody else may take the lease.
    pub expires_at: Timestamp,
}

/// What a lease is held for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A backup.
    Backup,
    /// A promotion, its resumption or its roll-back.
    Promotion,
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Backup => "backup",
            Self::Promotion => "promotion",
        })
    }
}

/// Why a lease cannot be taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("the lease is held by {} {} until {}", .0.purpose, .0.operation, .0.expires_at)]
pub struct LeaseHeld(pub Holder);

impl Lease {
    /// The lease as it is once `by` has it. Its own holder gets it again with the token that it has (I4).
    ///
    /// # Errors
    /// Another operation holds it, and its time is not over at `now`.
    pub fn take(&self, by: Holder, now: Timestamp) -> Result<Self, LeaseHeld> {
        match &self.holder {
            Some(holder) if holder.operation == by.operation => Ok(Self { token: self.token, holder: Some(by) }),
            Some(holder) if holder.expires_at > now => Err(LeaseHeld(holder.clone())),
            _ => Ok(Self { token: self.token + 1, holder: Some(by) }),
        }
    }

    /// The lease without its holder.
    #[must_use]
    pub fn released(&self) -> Self {
        Self { token: self.token, holder: None }
    }

    /// Whether `operation` holds it under `token`, be it expired.
    pub fn is_held_by(&self, operation: &str, token: u64) -> bool {
        self.token == token && self.holder.as_ref().is_some_and(|holder| holder.operation == operation)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(minute: i64) -> Timestamp {
        Timestamp::UNIX_EPOCH + jiff::SignedDuration::from_mins(minute)
    }

    fn holder(operation: &str, until: i64) -> Holder {
        Holder { operation: operation.into(), purpose: Purpose::Backup, expires_at: at(until) }
    }

    #[test]
    fn i3_one_holder_at_a_time_and_the_token_grows_with_each() {
        let first = Lease::default().take(holder("a", 10), at(0)).unwrap();
        assert_eq!(first.token, 1);
        assert_eq!(first.take(holder("b", 20), at(9)), Err(LeaseHeld(holder("a", 10))));
        let second = first.take(holder("b", 20), at(10)).unwrap();
        assert_eq!(second.token, 2);
        assert!(second.is_held_by("b", 2) && !second.is_held_by("a", 1) && !second.is_held_by("b", 1));
        let third = second.released().take(holder("c", 30), at(11)).unwrap();
        assert_eq!(third.token, 3, "a released lease remembers its tokens");
    }

    #[test]
    fn i4_taking_it_again_renews_it_under_the_same_token() {
        let lease = Lease::default().take(holder("a", 10), at(0)).unwrap();
        let again = lease.take(holder("a", 15), at(12)).unwrap();
        assert_eq!((again.token, again.holder), (1, Some(holder("a", 15))));
        assert!(lease.is_held_by("a", 1), "an expired lease that nobody took is still its holder's");
    }
}
