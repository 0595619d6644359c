//! A vault: another bucket with copies of a deployment's objects, from which everything can be restored when the first one is gone.
//!
//! S3's own replication, which keeps version ids, does not run here. Copies are made by a client, so that they have other ids: the
//! harder case.

use highwater_core::drill::Outcome;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{Document, Failure};
use highwater_tests::{Host, Load, MariaDb, S3, run, tool};
use std::fs;
use std::path::Path;
use std::process::Command;

fn aws(s3: &S3, arguments: &[&str]) -> String {
    run(Command::new(tool("peers/bin/aws")).envs(s3.env()).args(arguments))
}

fn plan(host: &Host, bucket: &str, name: &str, more: &[&str]) -> RestorePlanV1 {
    let out = host.path(name);
    let arguments = ["plan", "--bucket", bucket, "--cluster", "shop", "--out", out.to_str().unwrap()];
    host.cli(&[&arguments, more].concat()).success();
    RestorePlanV1::parse(&fs::read(out).unwrap()).unwrap()
}

/// Puts other bytes over an object of the vault, as many as there were.
fn damage(s3: &S3, host: &Host, key: &str, size: u64) {
    let other = host.path("other");
    fs::write(&other, vec![b'x'; usize::try_from(size).unwrap()]).unwrap();
    aws(s3, &["s3api", "put-object", "--bucket", "vault", "--key", key, "--body", other.to_str().unwrap()]);
}

#[test]
fn a_vault_restores_without_the_first_bucket_whatever_versions_its_copies_have() {
    let (db, s3) = (MariaDb::start(), S3::start());
    let host = Host::new(&db, &s3);
    Load::fill(&db, 500);
    let full = host.full();
    Load::fill(&db, 500);
    host.incremental(&full);
    let original = plan(&host, "backups", "original.json", &[]);
    assert_eq!(original.steps.len(), 2);
    assert_eq!(plan(&host, "backups", "named.json", &["--copied"]).steps, original.steps, "versions that are there stay pinned");

    aws(&s3, &["s3api", "create-bucket", "--bucket", "vault", "--create-bucket-configuration", "LocationConstraint=eu-west-1"]);
    aws(&s3, &["s3api", "put-bucket-versioning", "--bucket", "vault", "--versioning-configuration", "Status=Enabled"]);
    aws(&s3, &["s3", "sync", "--only-show-errors", "s3://backups", "s3://vault"]);
    aws(&s3, &["s3", "rm", "--only-show-errors", "--recursive", "s3://backups"]);
    // Somebody could write there after all: what is newest is not what was copied.
    let data = original.steps[0].objects[0].clone();
    damage(&s3, &host, &data.key, data.size);

    let copied = plan(&host, "vault", "copied.json", &["--copied"]);
    assert_eq!(copied.bucket, "vault");
    let pairs = || original.steps.iter().zip(&copied.steps);
    for (was, is) in pairs().flat_map(|(was, is)| was.objects.iter().zip(&is.objects)) {
        assert!(was.same_bytes(is) && was.version_id != is.version_id && is.version_id.is_some(), "{was:?} {is:?}");
    }
    assert!(pairs().all(|(was, is)| was.inventory.object.version_id != is.inventory.object.version_id));
    let copied = host.write_plan(copied);
    host.drill(&copied).success();
    assert_eq!(host.report(&copied).outcome, Outcome::Passed, "restored from the vault, with every row");

    // Only bytes that the manifest names are taken for a copy.
    let versions = aws(
        &s3,
        &[
            "s3api",
            "list-object-versions",
            "--bucket",
            "vault",
            "--prefix",
            &data.key,
            "--query",
            "Versions[].VersionId",
            "--output",
            "text",
        ],
    );
    for version in versions.split_whitespace() {
        aws(&s3, &["s3api", "delete-object", "--bucket", "vault", "--key", &data.key, "--version-id", version]);
    }
    damage(&s3, &host, &data.key, data.size);
    let out = host.path("none.json");
    let refused = host.cli(&["plan", "--copied", "--bucket", "vault", "--cluster", "shop", "--out", out.to_str().unwrap()]);
    refused.failed(Failure::Damaged);
    assert!(refused.to_string().contains(&data.key) && !Path::new(&out).exists(), "{refused}");
}
