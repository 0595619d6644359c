//! The damage matrix of what lies in the deployed cloud: the catalog's rows, and certificates with their signatures. A damaged row
//! is found by `catalog audit`, by name, and never makes a plan of other objects than the manifests give; a damaged
//! certificate is refused wherever it counts. See `damage.rs` for how many cases are taken.

use highwater_aws::catalog::CatalogTable;
use highwater_aws::kms::SigningKey;
use highwater_aws::manifests::read_catalog;
use highwater_aws::table::Table;
use highwater_core::plan::{RestorePlanV1, Target};
use highwater_core::planner::plan_restore;
use highwater_core::{BackupId, ClusterId, Sha256};
use highwater_tests::damage::{KINDS, Kind, Matrix, changed};
use highwater_tests::{Cloud, Load, MariaDb, binary, block_on, config, wait_for};
use jiff::Timestamp;
use serde_json::{Map, Value, json};
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

fn orders() -> ClusterId {
    "orders".parse().unwrap()
}

/// A row as DynamoDB types it, without its keys.
type Row = Map<String, Value>;

/// A deployment with two chains of two backups, made by the functions and the host, and a passed drill.
struct Scene {
    cloud: Cloud,
    catalog: CatalogTable,
    _db: MariaDb,
    /// The rows when everything had ended.
    good: BTreeMap<String, Row>,
    /// The rows at earlier moments, the latest first.
    earlier: Vec<BTreeMap<String, Row>>,
    ids: Vec<BackupId>,
    /// Whatever a person may ask for.
    targets: Vec<Target>,
    drill: String,
    /// The key that signs certificates, its public half in a file.
    key: PathBuf,
}

impl Scene {
    /// Backups as they were asked for, then a drill of the newest.
    fn of(backups: &[&str]) -> Self {
        let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
        Load::fill(&db, 50);
        let catalog = CatalogTable::new(Table::new(&cloud.sdk(), cloud.output("Catalog")));
        let key = cloud.scratch().join("key.der");
        let public = cloud.aws("kms", "TrentService.GetPublicKey", &json!({"KeyId": cloud.output("SigningKey")})).unwrap();
        std::fs::write(&key, base64(public["PublicKey"].as_str().unwrap())).unwrap();
        let (good, earlier, ids, targets) = (BTreeMap::new(), Vec::new(), Vec::new(), Vec::new());
        let mut scene = Self { cloud, catalog, _db: db, good, earlier, ids, targets, drill: String::new(), key };
        {
            let host = scene.cloud.host("orders", &scene._db);
            let mut earlier = Vec::new();
            for &force in backups {
                // The host waits for a file: the rows are looked at while the backup runs.
                let gate = host.directory().join("gate");
                let script = host.directory().join("bin/highwater-host");
                let text = std::fs::read_to_string(&script).unwrap();
                std::fs::write(&script, text.replacen("exec ", &format!("until [ -e {gate:?} ]; do sleep 0.05; done\nexec "), 1)).unwrap();
                scene._db.run("INSERT INTO shop.events (what) VALUES ('another')");
                let event = if force == "full" { json!({"cluster": "orders", "force": "full"}) } else { json!({"cluster": "orders"}) };
                let id = scene.cloud.invoke("start-backup", &event).unwrap()["backup_id"].as_str().unwrap().to_owned();
                let at = |state: &str| scene.cloud.item("orders", &format!("backup#{id}")).filter(|item| item["state"] == state);
                wait_for("a running backup", || at("running"));
                earlier.push(scene.rows());
                std::fs::write(&gate, "").unwrap();
                wait_for("a committed backup", || at("committed").filter(|item| item["open"].is_null()));
                earlier.push(scene.rows());
                std::fs::remove_file(&gate).unwrap();
                std::fs::write(&script, text).unwrap();
                scene.ids.push(id.parse().unwrap());
            }
            scene.earlier = earlier;
        }
        let execution = scene.cloud.start_execution("drill", &json!({"cluster": "orders"}));
        scene.cloud.wait_for_item("orders", "drill#", |item| item["state"] == "running");
        let running = scene.rows();
        scene.earlier.push(running);
        let ended = scene.cloud.wait_execution(&execution);
        assert_eq!(ended["output"]["outcome"], "passed", "{ended}");
        scene.drill = ended["output"]["drill_id"].as_str().unwrap().to_owned();
        scene.good = scene.rows();
        scene.earlier.reverse();
        let read = block_on(read_catalog(&scene.cloud.bucket(), &orders())).unwrap();
        let of = |id: &BackupId| read.get(id).unwrap().manifest.clone();
        let (first, last) = (of(&scene.ids[0]), of(scene.ids.last().unwrap()));
        scene.targets = scene.ids.iter().map(|id| Target::Backup(id.clone())).collect();
        scene.targets.extend([Target::Latest, Target::Time(last.finished_at), Target::Lsn(last.last_lsn), Target::Time(first.finished_at)]);
        scene
    }

    fn rows(&self) -> BTreeMap<String, Row> {
        let request = json!({
            "TableName": self.cloud.output("Catalog"), "ConsistentRead": true, "KeyConditionExpression": "pk = :pk",
            "ExpressionAttributeValues": {":pk": {"S": "cluster#orders"}},
        });
        let found = self.cloud.aws("dynamodb", "DynamoDB_20120810.Query", &request).unwrap();
        assert!(found.get("LastEvaluatedKey").is_none(), "one page");
        let item = |item: &Value| {
            let mut row = item.as_object().unwrap().clone();
            row.remove("pk");
            let sk = row.remove("sk").unwrap()["S"].as_str().unwrap().to_owned();
            (sk, row)
        };
        found["Items"].as_array().unwrap().iter().map(item).collect()
    }

    /// Makes a row what is given, or takes it away.
    fn put(&self, sk: &str, row: Option<&Row>) {
        let table = self.cloud.output("Catalog");
        let key = json!({"pk": {"S": "cluster#orders"}, "sk": {"S": sk}});
        let (target, mut request) = match row {
            Some(row) => ("PutItem", json!({"TableName": table, "Item": row})),
            None => ("DeleteItem", json!({"TableName": table, "Key": key})),
        };
        if row.is_some() {
            request["Item"].as_object_mut().unwrap().extend(key.as_object().unwrap().clone());
        }
        self.cloud.aws("dynamodb", &format!("DynamoDB_20120810.{target}"), &request).unwrap();
    }

    fn highwater(&self, args: &[&str]) -> (i32, String) {
        let mut command = Command::new(binary("highwater"));
        command.arg("--json").args(args).args(["--bucket", self.cloud.output("Bucket"), "--cluster", "orders"]);
        let output = command.args(["--table", self.cloud.output("Catalog")]).envs(self.cloud.env()).output().unwrap();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.code().unwrap(), text(&output.stdout) + &text(&output.stderr))
    }

    fn audit(&self) -> (i32, String) {
        self.highwater(&["catalog", "audit", "--key", self.key.to_str().unwrap()])
    }

    /// The older row of a key: the newest that differs.
    fn older(&self, sk: &str) -> Option<&Row> {
        self.earlier.iter().filter_map(|rows| rows.get(sk)).find(|row| *row != &self.good[sk])
    }

    /// What plans say, by target; an error is none.
    fn plans(&self) -> Vec<(Target, Result<RestorePlanV1, String>)> {
        let plan = |target: &Target| {
            let window = block_on(self.catalog.window_for(&orders(), target)).map_err(|e| e.to_string())?;
            plan_restore(&window.catalog, target, self.cloud.output("Bucket"), Timestamp::UNIX_EPOCH).map_err(|e| e.to_string())
        };
        self.targets.iter().map(|target| (target.clone(), plan(target))).collect()
    }
}

/// A row after damage; none when it is gone. Its attributes stand in the order of their names.
fn damaged(kind: Kind, good: &Row, swap: &Row, older: &Row, covered: &[&str], seed: u64) -> Option<Row> {
    let half = |keep: &dyn Fn(usize) -> bool| {
        let mut names: Vec<_> = good.keys().cloned().collect();
        names.sort();
        names.into_iter().enumerate().filter(|(i, _)| keep(*i)).map(|(_, name)| (name.clone(), good[&name].clone())).collect::<Row>()
    };
    let middle = good.len() / 2;
    Some(match kind {
        Kind::Delete => return None,
        Kind::CutHead => half(&|i| i >= middle),
        Kind::CutTail => half(&|i| i < middle),
        Kind::CutInside => {
            // The longest text ends in its middle.
            let mut row = good.clone();
            let length = |v: &Value| v["S"].as_str().map_or(0, str::len);
            let (name, text) =
                good.iter().max_by_key(|(_, v)| length(v)).map(|(name, v)| (name.clone(), v["S"].as_str().unwrap())).unwrap();
            row.insert(name, json!({"S": text[..text.len() / 2]}));
            row
        }
        Kind::FlipBit => {
            let mut row = good.clone();
            flip(value_at(&mut row, covered[seed as usize % covered.len()]), seed);
            row
        }
        Kind::Empty => Row::new(),
        Kind::Swap => swap.clone(),
        Kind::Older => older.clone(),
    })
}

/// A value of a row: `request.votes.0.at`.
fn value_at<'a>(row: &'a mut Row, path: &str) -> &'a mut Value {
    let (first, below) = path.split_once('.').unwrap_or((path, ""));
    let mut value = row.get_mut(first).unwrap_or_else(|| panic!("no {first}"));
    for name in below.split('.').filter(|name| !name.is_empty()) {
        let inner = value.as_object_mut().unwrap().values_mut().next().unwrap();
        value = match name.parse::<usize>() {
            Ok(nth) => &mut inner[nth],
            Err(_) => inner.get_mut(name).unwrap_or_else(|| panic!("no {name} of {path}")),
        };
    }
    value
}

/// The lowest bit of one character of a text, or of a number's last digit, somewhere below a value.
fn flip(value: &mut Value, seed: u64) {
    let (kind, inner) = value.as_object_mut().unwrap().iter_mut().next().unwrap();
    match (kind.as_str(), inner) {
        ("M", inner) => {
            let map = inner.as_object_mut().unwrap();
            let name = map.keys().nth(seed as usize % map.len()).unwrap().clone();
            flip(map.get_mut(&name).unwrap(), seed / 7);
        }
        (kind, inner) => {
            let mut bytes = inner.as_str().unwrap().as_bytes().to_vec();
            let at = if kind == "N" { bytes.len() - 1 } else { seed as usize % bytes.len() };
            assert!(bytes[at].is_ascii(), "a character of one byte");
            bytes[at] ^= 1;
            *inner = json!(String::from_utf8(bytes).unwrap());
        }
    }
}

#[test]
fn no_damage_to_a_row_of_the_catalog_goes_unnoticed_or_into_a_plan() {
    let scene = Scene::of(&["full", "nothing", "full", "nothing"]);
    let (code, said) = scene.audit();
    assert_eq!(code, 0, "{said}");
    let right: BTreeMap<BackupId, Value> =
        scene.plans().into_iter().map(|(_, plan)| plan.unwrap()).map(|plan| (plan.point.backup_id.clone(), restored_by(&plan))).collect();
    assert_eq!(right.len(), 4);
    let keys = |prefix: &str| scene.good.keys().filter(|sk| sk.starts_with(prefix)).cloned().collect::<Vec<_>>();
    // What an audit compares of each kind of row. Who asked, when it was recorded, why something failed: only the catalog knows.
    let backup: &[&str] = &[
        "format",
        "backup_id",
        "cluster",
        "incarnation",
        "state",
        "full",
        "finished_at",
        "last_lsn",
        "stored_bytes",
        "manifest_key",
        "manifest_version_id",
        "manifest_sha256",
        "manifest",
    ];
    let kinds: [(&str, Vec<String>, &[&str]); 6] = [
        ("backup", keys("backup#"), backup),
        ("lsn", keys("lsn#"), &["format", "backup_id"]),
        ("time", keys("time#"), &["format", "backup_id"]),
        ("head", keys("head"), &["format", "newest", "newest_full", "window_from", "last_passed_drill"]),
        ("lease", keys("lease"), &["format", "token"]),
        (
            "drill",
            keys("drill#"),
            &[
                "format",
                "drill_id",
                "cluster",
                "state",
                "execution",
                "backup_id",
                "plan",
                "instance",
                "report",
                "finished_at",
                "certificate",
            ],
        ),
    ];
    let mut matrix = Matrix::begin("rows of the catalog");
    let seed = matrix.seed();
    for (what, rows, covered) in &kinds {
        assert!(!rows.is_empty(), "no {what}");
        for (nth, sk) in rows.iter().enumerate() {
            let good = &scene.good[sk];
            // Another of the same kind; where there is one only, the row of something else.
            let swap = rows.iter().rev().find(|other| *other != sk).unwrap_or(&kinds[0].1[0]);
            // A point is written once: what was before it is another's place, or nothing.
            let older = scene.older(sk);
            for kind in KINDS {
                if kind == Kind::Older && older.is_none() {
                    assert!(matches!(*what, "lsn" | "time"), "{sk} was never different");
                    continue;
                }
                let (scene, right, swap, older) = (&scene, &right, &scene.good[swap], older.unwrap_or(good));
                let bits = if kind == Kind::FlipBit { covered.len() } else { 1 };
                for bit in 0..bits {
                    let name = if kind == Kind::FlipBit { format!("{} of {sk}", covered[bit]) } else { sk.clone() };
                    let covered = &covered[bit..=bit];
                    // A full has no parent, a first drill no other; a token that grew is not one that was used.
                    let seed = seed.wrapping_add(nth as u64);
                    matrix.case(what, kind, name, move || {
                        let mut row = damaged(kind, good, swap, older, covered, seed);
                        if *what == "lease" && kind == Kind::FlipBit && covered == ["token"] {
                            // Upwards it is a token nobody had; downwards one that was given away.
                            row.as_mut().unwrap().insert("token".into(), json!({"N": "2"}));
                        }
                        scene.put(sk, row.as_ref());
                        let verdict = judged(scene, sk, right);
                        scene.put(sk, Some(good));
                        verdict
                    });
                }
            }
        }
    }
    matrix.run(100);
    assert_eq!(scene.rows(), scene.good);
    let (code, said) = scene.audit();
    assert_eq!(code, 0, "{said}");
}

/// What a plan restores. The version at which it reads a manifest again, of whose content it has the digest, decides nothing.
fn restored_by(plan: &RestorePlanV1) -> Value {
    let mut steps = json!(plan.steps);
    steps.as_array_mut().unwrap().iter_mut().for_each(|step| step["manifest"]["version_id"] = Value::Null);
    json!([steps, plan.point, plan.incarnation])
}

/// The audit names the row, by its key or by whose it is; and whatever is planned meanwhile is of the objects that belong to it.
fn judged(scene: &Scene, sk: &str, right: &BTreeMap<BackupId, Value>) -> Result<(), String> {
    let (code, said) = scene.audit();
    let id = sk.rsplit('#').next().unwrap();
    let names = match sk {
        "head" => vec!["the head", "item head", "orders head", "is recorded as passed"],
        "lease" => vec!["the lease", "item lease", "orders lease"],
        _ => vec![id],
    };
    if code != 14 || !names.iter().any(|name| said.contains(name)) {
        return Err(format!("the audit ended with {code} and said {said}"));
    }
    for (target, plan) in scene.plans() {
        let Ok(plan) = plan else { continue };
        let steps = restored_by(&plan);
        let id = &plan.point.backup_id;
        if right.get(id) != Some(&steps) || matches!(&target, Target::Backup(wanted) if wanted != id) {
            return Err(format!("for {target} it was planned to restore {steps}"));
        }
    }
    Ok(())
}

#[test]
fn no_damage_to_a_certificate_or_its_signature_leads_to_an_approval() {
    let scene = Scene::of(&["full"]);
    let prefix = format!("v1/orders/drills/{}/", scene.drill);
    let [at, sig_at] = ["certificate.json", "certificate.sig"].map(|name| format!("{prefix}{name}"));
    let (certificate, signature) = (scene.cloud.object(&at), scene.cloud.object(&sig_at));
    // Another drill's, and an earlier one of the same backup: both signed by the deployment's key, as it signs.
    let signed = |from: &str, to: &str| {
        let text = String::from_utf8(certificate.clone()).unwrap();
        assert!(text.contains(from), "{from} in {text}");
        let bytes = text.replace(from, to).into_bytes();
        let key = SigningKey::new(&scene.cloud.sdk(), scene.cloud.output("SigningKey"));
        let signature = block_on(key.sign(Sha256::of(&bytes))).unwrap();
        (bytes, signature)
    };
    let drill_id = format!("{}-00000000", scene.drill.split_once('-').unwrap().0);
    let swap = signed(&scene.drill, &drill_id);
    let earlier = signed("\"finished_at\": \"2", "\"finished_at\": \"1");
    let key = scene.key.clone();
    let approvals = || scene.rows().keys().filter(|sk| sk.starts_with("approval")).cloned().collect::<BTreeSet<_>>();

    let cloud = &scene.cloud;
    let ask = |n: usize| {
        let drill = json!({"cluster": "orders", "drill_id": scene.drill, "outcome": "passed"});
        let execution = format!("arn:aws:states:eu-west-1:000000000000:execution:highwater-restore-primary:damage-{n}");
        cloud.invoke(
            "request-approval",
            &json!({"drill": drill, "request_id": null, "execution": execution, "started": Timestamp::now(), "token": "t"}),
        )
    };
    let offline = |certificate: Option<&[u8]>, signature: Option<&[u8]>, key: &Path| {
        let files = [("certificate.json", certificate), ("certificate.sig", signature)].map(|(name, bytes)| {
            let path = key.with_file_name(name);
            let _ = std::fs::remove_file(&path);
            if let Some(bytes) = bytes {
                std::fs::write(&path, bytes).unwrap();
            }
            path
        });
        let output = Command::new(binary("highwater"))
            .args(["--json", "certificate", "verify"])
            .arg(&files[0])
            .arg("--key")
            .arg(key)
            .output()
            .unwrap();
        (output.status.code().unwrap(), String::from_utf8_lossy(&output.stdout).into_owned())
    };
    assert_eq!(offline(Some(&certificate), Some(&signature), &key).0, 0);

    let mut matrix = Matrix::begin("certificates");
    let seed = matrix.seed();
    let objects = [("certificate", &at, [&certificate, &swap.0, &earlier.0]), ("signature", &sig_at, [&signature, &swap.1, &earlier.1])];
    for (what, at, [good, swap, older]) in objects {
        for (n, kind) in KINDS.into_iter().enumerate() {
            let (offline, ask, approvals, key) = (&offline, &ask, &approvals, &key);
            let (certificate, signature) = (&certificate, &signature);
            matrix.case(what, kind, format!("the {what}"), move || {
                let damage = changed(kind, good, 0..good.len(), swap, older, seed);
                let given = |of: &str, whole| if of == what { damage.as_deref() } else { Some(whole) };
                let (code, said) = offline(given("certificate", certificate), given("signature", signature), key);
                if !matches!(code, 11 | 14) || !said.contains("ertificate") {
                    return Err(format!("verified offline: {code} {said}"));
                }
                match &damage {
                    Some(bytes) => cloud.overwrite(at, bytes),
                    None => cloud.delete(at),
                }
                let answer = ask(n);
                cloud.overwrite(at, good);
                match answer {
                    Err((name, reason)) if name == "Permanent" && reason.contains(&scene_key(at)) && approvals().is_empty() => Ok(()),
                    other => Err(format!("request-approval said {other:?}, the requests are {:?}", approvals())),
                }
            });
        }
    }
    // Both exchanged, and so signed rightly: it is of another drill all the same.
    matrix.case("certificate and signature", Kind::Swap, "both".into(), || {
        cloud.overwrite(&at, &swap.0);
        cloud.overwrite(&sig_at, &swap.1);
        let answer = ask(99);
        cloud.overwrite(&at, &certificate);
        cloud.overwrite(&sig_at, &signature);
        match answer {
            Err((_, reason)) if reason.contains("another drill") && approvals().is_empty() => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    matrix.run(17);
    ask(100).unwrap();
}

/// A promotion asked for in the console, of the scene's drill, and what is looked at of it.
struct Asked<'a> {
    scene: &'a Scene,
    id: String,
    execution: String,
    /// What its machine calls `promote` with.
    event: Value,
}

const EXECUTION: &str = "arn:aws:states:eu-west-1:000000000000:execution:highwater-restore-primary:damage";

impl<'a> Asked<'a> {
    fn of(scene: &'a Scene) -> Self {
        let drill = json!({"cluster": "orders", "drill_id": scene.drill, "outcome": "passed"});
        let event = json!({"drill": drill, "request_id": null, "execution": EXECUTION, "started": Timestamp::now(), "token": "t"});
        let id = scene.cloud.invoke("request-approval", &event).unwrap()["request_id"].as_str().unwrap().to_owned();
        Self { scene, id, execution: EXECUTION.to_owned(), event: Value::Null }
    }

    fn request(&self) -> String {
        format!("approval#{}", self.id)
    }

    fn promotion(&self) -> String {
        format!("promotion#{}", self.id)
    }

    fn row(&self, sk: &str) -> Row {
        self.scene.rows().remove(sk).unwrap_or_else(|| panic!("no {sk}"))
    }

    /// Two people approve.
    fn approve(&mut self) {
        let certificate = Sha256::of(&self.scene.cloud.object(&format!("v1/orders/drills/{}/certificate.json", self.scene.drill)));
        let vote = json!({"action": "approve", "cluster": "orders", "request_id": self.id, "certificate_sha256": certificate});
        for name in ["ada", "bob"] {
            let (status, answer) = self.scene.cloud.call_approval_url(&self.scene.cloud.user(name), &vote);
            assert_eq!(status, 200, "{answer}");
        }
        let key = format!("v1/orders/promotions/{}/approval.json", self.id);
        let sha256 = Sha256::of(&self.scene.cloud.object(&key));
        let approval = json!({"uri": format!("s3://{}/{key}", self.scene.cloud.output("Bucket")), "sha256": sha256});
        let drill = json!({"cluster": "orders", "drill_id": self.scene.drill});
        self.event = json!({"drill": drill, "approval": approval, "execution": self.execution, "token": "t"});
    }

    fn promote(&self) -> Result<Value, (String, String)> {
        self.scene.cloud.invoke("promote", &self.event)
    }

    /// How many commands to promote were sent, to any host.
    fn sent(&self) -> usize {
        self.scene.cloud.commands().iter().filter(|command| command["DocumentName"] == "highwater-promote").count()
    }

    /// `promote` is called and refuses, by the promotion's name; nothing was sent.
    fn refused(&self) -> Result<(), String> {
        let (before, answer) = (self.sent(), self.promote());
        match answer {
            Err((_, reason)) if reason.contains(&self.id) && self.sent() == before => Ok(()),
            other => Err(format!("promote said {other:?}; {} commands were sent after {before}", self.sent())),
        }
    }

    /// Whoever looks at promotions runs, whatever it says: no command is sent, and the same rows serve.
    fn nothing_is_done(&self) -> Result<(), String> {
        let look = || (self.sent(), self.scene._db.value::<u64>("SELECT COUNT(*) FROM shop.orders"), self.scene._db.pid());
        let before = look();
        let _ = self.scene.cloud.invoke("finish-promote", &json!({"promotion": {"cluster": "orders", "id": self.id}}));
        let _ = self.scene.cloud.invoke("reconcile", &json!({}));
        if look() == before { Ok(()) } else { Err(format!("it was {before:?}, and is {:?}", look())) }
    }

    /// The audit names it.
    fn audited(&self) -> Result<(), String> {
        let (code, said) = self.scene.audit();
        if code == 14 && (said.contains(&self.id) || said.contains("the cluster's newest request")) {
            Ok(())
        } else {
            Err(format!("the audit ended with {code} and said {said}"))
        }
    }

    /// The agent of its host.
    fn agent(&self, how: &str) {
        let host = self.row(&self.promotion())["host"]["S"].as_str().unwrap().to_owned();
        self.scene.cloud.control("PUT", &format!("hosts/{host}"), &json!({"agent": how}));
    }

    /// Adds the cases of damage to one of its rows: deleted, a value changed, another cluster's, an older one.
    fn cases(
        &'a self,
        matrix: &mut Matrix<'a>,
        (what, sk): (&'static str, String),
        older: Option<Row>,
        covered: &'static [&'static str],
        judge: impl Fn(Kind) -> Result<(), String> + Copy + 'a,
    ) {
        let (good, seed) = (self.row(&sk), matrix.seed());
        let other: Row = serde_json::from_str(&json!(good).to_string().replace("orders", "others")).unwrap();
        for kind in [Kind::Delete, Kind::FlipBit, Kind::Swap, Kind::Older] {
            // Not of every row there was an older one, or says another cluster's something else.
            if kind == Kind::Older && older.is_none() || kind == Kind::Swap && other == good {
                continue;
            }
            let older = older.clone().unwrap_or_default();
            for bit in 0..if kind == Kind::FlipBit { covered.len() } else { 1 } {
                let name = if kind == Kind::FlipBit { format!("{} of {sk}", covered[bit]) } else { sk.clone() };
                let (sk, good, other, older) = (sk.clone(), good.clone(), other.clone(), older.clone());
                matrix.case(what, kind, name, move || {
                    self.scene.put(&sk, damaged(kind, &good, &other, &older, &covered[bit..=bit], seed).as_ref());
                    let verdict = judge(kind);
                    self.scene.put(&sk, Some(&good));
                    verdict
                });
            }
        }
    }
}

/// What `promote` looks at of a request: all of it was voted on. What the cluster's newest incarnation was is told by nothing
/// once the promotion has begun another.
const VOTED_ON: [&str; 12] = [
    "format",
    "request.id",
    "request.cluster",
    "request.state.name",
    "request.votes.1.by.name",
    "request.votes.1.at",
    "request.question.certificate.sha256",
    "request.question.plan.sha256",
    "request.question.report.sha256",
    "request.question.host",
    "execution",
    "request.question.incarnation",
];

/// What a promotion's record has from its request, and its state.
const APPROVED: [&str; 8] = ["format", "id", "cluster", "host", "approval.uri", "approval.sha256", "execution", "state"];

#[test]
fn no_damage_to_a_request_or_a_promotion_goes_unnoticed_or_is_acted_on() {
    let scene = Scene::of(&["full"]);
    let mut asked = Asked::of(&scene);
    let waiting = asked.row(&asked.request());
    asked.approve();
    let asked = &asked;
    let mut matrix = Matrix::begin("an approved request");
    asked.cases(&mut matrix, ("approval", asked.request()), Some(waiting.clone()), &VOTED_ON, |_| asked.refused());
    matrix.run(15);

    // Its promotion is recorded, and SSM does not take the command.
    let unavailable = json!({"on": "ssm:SendCommand", "effect": "fail", "error": "InternalServerError", "status": 500});
    scene.cloud.fault(unavailable);
    assert_eq!(asked.promote().unwrap_err().0, "Transient");
    scene.cloud.no_faults();
    let requested = asked.row(&asked.promotion());
    assert_eq!((&requested["state"]["S"], asked.sent()), (&json!("requested"), 0));
    let mut matrix = Matrix::begin("a promotion whose command was not sent");
    asked.cases(&mut matrix, ("promotion", asked.promotion()), None, &APPROVED, |kind| {
        asked.audited()?;
        // Begun anew under the lease that it has, it is what was approved.
        if kind == Kind::Delete { Ok(()) } else { asked.refused() }
    });
    matrix.run(10);

    // The command waits for its host.
    asked.agent("offline");
    asked.promote().unwrap();
    let running = asked.row(&asked.promotion());
    assert_eq!((&running["state"]["S"], asked.sent()), (&json!("running"), 1));
    let mut matrix = Matrix::begin("a promotion on its way");
    asked.cases(&mut matrix, ("promotion", asked.promotion()), Some(requested), &APPROVED, |kind| {
        if kind == Kind::Older {
            // The command is found by its comment.
            asked.promote().map_err(|e| format!("{e:?}"))?;
        } else {
            asked.audited()?;
        }
        if kind == Kind::Delete {
            let event = &asked.event;
            let settle = json!({"settle": event["execution"], "cluster": "orders", "approval": event["approval"], "failure": null});
            match scene.cloud.invoke("finish-promote", &settle) {
                Err((name, reason)) if name == "Permanent" && reason.contains(&asked.id) && reason.contains("its record is gone") => {}
                other => return Err(format!("the end is called {other:?}")),
            }
        }
        let start = scene.cloud.invoke("start-backup", &json!({"cluster": "orders"}));
        if !start.as_ref().is_ok_and(|answer| answer["outcome"] == "waits") {
            return Err(format!("meanwhile a backup: {start:?}"));
        }
        asked.nothing_is_done()
    });
    matrix.run(11);

    asked.agent("online");
    wait_for("the promotion's end", || (!asked.row(&asked.promotion()).contains_key("open")).then_some(()));
    assert_eq!(asked.row(&asked.promotion())["outcome"]["S"], "promoted");
    let mut matrix = Matrix::begin("a request and its promotion that have ended");
    asked.cases(&mut matrix, ("approval", asked.request()), Some(waiting), &VOTED_ON[..11], |_| {
        asked.audited()?;
        asked.nothing_is_done()
    });
    asked.cases(&mut matrix, ("promotion", asked.promotion()), Some(running), &APPROVED, |kind| {
        // Nothing tells that there was a promotion: only that nothing follows from it any more.
        if kind != Kind::Delete {
            asked.audited()?;
        }
        asked.nothing_is_done()
    });
    asked.cases(&mut matrix, ("newest request", "approval".into()), None, &["newest"], |_| {
        asked.audited()?;
        asked.nothing_is_done()
    });
    matrix.run(27);
    let (code, said) = scene.audit();
    assert_eq!(code, 0, "{said}");
}

/// The place of a drill's certificate, as an error names it.
fn scene_key(at: &str) -> String {
    at.rsplit_once('/').unwrap().0.to_owned()
}

fn base64(text: &str) -> Vec<u8> {
    use std::io::Write;
    let mut child = Command::new("base64").arg("-d").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(text.as_bytes()).unwrap();
    child.wait_with_output().unwrap().stdout
}
