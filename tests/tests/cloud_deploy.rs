//! The stack as it is deployed: what a fresh deployment answers, and what its host can do.

use highwater_core::manifest::ManifestV1;
use highwater_core::{BackupKind, Document};
use highwater_tests::{Cloud, Load, MariaDb, binary, block_on, config, config_of, wait_for};
use serde_json::{Value, json};

#[test]
fn a_fresh_deployment_has_a_host_that_passes_doctor_and_functions_that_name_their_errors() {
    let (cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    let host = cloud.host("orders", &db);

    let ended = cloud.run_document("doctor", host.instance(), &json!({"bucket": [cloud.output("Bucket")]}));
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

/// The backups of `orders` that are restore points, oldest first.
fn committed(cloud: &Cloud) -> Vec<Value> {
    cloud.items_under("orders", "backup#").into_iter().filter(|item| item["state"] == "committed").collect()
}

/// Takes another backup; its id.
fn back_up(cloud: &Cloud) -> String {
    let before = committed(cloud).len();
    cloud.fire("backup-orders");
    let backups = wait_for("another backup", || Some(committed(cloud)).filter(|backups| backups.len() > before));
    backups.last().unwrap()["backup_id"].as_str().unwrap().to_owned()
}

#[test]
fn a_changed_configuration_and_a_newer_release_are_deployed_over_the_old_ones_and_the_data_stays() {
    let (mut cloud, db) = (Cloud::start(), MariaDb::start());
    let mut changed = config_of(&["orders", "billing"]);
    cloud.deploy(&changed);
    cloud.host("orders", &db);
    let full = back_up(&cloud);
    block_on(cloud.bucket().put_new("v1/billing/20261122T015900Z-8b2e/x", "kept".into(), "text/plain")).unwrap();
    let schedules = |cloud: &Cloud| cloud.cli(&["scheduler", "list-schedules", "--group-name", "highwater", "--query", "Schedules[].Name"]);
    let schedule = |cloud: &Cloud| cloud.cli(&["scheduler", "get-schedule", "--group-name", "highwater", "--name", "backup-orders"]);
    assert!(schedules(&cloud).as_array().unwrap().contains(&json!("backup-billing")));

    // One cluster less, one more, another schedule, stricter rules; and functions that say that they are newer.
    let mut clusters = changed["clusters"].as_object().unwrap().clone();
    let mut users = clusters.remove("billing").unwrap();
    users["host"] = json!({"tag": "Name", "value": "users"});
    clusters.insert("users".into(), users);
    clusters["orders"]["backup"]["schedule"] = json!("cron(0 2 ? * SUN *)");
    changed["clusters"] = clusters.into();
    changed["object_lock"] = json!({"mode": "governance", "days": 21});
    let newer = |name: &str| cloud.scratch().script(&format!("newer-{name}"), &format!("echo newer >&2\nexec {:?} \"$@\"", binary(name)));
    let names = ["start-backup", "highwater-host"].map(|name| (name, newer(name)));
    cloud.deploy_with(&changed, &|name| names.iter().find(|(is, _)| *is == name).map_or_else(|| binary(name), |(_, path)| path.clone()));

    let left = schedules(&cloud);
    let has = |name: &str| left.as_array().unwrap().contains(&json!(name));
    assert!(has("backup-users") && has("backup-orders") && !has("backup-billing") && !has("drill-billing"), "{left}");
    assert_eq!(schedule(&cloud)["ScheduleExpression"], "cron(0 2 ? * SUN *)");
    let parameter = |cluster: &str| cloud.aws("ssm", "AmazonSSM.GetParameter", &json!({"Name": format!("/highwater/clusters/{cluster}")}));
    assert!(parameter("users").is_ok() && parameter("billing").unwrap_err().code.contains("ParameterNotFound"));
    assert_eq!(cloud.keys("v1/billing/").len(), 1, "a cluster's backups stay when it is not configured any more");

    // The chain goes on, by the newer functions.
    let next = back_up(&cloud);
    assert!(next.contains("-incremental-") && cloud.function_log("start-backup").contains("newer"), "{next} after {full}");
    let document = cloud.cli(&["ssm", "describe-document", "--name", "highwater-install", "--query", "Document.DefaultVersion"]);
    assert_ne!(document, json!("1"), "hosts are brought up to the newer helper");
}

#[test]
fn a_deleted_stack_leaves_its_data_catalog_keys_topic_and_guards_and_a_new_one_takes_them_over() {
    let (mut cloud, db) = (Cloud::deployed(&config()), MariaDb::start());
    cloud.host("orders", &db);
    back_up(&cloud);
    let outputs = ["Bucket", "Catalog", "SigningKey"].map(|name| cloud.output(name).to_owned());
    wait_for("the backup to be closed", || cloud.items("orders").iter().all(|item| item["open"].is_null()).then_some(()));
    let items = cloud.items("orders");
    let policy = "arn:aws:iam::000000000000:policy/highwater-host-orders";
    let resources = cloud.cli(&["cloudformation", "describe-stack-resources", "--stack-name", "highwater", "--query", "StackResources"]);
    let mut retained = json!({});
    for resource in resources.as_array().unwrap() {
        let key = match resource["ResourceType"].as_str().unwrap() {
            "AWS::S3::Bucket" => "BucketName",
            "AWS::DynamoDB::Table" => "TableName",
            "AWS::KMS::Key" => "KeyId",
            "AWS::SNS::Topic" => "TopicArn",
            _ => continue,
        };
        retained[resource["LogicalResourceId"].as_str().unwrap()] = json!({key: resource["PhysicalResourceId"]});
    }
    assert_eq!(retained.as_object().unwrap().len(), 7, "three buckets, a table, two keys, a topic: {retained}");

    cloud.cli(&["iam", "detach-role-policy", "--role-name", "db-orders", "--policy-arn", policy]);
    cloud.cli(&["cloudformation", "delete-stack", "--stack-name", "highwater"]);
    wait_for("the stack's end", || {
        let wanted = "StackSummaries[?StackName=='highwater'].StackStatus";
        let found = cloud.cli(&["cloudformation", "list-stacks", "--query", wanted]);
        assert!(!found.to_string().contains("FAILED"), "{found}");
        (found == json!(["DELETE_COMPLETE"])).then_some(())
    });
    let functions = cloud.cli(&["lambda", "list-functions", "--query", "Functions[].FunctionName"]);
    assert_eq!(functions, json!([]));
    assert_eq!(cloud.items("orders"), items, "the catalog");
    let manifest = items.iter().find_map(|item| item["manifest_key"].as_str()).unwrap();
    let manifest: ManifestV1 = Document::parse(&cloud.object(manifest)).unwrap();
    assert!(!cloud.keys(&manifest.objects[0].key).is_empty(), "the data");
    let guards = cloud.cli(&["s3api", "get-bucket-policy", "--bucket", &outputs[0]]);
    assert!(guards["Policy"].as_str().unwrap().contains("OnlyPruneDeletes"), "the bucket is guarded without its stack too: {guards}");

    // As infra/README.md says: the guards come with the new stack, which takes the rest over.
    cloud.cli(&["s3api", "delete-bucket-policy", "--bucket", &outputs[0]]);
    cloud.deploy_over(&config(), &retained);
    assert_eq!(["Bucket", "Catalog", "SigningKey"].map(|name| cloud.output(name).to_owned()), outputs);
    cloud.cli(&["iam", "attach-role-policy", "--role-name", "db-orders", "--policy-arn", policy]);
    assert_eq!(cloud.items("orders"), items);
    let next = back_up(&cloud);
    assert!(next.contains("-incremental-"), "the chain goes on: {next}");
}
