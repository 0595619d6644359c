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

/// More calls than any function makes in a round.
const MANY: usize = 1_000_000;

impl Cloud {
    /// Runs `round` again and again, and kills `function` in each at another of its calls: before the call is carried out, and
    /// after. `make torture` goes on until a round has no such call any more, so that every gap between two calls is met;
    /// `make test` takes `quick` of them. A round prepares what it needs, calls what it is given, lets the function run, and
    /// then whatever runs next by itself; and it panics unless all is as if nothing had happened.
    pub fn kill_at_every_call(&self, torture: &mut Torture, function: &str, quick: usize, mut round: impl FnMut(&dyn Fn())) {
        let order = |effect: &str, nth: usize| {
            self.fault(json!({"on": format!("function:{DEPLOYMENT}-{function}"), "effect": effect, "skip": nth - 1, "times": 1}));
        };
        round(&|| order("kill-before", MANY));
        let calls = usize::try_from(self.last_kill(function).0).expect("a number of calls");
        assert!(calls > 0, "{function} made no call");
        self.no_faults();
        let effects = ["kill-before", "kill-after"];
        let points: Vec<_> = (1..=calls).flat_map(|nth| effects.map(|effect| (nth, effect))).collect();
        let mut missed = 0;
        for (nth, effect) in torture.some(points, quick) {
            round(&|| order(effect, nth));
            let (_, hits, call) = self.last_kill(function);
            self.no_faults();
            if hits > 0 {
                torture.survived(&format!("{function}, {effect} call {nth}, {call}"));
            }
            // The calls were counted over a whole round, in which the function may have run twice: beyond one run there is nothing to meet.
            missed = if hits > 0 { 0 } else { missed + 1 };
            if missed == 4 {
                break;
            }
        }
    }

    /// Of the kill that was ordered last for a function: calls that it let pass, that it struck, and which it struck.
    fn last_kill(&self, function: &str) -> (u64, u64, String) {
        let on = format!("function:{DEPLOYMENT}-{function}");
        let faults = self.control("GET", "faults", &json!({}));
        let fault = array(&faults).iter().rev().find(|fault| fault["on"] == on.as_str()).unwrap_or_else(|| panic!("no kill of {function}"));
        let number = |name: &str| fault[name].as_u64().expect("a number");
        (number("passed"), number("hits"), fault["last"].as_str().unwrap_or_default().to_owned())
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
