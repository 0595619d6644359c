//! Drills on the local cloud: the real template, machine, functions, instance script, helper and database.

use highwater_core::certificate::{PublicKey, verify};
use highwater_tests::{Cloud, Load, MariaDb, config, wait_for};
use serde_json::{Value, json};

/// A deployment with one committed full of a filled database.
fn backed_up(config: &Value) -> (Cloud, MariaDb) {
    let (cloud, db) = (Cloud::deployed(config), MariaDb::start());
    Load::fill(&db, 200);
    {
        let _host = cloud.host("orders", &db);
        cloud.fire("backup-orders");
        cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed");
    }
    (cloud, db)
}

fn drill_of(cloud: &Cloud, cluster: &str) -> Value {
    cloud.items(cluster).into_iter().rev().find(|item| item["sk"].as_str().unwrap().starts_with("drill#")).unwrap()
}

fn no_instance_is_left(cloud: &Cloud) {
    wait_for("the end of every drill's instance", || cloud.drill_instances().is_empty().then_some(()));
}

#[test]
fn a_drill_by_console_input_ends_with_a_certificate_that_verifies_offline() {
    let (cloud, _db) = backed_up(&config());
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(ended["output"]["outcome"], "passed");
    no_instance_is_left(&cloud);

    let drill = drill_of(&cloud, "orders");
    assert_eq!((&drill["state"], &drill["open"]), (&json!("passed"), &Value::Null), "{drill}");
    assert_eq!(drill["execution"], ended["executionArn"]);
    let head = cloud.item("orders", "head").unwrap();
    assert_eq!(head["last_passed_drill"]["drill_id"], drill["drill_id"]);

    let prefix = format!("v1/orders/drills/{}/", drill["drill_id"].as_str().unwrap());
    let key = cloud.aws("kms", "TrentService.GetPublicKey", &json!({"KeyId": cloud.output("SigningKey")})).unwrap();
    let key = base64(key["PublicKey"].as_str().unwrap());
    let (mut bytes, signature) = (cloud.object(&format!("{prefix}certificate.json")), cloud.object(&format!("{prefix}certificate.sig")));
    let key = PublicKey::parse(&key).unwrap();
    let certificate = verify(&bytes, &signature, &key).unwrap();
    assert_eq!(certificate.drill_id.to_string(), drill["drill_id"].as_str().unwrap());
    assert_eq!(json!(certificate.plan), drill["plan"]);
    assert!(certificate.checks > 5);
    let last = bytes.len() / 2;
    bytes[last] ^= 1;
    assert_eq!(verify(&bytes, &signature, &key).unwrap_err().name(), "Signature");
}

fn base64(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = std::process::Command::new("base64")
        .arg("-d")
        .stdin(std::process::Stdio::piped())
        .stdout(std::process::Stdio::piped())
        .spawn()
        .unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}

#[test]
fn bad_input_shows_the_form_and_nothing_is_begun() {
    let cloud = Cloud::deployed(&config());
    for input in [json!({"clustre": "orders"}), json!({"cluster": "billing"}), json!({"cluster": "orders", "target": "yesterday"})] {
        let ended = cloud.execute("drill", &input);
        assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("BadInput")), "{ended}");
        assert!(ended["cause"].as_str().unwrap().contains(r#"{\"cluster\": \"orders\"}"#), "{ended}");
    }
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!(ended["status"], "FAILED", "{ended}");
    assert_eq!(cloud.items("orders"), Vec::<Value>::new());
    assert_eq!(cloud.keys("v1/"), Vec::<String>::new());
    assert!(cloud.instances().is_empty());
}
