//! DynamoDB, SSM, EC2, KMS and Step Functions throttle, fail and refuse under the functions: what passes ends in a commit, what
//! stays in a named error that leaves nothing stuck, and when it has passed the next turn succeeds by itself.

use highwater_tests::{Cloud, MariaDb, Torture, config, wait_for, wait_for_within};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::time::Duration;

/// How a service says that it does not do it now: place, code, HTTP status.
type Trouble = (&'static str, &'static str, u16);

/// As each service words it.
const BACKUP: &[Trouble] = &[
    ("dynamodb:GetItem", "ProvisionedThroughputExceededException", 400),
    ("dynamodb:Query", "ThrottlingException", 400),
    ("dynamodb:Query", "RequestLimitExceeded", 400),
    ("dynamodb:TransactWriteItems", "ProvisionedThroughputExceededException", 400),
    ("dynamodb:TransactWriteItems", "ThrottlingException", 400),
    ("dynamodb:TransactWriteItems", "InternalServerError", 500),
    ("ssm:GetParameter", "ThrottlingException", 400),
    ("ssm:GetParameter", "InternalServerError", 500),
    ("ssm:SendCommand", "ThrottlingException", 400),
    ("ssm:SendCommand", "InternalServerError", 500),
    ("ssm:GetCommandInvocation", "ThrottlingException", 400),
];

fn fault((on, error, status): Trouble, times: Option<u32>) -> Value {
    // Not the test's own calls, which look at what happens.
    let mut fault =
        json!({"on": on, "effect": "fail", "error": error, "status": status, "message": "Rate exceeded", "match": {"role": "*"}});
    if let Some(times) = times {
        fault["times"] = json!(times);
    }
    fault
}

fn all_closed(cloud: &Cloud) -> Vec<Value> {
    wait_for_within(Duration::from_secs(120), "every backup's end", || {
        let found = cloud.backups();
        found.iter().all(|backup| backup["open"].is_null()).then_some(found)
    })
}

/// A deployment with one restore point: without any, a backup has less to ask for.
fn deployed() -> (Cloud, MariaDb) {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    db.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)");
    cloud.host("orders", &db);
    cloud.fire("backup-orders");
    wait_for("a restore point", || cloud.backups().iter().any(|b| b["state"] == "committed" && b["open"].is_null()).then_some(()));
    (cloud, db)
}

#[test]
fn a_backup_waits_out_what_passes_and_is_committed() {
    let ((cloud, _db), mut torture) = (deployed(), Torture::begin("backup: throttled for a moment"));
    for trouble in torture.some(BACKUP.to_vec(), 2) {
        let before = cloud.backups().len();
        cloud.fault(fault(trouble, Some(2)));
        cloud.fire("backup-orders");
        wait_for("the backup's begin", || (cloud.backups().len() > before).then_some(()));
        let found = all_closed(&cloud);
        assert_eq!((found.len(), &found[before]["state"]), (before + 1, &json!("committed")), "{trouble:?}");
        assert_eq!(cloud.fault_hits(), [2], "{trouble:?}");
        cloud.no_faults();
        cloud.assert_sound("orders");
        torture.withstood(&format!("{trouble:?}"));
    }
    torture.end();
}

#[test]
fn a_backup_that_is_kept_from_its_services_is_transient_leaves_no_lease_stuck_and_is_finished_later() {
    let ((cloud, _db), mut torture) = (deployed(), Torture::begin("backup: throttled for long"));
    for trouble in torture.some(BACKUP.to_vec(), 1) {
        let before = cloud.backups().len();
        cloud.fault(fault(trouble, None));
        let asked = cloud.invoke("start-backup", &json!({"cluster": "orders"}));
        match &asked {
            Err((name, message)) => assert!(name == "Transient" && message.contains(trouble.0), "{trouble:?}: {name}: {message}"),
            // It was finish-backup that needed the service.
            Ok(answer) => {
                assert_eq!((&answer["outcome"], trouble.0), (&json!("started"), "ssm:GetCommandInvocation"), "{trouble:?}: {answer}");
                wait_for("finish-backup's question", || (cloud.fault_hits()[0] > 0).then_some(()));
            }
        }
        let hits = cloud.fault_hits()[0];
        assert!((1..60).contains(&hits), "{trouble:?}: met, with bounded retries, not {hits} times");
        cloud.no_faults();
        // The next turn goes on with what was begun, or begins; `reconcile` looks after what nobody heard of.
        cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap();
        wait_for_within(Duration::from_secs(60), "the commit", || {
            let newest = cloud.backups().pop()?;
            if newest["state"] == "running" {
                reconcile(&cloud);
            }
            (cloud.backups().len() > before && newest["state"] == "committed").then_some(())
        });
        let found = all_closed(&cloud);
        assert!(found.iter().all(|backup| backup["state"] == "committed"), "{trouble:?}: {found:#?}");
        cloud.assert_sound("orders");
        torture.withstood(&format!("{trouble:?}"));
    }
    torture.end();
}

/// Runs `reconcile`; again when another run of it, which an event began, was faster with something.
fn reconcile(cloud: &Cloud) {
    let run = || cloud.invoke("reconcile", &json!({}));
    run().or_else(|(name, message)| if name == "Transient" { run() } else { Err((name, message)) }).unwrap();
}

/// What a drill needs beside.
const DRILL: &[Trouble] = &[
    ("ec2:RunInstances", "RequestLimitExceeded", 503),
    ("ec2:RunInstances", "InternalError", 500),
    ("ec2:RunInstances", "Unavailable", 503),
    ("kms:Sign", "ThrottlingException", 400),
    ("kms:Sign", "KMSInternalException", 500),
    ("kms:Sign", "DependencyTimeoutException", 503),
    ("dynamodb:TransactWriteItems", "ProvisionedThroughputExceededException", 400),
    ("ssm:GetParameter", "ThrottlingException", 400),
];

#[test]
fn a_drill_waits_out_what_passes_and_passes_and_what_stays_fails_it_and_leaves_no_instance() {
    let ((cloud, _db), mut torture) = (deployed(), Torture::begin("drill: throttled"));
    for trouble in torture.some(DRILL.to_vec(), 1) {
        cloud.fault(fault(trouble, Some(3)));
        let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
        assert_eq!((&ended["status"], &ended["output"]["outcome"]), (&json!("SUCCEEDED"), &json!("passed")), "{trouble:?}: {ended}");
        assert_eq!(cloud.fault_hits(), [3], "{trouble:?}");
        rest(&cloud);
        torture.withstood(&format!("{trouble:?}"));
    }
    let staying: Vec<_> =
        [DRILL[0], DRILL[4], ("ec2:RunInstances", "UnauthorizedOperation", 403), ("kms:Sign", "AccessDeniedException", 400)].into();
    for trouble in torture.some(staying, 1) {
        cloud.fault(fault(trouble, None));
        let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
        assert_eq!(ended["status"], "FAILED", "{trouble:?}: {ended}");
        let cause = ended["cause"].as_str().unwrap();
        assert!(cause.contains(trouble.0), "{trouble:?}: {cause}");
        // A result that could not be recorded is recorded by `reconcile`: as a failure.
        cloud.no_faults();
        reconcile(&cloud);
        let record = cloud.wait_for_item("orders", "drill#", |item| item["execution"] == ended["executionArn"] && item["open"].is_null());
        assert_eq!(record["state"], "failed", "{trouble:?}: {record}");
        rest(&cloud);
        torture.withstood(&format!("{trouble:?} for ever"));
    }
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!(ended["output"]["outcome"], "passed", "the next drill: {ended}");
    rest(&cloud);
    torture.end();
}

fn rest(cloud: &Cloud) {
    cloud.no_faults();
    wait_for("the end of every instance", || cloud.drill_instances().is_empty().then_some(()));
    cloud.assert_sound("orders");
}

#[test]
fn reconcile_does_what_it_can_when_a_service_fails_and_the_rest_when_it_has_passed() {
    let ((cloud, _db), mut torture) = (deployed(), Torture::begin("reconcile: throttled"));
    cloud.fault(json!({"on": "event:aws.ssm", "effect": "lose"}));
    cloud.fire("backup-orders");
    let id = cloud.wait_for_item("orders", "backup#", |item| item["state"] == "running")["command_id"].clone();
    let ended = |event: &Value| event["detail"]["status"] == "Success" && event["detail"]["command-id"] == id;
    wait_for("the command's end", || cloud.events().iter().any(ended).then_some(()));
    // EC2 answers nothing: drills cannot be looked after, but the backup is.
    cloud.fault(fault(("ec2:DescribeInstances", "RequestLimitExceeded", 503), None));
    let (name, message) = cloud.invoke("reconcile", &json!({})).unwrap_err();
    assert!(name == "Transient" && message.contains("ec2:DescribeInstances"), "{name}: {message}");
    assert_eq!(all_closed(&cloud)[1]["state"], "committed");
    cloud.no_faults();
    reconcile(&cloud);
    cloud.assert_sound("orders");
    torture.withstood("ec2:DescribeInstances for ever");
    // A plan that finds no table answers with what failed.
    cloud.fault(fault(("dynamodb:GetItem", "ProvisionedThroughputExceededException", 400), None));
    let event = json!({"input": {"cluster": "orders"}, "execution": "arn", "started": Timestamp::now()});
    let (name, message) = cloud.invoke("plan-restore", &event).unwrap_err();
    assert!(name == "Transient" && message.contains("dynamodb:GetItem"), "{name}: {message}");
    torture.withstood("dynamodb:GetItem for ever");
    torture.end();
}

/// SNS in a moment of trouble, as it words it; or its reply is lost after it has taken the message.
const NOTIFY: &[(&str, &str, u16)] = &[("fail", "KMSThrottling", 400), ("fail", "InternalError", 500), ("lose-reply", "", 500)];

#[test]
fn a_message_that_sns_does_not_take_changes_no_result_loses_no_record_and_is_sent_when_it_can_be() {
    let ((cloud, _db), mut torture) = (deployed(), Torture::begin("notifications"));
    let told = |of: &str| cloud.notifications().iter().filter(|message| message.contains(of)).count();

    // A moment of trouble is waited out. Whoever does not hear that a message was taken sends it again.
    for (effect, error, status) in torture.some(NOTIFY.to_vec(), 2) {
        cloud.fault(json!({"on": "sns:Publish", "effect": effect, "error": error, "status": status, "times": 2}));
        let drill = drill_fails(&cloud);
        assert_eq!(cloud.fault_hits(), [2, 1], "{effect} {error}");
        assert_eq!(told(drill["drill_id"].as_str().unwrap()), if effect == "fail" { 1 } else { 3 }, "{effect} {error}");
        cloud.no_faults();
        torture.withstood(&format!("sns:Publish {effect} {error}"));
    }

    // SNS takes nothing. That a backup failed is recorded and the next turn commits; three tries, and then it is among the dead letters.
    cloud.fault(fault(("sns:Publish", "AuthorizationError", 403), None));
    let failed = backup_fails(&cloud);
    reconcile(&cloud);
    let committed =
        |cloud: &Cloud| cloud.backups().iter().filter(|backup| backup["state"] == "committed" && backup["open"].is_null()).count();
    cloud.fire("backup-orders");
    wait_for("the next turn", || (committed(&cloud) == 2).then_some(()));
    let id = failed.trim_start_matches("backup#");
    wait_for("the dead letter", || dead_letters(&cloud).iter().any(|letter| letter.contains(id)).then_some(()));
    assert_eq!((cloud.fault_hits()[0], told("")), (3, 0));
    let record = cloud.item("orders", &failed).unwrap();
    assert!(record["state"] == "failed" && !record["open"].is_null(), "{record}");

    // So is a drill that fails meanwhile, with its own reason; nothing is left to do about it.
    let drill = drill_fails(&cloud);
    assert!(drill["open"].is_null() && drill["reason"].as_str().unwrap().starts_with("NoDrill"), "{drill}");
    assert!(cloud.function_log("record-drill").contains("nobody was told that a drill failed"), "the log says it");

    // The question whether a promotion may begin stands, and is answered.
    let passed = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!(passed["output"]["outcome"], "passed", "{passed}");
    let event = json!({"drill": passed["output"], "request_id": null, "execution": "arn", "started": Timestamp::now(), "token": "t"});
    let asked = cloud.invoke("request-approval", &event).unwrap();
    assert!(cloud.function_log("request-approval").contains("nobody was told of the question"), "the log says it");
    let denial = json!({"action": "deny", "cluster": "orders", "request_id": asked["request_id"]});
    let (status, answer) = cloud.call_approval_url(&cloud.user("bob"), &denial);
    assert_eq!((status, &answer["state"]), (200, &json!("denied")), "{answer}");
    assert!(cloud.function_log("decide-approval").contains("nobody was told"), "the log says it");

    // What waits to be told is told by reconcile, once SNS takes it.
    assert_eq!(told(""), 0, "nobody has heard of anything");
    cloud.no_faults();
    reconcile(&cloud);
    wait_for("the record's end", || cloud.item("orders", &failed).filter(|record| record["open"].is_null()));
    assert!(told(id) >= 1, "people are told");
    torture.withstood("sns:Publish AuthorizationError for ever");
    rest(&cloud);
    torture.end();
}

/// Lets a drill fail before it has an instance; its record, which says so.
fn drill_fails(cloud: &Cloud) -> Value {
    let machine = json!({"machine": "highwater-drill"});
    cloud.fault(json!({"on": "task:Drill", "effect": "fail", "error": "NoDrill", "message": "ordered", "match": machine, "times": 1}));
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillFailed")), "{ended}");
    let drill = cloud.wait_for_item("orders", "drill#", |item| item["execution"] == ended["executionArn"]);
    assert_eq!(drill["state"], "failed", "{drill}");
    drill
}

/// Lets a backup fail, SSM refusing its command; the sort key of its record, which says so and holds no lease.
fn backup_fails(cloud: &Cloud) -> String {
    let before = cloud.backups().len();
    cloud.fault(json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InvalidInstanceId", "times": 1}));
    cloud.fire("backup-orders");
    let failed = wait_for("the backup's failure", || cloud.backups().into_iter().nth(before).filter(|b| b["state"] == "failed"));
    assert!(cloud.item("orders", "lease").is_none_or(|lease| lease["holder"].is_null()), "the lease is free");
    failed["sk"].as_str().unwrap().to_owned()
}

/// What lies in the dead letters.
fn dead_letters(cloud: &Cloud) -> Vec<String> {
    let url = format!("{}/000000000000/highwater-dead-letters", cloud.url());
    let request = json!({"QueueUrl": url, "MaxNumberOfMessages": 10, "VisibilityTimeout": 0});
    let found = cloud.aws("sqs", "AmazonSQS.ReceiveMessage", &request).unwrap();
    found["Messages"].as_array().into_iter().flatten().map(|message| message["Body"].as_str().unwrap().to_owned()).collect()
}
