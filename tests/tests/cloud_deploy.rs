//! The stack as it is deployed: what a fresh deployment answers, and what its host can do.

use highwater_core::manifest::ManifestV1;
use highwater_core::{BackupKind, Document};
use highwater_tests::{Cloud, Load, MariaDb, config};
use serde_json::{Value, json};

#[test]
fn a_fresh_deployment_has_a_host_that_passes_doctor_and_functions_that_name_their_errors() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let host = cloud.host("orders", &db);

    let command = cloud
        .aws(
            "ssm",
            "AmazonSSM.SendCommand",
            &json!({"DocumentName": "highwater-doctor", "InstanceIds": [host.instance()], "Parameters": {"bucket": [cloud.output("Bucket")]}}),
        )
        .unwrap();
    let command = json!({"CommandId": command["Command"]["CommandId"], "InstanceId": host.instance()});
    let ended = highwater_tests::wait_for("doctor's end", || {
        let found = cloud.aws("ssm", "AmazonSSM.GetCommandInvocation", &command).unwrap();
        (!matches!(found["Status"].as_str(), Some("Pending" | "InProgress"))).then_some(found)
    });
    assert_eq!(ended["Status"], "Success", "{ended}");

    let (name, message) = cloud.invoke("plan-restore", &json!({"clustre": "orders"})).unwrap_err();
    assert_eq!(name, "BadInput", "{message}");
    assert_eq!(cloud.items("orders"), Vec::<Value>::new());
}

#[test]
fn a_schedule_that_fires_takes_a_real_full_and_then_an_incremental_into_the_catalog() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    Load::fill(&db, 500);
    let host = cloud.host("orders", &db);

    cloud.fire("backup-orders");
    let full = cloud.wait_for_item("orders", "backup#", |backup| backup["state"] == "committed");
    let full: ManifestV1 = Document::parse(&cloud.object(full["manifest_key"].as_str().unwrap())).unwrap();
    assert_eq!((full.kind, full.source.host_id.to_string()), (BackupKind::Full, host.instance().to_owned()));

    Load::fill(&db, 500);
    cloud.fire("backup-orders");
    let next = cloud.wait_for_item("orders", "backup#", |b| b["state"] == "committed" && b["backup_id"] != full.backup_id.to_string());
    let next: ManifestV1 = Document::parse(&cloud.object(next["manifest_key"].as_str().unwrap())).unwrap();
    assert_eq!((next.kind, next.parent.map(|p| p.backup_id)), (BackupKind::Incremental, Some(full.backup_id)));
    assert_eq!(cloud.item("orders", "lease").unwrap()["holder"], Value::Null, "the lease is free again");
}
