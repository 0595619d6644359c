//! Retention on the deployed stack: the function `prune`, Object Lock, crashes between its steps; and the catalog rebuilt from
//! the manifests alone.

use highwater_aws::catalog::CatalogTable;
use highwater_aws::catalog::backups::BackupRecord;
use highwater_aws::catalog::drills::{DrillRecord, State};
use highwater_aws::catalog::head::Head;
use highwater_aws::catalog::lease;
use highwater_aws::rebuild::{compare, rebuild};
use highwater_aws::table::{Key, Record, Table, Write};
use highwater_core::audit::{ObjectId, objects_of_backup};
use highwater_core::certificate::{CERTIFICATE_NAME, SIGNATURE_NAME};
use highwater_core::ids::{backup_prefix, drill_prefix};
use highwater_core::lease::{Holder, Purpose};
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::Target;
use highwater_core::planner::plan_restore;
use highwater_core::{ClusterId, DrillId, Failure, Pinned, Sha256};
use highwater_tests::{Cloud, MariaDb, binary, block_on, config, leave_proof, publish};
use jiff::{SignedDuration, Timestamp};
use serde_json::{Value, json};
use std::process::Command;

fn orders() -> ClusterId {
    "orders".parse().unwrap()
}

/// A deployment that keeps the last chain and the newest restore points of two days, with synthetic backups: a chain of three
/// twenty days ago, of two after it, of two after that, a backup a day.
struct Shop {
    cloud: Cloud,
    catalog: CatalogTable,
    chains: [Vec<ManifestV1>; 3],
}

impl Shop {
    fn open() -> Self {
        let mut config = config();
        config["object_lock"] = json!({"days": 1});
        config["clusters"]["orders"]["keep"] = json!({"chains": 1, "daily": 2, "weekly": 0, "monthly": 0});
        let cloud = Cloud::deployed(&config);
        let catalog = CatalogTable::new(Table::new(&cloud.sdk(), cloud.output("Catalog")));
        let bucket = cloud.bucket();
        let sample: Timestamp = "2026-11-22T02:00:00Z".parse().unwrap();
        let first = Timestamp::now().duration_since(sample).as_hours() / 24 - 20;
        let mut day = first;
        let chains = [3, 2, 2].map(|length| {
            let mut parent = None;
            let chain = (0..length).map(|_| {
                let backup = publish(&bucket, day * 24, parent.as_ref());
                day += 1;
                parent = Some(backup.clone());
                backup.0
            });
            chain.collect()
        });
        let shop = Self { cloud, catalog, chains };
        shop.rebuild();
        shop
    }

    fn rebuild(&self) {
        let bucket = self.cloud.bucket();
        block_on(async {
            let compared = compare(&self.catalog, &bucket, &orders(), None, Timestamp::now()).await.unwrap();
            rebuild(&self.catalog, &orders(), &compared).await.unwrap();
        });
    }

    fn prune(&self, dry_run: bool) -> Value {
        let mut answer = self.cloud.invoke("prune", &json!({"dry_run": dry_run, "cluster": "orders"})).unwrap();
        assert_eq!(answer["dry_run"], dry_run);
        answer["clusters"][0].take()
    }

    /// The objects below a backup's prefix, hidden ones too.
    fn versions_of(&self, m: &ManifestV1) -> usize {
        block_on(self.cloud.bucket().versions(&prefix(m))).unwrap().len()
    }

    fn keys(&self) -> Vec<String> {
        self.cloud.items("orders").iter().map(|item| item["sk"].as_str().unwrap().to_owned()).collect()
    }
}

fn prefix(m: &ManifestV1) -> String {
    backup_prefix(&m.cluster, &m.incarnation, &m.backup_id)
}

fn ids<'a>(backups: impl IntoIterator<Item = &'a ManifestV1>) -> Vec<String> {
    backups.into_iter().map(|m| m.backup_id.to_string()).collect()
}

fn listed(list: &Value) -> Vec<String> {
    let backups = list["backups"].as_array().unwrap();
    assert_eq!(list["count"], backups.len());
    backups.iter().map(|b| b["backup_id"].as_str().unwrap().to_owned()).collect()
}

fn without_done(mut report: Value) -> Value {
    report.as_object_mut().unwrap().remove("done");
    report
}

#[test]
fn i6_a_run_does_what_its_dry_run_says_and_object_lock_holds() {
    let shop = Shop::open();
    let [a, b, c] = &shop.chains;
    let reversed = |chain: &[ManifestV1]| ids(chain.iter().rev());

    // Everything is locked for a day: nothing goes, and nothing is marked, so all of it can still be restored.
    let before = (shop.keys(), shop.cloud.keys("v1/"));
    let dry = shop.prune(true);
    assert_eq!(listed(&dry["kept"]), ids(c));
    assert_eq!(listed(&dry["locked"]), [reversed(a), reversed(b)].concat());
    assert_eq!(listed(&dry["deleted"]), Vec::<String>::new());
    let until: Timestamp = dry["locked"]["backups"][0]["until"].as_str().unwrap().parse().unwrap();
    assert!(until > Timestamp::now(), "{dry}");
    assert_eq!(without_done(shop.prune(false)), dry);
    assert_eq!((shop.keys(), shop.cloud.keys("v1/")), before);

    // The oldest chain's locks end, and those of the next one's full; its incremental is still locked and needs the full.
    // Beside them lies what a crashed attempt of the same age left, and what one of today is just writing.
    let attempts = [prefix(&a[0]), prefix(&c[1])].map(|p| p.replace("-full-", "-incremental-").replace("-0001/", "-0bad/data-1-000"));
    for key in &attempts {
        block_on(shop.cloud.bucket().put_new(key, "half".into(), "application/zstd")).unwrap();
    }
    let young = attempts[1].replace(&c[1].backup_id.to_string()[..16], &Timestamp::now().strftime("%Y%m%dT%H%M%SZ").to_string());
    block_on(shop.cloud.bucket().put_new(&young, "half".into(), "application/zstd")).unwrap();
    a.iter().chain([&b[0]]).for_each(|m| shop.cloud.end_locks(&prefix(m)));
    attempts.iter().for_each(|key| shop.cloud.end_locks(key));
    shop.cloud.end_locks(&young);
    let dry = shop.prune(true);
    assert_eq!(listed(&dry["deleted"]), reversed(a), "children first");
    assert_eq!(listed(&dry["locked"]), reversed(b));
    assert_eq!(dry["remains"]["count"], 2, "{dry}");
    assert!(dry["deleted"]["backups"][0]["why"][0].as_str().unwrap().contains("its chain is not the last"), "{dry}");
    assert_eq!(shop.cloud.keys(&prefix(&a[0])).len(), 3, "a dry run deletes nothing");

    // A reply that is lost changes nothing: the same transaction is one transaction.
    shop.cloud.fault(json!({"on": "dynamodb:TransactWriteItems", "effect": "lose-reply", "times": 1}));
    let run = shop.prune(false);
    assert_eq!(shop.cloud.fault_hits(), [1]);
    assert_eq!(run["done"]["deleted"], json!(reversed(a)));
    assert_eq!(run["done"]["unfinished"], json!({}));
    assert_eq!(run["done"]["swept"].as_array().unwrap().len(), 2);
    assert!(run["done"]["freed_bytes"].as_u64().unwrap() > 0);
    assert_eq!(without_done(run), dry);
    assert_eq!(a.iter().map(|m| shop.versions_of(m)).sum::<usize>(), 0);
    assert!(attempts.iter().all(|key| shop.cloud.keys(key).is_empty()));
    assert_eq!(shop.cloud.keys(&young).len(), 1, "a young one may still be written");
    let gone = ids(a);
    assert!(!shop.keys().iter().any(|sk| gone.iter().any(|id| sk.contains(id))), "{:?}", shop.keys());

    // What is left can be restored, and nothing else was touched: the catalog still follows from the manifests.
    let left = block_on(shop.catalog.whole(&orders())).unwrap().catalog;
    assert_eq!(left.backups().map(|s| s.id().to_string()).collect::<Vec<_>>(), [ids(b), ids(c)].concat());
    assert_eq!(left.path_to(&b[1].backup_id).unwrap().len(), 2);
    let compared = block_on(compare(&shop.catalog, &shop.cloud.bucket(), &orders(), None, Timestamp::now())).unwrap();
    assert_eq!(compared.differences, []);
    assert_eq!(listed(&shop.prune(false)["deleted"]), Vec::<String>::new(), "twice is once");

    let (name, message) = shop.cloud.invoke("prune", &json!({"dryrun": true})).unwrap_err();
    assert_eq!(name, "BadInput", "{message}");
    let (name, message) = shop.cloud.invoke("prune", &json!({"cluster": "another"})).unwrap_err();
    assert_eq!(name, "Permanent", "{message}");
    assert!(message.contains("not configured"), "{message}");
    assert_eq!(shop.cloud.invoke("prune", &json!({})).unwrap()["clusters"].as_array().unwrap().len(), 1, "all clusters");
}

/// A drill's record: under way, or ended without a proof.
fn drill(shop: &Shop, backup: &ManifestV1, open: bool) {
    let (id, now) = ("20261122T015900Z-4f7c90ab".parse::<DrillId>().unwrap(), Timestamp::now());
    let ended = State::Failed { instance: None, reason: "aborted".into(), report: None, failed_at: now };
    let record = DrillRecord {
        format: DrillRecord::FORMAT.into(),
        cluster: orders(),
        drill_id: id.clone(),
        version: 1,
        execution: "arn:aws:states:eu-west-1:000000000000:execution:highwater-drill:one".into(),
        target: Target::Latest,
        backup_id: backup.backup_id.clone(),
        plan: Pinned { uri: "s3://bucket/plan.json".into(), sha256: Sha256::of(b"") },
        planned_at: now,
        launched: None,
        state: if open { State::Planned } else { ended },
        open: open.then(|| DrillRecord::OPEN.into()),
    };
    let put = Write::put(DrillRecord::key(&orders(), &id), &record).unwrap();
    block_on(shop.catalog.table().write(vec![put])).unwrap();
}

#[test]
fn i4_a_run_finishes_what_a_crash_left_at_any_step() {
    let shop = Shop::open();
    let (a, bucket) = (&shop.chains[0], shop.cloud.bucket());
    a.iter().for_each(|m| shop.cloud.end_locks(&prefix(m)));

    // A drill that is under way keeps what it restores from, and what that rests on.
    drill(&shop, &a[1], true);
    let dry = shop.prune(true);
    assert_eq!(listed(&dry["deleted"]), [a[2].backup_id.to_string()]);
    assert!(dry["kept"]["backups"][1]["why"][0].as_str().unwrap().starts_with("drill "), "{dry}");

    // A run was killed: after the marks, after the first manifest, after the last object.
    block_on(async {
        let head = shop.catalog.head(&orders()).await.unwrap();
        let mut records = Vec::new();
        for m in a {
            records.push(shop.catalog.backup(&orders(), &m.backup_id).await.unwrap().unwrap());
        }
        let other = Head { version: head.version + 1, ..head.clone() };
        assert_eq!(
            shop.catalog.mark(&orders(), &other, &records).await.unwrap(),
            None,
            "a mark happens only to the catalog that was decided on"
        );
        shop.catalog.mark(&orders(), &head, &records).await.unwrap().unwrap();
        for v in bucket.versions(&prefix(&a[2])).await.unwrap() {
            bucket.delete_version(&v.key, &v.version_id).await.unwrap();
        }
        for v in bucket.versions(&a[1].key()).await.unwrap() {
            bucket.delete_version(&v.key, &v.version_id).await.unwrap();
        }
        let window = shop.catalog.window_for(&orders(), &Target::Backup(a[0].backup_id.clone())).await.unwrap();
        assert!(window.catalog.get(&a[0].backup_id).is_none(), "what is marked is no restore point");
        // Whoever rebuilds now does not bring back what is on its way out.
        let compared = compare(&shop.catalog, &bucket, &orders(), None, Timestamp::now()).await.unwrap();
        assert_eq!(compared.differences, []);
    });

    // The drill had planned before the mark: it is waited for.
    let run = shop.prune(false);
    assert_eq!(run["done"]["deleted"], json!([a[2].backup_id]), "{run}");
    assert_eq!(run["done"]["unfinished"].as_object().unwrap().len(), 2, "{run}");
    assert_eq!(shop.versions_of(&a[0]), 3);
    drill(&shop, &a[1], false);
    let dry = shop.prune(true);
    assert_eq!(listed(&dry["deleted"]), ids([&a[1], &a[0]]));
    let run = shop.prune(false);
    assert_eq!(run["done"]["deleted"], json!(ids([&a[1], &a[0]])), "{run}");
    assert_eq!(without_done(run), dry);
    assert_eq!(a.iter().map(|m| shop.versions_of(m)).sum::<usize>(), 0);
    let gone = ids(a);
    assert!(!shop.keys().iter().any(|sk| gone.iter().any(|id| sk.contains(id))), "{:?}", shop.keys());

    // A hold that somebody set after the mark stops the deletion, not the run; the record stays for the next one.
    let b = &shop.chains[1];
    shop.cloud.end_locks(&prefix(&b[0]));
    block_on(async {
        let head = shop.catalog.head(&orders()).await.unwrap();
        let records = shop.catalog.committed_records(&orders(), &[b[1].backup_id.clone(), b[0].backup_id.clone()]).await.unwrap().unwrap();
        shop.catalog.mark(&orders(), &head, &records).await.unwrap().unwrap();
    });
    let run = shop.prune(false);
    assert!(run["done"]["unfinished"][&b[1].backup_id.to_string()].as_str().unwrap().starts_with("locked until "), "{run}");
    assert_eq!(shop.versions_of(&b[0]), 3, "its parent waits with it");
    shop.cloud.end_locks(&prefix(&b[1]));
    assert_eq!(shop.prune(false)["done"]["deleted"], json!(ids([&b[1], &b[0]])));
}

/// `highwater --json <args>` on this cloud's `orders`; its exit code and what it printed.
fn highwater(cloud: &Cloud, args: &[&str]) -> (i32, Value) {
    let mut command = Command::new(binary("highwater"));
    command.arg("--json").args(args).args(["--bucket", cloud.output("Bucket"), "--cluster", "orders", "--table", cloud.output("Catalog")]);
    let output = command.env_clear().envs(cloud.env()).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let value = serde_json::from_str(&text).unwrap_or_else(|e| panic!("{e}: {text}{}", String::from_utf8_lossy(&output.stderr)));
    (output.status.code().unwrap(), value)
}

#[test]
fn i1_every_drill_whose_certificate_the_key_signed_is_restored_and_a_forged_one_is_named() {
    let shop = Shop::open();
    let (cloud, bucket, now) = (&shop.cloud, shop.cloud.bucket(), Timestamp::now());
    let whole = block_on(shop.catalog.whole(&orders())).unwrap().catalog;
    let plan = |m: &ManifestV1| plan_restore(&whole, &Target::Backup(m.backup_id.clone()), bucket.name(), now).unwrap();
    let [a, b, c] = &shop.chains;
    let leave = |m: &ManifestV1, name: &str, hours_ago: i64, sign: &dyn Fn(&[u8]) -> Sha256| {
        leave_proof(cloud, &plan(m), (name, now - SignedDuration::from_hours(hours_ago)), sign)
    };
    let good = [leave(&b[1], "one", 30, &Sha256::of), leave(&c[1], "two", 20, &Sha256::of), leave(&a[2], "three", 10, &Sha256::of)];
    // Signed over other bytes; not signed; genuine, and put where another drill's belongs.
    let (forged, _) = leave(&c[1], "forged", 5, &|bytes| Sha256::of(&[bytes, b" "].concat()));
    let (unsigned, _) = leave(&c[1], "unsigned", 4, &Sha256::of);
    let key = |drill: &DrillId, name: &str| format!("{}{name}", drill_prefix(&orders(), drill));
    for v in block_on(bucket.versions(&key(&unsigned, SIGNATURE_NAME))).unwrap() {
        cloud.end_locks(&v.key);
        block_on(bucket.delete_version(&v.key, &v.version_id)).unwrap();
    }
    let copied = DrillId::of_execution(now, "copied");
    for name in [CERTIFICATE_NAME, SIGNATURE_NAME] {
        block_on(bucket.put_new(&key(&copied, name), cloud.object(&key(&good[0].0, name)).into(), "application/json")).unwrap();
    }

    // Without the key nothing is taken for proven, and that is said.
    let before = cloud.items("orders");
    let (code, shown) = highwater(cloud, &["catalog", "rebuild", "--apply"]);
    assert_eq!((code, &shown["mended"], &shown["unverified_certificates"]), (0, &json!([]), &json!(6)), "{shown}");
    assert_eq!(cloud.items("orders"), before);

    // With another key, nothing is proven at all; with the deployment's, what it signed.
    let spec = json!({"KeyUsage": "SIGN_VERIFY", "KeySpec": "ECC_NIST_P256"});
    let other = cloud.aws("kms", "TrentService.CreateKey", &spec).unwrap()["KeyMetadata"]["Arn"].clone();
    let path = |name: &str, arn: &str| {
        let path = cloud.scratch().join(name);
        std::fs::write(&path, cloud.public_key(arn)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let (ours, others) = (path("ours.pem", cloud.output("SigningKey")), path("others.pem", other.as_str().unwrap()));
    let (_, shown) = highwater(cloud, &["catalog", "rebuild", "--apply", "--key", &others]);
    assert_eq!((&shown["mended"], shown["not_mended"].as_array().unwrap().len()), (&json!([]), 6), "{shown}");
    assert_eq!(cloud.items("orders"), before);

    let (code, shown) = highwater(cloud, &["catalog", "rebuild", "--apply", "--key", &ours]);
    assert_eq!((code, shown["mended"].as_array().unwrap().len()), (0, 4), "three drills and the head: {shown}");
    let named = shown["not_mended"].as_array().unwrap().iter().map(|d| d["message"].as_str().unwrap().to_owned()).collect::<Vec<_>>();
    for (drill, name) in [(&forged, "Signature"), (&unsigned, "Unsigned"), (&copied, "Misplaced")] {
        assert!(named.iter().any(|m| m.starts_with(&format!("{} proves no drill: {name}: ", key(drill, CERTIFICATE_NAME)))), "{named:?}");
    }
    assert_eq!(named.len(), 3, "{named:?}");
    for (drill, certificate) in &good {
        let record = cloud.item("orders", &format!("drill#{drill}")).unwrap();
        assert_eq!(
            (&record["state"], &record["certificate"], &record["open"]),
            (&json!("passed"), &json!(certificate), &Value::Null),
            "{record}"
        );
    }
    assert_eq!(cloud.items_under("orders", "drill#").len(), 3);
    assert_eq!(cloud.item("orders", "head").unwrap()["last_passed_drill"]["drill_id"], json!(good[2].0));

    // Again is the same; the audit still names the forged ones, and retention knows what is proven.
    let once = cloud.items("orders");
    assert_eq!(highwater(cloud, &["catalog", "rebuild", "--apply", "--key", &ours]).1["mended"], json!([]));
    assert_eq!(cloud.items("orders"), once);
    let (code, audit) = highwater(cloud, &["catalog", "audit", "--key", &ours]);
    assert_eq!((code, audit["differences"].as_array().unwrap().len()), (i32::from(Failure::Damaged.exit_code()), 3), "{audit}");
    assert_eq!(highwater(cloud, &["catalog", "audit"]).0, 0);
    assert!(listed(&shop.prune(true)["kept"]).contains(&a[2].backup_id.to_string()), "the last chain with a passed drill is kept");
}

#[test]
fn i1_the_catalog_is_rebuilt_from_manifests_and_a_base_is_locked_as_long_as_its_child() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let _host = cloud.host("orders", &db);
    let committed = |n: usize| {
        let done = |items: Vec<Value>| items.iter().filter(|i| i["state"] == "committed" && i["open"].is_null()).count() == n;
        highwater_tests::wait_for_within(std::time::Duration::from_secs(120), "a committed backup", || {
            done(cloud.items("orders")).then_some(())
        });
    };
    (1..=3).for_each(|n| {
        cloud.fire("backup-orders");
        committed(n);
    });

    let catalog = CatalogTable::new(Table::new(&cloud.sdk(), cloud.output("Catalog")));
    let bucket = cloud.bucket();
    let whole = block_on(catalog.whole(&orders())).unwrap().catalog;
    let lock = |key: &str, version_id: &Option<String>| {
        block_on(bucket.lock(&ObjectId { key: key.to_owned(), version_id: version_id.clone() })).unwrap().until().unwrap()
    };
    let path = whole.path_to(whole.newest().unwrap().id()).unwrap();
    assert_eq!(path.len(), 3, "a full and two incrementals");
    let newest = path.last().unwrap();
    let newest_until = lock(&newest.key, &newest.version_id);
    for object in path[..2].iter().flat_map(|stored| objects_of_backup(stored)) {
        let until = lock(&object.key, &object.version_id);
        assert!(until >= newest_until, "{} is locked until {until}, the newest child until {newest_until}", object.key);
    }

    let answers = || {
        let newest = newest.manifest.clone();
        let targets =
            [Target::Latest, Target::Backup(path[1].id().clone()), Target::Time(newest.finished_at), Target::Lsn(newest.last_lsn)];
        let planned = targets.map(|target| {
            let window = block_on(catalog.window_for(&orders(), &target)).unwrap();
            let plan = plan_restore(&window.catalog, &target, "backups", Timestamp::UNIX_EPOCH).unwrap();
            serde_json::to_value(plan).unwrap()
        });
        let head = block_on(catalog.head(&orders())).unwrap();
        let head = json!([head.newest, head.newest_full, head.window_from]);
        json!([planned, head, highwater(&cloud, &["prune", "--dry-run"]).1])
    };
    let before = answers();
    let (code, audit) = highwater(&cloud, &["catalog", "audit"]);
    assert_eq!((code, &audit["differences"]), (0, &json!([])), "{audit}");

    // The table is lost.
    for item in cloud.items("orders") {
        let key = Key::of(&orders(), item["sk"].as_str().unwrap());
        block_on(catalog.table().write(vec![Write::delete(key)])).unwrap();
    }
    let (code, audit) = highwater(&cloud, &["catalog", "audit"]);
    assert_eq!(code, i32::from(Failure::Damaged.exit_code()));
    let names: Vec<_> = audit["differences"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["NoRecord", "NoRecord", "NoRecord", "Head", "Head", "Head"], "{audit}");
    assert_eq!(highwater(&cloud, &["catalog", "rebuild"]).0, 0);
    assert_eq!(cloud.items("orders"), Vec::<Value>::new(), "without --apply nothing is written");

    // Not while an operation has the cluster.
    let now = Timestamp::now();
    let holder = Holder { operation: "x".into(), purpose: Purpose::Backup, expires_at: now + SignedDuration::from_hours(1) };
    let free = block_on(catalog.lease(&orders())).unwrap();
    let held = free.take(holder, now).unwrap();
    let change = |read, next| block_on(catalog.table().write(vec![lease::change(&orders(), read, next).unwrap()])).unwrap();
    change(&free, &held);
    assert_eq!(highwater(&cloud, &["catalog", "rebuild", "--apply"]).0, i32::from(Failure::Precondition.exit_code()));
    change(&held, &held.released());

    assert_eq!(highwater(&cloud, &["catalog", "rebuild", "--apply"]).0, 0);
    let once = cloud.items("orders");
    assert_eq!(answers(), before);
    assert_eq!(highwater(&cloud, &["catalog", "audit"]).0, 0);
    assert_eq!(highwater(&cloud, &["catalog", "rebuild", "--apply"]).0, 0);
    assert_eq!(cloud.items("orders"), once, "again is the same");

    // Life goes on: the next backup continues the chain.
    cloud.fire("backup-orders");
    committed(4);

    // A record whose manifest is gone, and points that went astray, are named.
    let lost = block_on(catalog.whole(&orders())).unwrap().catalog.newest().unwrap().clone();
    cloud.end_locks(&lost.key);
    block_on(bucket.delete_version(&lost.key, lost.version_id.as_deref().unwrap())).unwrap();
    let stray = Key::of(&orders(), "time#2026-01-01T00:00:00.000000000Z#x");
    block_on(catalog.table().write(vec![
        Write::put(stray, &json!({"backup_id": "x"})).unwrap(),
        Write::delete(highwater_aws::catalog::backups::point_keys(path[0])[0].clone()),
    ]))
    .unwrap();
    let (code, audit) = highwater(&cloud, &["catalog", "audit"]);
    assert_eq!(code, i32::from(Failure::Damaged.exit_code()));
    let named: Vec<_> = audit["differences"].as_array().unwrap().iter().map(|d| d["name"].as_str().unwrap()).collect();
    assert!(["NoManifest", "NoPoint", "StrayPoint", "Head"].iter().all(|name| named.contains(name)), "{audit}");
    assert!(block_on(catalog.backup(&orders(), lost.id())).unwrap().is_some_and(|r: BackupRecord| r.state.name() == "committed"));
}
