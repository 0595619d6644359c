//! The log sequence number: how many bytes of redo a server had written.

use crate::ids::{IdError, text_serde};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// A position in one incarnation's redo log, in bytes. Comparable only inside an incarnation.
///
/// Written as a decimal without sign, space or leading zero; anything else is an error, never a
/// default: mariadb-backup itself accepts `-5` and takes it for 18446744073709551611 (measured).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(u64);

impl Lsn {
    /// The `from_lsn` of every full backup.
    pub const ZERO: Self = Self(0);

    /// An LSN from the server's or a file's number.
    pub fn new(bytes: u64) -> Self {
        Self(bytes)
    }

    /// The number itself, in bytes of redo.
    pub fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Lsn {
    type Err = IdError;
    fn from_str(s: &str) -> Result<Self, IdError> {
        let canonical = !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit()) && (s == "0" || !s.starts_with('0'));
        match s.parse() {
            Ok(n) if canonical => Ok(Self(n)),
            _ => Err(IdError { what: "LSN", text: s.chars().take(80).collect(), expected: "a decimal number of bytes, like 3989635331" }),
        }
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}
// As text in JSON: 2^64 does not fit the 53 bits that many JSON readers keep.
text_serde!(Lsn);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_plain_decimal_is_an_lsn() {
        assert_eq!("18446744073709551615".parse::<Lsn>().unwrap().get(), u64::MAX);
        for bad in ["", "-5", "+5", " 5", "5 ", "05", "abc", "18446744073709551616", "0x10", "٥"] {
            assert!(bad.parse::<Lsn>().is_err(), "{bad}");
        }
    }
}
