//! The protocol of catalog, lease and chain, explored exhaustively for small bounds: every order in which functions,
//! host and clock can take their steps, a crash of anything at any point, every message doubled or late.
//!
//! The rules of the crate run inside the model as they are (admission, window, next backup, lease, retention); what the
//! functions' transactions demand is said in `system`. Each rule is taken away in turn: then the search must find a
//! history that breaks an invariant, or the rule is not needed.

mod explorer;
mod properties;
mod rules;
mod state;
mod system;

use explorer::{Search, explore};
use rules::{Rule, Rules};
use state::Left;
use std::time::Instant;
use system::System;

const NONE: Left = Left {
    starts: 0,
    forced: 0,
    finishes: 0,
    expiries: 0,
    kills: 0,
    doubles: 0,
    promotes: 0,
    prunes: 0,
    rebuilds: 0,
    drills: 0,
    roll_backs: 0,
    upgrades: 0,
};

/// What may happen in a search, how often.
#[derive(Debug, Clone, Copy)]
struct Scenario {
    name: &'static str,
    /// Begins behind a committed full.
    begun: bool,
    bounds: Left,
}

const fn from_nothing(name: &'static str, bounds: Left) -> Scenario {
    Scenario { name, begun: false, bounds }
}

const fn behind_a_full(name: &'static str, bounds: Left) -> Scenario {
    Scenario { name, begun: true, bounds }
}

const DOUBLED: Scenario = from_nothing("events doubled, a helper killed", Left { starts: 2, finishes: 3, kills: 1, doubles: 1, ..NONE });
const EXPIRED: Scenario = behind_a_full("a lease expires", Left { starts: 2, finishes: 3, expiries: 1, ..NONE });
const PROMOTED: Scenario = behind_a_full("a promotion", Left { starts: 2, finishes: 2, promotes: 1, expiries: 1, ..NONE });
const CHANGED: Scenario =
    behind_a_full("a server rolled back or upgraded", Left { starts: 2, finishes: 2, roll_backs: 1, upgrades: 1, ..NONE });
const PRUNED: Scenario = behind_a_full("old chains pruned", Left { starts: 1, forced: 1, finishes: 1, prunes: 2, drills: 1, ..NONE });
const REBUILT: Scenario =
    behind_a_full("the catalog rebuilt", Left { starts: 2, finishes: 2, expiries: 1, rebuilds: 1, prunes: 1, ..NONE });

/// The bounds of `make test`.
const SCENARIOS: [Scenario; 6] = [DOUBLED, EXPIRED, PROMOTED, CHANGED, PRUNED, REBUILT];

/// Those of `make torture`, beside the others.
const LARGER: [Scenario; 6] = [
    from_nothing("three backups, all of it doubled", Left { starts: 3, finishes: 4, kills: 1, doubles: 2, ..NONE }),
    from_nothing("three backups, two leases expire", Left { starts: 3, finishes: 3, expiries: 2, ..NONE }),
    behind_a_full("a promotion among three backups", Left { starts: 3, finishes: 2, promotes: 2, expiries: 1, ..NONE }),
    behind_a_full("three backups of a changing server", Left { starts: 3, finishes: 3, kills: 1, roll_backs: 1, upgrades: 1, ..NONE }),
    behind_a_full("three chains pruned", Left { starts: 3, forced: 2, finishes: 3, prunes: 1, drills: 1, ..NONE }),
    behind_a_full("rebuilt among three backups", Left { starts: 3, forced: 1, finishes: 2, expiries: 1, rebuilds: 1, prunes: 1, ..NONE }),
];

/// Where it shows that a rule is needed.
const NEEDED: [(Rule, Scenario); 20] = [
    (Rule::OnlyFreeOrExpiredIsTaken, DOUBLED),
    (Rule::LeaseAsRead, DOUBLED),
    (Rule::ReleaseOnlyOnesOwn, PROMOTED),
    (Rule::RequestAtTheVersionRead, PROMOTED),
    (Rule::HeadIsReadFirst, PRUNED),
    (Rule::FailuresAreRemembered, EXPIRED),
    (Rule::OnlyOpenIsFinished, DOUBLED),
    (Rule::CommitWithTheLease, PROMOTED),
    (Rule::CommitAtTheVersionRead, PROMOTED),
    (Rule::CommitWhatIsAdmitted, CHANGED),
    (Rule::ManifestOnlyOnce, DOUBLED),
    (Rule::HostDoesOneThing, PROMOTED),
    (Rule::HelperKnowsTheParent, CHANGED),
    (Rule::PromotionTakesTheLease, PROMOTED),
    (Rule::PromotionBreaksTheChain, PROMOTED),
    (Rule::MarkAtTheVersionRead, PRUNED),
    (Rule::NeededIsKept, PRUNED),
    (Rule::ProvenIsKept, PRUNED),
    (Rule::DrillsCount, PRUNED),
    (Rule::RebuildAtTheVersionRead, REBUILT),
];

/// Either of these does without the other: no two operations have one name, and no two holders one token.
const EITHER: ([Rule; 2], Scenario) = ([Rule::HolderIsCompared, Rule::TokenGrows], PROMOTED);

fn search(scenario: Scenario, without: &[Rule]) -> Search {
    let Scenario { begun, bounds, .. } = scenario;
    explore(&System { rules: Rules { without: without.to_vec() }, bounds, begun, recovered: Default::default() })
}

fn expect_sound(scenario: Scenario) {
    let started = Instant::now();
    match search(scenario, &[]) {
        Search::Holds { states, steps } => println!("{}: {states} states, {steps} steps, {:.1?}", scenario.name, started.elapsed()),
        Search::Broken { property, trace, .. } => panic!("{}: {property}\n{}", scenario.name, trace.join("\n")),
    }
}

fn expect_broken(without: &[Rule], scenario: Scenario) {
    match search(scenario, without) {
        Search::Broken { property, trace, states } => {
            println!("without {without:?}: {property}; step {} of {}, after {states} states", trace.len(), scenario.name);
        }
        Search::Holds { states, .. } => panic!("{}: all {states} states are sound without {without:?}", scenario.name),
    }
}

#[test]
fn i1_i2_i3_i4_i6_hold_in_every_history_within_the_bounds() {
    SCENARIOS.into_iter().for_each(expect_sound);
    if std::env::var_os("HIGHWATER_TORTURE").is_some() {
        LARGER.into_iter().for_each(expect_sound);
    }
}

#[test]
fn every_rule_of_the_protocol_is_needed() {
    for (rule, scenario) in NEEDED {
        expect_broken(&[rule], scenario);
    }
    let (either, scenario) = EITHER;
    expect_broken(&either, scenario);
    let covered: Vec<Rule> = NEEDED.iter().map(|(rule, _)| *rule).chain(either).collect();
    assert!(Rule::ALL.iter().all(|rule| covered.contains(rule)), "a rule is never taken away");
    println!("{} of {} rules taken away, each was missed", covered.len(), Rule::ALL.len());
}
