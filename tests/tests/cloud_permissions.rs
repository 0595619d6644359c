//! Least privilege, measured: what each role of the deployed stack needed on every way on which it needs something, compared with
//! what it was given. A permission that nothing used is one too many; a call that nothing allows would fail on AWS.

use highwater_tests::{Cloud, CloudHost, Grant, Load, MariaDb, Needed, Person, config, wait_for_within};
use serde_json::{Value, json};
use std::time::{Duration, Instant};

/// What AWS does in the caller's name, without a request of the caller's own: `(statement, action, the calls that stand for it)`.
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
    /// The test in which it is used.
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

/// The functions that events call: each keeps in the dead letters what it could not handle.
const BY_EVENT: [&str; 6] = ["start-backup", "finish-backup", "finish-promote", "prune", "reconcile", "publish-status"];

/// Waits for a state of the whole deployment. Looks are rare: each costs the emulator as much as a call of a function.
fn until<T>(what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
    wait_for_within(Duration::from_secs(180), what, || {
        let found = ready();
        if found.is_none() {
            std::thread::sleep(Duration::from_millis(90));
        }
        found
    })
}

fn key(item: &Value) -> &str {
    item["sk"].as_str().expect("a sort key")
}

/// The cluster `orders` and everything that its deployment does with it.
struct Scene {
    cloud: Cloud,
    db: MariaDb,
}

impl Scene {
    fn new() -> Self {
        let mut config = config();
        config["object_lock"] = json!({"days": 1});
        config["clusters"]["orders"]["keep"] = json!({"chains": 1, "daily": 0, "weekly": 0, "monthly": 0});
        config["clusters"]["orders"]["drill"]["after_each_backup"] = json!(true);
        // The primary is whichever host carries a tag: that has to be looked up.
        config["clusters"]["orders"]["host"] = json!({"tag": "Role", "value": "primary"});
        let (cloud, db) = (Cloud::deployed(&config), MariaDb::start());
        Load::fill(&db, 200);
        for (what, script) in [("broken", "exit 12"), ("hanging", "sleep 600 & wait")] {
            std::fs::create_dir(cloud.scratch().join(what)).expect("make a directory");
            cloud.scratch().script(&format!("{what}/highwater-host"), script);
        }
        Self { cloud, db }
    }

    /// Waits for what `reconcile` brings about, which runs meanwhile as its schedule lets it.
    fn settled<T>(&self, what: &str, mut ready: impl FnMut() -> Option<T>) -> T {
        let mut reconciled = Instant::now();
        until(what, || {
            if reconciled.elapsed() > Duration::from_secs(3) {
                self.cloud.fire("fleet-reconcile");
                reconciled = Instant::now();
            }
            ready()
        })
    }

    // ---- backups

    /// The newest backup, once there are `n` and all are closed.
    fn closed(&self, n: usize) -> Value {
        self.settled(&format!("{n} closed backups"), || {
            let found = self.cloud.backups();
            (found.len() == n && found.iter().all(|b| b["open"].is_null())).then(|| found[n - 1].clone())
        })
    }

    /// A turn of the schedule, to its end.
    fn turn(&self) -> Value {
        let before = self.cloud.backups().len();
        Load::fill(&self.db, 50);
        self.cloud.fire("backup-orders");
        self.closed(before + 1)
    }

    /// Runs a document on a host as a person does.
    fn by_hand(&self, host: &CloudHost<'_>, document: &str) {
        self.cloud.send_document(document, host.instance(), &json!({}));
    }

    // ---- drills

    /// The helper of every instance from here on: `image` has the real one, which restores.
    fn helper(&self, which: &str) {
        let scratch = self.cloud.scratch();
        let path = [scratch.join(which), scratch.join("image")];
        self.cloud.control("PUT", "hosts", &json!({"path": path, "env": {"HIGHWATER_SCRATCH": scratch.path()}}));
    }

    /// The drills, the oldest first, once there are `n` and each was given its instance.
    fn launched(&self, n: usize) -> Vec<Value> {
        until(&format!("{n} launched drills"), || {
            let drills = self.cloud.items_under("orders", "drill#");
            (drills.len() == n && drills.iter().all(|drill| !drill["instance"].is_null())).then_some(drills)
        })
    }

    fn drills_end(&self) {
        self.settled("the end of every drill and its instance", || {
            (self.cloud.items_under("orders", "drill#").iter().all(|drill| drill["open"].is_null())
                && self.cloud.drill_instances().is_empty())
            .then_some(())
        });
    }

    // ---- promotions

    /// Asks for a promotion: the answer's status, and the request's id.
    fn ask(&self, by: &Person) -> (u16, String) {
        let (status, _) = self.cloud.call_approval_url(by, &json!({"action": "restore", "cluster": "orders"}));
        let newest = self.cloud.items_under("orders", "approval#").pop().expect("a request");
        (status, key(&newest).trim_start_matches("approval#").to_owned())
    }

    /// Waits until votes on a request are awaited: its execution and its certificate's digest.
    fn question(&self, id: &str) -> (String, String) {
        until("the question", || {
            let item = self.cloud.item("orders", &format!("approval#{id}"))?;
            let certificate = item["request"]["question"]["certificate"]["sha256"].as_str()?.to_owned();
            Some((item["execution"].as_str().expect("an execution").to_owned(), certificate))
        })
    }

    fn approve(&self, by: &Person, id: &str, certificate: &str) -> (u16, Value) {
        let vote = json!({"action": "approve", "cluster": "orders", "request_id": id, "certificate_sha256": certificate});
        self.cloud.call_approval_url(by, &vote)
    }

    /// Waits until a function has needed this.
    fn needs(&self, function: &str, action: &str, resource: &str) {
        let this = |n: &Needed| n.role == Cloud::role(function) && n.action == action && n.resource.ends_with(resource);
        until(&format!("{function}: {action} on {resource}"), || self.cloud.needed().iter().any(this).then_some(()));
    }

    // ---- faults

    fn lose_reply(&self, on: &str, key: &str) {
        let matched = if key.is_empty() { json!({}) } else { json!({"key": key}) };
        self.cloud.fault(json!({"on": on, "effect": "lose-reply", "match": matched, "times": 1}));
    }

    /// A call that is refused once, and that no client tries again.
    fn refuse_once(&self, on: &str) {
        self.cloud.fault(json!({"on": on, "effect": "fail", "error": "AccessDeniedException", "times": 1}));
    }

    /// Waits until every ordered fault has struck; from here on there are none.
    fn faults_have_struck(&self) {
        until("every fault's strike", || self.cloud.fault_hits().iter().all(|hits| *hits > 0).then_some(()));
        self.cloud.no_faults();
    }

    // ---- the ways

    /// Backups whose replies and events are lost, and one that fails; a drill after each: one that fails, one whose instance dies.
    fn backups(&self, host: &CloudHost<'_>) -> String {
        let cloud = &self.cloud;
        self.helper("broken");
        for written in ["requests/*", "drills/*/plan.json", "drills/*/host.toml"] {
            self.lose_reply("s3:PutObject", &format!("v1/orders/{written}"));
        }
        let doctor = cloud.send_document("doctor", host.instance(), &json!({"bucket": [cloud.output("Bucket")]}));
        let full = self.turn();
        assert_eq!(full["state"], "committed", "{full}");
        self.launched(1);
        self.faults_have_struck();

        // The command is found again, the event is lost, reconcile finishes the backup.
        self.helper("hanging");
        self.lose_reply("ssm:SendCommand", "");
        cloud.fault(json!({"on": "event:aws.ssm", "effect": "lose"}));
        cloud.fire("backup-orders");
        let incremental = self.closed(2);
        assert!(incremental["state"] == "committed" && key(&incremental).contains("-incremental-"), "{incremental}");
        self.faults_have_struck();
        let dying = self.launched(2)[1]["instance"].as_str().expect("an instance").to_owned();
        cloud.control("POST", &format!("hosts/{dying}/shutdown"), &json!({"minutes": 0}));

        // SSM refuses a command, and then the host fails: people are told. Nor does it say whose promotion a person's command was
        // about: the open ones are looked through.
        self.refuse_once("ssm:SendCommand");
        cloud.fire("backup-orders");
        until("the refusal", || (self.cloud.backups().pop()?["state"] == "failed").then_some(()));
        self.faults_have_struck();
        let helper = host.directory().join("bin/highwater-host");
        let whole = std::fs::read_to_string(&helper).expect("read the helper");
        let doctor = cloud.wait_command(&doctor, host.instance());
        assert_eq!(doctor["Status"], "Success", "{doctor}");
        std::fs::write(&helper, "#!/bin/sh\nexit 12\n").expect("break the helper");
        self.by_hand(host, "resume");
        assert_eq!(self.turn()["state"], "failed");
        self.needs("finish-promote", "dynamodb:Query", "/index/open");
        std::fs::write(&helper, whole).expect("mend the helper");
        key(&full).to_owned()
    }

    /// Drills by every schedule and machine, each ended in another way while its instance lives.
    fn drills(&self) {
        let cloud = &self.cloud;
        self.drills_end();
        let full = self.turn();
        assert!(full["state"] == "committed" && key(&full).contains("-full-"), "after a failure a full: {full}");
        let after_backup = self.launched(3).pop().expect("a drill");
        cloud.fire("drill-orders");
        cloud.fire("fleet-drill");
        let promotion = cloud.start_execution("restore-primary", &json!({"cluster": "orders"}));
        self.launched(6);
        // Its task fails, and the machine ends the instance; of an aborted one reconcile has to.
        let request = json!({"taskToken": after_backup["task_token"], "error": "Test", "cause": "ordered by the test"});
        cloud.aws("states", "AWSStepFunctions.SendTaskFailure", &request).expect("fail the drill's task");
        // Drills that another execution has started end with it.
        for execution in [cloud.executions("drill-fleet"), vec![promotion], cloud.executions("drill")].concat() {
            if after_backup["execution"] != json!(execution) && cloud.execution(&execution)["status"] == "RUNNING" {
                cloud.stop_execution(&execution);
            }
        }
        self.helper("image");
    }

    /// Retention of a chain that nothing proves, while a drill of the next one runs.
    fn retention(&self, first: &str) {
        self.cloud.end_locks("v1/orders/");
        self.cloud.invoke("prune", &json!({"cluster": "orders", "dry_run": true})).expect("a dry run");
        self.cloud.fire("fleet-prune");
        until("the first chain's end", || self.cloud.item("orders", first).is_none().then_some(()));
    }

    /// What nobody could handle is kept.
    fn dead_letters(&self) {
        self.cloud.fault(json!({"on": "ssm:GetParametersByPath", "effect": "fail", "error": "AccessDeniedException"}));
        for function in BY_EVENT {
            self.cloud.send_event(function, &json!({"what": "is this?"}));
        }
        for function in BY_EVENT {
            self.needs(function, "sqs:SendMessage", "-dead-letters");
        }
        self.faults_have_struck();
    }

    /// A promotion whose command SSM refuses, one that is superseded, and one that succeeds. Where a function should tell the
    /// waiting task it is refused once, so that `reconcile` has the other do it.
    fn promotions(&self, first: &str, (ada, bob): (&Person, &Person)) {
        let cloud = &self.cloud;
        let (status, refused) = self.ask(ada);
        assert_eq!(status, 202);
        self.retention(first);
        let (execution, certificate) = self.question(&refused);
        self.lose_reply("s3:PutObject", "*/approval.json");
        self.refuse_once("ssm:SendCommand");
        assert_eq!(self.approve(bob, &refused, &certificate).0, 200);
        assert_eq!(cloud.wait_execution(&execution)["status"], "FAILED");
        self.faults_have_struck();

        let (status, superseded) = self.ask(ada);
        assert_eq!(status, 202);
        self.dead_letters();
        let (execution, _) = self.question(&superseded);
        self.drills_end();
        let waiting = cloud.invoke("reconcile", &json!({}));
        assert!(!format!("{waiting:?}").contains("void"), "one that waits for votes is left alone: {waiting:?}");

        self.refuse_once("states:SendTaskFailure");
        self.lose_reply("s3:PutObject", "*/certificate.json");
        // KMS signs differently each time: the stored signature is verified.
        let (signer, signed) = (format!("function:{}", Cloud::role("record-drill")), json!({"call": "PUT *certificate.sig*"}));
        cloud.fault(json!({"on": signer, "effect": "kill-after", "match": signed, "times": 1}));
        let (status, id) = self.ask(ada);
        assert!(status != 202 && id != superseded, "{status} {id}");
        cloud.fire("fleet-reconcile");
        assert_eq!(cloud.wait_execution(&execution)["status"], "FAILED");
        let (execution, certificate) = self.question(&id);
        self.faults_have_struck();

        self.refuse_once("states:SendTaskSuccess");
        let (status, answer) = self.approve(bob, &id, &certificate);
        assert_ne!(status, 200, "the task cannot be told: {answer}");
        let backups = self.cloud.backups().len();
        cloud.fire("fleet-reconcile");
        let ended = cloud.wait_execution(&execution);
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        self.faults_have_struck();
        self.closed(backups + 1);
    }
}

#[test]
fn i7_every_permission_is_used_and_every_call_is_permitted() {
    let scene = Scene::new();
    let host = scene.cloud.host_with("i-0db00000000000a01", "orders", &scene.db, &json!({"Role": "primary"}));
    let [ada, bob] = ["ada", "bob"].map(|name| scene.cloud.user(name));
    let first = scene.backups(&host);
    scene.drills();
    scene.promotions(&first, (&ada, &bob));

    let (grants, needed) = (scene.cloud.grants(), scene.cloud.needed());
    let refused: Vec<_> = needed.iter().filter(|n| !grants.iter().any(|grant| grant.allows(n))).collect();
    assert!(refused.is_empty(), "called, and not granted: {refused:#?}");
    let unused: Vec<_> = grants.iter().flat_map(|grant| unused(grant, &needed)).collect();
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

#[test]
fn i7_an_action_a_resource_and_a_wildcard_that_nothing_needed_are_found() {
    let grant = |actions: &[&str]| Grant {
        role: "role".into(),
        sid: "Read".into(),
        actions: actions.iter().map(|action| (*action).to_owned()).collect(),
        resources: vec!["arn:b/*".into(), "arn:c/*".into()],
    };
    let needed = |action: &str, resource: &str| Needed { role: "role".into(), action: action.into(), resource: resource.into() };
    let read = needed("s3:GetObject", "arn:b/1");
    let both = grant(&["s3:GetObject", "s3:PutObject"]);
    assert_eq!(unused(&both, std::slice::from_ref(&read)), ["role Read s3:PutObject"]);
    let written = needed("s3:PutObject", "arn:b/1");
    assert_eq!(unused(&both, &[read.clone(), written.clone()]), ["role Read on arn:c/*"]);
    assert_eq!(unused(&both, &[read.clone(), written, needed("s3:GetObject", "arn:c/1")]), [""; 0]);
    assert_eq!(unused(&grant(&["s3:*"]), &[read]), ["role Read s3:*"], "a wildcard is the use of nothing");
}
