//! The Lambda binaries themselves, served events by a runtime API as Lambda's own, against a real S3.

use highwater_tests::{Function, S3};
use serde_json::{Value, json};

#[test]
fn a_bad_event_and_a_missing_variable_are_errors_with_a_name_and_no_call_is_made() {
    let s3 = S3::start();
    let event = |input: Value| json!({"input": input, "execution": "arn:aws:states:eu-west-1:1:execution:drill:1", "started": "2026-11-22T02:00:00.123Z"});
    let env = [
        ("HIGHWATER_BUCKET", "backups"),
        ("HIGHWATER_TABLE", "catalog"),
        ("HIGHWATER_DEPLOYMENT", "highwater"),
        ("HIGHWATER_CLUSTERS", "/highwater/clusters"),
    ];
    let bad = Function::start("plan-restore", &env, &s3).invoke(&event(json!({"cluster": "Orders"}))).unwrap_err();
    assert_eq!(bad["errorType"], "BadInput", "{bad}");
    assert!(bad["errorMessage"].as_str().unwrap().contains(r#"expected {"cluster": "orders"}"#), "{bad}");

    let unset = Function::start("plan-restore", &env[..1], &s3).invoke(&event(json!({"cluster": "orders"}))).unwrap_err();
    assert_eq!(unset["errorType"], "Permanent", "{unset}");
    assert!(unset["errorMessage"].as_str().unwrap().contains("HIGHWATER_TABLE"), "{unset}");
}
