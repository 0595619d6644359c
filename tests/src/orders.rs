//! The cluster `orders` on a local cloud, cared for by its deployment: its host, the people who decide, and a table whose rows
//! tell which data serves; with what has to hold after whatever happened to its workflows.

use crate::{Cloud, CloudHost, MariaDb, Person, binary, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::cell::RefCell;
use std::collections::BTreeSet;
use std::process::Command;
use std::time::{Duration, Instant};

/// The cluster, its server, and two people of whom one asks and the other decides.
#[derive(Debug)]
pub struct Orders<'a> {
    cloud: &'a Cloud,
    db: &'a MariaDb,
    /// Its host.
    pub host: CloudHost<'a>,
    /// Who asks.
    pub ada: Person,
    /// Who decides.
    pub bob: Person,
    /// The rows at the newest restore point. Nobody writes while a backup runs.
    backed_up: RefCell<Vec<u32>>,
}

/// A promotion that was asked for.
#[derive(Debug, Clone)]
pub struct Asked {
    /// The request.
    pub id: String,
    /// Its execution.
    pub execution: String,
}

impl<'a> Orders<'a> {
    /// Of a cloud where `orders` is deployed: with a table, and a first backup of it.
    pub fn on(cloud: &'a Cloud, db: &'a MariaDb) -> Self {
        db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT AUTO_INCREMENT PRIMARY KEY); INSERT INTO shop.orders VALUES (1), (2), (3)");
        let (ada, bob) = (cloud.user("ada"), cloud.user("bob"));
        let orders = Self { cloud, db, host: cloud.host("orders", db), ada, bob, backed_up: RefCell::default() };
        orders.back_up();
        orders
    }

    /// Its rows, as its server has them.
    pub fn rows(&self) -> Vec<u32> {
        self.db.query("SELECT id FROM shop.orders ORDER BY id")
    }

    /// Its rows at the newest restore point that [`Self::back_up`] took.
    pub fn rows_backed_up(&self) -> Vec<u32> {
        self.backed_up.borrow().clone()
    }

    /// One more order: lost when the newest restore point is promoted.
    pub fn write(&self) {
        self.db.run("INSERT INTO shop.orders VALUES (NULL)");
    }

    /// Lets the schedule's time come once, and waits for a new restore point and what follows it.
    pub fn back_up(&self) -> Value {
        let committed = || self.of("backup#").into_iter().filter(|b| b["state"] == "committed").map(|b| sk(&b)).collect::<BTreeSet<_>>();
        let (before, rows) = (committed(), self.rows());
        self.cloud.fire("backup-orders");
        let new = |b: &Value| b["state"] == "committed" && b["open"].is_null() && !before.contains(&sk(b));
        let backup =
            wait_for_within(Duration::from_secs(90), "the next scheduled backup", || self.of("backup#").into_iter().find(|b| new(b)));
        *self.backed_up.borrow_mut() = rows;
        backup
    }

    /// Its items whose sort key begins so, the oldest first.
    pub fn of(&self, prefix: &str) -> Vec<Value> {
        self.cloud.items("orders").into_iter().filter(|item| sk(item).starts_with(prefix)).collect()
    }

    // ---- promotions

    /// Asks for one by the URL.
    pub fn ask(&self, by: &Person) -> Asked {
        let (status, answer) = self.cloud.call_approval_url(by, &json!({"action": "restore", "cluster": "orders"}));
        assert_eq!(status, 202, "{answer}");
        let field = |name: &str| answer[name].as_str().unwrap_or_else(|| panic!("{name} in {answer}")).to_owned();
        Asked { id: field("request_id"), execution: field("execution") }
    }

    /// The request's record.
    pub fn request(&self, asked: &Asked) -> Value {
        self.cloud.item("orders", &format!("approval#{}", asked.id)).unwrap_or_else(|| panic!("no request {}", asked.id))
    }

    /// Waits until its drill has passed and votes are awaited; gives the digest of the certificate.
    pub fn question(&self, asked: &Asked) -> String {
        wait_for_within(Duration::from_secs(120), "the question", || {
            let execution = self.cloud.execution(&asked.execution);
            assert_eq!(execution["status"], "RUNNING", "{execution}");
            self.open_question(asked)
        })
    }

    fn open_question(&self, asked: &Asked) -> Option<String> {
        let record = self.request(asked);
        let waits = record["request"]["state"]["name"] == "waiting" && record["token"].is_string();
        waits.then(|| record["request"]["question"]["certificate"]["sha256"].as_str().expect("a certificate").to_owned())
    }

    /// Approves the certificate with this digest.
    pub fn approve(&self, by: &Person, asked: &Asked, certificate: &str) -> (u16, Value) {
        let body = json!({"action": "approve", "cluster": "orders", "request_id": asked.id, "certificate_sha256": certificate});
        self.cloud.call_approval_url(by, &body)
    }

    /// Denies it.
    pub fn deny(&self, by: &Person, asked: &Asked) -> (u16, Value) {
        let body = json!({"action": "deny", "cluster": "orders", "request_id": asked.id, "reason": "not tonight"});
        self.cloud.call_approval_url(by, &body)
    }

    /// Asks for a promotion and lets bob approve as soon as he is asked; gives the execution as it ended. A vote that is
    /// answered with an error is sent again, as a person does; and `reconcile` runs, as its schedule lets it.
    pub fn promote(&self) -> Value {
        let asked = self.ask(&self.ada);
        let (mut voted, mut reconciled) = (false, Instant::now());
        wait_for_within(Duration::from_secs(150), "the promotion's end", || {
            let execution = self.cloud.execution(&asked.execution);
            if execution["status"] != "RUNNING" {
                return Some(execution);
            }
            if !voted && let Some(certificate) = self.open_question(&asked) {
                voted = self.approve(&self.bob, &asked, &certificate).0 == 200;
            }
            if reconciled.elapsed() > Duration::from_secs(3) {
                let _ = self.cloud.invoke("reconcile", &json!({}));
                reconciled = Instant::now();
            }
            None
        })
    }

    // ---- what has to hold

    /// Lets `reconcile` run until every record is closed, nobody holds the lease and no instance runs.
    pub fn settle(&self) {
        let (limit, began) = (Duration::from_secs(90), Instant::now());
        loop {
            // Beside the one that an event has called, it may find that the other was faster; then the next run is good.
            let reconciled = self.cloud.invoke("reconcile", &json!({}));
            let under_way = self.under_way();
            if reconciled.is_ok() && under_way.is_empty() {
                return;
            }
            assert!(began.elapsed() < limit, "after {limit:?} this is under way: {under_way:?}; reconcile said {reconciled:?}");
            // The pause between two looks.
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// What is not closed.
    fn under_way(&self) -> Vec<String> {
        let items = self.cloud.items("orders");
        let open = items.iter().filter(|item| !item["open"].is_null()).map(sk);
        let held = items
            .iter()
            .filter(|item| item["sk"] == "lease" && !item["holder"].is_null())
            .map(|item| format!("lease of {}", item["holder"]));
        let instances = self.cloud.drill_instances().into_iter().map(|i| format!("instance {}", i["instance-id"]));
        let machines = ["drill", "drill-fleet", "restore-primary"].into_iter().flat_map(|machine| self.cloud.executions(machine));
        let runs = machines.filter(|arn| self.cloud.execution(arn)["status"] == "RUNNING");
        open.chain(held).chain(instances).chain(runs).collect()
    }

    /// `highwater catalog audit` finds nothing: catalog, manifests, objects and certificates agree.
    pub fn is_sound(&self) {
        let key = self.cloud.scratch().join("signing-key.pem");
        let pem = self.cloud.public_key(self.cloud.output("SigningKey"));
        std::fs::write(&key, pem).expect("write the public key");
        let mut audit = Command::new(binary("highwater"));
        audit.args([
            "catalog",
            "audit",
            "--bucket",
            self.cloud.output("Bucket"),
            "--cluster",
            "orders",
            "--table",
            self.cloud.output("Catalog"),
        ]);
        crate::run(audit.arg("--key").arg(key).env_clear().envs(self.cloud.env()));
    }

    /// Removes the data that promotions have replaced, as an operator does once it is not wanted any more.
    pub fn remove_replaced(&self) {
        let (live, kept) = (self.db.datadir(), format!("{}.old-", self.db.datadir().file_name().expect("a name").to_string_lossy()));
        let beside = std::fs::read_dir(live.parent().expect("a directory")).expect("list beside the data");
        for replaced in beside.flatten().filter(|entry| entry.file_name().to_string_lossy().starts_with(&kept)) {
            std::fs::remove_dir_all(replaced.path()).expect("remove replaced data");
        }
    }

    /// Everything that has to hold after any end of any workflow: all is closed, the catalog is sound, and the next scheduled
    /// backup succeeds by itself.
    pub fn goes_on(&self) -> Value {
        self.settle();
        self.is_sound();
        self.back_up()
    }
}

fn sk(item: &Value) -> String {
    item["sk"].as_str().unwrap_or_else(|| panic!("no sort key in {item}")).to_owned()
}

/// Waits until an execution has entered a state.
pub fn wait_for_state(cloud: &Cloud, execution: &str, state: &str) {
    wait_for(&format!("{execution} to enter {state}"), || cloud.states_entered(execution).iter().any(|s| s == state).then_some(()));
}
