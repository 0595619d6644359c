//! Promotions by the deployed functions: who may ask and approve, what is bound to what, and what the host's commands come to.
//!
//! The drill is not run here: its plan, report and signed certificate are put where a drill puts them. `cloud_restore.rs` runs
//! the whole way.

use highwater_aws::manifests::read_catalog;
use highwater_core::approval::ApprovalV1;
use highwater_core::plan::Target;
use highwater_core::planner::plan_restore;
use highwater_core::{ClusterId, Document, Sha256};
use highwater_tests::{Cloud, CloudHost, MariaDb, Person, block_on, config, leave_proof, wait_for, wait_for_within};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::time::Duration;

const EXECUTION: &str = "arn:aws:states:eu-west-1:000000000000:execution:highwater-restore-primary:";

/// A deployment whose cluster has a restore point, and data that came after it.
struct Scene {
    cloud: Cloud,
    db: MariaDb,
    /// How many drills and executions were made up.
    made: std::cell::Cell<u32>,
}

/// A request that waits for votes.
struct Asked {
    drill: Value,
    execution: String,
    id: String,
    certificate: String,
}

impl Scene {
    fn new() -> Self {
        Self::of(&config())
    }

    fn of(config: &Value) -> Self {
        Self { cloud: Cloud::deployed(config), db: MariaDb::start(), made: Default::default() }
    }

    /// Takes a backup, then changes the data.
    fn back_up(&self) {
        self.db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); INSERT INTO shop.orders VALUES (1), (2), (3)");
        self.cloud.fire("backup-orders");
        self.cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed");
        self.db.run("DELETE FROM shop.orders WHERE id > 1");
    }

    fn orders(&self) -> u64 {
        self.db.value("SELECT COUNT(*) FROM shop.orders")
    }

    /// What a passed drill of the newest restore point leaves in the bucket. `sign` makes the signature's digest.
    fn drill_signed(&self, sign: impl Fn(&[u8]) -> Sha256) -> (Value, String) {
        let (cluster, now, bucket): (ClusterId, _, _) = ("orders".parse().unwrap(), Timestamp::now(), self.cloud.bucket());
        let nth = self.made.replace(self.made.get() + 1);
        let plan = plan_restore(&block_on(read_catalog(&bucket, &cluster)).unwrap(), &Target::Latest, bucket.name(), now).unwrap();
        let (drill_id, certificate) = leave_proof(&self.cloud, &plan, (&format!("drill {nth}"), now), sign);
        (json!({"cluster": "orders", "drill_id": drill_id, "outcome": "passed"}), certificate.sha256.to_string())
    }

    fn drill(&self) -> (Value, String) {
        self.drill_signed(Sha256::of)
    }

    /// What restore-primary sends to request-approval.
    fn question(&self, drill: &Value, request_id: Option<&str>, execution: &str, started_at: Timestamp) -> Result<Value, (String, String)> {
        let event = json!({"drill": drill, "request_id": request_id, "execution": execution, "started": started_at, "token": "t"});
        self.cloud.invoke("request-approval", &event)
    }

    /// A promotion started in the console, whose drill has passed.
    fn console_start(&self) -> Asked {
        let (drill, certificate) = self.drill();
        let execution = format!("{EXECUTION}console-{}", self.made.get());
        // Requests are ordered by the second in which they begin.
        std::thread::sleep(Duration::from_millis(1100));
        let answer = self.question(&drill, None, &execution, Timestamp::now()).unwrap();
        Asked { drill, execution, id: answer["request_id"].as_str().unwrap().to_owned(), certificate }
    }

    /// A promotion that a person asked for by the URL, whose drill has passed.
    fn asked_by(&self, person: &Person) -> Asked {
        std::thread::sleep(Duration::from_millis(1100));
        let (status, answer) = self.call(person, json!({"action": "restore", "cluster": "orders"}));
        assert_eq!(status, 202, "{answer}");
        let id = answer["request_id"].as_str().unwrap().to_owned();
        let execution = answer["execution"].as_str().unwrap().to_owned();
        assert_eq!(execution, format!("{EXECUTION}{id}"));
        let (drill, certificate) = self.drill();
        self.question(&drill, Some(&id), &execution, Timestamp::now()).unwrap();
        Asked { drill, execution, id, certificate }
    }

    fn call(&self, person: &Person, body: Value) -> (u16, Value) {
        self.cloud.call_approval_url(person, &body)
    }

    fn approve(&self, person: &Person, asked: &Asked) -> (u16, Value) {
        self.call(person, vote_for(asked))
    }

    fn deny(&self, person: &Person, asked: &Asked) -> (u16, Value) {
        self.call(person, json!({"action": "deny", "cluster": "orders", "request_id": asked.id, "reason": "not tonight"}))
    }

    /// What restore-primary sends to promote, with the approval that is (or would be) stored.
    fn promote(&self, asked: &Asked) -> Result<Value, (String, String)> {
        let key = format!("v1/orders/promotions/{}/approval.json", asked.id);
        let approval = json!({"uri": format!("s3://{}/{key}", self.cloud.output("Bucket")), "sha256": self.sha256(&key)});
        let event = json!({"drill": asked.drill, "approval": approval, "execution": asked.execution, "token": "t"});
        self.cloud.invoke("promote", &event)
    }

    fn sha256(&self, key: &str) -> Sha256 {
        match self.cloud.keys(key).is_empty() {
            true => Sha256::of(b""),
            false => Sha256::of(&self.cloud.object(key)),
        }
    }

    fn approvals(&self) -> Vec<String> {
        self.cloud.keys("v1/orders/promotions/").into_iter().filter(|key| key.ends_with("/approval.json")).collect()
    }

    fn request(&self, asked: &Asked) -> Value {
        self.cloud.item("orders", &format!("approval#{}", asked.id)).unwrap()
    }

    fn promotion(&self, asked: &Asked) -> Value {
        self.cloud.item("orders", &format!("promotion#{}", asked.id)).unwrap_or(Value::Null)
    }

    fn ends(&self, asked: &Asked, state: &str) -> Value {
        wait_for_within(Duration::from_secs(120), &format!("promotion {} to be {state}", asked.id), || {
            Some(self.promotion(asked)).filter(|promotion| promotion["state"] == state)
        })
    }

    /// A report's page, which is the same among the pages and beside the approval.
    fn report(&self, asked: &Asked, name: &str) -> String {
        let key = format!("v1/orders/promotions/{}/{name}", asked.id);
        let page = self.cloud.wait_for_page(&key, &["Promotion of orders"]);
        assert_eq!(page.as_bytes(), self.cloud.object(&key));
        page
    }

    fn lease(&self) -> Value {
        self.cloud.item("orders", "lease").unwrap()
    }

    /// Runs a document on the host as a person does, and waits for its end.
    fn by_hand(&self, host: &CloudHost<'_>, document: &str) -> Value {
        self.cloud.run_document(document, host.instance(), &json!({}))
    }

    /// Changes one attribute of a request behind the functions' back.
    fn forge(&self, asked: &Asked, path: &[&str], value: Value) {
        let names: serde_json::Map<_, _> = path.iter().enumerate().map(|(i, name)| (format!("#{i}"), json!(name))).collect();
        let request = json!({
            "TableName": self.cloud.output("Catalog"),
            "Key": {"pk": {"S": "cluster#orders"}, "sk": {"S": format!("approval#{}", asked.id)}},
            "UpdateExpression": format!("SET {} = :v", (0..path.len()).map(|i| format!("#{i}")).collect::<Vec<_>>().join(".")),
            "ExpressionAttributeNames": names,
            "ExpressionAttributeValues": {":v": value},
        });
        self.cloud.aws("dynamodb", "DynamoDB_20120810.UpdateItem", &request).unwrap();
    }

    fn expire(&self, asked: &Asked) {
        self.forge(asked, &["request", "question", "expires_at"], json!({"S": "2026-01-01T00:00:00Z"}));
    }

    /// Puts an approval where an approval lies, as somebody who may write there: what it would say if `by` had approved.
    fn approval_by_hand(&self, asked: &Asked, by: &str) {
        let at = |name: &str| {
            let key = format!("v1/orders/drills/{}/{name}", asked.drill["drill_id"].as_str().unwrap());
            Sha256::of(&self.cloud.object(&key))
        };
        let now = Timestamp::now();
        let forged = ApprovalV1 {
            format: ApprovalV1::FORMAT.into(),
            cluster: "orders".parse().unwrap(),
            plan_sha256: at("plan.json"),
            report_sha256: at("report.json"),
            target_host: self.request(asked)["request"]["question"]["host"].as_str().unwrap().parse().unwrap(),
            requester: "ada".into(),
            approvers: vec![by.to_owned()],
            approved_at: now,
            expires_at: now + SignedDuration::from_hours(1),
        };
        let key = format!("v1/orders/promotions/{}/approval.json", asked.id);
        block_on(self.cloud.bucket().put_new(&key, forged.to_bytes().into(), "application/json")).unwrap();
    }

    /// Nothing was promoted, no lease is held, and the host was sent nothing but its backups.
    fn untouched(&self, host: &CloudHost<'_>, backups: usize) {
        assert_eq!((self.orders(), host.outputs().len(), self.lease()["holder"].clone()), (1, backups, Value::Null));
        assert_eq!(self.cloud.items_under("orders", "promotion#"), [Value::Null; 0]);
    }
}

#[test]
fn one_person_never_promotes_alone_and_whatever_was_not_approved_like_this_changes_nothing() {
    let scene = Scene::new();
    let host = scene.cloud.host("orders", &scene.db);
    scene.back_up();
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|name| scene.cloud.user(name));

    // Asked for by ada: not approved by ada; approved by bob, once, however often bob says so.
    let asked = scene.asked_by(&ada);
    let message = scene.cloud.notifications().pop().unwrap();
    for part in ["orders", host.instance(), "WILL BE LOST", &asked.certificate, &ada.arn, "highwater approve --url", "Decide before"] {
        assert!(message.contains(part), "{part} in {message}");
    }
    let (status, answer) = scene.approve(&ada, &asked);
    assert_eq!(status, 403, "{answer}");
    let wrong =
        Asked { certificate: Sha256::of(b"another").to_string(), id: asked.id.clone(), drill: Value::Null, execution: String::new() };
    assert_eq!(scene.approve(&bob, &wrong).0, 409);
    assert_eq!((scene.approvals(), scene.promote(&asked).unwrap_err().0), (vec![], "Permanent".to_owned()));
    let (status, answer) = scene.approve(&bob, &asked);
    assert_eq!((status, answer["state"].as_str()), (200, Some("approved")), "{answer}");
    assert_eq!(scene.approve(&bob, &asked).1["votes"].as_array().unwrap().len(), 1);
    assert_eq!(scene.approvals().len(), 1);
    assert_eq!(scene.request(&asked)["open"], Value::Null);

    // A newer request supersedes it, though it is approved.
    let console = scene.console_start();
    let (name, reason) = scene.promote(&asked).unwrap_err();
    assert!(name == "Permanent" && reason.contains("superseded"), "{name}: {reason}");
    // The machine has that settled: it was refused, and its report says why.
    let key = format!("v1/orders/promotions/{}/approval.json", asked.id);
    let approval = json!({"uri": format!("s3://{}/{key}", scene.cloud.output("Bucket")), "sha256": scene.sha256(&key)});
    let settle = json!({"settle": asked.execution, "cluster": "orders", "approval": approval, "failure": {"Error": name, "Cause": reason}});
    assert_eq!(scene.cloud.invoke("finish-promote", &settle).unwrap()["outcome"], "refused");
    let page = scene.report(&asked, "report.html");
    for part in ["refused", "superseded", &ada.arn, &bob.arn, &asked.certificate, "the primary was not touched"] {
        assert!(page.contains(part), "{part} in {page}");
    }

    // Nobody knows who asked: two people, and the first one again is not the second.
    assert_eq!(scene.approve(&ada, &console).1["state"], "waiting");
    assert_eq!(scene.approve(&ada, &console).1["state"], "waiting");
    assert_eq!(scene.approvals().len(), 1);
    assert_eq!(scene.approve(&bob, &console).1["state"], "approved");
    assert_eq!(scene.approvals().len(), 2);

    // An execution cannot borrow the request of somebody else, and so a requester.
    let (drill, _) = scene.drill();
    let borrowed = scene.question(&drill, Some(&asked.id), &format!("{EXECUTION}mine"), Timestamp::now()).unwrap_err();
    assert!(borrowed.1.contains("belongs to"), "{borrowed:?}");

    // Denied, once and for all.
    let denied = scene.asked_by(&ada);
    assert_eq!(scene.deny(&eve, &denied).1["state"], "denied");
    assert_eq!(scene.approve(&bob, &denied).0, 409);
    assert_eq!(scene.promote(&denied).unwrap_err().0, "Permanent");
    assert_eq!(scene.request(&denied)["request"]["votes"][0]["reason"], "not tonight");

    // Expired.
    let expired = scene.console_start();
    scene.expire(&expired);
    assert_eq!(scene.approve(&ada, &expired).0, 410);

    // A certificate that was changed after it was signed.
    let (tampered, _) = scene.drill_signed(|bytes| Sha256::of(&[bytes, b" "].concat()));
    let (name, reason) = scene.question(&tampered, None, &format!("{EXECUTION}tampered"), Timestamp::now()).unwrap_err();
    assert!(name == "Permanent" && reason.contains("signature"), "{name}: {reason}");

    // Another host than the one that was approved.
    let moved = scene.console_start();
    scene.approve(&ada, &moved);
    scene.approve(&eve, &moved);
    let name = json!({"Name": "/highwater/clusters/orders"});
    let stored = scene.cloud.aws("ssm", "AmazonSSM.GetParameter", &name).unwrap()["Parameter"]["Value"].as_str().unwrap().to_owned();
    let elsewhere = stored.replace(host.instance(), "i-0db00000000000fff");
    let put = |value: &str| {
        let request = json!({"Name": "/highwater/clusters/orders", "Value": value, "Overwrite": true});
        scene.cloud.aws("ssm", "AmazonSSM.PutParameter", &request).unwrap();
    };
    put(&elsewhere);
    let (name, reason) = scene.promote(&moved).unwrap_err();
    assert!(name == "Permanent" && reason.contains("i-0db00000000000fff"), "{name}: {reason}");
    put(&stored);

    // What a newer request superseded is void, and its execution is told: by reconcile, when nobody else did.
    scene.cloud.fire("fleet-reconcile");
    let void = |asked: &Asked| Some(scene.request(asked)["request"]["state"]["reason"].clone()).filter(|reason| !reason.is_null());
    assert!(wait_for("the void request", || void(&expired)).as_str().unwrap().contains("superseded"));

    // The account's root is nobody in particular; a call that IAM does not vouch for is refused.
    let forged = json!({"version": "2.0", "body": r#"{"action":"list","cluster":"orders"}"#, "requestContext": {}});
    assert_eq!(scene.cloud.invoke("decide-approval", &forged).unwrap()["statusCode"], 403);

    // After all of this the host was sent nothing but its backup, and serves what it did.
    scene.untouched(&host, 1);
}

#[test]
fn an_approval_that_was_forged_stolen_or_replayed_promotes_nothing() {
    let scene = Scene::new();
    let host = scene.cloud.host("orders", &scene.db);
    scene.back_up();
    let [ada, bob] = ["ada", "bob"].map(|name| scene.cloud.user(name));
    let refused = |result: Result<Value, (String, String)>, why: &str| {
        let (name, reason) = result.unwrap_err();
        assert!(name == "Permanent" && reason.contains(why), "{why}: {name}: {reason}");
    };

    // Another's signature, no vote; a call that was overheard says what it said, to nobody else and about nothing else.
    let asked = scene.asked_by(&ada);
    assert_eq!(scene.approve(&ada.posing_as(&bob), &asked).0, 403);
    let heard = scene.cloud.overheard(&bob, &vote_for(&asked));
    let changed = String::from_utf8(heard.clone()).unwrap().replacen("orders", "ordres", 1);
    assert_eq!(scene.cloud.replay(changed.as_bytes()), 403, "a body that was changed after it was signed");
    assert_eq!(scene.request(&asked)["request"]["votes"], json!([]));
    // The same person by a role's session, under a second name: the session is one caller, whatever it calls itself.
    let [one, two] = ["one", "two"].map(|name| scene.cloud.session("approvers", name));
    let by_role = scene.asked_by(&one);
    assert_eq!(scene.approve(&two, &by_role).0, 403);

    // An approval made by hand: of a request that nobody approved, and of one that somebody else did.
    let asked = scene.asked_by(&ada);
    scene.approval_by_hand(&asked, "bob");
    refused(scene.promote(&asked), "waiting, not approved");
    scene.approve(&bob, &asked);
    assert_eq!(scene.request(&asked)["request"]["state"]["name"], "approved");
    refused(scene.promote(&asked), "approved the approval");

    // A record made by hand: approved without a vote, approved by a requester's own.
    let asked = scene.asked_by(&ada);
    scene.approval_by_hand(&asked, "bob");
    scene.forge(&asked, &["request", "state"], json!({"M": {"name": {"S": "approved"}}}));
    refused(scene.promote(&asked), "not approved");
    let asked = scene.asked_by(&ada);
    let own = json!({"M": {"by": {"M": {"principal": {"S": "AIDA"}, "name": {"S": "ada"}, "arn": {"S": "ada"}}}, "word": {"S": "approve"}, "at": {"S": "2026-11-22T02:00:00Z"}}});
    scene.approval_by_hand(&asked, "ada");
    scene.forge(&asked, &["request", "votes"], json!({"L": [own]}));
    scene.forge(&asked, &["request", "state"], json!({"M": {"name": {"S": "approved"}}}));
    refused(scene.promote(&asked), "asked for the promotion and cannot approve it");

    // A good approval, of another execution; of another drill, and so another plan and report.
    let good = scene.asked_by(&ada);
    // A backup is taken while it waits: what is voted on stays what it was.
    scene.cloud.fire("backup-orders");
    wait_for("the second backup", || {
        let committed = scene.cloud.backups().iter().filter(|backup| backup["state"] == "committed").count();
        (committed == 2 && scene.lease()["holder"].is_null()).then_some(())
    });
    assert_eq!(scene.cloud.replay(&scene.cloud.overheard(&bob, &vote_for(&good))), 200);
    assert_eq!(scene.request(&good)["request"]["state"]["name"], "approved");
    let elsewhere = |drill: &Value, execution: &str| Asked {
        drill: drill.clone(),
        execution: execution.into(),
        id: good.id.clone(),
        certificate: String::new(),
    };
    refused(scene.promote(&elsewhere(&good.drill, &format!("{EXECUTION}mine"))), "belongs to");
    refused(scene.promote(&elsewhere(&scene.drill().0, &good.execution)), "approved the certificate");
    scene.untouched(&host, 2);

    // It promotes once. Shown again, by another execution or to the host itself, it does nothing.
    assert_eq!(scene.cloud.replay(&scene.cloud.overheard(&bob, &vote_for(&good))), 200, "a vote sent again is one vote");
    assert_eq!(scene.request(&good)["request"]["votes"].as_array().unwrap().len(), 1);
    scene.promote(&good).unwrap();
    scene.ends(&good, "ended");
    scene.db.run("INSERT INTO shop.orders VALUES (100)");
    refused(scene.promote(&elsewhere(&good.drill, &format!("{EXECUTION}mine"))), "belongs to");
    let promotion = scene.cloud.commands().into_iter().find(|c| c["DocumentName"] == "highwater-promote").unwrap();
    scene.cloud.run_document("promote", host.instance(), &promotion["Parameters"]);
    assert_eq!(scene.orders(), 4, "what was written after the promotion is there");
}

fn vote_for(asked: &Asked) -> Value {
    json!({"action": "approve", "cluster": "orders", "request_id": asked.id, "certificate_sha256": asked.certificate})
}

#[test]
fn an_approved_promotion_is_done_once_and_ends_with_an_owed_full_and_a_roll_back_by_hand() {
    let scene = Scene::new();
    let host = scene.cloud.host("orders", &scene.db);
    scene.back_up();
    let [ada, bob] = ["ada", "bob"].map(|name| scene.cloud.user(name));
    let asked = scene.asked_by(&ada);
    // The vote is recorded, but its answer to the execution, and SendCommand's reply, are lost; SSM tells of the end twice.
    scene.cloud.fault(json!({"on": "ssm:SendCommand", "effect": "lose-reply", "times": 1}));
    scene.cloud.fault(json!({"on": "event:aws.ssm", "effect": "double"}));
    assert_eq!(scene.approve(&bob, &asked).1["state"], "approved");
    assert_eq!(scene.promote(&asked).unwrap_err().0, "Transient");
    assert_eq!(scene.promotion(&asked)["state"], "requested");

    // Tried again, as the state machine does: the command that was sent is found. Meanwhile backups wait.
    assert_eq!(scene.promote(&asked).unwrap()["promotion_id"], json!(asked.id));
    assert_eq!(scene.lease()["holder"]["purpose"], "promotion");
    assert_eq!(scene.cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap()["outcome"], "waits");
    let ended = scene.ends(&asked, "ended");
    assert_eq!(ended["outcome"], "promoted", "{ended}");
    assert_eq!(scene.orders(), 3, "the restored data serves");
    assert_eq!(scene.cloud.item("orders", "head").unwrap()["owed"]["force"], "new-incarnation");
    assert_eq!(scene.lease()["holder"], Value::Null);

    let page = scene.report(&asked, "report.html");
    for part in [
        "promoted",
        &ada.arn,
        &bob.arn,
        &asked.certificate,
        "Out of service for",
        "exchange the directories",
        ".old-",
        "row count",
        "highwater-rollback",
        host.instance(),
    ] {
        assert!(page.contains(part), "{part} in {page}");
    }
    scene.cloud.wait_for_page("index.html", &[&format!("href=\"v1/orders/promotions/{}/report.html\"", asked.id), "promoted"]);

    // Called again after its end: nothing. Settled: what it was.
    scene.cloud.no_faults();
    let commands = host.outputs().len();
    scene.promote(&asked).unwrap();
    let approval = ended["approval"].clone();
    let settle = json!({"settle": asked.execution, "cluster": "orders", "approval": approval, "failure": {"Error": "x", "Cause": "y"}});
    assert_eq!(scene.cloud.invoke("finish-promote", &settle).unwrap()["outcome"], "promoted");
    assert_eq!(host.outputs().len(), commands);

    // The next backup begins a new incarnation.
    let incarnation = |backup: &Value| backup["incarnation"].clone();
    let before = scene.cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed");
    scene.cloud.fire("backup-orders");
    let after = scene.cloud.wait_for_item("orders", "backup#", |item| item["state"] == "committed" && item["sk"] != before["sk"]);
    assert_ne!(incarnation(&before), incarnation(&after));
    assert!(after["backup_id"].as_str().unwrap().contains("-full-"));

    // An operator brings the old data back.
    let rolled = scene.by_hand(&host, "rollback");
    assert_eq!(rolled["Status"], "Success", "{rolled}");
    scene.ends(&asked, "reverted");
    assert_eq!(scene.orders(), 1, "the old data serves");
    let page = scene.report(&asked, "report-reverted.html");
    assert!(page.contains("An operator brought the old data back") && page.contains(".undone-"), "{page}");
    scene.cloud.wait_for_page("index.html", &["report-reverted.html", "brought back"]);
    assert_eq!(scene.cloud.item("orders", "head").unwrap()["owed"]["force"], "new-incarnation");
}

#[test]
fn a_promotion_cut_off_on_the_host_is_stuck_until_it_is_resumed_and_keeps_its_lease() {
    let scene = Scene::new();
    let host = scene.cloud.host("orders", &scene.db);
    scene.back_up();
    let [ada, bob] = ["ada", "bob"].map(|name| scene.cloud.user(name));
    let asked = scene.asked_by(&ada);
    scene.approve(&bob, &asked);
    host.env("HIGHWATER_CRASH_AT", "promote:stop:after");
    scene.promote(&asked).unwrap();
    scene.ends(&asked, "stuck");
    assert_eq!(scene.lease()["holder"]["operation"], json!(asked.id));
    assert_eq!(scene.cloud.invoke("start-backup", &json!({"cluster": "orders"})).unwrap()["outcome"], "waits");
    let told = scene.cloud.notifications();
    assert!(told.iter().any(|m| m.contains("highwater-resume") && m.contains(host.instance())), "{told:?}");
    let (status, answer) = scene.call(&ada, json!({"action": "restore", "cluster": "orders"}));
    assert_eq!(status, 409, "{answer}");
    let page = scene.report(&asked, "report-stuck.html");
    assert!(page.contains("STUCK, ACT NOW") && page.contains("highwater-resume") && page.contains("did not tell its steps"), "{page}");
    scene.cloud.wait_for_page("index.html", &["RUNBOOK: promotion-stuck", "report-stuck.html"]);
    wait_for("the metric at once", || scene.cloud.metrics("finish-promote").contains(&("StuckPromotions".into(), None, 1.0)).then_some(()));
    scene.cloud.fire("fleet-reconcile");
    wait_for("the metric", || scene.cloud.function_log("reconcile").contains(r#""StuckPromotions":1"#).then_some(()));

    // Resumed by a person; the event that tells of it is lost, and reconcile finds it.
    host.env("HIGHWATER_CRASH_AT", "nowhere");
    scene.cloud.fault(json!({"on": "event:aws.ssm", "effect": "lose"}));
    scene.by_hand(&host, "resume");
    assert_eq!(scene.promotion(&asked)["state"], "stuck");
    scene.cloud.fire("fleet-reconcile");
    let ended = scene.ends(&asked, "ended");
    assert_eq!((ended["outcome"].as_str(), scene.orders()), (Some("rolled-back"), 1), "{ended}");
    let page = scene.report(&asked, "report.html");
    assert!(
        page.contains("the old data serves again") && page.contains("stop the server") && page.contains("bring the old data back"),
        "{page}"
    );
    assert_eq!(scene.lease()["holder"], Value::Null);
}

#[test]
fn a_tag_is_a_host_only_while_exactly_one_carries_it_and_an_approval_is_of_the_instance() {
    let (first, second) = ("i-0db00000000000a01", "i-0db00000000000a02");
    let tag = json!({"Role": "orders primary"});
    let mut config = config();
    config["clusters"]["orders"]["host"] = json!({"tag": "Role", "value": "orders primary"});
    config["approval"] = json!({"approvers": 2});
    let scene = Scene::of(&config);
    let start = || scene.cloud.invoke("start-backup", &json!({"cluster": "orders"}));
    let refused = |answer: Result<Value, (String, String)>, parts: &[&str]| {
        let (name, reason) = answer.unwrap_err();
        assert!(name == "Permanent" && parts.iter().all(|part| reason.contains(part)), "{name}: {reason}");
    };

    // Nobody carries it: what is off, or a drill's, does not count. Nothing was begun.
    scene.cloud.bare_host("i-0db00000000000a03", "orders", &tag);
    scene.cloud.power_off("i-0db00000000000a03");
    scene.cloud.bare_host("i-0db00000000000a04", "orders", &json!({"Role": "orders primary", "highwater:purpose": "drill"}));
    refused(start(), &["cluster orders: 0 running instances", "Role=orders primary"]);
    assert_eq!(scene.cloud.items("orders"), Vec::<Value>::new());

    let host = scene.cloud.host_with(first, "orders", &scene.db, &tag);
    scene.back_up();
    let backup = scene.cloud.item("orders", "head").unwrap();
    assert_ne!(backup["newest"], Value::Null, "{backup}");
    let [ada, bob, eve] = ["ada", "bob", "eve"].map(|name| scene.cloud.user(name));
    let asked = scene.asked_by(&ada);
    assert_eq!(scene.request(&asked)["request"]["question"]["host"], first);

    // Two people beside the requester, as this deployment asks for; the same one twice is one.
    let message = scene.cloud.notifications().pop().unwrap();
    assert!(message.contains("2 other people have to approve"), "{message}");
    assert_eq!(scene.approve(&bob, &asked).1["state"], "waiting");
    assert_eq!(scene.approve(&bob, &asked).1["state"], "waiting");
    assert_eq!(scene.approve(&ada, &asked).0, 403);
    assert_eq!(scene.approve(&eve, &asked).1["state"], "approved");

    // Two carry it: nothing is sent to either.
    let commands = host.outputs().len();
    scene.cloud.bare_host(second, "orders", &tag);
    refused(start(), &["2 running instances", first, second]);
    refused(scene.promote(&asked), &["2 running instances", first, second]);

    // The tag has moved on: the approval is of the instance that carried it when people were asked.
    scene.cloud.power_off(first);
    refused(scene.promote(&asked), &[first, second]);
    assert_eq!((host.outputs().len(), scene.lease()["holder"].clone(), scene.orders()), (commands, Value::Null, 1));
}
