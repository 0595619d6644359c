//! The damage matrix's parts: kinds of damage, how each changes bytes, and the table of cases with its count.
//!
//! By default a seeded part is taken: every kind with every type of object, once. `HIGHWATER_DAMAGE=all` takes every case, and so does
//! `make torture`, which names a ledger for the counts in `HIGHWATER_TORTURE`. `HIGHWATER_SEED` replays what a failure printed.

use std::collections::BTreeMap;
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::Write;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::time::{SystemTime, UNIX_EPOCH};

/// A kind of damage, to an object or to a part of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// It is gone.
    Delete,
    /// Its beginning is gone.
    CutHead,
    /// Its end is gone, and what follows it.
    CutTail,
    /// It ends in its middle.
    CutInside,
    /// One bit is the other.
    FlipBit,
    /// No bytes are left of it; of a part, zeros.
    Empty,
    /// It is another backup's.
    Swap,
    /// It is what was there, or could have been, before.
    Older,
}

/// Every kind.
pub const KINDS: [Kind; 8] =
    [Kind::Delete, Kind::CutHead, Kind::CutTail, Kind::CutInside, Kind::FlipBit, Kind::Empty, Kind::Swap, Kind::Older];

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Delete => "deleted",
            Self::CutHead => "cut at its head",
            Self::CutTail => "cut at its tail",
            Self::CutInside => "cut inside",
            Self::FlipBit => "one bit flipped",
            Self::Empty => "emptied",
            Self::Swap => "exchanged with another's",
            Self::Older => "put back to an older one",
        })
    }
}

/// `good` after the damage to `part` of it; `None` when nothing is left. `swap` and `older` are whole objects like `good`.
pub fn changed(kind: Kind, good: &[u8], part: Range<usize>, swap: &[u8], older: &[u8], seed: u64) -> Option<Vec<u8>> {
    let whole = part == (0..good.len());
    let random = random(seed, &(kind, &part)) as usize;
    let without = |gone: Range<usize>| [&good[..gone.start], &good[gone.end..]].concat();
    // Another object's bytes in the place of the part; when it is shorter, from its beginning again. What is the same in both, as the
    // beginnings of two backups may be, is no damage: then it is bytes further on.
    let replaced = |by: &[u8]| {
        let from = |start: usize| {
            let mut bytes = good.to_vec();
            let other = by[start % by.len()..].iter().chain(by.iter().cycle());
            bytes[part.clone()].iter_mut().zip(other).for_each(|(byte, other)| *byte = *other);
            bytes
        };
        (part.start..part.start + by.len()).map(from).find(|bytes| bytes != good).unwrap_or_else(|| good.to_vec())
    };
    let bytes = match kind {
        Kind::Delete if whole => return None,
        Kind::Delete => without(part),
        Kind::CutHead => without(part.start..part.start + part.len().div_ceil(3)),
        Kind::CutTail => good[..part.end - part.len().div_ceil(3)].to_vec(),
        Kind::CutInside => good[..part.start + part.len() / 2].to_vec(),
        Kind::FlipBit => {
            let mut bytes = good.to_vec();
            bytes[part.start + random % part.len()] ^= 1 << (random >> 32 & 7);
            bytes
        }
        Kind::Empty if whole => Vec::new(),
        Kind::Empty => {
            let mut bytes = good.to_vec();
            bytes[part].fill(0);
            bytes
        }
        Kind::Swap if whole => swap.to_vec(),
        Kind::Swap => replaced(swap),
        Kind::Older if whole => older.to_vec(),
        Kind::Older => replaced(older),
    };
    assert_ne!(bytes, good, "{kind}: nothing changed");
    Some(bytes)
}

/// A number that the seed and `of` decide.
fn random(seed: u64, of: &impl Hash) -> u64 {
    let mut hasher = DefaultHasher::new();
    (seed, of).hash(&mut hasher);
    hasher.finish()
}

/// Cases of damage, each with its judge.
pub struct Matrix<'a> {
    name: &'static str,
    seed: u64,
    cases: Vec<Case<'a>>,
}

struct Case<'a> {
    name: String,
    of: String,
    kind: Kind,
    judge: Box<dyn FnOnce() -> Result<(), String> + 'a>,
}

impl<'a> Matrix<'a> {
    /// An empty one, with a seed from the clock, or the one to replay.
    pub fn begin(name: &'static str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970").as_nanos() as u64;
        let seed = std::env::var("HIGHWATER_SEED").map_or(now, |seed| seed.parse().expect("a number as HIGHWATER_SEED"));
        Self { name, seed, cases: Vec::new() }
    }

    /// Decides what is random.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// Adds a case of damage to a type of object. `judge` does the damage, looks at the verdict, and mends; an error says
    /// what the verdict was instead.
    pub fn case(&mut self, of: &str, kind: Kind, name: String, judge: impl FnOnce() -> Result<(), String> + 'a) {
        self.cases.push(Case { name: format!("{kind}: {name}"), of: of.to_owned(), kind, judge: Box::new(judge) });
    }

    /// Judges the cases, prints how many, and panics with the name of each wrong verdict. The whole matrix has at least
    /// `at_least` cases.
    pub fn run(self, at_least: usize) {
        let Self { name, seed, mut cases } = self;
        let whole = cases.len();
        assert!(whole >= at_least, "{name}: {whole} cases, not {at_least}");
        let ledger = std::env::var_os("HIGHWATER_TORTURE");
        if ledger.is_none() && std::env::var("HIGHWATER_DAMAGE").as_deref() != Ok("all") {
            let mut one: BTreeMap<(String, Kind), String> = BTreeMap::new();
            for case in &cases {
                let kept = one.entry((case.of.clone(), case.kind)).or_insert_with(|| case.name.clone());
                if random(seed, &case.name) < random(seed, kept) {
                    kept.clone_from(&case.name);
                }
            }
            cases.retain(|case| one[&(case.of.clone(), case.kind)] == case.name);
        }
        let (taken, mut wrong) = (cases.len(), Vec::new());
        for Case { name, judge, .. } in cases {
            match catch_unwind(AssertUnwindSafe(judge)) {
                Ok(Ok(())) => {}
                Ok(Err(verdict)) => wrong.push(format!("{name}: {verdict}")),
                Err(_) => {
                    // What it damaged may not be mended: the verdicts after it would say nothing.
                    wrong.push(format!("{name}: it panicked"));
                    break;
                }
            }
        }
        println!("damage to {name}: {taken} cases of {whole}, {} wrong verdicts, HIGHWATER_SEED={seed}", wrong.len());
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
        if let Some(ledger) = ledger {
            // Group, kills, other faults, seed.
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ledger).expect("open the ledger");
            file.write_all(format!("damage to {name}\t0\t{taken}\t{seed}\n").as_bytes()).expect("write the ledger");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_kind_changes_what_it_says_and_a_wrong_verdict_fails_with_its_name() {
        let good: Vec<u8> = (0..90).collect();
        let other = vec![200; 40];
        let of = |kind, part| changed(kind, &good, part, &other, &[7; 90], 1);
        assert_eq!(of(Kind::Delete, 0..90), None);
        assert_eq!(of(Kind::Empty, 0..90), Some(Vec::new()));
        assert_eq!(of(Kind::Swap, 0..90), Some(other.clone()));
        assert_eq!(of(Kind::Delete, 30..60).unwrap().len(), 60);
        assert_eq!(of(Kind::CutHead, 30..60).unwrap()[28..32], [28, 29, 40, 41]);
        assert_eq!(of(Kind::CutTail, 30..60).unwrap(), good[..50]);
        assert_eq!(of(Kind::CutInside, 30..60).unwrap(), good[..45]);
        for kind in [Kind::FlipBit, Kind::Empty, Kind::Swap, Kind::Older] {
            let bytes = of(kind, 30..60).unwrap();
            let differ: Vec<usize> = (0..90).filter(|at| bytes[*at] != good[*at]).collect();
            assert!(bytes.len() == 90 && differ.iter().all(|at| (30..60).contains(at)), "{kind}: {differ:?}");
            assert_eq!(differ.len() == 1, kind == Kind::FlipBit, "{kind}: {differ:?}");
        }

        let mut matrix = Matrix::begin("tests");
        for kind in KINDS {
            (0..3).for_each(|n| matrix.case("thing", kind, format!("thing {n}"), move || Err(format!("verdict {n}"))));
        }
        let panic = catch_unwind(AssertUnwindSafe(|| matrix.run(24))).unwrap_err();
        let said = panic.downcast_ref::<String>().unwrap();
        assert!(KINDS.iter().all(|kind| said.contains(&format!("{kind}: thing "))), "{said}");
    }
}
