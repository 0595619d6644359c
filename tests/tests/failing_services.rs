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

fn backups(cloud: &Cloud) -> Vec<Value> {
    let mut found: Vec<_> = cloud.items("orders").into_iter().filter(|item| item["sk"].as_str().unwrap().starts_with("backup#")).collect();
    found.sort_by_key(|backup| backup["asked"]["token"].as_u64());
    found
}

fn all_closed(cloud: &Cloud) -> Vec<Value> {
    wait_for_within(Duration::from_secs(120), "every backup's end", || {
        let found = backups(cloud);
        found.iter().all(|backup| backup["open"].is_null()).then_some(found)
    })
}

fn deployed() -> (Cloud, MariaDb) {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    db.run("CREATE DATABASE shop; CREATE TABLE shop.t (id INT PRIMARY KEY); INSERT INTO shop.t VALUES (1)");
    cloud.host("orders", &db);
    (cloud, db)
}

#[test]
fn a_backup_waits_out_what_passes_and_is_committed() {
    let ((cloud, _db), mut torture) = (deployed(), Torture::begin("backup: throttled for a moment"));
    for trouble in torture.some(BACKUP.to_vec(), 2) {
        let before = backups(&cloud).len();
        cloud.fault(fault(trouble, Some(2)));
        cloud.fire("backup-orders");
        wait_for("the backup's begin", || (backups(&cloud).len() > before).then_some(()));
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
        let before = backups(&cloud).len();
        cloud.fault(fault(trouble, None));
        let asked = cloud.invoke("start-backup", &json!({"cluster": "orders"}));
        match &asked {
            Err((name, message)) => assert!(name == "Transient" && message.contains(trouble.0), "{trouble:?}: {name}: {message}"),
            // It was finish-backup that needed the service.
            Ok(answer) => {
                assert_eq!((&answer["outcome"], trouble.0), (&json!("started"), "ssm:GetCommandInvocation"), "{trouble:?}: {answer}")
            }
        }
        assert!(cloud.fault_hits()[0] < 60, "{trouble:?}: bounded retries, not {:?}", cloud.fault_hits());
        cloud.no_faults();
        // The next turn goes on with what was begun, or begins; `reconcile` looks after what nobody heard of.
        cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap();
        wait_for_within(Duration::from_secs(60), "the commit", || {
            let newest = backups(&cloud).pop()?;
            if newest["state"] == "running" {
                reconcile(&cloud);
            }
            (backups(&cloud).len() > before && newest["state"] == "committed").then_some(())
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
    cloud.fire("backup-orders");
    cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed" && item["open"].is_null());
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
    cloud.wait_for_item("orders", "backup#", |item| item["state"] == "running");
    wait_for("the command's end", || cloud.events().iter().any(|event| event["detail"]["status"] == "Success").then_some(()));
    // EC2 answers nothing: drills cannot be looked after, but the backup is.
    cloud.fault(fault(("ec2:DescribeInstances", "RequestLimitExceeded", 503), None));
    let (name, message) = cloud.invoke("reconcile", &json!({})).unwrap_err();
    assert!(name == "Transient" && message.contains("ec2:DescribeInstances"), "{name}: {message}");
    cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed" && item["open"].is_null());
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
