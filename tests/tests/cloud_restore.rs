//! The whole way of a promotion on the deployed machine: asked for with the operator's command, drilled, approved by a second
//! person, promoted, and followed by a full in a new incarnation.

use highwater_tests::{Cloud, MariaDb, Person, binary, config, run, wait_for_within};
use serde_json::Value;
use std::process::Command;
use std::time::Duration;

/// The operator's command, signed by this person.
fn highwater(cloud: &Cloud, person: &Person, arguments: &[&str]) -> Value {
    let url = cloud.output("ApprovalUrl");
    let id = url.split("://").last().and_then(|u| u.split('.').next()).unwrap();
    let mut command = Command::new(binary("highwater"));
    command.arg("--json").args(arguments).args(["--cluster", "orders"]).envs(person.env());
    command.env("HIGHWATER_APPROVAL_URL", format!("{}/_aws/lambda-url/{id}/", cloud.url()));
    serde_json::from_str(&run(&mut command)).unwrap()
}

#[test]
fn from_the_request_to_the_forced_full() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let host = cloud.host("orders", &db);
    db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); INSERT INTO shop.orders VALUES (1), (2), (3)");
    cloud.fire("backup-orders");
    let backup = cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed");
    db.run("DELETE FROM shop.orders");
    let [ada, bob] = ["ada", "bob"].map(|name| cloud.user(name));

    let asked = highwater(&cloud, &ada, &["restore", "--no-wait"]);
    let (id, execution) = (asked["request_id"].as_str().unwrap(), asked["execution"].as_str().unwrap());
    let question = wait_for_within(Duration::from_secs(150), "the question", || {
        let seen = highwater(&cloud, &bob, &["approvals"])["requests"][0].clone();
        (seen["state"] == "waiting").then(|| seen["question"].clone())
    });
    assert_eq!((&question["backup_id"], question["host"].as_str()), (&backup["backup_id"], Some(host.instance())));
    let certificate = question["certificate"]["sha256"].as_str().unwrap();
    let approved = highwater(&cloud, &bob, &["approve", "--request", id, "--certificate", certificate]);
    assert_eq!((approved["state"].as_str(), &approved["note"]), (Some("approved"), &Value::Null));

    let ended = cloud.wait_execution(execution);
    assert_eq!((ended["status"].as_str(), &ended["output"]["outcome"]), (Some("SUCCEEDED"), &Value::from("promoted")), "{ended}");
    assert_eq!(db.value::<u64>("SELECT COUNT(*) FROM shop.orders"), 3);
    let full = cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed" && item["sk"] != backup["sk"]);
    assert_ne!(full["incarnation"], backup["incarnation"]);
    assert!(cloud.drill_instances().is_empty());
}
