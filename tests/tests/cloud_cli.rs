//! The operator's command against a deployed cloud: every verb, as text and as JSON, and what it says to wrong input before
//! anything happens.

use highwater_tests::{Cloud, CloudHost, MariaDb, Person, Scratch, binary, config_of, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::io::{BufRead, BufReader};
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::Duration;

/// What a run of the command came to.
struct Ran {
    code: i32,
    stdout: String,
    stderr: String,
}

impl Ran {
    fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|e| panic!("{e}: {}{}", self.stdout, self.stderr))
    }

    /// The steps that were told while it was followed.
    fn steps(&self) -> Vec<String> {
        let lines = self.stderr.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| Some(line["step"].as_str()?.to_owned())).collect()
    }
}

/// A deployment, and somebody who operates it.
struct Scene {
    cloud: Cloud,
    operator: Person,
}

impl Scene {
    fn new(config: &Value) -> Self {
        let cloud = Cloud::deployed(config);
        let operator = cloud.user("ada");
        Self { cloud, operator }
    }

    fn command(&self, person: &Person, args: &[&str]) -> Command {
        let mut command = Command::new(binary("highwater"));
        command.args(args).env_clear().env("PATH", std::env::var_os("PATH").unwrap()).env("AWS_ENDPOINT_URL", self.cloud.url());
        // The deployment's URL has a name that only AWS resolves.
        command.envs(person.env()).env("HIGHWATER_DEPLOYMENT", "highwater").env("HIGHWATER_APPROVAL_URL", self.cloud.approval_url());
        command
    }

    fn run(&self, args: &[&str]) -> Ran {
        self.run_as(&self.operator, args)
    }

    fn run_as(&self, person: &Person, args: &[&str]) -> Ran {
        let output = self.command(person, args).stdin(Stdio::null()).output().unwrap();
        let text = |bytes: Vec<u8>| String::from_utf8(bytes).unwrap();
        Ran { code: output.status.code().unwrap_or(-1), stdout: text(output.stdout), stderr: text(output.stderr) }
    }

    /// Succeeds, and prints one JSON value.
    fn value(&self, args: &[&str]) -> Value {
        let ran = self.run(&[&["--json"], args].concat());
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stdout, ran.stderr);
        ran.json()
    }

    /// Succeeds, and prints text that contains all of this.
    fn text(&self, args: &[&str], expected: &[&str]) -> String {
        let ran = self.run(args);
        assert_eq!(ran.code, 0, "{args:?}: {}{}", ran.stdout, ran.stderr);
        for part in expected {
            assert!(ran.stdout.contains(part), "{args:?} says nothing of {part}: {}", ran.stdout);
        }
        ran.stdout
    }

    /// Is refused with this code and words, says what to do where there is something to do, and has changed nothing.
    fn refused(&self, args: &[&str], code: i32, words: &str) {
        self.settle();
        let before = self.everything();
        let ran = self.run(&[&["--json"], args].concat());
        assert_eq!(ran.code, code, "{args:?}: {}{}", ran.stdout, ran.stderr);
        assert!(ran.stderr.contains(words) || ran.stdout.contains(words), "{args:?} does not say {words}: {}{}", ran.stdout, ran.stderr);
        // Wrong usage is clap's: text on standard error, code 2.
        if code != 2 {
            assert_eq!(ran.json()["exit_code"], json!(code), "{args:?}");
        }
        assert_eq!(self.everything(), before, "{args:?} changed something");
    }

    fn items(&self) -> Vec<Value> {
        ["orders", "billing"].iter().flat_map(|cluster| self.cloud.items(cluster)).collect()
    }

    /// Waits until what follows the end of backups and drills is done; a request stays open until it is decided.
    fn settle(&self) {
        let is_open = |item: &Value| !item["open"].is_null() && item["open"] != "approval";
        wait_for("everything to be closed", || (!self.items().iter().any(is_open)).then_some(()));
    }

    fn everything(&self) -> (Vec<Value>, usize) {
        let items = self.items();
        (items, self.cloud.executions("drill").len() + self.cloud.executions("restore-primary").len())
    }

    fn host<'a>(&'a self, db: &MariaDb) -> CloudHost<'a> {
        self.cloud.host("orders", db)
    }
}

fn config() -> Value {
    let mut config = config_of(&["orders", "billing"]);
    config["clusters"]["orders"]["rto_minutes"] = json!(60);
    config["cost"] = json!({"cap_per_month": 1.0, "prices": {"instance_hour": {"m7i.large": 0.2}}});
    config
}

fn shop(db: &MariaDb) {
    db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY); INSERT INTO shop.orders VALUES (1), (2), (3)");
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}"))
}

/// A full and an incremental by hand, a drill, what can be seen of them, a restore on this machine.
#[test]
fn an_operator_backs_up_drills_looks_and_fetches() {
    let scene = Scene::new(&config());
    let db = MariaDb::start();
    let _host = scene.host(&db);
    shop(&db);

    // Nothing yet.
    let empty = scene.run(&["--json", "status"]);
    let clusters = empty.json()["clusters"].clone();
    assert_eq!((empty.code, clusters[1]["cluster"].as_str()), (3, Some("orders")), "{}", empty.stderr);
    assert_eq!(clusters[1]["needs"][0]["need"], "backups-overdue");
    assert_eq!(clusters[1]["rto"]["target_seconds"], json!(3600));
    scene.text(&["backups", "--cluster", "orders"], &["has no backup yet", "highwater backup now --cluster orders"]);
    for args in [
        vec!["backups", "--cluster", "order"],
        vec!["show", "20261122T020000Z-full-4f7c", "--cluster", "order"],
        vec!["backup", "now", "--cluster", "order"],
        vec!["drill", "--cluster", "order"],
        vec!["fetch", "--cluster", "order", "--into", "/tmp/nowhere-at-all"],
        vec!["prune", "--dry-run", "--cluster", "order"],
        vec!["cost", "--cluster", "order"],
        vec!["status", "--cluster", "order"],
    ] {
        scene.refused(&args, 11, "it has billing, orders");
    }
    scene.refused(&["drill", "--cluster", "orders"], 11, "cluster orders has no committed backup");
    scene.refused(&["restore", "--cluster", "orders"], 11, "cluster orders has no committed backup");
    scene.refused(&["certificate", "show", "--cluster", "orders"], 11, "no drill of orders has passed yet");
    scene.refused(&["--deployment", "other", "status"], 10, "no deployment other in eu-west-1");
    scene.refused(&["backups", "--cluster", "Orders"], 2, "cluster");
    scene.refused(&["drill", "--cluster", "orders", "--target", "yesterday"], 2, "yesterday");
    scene.refused(&["prune", "--cluster", "orders"], 2, "--dry-run");
    scene.refused(&["follow", "orders", "--cluster", "orders"], 2, "expected a backup's id");
    scene.refused(&["follow", "20261122T020000Z-full-4f7c", "--cluster", "orders"], 11, "has no backup 20261122T020000Z-full-4f7c");

    // A full, followed; an incremental, not.
    let ran = scene.run(&["--json", "backup", "now", "--cluster", "orders"]);
    let full = ran.json();
    assert_eq!((ran.code, &full["state"], &full["kind"]), (0, &json!("committed"), &json!("full")), "{}", ran.stderr);
    assert_eq!(full["reason"], "no backup is committed yet");
    assert!(ran.steps().contains(&"running".to_owned()), "{}", ran.stderr);
    let started = scene.text(&["backup", "now", "--cluster", "orders", "--no-wait"], &["the chain goes on", "highwater follow "]);
    let id = started.split(':').next().unwrap();
    scene.text(&["follow", id, "--cluster", "orders"], &[id, "is committed", "because the chain goes on"]);
    let forced = scene.value(&["backup", "now", "--full", "--cluster", "orders"]);
    assert_eq!((&forced["kind"], &forced["reason"]), (&json!("full"), &json!("a full was asked for")));

    let listed = scene.value(&["backups", "--cluster", "orders"]);
    let ids: Vec<_> = listed["backups"].as_array().unwrap().iter().map(|b| text(&b["backup_id"])).collect();
    assert_eq!(ids, [text(&full["backup_id"]), id, text(&forced["backup_id"])]);
    assert_eq!(scene.value(&["backups", "--cluster", "orders", "--limit", "1"])["backups"][0]["backup_id"], forced["backup_id"]);
    scene.text(&["backups", "--cluster", "orders"], &["committed", id, "proven"]);
    scene.text(&["show", id, "--cluster", "orders"], &["the chain goes on", "binlog", "none of the newest drills"]);
    assert_eq!(scene.value(&["show", id, "--cluster", "orders"])["manifest"]["backup_id"], json!(id));
    scene.refused(&["show", "20200101T000000Z-full-0000", "--cluster", "orders"], 11, "highwater backups --cluster orders");
    scene.refused(&["drill", "--cluster", "orders", "--target", "20200101T000000Z-full-0000"], 11, "the earliest restore point");

    // A drill of the incremental, to its verdict, and its certificate.
    let ran = scene.run(&["--json", "drill", "--cluster", "orders", "--target", id]);
    let drilled = ran.json();
    assert_eq!((ran.code, &drilled["outcome"], drilled["backup_id"].as_str()), (0, &json!("passed"), Some(id)), "{}", ran.stderr);
    assert!(ran.steps().iter().any(|step| step == "running"), "{}", ran.stderr);
    let phases: Vec<_> = drilled["phases"].as_array().unwrap().iter().map(|p| text(&p["name"])).collect();
    assert!(phases.contains(&"fetch") && phases.contains(&"apply") && phases.contains(&"check"), "{phases:?}");
    let drill_id = text(&drilled["drill_id"]);
    scene.text(&["follow", drill_id, "--cluster", "orders"], &["PASSED", "apply", "certificate s3://"]);
    scene.text(&["certificate", "show", "--cluster", "orders"], &[drill_id, "checks passed"]);
    assert_eq!(scene.value(&["certificate", "show", "--cluster", "orders"])["drill_id"], json!(drill_id));
    scene.text(&["certificate", "verify", "--cluster", "orders", "--drill", drill_id], &["verified", "key from KMS"]);
    assert_eq!(scene.value(&["certificate", "verify", "--cluster", "orders"])["verified"], json!(true));
    scene.refused(&["certificate", "show", "--cluster", "orders", "--drill", "20200101T000000Z-00000000"], 11, "no drill");

    // What is proven, measured, expected, and paid.
    let status = scene.run(&["--json", "status", "--cluster", "orders"]);
    let orders = status.json()["clusters"][0].clone();
    assert_eq!((status.code, &orders["needs"], orders["proven"]["backup_id"].as_str()), (0, &json!([]), Some(id)), "{orders}");
    assert!(orders["rto"]["measured_seconds"].as_f64().is_some_and(|s| s > 0.0), "{orders}");
    assert!(orders["rto"]["expected_seconds"].as_i64().is_some_and(|s| s >= 0), "{orders}");
    scene.text(&["status", "--cluster", "orders"], &["orders", "well", "1 h"]);
    let all = scene.run(&["status"]);
    assert_eq!(all.code, 3, "{}", all.stdout);
    assert!(
        all.stdout.contains("billing needs you") && all.stdout.contains("backups-overdue: there is no restore point"),
        "{}",
        all.stdout
    );
    let cost = scene.value(&["cost"]);
    assert_eq!((&cost["cap_per_month"], &cost["month"]["unpriced"]), (&json!(1.0), &json!([])), "{cost}");
    let drills = cost["month"]["lines"].as_array().unwrap().iter().find(|l| l["what"] == "drill instances").unwrap().clone();
    assert!(drills["amount"].as_f64().is_some_and(|amount| amount >= 0.2 / 60.0), "{drills}");
    scene.text(&["cost", "--cluster", "orders"], &["orders", "USD a month", "put yours into cost.prices"]);
    scene.text(&["cost"], &["OVER the cap of 1.00"]);
    reconcile_measures_the_cost(&scene.cloud, cost["month"]["amount"].as_f64().unwrap());

    // Retention, audits: with what the deployment knows.
    scene.text(&["prune", "--dry-run", "--cluster", "orders"], &["3 kept", "0 to delete"]);
    assert_eq!(scene.value(&["prune", "--dry-run", "--cluster", "orders"])["kept"]["count"], json!(3));
    scene.text(&["catalog", "audit", "--cluster", "orders"], &["3 backups by their manifests, 0 differences"]);
    assert_eq!(scene.value(&["catalog", "audit", "--cluster", "orders"])["differences"], json!([]));
    scene.text(&["catalog", "rebuild", "--cluster", "orders"], &["0 differences to mend"]);
    assert_eq!(scene.value(&["catalog", "rebuild", "--cluster", "orders"])["mended"], json!([]));
    scene.text(&["audit", "--cluster", "orders"], &["3 backups", "0 broken invariants"]);
    assert_eq!(scene.value(&["audit", "--cluster", "orders"])["broken"], json!(0));
    scene.refused(&["catalog", "audit", "--cluster", "order"], 11, "it has billing, orders");

    fetch(&scene, id);
    scene.text(&["completions", "bash"], &["_highwater"]);
    assert!(text(&scene.value(&["completions", "bash"])["script"]).contains("_highwater"));
    scene.refused(&["completions", "dos"], 2, "possible values");
}

/// The metric is what the command says, from a record that later runs take up.
fn reconcile_measures_the_cost(cloud: &Cloud, expected: f64) {
    let measured = || -> Vec<f64> {
        let log = cloud.function_log("reconcile");
        let lines = log.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        lines.filter_map(|line| line["EstimatedMonthlyCost"].as_f64()).collect()
    };
    let answer = cloud.invoke("reconcile", &json!({})).unwrap();
    let first = measured().pop().unwrap();
    assert!((first - expected).abs() < 0.01, "{first} is not {expected}");
    assert!(answer["did"].to_string().contains("a month is estimated to cost"), "{answer}");
    cloud.invoke("reconcile", &json!({})).unwrap();
    assert!(measured().len() >= 2 && measured().iter().all(|m| (m - first).abs() < f64::EPSILON), "{:?}", measured());
}

/// The point before the last full, on this machine; then what is wrong with another try.
fn fetch(scene: &Scene, id: &str) {
    let scratch = Scratch::new("fetch");
    let into = scratch.join("orders");
    let path = into.to_str().unwrap();
    let fetched = scene.value(&["fetch", "--cluster", "orders", "--target", id, "--into", path]);
    assert_eq!(fetched["point"]["backup_id"], json!(id));
    assert!(into.join("data/shop/orders.ibd").exists());
    let again = scene.run(&["fetch", "--cluster", "orders", "--target", id, "--into", path]);
    assert_eq!(again.code, 0, "a finished one is success again: {}{}", again.stdout, again.stderr);
    scene.refused(&["fetch", "--cluster", "orders", "--into", path], 16, "choose another --into");
    scene.refused(&["fetch", "--cluster", "orders", "--into", &format!("{path}/no/such")], 11, "is no directory");
    let helper = scratch.join("none");
    let helper = helper.to_str().unwrap();
    scene.refused(&["fetch", "--cluster", "orders", "--into", path, "--helper", helper], 12, "highwater-host is not on this machine");
}

/// A drill that fails, a backup that fails, a follower who goes away; then a promotion with a second person.
#[test]
fn an_operator_is_told_of_failures_and_a_promotion_is_followed_to_its_end() {
    let scene = Scene::new(&config());
    let db = MariaDb::start();
    let mut host = scene.host(&db);
    shop(&db);
    assert_eq!(scene.value(&["backup", "now", "--cluster", "orders"])["state"], "committed");

    // A host that cannot back up.
    host.set("server", "defaults_file", "\"/nonexistent.cnf\"");
    let failed = scene.run(&["--json", "backup", "now", "--cluster", "orders"]);
    let code = failed.code;
    assert!(code >= 10 && failed.json()["state"] == "failed", "{code}: {}{}", failed.stdout, failed.stderr);
    assert!(failed.stderr.contains("highwater show "), "{}", failed.stderr);
    let status = scene.run(&["--json", "status", "--cluster", "orders"]).json()["clusters"][0].clone();
    assert_eq!(status["last_failure"]["backup_id"], failed.json()["backup_id"]);
    assert!(status["next_is_full"].is_string(), "{status}");
    scene.text(&["backups", "--cluster", "orders"], &["failed ("]);
    host.set("server", "defaults_file", format!("{:?}", db.root_defaults()));
    assert_eq!(scene.value(&["backup", "now", "--cluster", "orders"])["kind"], "full");

    // A drill whose own check fails; whoever follows goes away and comes back.
    let mut checks = config();
    checks["clusters"]["orders"]["drill"]["checks"] = json!(
        "start_timeout_s = 60\nbuffer_pool_mib = 64\n[[drill.assert]]\nname = \"four orders\"\nsql = \"SELECT COUNT(*) FROM shop.orders\"\nexpect = \"4\"\n"
    );
    let parameter =
        json!({"Name": "/highwater/clusters/orders", "Overwrite": true, "Type": "String", "Value": with_checks(&scene.cloud, &checks)});
    scene.cloud.aws("ssm", "AmazonSSM.PutParameter", &parameter).unwrap();
    let (goes_on, hint) = followed_for_a_while(&scene);
    assert!(goes_on.contains("goes on; it is not followed any more"), "{goes_on}");
    let again = hint.split_once("highwater ").unwrap().1.split('"').next().unwrap();
    let args: Vec<_> = ["--json"].into_iter().chain(again.split(' ')).collect();
    let drilled = scene.run(&args);
    assert_eq!((drilled.code, &drilled.json()["outcome"]), (18, &json!("failed")), "{}", drilled.stderr);
    assert!(text(&drilled.json()["reason"]).contains("four orders"), "{}", drilled.stdout);
    let status = scene.run(&["status", "--cluster", "orders"]);
    assert!(status.code == 3 && status.stdout.contains("drills-failed: drill "), "{}", status.stdout);
    let parameter =
        json!({"Name": "/highwater/clusters/orders", "Overwrite": true, "Type": "String", "Value": with_checks(&scene.cloud, &config())});
    scene.cloud.aws("ssm", "AmazonSSM.PutParameter", &parameter).unwrap();

    promotion(&scene, &db);
}

/// The cluster's parameter with the checks of this configuration.
fn with_checks(cloud: &Cloud, config: &Value) -> String {
    let found = cloud.aws("ssm", "AmazonSSM.GetParameter", &json!({"Name": "/highwater/clusters/orders"})).unwrap();
    let mut stored: Value = serde_json::from_str(text(&found["Parameter"]["Value"])).unwrap();
    stored["drill"]["checks"] = config["clusters"]["orders"]["drill"]["checks"].clone();
    stored.to_string()
}

/// Starts a drill, and interrupts the follower once it runs: what it said, and its hint.
fn followed_for_a_while(scene: &Scene) -> (String, String) {
    let mut command = scene.command(&scene.operator, &["--json", "drill", "--cluster", "orders"]);
    let mut child = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::piped()).spawn().unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines().map(Result::unwrap);
    let first = lines.next().unwrap();
    assert!(first.contains("\"step\":"), "{first}");
    assert!(Command::new("kill").args(["-INT", &child.id().to_string()]).status().unwrap().success());
    let last = lines.last().unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(130), "{last}");
    let said: Value = serde_json::from_str(&last).unwrap();
    (text(&said["message"]).to_owned(), text(&said["hint"]).to_owned())
}

fn promotion(scene: &Scene, db: &MariaDb) {
    db.run("DELETE FROM shop.orders WHERE id > 1");
    let bob = scene.cloud.user("bob");
    for args in [["approve", "--certificate", &"0".repeat(64)].as_slice(), &["deny"]] {
        let args = [args, &["--cluster", "orders", "--request", "20200101T000000Z-0000"]].concat();
        scene.refused(&args, 17, "no request");
    }
    scene.text(&["approvals", "--cluster", "orders"], &["no request for a promotion of orders", "you are "]);
    scene.refused(&["restore", "--cluster", "orders", "--target", "lsn:1"], 11, "the earliest restore point");
    scene.refused(&["follow", "20200101T000000Z-0000", "--cluster", "orders"], 11, "has no request 20200101T000000Z-0000");

    let newest = || scene.value(&["backups", "--cluster", "orders", "--limit", "1"])["backups"][0].clone();
    let incarnation = newest()["incarnation"].clone();
    // Asked for, drilled, approved by somebody else, promoted: one command follows all of it, by nothing but the URL.
    let mut asks = scene.command(&scene.operator, &["--json", "restore", "--cluster", "orders"]);
    asks.env_remove("HIGHWATER_DEPLOYMENT");
    let asker = Follower::start(scene, "asker", asks);
    let waiting = wait_for_within(Duration::from_secs(150), "the question", || {
        let listed = scene.run_as(&bob, &["--json", "approvals", "--cluster", "orders"]).json();
        listed["requests"].as_array().unwrap().iter().find(|r| r["state"] == "waiting").cloned()
    });
    let (id, certificate) = (text(&waiting["request_id"]), text(&waiting["question"]["certificate"]["sha256"]));
    let hint = format!("highwater approve --cluster orders --request {id} --certificate {certificate}");
    scene.text(&["approvals", "--cluster", "orders"], &[&hint]);
    scene.refused(&["approve", "--cluster", "orders", "--request", id, "--certificate", certificate], 17, "HTTP 403");
    let status = scene.run(&["status", "--cluster", "orders"]).stdout;
    assert!(status.contains(&format!("request {id} waits for votes until")), "{status}");
    // Somebody else follows the same request by the catalog.
    let other = Follower::start(scene, "other", scene.command(&scene.operator, &["--json", "follow", id, "--cluster", "orders"]));
    for follower in [&asker, &other] {
        wait_for("the follower to tell of the votes", || follower.told().contains("waits for votes").then_some(()));
    }
    let approved = scene.run_as(&bob, &["approve", "--cluster", "orders", "--request", id, "--certificate", certificate]);
    assert!(approved.code == 0 && approved.stdout.contains("is approved: 1 of 1 approvals"), "{}{}", approved.stdout, approved.stderr);
    assert!(asker.told().contains("being drilled"), "{}", asker.told());
    for follower in [asker, other] {
        let ended = follower.end();
        assert_eq!((ended.code, &ended.json()["outcome"]), (0, &json!("promoted")), "{}{}", ended.stdout, ended.stderr);
        assert_eq!(ended.json()["host"], waiting["question"]["host"]);
    }
    assert_eq!(db.value::<u64>("SELECT COUNT(*) FROM shop.orders"), 3);
    wait_for("the full of the new incarnation", || {
        let newest = newest();
        (newest["state"] == "committed" && newest["incarnation"] != incarnation).then_some(())
    });

    // Asked for again, and withdrawn; both who ask by the URL alone and who read the catalog are told. How long it usually takes is known by now.
    let asked = scene.value(&["restore", "--cluster", "orders", "--no-wait"]);
    let withdrawn = text(&asked["request_id"]);
    let mut follows = scene.command(&scene.operator, &["--json", "follow", withdrawn, "--cluster", "orders"]);
    follows.env_remove("HIGHWATER_DEPLOYMENT");
    let asker = Follower::start(scene, "withdrawn", follows);
    wait_for("the follower to tell of the drill", || asker.told().contains("being drilled").then_some(()));
    let denied = scene.value(&["deny", "--cluster", "orders", "--request", withdrawn, "--reason", "a mistake"]);
    assert_eq!(denied["state"], "denied");
    let by_catalog = scene.run(&["--json", "follow", withdrawn, "--cluster", "orders"]);
    let by_url = asker.end();
    assert!(by_url.stderr.contains("\"left_seconds\":"), "{}", by_url.stderr);
    let first: Value = serde_json::from_str(by_url.stderr.lines().next().unwrap()).unwrap();
    assert!(first["usually_seconds"].as_i64().is_some_and(|usually| usually > 0), "{first}");
    for followed in [by_url, by_catalog] {
        assert_eq!((followed.code, &followed.json()["reason"]), (17, &json!("denied")), "{}", followed.stderr);
    }
}

/// A command that follows something, beside the test.
struct Follower {
    child: Child,
    stdout: PathBuf,
    stderr: PathBuf,
}

impl Follower {
    fn start(scene: &Scene, name: &str, mut command: Command) -> Self {
        let [stdout, stderr] = ["out", "err"].map(|stream| scene.cloud.scratch().join(format!("{name}.{stream}")));
        let file = |path: &PathBuf| std::fs::File::create(path).unwrap();
        command.stdin(Stdio::null()).stdout(file(&stdout)).stderr(file(&stderr));
        Self { child: command.spawn().unwrap(), stdout, stderr }
    }

    /// Its progress so far.
    fn told(&self) -> String {
        std::fs::read_to_string(&self.stderr).unwrap()
    }

    fn end(mut self) -> Ran {
        let code = self.child.wait().unwrap().code().unwrap_or(-1);
        Ran { code, stdout: std::fs::read_to_string(&self.stdout).unwrap(), stderr: self.told() }
    }
}

/// A chain whose restore is expected to take longer than the cluster may be without its data is not continued.
#[test]
fn a_chain_that_would_take_too_long_to_restore_is_followed_by_a_full_that_says_why() {
    let mut config = config();
    config["clusters"]["orders"]["rto_minutes"] = json!(10);
    let scene = Scene::new(&config);
    let db = MariaDb::start();
    let _host = scene.host(&db);
    shop(&db);
    let backup = || scene.value(&["backup", "now", "--cluster", "orders"]);
    assert_eq!(backup()["kind"], "full");
    assert_eq!(backup()["kind"], "incremental");
    let drilled = scene.value(&["drill", "--cluster", "orders"]);
    assert_eq!(drilled["outcome"], "passed");
    assert_eq!(backup()["reason"], "the chain goes on", "seconds are expected, minutes are allowed");

    // The drill's record says that applying was slow: as if the disk had been.
    let drill = scene.cloud.wait_for_item("orders", "drill#", |item| item["state"] == "passed");
    let slow = json!({
        "TableName": scene.cloud.output("Catalog"), "Key": {"pk": {"S": "cluster#orders"}, "sk": {"S": drill["sk"]}},
        "UpdateExpression": "SET measured.incremental_seconds = :slow", "ExpressionAttributeValues": {":slow": {"N": "900"}},
    });
    scene.cloud.aws("dynamodb", "DynamoDB_20120810.UpdateItem", &slow).unwrap();
    let status = scene.run(&["--json", "status", "--cluster", "orders"]).json()["clusters"][0].clone();
    assert_eq!((&status["needs"], status["rto"]["target_seconds"].as_i64()), (&json!([]), Some(600)), "{status}");
    let why = text(&status["next_is_full"]);
    assert!(status["rto"]["expected_seconds"].as_i64().is_some_and(|s| s >= 1800), "two incrementals: {status}");
    assert!(why.starts_with("a restore is expected to take ") && why.contains("10 min are allowed"), "{why}");
    scene.text(&["status", "--cluster", "orders"], &["the next backup is a full: a restore is expected to take"]);
    let full = backup();
    assert_eq!(full["kind"], "full");
    assert!(text(&full["reason"]).starts_with("a restore is expected to take "), "{full}");
    scene.text(&["show", text(&full["backup_id"]), "--cluster", "orders"], &["a restore is expected to take"]);
    assert_eq!(backup()["kind"], "incremental", "a full alone is in time again");
}
