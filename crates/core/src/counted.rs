//! A key that counts how often it is compared: a bound on work that no clock is needed for.

use std::cell::Cell;
use std::cmp::Ordering;

thread_local! {
    static COMPARED: Cell<u64> = const { Cell::new(0) };
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Counted(pub(crate) u32);

/// What `work` gives, and how many comparisons it took.
pub(crate) fn compared<T>(work: impl FnOnce() -> T) -> (u64, T) {
    let before = COMPARED.get();
    let done = work();
    (COMPARED.get() - before, done)
}

impl Ord for Counted {
    fn cmp(&self, other: &Self) -> Ordering {
        COMPARED.set(COMPARED.get() + 1);
        self.0.cmp(&other.0)
    }
}

impl PartialOrd for Counted {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Counted {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Counted {}
