//! I7: a secret stays where it is kept. Two canaries, the password that the helper uses and one in the server's own settings, on the
//! whole way of a backup, a drill and a promotion; afterwards everything that anybody else can read is searched for them.

use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, Sha256};
use highwater_host::progress::Progress;
use highwater_host::signal::Cancel;
use highwater_host::stream::{FetchOptions, fetch, load_inventory};
use highwater_tests::{Cloud, Load, MariaDb, block_on, config, wait_for, wait_for_within};
use serde_json::{Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

/// Plain letters: a canary that is cut, escaped or encoded on its way is still seen in one piece of JSON, TOML, SQL or HTML.
const PASSWORD: &str = "canarypasswordqzxwv";
const SETTING: &str = "canarysettingqzxwv";
/// What both have in common, in the encodings that would hide it.
const TRACES: &[&[u8]] = &[b"qzxwv", b"717a787776", b"717A787776"];

fn has_canary(bytes: &[u8]) -> bool {
    TRACES.iter().any(|trace| bytes.windows(trace.len()).any(|w| w == *trace))
}

/// Looks at the arguments and the environment of every process, again and again.
struct Watch {
    stop: Arc<AtomicBool>,
    seen: Arc<Mutex<Seen>>,
    thread: Option<JoinHandle<()>>,
}

#[derive(Debug, Default)]
struct Seen {
    /// Names of programs.
    programs: BTreeSet<String>,
    /// Where a canary was.
    canaries: BTreeSet<String>,
    looks: u64,
}

impl Watch {
    fn start() -> Self {
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(Mutex::new(Seen::default())));
        let (stopped, into) = (stop.clone(), seen.clone());
        let thread = std::thread::spawn(move || {
            while !stopped.load(Ordering::SeqCst) {
                look(&mut into.lock().unwrap());
                std::thread::sleep(Duration::from_millis(10));
            }
        });
        Self { stop, seen, thread: Some(thread) }
    }

    fn end(mut self) -> Seen {
        self.stop.store(true, Ordering::SeqCst);
        self.thread.take().unwrap().join().unwrap();
        std::mem::take(&mut *self.seen.lock().unwrap())
    }
}

fn look(seen: &mut Seen) {
    seen.looks += 1;
    for entry in
        std::fs::read_dir("/proc").unwrap().flatten().filter(|e| e.file_name().to_string_lossy().bytes().all(|b| b.is_ascii_digit()))
    {
        let arguments = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
        let program = String::from_utf8_lossy(arguments.split(|b| *b == 0).next().unwrap_or_default()).into_owned();
        let name = program.rsplit('/').next().unwrap_or_default().to_owned();
        for (what, bytes) in [("arguments", &arguments), ("environment", &std::fs::read(entry.path().join("environ")).unwrap_or_default())]
        {
            if has_canary(bytes) {
                seen.canaries.insert(format!("{what} of {name}"));
            }
        }
        seen.programs.insert(name);
    }
}

/// What was searched: how many pieces of each kind, and where a canary was.
#[derive(Debug, Default)]
struct Search {
    pieces: BTreeMap<&'static str, usize>,
    found: Vec<String>,
}

impl Search {
    fn look_at(&mut self, kind: &'static str, name: &str, bytes: &[u8]) {
        *self.pieces.entry(kind).or_default() += usize::from(!bytes.is_empty());
        if has_canary(bytes) {
            self.found.push(format!("{kind}: {name}"));
        }
    }

    fn json(&mut self, kind: &'static str, name: &str, value: &Value) {
        self.look_at(kind, name, value.to_string().as_bytes());
    }

    fn files(&mut self, kind: &'static str, below: &Path) {
        for entry in std::fs::read_dir(below).into_iter().flatten().flatten() {
            let path = entry.path();
            match entry.file_type() {
                Ok(t) if t.is_dir() => self.files(kind, &path),
                Ok(t) if t.is_file() => self.look_at(kind, &path.display().to_string(), &std::fs::read(&path).unwrap_or_default()),
                _ => {}
            }
        }
    }
}

/// A server with a secret among its settings, and the 0600 file with the password of the user that the helper is.
fn server() -> (MariaDb, PathBuf) {
    let db = MariaDb::start_with(&[&format!("report-password={SETTING}")]);
    Load::fill(&db, 100);
    db.run(&format!("CREATE USER keeper@localhost IDENTIFIED BY '{PASSWORD}'; GRANT ALL ON *.* TO keeper@localhost"));
    let path = db.scratch().join("keeper.cnf");
    let text = format!("[client]\nuser=keeper\npassword={PASSWORD}\nsocket={}\n", db.socket().display());
    File::options().create_new(true).write(true).mode(0o600).open(&path).unwrap().write_all(text.as_bytes()).unwrap();
    (db, path)
}

fn backup_ends(cloud: &Cloud, n: usize, state: &str) {
    cloud.fire("backup-orders");
    wait_for(&format!("backup {n} to be {state}"), || {
        let backups = cloud.backups();
        (backups.len() == n && backups.iter().all(|b| b["open"].is_null()) && backups.iter().any(|b| b["state"] == state)).then_some(())
    });
}

#[test]
fn i7_no_secret_is_in_any_process_log_record_or_object() {
    let (db, defaults) = server();
    let cloud = Cloud::deployed(&config());
    let watch = Watch::start();
    let mut host = cloud.host("orders", &db);
    host.set("server", "defaults_file", format!("{defaults:?}"));

    // A backup, one that the server refuses, an incremental; then a promotion, with the drill before it and the full after it.
    backup_ends(&cloud, 1, "committed");
    db.run("ALTER USER keeper@localhost IDENTIFIED BY 'another'");
    backup_ends(&cloud, 2, "failed");
    db.run(&format!("ALTER USER keeper@localhost IDENTIFIED BY '{PASSWORD}'"));
    backup_ends(&cloud, 3, "committed");
    let [ada, bob] = ["ada", "bob"].map(|name| cloud.user(name));
    let (_, asked) = cloud.call_approval_url(&ada, &json!({"action": "restore", "cluster": "orders"}));
    let id = asked["request_id"].as_str().unwrap();
    let question = wait_for_within(Duration::from_secs(150), "the question", || {
        Some(cloud.item("orders", &format!("approval#{id}"))?["request"]["question"].clone()).filter(|q| !q.is_null())
    });
    let yes = json!({"action": "approve", "cluster": "orders", "request_id": id, "certificate_sha256": question["certificate"]["sha256"]});
    assert_eq!(cloud.call_approval_url(&bob, &yes).1["state"], "approved");
    let ended = cloud.wait_execution(asked["execution"].as_str().unwrap());
    assert_eq!(ended["output"]["outcome"], "promoted", "{ended}");

    let seen = watch.end();
    for program in ["highwater-host", "mariadb-backup", "mariadbd", "start-backup", "finish-backup", "record-drill", "promote"] {
        assert!(seen.programs.contains(program), "{program} was never seen in {} looks: {:?}", seen.looks, seen.programs);
    }
    assert_eq!(seen.canaries, BTreeSet::new(), "in {} looks", seen.looks);

    let mut search = Search::default();
    everything_that_others_can_read(&cloud, &mut search);
    search.files("the host's own files", &host.directory().join("state"));
    search.look_at("the server's log", "error.log", db.error_log().as_bytes());
    println!("{} looks at processes; searched {:?}", seen.looks, search.pieces);
    assert_eq!(search.found, [""; 0], "a secret is where it should not be");
    for (kind, pieces) in &search.pieces {
        assert!(*pieces > 0, "nothing of {kind} was searched");
    }
    the_search_finds_what_is_there(&defaults, &db);
}

fn everything_that_others_can_read(cloud: &Cloud, search: &mut Search) {
    let aws =
        |service: &str, target: &str, request: Value| cloud.aws(service, target, &request).unwrap_or_else(|e| panic!("{target}: {e:?}"));
    for group in cloud.aws_list("logs", "Logs_20140328.DescribeLogGroups", &json!({}), "logGroups") {
        let name = group["logGroupName"].as_str().unwrap();
        let events = cloud.aws_list("logs", "Logs_20140328.FilterLogEvents", &json!({"logGroupName": name}), "events");
        search.json("functions' logs", name, &json!(events));
    }
    for invocation in cloud.aws_list("ssm", "AmazonSSM.ListCommandInvocations", &json!({"Details": true}), "CommandInvocations") {
        let wanted = json!({"CommandId": invocation["CommandId"], "InstanceId": invocation["InstanceId"]});
        search.json("commands' output", "a command", &aws("ssm", "AmazonSSM.GetCommandInvocation", wanted));
    }
    search.json("commands", "all", &json!(cloud.commands()));
    let parameters = json!({"Path": "/", "Recursive": true, "WithDecryption": true});
    search.json("parameters", "all", &aws("ssm", "AmazonSSM.GetParametersByPath", parameters));
    search.json("the catalog", "all items", &aws("dynamodb", "DynamoDB_20120810.Scan", json!({"TableName": cloud.output("Catalog")})));
    for machine in ["drill", "restore-primary", "drill-fleet"] {
        for execution in cloud.executions(machine) {
            let history = aws("states", "AWSStepFunctions.GetExecutionHistory", json!({"executionArn": execution}));
            search.json("executions' histories", &execution, &history);
            search.json("executions", &execution, &cloud.execution(&execution));
        }
    }
    search.json("notifications", "all", &json!(cloud.notifications()));
    search.json("events", "all", &json!(cloud.events()));
    // Scripts of SSM and user data, what they printed, and whatever an instance left.
    search.files("instances' directories", &cloud.scratch().join("d/hosts"));
    search.files("the cloud's log", &cloud.scratch().join("."));
    objects(cloud, search);
}

/// Every version of every object; what is compressed is opened, and every backup's stream is taken apart.
fn objects(cloud: &Cloud, search: &mut Search) {
    let bucket = cloud.bucket();
    for version in block_on(bucket.versions("")).unwrap().iter().filter(|v| !v.is_marker) {
        let bytes = block_on(bucket.get(&version.key, Some(&version.version_id), u64::MAX)).unwrap();
        let kind = if version.key.ends_with(".html") { "reports' pages" } else { "objects" };
        search.look_at(kind, &version.key, &bytes);
    }
    let plans = cloud.keys("v1/orders/drills/").into_iter().filter(|key| key.ends_with("/plan.json"));
    for key in plans {
        let plan = RestorePlanV1::parse(&cloud.object(&key)).unwrap();
        for step in &plan.steps {
            let inventory = block_on(load_inventory(&bucket, &step.inventory)).unwrap_or_else(|e| panic!("{}", e.chain()));
            search.json("inventories", &step.inventory.object.key, &serde_json::to_value(&inventory).unwrap());
            let into = cloud.scratch().join(format!("taken-apart-{}", Sha256::of(step.backup_id.to_string().as_bytes())));
            std::fs::create_dir_all(&into).unwrap();
            let (_keep, cancel) = Cancel::manual();
            let options = FetchOptions { downloads: 2, threads: 2 };
            let written = block_on(fetch(&bucket, step, &into, options, Progress::begin("take apart", None), &cancel));
            assert!(written.unwrap_or_else(|e| panic!("{}", e.chain())) > 0);
            assert!(
                ["xtrabackup_info", "mariadb_backup_info"].iter().any(|name| into.join(name).exists()),
                "a stream holds its tool's info"
            );
            search.files("files in backups' streams", &into);
            std::fs::remove_dir_all(&into).unwrap();
        }
    }
}

/// Without this, a search that looks at nothing would pass.
fn the_search_finds_what_is_there(defaults: &Path, db: &MariaDb) {
    let mut control = Search::default();
    control.look_at("defaults", "the password's file", &std::fs::read(defaults).unwrap());
    control.look_at("settings", "my.cnf", &std::fs::read(db.my_cnf()).unwrap());
    control.json("escaped", "JSON", &json!({"a": format!("'{PASSWORD}'")}));
    control.files("files", defaults.parent().unwrap());
    assert!(control.found.len() >= 5, "{:?}", control.found);
    let watch = Watch::start();
    let sleeper = |command: &mut Command| command.args(["sleep", "600"]).stdin(Stdio::null()).spawn().unwrap();
    let mut children = [
        sleeper(Command::new("env").arg(format!("SECRET={PASSWORD}"))),
        // Without a child of its own, which would outlive it.
        Command::new("sh").args(["-c", "read -r line", SETTING]).stdin(Stdio::piped()).spawn().unwrap(),
    ];
    wait_for("both to be seen", || (watch.seen.lock().unwrap().canaries.len() >= 2).then_some(()));
    for child in &mut children {
        child.kill().unwrap();
        child.wait().unwrap();
    }
    let seen = watch.end();
    assert!(
        seen.canaries.iter().any(|c| c.starts_with("environment of")) && seen.canaries.iter().any(|c| c.starts_with("arguments of")),
        "{seen:?}"
    );
}
