//! What people see: the status page says what has happened, whatever the order in which it was told, and each metric is emitted by the
//! function that the documents name.

use highwater_tests::{Cloud, MariaDb, config, config_of, wait_for};
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};

fn fill(db: &MariaDb) {
    db.run("CREATE DATABASE shop; CREATE TABLE shop.orders (id INT PRIMARY KEY AUTO_INCREMENT) ENGINE = InnoDB; INSERT INTO shop.orders VALUES (1), (2)");
}

/// One turn of the schedule, to its end; its record.
fn turn(cloud: &Cloud, db: &MariaDb) -> Value {
    let before = cloud.backups().len();
    if db.running() {
        db.run("INSERT INTO shop.orders () VALUES (), ()");
    }
    cloud.fire("backup-orders");
    wait_for("the backup's end", || {
        let mut found = cloud.backups();
        (found.len() == before + 1 && found.iter().all(|b| b["open"].is_null())).then(|| found.pop().unwrap())
    })
}

fn id(record: &Value) -> &str {
    record["backup_id"].as_str().unwrap()
}

/// The newest value of a metric.
fn metric(cloud: &Cloud, function: &str, name: &str, cluster: Option<&str>) -> Option<f64> {
    cloud.metrics(function).into_iter().rev().find(|(n, c, _)| n == name && c.as_deref() == cluster).map(|(_, _, value)| value)
}

/// Waits for a metric with that value: a log is there some time after what it tells.
fn emitted(cloud: &Cloud, function: &str, name: &str, cluster: Option<&str>, wanted: impl Fn(f64) -> bool) {
    wait_for(&format!("{name} of {function} as wanted, not {:?}", metric(cloud, function, name, cluster)), || {
        metric(cloud, function, name, cluster).filter(|value| wanted(*value))
    });
}

fn update(cloud: &Cloud, sk: &str, expression: &str, values: Value) {
    let request = json!({
        "TableName": cloud.output("Catalog"), "Key": {"pk": {"S": "cluster#orders"}, "sk": {"S": sk}},
        "UpdateExpression": expression, "ExpressionAttributeValues": values,
    });
    cloud.aws("dynamodb", "DynamoDB_20120810.UpdateItem", &request).unwrap();
}

/// Records that the newest backup of `orders` failed in a way that a retry does not mend.
fn fails_until_mended(cloud: &Cloud, message: &str) {
    let failure = json!({
        "backup_id": {"S": "20990101T000000Z-full-0bad"}, "failure": {"S": "Config"}, "message": {"S": message}, "at": {"S": "2099-01-01T00:00:00Z"},
    });
    update(cloud, "head", "SET last_failure = :f", json!({":f": {"M": failure}}));
}

#[test]
fn the_status_page_says_what_happened_and_every_documented_metric_is_emitted_by_its_function() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    fill(&db);
    let _host = cloud.host("orders", &db);
    let orders = Some("orders");
    cloud.fire("fleet-reconcile");
    cloud.wait_for_page(
        "index.html",
        &["1 of 1 clusters need you", "there is no restore point", "RUNBOOK: backups-overdue", "no drill has ever passed"],
    );
    emitted(&cloud, "reconcile", "OverdueBackups", None, |n| n == 1.0);

    // A backup.
    let full = turn(&cloud, &db);
    let page = cloud.wait_for_page("index.html", &[id(&full)]);
    assert!(!page.contains("RUNBOOK: backups-overdue") && page.contains("RUNBOOK: drills-overdue"), "{page}");
    emitted(&cloud, "finish-backup", "StoredBytes", orders, |n| n > 1000.0);
    emitted(&cloud, "finish-backup", "BackupSeconds", orders, |n| n > 0.0);

    // A drill.
    let ended = cloud.execute("drill", &json!({"cluster": "orders"}));
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    let drill = ended["output"]["drill_id"].as_str().unwrap();
    let report = format!("v1/orders/drills/{drill}/report.html");
    let page = cloud.wait_for_page("index.html", &["Nothing needs you", &format!("href=\"{report}\""), "the last drill took"]);
    assert!(page.contains("<rect class=\"proven\""), "{page}");
    assert!(cloud.page(&report).contains("Drill of orders: passed"));
    assert_eq!(cloud.page(&report).as_bytes(), cloud.object(&report), "the copy among the pages is the one beside the drill");
    emitted(&cloud, "record-drill", "RestoreSeconds", orders, |n| n > 0.0);

    // A failure that the next turn mends is told, and needs nobody.
    db.down();
    let failed = turn(&cloud, &db);
    assert_eq!(failed["state"], "failed", "{failed}");
    cloud.wait_for_page("index.html", &["Nothing needs you", id(&failed), "a full: "]);
    emitted(&cloud, "finish-backup", "FailedBackups", None, |n| n == 1.0);
    db.up();
    let healed = turn(&cloud, &db);
    let page = cloud.wait_for_page("index.html", &[id(&healed)]);
    assert!(!page.contains(id(&failed)), "what was mended is history: {page}");

    // A chain that broke needs somebody.
    db.run("RESET MASTER");
    let broken = turn(&cloud, &db);
    assert_eq!(broken["failure"], "ChainBroken", "{broken}");
    cloud.wait_for_page("index.html", &["1 of 1 clusters need you", "RUNBOOK: chain-broken"]);
    cloud.fire("fleet-reconcile");
    emitted(&cloud, "reconcile", "BrokenChains", None, |n| n == 1.0);
    let renewed = turn(&cloud, &db);
    cloud.wait_for_page("index.html", &["Nothing needs you", id(&renewed)]);

    // A backup that will fail again until somebody mends it.
    fails_until_mended(&cloud, "its configuration is wrong");
    // A lease that nobody ends.
    update(
        &cloud,
        "lease",
        "SET holder = :h",
        json!({":h": {"M": {"operation": {"S": "20260101T020000Z-full-dead"}, "purpose": {"S": "backup"}, "expires_at": {"S": "2026-01-01T14:00:00Z"}}}}),
    );
    // An instance that outlived its drill.
    let tags =
        json!({"highwater:deployment": "highwater", "highwater:purpose": "drill", "highwater:cluster": "orders", "highwater:drill": drill});
    let host = json!({"path": [cloud.scratch().join("image")], "env": {"HIGHWATER_SCRATCH": cloud.scratch().path()}});
    cloud.control(
        "POST",
        "hosts",
        &json!({"instance_id": "i-0dead0000000000a1", "profile": "highwater-drill-orders", "tags": tags, "host": host}),
    );
    cloud.fire("fleet-reconcile");
    cloud.wait_for_page("index.html", &["RUNBOOK: backups-failed", "RUNBOOK: lease-stuck", "20260101T020000Z-full-dead"]);
    for name in ["FailingBackups", "StuckLeases"] {
        emitted(&cloud, "reconcile", name, None, |n| n == 1.0);
    }
    wait_for("a leak that was counted", || {
        cloud.metrics("reconcile").iter().any(|(name, _, n)| name == "LeakedInstances" && *n == 1.0).then_some(())
    });

    // Retention.
    cloud.invoke("prune", &json!({})).unwrap();
    emitted(&cloud, "prune", "KeptBytes", orders, |n| n > 1000.0);
    emitted(&cloud, "prune", "FreedBytes", orders, |n| n == 0.0);
    for name in ["RestorePointAgeHours", "PassedDrillAgeDays", "ExpectedRestoreSeconds"] {
        emitted(&cloud, "reconcile", name, orders, |n| n >= 0.0);
    }

    // What was emitted is what infra/README.md lists, of the functions that it names; a test of the template holds the alarms and the dashboard to that list.
    let readme = std::fs::read_to_string(concat!(env!("CARGO_MANIFEST_DIR"), "/../infra/README.md")).unwrap();
    let rows =
        readme.split("| metric | of | written by | alarm |").nth(1).unwrap().lines().skip(2).take_while(|line| line.starts_with('|'));
    let ticked = |cell: &str| cell.split('`').skip(1).step_by(2).map(str::to_owned).collect::<Vec<_>>();
    let mut documented = BTreeSet::new();
    for row in rows {
        let cells: Vec<_> = row.split('|').collect();
        let of = cells[2].contains("cluster");
        documented.extend(ticked(cells[1]).into_iter().flat_map(|name| ticked(cells[3]).into_iter().map(move |by| (by, name.clone(), of))));
    }
    // Shown by a promotion that is stuck.
    documented.remove(&("finish-promote".to_owned(), "StuckPromotions".to_owned(), false));
    let functions =
        ["finish-backup", "reconcile", "publish-status", "record-drill", "prune", "start-backup", "plan-restore", "launch-drill"];
    let emitted: BTreeSet<_> =
        functions.iter().flat_map(|by| cloud.metrics(by).into_iter().map(|(name, of, _)| ((*by).to_owned(), name, of.is_some()))).collect();
    assert_eq!(emitted, documented);
}

#[test]
fn parallel_ends_and_late_writers_leave_the_newest_page() {
    let names = ["orders", "billing", "users"];
    let cloud = Cloud::deployed(&config_of(&names));
    let servers = names.map(|cluster| {
        let db = MariaDb::start();
        fill(&db);
        cloud.host(cluster, &db);
        db
    });

    // Every end is told twice, in any order, and reconcile runs beside it.
    cloud.fault(json!({"on": "event:aws.ssm", "effect": "double"}));
    names.iter().for_each(|cluster| cloud.fire(&format!("backup-{cluster}")));
    std::thread::scope(|scope| {
        for _ in 0..6 {
            scope.spawn(|| cloud.invoke("publish-status", &json!({})).unwrap());
            scope.spawn(|| cloud.invoke("reconcile", &json!({})).unwrap());
        }
    });
    let committed = names.map(|cluster| cloud.wait_for_item(cluster, "backup#", |b| b["state"] == "committed" && b["open"].is_null()));
    let ids: Vec<&str> = committed.iter().map(id).collect();
    let page = cloud.wait_for_page("index.html", &ids);
    assert!(page.contains("3 of 3 clusters need you"), "they were never drilled: {page}");
    cloud.no_faults();

    // A writer that has read everything and then is held up must not put what it read over what is newer. Nobody else writes by now.
    cloud.quiet();
    let last_query = json!({":pk": {"S": "cluster#users"}, ":from": {"S": "approval#"}, ":to": {"S": "approval#\u{10ffff}"}});
    let matched = json!({"ExpressionAttributeValues": last_query});
    cloud.fault(json!({"on": "dynamodb:Query", "effect": "delay-reply", "seconds": 4, "match": matched, "times": 1}));
    std::thread::scope(|scope| {
        let began = Instant::now();
        let held_up = scope.spawn(|| cloud.invoke("publish-status", &json!({})).unwrap());
        wait_for("the writer to have read everything", || (cloud.fault_hits() == [1]).then_some(()));
        fails_until_mended(&cloud, "said while it was held up");
        assert_eq!(cloud.invoke("publish-status", &json!({})).unwrap()["written"], true);
        assert!(cloud.page("index.html").contains("said while it was held up"));
        assert!(!held_up.is_finished(), "it was not held up any more");
        held_up.join().unwrap();
        assert!(began.elapsed() >= Duration::from_secs(4), "it was not held up");
    });
    assert!(cloud.page("index.html").contains("said while it was held up"), "an older page was put over a newer one");

    // A cluster that cannot be read does not keep the others from being shown, and the page says so.
    let request = json!({"Name": "/highwater/clusters/billing", "Value": "{}", "Overwrite": true});
    cloud.aws("ssm", "AmazonSSM.PutParameter", &request).unwrap();
    let answer = cloud.invoke("publish-status", &json!({})).unwrap();
    assert_eq!(answer, json!({"clusters": 2, "unreadable": 1, "written": true}));
    let page = cloud.page("index.html");
    assert!(
        page.contains("A cluster could not be read: ") && page.contains("/highwater/clusters/billing") && page.contains("id=\"orders\""),
        "{page}"
    );
    drop(servers);
}
