//! What the bucket allows this host: create, read back, never overwrite. And whether the clocks agree.

use super::Findings;
use crate::config::Config;
use bytes::Bytes;
use highwater_aws::s3::{Bucket, StoreError, StoreErrorKind};
use jiff::Timestamp;

pub(super) async fn check(name: &str, config: &Config, findings: &mut Findings) {
    let bucket = Bucket::connect(name).await;
    // A key of its own for each run: the host may not delete, so nothing is ever in the way.
    let key = format!("v1/{}/doctor/{}-{}", config.cluster, config.host_id, Timestamp::now().as_millisecond());
    let body = Bytes::from_static(b"highwater-host doctor was here\n");
    match bucket.put_new(&key, body.clone(), "text/plain").await {
        Ok(_) => {
            findings.ok("s3 create", format!("created s3://{name}/{key}"));
            findings.ok("clock", "S3 accepts this host's signatures: the clock is within 15 minutes of S3's");
        }
        Err(error) => {
            let skewed = error.detail.as_deref().is_some_and(|d| d.contains("RequestTimeTooSkewed"));
            if skewed {
                findings.fail(
                    "clock",
                    "S3 refuses this host's signatures: its clock is more than 15 minutes off",
                    "start chronyd or set the clock",
                );
            }
            refused("s3 create", &error, "allow s3:PutObject below the cluster's prefix", findings);
            return;
        }
    }
    match bucket.get(&key, None, 1024).await {
        Ok(found) if found == body => findings.ok("s3 read", "the object reads back as written"),
        Ok(found) => findings.fail(
            "s3 read",
            format!("{} bytes came back, not those written", found.len()),
            "use a store that keeps what it is given",
        ),
        Err(error) => refused("s3 read", &error, "allow s3:GetObject below the cluster's prefix", findings),
    }
    match bucket.put_new(&key, Bytes::from_static(b"overwritten\n"), "text/plain").await {
        Err(error) if error.kind == StoreErrorKind::AlreadyExists => {
            findings.ok("s3 conditions", "an existing object cannot be overwritten")
        }
        Ok(_) => {
            findings.fail("s3 conditions", "the store ignored If-None-Match and overwrote an object", "use a store with conditional writes")
        }
        Err(error) => refused("s3 conditions", &error, "the store must answer If-None-Match with 412", findings),
    }
    // How a backup finds out that an earlier run of it has succeeded already.
    match bucket.list(&key).await {
        Ok(keys) if keys.contains(&key) => findings.ok("s3 list", "the object is listed"),
        Ok(_) => findings.fail("s3 list", "an object just written is not listed", "use a store with consistent listings"),
        Err(error) => refused("s3 list", &error, "allow s3:ListBucket with the cluster's prefix", findings),
    }
    match bucket.begin_upload(&format!("{key}-upload")).await {
        Ok(upload) => match upload.abort().await {
            Ok(()) => findings.ok("s3 multipart", "an upload can be started and given up"),
            Err(error) => refused("s3 multipart", &error, "allow s3:AbortMultipartUpload below the cluster's prefix", findings),
        },
        Err(error) => refused("s3 multipart", &error, "allow s3:PutObject below the cluster's prefix", findings),
    }
}

fn refused(line: &str, error: &StoreError, fix: &str, findings: &mut Findings) {
    let fix = match error.kind {
        StoreErrorKind::Unavailable => "check the network, the endpoint and the region",
        StoreErrorKind::NotFound => "create the bucket, or name the right one",
        _ => fix,
    };
    findings.fail(line, error.to_string(), fix);
}
