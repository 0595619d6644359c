//! The way of a backup, from its schedule to its commit, with everything that can go wrong between them: deployed from the
//! real template, the real functions, the real helper and a real server.

use highwater_aws::catalog::{CatalogTable, lease};
use highwater_aws::table::Table;
use highwater_core::lease::{Holder, Purpose};
use highwater_core::manifest::ManifestV1;
use highwater_core::{ClusterId, Document};
use highwater_tests::{Cloud, CloudHost, MariaDb, block_on, config, wait_for};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};

/// A deployment, its host's server with a table, and the cluster's name.
fn deployed() -> (Cloud, MariaDb) {
    deployed_as(&config())
}

fn deployed_as(config: &Value) -> (Cloud, MariaDb) {
    let (cloud, db) = (Cloud::deployed(config), MariaDb::start());
    db.run("CREATE DATABASE shop");
    db.run("CREATE TABLE shop.t (id INT PRIMARY KEY AUTO_INCREMENT, at TIMESTAMP(6) DEFAULT NOW(6)) ENGINE = InnoDB");
    write(&db);
    (cloud, db)
}

fn write(db: &MariaDb) {
    db.run("INSERT INTO shop.t () VALUES (), (), ()");
}

fn orders() -> ClusterId {
    "orders".parse().unwrap()
}

fn states(cloud: &Cloud) -> Vec<String> {
    cloud.backups().iter().map(|b| b["state"].as_str().unwrap().to_owned()).collect()
}

/// Waits until `n` backups exist and all of them are closed.
fn all_closed(cloud: &Cloud, n: usize) -> Vec<Value> {
    wait_for(&format!("{n} closed backups, not {:?}", states(cloud)), || {
        let found = cloud.backups();
        (found.len() == n && found.iter().all(|b| b["open"].is_null())).then_some(found)
    })
}

/// One turn of the schedule, to its commit.
fn turn(cloud: &Cloud, db: &MariaDb) -> Value {
    let before = cloud.backups().len();
    write(db);
    cloud.fire("backup-orders");
    let newest = all_closed(cloud, before + 1).pop().unwrap();
    assert_eq!(newest["state"], "committed", "{newest}");
    newest
}

fn manifest(backup: &Value) -> ManifestV1 {
    ManifestV1::parse(backup["manifest"].as_str().unwrap().as_bytes()).unwrap()
}

/// The commands that were sent, by status.
fn commands(cloud: &Cloud) -> Vec<String> {
    let found = cloud.aws("ssm", "AmazonSSM.ListCommandInvocations", &json!({})).unwrap();
    found["CommandInvocations"].as_array().unwrap().iter().map(|c| c["StatusDetails"].as_str().unwrap().to_owned()).collect()
}

fn wait_for_commands(cloud: &Cloud, statuses: &[&str]) {
    wait_for(&format!("commands {statuses:?}"), || {
        let mut found = commands(cloud);
        found.sort();
        (found == statuses).then_some(())
    });
}

fn reconcile(cloud: &Cloud) -> Value {
    cloud.invoke("reconcile", &json!({})).unwrap()
}

/// A function's log is there some time after what it did.
fn wait_for_log(cloud: &Cloud, function: &str, line: &str) {
    wait_for(&format!("{line} in the log of {function}"), || cloud.function_log(function).contains(line).then_some(()));
}

fn head(cloud: &Cloud) -> Value {
    cloud.item("orders", "head").unwrap()
}

/// Sets an attribute of an item, as time would have.
fn set(cloud: &Cloud, sk: &str, path: &[&str], value: &str) {
    let names: serde_json::Map<_, _> = path.iter().enumerate().map(|(i, name)| (format!("#{i}"), json!(name))).collect();
    let request = json!({
        "TableName": cloud.output("Catalog"),
        "Key": {"pk": {"S": "cluster#orders"}, "sk": {"S": sk}},
        "UpdateExpression": format!("SET {} = :v", names.keys().cloned().collect::<Vec<_>>().join(".")),
        "ExpressionAttributeNames": names,
        "ExpressionAttributeValues": {":v": {"S": value}},
    });
    cloud.aws("dynamodb", "DynamoDB_20120810.UpdateItem", &request).unwrap();
}

/// Lets the host's commands wait for a file before they begin; returns the file.
fn gate(host: &CloudHost<'_>) -> std::path::PathBuf {
    let (script, gate) = (host.directory().join("bin/highwater-host"), host.directory().join("gate"));
    let text = std::fs::read_to_string(&script).unwrap();
    let waiting = format!("until [ -e {gate:?} ]; do sleep 0.05; done\nexec ");
    std::fs::write(&script, text.replacen("exec ", &waiting, 1)).unwrap();
    gate
}

#[test]
fn i4_a_schedule_makes_chains_and_each_turn_is_one_backup_however_often_it_is_told() {
    let mut config = config();
    config["clusters"]["orders"]["backup"]["max_incrementals"] = json!(2);
    let (cloud, db) = deployed_as(&config);
    let _host = cloud.host("orders", &db);
    reconcile(&cloud);
    // A cluster without any backup is overdue.
    wait_for_log(&cloud, "reconcile", r#""OverdueBackups":1.0"#);

    let full = turn(&cloud, &db);
    let m = manifest(&full);
    assert_eq!((m.kind.as_str(), full["asked"]["token"].as_u64()), ("full", Some(1)));
    assert_eq!(cloud.object(m.key().as_str()), full["manifest"].as_str().unwrap().as_bytes());
    let request = full["asked"]["request"].as_str().unwrap();
    assert_eq!(cloud.object(full["asked"]["request_key"].as_str().unwrap()), request.as_bytes());
    let points = cloud.items("orders").iter().filter(|i| i["backup_id"] == full["backup_id"]).count();
    assert_eq!(points, 4, "the record, its points by LSN and by time, and the event's key");
    assert!(cloud.item("orders", "lease").unwrap()["holder"].is_null(), "the commit released the lease");

    // The schedule tells the function twice, SSM tells the other function twice, and each is called twice.
    for fault in [
        json!({"on": "lambda:Invoke", "effect": "double", "match": {"FunctionName": "highwater-start-backup"}}),
        json!({"on": "lambda:Invoke", "effect": "double", "match": {"FunctionName": "highwater-finish-backup"}}),
        json!({"on": "event:aws.ssm", "effect": "double"}),
    ] {
        cloud.fault(fault);
    }
    let second = turn(&cloud, &db);
    let third = turn(&cloud, &db);
    cloud.no_faults();
    assert_eq!(manifest(&second).parent.unwrap().backup_id, m.backup_id);
    assert_eq!(manifest(&third).parent.unwrap().backup_id, manifest(&second).backup_id);

    // The same turn once more, after everything: the answer says what became of it.
    let once = cloud.items_under("orders", "once#").remove(0);
    let once = once["sk"].as_str().unwrap().strip_prefix("once#").unwrap();
    let again = cloud.invoke("start-backup", &json!({"cluster": "orders", "once": once})).unwrap();
    assert_eq!((&again["outcome"], &again["state"]), (&json!("already"), &json!("committed")));
    let again = cloud.invoke("finish-backup", &json!({"cluster": "orders", "backup_id": m.backup_id})).unwrap();
    assert_eq!(again["outcome"], "committed");

    let fourth = turn(&cloud, &db);
    assert_eq!(manifest(&fourth).kind.as_str(), "full", "{}", fourth["asked"]["reason"]);
    assert_eq!(manifest(&fourth).incarnation, m.incarnation);
    assert_eq!(states(&cloud), ["committed"; 4]);
    let head = head(&cloud);
    assert_eq!(
        (&head["version"], &head["newest"]["backup_id"], &head["newest_full"]),
        (&json!(4), &fourth["backup_id"], &fourth["backup_id"])
    );
    wait_for("the measures of four commits", || (measured(&cloud) >= 4).then_some(()));
    reconcile(&cloud);
    wait_for_log(&cloud, "reconcile", r#""OverdueBackups":0.0"#);
    assert!(cloud.notifications().is_empty());
    assert_eq!(measured(&cloud), 4, "each commit is measured once");
}

fn measured(cloud: &Cloud) -> usize {
    cloud.function_log("finish-backup").matches("\"StoredBytes\":").count()
}

#[test]
fn i4_a_drill_follows_each_commit_once() {
    let mut config = config();
    config["clusters"]["orders"]["drill"]["after_each_backup"] = json!(true);
    let (cloud, db) = deployed_as(&config);
    let _host = cloud.host("orders", &db);
    cloud.fault(json!({"on": "event:aws.ssm", "effect": "double"}));
    let backup = turn(&cloud, &db);
    let drills = cloud.executions("drill");
    assert!(drills.len() == 1 && drills[0].ends_with(&format!("orders-{}", backup["backup_id"].as_str().unwrap())), "{drills:?}");
    let input: Value = serde_json::from_str(cloud.execution(&drills[0])["input"].as_str().unwrap()).unwrap();
    assert_eq!(input, json!({"cluster": "orders", "target": backup["backup_id"]}));
    cloud.stop_execution(&drills[0]);
}

#[test]
fn i5_a_manifest_whose_objects_are_not_there_makes_no_restore_point() {
    let (cloud, db) = deployed();
    let host = cloud.host("orders", &db);
    let good = manifest(&turn(&cloud, &db));
    let gate = gate(&host);
    let started = cloud.invoke("start-backup", &json!({"cluster": "orders", "force": "full"})).unwrap();
    let record = cloud.backups().into_iter().find(|b| b["backup_id"] == started["backup_id"]).unwrap();
    // A manifest for this very request, of objects that nobody has.
    let mut claim = ManifestV1 {
        backup_id: record["backup_id"].as_str().unwrap().parse().unwrap(),
        request_sha256: record["asked"]["request_sha256"].as_str().unwrap().parse().unwrap(),
        started_at: Timestamp::now(),
        finished_at: Timestamp::now(),
        ..good.clone()
    };
    let moved = |key: &str| key.replace(&good.backup_id.to_string(), &claim.backup_id.to_string());
    let (data, inventory) = (moved(&good.objects[0].key), moved(&good.inventory.object.key));
    claim.objects[0].key.clone_from(&data);
    claim.inventory.object.key = inventory;
    block_on(cloud.bucket().put_new(&claim.key(), claim.to_bytes().into(), "application/json")).unwrap();
    std::fs::write(&gate, "").unwrap();
    let failed =
        wait_for("the end", || cloud.backups().into_iter().find(|b| b["backup_id"] == started["backup_id"] && b["state"] == "failed"));
    assert_eq!(failed["failure"], "Damaged", "{failed}");
    assert!(failed["message"].as_str().unwrap().contains("ObjectMissing"), "{failed}");
    assert_eq!(head(&cloud)["newest"]["backup_id"], good.backup_id.to_string());
}

#[test]
fn i4_an_event_that_is_lost_late_or_early_ends_in_one_commit() {
    let (cloud, db) = deployed();
    let _host = cloud.host("orders", &db);

    // Lost: reconcile looks.
    cloud.fault(json!({"on": "event:aws.ssm", "effect": "lose"}));
    cloud.fire("backup-orders");
    wait_for_commands(&cloud, &["Success"]);
    wait_for("the record of the command", || (states(&cloud) == ["running"]).then_some(()));
    let did = reconcile(&cloud);
    assert!(did["did"][0].as_str().unwrap().contains("finish-backup"), "{did}");
    all_closed(&cloud, 1);
    assert_eq!(reconcile(&cloud)["did"].as_array().unwrap().len(), 1, "nothing is open: only the drill is overdue");

    // Late: reconcile was faster, and the event changes nothing.
    cloud.no_faults();
    cloud.fault(json!({"on": "event:aws.ssm", "effect": "hold"}));
    cloud.fire("backup-orders");
    wait_for_commands(&cloud, &["Success", "Success"]);
    wait_for("the record of the command", || (states(&cloud) == ["committed", "running"]).then_some(()));
    reconcile(&cloud);
    all_closed(&cloud, 2);
    let before = (head(&cloud), cloud.item("orders", "lease"));
    cloud.no_faults();
    let heard = cloud.function_log("finish-backup").matches("START").count();
    cloud.release_events(true);
    wait_for("the late event", || (cloud.function_log("finish-backup").matches("START").count() > heard).then_some(()));
    assert_eq!((head(&cloud), cloud.item("orders", "lease")), before);

    // Early: the command has ended before start-backup heard that it was sent.
    cloud.fault(json!({"on": "ssm:SendCommand", "effect": "delay-reply", "seconds": 7, "times": 1}));
    cloud.fire("backup-orders");
    wait_for("the commit while start-backup waits", || {
        (states(&cloud).last().unwrap() == "committed" && cloud.backups().len() == 3).then_some(())
    });
    let backups = all_closed(&cloud, 3);
    wait_for("start-backup's end", || {
        (cloud.fault_hits() == [1] && cloud.function_log("start-backup").matches("sent").count() == 3).then_some(())
    });
    assert_eq!(cloud.backups(), backups, "start-backup's late reply changed a committed record");
}

#[test]
fn i4_lost_replies_hide_nothing_and_double_nothing() {
    let (cloud, db) = deployed();
    let _host = cloud.host("orders", &db);
    for call in ["ssm:SendCommand", "ssm:GetParameter", "ssm:GetCommandInvocation", "ssm:ListCommandInvocations"] {
        cloud.fault(json!({"on": call, "effect": "lose-reply", "times": 1}));
    }
    // The intent, the command, and the commit.
    cloud.fault(json!({"on": "dynamodb:TransactWriteItems", "effect": "lose-reply", "times": 3}));
    turn(&cloud, &db);
    assert_eq!(commands(&cloud), ["Success"], "a lost reply sent a second command");
    cloud.no_faults();

    // The function's own reply is lost, to a person who asks again by hand: the answer names the same backup.
    let event = json!({"cluster": "orders", "force": "new-incarnation", "once": "execution-1"});
    let first = cloud.invoke("start-backup", &event).unwrap();
    let second = cloud.invoke("start-backup", &event).unwrap();
    assert_eq!((&first["outcome"], &first["kind"], &first["backup_id"]), (&json!("started"), &json!("full"), &second["backup_id"]));
    let third = cloud.invoke("start-backup", &json!({"cluster": "orders", "force": "new-incarnation"}));
    assert!(third.is_err() || third.unwrap()["backup_id"] == first["backup_id"] || cloud.backups().len() == 3);
    let backups = all_closed(&cloud, cloud.backups().len());
    assert_ne!(backups[0]["incarnation"], backups[1]["incarnation"]);
    assert_eq!(cloud.invoke("start-backup", &event).unwrap()["outcome"], "already");

    let (name, message) = cloud.invoke("start-backup", &json!({"cluster": "orders", "force": "incremental"})).unwrap_err();
    assert!(name == "BadInput" && message.contains(r#"expected {"cluster": "orders"}"#), "{name}: {message}");
    let (name, message) = cloud.invoke("start-backup", &json!({"cluster": "unknown"})).unwrap_err();
    assert!(name == "Permanent" && message.contains("not configured"), "{name}: {message}");
    let ignored =
        cloud.invoke("finish-backup", &json!({"detail": {"command-id": "0b1c", "instance-id": "i-0", "status": "Success"}})).unwrap();
    assert_eq!(ignored["outcome"], "ignored");
}

#[test]
fn i2_a_failed_backup_leads_to_a_full_and_a_broken_chain_to_a_new_incarnation() {
    let (cloud, db) = deployed();
    let _host = cloud.host("orders", &db);
    let full = turn(&cloud, &db);

    // The server is down: the incremental fails, people hear of it, and the next backup is a full.
    db.down();
    cloud.fire("backup-orders");
    let failed = all_closed(&cloud, 2).pop().unwrap();
    assert_eq!((&failed["state"], &failed["failure"]), (&json!("failed"), &json!("Server")), "{failed}");
    assert!(failed["backup_id"].as_str().unwrap().contains("incremental") && failed["ttl"].as_i64().is_some());
    assert!(cloud.item("orders", "lease").unwrap()["holder"].is_null(), "the failure released the lease");
    let told = cloud.notifications();
    assert!(told.iter().any(|m| m.contains(failed["backup_id"].as_str().unwrap())), "{told:?}");
    wait_for_log(&cloud, "finish-backup", r#""FailedBackups":1.0"#);
    db.up();
    let healed = turn(&cloud, &db);
    assert_eq!((manifest(&healed).kind.as_str(), &healed["incarnation"]), ("full", &full["incarnation"]), "{}", healed["asked"]["reason"]);
    assert!(head(&cloud)["owed"].is_null());

    // The server forgot its binlog, so that nothing proves the incremental's chain: the helper refuses it.
    db.run("RESET MASTER");
    write(&db);
    cloud.fire("backup-orders");
    let broken = all_closed(&cloud, 4).pop().unwrap();
    assert_eq!((&broken["state"], &broken["failure"]), (&json!("failed"), &json!("ChainBroken")), "{broken}");
    let renewed = turn(&cloud, &db);
    assert!(manifest(&renewed).kind.as_str() == "full" && renewed["incarnation"] != full["incarnation"], "{}", renewed["asked"]["reason"]);
    assert_eq!(manifest(&turn(&cloud, &db)).kind.as_str(), "incremental");
}

#[test]
fn i3_a_command_that_timed_out_while_the_host_goes_on_is_never_committed() {
    let (cloud, db) = deployed();
    let host = cloud.host("orders", &db);
    turn(&cloud, &db);
    let gate = gate(&host);
    // The agent reports the time-out and cannot reach the script.
    host.agent("deaf");
    cloud.settings(json!({"ssm_time_scale": 0.00002}));
    cloud.fire("backup-orders");
    let failed = all_closed(&cloud, 2).pop().unwrap();
    assert_eq!((&failed["state"], &failed["failure"]), (&json!("failed"), &json!("Interrupted")), "{failed}");
    let prefix = format!("v1/orders/{}/{}/", failed["incarnation"].as_str().unwrap(), failed["backup_id"].as_str().unwrap());
    assert!(cloud.keys(&prefix).is_empty());
    std::fs::write(&gate, "").unwrap();
    wait_for("the manifest of the command that went on", || cloud.keys(&prefix).iter().any(|k| k.ends_with("manifest.json")).then_some(()));
    let late = cloud.invoke("finish-backup", &json!({"cluster": "orders", "backup_id": failed["backup_id"]})).unwrap();
    assert_eq!(late["outcome"], "failed");

    cloud.settings(json!({"ssm_time_scale": 1}));
    host.agent("online");
    assert_eq!(manifest(&turn(&cloud, &db)).kind.as_str(), "full");
}

#[test]
fn i3_a_backup_that_lost_its_lease_is_not_committed_by_it() {
    let (cloud, db) = deployed();
    let host = cloud.host("orders", &db);
    let gate = gate(&host);
    cloud.fire("backup-orders");
    wait_for("a command", || (states(&cloud) == ["running"]).then_some(()));
    let lost = cloud.backups().pop().unwrap();
    // A second turn meets the first one.
    let running = cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap();
    assert_eq!((&running["outcome"], &running["backup_id"]), (&json!("running"), &lost["backup_id"]));
    let (name, _) = cloud.invoke("start-backup", &json!({"cluster": "orders", "force": "full"})).unwrap_err();
    assert_eq!(name, "LeaseHeld");

    set(&cloud, "lease", &["holder", "expires_at"], "2026-01-01T00:00:00Z");
    let started = cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap();
    assert_eq!(started["outcome"], "started", "{started}");
    assert_eq!(states(&cloud)[0], "failed", "the one before was given up");
    assert_eq!(cloud.item("orders", "lease").unwrap()["token"], 2);
    std::fs::write(&gate, "").unwrap();
    // Both commands run now; the host lets one through at a time, and only the second backup may become a restore point.
    let ended = all_closed(&cloud, 2);
    assert_eq!(ended[0]["state"], "failed");
    match ended[1]["state"].as_str().unwrap() {
        "committed" => {}
        "failed" => assert_eq!(ended[1]["failure"], "Busy", "{}", ended[1]),
        state => panic!("{state}"),
    }
    let newest = &head(&cloud)["newest"]["backup_id"];
    assert!(newest.is_null() || *newest == ended[1]["backup_id"]);
    wait_for_commands_to_end(&cloud);
    assert_eq!(manifest(&turn(&cloud, &db)).kind.as_str(), if newest.is_null() { "full" } else { "incremental" });
}

fn wait_for_commands_to_end(cloud: &Cloud) {
    wait_for("every command's end", || commands(cloud).iter().all(|s| s != "InProgress" && s != "Pending").then_some(()));
}

#[test]
fn backups_wait_for_a_promotion_and_what_was_begun_and_not_sent_is_given_up() {
    let (cloud, db) = deployed();
    let host = cloud.host("orders", &db);
    let catalog = CatalogTable::new(Table::new(&cloud.sdk(), cloud.output("Catalog")));
    let now = Timestamp::now();
    let holder = Holder { operation: "promotion-1".into(), purpose: Purpose::Promotion, expires_at: now + SignedDuration::from_hours(1) };
    let free = block_on(catalog.lease(&orders())).unwrap();
    let held = free.take(holder, now).unwrap();
    let change = |read, next| block_on(catalog.table().write(vec![lease::change(&orders(), read, next).unwrap()])).unwrap();
    change(&free, &held);

    let waits = cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap();
    assert_eq!((&waits["outcome"], &waits["promotion"]), (&json!("waits"), &json!("promotion-1")));
    let (name, message) = cloud.invoke("start-backup", &json!({"cluster": "orders", "force": "new-incarnation"})).unwrap_err();
    assert!(name == "LeaseHeld" && message.contains("promotion-1"), "{name}: {message}");
    assert!(cloud.backups().is_empty());
    change(&held, &held.released());

    // SSM does not answer: the intent stands, and a retry goes on from it.
    cloud.fault(json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InternalServerError", "status": 500}));
    let (name, _) = cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap_err();
    assert_eq!((name.as_str(), states(&cloud)), ("Transient", vec!["requested".to_owned()]));
    let looked = cloud.invoke("finish-backup", &json!({"cluster": "orders", "backup_id": cloud.backups()[0]["backup_id"]})).unwrap();
    assert_eq!(looked["outcome"], "running", "{looked}");
    cloud.no_faults();
    let resumed = cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap();
    assert_eq!((&resumed["outcome"], &resumed["backup_id"]), (&json!("started"), &cloud.backups()[0]["backup_id"]));
    assert_eq!(all_closed(&cloud, 1)[0]["state"], "committed");

    // Nobody comes back: reconcile gives it up.
    cloud.fault(json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InternalServerError", "status": 500}));
    cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap_err();
    let lost = cloud.backups().pop().unwrap();
    set(&cloud, lost["sk"].as_str().unwrap(), &["asked", "at"], "2026-01-01T00:00:00Z");
    reconcile(&cloud);
    let lost = all_closed(&cloud, 2).pop().unwrap();
    assert!(lost["message"].as_str().unwrap().contains("no command was sent"), "{lost}");
    cloud.no_faults();

    // A host that SSM does not know takes no command: said at once, to the caller and to people.
    let gone = json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InvalidInstanceId"});
    cloud.fault(gone);
    let (name, message) = cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap_err();
    assert!(name == "Permanent" && message.contains(host.instance()), "{name}: {message}");
    reconcile(&cloud);
    assert!(all_closed(&cloud, 3).iter().any(|b| b["failure"] == "Precondition"));
    assert_eq!(cloud.notifications().len(), 2);
}
