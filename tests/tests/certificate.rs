//! `highwater certificate`, with files alone: no endpoint, no credentials, no region.

use highwater_tests::Scratch;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::Command;

fn fixture(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/v1").join(name)
}

/// Exit code and the JSON on standard output.
fn certificate(arguments: &[&dyn AsRef<std::ffi::OsStr>]) -> (i32, Value) {
    let mut command = Command::new(highwater_tests::binary("highwater"));
    command.env_clear().args(["--json", "certificate"]).args(arguments.iter().map(|a| a.as_ref()));
    let output = command.output().unwrap();
    (output.status.code().unwrap(), serde_json::from_slice(&output.stdout).unwrap_or_default())
}

#[test]
fn a_certificate_is_verified_offline_and_a_tampered_one_is_refused_by_name() {
    let (good, key) = (fixture("certificate.json"), fixture("certificate-key.pem"));
    let (code, said) =
        certificate(&[&"verify", &good, &"--key", &key, &"--plan", &fixture("plan.json"), &"--report", &fixture("drill-report.json")]);
    assert_eq!((code, &said["verified"], &said["held_against"][1]), (0, &Value::from(true), &Value::from("its report")), "{said}");

    let scratch = Scratch::new("certificate");
    let (bad, signature) = (scratch.join("certificate.json"), fixture("certificate.sig"));
    let text = std::fs::read_to_string(&good).unwrap();
    std::fs::write(&bad, text.replacen("\"checks\": 5", "\"checks\": 6", 1)).unwrap();
    let refused = |name: &str, code: i32, arguments: &[&dyn AsRef<std::ffi::OsStr>]| {
        let (found, said) = certificate(arguments);
        assert_eq!(found, code, "{name}: {said}");
        assert!(said["message"].as_str().is_some_and(|m| m.contains(name)), "{name}: {said}");
    };
    refused("Signature", 14, &[&"verify", &bad, &"--signature", &signature, &"--key", &key]);
    refused("certificate.sig", 11, &[&"verify", &bad, &"--key", &key]);
    refused("SignatureForm", 14, &[&"verify", &good, &"--signature", &good, &"--key", &key]);
    refused("Key", 11, &[&"verify", &good, &"--key", &good]);
    refused("OtherPlan", 14, &[&"verify", &good, &"--key", &key, &"--plan", &fixture("drill-report.json")]);
    refused("OtherReport", 14, &[&"verify", &good, &"--key", &key, &"--report", &fixture("plan.json")]);

    let (code, shown) = certificate(&[&"show", &good]);
    assert_eq!((code, &shown["drill_id"]), (0, &Value::from("20261122T090000Z-4f7c90ab")));
}

#[test]
fn openssl_says_the_same() {
    let openssl = |file: &Path| {
        let mut command = Command::new("openssl");
        command.args(["dgst", "-sha256", "-verify"]).arg(fixture("certificate-key.pem"));
        command.arg("-signature").arg(fixture("certificate.sig")).arg(file).output().unwrap().status.success()
    };
    assert!(openssl(&fixture("certificate.json")));
    assert!(!openssl(&fixture("plan.json")));
}
