//! Every function is killed between any two of its calls of AWS. What runs next by itself (the event's next delivery, the
//! machine's next try, `reconcile`, the next schedule) brings everything to where it would have been, and nothing is lost,
//! doubled or left behind.

use highwater_aws::catalog::CatalogTable;
use highwater_aws::rebuild::{compare, rebuild};
use highwater_aws::table::Table;
use highwater_core::certificate::{PublicKey, verify};
use highwater_core::ids::backup_prefix;
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{ClusterId, Document, Sha256};
use highwater_tests::{Cloud, MariaDb, Person, Torture, block_on, config, passed_report, publish, wait_for, wait_for_within};
use jiff::Timestamp;
use serde_json::{Value, json};
use std::cell::Cell;
use std::time::Duration;

const MACHINE: &str = "arn:aws:states:eu-west-1:000000000000:execution:highwater-";

fn orders() -> ClusterId {
    "orders".parse().unwrap()
}

/// A deployment whose host serves a shop of three orders, of which there is a restore point.
struct Scene {
    cloud: Cloud,
    db: MariaDb,
    /// How many drills, requests and executions were made up.
    made: Cell<u32>,
}

impl Scene {
    fn new() -> Self {
        Self::of(&config())
    }

    fn of(config: &Value) -> Self {
        let (cloud, db) = (Cloud::deployed(config), MariaDb::start());
        db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT, at TIMESTAMP(6) DEFAULT NOW(6))");
        db.run("INSERT INTO shop.orders () VALUES (), (), ()");
        cloud.host("orders", &db);
        let scene = Self { cloud, db, made: Cell::default() };
        scene.turn(&|| {});
        scene
    }

    fn nth(&self) -> u32 {
        self.made.set(self.made.get() + 1);
        self.made.get()
    }

    fn items(&self, prefix: &str) -> Vec<Value> {
        self.cloud.items_under("orders", prefix)
    }

    /// Waits until nothing of a backup is open; gives the newest.
    fn closed(&self, n: usize) -> Value {
        let limit = Duration::from_secs(90);
        wait_for_within(limit, &format!("{n} closed backups, of {:#?}", self.cloud.backups()), || {
            let found = self.cloud.backups();
            let done = found.len() == n && found.iter().all(|b| b["open"].is_null());
            done.then(|| found.into_iter().next_back().unwrap())
        })
    }

    /// One turn of the schedule to its commit, with exactly one command, whoever is killed on the way.
    fn turn(&self, arm: &dyn Fn()) -> Value {
        let before = self.cloud.backups().len();
        self.db.run("INSERT INTO shop.orders () VALUES ()");
        arm();
        self.cloud.fire("backup-orders");
        let newest = self.closed(before + 1);
        assert_eq!(newest["state"], "committed", "{newest}");
        self.assert_one_command_each(std::slice::from_ref(&newest));
        self.cloud.assert_sound("orders");
        newest
    }

    #[track_caller]
    fn assert_one_command_each(&self, backups: &[Value]) {
        let commands = self.cloud.commands();
        for backup in backups {
            let comment = format!("highwater orders {}", backup["backup_id"].as_str().unwrap());
            assert_eq!(commands.iter().filter(|command| command["Comment"] == comment.as_str()).count(), 1, "commands of {backup}");
        }
    }

    /// As whoever called it, a machine or an event source: again after a crash, or a race with another run, with what `next`
    /// makes of the event.
    fn persist(&self, function: &str, event: &Value, next: impl Fn(&mut Value)) -> Result<Value, (String, String)> {
        let mut event = event.clone();
        for _ in 0..2 {
            match self.cloud.invoke(function, &event) {
                Err((name, _)) if name == "Runtime.ExitError" || name == "Transient" => next(&mut event),
                answered => return answered,
            }
        }
        self.cloud.invoke(function, &event)
    }

    fn reconcile(&self) {
        self.persist("reconcile", &json!({}), |_| {}).unwrap();
    }
}

fn base64(text: &str) -> Vec<u8> {
    let value = |c: u8| b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/".iter().position(|x| *x == c);
    let mut bits = (0u32, 0);
    let mut bytes = Vec::new();
    for six in text.bytes().filter_map(value) {
        bits = (bits.0 << 6 | u32::try_from(six).unwrap(), bits.1 + 6);
        if bits.1 >= 8 {
            bits.1 -= 8;
            bytes.push((bits.0 >> bits.1 & 0xff) as u8);
        }
    }
    bytes
}

#[test]
fn i4_start_backup_killed_between_any_two_calls_begins_and_sends_each_backup_once() {
    let (scene, mut torture) = (Scene::new(), Torture::begin("start-backup"));
    // The schedule delivers its event again.
    scene.cloud.kill_at_every_call(&mut torture, "start-backup", 2, |arm| drop(scene.turn(arm)));
    // Nobody does: the next turn finds what was begun, and goes on with it, or begins.
    scene.cloud.kill_at_every_call(&mut torture, "start-backup", 1, |arm| {
        let before = scene.cloud.backups().len();
        arm();
        let asked = scene.cloud.invoke("start-backup", &json!({"cluster": "orders"}));
        scene.persist("start-backup", &json!({"cluster": "orders"}), |_| {}).unwrap();
        let n = scene.cloud.backups().len();
        assert!(n == before + 1 || asked.is_ok() && n == before + 2, "{asked:?}: {n} backups after {before}");
        scene.closed(n);
        let backups = scene.cloud.backups();
        assert!(backups.iter().all(|backup| backup["state"] == "committed"), "{backups:#?}");
        scene.assert_one_command_each(&backups);
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

#[test]
fn i4_finish_backup_killed_between_any_two_calls_commits_each_backup_once() {
    let (scene, mut torture) = (Scene::new(), Torture::begin("finish-backup"));
    // SSM's event is delivered again.
    scene.cloud.kill_at_every_call(&mut torture, "finish-backup", 2, |arm| drop(scene.turn(arm)));
    // It is not: `reconcile` looks.
    scene.cloud.kill_at_every_call(&mut torture, "finish-backup", 1, |arm| {
        let (backup, n) = ended_unheard(&scene);
        arm();
        let _ = scene.cloud.invoke("finish-backup", &json!({"cluster": "orders", "backup_id": backup["backup_id"]}));
        scene.reconcile();
        assert_eq!(scene.closed(n)["state"], "committed");
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

/// A backup whose command has ended, and whose event was lost; with the number of backups.
fn ended_unheard(scene: &Scene) -> (Value, usize) {
    let n = scene.cloud.backups().len() + 1;
    scene.cloud.fault(json!({"on": "event:aws.ssm", "effect": "lose", "times": 1, "match": {"status": "Success"}}));
    scene.cloud.fire("backup-orders");
    let backup = wait_for("a command that has ended unheard", || {
        let newest = scene.cloud.backups().pop().filter(|newest| newest["state"] == "running")?;
        let prefix = format!("v1/orders/{}/{}/", newest["incarnation"].as_str()?, newest["backup_id"].as_str()?);
        let is_there = scene.cloud.keys(&prefix).iter().any(|key| key.ends_with("manifest.json"));
        let lost =
            scene.cloud.events().iter().any(|event| event["fate"] == "lose" && event["detail"]["command-id"] == newest["command_id"]);
        (is_there && lost && scene.cloud.backups().len() == n).then_some(newest)
    });
    (backup, n)
}

#[test]
fn i4_reconcile_killed_between_any_two_calls_closes_each_backup_and_drill_once_and_ends_what_leaked() {
    let (scene, mut torture) = (Scene::new(), Torture::begin("reconcile"));
    let execution = || format!("{MACHINE}drill:reconcile-{}", scene.nth());
    scene.cloud.kill_at_every_call(&mut torture, "reconcile", 2, |arm| {
        // A backup that nobody heard of, a drill whose execution is gone, an instance that outlived its drill.
        let (backup, n) = ended_unheard(&scene);
        let drill = plan(&scene, &execution());
        leaked(&scene);
        arm();
        let _ = scene.cloud.invoke("reconcile", &json!({}));
        scene.reconcile();
        assert_eq!(scene.closed(n)["backup_id"], backup["backup_id"]);
        assert_eq!(scene.closed(n)["state"], "committed");
        assert_eq!(record(&scene, &drill)["state"], "failed");
        wait_for("the leaked instance's end", || scene.cloud.drill_instances().is_empty().then_some(()));
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

/// An instance of a drill that has ended.
fn leaked(scene: &Scene) {
    let ended = scene.items("drill#").into_iter().find(|drill| drill["open"].is_null());
    let Some(ended) = ended else { return };
    let tags = json!({
        "highwater:deployment": "highwater", "highwater:purpose": "drill", "highwater:cluster": "orders", "highwater:drill": ended["drill_id"],
    });
    let host = json!({"path": [], "env": {"HIGHWATER_SCRATCH": scene.cloud.scratch().path()}});
    let id = format!("i-0dead{:012x}", scene.nth());
    scene.cloud.control("POST", "hosts", &json!({"instance_id": id, "profile": "highwater-drill-orders", "tags": tags, "host": host}));
}

/// The drill that `plan-restore` makes of an execution, tried again after a crash as the machine does.
fn plan(scene: &Scene, execution: &str) -> Value {
    let event = json!({"input": {"cluster": "orders"}, "execution": execution, "started": Timestamp::now()});
    scene.persist("plan-restore", &event, |_| {}).unwrap()
}

fn record(scene: &Scene, drill: &Value) -> Value {
    scene.cloud.item("orders", &format!("drill#{}", drill["drill_id"].as_str().unwrap())).unwrap()
}

#[test]
fn i4_the_functions_of_drills_killed_between_any_two_calls_make_one_drill_one_instance_one_certificate() {
    let scene = Scene::new();
    the_machine(&scene);
    scene.cloud.drills_hang();
    plan_restore(&scene);
    launch_drill(&scene);
    record_drill(&scene);
}

fn plan_restore(scene: &Scene) {
    let mut torture = Torture::begin("plan-restore");
    scene.cloud.kill_at_every_call(&mut torture, "plan-restore", 2, |arm| {
        let execution = format!("{MACHINE}drill:plan-{}", scene.nth());
        let before = scene.items("drill#").len();
        arm();
        let drill = plan(scene, &execution);
        let record = record(scene, &drill);
        assert_eq!((&record["state"], &record["execution"]), (&json!("planned"), &json!(execution)));
        assert_eq!((scene.items("drill#").len(), &record["plan"]), (before + 1, &drill["plan"]));
        // Its execution is not known to Step Functions: the drill is over.
        scene.reconcile();
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

fn instances_of(scene: &Scene, drill: &Value) -> usize {
    scene.cloud.instances().iter().filter(|i| i["tags"]["highwater:drill"] == drill["drill_id"]).count()
}

fn launch_drill(scene: &Scene) {
    let mut torture = Torture::begin("launch-drill");
    scene.cloud.kill_at_every_call(&mut torture, "launch-drill", 2, |arm| {
        let drill = plan(scene, &format!("{MACHINE}drill:launch-{}", scene.nth()));
        arm();
        // Each try of the machine has a token of its own.
        let launched =
            scene.persist("launch-drill", &json!({"drill": drill, "token": "token-1"}), |event| event["token"] = json!("token-2"));
        let failure = match launched {
            Ok(answer) => {
                let record = record(scene, &drill);
                assert_eq!((&record["state"], &record["instance"]), (&json!("running"), &answer["instance"]));
                json!({"Error": "States.HeartbeatTimeout", "Cause": ""})
            }
            Err((name, message)) => {
                assert!(name == "Permanent" && message.contains("earlier try"), "{name}: {message}");
                json!({"Error": name, "Cause": message})
            }
        };
        assert_eq!(instances_of(scene, &drill), 1);
        let recorded = scene.cloud.invoke("record-drill", &json!({"drill": drill, "failure": failure})).unwrap();
        assert_eq!(recorded["outcome"], "failed");
        scene.reconcile();
        wait_for("the instance's end", || scene.cloud.drill_instances().is_empty().then_some(()));
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

/// A drill that has passed, by the functions and a report of its instance; and what `record-drill` answers.
fn passed_drill(scene: &Scene, arm: &dyn Fn()) -> Value {
    let drill = plan(scene, &format!("{MACHINE}drill:record-{}", scene.nth()));
    let launched = scene.cloud.invoke("launch-drill", &json!({"drill": drill, "token": "token"})).unwrap();
    let prefix = prefix_of(&drill);
    let plan = RestorePlanV1::parse(&scene.cloud.object(&format!("{prefix}plan.json"))).unwrap();
    let sha256 = drill["plan"]["sha256"].as_str().unwrap().parse().unwrap();
    let host = launched["instance"].as_str().unwrap().parse().unwrap();
    let report = passed_report(&plan, sha256, host, Timestamp::now()).to_bytes();
    block_on(scene.cloud.bucket().put_new(&format!("{prefix}report.json"), report.into(), "application/json")).unwrap();
    arm();
    let recorded = scene.persist("record-drill", &json!({"drill": drill, "failure": null}), |_| {}).unwrap();
    assert_eq!(recorded["outcome"], "passed", "{recorded}");
    scene.reconcile();
    wait_for("the instance's end", || scene.cloud.drill_instances().is_empty().then_some(()));
    recorded
}

fn prefix_of(drill: &Value) -> String {
    format!("v1/orders/drills/{}/", drill["drill_id"].as_str().unwrap())
}

fn record_drill(scene: &Scene) {
    let mut torture = Torture::begin("record-drill");
    let key = scene.cloud.aws("kms", "TrentService.GetPublicKey", &json!({"KeyId": scene.cloud.output("SigningKey")})).unwrap();
    let key = PublicKey::parse(&base64(key["PublicKey"].as_str().unwrap())).unwrap();
    scene.cloud.kill_at_every_call(&mut torture, "record-drill", 2, |arm| {
        let drill = passed_drill(scene, arm);
        let [certificate, signature] =
            ["certificate.json", "certificate.sig"].map(|name| scene.cloud.object(&format!("{}{name}", prefix_of(&drill))));
        assert_eq!(json!(verify(&certificate, &signature, &key).unwrap().drill_id), drill["drill_id"]);
        assert_eq!(scene.cloud.item("orders", "head").unwrap()["last_passed_drill"]["drill_id"], drill["drill_id"]);
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

fn the_machine(scene: &Scene) {
    let mut torture = Torture::begin("the drill's machine");
    while torture.goes_on(3, 24) {
        // A function of each step, at a call that it surely makes, and not after launch-drill gave its token away.
        let kills = [("plan-restore", 6), ("launch-drill", 5), ("record-drill", 8)].map(|(function, calls)| {
            let skip = torture.pick(calls);
            scene.cloud.fault(json!({"on": format!("function:highwater-{function}"), "effect": "kill-after", "skip": skip, "times": 1}));
            format!("{function} {}", skip + 1)
        });
        let ended = scene.cloud.execute("drill", &json!({"cluster": "orders"}));
        assert_eq!((&ended["status"], &ended["output"]["outcome"]), (&json!("SUCCEEDED"), &json!("passed")), "{kills:?}: {ended}");
        assert_eq!(scene.cloud.fault_hits(), [1, 1, 1], "{kills:?}");
        scene.cloud.no_faults();
        wait_for("the instance's end", || scene.cloud.drill_instances().is_empty().then_some(()));
        scene.cloud.assert_sound("orders");
        kills.iter().for_each(|kill| torture.survived(kill));
    }
    torture.end();
}

/// A request whose drill has passed.
struct Asked {
    execution: String,
    id: String,
    certificate: String,
}

impl Scene {
    /// A promotion started in the console, whose drill has passed, and the question that follows.
    fn asked(&self, drill: &Value, arm: &dyn Fn()) -> Asked {
        let execution = format!("{MACHINE}restore-primary:console-{}", self.nth());
        // Requests are ordered by the second in which they begin.
        std::thread::sleep(Duration::from_millis(1100));
        let event = json!({"drill": drill, "request_id": null, "execution": execution, "started": Timestamp::now(), "token": "token-1"});
        arm();
        let answer = self.persist("request-approval", &event, |event| event["token"] = json!("token-2")).unwrap();
        assert_eq!(answer["state"], "waiting", "{answer}");
        let certificate = drill["certificate"]["sha256"].as_str().unwrap().to_owned();
        Asked { execution, id: answer["request_id"].as_str().unwrap().to_owned(), certificate }
    }

    /// A call of the approval URL, sent again by its person when the function died.
    fn call(&self, person: &Person, body: &Value) -> Value {
        for _ in 0..3 {
            match self.cloud.call_approval_url(person, body) {
                (200 | 202, answer) => return answer,
                (status, answer) => assert!(status >= 500, "{status}: {answer}"),
            }
        }
        panic!("{body} was not answered in three calls")
    }

    fn vote(&self, person: &Person, asked: &Asked, word: &str) -> Value {
        let mut body = json!({"action": word, "cluster": "orders", "request_id": asked.id});
        if word == "approve" {
            body["certificate_sha256"] = json!(asked.certificate);
        }
        self.call(person, &body)
    }
}

#[test]
fn i4_the_functions_of_promotions_killed_between_any_two_calls_ask_count_and_promote_once() {
    let scene = Scene::new();
    let people = ["ada", "bob"].map(|name| scene.cloud.user(name));
    scene.cloud.drills_hang();
    request_approval(&scene, &people);
    ask_by_the_url(&scene, &people);
    decide_approval(&scene, &people);
    promote(&scene, &people);
}

fn request_approval(scene: &Scene, [ada, _]: &[Person; 2]) {
    let (mut torture, drill) = (Torture::begin("request-approval"), passed_drill(scene, &|| {}));
    scene.cloud.kill_at_every_call(&mut torture, "request-approval", 2, |arm| {
        let before = scene.items("approval#").len();
        let asked = scene.asked(&drill, arm);
        assert_eq!(scene.items("approval#").len(), before + 1);
        let told = scene.cloud.notifications();
        assert!(told.iter().any(|message| message.contains(&asked.certificate)), "somebody was told: {told:?}");
        assert_eq!(scene.vote(ada, &asked, "deny")["state"], "denied");
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

fn ask_by_the_url(scene: &Scene, [ada, _]: &[Person; 2]) {
    let (mut torture, drill) = (Torture::begin("decide-approval: a start"), passed_drill(scene, &|| {}));
    scene.cloud.kill_at_every_call(&mut torture, "decide-approval", 2, |arm| {
        // There is an older request, whose votes are awaited: the new one takes its place.
        let older = scene.asked(&drill, &|| {});
        // The last id of a second comes after every other of it.
        let id = format!("{}-ffff", Timestamp::now().strftime("%Y%m%dT%H%M%SZ"));
        let begun = || (scene.items("approval#").len(), scene.cloud.executions("restore-primary").len());
        let before = begun();
        arm();
        let asked = scene.call(ada, &json!({"action": "restore", "cluster": "orders", "request_id": id}));
        assert_eq!((&asked["request_id"], &asked["state"]), (&json!(id), &json!("drilling")), "{asked}");
        assert_eq!(begun(), (before.0 + 1, before.1 + 1), "one request, and one execution");
        let execution = asked["execution"].as_str().unwrap();
        let input: Value = serde_json::from_str(scene.cloud.execution(execution)["input"].as_str().unwrap()).unwrap();
        assert_eq!((&input["request_id"], &input["cluster"]), (&json!(id), &json!("orders")), "{input}");
        let state = |id: &str| scene.cloud.item("orders", &format!("approval#{id}")).unwrap()["request"]["state"].clone();
        assert_eq!(state(&older.id)["reason"], format!("superseded by request {id}"));
        // Nobody goes on with it.
        scene.cloud.stop_execution(execution);
        wait_for("the end of what was asked for", || {
            scene.reconcile();
            let rests = scene.cloud.items("orders").iter().all(|item| item["open"].is_null()) && scene.cloud.drill_instances().is_empty();
            rests.then_some(())
        });
        assert_eq!(state(&id)["name"], "void");
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

fn decide_approval(scene: &Scene, [ada, bob]: &[Person; 2]) {
    let (mut torture, drill) = (Torture::begin("decide-approval"), passed_drill(scene, &|| {}));
    scene.cloud.kill_at_every_call(&mut torture, "decide-approval", 2, |arm| {
        let asked = scene.asked(&drill, &|| {});
        arm();
        assert_eq!(scene.vote(ada, &asked, "approve")["state"], "waiting");
        let decided = scene.vote(bob, &asked, "approve");
        assert_eq!((&decided["state"], decided["votes"].as_array().unwrap().len()), (&json!("approved"), 2), "{decided}");
        assert_eq!(scene.cloud.keys(&format!("v1/orders/promotions/{}/", asked.id)).len(), 1);
        // What the second voter did not wait for, `reconcile` carries out.
        scene.reconcile();
        scene.cloud.assert_sound("orders");
    });
    torture.end();
}

fn promote(scene: &Scene, [ada, bob]: &[Person; 2]) {
    let mut torture = Torture::begin("promote");
    for function in ["promote", "finish-promote"] {
        scene.cloud.kill_at_every_call(&mut torture, function, 1, |arm| {
            let kept = scene.db.value::<u64>("SELECT COUNT(*) FROM shop.orders");
            scene.db.run("DELETE FROM shop.orders WHERE id > 1");
            let drill = passed_drill(scene, &|| {});
            let asked = scene.asked(&drill, &|| {});
            scene.vote(ada, &asked, "approve");
            scene.vote(bob, &asked, "approve");
            let key = format!("v1/orders/promotions/{}/approval.json", asked.id);
            let sha256 = Sha256::of(&scene.cloud.object(&key));
            let approval = json!({"uri": format!("s3://{}/{key}", scene.cloud.output("Bucket")), "sha256": sha256});
            let event = json!({"drill": drill, "approval": approval, "execution": asked.execution, "token": "token-1"});
            arm();
            let begun = scene.persist("promote", &event, |event| event["token"] = json!("token-2")).unwrap();
            assert_eq!(begun["promotion_id"], json!(asked.id));
            let promotion = wait_for_within(Duration::from_secs(120), "the promotion's end", || {
                scene.cloud.item("orders", &format!("promotion#{}", asked.id)).filter(|p| p["state"] == "ended" && p["open"].is_null())
            });
            assert_eq!(promotion["outcome"], "promoted", "{promotion}");
            assert_eq!(scene.db.value::<u64>("SELECT COUNT(*) FROM shop.orders"), kept, "the restored rows serve");
            // A promotion owes a full in a new incarnation, and the next turn is that.
            assert_eq!(scene.cloud.item("orders", "head").unwrap()["owed"]["force"], "new-incarnation");
            let before = scene.cloud.backups().pop().unwrap();
            let full = scene.turn(&|| {});
            assert!(full["incarnation"] != before["incarnation"] && full["backup_id"].as_str().unwrap().contains("-full-"), "{full}");
            remove_old_data(&scene.db);
        });
    }
    torture.end();
}

/// The data that a promotion put aside: it would fill the disk, promotion by promotion.
fn remove_old_data(db: &MariaDb) {
    for entry in std::fs::read_dir(db.datadir().parent().unwrap()).unwrap().flatten() {
        if entry.file_name().to_string_lossy().contains(".old-") {
            std::fs::remove_dir_all(entry.path()).unwrap();
        }
    }
}

#[test]
fn i6_prune_killed_between_any_two_calls_deletes_what_it_began_and_nothing_else() {
    let mut config = config();
    config["object_lock"] = json!({"days": 1});
    config["clusters"]["orders"]["keep"] = json!({"chains": 1, "daily": 0, "weekly": 0, "monthly": 0});
    let (cloud, mut torture) = (Cloud::deployed(&config), Torture::begin("prune"));
    let (catalog, bucket) = (CatalogTable::new(Table::new(&cloud.sdk(), cloud.output("Catalog"))), cloud.bucket());
    let sample: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
    let hour = Cell::new(Timestamp::now().duration_since(sample).as_hours() - 40 * 24);
    // A chain of two, an hour apart and after all before it, committed.
    let chain = || {
        let next = |parent: Option<&(ManifestV1, Sha256)>| {
            hour.set(hour.get() + 1);
            publish(&bucket, hour.get(), parent)
        };
        let full = next(None);
        let incremental = next(Some(&full));
        block_on(async {
            let compared = compare(&catalog, &bucket, &orders(), None, Timestamp::now()).await.unwrap();
            rebuild(&catalog, &orders(), &compared).await.unwrap();
        });
        [full.0, incremental.0]
    };
    let prefix = |m: &ManifestV1| backup_prefix(&m.cluster, &m.incarnation, &m.backup_id);
    let versions = |m: &ManifestV1| block_on(bucket.versions(&prefix(m))).unwrap().len();
    let last = Cell::new(chain());
    cloud.kill_at_every_call(&mut torture, "prune", 4, |arm| {
        let new = chain();
        let old = last.replace(new.clone());
        let attempt = prefix(&old[0]).replace("-full-", "-incremental-").replace("-0001/", "-0bad/data-1-000");
        block_on(bucket.put_new(&attempt, "half".into(), "application/zstd")).unwrap();
        old.iter().for_each(|m| cloud.end_locks(&prefix(m)));
        cloud.end_locks(&attempt);
        arm();
        let _ = cloud.invoke("prune", &json!({}));
        // The next day's run; of a late call it is that one's turn to be killed.
        let next = || cloud.invoke("prune", &json!({"cluster": "orders"}));
        let done = next().or_else(|_| next()).unwrap();
        assert_eq!(done["clusters"][0]["done"]["unfinished"], json!({}), "{done}");
        assert_eq!((versions(&old[0]), versions(&old[1]), cloud.keys(&attempt).len()), (0, 0, 0), "what was let go is gone");
        assert_eq!((versions(&new[0]), versions(&new[1])), (3, 3), "what is kept is whole");
        assert_eq!(cloud.assert_sound("orders"), 2);
    });
    torture.end();
}
