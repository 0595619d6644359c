//! Runs of many seeded points. `make test` takes a few points of each group, `make torture` all of them; both print seed and
//! counts, and `HIGHWATER_SEED=<seed>` takes the same points again.

use std::io::Write;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// Set by `make torture`: every group runs in full, and adds its line to this file.
const LEDGER: &str = "HIGHWATER_TORTURE";
/// The seed to take again.
const SEED: &str = "HIGHWATER_SEED";

/// One group of points: its random numbers, and how many were executed. A group that ends without one has failed.
#[derive(Debug)]
pub struct Torture {
    group: &'static str,
    seed: u64,
    random: u64,
    round: u64,
    kills: u64,
    cases: u64,
}

impl Torture {
    /// Begins a group, and prints its seed.
    pub fn begin(group: &'static str) -> Self {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock").as_nanos() as u64;
        let seed =
            std::env::var(SEED).map_or(now, |text| text.trim().parse().unwrap_or_else(|_| panic!("{SEED} is {text:?}, not a number")));
        println!("{group}: {SEED}={seed}");
        // Groups of one seed differ by their names.
        let random = group.bytes().fold(seed, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3));
        Self { group, seed, random: random | 1, round: 0, kills: 0, cases: 0 }
    }

    /// Whether every point is taken.
    pub fn is_long() -> bool {
        std::env::var_os(LEDGER).is_some()
    }

    /// Whether another round is needed: until so many points were executed, few in `make test` and many in `make torture`. A
    /// moment may come too late for its process, so that a round need not execute one; there is an end to that too.
    pub fn goes_on(&mut self, quick: u64, long: u64) -> bool {
        let wanted = if Self::is_long() { long } else { quick };
        self.round += 1;
        self.kills + self.cases < wanted && self.round <= 3 * wanted + 10
    }

    /// Whether it is time for a look at everything, which takes longer than a round.
    pub fn is_time_for_a_look(&self) -> bool {
        self.round.is_multiple_of(16)
    }

    /// A number below `below`.
    pub fn pick(&mut self, below: u64) -> u64 {
        // xorshift: the seed decides everything.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random >> 11) % below.max(1)
    }

    /// A moment within `span`: of one seed the same part of it, however long it is here.
    pub fn moment(&mut self, span: Duration) -> Duration {
        span.mul_f64(self.pick(10_000) as f64 / 10_000.0)
    }

    /// All of them in `make torture`, else so many, in their order.
    pub fn some<T>(&mut self, mut all: Vec<T>, quick: usize) -> Vec<T> {
        while !Self::is_long() && all.len() > quick {
            let out = self.pick(all.len() as u64);
            all.remove(usize::try_from(out).expect("an index"));
        }
        all
    }

    /// A process was killed, and what came after was right.
    pub fn survived(&mut self, point: &str) {
        self.kills += 1;
        println!("{} {}: {point}", self.group, self.kills);
    }

    /// A fault that is no kill, and what came after was right.
    pub fn withstood(&mut self, case: &str) {
        self.cases += 1;
        println!("{} {}: {case}", self.group, self.cases);
    }

    /// Kills so far.
    pub fn kills(&self) -> u64 {
        self.kills
    }

    /// Ends the group: prints the counts, and enters them in the ledger.
    pub fn end(self) {
        let Self { group, seed, kills, cases, .. } = self;
        println!("{group}: {kills} kills, {cases} other faults, {SEED}={seed}");
        assert!(kills + cases > 0, "{group}: no point was executed");
        if let Some(ledger) = std::env::var_os(LEDGER) {
            let mut file = std::fs::OpenOptions::new().create(true).append(true).open(ledger).expect("open the ledger");
            file.write_all(format!("{group}\t{kills}\t{cases}\t{seed}\n").as_bytes()).expect("write the ledger");
        }
    }
}
