//! Killing a function between any two of its calls of AWS, and what must hold when everything has come to rest again.

use super::{Cloud, DEPLOYMENT, array};
use crate::{Torture, block_on};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::manifests::head_objects;
use highwater_aws::rebuild::compare;
use highwater_aws::table::Table;
use highwater_core::audit::{audit_catalog, objects_of};
use jiff::Timestamp;
use serde_json::json;

/// How many calls of a function the points of `make test` are looked for in; few functions make fewer.
const EARLY: u64 = 16;

/// A kill that was ordered: calls that it let pass, that it struck, and which it struck.
struct Kill {
    passed: u64,
    hits: u64,
    call: String,
}

const EFFECTS: [&str; 2] = ["kill-before", "kill-after"];

impl Kill {
    fn tell(&self, torture: &mut Torture, function: &str, nth: u64, effect: &str) {
        if self.hits > 0 {
            torture.survived(&format!("{function}, {effect} call {nth}, {}", self.call));
        }
    }
}

impl Cloud {
    /// Runs `round` again and again, and kills `function` in each at another of its calls: before the call is carried out, or
    /// after. `make torture` goes on until a round has no such call any more, so that every gap between two calls is met;
    /// `make test` takes `quick` points. A round prepares what it needs, calls what it is given, lets the function run, and
    /// then whatever runs next by itself; and it panics unless all is as if nothing had happened.
    pub fn kill_at_every_call(&self, torture: &mut Torture, function: &str, quick: usize, round: impl FnMut(&dyn Fn())) {
        let before = torture.kills();
        if Torture::is_long() {
            self.kill_at_all_calls(torture, function, round);
        } else {
            self.kill_at_some_calls(torture, function, quick, round);
        }
        assert!(torture.kills() > before, "{function} was never killed");
    }

    fn kill_at_all_calls(&self, torture: &mut Torture, function: &str, mut round: impl FnMut(&dyn Fn())) {
        // Calls of one round differ by a few from those of another: two numbers that nothing met are the end.
        let mut missed = 0;
        for nth in 1.. {
            for effect in EFFECTS {
                let kill = self.kill_at(function, nth, effect, &mut round);
                missed = if kill.hits > 0 { 0 } else { missed + 1 };
                kill.tell(torture, function, nth, effect);
            }
            if missed >= 2 * EFFECTS.len() {
                return;
            }
        }
    }

    fn kill_at_some_calls(&self, torture: &mut Torture, function: &str, quick: usize, mut round: impl FnMut(&dyn Fn())) {
        let (mut calls, mut met) = (EARLY, 0);
        for _ in 0..quick + 3 {
            let (nth, effect) = (1 + torture.pick(calls), EFFECTS[usize::from(torture.pick(2) == 0)]);
            let kill = self.kill_at(function, nth, effect, &mut round);
            if kill.hits == 0 {
                calls = kill.passed;
            }
            met += usize::from(kill.hits > 0);
            kill.tell(torture, function, nth, effect);
            if met == quick {
                return;
            }
        }
        panic!("{function}: {met} of {quick} points were met");
    }

    fn kill_at(&self, function: &str, nth: u64, effect: &str, round: &mut impl FnMut(&dyn Fn())) -> Kill {
        let on = format!("function:{DEPLOYMENT}-{function}");
        round(&|| self.fault(json!({"on": on, "effect": effect, "skip": nth - 1, "times": 1})));
        let faults = self.control("GET", "faults", &json!({}));
        self.no_faults();
        let fault = array(&faults).iter().rev().find(|fault| fault["on"] == on.as_str()).unwrap_or_else(|| panic!("no kill of {function}"));
        let number = |name: &str| fault[name].as_u64().expect("a number");
        Kill { passed: number("passed"), hits: number("hits"), call: fault["last"].as_str().unwrap_or_default().to_owned() }
    }

    /// Panics unless a cluster is at rest and in order: nothing open, the lease free, no drill's instance, the catalog exactly
    /// what the manifests imply, and every object of every restore point as its manifest records it. Gives the number of restore points.
    #[track_caller]
    pub fn assert_sound(&self, cluster: &str) -> usize {
        let (bucket, catalog) = (self.bucket(), CatalogTable::new(Table::new(&self.sdk(), self.output("Catalog"))));
        let cluster = cluster.parse().expect("a cluster id");
        let (compared, heads) = block_on(async {
            let compared =
                compare(&catalog, &bucket, &cluster, None, Timestamp::now()).await.expect("compare the catalog with the manifests");
            let heads = head_objects(&bucket, objects_of(&compared.implied)).await.expect("look at the objects");
            (compared, heads)
        });
        assert_eq!(compared.differences, [], "the catalog differs from the manifests");
        assert_eq!(compared.open, [""; 0], "not at rest");
        let audit = audit_catalog(compared.implied, Some(&heads));
        let broken: Vec<_> = audit.findings.iter().filter(|f| f.problem.is_broken()).map(ToString::to_string).collect();
        assert_eq!(broken, [""; 0], "broken invariants");
        assert!(self.drill_instances().is_empty(), "an instance is left: {:?}", self.drill_instances());
        audit.catalog.backups().count()
    }
}
