//! Breadth-first search over every state that a model can reach: the first state that breaks a property is reached by
//! as few steps as any.

use std::collections::HashSet;
use std::fmt::Debug;
use std::hash::{DefaultHasher, Hash, Hasher};

/// A system that takes one step at a time.
pub(crate) trait Model {
    type State: Clone + Hash;
    type Action: Copy + Debug;

    fn initial(&self) -> Self::State;

    /// Everything that may happen next.
    fn actions(&self, state: &Self::State) -> Vec<Self::Action>;

    /// What happens then; the property that it breaks.
    fn step(&self, state: &Self::State, action: Self::Action) -> Result<Self::State, String>;
}

/// What the search found.
#[derive(Debug)]
pub(crate) enum Search {
    Holds { states: usize, steps: usize },
    Broken { property: String, trace: Vec<String>, states: usize },
}

/// Searches all of it. States are told apart by 128 bits of hash; only those not yet continued are kept whole.
pub(crate) fn explore<M: Model>(model: &M) -> Search {
    let initial = model.initial();
    let mut seen = HashSet::from([fingerprint(&initial)]);
    let mut came_from: Vec<(usize, Option<M::Action>)> = vec![(0, None)];
    let (mut level, mut steps) = (vec![(0, initial)], 0);
    while !level.is_empty() {
        let mut next = Vec::new();
        for (index, state) in level {
            for action in model.actions(&state) {
                steps += 1;
                match model.step(&state, action) {
                    Ok(after) => {
                        if seen.insert(fingerprint(&after)) {
                            came_from.push((index, Some(action)));
                            next.push((came_from.len() - 1, after));
                        }
                    }
                    Err(property) => {
                        let trace = trace::<M>(&came_from, index, action);
                        return Search::Broken { property, trace, states: seen.len() };
                    }
                }
            }
        }
        level = next;
    }
    Search::Holds { states: seen.len(), steps }
}

fn trace<M: Model>(came_from: &[(usize, Option<M::Action>)], mut at: usize, last: M::Action) -> Vec<String> {
    let mut trace = vec![format!("{last:?}")];
    while let (before, Some(action)) = came_from[at] {
        trace.push(format!("{action:?}"));
        at = before;
    }
    trace.reverse();
    trace
}

pub(crate) fn fingerprint(state: &impl Hash) -> u128 {
    let half = |salt: u8| {
        let mut hasher = DefaultHasher::new();
        (salt, state).hash(&mut hasher);
        u128::from(hasher.finish())
    };
    half(0) << 64 | half(1)
}
