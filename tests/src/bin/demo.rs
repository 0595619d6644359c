//! `make demo`: the whole way on a local cloud. The template is deployed, schedules back a live database up, drills prove two
//! restore points and find a lost object, two people agree to a promotion, the data is replaced and comes back. No account; everything runs below
//! temporary directories and is gone at the end, except the documents in `target/demo/`.

use highwater_core::manifest::ManifestV1;
use highwater_tests::{Cloud, Load, MariaDb, Person, config, run, wait_for_within};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

/// Orders in the shop before anything writes: about 250 MB with their index and the server's own files.
const ORDERS: u64 = 500_000;
/// Where the documents stay.
const KEPT: &str = "target/demo";

fn main() {
    let mut demo = Demo::begin();
    demo.back_up();
    demo.drill();
    let proven = demo.drill_an_older_point();
    demo.look("An operator looks");
    demo.lose_an_object();
    demo.mistakes();
    demo.promote(&proven);
    demo.roll_back();
    demo.look("What an operator sees at the end");
    demo.end();
}

struct Demo {
    cloud: Cloud,
    db: MariaDb,
    load: Option<Load>,
    instance: String,
    rows: Vec<[String; 4]>,
    started: Instant,
}

impl Demo {
    fn begin() -> Self {
        let started = Instant::now();
        let _ = std::fs::remove_dir_all(KEPT);
        std::fs::create_dir_all(KEPT).expect("make target/demo");
        say("A shop that never stops selling, and the stack");
        let db = MariaDb::start();
        Load::fill(&db, ORDERS);
        let data = run(Command::new("du").args(["-sb"]).arg(db.datadir()));
        let bytes = data.split_whitespace().next().and_then(|n| n.parse::<f64>().ok()).expect("the size of the data");
        println!(
            "  a private MariaDB server with {:.0} MB, {} orders; from now on one writer and one changing tables",
            bytes / 1e6,
            count(&db)
        );
        let load = Load::start_with(&db, 1, true);

        let mut config = config();
        config["clusters"]["orders"]["drill"]["checks"] = json!(
            "start_timeout_s = 60\nbuffer_pool_mib = 64\n\n[[drill.assert]]\nname = \"a customer exists\"\nsql = \"SELECT COUNT(*) > 0 FROM shop.customers\"\nexpect = \"1\"\n"
        );
        show("cdk deploy", "-c config=highwater.yaml        # on the local cloud: the same template, machines, documents and binaries");
        let (clock, mut cloud) = (Instant::now(), Cloud::start());
        cloud.deploy(&config);
        println!("  bucket {}, catalog {}", cloud.output("Bucket"), cloud.output("Catalog"));
        let instance = cloud.host("orders", &db).instance().to_owned();
        println!("  {instance} is the primary of cluster orders; an instance runs, as a process group of this machine");
        let mut demo = Self { cloud, db, load: Some(load), instance, rows: Vec::new(), started };
        demo.row("deployment", "CREATE_COMPLETE", clock, "the whole stack, from cdk synth".into());
        demo
    }

    /// The schedule's time comes four times, while the shop sells.
    fn back_up(&mut self) {
        say("Backups by schedule, under the write load");
        for _ in 0..4 {
            let before = self.committed().len();
            println!("  # EventBridge Scheduler: the time of backup-orders has come");
            let clock = Instant::now();
            self.cloud.fire("backup-orders");
            self.wait("a committed backup", |demo| (demo.committed().len() > before).then_some(()));
            let record = self.committed().pop().expect("the newest backup");
            let manifest = self.manifest(&record);
            println!("  {}: {}", manifest.backup_id, record["asked"]["reason"].as_str().unwrap_or_default());
            println!("  LSN {} to {}; committed to the catalog", manifest.from_lsn, manifest.to_lsn);
            let ratio = manifest.raw_bytes as f64 / manifest.stored_bytes as f64;
            let detail = format!("{} stored as {} ({ratio:.1}x)", mb(manifest.raw_bytes), mb(manifest.stored_bytes));
            self.row(&format!("{} backup", manifest.kind), "committed", clock, detail);
            self.sell_more();
        }
    }

    /// The console's input is enough; the certificate is verified away from AWS.
    fn drill(&mut self) {
        say("A drill: is it really restorable?");
        let (clock, ended) = self.execute("drill", &json!({"cluster": "orders"}));
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        let output = ended["output"].clone();
        println!("  {} of {}: {}", text(&output["drill_id"]), text(&output["backup_id"]), text(&output["outcome"]));
        self.row("drill", "PASSED", clock, "restored, prepared, started, checked on an instance of its own".into());
        assert_eq!(self.cloud.drill_instances(), Vec::<Value>::new(), "an instance is left");
        println!("  the instance has ended");

        say("Its certificate, verified without AWS");
        let [certificate, plan, report] = ["certificate", "plan", "report"].map(|what| text(&output[what]["uri"]));
        let signature = self.keep(&certificate.replace(".json", ".sig"));
        let [certificate, plan, report] = [certificate, plan, report].map(|uri| self.keep(&uri));
        let key = self.public_key();
        let beside = ["--signature", path(&signature), "--key", path(&key), "--plan", path(&plan), "--report", path(&report)];
        self.highwater(&[&["certificate", "verify", path(&certificate)], &beside[..]].concat());
    }

    /// Any restore point can be asked for, not only the newest. Its backup's id.
    fn drill_an_older_point(&mut self) -> String {
        let older = text(&self.committed()[2]["backup_id"]);
        say("A drill of an older restore point");
        let (clock, ended) = self.execute("drill", &json!({"cluster": "orders", "target": older}));
        assert_eq!((&ended["status"], &ended["output"]["backup_id"]), (&json!("SUCCEEDED"), &json!(older)), "{ended}");
        self.row("drill of an older point", "PASSED", clock, older.clone());
        older
    }

    /// The store loses an object: the next drill says which, and nothing is called good.
    fn lose_an_object(&mut self) {
        say("A fault of the store: the newest backup's data is gone");
        let newest = self.committed().pop().expect("the newest backup");
        let manifest = self.manifest(&newest);
        let object = &manifest.objects[0];
        self.cloud.lose(&object.key);
        println!("  lost: {}", object.key);
        let (clock, ended) = self.execute("drill", &json!({"cluster": "orders"}));
        assert_eq!(ended["status"], "FAILED", "a drill without its data must fail: {ended}");
        let cause = ended["cause"].as_str().unwrap_or_default();
        assert!(cause.contains(&object.key), "the cause must name the object: {cause}");
        println!("  {}: {cause}", ended["error"].as_str().unwrap_or_default());
        self.row("drill of damaged data", "FAILED, as it must", clock, "the cause names the object; older points are untouched".into());
    }

    /// What is refused, and in which words.
    fn mistakes(&mut self) {
        say("A mistake in the console");
        let (_, ended) = self.execute("drill", &json!({"clustre": "orders"}));
        assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("BadInput")));
        println!("  {}: {}", ended["error"].as_str().unwrap_or_default(), ended["cause"].as_str().unwrap_or_default());
    }

    /// An accident, a request, a second person, and the data is back.
    fn promote(&mut self, target: &str) {
        say("An accident: somebody deletes the orders");
        if let Some(load) = self.load.take() {
            let report = load.stop();
            println!("  the shop closes: {} transactions and {} table changes since the start", report.transactions, report.ddl);
        }
        let before = count(&self.db);
        self.db.run("DELETE FROM shop.orders");
        println!("  mariadb> DELETE FROM shop.orders;   -- {before} orders are gone");

        say("A promotion: alice asks, a drill proves what would come back, bob approves");
        let (alice, bob, clock) = (self.cloud.user("alice"), self.cloud.user("bob"), Instant::now());
        let follower = self.spawn("alice", &alice, &["restore", "--cluster", "orders", "--target", target]);
        let request = self.wait("the drill to pass and the question to be asked", |demo| {
            let (_, list) = demo.cloud.call_approval_url(&bob, &json!({"action": "list", "cluster": "orders"}));
            let newest = list["requests"].as_array()?.first()?.clone();
            assert!(matches!(newest["state"].as_str(), Some("drilling" | "waiting")), "{newest}");
            (newest["state"] == "waiting").then_some(newest)
        });
        let (id, execution) = (text(&request["request_id"]), text(&request["execution"]));
        let certificate = text(&request["question"]["certificate"]["sha256"]);
        for message in self.cloud.notifications().iter().filter(|m| m.contains(&id)) {
            println!("  e-mail to the team:\n{}", indented(message));
        }
        self.person("bob", &bob, &["approvals", "--cluster", "orders"]);
        let yes = ["approve", "--cluster", "orders", "--request", &id, "--certificate", &certificate];
        assert!(!self.person("alice", &alice, &yes), "nobody approves alone");
        assert!(self.person("bob", &bob, &yes), "a second person does");
        let ended = self.cloud.wait_execution(&execution);
        println!("  {}", self.cloud.states_entered(&execution).join(" > "));
        assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
        println!("  what alice's command said meanwhile:");
        assert!(said(&follower.wait_with_output().expect("the end of alice's command"), "    "), "it must end with the promotion");
        let promoted = count(&self.db);
        assert!(promoted > 0, "the orders must be back");
        println!("  -> {promoted} orders are back, as of {target}");
        self.row("promotion", "the orders are back", clock, format!("{promoted} orders; the old data is kept beside them"));

        say("The new life of the data begins with a full of its own");
        let clock = Instant::now();
        let old = self.committed()[0]["incarnation"].clone();
        let full = self.wait("the forced full", |demo| demo.committed().into_iter().find(|backup| backup["incarnation"] != old));
        println!("  {}: {}", text(&full["backup_id"]), full["asked"]["reason"].as_str().unwrap_or_default());
        self.row("forced full", "committed", clock, format!("incarnation {}", text(&full["incarnation"])));
    }

    /// The data that was replaced comes back by one document.
    fn roll_back(&mut self) {
        say("Roll-back: the data that was replaced comes back");
        show("aws ssm send-command", &format!("--document-name highwater-rollback --instance-ids {}", self.instance));
        let clock = Instant::now();
        let request = json!({"DocumentName": "highwater-rollback", "InstanceIds": [self.instance]});
        let sent = self.cloud.aws("ssm", "AmazonSSM.SendCommand", &request).unwrap_or_else(|e| panic!("{e:?}"));
        let command = json!({"CommandId": sent["Command"]["CommandId"], "InstanceId": self.instance});
        let ended = self.wait("the roll-back", |demo| {
            let found = demo.cloud.aws("ssm", "AmazonSSM.GetCommandInvocation", &command).unwrap_or_else(|e| panic!("{e:?}"));
            (!matches!(found["Status"].as_str(), Some("Pending" | "InProgress"))).then_some(found)
        });
        assert_eq!(ended["Status"], "Success", "{ended}");
        let back = count(&self.db);
        assert_eq!(back, 0, "the replaced data, accident included, must be back");
        println!("  -> {back} orders: exactly the data that was replaced");
        self.row("roll-back", "the replaced data is back", clock, "nothing was lost on either way".into());
    }

    fn end(self) {
        say("The catalog");
        for item in self.cloud.items("orders") {
            let about = ["state", "kind", "purpose", "outcome", "open"].iter().filter_map(|k| Some(format!("{k} {}", item[k].as_str()?)));
            println!("  {:<66} {}", text(&item["sk"]), about.collect::<Vec<_>>().join(", "));
        }
        for key in self.cloud.keys("v1/orders/").iter().filter(|key| key.ends_with(".json") || key.ends_with(".sig")) {
            self.keep(&format!("s3://{}/{key}", self.cloud.output("Bucket")));
        }
        say("What happened");
        let head = ["what", "result", "time", "detail"].map(str::to_owned);
        let width = |i: usize| self.rows.iter().chain([&head]).map(|r| r[i].chars().count()).max().unwrap_or_default();
        let widths = [width(0), width(1), width(2)];
        for row in [&head].into_iter().chain(&self.rows) {
            println!("  {:<a$}  {:<b$}  {:>c$}  {}", row[0], row[1], row[2], row[3], a = widths[0], b = widths[1], c = widths[2]);
        }
        println!("\n  {:.0} s in all. The documents:", self.started.elapsed().as_secs_f64());
        let mut kept: Vec<_> = std::fs::read_dir(KEPT).expect("list the documents").flatten().map(|e| e.path()).collect();
        kept.sort();
        kept.iter().for_each(|document| println!("  {}", document.display()));
    }

    /// Starts a machine as the console does, and shows the states that it went through.
    fn execute(&self, machine: &str, input: &Value) -> (Instant, Value) {
        show("aws stepfunctions start-execution", &format!("--state-machine highwater-{machine} --input '{input}'"));
        let (clock, execution) = (Instant::now(), self.cloud.start_execution(machine, input));
        let ended = self.cloud.wait_execution(&execution);
        println!("  {}", self.cloud.states_entered(&execution).join(" > "));
        (clock, ended)
    }

    /// `highwater status`, as somebody who operates the deployment.
    fn look(&self, title: &str) {
        say(title);
        show("highwater", "status");
        let mut command = Command::new(highwater_tests::binary("highwater"));
        let output = command.arg("status").env_clear().envs(self.cloud.env()).output().expect("run highwater");
        said(&output, "  ");
        match output.status.code() {
            Some(0) => println!("  exit code 0: nobody is needed"),
            Some(3) => println!("  exit code 3: somebody is needed; RUNBOOK has a section of each name"),
            code => panic!("highwater status ended with {code:?}"),
        }
    }

    /// `highwater …` at the deployment's approval URL, with somebody's own credentials; whether it succeeded.
    fn person(&self, name: &str, person: &Person, args: &[&str]) -> bool {
        said(&self.spawn(name, person, args).wait_with_output().expect("run highwater"), "  ")
    }

    /// The same, begun.
    fn spawn(&self, name: &str, person: &Person, args: &[&str]) -> Child {
        show(&format!("[{name}] highwater"), &args.join(" "));
        let mut command = Command::new(highwater_tests::binary("highwater"));
        command.args(args).env_clear().envs(person.env()).env("HIGHWATER_APPROVAL_URL", self.cloud.approval_url());
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().expect("run highwater")
    }

    /// `highwater …`, which must succeed.
    fn highwater(&self, args: &[&str]) {
        show("highwater", &args.iter().map(|arg| arg.rsplit('/').next().unwrap_or(arg)).collect::<Vec<_>>().join(" "));
        // No credentials and no endpoint: nothing of AWS is asked.
        let mut command = Command::new(highwater_tests::binary("highwater"));
        command.args(args).env_clear();
        run(&mut command).lines().for_each(|line| println!("  {line}"));
    }

    /// The public half of the signing key, as a PEM file beside the certificates.
    fn public_key(&self) -> PathBuf {
        show("aws kms get-public-key", "--key-id alias/highwater-certificates");
        let file = Path::new(KEPT).join("signing-key.pem");
        std::fs::write(&file, self.cloud.public_key(self.cloud.output("SigningKey"))).expect("keep the public key");
        file
    }

    /// Copies an object to the documents that stay; its name says where it lay.
    fn keep(&self, uri: &str) -> PathBuf {
        let key = uri.splitn(4, '/').nth(3).unwrap_or_else(|| panic!("a key in {uri}"));
        let file = Path::new(KEPT).join(key.trim_start_matches("v1/orders/").replace('/', "."));
        std::fs::write(&file, self.cloud.object(key)).expect("keep a document");
        file
    }

    fn committed(&self) -> Vec<Value> {
        self.cloud.backups().into_iter().filter(|backup| backup["state"] == "committed").collect()
    }

    fn manifest(&self, record: &Value) -> ManifestV1 {
        let bytes = self.cloud.object(&text(&record["manifest_key"]));
        highwater_core::Document::parse(&bytes).unwrap_or_else(|e| panic!("{e:?}"))
    }

    fn wait<T>(&self, what: &str, mut ready: impl FnMut(&Self) -> Option<T>) -> T {
        wait_for_within(Duration::from_secs(180), what, || ready(self))
    }

    /// Lets the shop sell until the next backup has something to say.
    fn sell_more(&self) {
        if let Some(load) = &self.load {
            (0..20).for_each(|_| load.wait_for_progress());
        }
    }

    fn row(&mut self, what: &str, result: &str, clock: Instant, detail: String) {
        let took = format!("{:.1} s", clock.elapsed().as_secs_f64());
        println!("  {result} in {took}: {detail}");
        self.rows.push([what.to_owned(), result.to_owned(), took, detail]);
    }
}

fn say(text: &str) {
    println!("\n== {text}");
}

/// Prints what a command said, progress first; whether it succeeded.
fn said(output: &Output, indent: &str) -> bool {
    for stream in [&output.stderr, &output.stdout] {
        String::from_utf8_lossy(stream).lines().for_each(|line| println!("{indent}{line}"));
    }
    output.status.success()
}

/// Prints a command as a person would type it.
fn show(program: &str, rest: &str) {
    println!("  $ {program} {rest}");
}

fn count(db: &MariaDb) -> u64 {
    db.value("SELECT COUNT(*) FROM shop.orders")
}

#[track_caller]
fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

fn indented(text: &str) -> String {
    text.lines().map(|line| format!("      {line}\n")).collect::<String>().trim_end().to_owned()
}

fn mb(bytes: u64) -> String {
    format!("{:.0} MB", bytes as f64 / 1e6)
}

fn path(path: &Path) -> &str {
    path.to_str().expect("a path in UTF-8")
}
