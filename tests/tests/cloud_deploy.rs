//! The stack as it is deployed: what a fresh deployment answers, and what its host can do.

use highwater_tests::{Cloud, MariaDb, config};
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
