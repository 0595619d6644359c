//! Drills on the local cloud: the real template, machine, functions, instance script, helper and database.

use highwater_core::certificate::{PublicKey, verify};
use highwater_tests::{Cloud, Load, MariaDb, config, config_of, wait_for};
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
    cloud.items_under(cluster, "drill#").pop().unwrap()
}

/// Starts a drill whose instance runs; gives the execution and the instance.
fn running(cloud: &Cloud) -> (String, String) {
    let execution = cloud.start_execution("drill", &json!({"cluster": "orders"}));
    let record = cloud.wait_for_item("orders", "drill#", |item| item["state"] == "running" && item["execution"] == json!(execution));
    (execution, record["instance"].as_str().unwrap().to_owned())
}

/// A drill that did not pass is recorded so, told, and has no certificate.
fn did_not_pass(cloud: &Cloud, execution: &str, why: &str) {
    let record = cloud.wait_for_item("orders", "drill#", |item| item["execution"] == json!(execution) && item["open"].is_null());
    assert_eq!(record["state"], "failed", "{record}");
    assert!(record["reason"].as_str().unwrap().contains(why), "{why}: {record}");
    let prefix = format!("v1/orders/drills/{}/", record["drill_id"].as_str().unwrap());
    assert!(!cloud.keys(&prefix).iter().any(|key| key.contains("certificate")), "{prefix}");
    let told = cloud.notifications();
    assert!(told.iter().any(|m| m.contains(record["drill_id"].as_str().unwrap()) && m.contains(why)), "{told:?}");
    no_instance_is_left(cloud);
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
    let page = String::from_utf8(cloud.object(&format!("{prefix}report.html"))).unwrap();
    assert!(page.contains("Drill of orders: passed") && page.contains(&certificate.drill_id.to_string()), "{page}");
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

#[test]
fn a_failed_check_fails_the_drill_and_says_which() {
    let mut config = config();
    let checks = config["clusters"]["orders"]["drill"]["checks"].as_str().unwrap();
    let assertion = "[[drill.assert]]\nname = \"the moon is cheese\"\nsql = \"SELECT 1\"\nexpect = \"2\"\n";
    config["clusters"]["orders"]["drill"]["checks"] = json!(format!("{checks}{assertion}"));
    let (cloud, _db) = backed_up(&config);
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillFailed")), "{ended}");
    assert!(ended["cause"].as_str().unwrap().contains("the moon is cheese"), "{ended}");
    did_not_pass(&cloud, ended["executionArn"].as_str().unwrap(), "the moon is cheese");
    assert_eq!(cloud.item("orders", "head").unwrap()["last_passed_drill"], Value::Null);

    // A report that says passed does not help a task that failed, nor does calling again.
    let record = drill_of(&cloud, "orders");
    let drill = json!({"drill_id": record["drill_id"], "cluster": "orders", "target": record["target"], "backup_id": record["backup_id"], "plan": record["plan"]});
    assert_eq!(cloud.invoke("record-drill", &json!({"drill": drill, "failure": null})).unwrap()["outcome"], "failed");
}

#[test]
fn a_lost_object_fails_the_drill_before_an_instance_is_launched_and_is_named_everywhere() {
    let (cloud, _db) = backed_up(&config());
    let data = cloud.keys("v1/orders/").into_iter().find(|key| key.contains("/data-")).unwrap();
    cloud.lose(&data);
    // The first answer is lost on its way: the second says the same.
    cloud.fault(json!({"on": "lambda:Invoke", "effect": "lose-reply", "match": {"FunctionName": "highwater-plan-restore"}, "times": 1}));
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!(cloud.fault_hits(), [1]);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillFailed")), "{ended}");
    let cause = ended["cause"].as_str().unwrap();
    assert!(cause.starts_with("Damaged: ") && cause.contains(&data), "{ended}");
    did_not_pass(&cloud, ended["executionArn"].as_str().unwrap(), &data);
    assert!(cloud.instances().iter().all(|i| i["tags"]["highwater:purpose"] != "drill"), "nothing was launched");
}

#[test]
fn a_drill_that_is_aborted_killed_or_silent_ends_at_once_and_leaves_no_instance() {
    let (cloud, _db) = backed_up(&config());
    cloud.drills_hang();

    let (execution, _) = running(&cloud);
    cloud.stop_execution(&execution);
    did_not_pass(&cloud, &execution, "aborted");

    let (execution, instance) = running(&cloud);
    cloud.control("POST", &format!("hosts/{instance}/shutdown"), &json!({"minutes": 0}));
    let ended = cloud.wait_execution(&execution);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillFailed")), "{ended}");
    did_not_pass(&cloud, &execution, "InstanceGone");

    // The machine's own time is over: no state runs any more, and the event of it has the rest done.
    let (execution, _) = running(&cloud);
    cloud.settings(json!({"sfn_machine_timeout_scale": 1e-6}));
    assert_eq!(cloud.wait_execution(&execution)["status"], "TIMED_OUT");
    cloud.settings(json!({"sfn_machine_timeout_scale": 1}));
    did_not_pass(&cloud, &execution, "ran out of time");

    // No heartbeat for HeartbeatSeconds.
    cloud.settings(json!({"sfn_timeout_scale": 0.01}));
    let (execution, _) = running(&cloud);
    let ended = cloud.wait_execution(&execution);
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillFailed")), "{ended}");
    did_not_pass(&cloud, &execution, "States.HeartbeatTimeout");

    // An instance of a drill that is over, as a lost reply or event leaves it.
    let drill = drill_of(&cloud, "orders")["drill_id"].clone();
    let tags =
        json!({"highwater:deployment": "highwater", "highwater:purpose": "drill", "highwater:cluster": "orders", "highwater:drill": drill});
    let of_others =
        json!({"highwater:deployment": "another", "highwater:purpose": "drill", "highwater:cluster": "orders", "highwater:drill": drill});
    let launch = |id: &str, tags: &Value, minutes_ago: i64| {
        let host = json!({"path": [cloud.scratch().join("image")], "env": {"HIGHWATER_SCRATCH": cloud.scratch().path()}});
        let at = (jiff::Timestamp::now() - jiff::SignedDuration::from_mins(minutes_ago)).strftime("%Y-%m-%dT%H:%M:%S.000Z").to_string();
        let order = json!({"instance_id": id, "profile": "highwater-drill-orders", "tags": tags, "host": host, "launched_at": at});
        cloud.control("POST", "hosts", &order);
    };
    launch("i-0dead0000000000a1", &tags, 0);
    launch("i-0dead0000000000a2", &of_others, 600);
    // Instances that no execution and no record knows any more: the old one goes; the catalog may just be being rebuilt.
    let mut forgotten = tags.clone();
    forgotten["highwater:drill"] = json!("20261122T015900Z-4f7c90ab");
    launch("i-0dead0000000000b1", &forgotten, 16);
    launch("i-0dead0000000000b2", &forgotten, 13);
    forgotten.as_object_mut().unwrap().remove("highwater:drill");
    launch("i-0dead0000000000b3", &forgotten, 16);
    // What cannot be read, or is another's, is named and hides nothing.
    let open = ["backup", "drill", "promotion", "approval"].map(|kind| (kind, format!("{kind}#unreadable")));
    let (table, pk) = (cloud.output("Catalog"), json!({"S": "cluster#billing"}));
    for (kind, sk) in &open {
        let item = json!({"pk": pk, "sk": {"S": sk}, "open": {"S": kind}});
        cloud.aws("dynamodb", "DynamoDB_20120810.PutItem", &json!({"TableName": table, "Item": item})).unwrap();
    }
    let (name, message) = cloud.invoke("reconcile", &json!({})).unwrap_err();
    assert!(name == "Permanent" && open.iter().all(|(_, sk)| message.contains(&format!("cluster#billing {sk}"))), "{name}: {message}");
    for (_, sk) in &open {
        let key = json!({"pk": pk, "sk": {"S": sk}});
        cloud.aws("dynamodb", "DynamoDB_20120810.DeleteItem", &json!({"TableName": table, "Key": key})).unwrap();
    }
    // An event's own run of it may end them too, at the same moment: the end counts, not who was first.
    let left = || cloud.drill_instances().iter().map(|i| i["instance-id"].clone()).collect::<Vec<_>>();
    let leaked = ["a1", "b1", "b3"].map(|end| json!(format!("i-0dead0000000000{end}")));
    wait_for("the leaked instances' end", || leaked.iter().all(|leaked| !left().contains(leaked)).then_some(()));
    assert_eq!(left(), ["i-0dead0000000000a2", "i-0dead0000000000b2"], "another deployment's stays, and a young one");
}

#[test]
fn replies_are_lost_capacity_lacks_and_functions_run_twice_yet_one_instance_runs_one_drill() {
    let (cloud, _db) = backed_up(&config());
    let lost = |function: &str| json!({"on": "lambda:Invoke", "effect": "lose-reply", "match": {"FunctionName": format!("highwater-{function}")}, "times": 1});
    cloud.fault(lost("plan-restore"));
    cloud.fault(lost("record-drill"));
    cloud.fault(json!({"on": "ec2:RunInstances", "effect": "fail", "error": "InsufficientInstanceCapacity", "status": 500, "times": 1}));
    cloud.fault(json!({"on": "ec2:RunInstances", "effect": "lose-reply", "times": 1}));
    cloud.fault(json!({"on": "kms:Sign", "effect": "lose-reply", "times": 1}));
    let execution = cloud.start_execution("drill", &json!({"cluster": "orders"}));
    let ended = cloud.wait_execution(&execution);
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(cloud.fault_hits(), [1, 1, 1, 1, 1]);
    cloud.no_faults();
    let drills: Vec<_> = cloud.instances().into_iter().filter(|i| i["tags"]["highwater:purpose"] == "drill").collect();
    assert_eq!(drills.len(), 1, "one launch: {drills:?}");
    let record = drill_of(&cloud, "orders");
    assert_eq!((&record["state"], &record["instance"]), (&json!("passed"), &drills[0]["instance-id"]));
    assert_eq!(cloud.items_under("orders", "drill#").len(), 1);

    // Each function once more, after the end.
    let start = cloud.execution(&execution)["startDate"].as_f64().unwrap();
    let drill = json!({"drill_id": record["drill_id"], "cluster": "orders", "target": record["target"], "backup_id": record["backup_id"], "plan": record["plan"]});
    let started = jiff::Timestamp::from_millisecond((start * 1000.0) as i64).unwrap();
    let event = json!({"input": {"cluster": "orders"}, "execution": execution, "started": started});
    assert_eq!(cloud.invoke("plan-restore", &event).unwrap(), drill);
    assert_eq!(cloud.invoke("record-drill", &json!({"drill": drill, "failure": null})).unwrap(), ended["output"]);
    let (name, message) = cloud.invoke("launch-drill", &json!({"drill": drill, "token": "another"})).unwrap_err();
    assert_eq!(name, "Permanent", "{message}");
    assert_eq!(drill_of(&cloud, "orders"), record, "nothing changed");

    // Its reply lost, launch-drill is tried with a token that the instance will never hear of: the drill ends, and says so.
    cloud.fault(lost("launch-drill"));
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillFailed")), "{ended}");
    did_not_pass(&cloud, ended["executionArn"].as_str().unwrap(), "earlier try of this step");
    assert_eq!(cloud.item("orders", "head").unwrap()["last_passed_drill"]["drill_id"], record["drill_id"], "the earlier proof stands");
}

#[test]
fn a_fleet_drills_every_cluster_and_names_the_one_that_did_not_pass() {
    let (cloud, _db) = backed_up(&config_of(&["orders", "billing"]));
    let one = cloud.execute("drill-fleet", &json!({"clusters": ["orders"]}));
    assert_eq!(one["status"], "SUCCEEDED", "{one}");
    let all = cloud.execute("drill-fleet", &json!({}));
    assert_eq!((&all["status"], &all["error"]), (&json!("FAILED"), &json!("DrillsFailed")), "{all}");
    let cause = all["cause"].as_str().unwrap();
    assert!(cause.contains("billing") && !cause.contains("orders"), "{cause}");
    assert_eq!(cloud.execute("drill-fleet", &json!({"sample": 0}))["error"], "BadInput");
    no_instance_is_left(&cloud);
}
