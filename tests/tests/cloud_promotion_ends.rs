//! How promotions end on the deployed machine when they do not simply succeed: denied, superseded, expired, out of time, aborted
//! wherever they wait, of an exchanged certificate; and one whose every reply is lost once. `cloud_restore.rs` has the plain way.

use highwater_core::certificate::CERTIFICATE_NAME;
use highwater_tests::{Asked, Cloud, MariaDb, Orders, block_on, config, wait_for, wait_for_state, wait_for_within};
use serde_json::{Value, json};
use std::time::Duration;

/// Ends a promotion in one way, and finds that nothing has changed: the host was sent nothing, the same rows serve, and every
/// record is closed.
fn changes_nothing(cloud: &Cloud, orders: &Orders<'_>, way: &str, end: impl FnOnce(Asked) -> Asked) {
    println!("{way}");
    orders.write();
    let (rows, commands, newest) = (orders.rows(), orders.host.outputs().len(), orders.of("backup#").len());
    let asked = end(orders.ask(&orders.ada));
    let execution = cloud.wait_execution(&asked.execution);
    assert_ne!(execution["status"], "SUCCEEDED", "{way}: {execution}");
    orders.settle();
    assert_eq!(orders.rows(), rows, "{way}");
    let backups = orders.of("backup#").len() - newest;
    assert_eq!(orders.host.outputs().len() - commands, backups, "{way}: the host was sent nothing but backups");
    assert!(orders.of("promotion#").is_empty(), "{way}: no promotion was begun");
    let state = orders.request(&asked)["request"]["state"]["name"].clone();
    assert!(["denied", "void", "approved"].iter().any(|closed| state == *closed), "{way}: request {state}");
    // Too late for anything.
    let (status, answer) = orders.approve(&orders.bob, &asked, &"0".repeat(64));
    assert!(status == 409 || state == "approved", "{way}: {status} {answer}");
}

/// Scheduled backups go on in the same chain.
fn the_chain_goes_on(orders: &Orders<'_>, after: &str) {
    let next = orders.goes_on();
    assert!(next["backup_id"].as_str().unwrap().contains("-incremental-"), "{after}: {next}");
}

fn ended_as(cloud: &Cloud, asked: &Asked, error: &str, cause: &str) {
    let ended = cloud.wait_execution(&asked.execution);
    let said = ended["cause"].as_str().unwrap_or_default();
    assert!(ended["status"] == "FAILED" && ended["error"] == error && said.contains(cause), "{error}, {cause}: {ended}");
}

#[test]
fn a_promotion_denied_superseded_expired_or_out_of_time_changes_nothing() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let orders = Orders::on(&cloud, &db);

    changes_nothing(&cloud, &orders, "superseded, and then denied", |first| {
        let certificate = orders.question(&first);
        // Requests are ordered by the second in which they begin.
        std::thread::sleep(Duration::from_millis(1100));
        let second = orders.ask(&orders.bob);
        ended_as(&cloud, &first, "NotAsked", &format!("superseded by request {}", second.id));
        assert_eq!(orders.approve(&orders.bob, &first, &certificate).0, 409);
        orders.question(&second);
        assert_eq!(orders.deny(&orders.ada, &second).1["state"], "denied");
        ended_as(&cloud, &second, "Denied", "not tonight");
        second
    });

    changes_nothing(&cloud, &orders, "expired", |asked| {
        orders.question(&asked);
        // The question's time alone, not the machine's.
        cloud.settings(json!({"sfn_timeout_scale": 1e-5, "sfn_machine_timeout_scale": 1e5}));
        ended_as(&cloud, &asked, "Expired", "nothing has changed");
        cloud.settings(json!({"sfn_timeout_scale": 1, "sfn_machine_timeout_scale": 1}));
        asked
    });

    changes_nothing(&cloud, &orders, "out of time", |asked| {
        orders.question(&asked);
        cloud.settings(json!({"sfn_machine_timeout_scale": 1e-7}));
        let ended = cloud.wait_execution(&asked.execution);
        assert_eq!(ended["status"], "TIMED_OUT", "{ended}");
        cloud.settings(json!({"sfn_machine_timeout_scale": 1}));
        asked
    });
    the_chain_goes_on(&orders, "all of these");
}

#[test]
fn a_promotion_aborted_while_it_waits_changes_nothing() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let orders = Orders::on(&cloud, &db);
    let aborted = |asked: &Asked| {
        cloud.stop_execution(&asked.execution);
        assert_eq!(cloud.execution(&asked.execution)["status"], "ABORTED");
    };

    changes_nothing(&cloud, &orders, "aborted while its drill runs", |asked| {
        cloud.wait_for_item("orders", "drill#", |drill| drill["state"] == "running");
        aborted(&asked);
        cloud.wait_for_item("orders", "drill#", |drill| drill["state"] == "failed" && drill["open"].is_null());
        asked
    });

    changes_nothing(&cloud, &orders, "aborted while votes are awaited", |asked| {
        orders.question(&asked);
        aborted(&asked);
        asked
    });

    changes_nothing(&cloud, &orders, "aborted while it waits for a running backup", |asked| {
        let certificate = orders.question(&asked);
        orders.host.agent("offline");
        cloud.fire("backup-orders");
        let running = cloud.wait_for_item("orders", "backup#", |backup| backup["state"] == "running");
        assert_eq!(orders.approve(&orders.bob, &asked, &certificate).0, 200);
        wait_for_state(&cloud, &asked.execution, "Promote");
        wait_for("a try that finds the lease held", || cloud.function_log("promote").contains("LeaseHeld").then_some(()));
        aborted(&asked);
        orders.host.agent("online");
        cloud.wait_for_item("orders", "backup#", |backup| backup["sk"] == running["sk"] && backup["state"] == "committed");
        asked
    });
    the_chain_goes_on(&orders, "all of these");
}

#[test]
fn a_promotion_of_an_exchanged_certificate_changes_nothing() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let orders = Orders::on(&cloud, &db);
    changes_nothing(&cloud, &orders, "its certificate was exchanged", |asked| {
        let certificate = orders.question(&asked);
        let drill = orders.request(&asked)["request"]["question"]["drill_id"].as_str().unwrap().to_owned();
        let key = format!("v1/orders/drills/{drill}/{CERTIFICATE_NAME}");
        let genuine = cloud.object(&key);
        let exchange = |bytes: Vec<u8>| {
            cloud.lose(&key);
            block_on(cloud.bucket().put_new(&key, bytes.into(), "application/json")).unwrap();
        };
        exchange(String::from_utf8(genuine.clone()).unwrap().replacen("\"checks\"", "\"checks\" ", 1).into_bytes());
        assert_ne!(cloud.object(&key), genuine);
        assert_eq!(orders.approve(&orders.bob, &asked, &certificate).0, 200, "the vote names what was read");
        ended_as(&cloud, &asked, "Refused", "the certificate was changed");
        exchange(genuine);
        asked
    });
    the_chain_goes_on(&orders, "it");
}

#[test]
fn an_abort_does_not_stop_the_host_whose_end_is_recorded_all_the_same() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let orders = Orders::on(&cloud, &db);
    let before = orders.of("backup#").pop().unwrap();
    orders.write();
    let asked = orders.ask(&orders.ada);
    let certificate = orders.question(&asked);
    // The command is on its way when the execution is stopped.
    orders.host.agent("offline");
    assert_eq!(orders.approve(&orders.bob, &asked, &certificate).0, 200);
    cloud.wait_for_item("orders", "promotion#", |promotion| promotion["state"] == "running");
    cloud.stop_execution(&asked.execution);
    let promotion = |promotion: &Value| promotion["state"] == "ended" && promotion["open"].is_null();
    orders.host.agent("online");
    let ended = wait_for_within(Duration::from_secs(120), "the promotion's end", || orders.of("promotion#").pop().filter(promotion));
    assert_eq!((&ended["outcome"], orders.rows()), (&json!("promoted"), orders.rows_backed_up()), "{ended}");
    // Nobody forces a full any more: it is owed, and the next scheduled backup is that full.
    let next = orders.goes_on();
    assert!(next["backup_id"].as_str().unwrap().contains("-full-") && next["incarnation"] != before["incarnation"], "{next}");
}

#[test]
fn i4_every_reply_of_a_promotion_is_lost_once_and_it_is_done_once() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let orders = Orders::on(&cloud, &db);
    orders.write();
    let (rows, commands) = (orders.rows_backed_up(), orders.host.outputs().len());
    let lost = [
        json!({"on": "states:StartExecution", "match": {"name": "*"}, "times": 1}),
        json!({"on": "states:SendTaskSuccess", "match": {"output": "*exit_code*"}, "times": 1}),
        json!({"on": "states:SendTaskSuccess", "match": {"output": "*\"approved\"*"}, "times": 1}),
        json!({"on": "states:SendTaskSuccess", "match": {"output": "*\"promoted\"*"}, "times": 1}),
        json!({"on": "s3:PutObject", "match": {"key": "v1/orders/promotions/*/approval.json"}, "times": 1}),
        json!({"on": "s3:PutObject", "match": {"key": "v1/orders/drills/*/certificate.json"}, "times": 1}),
        json!({"on": "kms:Sign", "times": 1}),
        json!({"on": "ssm:SendCommand", "match": {"DocumentName": "highwater-promote"}, "times": 1}),
    ];
    for fault in &lost {
        let mut fault = fault.clone();
        fault["effect"] = json!("lose-reply");
        cloud.fault(fault);
    }
    let ended = orders.promote();
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(cloud.fault_hits(), vec![1; lost.len()]);
    cloud.no_faults();
    assert_eq!(orders.rows(), rows, "the restored data serves");
    let approvals = cloud.keys("v1/orders/promotions/").iter().filter(|key| key.ends_with("/approval.json")).count();
    assert_eq!((orders.of("promotion#").len(), approvals, orders.of("approval#").len()), (1, 1, 1));
    orders.goes_on();
    let done = orders.host.outputs().len() - commands;
    assert_eq!(done, 3, "the host did one promotion, the full that follows, and the next backup");

    // The services stay away for as long as a function tries: the vote is recorded, and sending it again goes on from there.
    let asked = orders.ask(&orders.ada);
    let certificate = orders.question(&asked);
    for (on, matched) in
        [("s3:PutObject", json!({"key": "*approval.json"})), ("states:SendTaskSuccess", json!({"output": "*\"approved\"*"}))]
    {
        cloud.fault(json!({"on": on, "effect": "lose-reply", "match": matched}));
        let (status, answer) = orders.approve(&orders.bob, &asked, &certificate);
        assert_eq!(status, 503, "{on}: {answer}");
        cloud.no_faults();
    }
    assert_eq!(orders.approve(&orders.bob, &asked, &certificate).0, 200);
    assert_eq!(cloud.wait_execution(&asked.execution)["status"], "SUCCEEDED");
    assert_eq!(orders.request(&asked)["request"]["votes"].as_array().unwrap().len(), 1, "one vote, however often it is sent");
    orders.goes_on();
}

#[test]
fn i4_a_start_whose_replies_are_all_lost_is_found_when_it_is_sent_again() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let orders = Orders::on(&cloud, &db);
    let id = format!("{}-00aa", jiff::Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
    let ask = || cloud.call_approval_url(&orders.ada, &json!({"action": "restore", "cluster": "orders", "request_id": id}));
    cloud.fault(json!({"on": "states:StartExecution", "effect": "lose-reply"}));
    let (status, answer) = ask();
    assert_eq!(status, 503, "{answer}");
    cloud.no_faults();
    let (status, answer) = ask();
    assert_eq!((status, answer["request_id"].as_str()), (202, Some(id.as_str())), "{answer}");
    assert_eq!(cloud.executions("restore-primary").len(), 1);
    let asked = Asked { id: id.clone(), execution: answer["execution"].as_str().unwrap().to_owned() };
    cloud.stop_execution(&asked.execution);
    orders.goes_on();
}
