//! What stands beside a new backup, kept so that admitting one of many takes a logarithm of their number: a catalog of
//! 100,000 backups is rebuilt in the time of sorting it.
//!
//! The rules compare a new backup with every committed one. Of all that ended before it only the one that had got furthest
//! can break a rule, and of all that began after it only the one that had got least far: these are found here.

use crate::Lsn;
use crate::catalog::StoredManifest;
use crate::ids::{BackupId, Incarnation};
use jiff::Timestamp;
use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ops::Bound;

/// The committed backups of a cluster, as far as a new one is compared with them.
#[derive(Debug, Default)]
pub(crate) struct Neighbours {
    /// Of each parent, the child that ended first.
    first_child: BTreeMap<BackupId, (Timestamp, BackupId)>,
    lives: BTreeMap<Incarnation, Life>,
    ended: Furthest<Incarnation, Timestamp, Incarnation>,
    began: Furthest<Reverse<Incarnation>, Reverse<Timestamp>, Incarnation>,
}

/// One incarnation's.
#[derive(Debug)]
pub(crate) struct Life {
    /// The least id: the source of one is the source of all.
    pub(crate) one: BackupId,
    ended_to: Furthest<Timestamp, Lsn, BackupId>,
    ended_last: Furthest<Timestamp, Lsn, BackupId>,
    began_to: Furthest<Reverse<Timestamp>, Reverse<Lsn>, BackupId>,
    began_last: Furthest<Reverse<Timestamp>, Reverse<Lsn>, BackupId>,
}

impl Neighbours {
    /// Those of a catalog's backups.
    pub(crate) fn of<'a>(backups: impl Iterator<Item = &'a StoredManifest>) -> Self {
        let mut neighbours = Self::default();
        backups.for_each(|stored| neighbours.add(stored));
        neighbours
    }

    /// One more, which has been admitted.
    pub(crate) fn add(&mut self, stored: &StoredManifest) {
        let (m, id) = (&stored.manifest, stored.id());
        if let Some(link) = &m.parent {
            let child = (m.finished_at, id.clone());
            self.first_child.entry(link.backup_id.clone()).and_modify(|first| *first = child.clone().min(first.clone())).or_insert(child);
        }
        self.ended.add(m.incarnation.clone(), m.finished_at, m.incarnation.clone());
        self.began.add(Reverse(m.incarnation.clone()), Reverse(m.started_at), m.incarnation.clone());
        let life = self.lives.entry(m.incarnation.clone()).or_insert_with(|| Life::of(id));
        if *id < life.one {
            life.one = id.clone();
        }
        life.ended_to.add(m.finished_at, m.to_lsn, id.clone());
        life.ended_last.add(m.finished_at, m.last_lsn, id.clone());
        life.began_to.add(Reverse(m.started_at), Reverse(m.to_lsn), id.clone());
        life.began_last.add(Reverse(m.started_at), Reverse(m.last_lsn), id.clone());
    }

    /// The child of `parent` that ended first.
    pub(crate) fn first_child(&self, parent: &BackupId) -> Option<&BackupId> {
        self.first_child.get(parent).map(|(_, id)| id)
    }

    /// An incarnation's, if it has a backup.
    pub(crate) fn life(&self, incarnation: &Incarnation) -> Option<&Life> {
        self.lives.get(incarnation)
    }

    /// An incarnation before `incarnation` with a backup that had not ended at `start`.
    pub(crate) fn earlier_not_ended(&self, incarnation: &Incarnation, start: Timestamp) -> Option<&Incarnation> {
        self.ended.before(incarnation).filter(|(ended, _)| *ended > start).map(|(_, of)| of)
    }

    /// An incarnation after `incarnation` with a backup that had begun before `end`.
    pub(crate) fn later_begun(&self, incarnation: &Incarnation, end: Timestamp) -> Option<&Incarnation> {
        self.began.before(&Reverse(incarnation.clone())).filter(|(began, _)| began.0 < end).map(|(_, of)| of)
    }
}

impl Life {
    fn of(one: &BackupId) -> Self {
        Self {
            one: one.clone(),
            ended_to: Furthest::default(),
            ended_last: Furthest::default(),
            began_to: Furthest::default(),
            began_last: Furthest::default(),
        }
    }

    /// The greatest `to_lsn` of those that had ended at `start`.
    pub(crate) fn to_lsn_before(&self, start: Timestamp) -> Option<(Lsn, &BackupId)> {
        self.ended_to.until(&start).map(|(lsn, id)| (*lsn, id))
    }

    /// The greatest `last_lsn` of those that had ended at `start`.
    pub(crate) fn last_lsn_before(&self, start: Timestamp) -> Option<(Lsn, &BackupId)> {
        self.ended_last.until(&start).map(|(lsn, id)| (*lsn, id))
    }

    /// The least `to_lsn` of those that began at `end` or later.
    pub(crate) fn to_lsn_after(&self, end: Timestamp) -> Option<(Lsn, &BackupId)> {
        self.began_to.until(&Reverse(end)).map(|(lsn, id)| (lsn.0, id))
    }

    /// The least `last_lsn` of those that began at `end` or later.
    pub(crate) fn last_lsn_after(&self, end: Timestamp) -> Option<(Lsn, &BackupId)> {
        self.began_last.until(&Reverse(end)).map(|(lsn, id)| (lsn.0, id))
    }
}

/// The greatest value among all whose key is not after a given one: a staircase, of which only the steps are kept.
#[derive(Debug)]
struct Furthest<K, V, T> {
    steps: BTreeMap<K, (V, T)>,
}

impl<K, V, T> Default for Furthest<K, V, T> {
    fn default() -> Self {
        Self { steps: BTreeMap::new() }
    }
}

impl<K: Ord + Clone, V: Ord, T> Furthest<K, V, T> {
    fn add(&mut self, key: K, value: V, of: T) {
        if self.until(&key).is_some_and(|(furthest, _)| *furthest > value) {
            return;
        }
        // Later steps that are lower are none any more. Each is removed once, so that all of this is cheap.
        while let Some((later, _)) =
            self.steps.range::<K, _>((Bound::Excluded(&key), Bound::Unbounded)).next().filter(|(_, (lower, _))| *lower < value)
        {
            let later = later.clone();
            self.steps.remove(&later);
        }
        self.steps.insert(key, (value, of));
    }

    fn until(&self, key: &K) -> Option<&(V, T)> {
        self.steps.range::<K, _>(..=key).next_back().map(|(_, step)| step)
    }

    fn before(&self, key: &K) -> Option<&(V, T)> {
        self.steps.range::<K, _>(..key).next_back().map(|(_, step)| step)
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may stop at the first surprise")]
mod tests {
    use super::*;
    use crate::counted::{Counted, compared};
    use proptest::prelude::*;

    #[test]
    fn i1_what_one_more_backup_is_compared_with_does_not_grow_with_those_that_there_are() {
        // The times and LSNs of a server that goes on, of one that fell back (every step is lower than all before), of one that is
        // read from its end, and of no order.
        type Order = fn(u32) -> (u32, u32);
        let orders: [Order; 4] =
            [|i| (i, i), |i| (i, u32::MAX - i), |i| (u32::MAX - i, i), |i| (i.wrapping_mul(2_654_435_761), i ^ 0x5555)];
        for (kind, order) in orders.into_iter().enumerate() {
            let each = |n: u32| {
                let (count, ()) = compared(|| {
                    let mut steps = Furthest::default();
                    for (key, value) in (0..n).map(order) {
                        let (until, before) = (steps.until(&Counted(key)).is_some(), steps.before(&Counted(key)).is_some());
                        assert!(until || !before);
                        steps.add(Counted(key), Counted(value), ());
                    }
                });
                count / u64::from(n)
            };
            let (few, many) = (each(1_000), each(8_000));
            assert!(many <= 2 * few, "kind {kind}: {few} comparisons for each of 1,000, {many} for each of 8,000");
        }
    }

    proptest! {
        #[test]
        fn a_staircase_gives_the_greatest_of_all_until_a_key(all in prop::collection::vec((0u8..40, 0u8..40), 0..60)) {
            let mut steps = Furthest::default();
            for (n, (key, value)) in all.iter().enumerate() {
                steps.add(*key, *value, n);
                for at in 0..41u8 {
                    let greatest = |within: &dyn Fn(u8) -> bool| all[..=n].iter().filter(|(key, _)| within(*key)).map(|(_, value)| *value).max();
                    let (until, before) = (steps.until(&at), steps.before(&at));
                    prop_assert_eq!(until.map(|(value, _)| *value), greatest(&|key| key <= at));
                    prop_assert_eq!(before.map(|(value, _)| *value), greatest(&|key| key < at));
                    // It names one that has that value.
                    prop_assert!(until.is_none_or(|(value, of)| all[*of].1 == *value && all[*of].0 <= at));
                }
            }
        }
    }
}
