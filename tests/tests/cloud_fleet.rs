//! The fleet's drills: every cluster, those that are named, a sample; by the console and by schedule.

use highwater_tests::{Cloud, Load, MariaDb, config_of, wait_for};
use serde_json::json;

#[test]
fn a_fleet_drill_tries_every_cluster_and_names_the_one_that_failed() {
    let mut config = config_of(&["orders", "billing"]);
    let wrong =
        "start_timeout_s = 60\nbuffer_pool_mib = 64\n[[drill.assert]]\nname = \"a bill exists\"\nsql = \"SELECT 0\"\nexpect = \"1\"\n";
    config["clusters"]["billing"]["drill"]["checks"] = json!(wrong);
    let cloud = Cloud::deployed(&config);
    let servers = ["orders", "billing"].map(|cluster| {
        let db = MariaDb::start();
        Load::fill(&db, 100);
        cloud.host(cluster, &db);
        cloud.fire(&format!("backup-{cluster}"));
        cloud.wait_for_item(cluster, "backup#", |backup| backup["state"] == "committed");
        db
    });

    let ended = cloud.execute("drill-fleet", &json!({}));
    assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("DrillsFailed")), "{ended}");
    let cause = ended["cause"].as_str().unwrap();
    assert!(cause.contains("billing") && !cause.contains("orders"), "{cause}");
    cloud.wait_for_item("orders", "drill#", |drill| drill["state"] == "passed");
    let failed = cloud.wait_for_item("billing", "drill#", |drill| drill["state"] == "failed");
    assert!(failed.to_string().contains("a bill exists"), "the record says which check: {failed}");
    assert!(cloud.notifications().iter().any(|message| message.contains("billing")), "somebody is told");

    let ended = cloud.execute("drill-fleet", &json!({"clusters": ["orders", "orders"]}));
    assert_eq!(ended["status"], "SUCCEEDED", "{ended}");
    assert_eq!(cloud.items_under("orders", "drill#").len(), 2, "once each time");
    for bad in [json!({"sample": 0}), json!({"clusters": []}), json!({"cluster": "orders"}), json!(["orders"])] {
        let ended = cloud.execute("drill-fleet", &bad);
        assert_eq!((&ended["status"], &ended["error"]), (&json!("FAILED"), &json!("BadInput")), "{bad}: {ended}");
    }

    cloud.fire("drill-orders");
    wait_for("the scheduled drill", || {
        let drills = cloud.items_under("orders", "drill#");
        (drills.len() == 3 && drills[2]["state"] == "passed").then_some(())
    });
    wait_for("the end of every drill's instance", || cloud.drill_instances().is_empty().then_some(()));
    drop(servers);
}
