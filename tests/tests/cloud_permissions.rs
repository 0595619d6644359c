//! Least privilege, measured: what each role of the deployed stack needed on the whole way of everything, compared with what it
//! was given. A permission that nobody used is one too many; a call that nothing allows would fail on AWS.

use highwater_tests::{Cloud, CloudHost, Grant, Load, MariaDb, Needed, Person, config_of, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::Duration;

/// What AWS does in the caller's name, without a request of the caller's own: `(statement, action, the call that stands for it)`.
const IMPLIED: &[(&str, &str, &[&str])] = &[
    ("UseDataKeyInS3", "kms:Decrypt", &["s3:GetObject", "s3:GetObjectVersion"]),
    ("UseDataKeyInS3", "kms:GenerateDataKey", &["s3:PutObject"]),
    ("UseDataKeyInSns", "kms:Decrypt", &["sns:Publish"]),
    ("UseDataKeyInSns", "kms:GenerateDataKey", &["sns:Publish"]),
    // HEAD tells of locks only whom may read them.
    ("ExtendLocks", "s3:GetObjectRetention", &["s3:GetObjectVersion"]),
    ("DeleteVersions", "s3:GetObjectRetention", &["s3:GetObjectVersion"]),
    ("DeleteVersions", "s3:GetObjectLegalHold", &["s3:GetObjectVersion"]),
    ("TagAtLaunch", "ec2:CreateTags", &["ec2:RunInstances"]),
    ("PassDrillRole", "iam:PassRole", &["ec2:RunInstances"]),
    ("EncryptVolume", "kms:GenerateDataKeyWithoutPlaintext", &["ec2:RunInstances"]),
    ("EncryptVolume", "kms:Decrypt", &["ec2:RunInstances"]),
    ("EncryptVolume", "kms:DescribeKey", &["ec2:RunInstances"]),
    ("GrantVolume", "kms:CreateGrant", &["ec2:RunInstances"]),
    ("HearOfDrill", "events:PutTargets", &["states:StartExecution"]),
    ("HearOfDrill", "events:PutRule", &["states:StartExecution"]),
    ("HearOfDrill", "events:DescribeRule", &["states:StartExecution"]),
];

/// Statements that AWS uses whenever the role does anything: a function's log, a machine's.
const WITH_EVERY_CALL: &[&str] = &["WriteOwnLog", "DeliverLogs"];

/// A permission that this test does not use.
struct Elsewhere {
    role: &'static str,
    sid: &'static str,
    action: &'static str,
    /// The test in which it is used, and how.
    test: &'static str,
}

const USED_ELSEWHERE: &[Elsewhere] = &[
    // What installs the helper is no way of a backup.
    Elsewhere {
        role: "db-orders",
        sid: "FetchHelper",
        action: "s3:GetObject",
        test: "a_host_is_installed_from_the_deployed_release_and_from_nothing_else",
    },
    Elsewhere {
        role: "db-orders",
        sid: "ReadOwnSettings",
        action: "ssm:GetParameter",
        test: "a_host_is_installed_from_the_deployed_release_and_from_nothing_else",
    },
    // The emulator's Scheduler keeps nothing; the template's does.
    Elsewhere {
        role: "highwater-scheduler",
        sid: "KeepWhatFailed",
        action: "sqs:SendMessage",
        test: "is a schedule for each cluster, in a flexible window, with its retries and its end",
    },
    // An upload is given up when its tool fails in mid-stream.
    Elsewhere {
        role: "db-orders",
        sid: "CreateObjects",
        action: "s3:AbortMultipartUpload",
        test: "a_tool_killed_in_mid_stream_leaves_nothing",
    },
];

struct Scene {
    cloud: Cloud,
    db: MariaDb,
}

impl Scene {
    fn new() -> Self {
        let mut config = config_of(&["orders", "billing"]);
        config["object_lock"] = json!({"days": 1});
        config["clusters"]["orders"]["keep"] = json!({"chains": 1, "daily": 0, "weekly": 0, "monthly": 0});
        config["clusters"]["orders"]["drill"]["after_each_backup"] = json!(true);
        // The primary is whichever host carries a tag: that has to be looked up.
        config["clusters"]["orders"]["host"] = json!({"tag": "Role", "value": "primary"});
        let (cloud, db) = (Cloud::deployed(&config), MariaDb::start());
        Load::fill(&db, 200);
        Self { cloud, db }
    }

    fn backups(&self) -> Vec<Value> {
        let mut found = self.cloud.items("orders");
        found.retain(|item| item["sk"].as_str().is_some_and(|sk| sk.starts_with("backup#")));
        found.sort_by_key(|backup| backup["asked"]["token"].as_u64());
        found
    }

    /// The newest backup, once there are `n` and all are closed.
    fn closed(&self, n: usize) -> Value {
        wait_for(&format!("{n} closed backups"), || {
            let found = self.backups();
            (found.len() == n && found.iter().all(|b| b["open"].is_null())).then(|| found[n - 1].clone())
        })
    }

    /// A turn of the schedule, to its end.
    fn turn(&self) -> Value {
        let before = self.backups().len();
        Load::fill(&self.db, 50);
        self.cloud.fire("backup-orders");
        self.closed(before + 1)
    }

    fn drills_end(&self) {
        wait_for_within(Duration::from_secs(120), "the end of every drill", || {
            let open = |item: &Value| item["sk"].as_str().is_some_and(|sk| sk.starts_with("drill#")) && !item["open"].is_null();
            (!self.cloud.items("orders").iter().any(open) && self.cloud.drill_instances().is_empty()).then_some(())
        });
    }

    fn call(&self, person: &Person, body: Value) -> Value {
        self.cloud.call_approval_url(person, &body).1
    }

    /// A request by `by`, until it waits for votes: its id, execution and certificate.
    fn asked(&self, by: &Person) -> (String, String, String) {
        let asked = self.call(by, json!({"action": "restore", "cluster": "orders"}));
        let id = asked["request_id"].as_str().unwrap_or_else(|| panic!("{asked}")).to_owned();
        let question = wait_for_within(Duration::from_secs(120), "the question", || {
            let item = self.cloud.item("orders", &format!("approval#{id}"))?;
            Some(item["request"]["question"].clone()).filter(|question| !question.is_null())
        });
        (id, asked["execution"].as_str().unwrap().to_owned(), question["certificate"]["sha256"].as_str().unwrap().to_owned())
    }

    /// Every ordered fault has; from here on there are none.
    fn faults_have_struck(&self) {
        let hits = self.cloud.fault_hits();
        assert!(hits.iter().all(|hits| *hits > 0), "{hits:?}");
        self.cloud.no_faults();
    }

    fn by_hand(&self, host: &CloudHost<'_>, document: &str) {
        let request = json!({"DocumentName": format!("highwater-{document}"), "InstanceIds": [host.instance()]});
        self.cloud.aws("ssm", "AmazonSSM.SendCommand", &request).unwrap();
    }

    /// Schedules, backups, drills, certificates, a promotion, its roll-back, retention.
    fn everything_goes_well(&self, host: &CloudHost<'_>, ada: &Person, bob: &Person) {
        let doctor = self.cloud.run_document("doctor", host.instance(), &json!({"bucket": [self.cloud.output("Bucket")]}));
        assert_eq!(doctor["Status"], "Success", "{doctor}");
        // Every reply to a write is lost once: what was written is found and compared. That of the signature is lost until the
        // function gives up: another signature is made, and the stored one verified.
        let written = ["requests/*", "drills/*/plan.json", "drills/*/host.toml", "drills/*/certificate.json"];
        for key in written {
            let key = format!("v1/orders/{key}");
            self.cloud.fault(json!({"on": "s3:PutObject", "effect": "lose-reply", "match": {"key": key}, "times": 1}));
        }
        self.cloud.fault(json!({"on": "s3:PutObject", "effect": "lose-reply", "match": {"key": "*/certificate.sig"}, "times": 4}));
        let (full, next) = (self.turn(), self.turn());
        assert_eq!((&full["state"], &next["state"]), (&json!("committed"), &json!("committed")));
        self.drills_end();
        self.cloud.fire("drill-orders");
        self.cloud.fire("fleet-drill");
        self.drills_end();

        let (id, execution, certificate) = self.asked(ada);
        self.faults_have_struck();
        // The vote counts, but the execution cannot be told: reconcile sees to it.
        self.cloud.fault(json!({"on": "s3:PutObject", "effect": "lose-reply", "match": {"key": "*/approval.json"}, "times": 1}));
        self.cloud.fault(json!({"on": "states:SendTaskSuccess", "effect": "fail", "error": "InternalServerError", "status": 500}));
        let vote = json!({"action": "approve", "cluster": "orders", "request_id": id, "certificate_sha256": certificate});
        let (status, answer) = self.cloud.call_approval_url(bob, &vote);
        assert_eq!(status, 503, "{answer}");
        self.faults_have_struck();
        self.cloud.invoke("reconcile", &json!({})).unwrap();
        let ended = self.cloud.wait_execution(&execution);
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        self.closed(3);
        self.by_hand(host, "rollback");
        self.cloud.wait_for_item("orders", &format!("promotion#{id}"), |promotion| promotion["state"] == "reverted");
        assert_eq!(self.turn()["state"], "committed");
        self.drills_end();

        // A drill counts as a use of its backup for a day: as if that day were over.
        for drill in self.cloud.items("orders").iter().filter(|item| item["passed_at"].is_string()) {
            let request = json!({
                "TableName": self.cloud.output("Catalog"),
                "Key": {"pk": {"S": "cluster#orders"}, "sk": {"S": drill["sk"]}},
                "UpdateExpression": "SET passed_at = :long_ago",
                "ExpressionAttributeValues": {":long_ago": {"S": "2026-01-01T00:00:00Z"}},
            });
            self.cloud.aws("dynamodb", "DynamoDB_20120810.UpdateItem", &request).unwrap();
        }
        self.cloud.end_locks("v1/orders/");
        self.cloud.invoke("prune", &json!({"cluster": "orders", "dry_run": true})).unwrap();
        self.cloud.fire("fleet-prune");
        let first = full["sk"].as_str().unwrap();
        wait_for("the first chain's end", || self.cloud.item("orders", first).is_none().then_some(()));
    }

    /// Lost replies and events, a host that fails, drills that are aborted, killed and broken, requests denied and superseded.
    fn everything_goes_wrong(&self, host: &CloudHost<'_>, ada: &Person, bob: &Person) {
        let cloud = &self.cloud;
        // The command is found again, the event is lost, reconcile finishes the backup.
        cloud.fault(json!({"on": "ssm:SendCommand", "effect": "lose-reply", "times": 1}));
        cloud.fault(json!({"on": "event:aws.ssm", "effect": "lose"}));
        let before = self.backups().len();
        cloud.fire("backup-orders");
        let newest = || self.backups().into_iter().nth(before);
        wait_for("the command", || newest().filter(|backup| backup["state"] == "running"));
        wait_for("the backup that no event told of", || {
            cloud.invoke("reconcile", &json!({})).unwrap();
            newest().filter(|backup| backup["open"].is_null())
        });
        cloud.no_faults();

        // SSM refuses the command: the lease is given back at once.
        cloud.fault(json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InvalidInstanceId", "times": 1}));
        assert_eq!(self.turn()["state"], "failed");

        // The host fails: people are told.
        let helper = host.directory().join("bin/highwater-host");
        let whole = std::fs::read_to_string(&helper).unwrap();
        std::fs::write(&helper, "#!/bin/sh\nexit 12\n").unwrap();
        assert_eq!(self.turn()["state"], "failed");
        // Nor says it whose promotion a person's command was about: the open ones are looked through.
        self.by_hand(host, "resume");
        let looked = |n: &Needed| n.role == Cloud::role("finish-promote") && n.resource.ends_with("/index/open");
        wait_for("a look at open promotions", || cloud.needed().iter().any(looked).then_some(()));
        std::fs::write(&helper, whole).unwrap();

        // A drill's helper fails; another's instance dies; a drill, a promotion and a fleet's drill are aborted.
        self.drills_end();
        let scratch = cloud.scratch();
        std::fs::create_dir(scratch.join("broken")).unwrap();
        scratch.script("broken/highwater-host", "exit 12");
        std::fs::create_dir(scratch.join("hang")).unwrap();
        scratch.script("hang/highwater-host", "sleep 600 & wait");
        let helpers = |which: &str| {
            let path = [scratch.join(which), scratch.join("image")];
            cloud.control("PUT", "hosts", &json!({"path": path, "env": {"HIGHWATER_SCRATCH": scratch.path()}}));
        };
        helpers("broken");
        assert_eq!(cloud.execute("drill", &json!({"cluster": "orders"}))["status"], "FAILED");
        helpers("hang");
        let drill = cloud.start_execution("drill", &json!({"cluster": "orders"}));
        let dying = wait_for("an instance", || cloud.drill_instances().pop())["instance-id"].as_str().unwrap().to_owned();
        cloud.control("POST", &format!("hosts/{dying}/shutdown"), &json!({"minutes": 0}));
        assert_eq!(cloud.wait_execution(&drill)["status"], "FAILED");
        for machine in ["drill", "restore-primary", "drill-fleet"] {
            self.drills_end();
            let input = if machine == "drill-fleet" { json!({"clusters": ["orders"]}) } else { json!({"cluster": "orders"}) };
            let execution = cloud.start_execution(machine, &input);
            wait_for("an instance", || cloud.drill_instances().pop());
            cloud.stop_execution(&execution);
        }
        self.drills_end();
        helpers("image");

        // An approved promotion's command is refused.
        let (id, execution, certificate) = self.asked(ada);
        cloud.fault(json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InvalidInstanceId"}));
        self.call(bob, json!({"action": "approve", "cluster": "orders", "request_id": id, "certificate_sha256": certificate}));
        assert_eq!(cloud.wait_execution(&execution)["status"], "FAILED");
        cloud.no_faults();

        // One request is superseded by the next, which is denied.
        let (_, first, _) = self.asked(ada);
        let (second, execution, _) = self.asked(ada);
        let denied = self.call(bob, json!({"action": "deny", "cluster": "orders", "request_id": second, "reason": "not tonight"}));
        assert_eq!(denied["state"], "denied", "{denied}");
        assert_eq!(cloud.wait_execution(&execution)["error"], "Denied");
        cloud.fire("fleet-reconcile");
        assert_eq!(cloud.wait_execution(&first)["status"], "FAILED");

        // Another is superseded by one that is started in the console: reconcile tells its execution.
        let (_, asked, _) = self.asked(ada);
        let console = cloud.start_execution("restore-primary", &json!({"cluster": "orders"}));
        wait_for_within(Duration::from_secs(120), "the console's question", || {
            let open = |item: &Value| item["execution"] == json!(console) && !item["request"]["question"].is_null();
            cloud.items("orders").iter().any(open).then_some(())
        });
        cloud.fire("fleet-reconcile");
        assert_eq!(cloud.wait_execution(&asked)["status"], "FAILED");
        cloud.stop_execution(&console);

        // What nobody could handle is kept.
        for function in ["start-backup", "finish-backup", "finish-promote", "prune"] {
            cloud.send_event(function, &json!({"what": "is this?"}));
        }
        cloud.fault(json!({"on": "ssm:GetParametersByPath", "effect": "fail", "error": "AccessDeniedException"}));
        for function in ["reconcile", "publish-status"] {
            cloud.send_event(function, &json!({}));
        }
        let letters = |role: &str| self.cloud.needed().iter().any(|n| n.role == Cloud::role(role) && n.action == "sqs:SendMessage");
        for function in ["start-backup", "finish-backup", "finish-promote", "prune", "reconcile", "publish-status"] {
            wait_for(&format!("the dead letter of {function}"), || letters(function).then_some(()));
        }
        cloud.no_faults();
    }
}

#[test]
fn i7_every_permission_is_used_and_every_call_is_permitted() {
    let scene = Scene::new();
    let host = scene.cloud.host_with("i-0db00000000000a01", "orders", &scene.db, &json!({"Role": "primary"}));
    let [ada, bob] = ["ada", "bob"].map(|name| scene.cloud.user(name));
    scene.everything_goes_well(&host, &ada, &bob);
    scene.everything_goes_wrong(&host, &ada, &bob);

    let (grants, needed) = (scene.cloud.grants(), scene.cloud.needed());
    let roles: BTreeSet<&str> = grants.iter().map(|grant| grant.role.as_str()).collect();
    let silent: Vec<_> = roles.iter().filter(|role| !needed.iter().any(|n| n.role == **role)).collect();
    assert_eq!(silent, [&"highwater-drill-billing"], "every role did something; billing has no host and so no drill");
    let refused: Vec<_> = needed.iter().filter(|n| !grants.iter().any(|grant| grant.allows(n))).collect();
    assert!(refused.is_empty(), "called, and not granted: {refused:#?}");
    let unused: Vec<_> =
        grants.iter().filter(|grant| grant.role != "highwater-drill-billing").flat_map(|grant| unused(grant, &needed)).collect();
    assert!(unused.is_empty(), "granted, and not used by anything: {unused:#?}");
    let read = |file: &str| std::fs::read_to_string(format!("{}/{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
    let tests = ["tests/cloud_install.rs", "tests/backup.rs", "../infra/cdk/test/stack.test.ts"].map(read).concat();
    for Elsewhere { role, sid, action, test } in USED_ELSEWHERE {
        let granted = |grant: &Grant| grant.role == *role && grant.sid == *sid && grant.actions.iter().any(|a| a == action);
        assert!(grants.iter().any(granted), "{role} {sid} {action} stands in the list and is not granted");
        assert!(tests.contains(&format!("fn {test}(")) || tests.contains(&format!("it(\"{test}\"")), "there is no test {test}");
    }
}

/// The actions and resources of a statement that nothing needed.
fn unused(grant: &Grant, needed: &[Needed]) -> Vec<String> {
    let mine: Vec<&Needed> = needed.iter().filter(|n| n.role == grant.role).collect();
    if WITH_EVERY_CALL.contains(&grant.sid.as_str()) {
        return if mine.is_empty() { vec![format!("{} {}", grant.role, grant.sid)] } else { Vec::new() };
    }
    let elsewhere =
        |action: &str| USED_ELSEWHERE.iter().any(|e| (e.role, e.sid, e.action) == (grant.role.as_str(), grant.sid.as_str(), action));
    let stood_for = |action: &str| {
        let implied = IMPLIED.iter().filter(|(sid, a, _)| *sid == grant.sid && *a == action);
        implied.flat_map(|(_, _, by)| by.iter()).any(|by| mine.iter().any(|n| n.action == *by))
    };
    let direct = |action: &str| mine.iter().any(|n| n.action == action && grant.allows(n));
    let actions = grant.actions.iter().filter(|a| !direct(a) && !stood_for(a) && !elsewhere(a));
    let mut found: Vec<String> = actions.map(|action| format!("{} {} {action}", grant.role, grant.sid)).collect();
    // A resource that no call was about is too many as well, where calls of the statement are recorded at all.
    if found.is_empty() && grant.actions.iter().any(|a| direct(a)) {
        let one = |resource: &str| Grant { resources: vec![resource.to_owned()], ..grant.clone() };
        // A host outside of EC2 is a managed instance, which the emulator has none of; a path is asked for with what is below it.
        let known = grant.resources.iter().filter(|resource| !resource.ends_with(":managed-instance/*"));
        let known = known.filter(|resource| !(grant.actions == ["ssm:GetParametersByPath"] && resource.ends_with("/*")));
        let idle = known.filter(|resource| !mine.iter().any(|n| one(resource).allows(n)));
        found.extend(idle.map(|resource| format!("{} {} on {resource}", grant.role, grant.sid)));
    }
    found
}
