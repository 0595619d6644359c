//! `certificate`: whether one holds, and what it says: of a file, offline and without AWS, or of a deployment's drill.

use crate::deployment::Context;
use crate::error::{Error, Result};
use crate::follow::unknown;
use crate::output::{bytes, show, table, write_new};
use highwater_aws::catalog::drills::State;
use highwater_aws::kms::SigningKey;
use highwater_aws::s3::Bucket;
use highwater_core::certificate::{CERTIFICATE_NAME, CertificateError, CertificateV1, Checksum, PublicKey, SIGNATURE_NAME, verify};
use highwater_core::drill::DrillReportV1;
use highwater_core::ids::drill_prefix;
use highwater_core::plan::RestorePlanV1;
use highwater_core::{ClusterId, Document, DrillId, Failure, Sha256};
use serde_json::json;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};

/// What to do with a certificate.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  highwater certificate verify --cluster orders\n  highwater certificate show --cluster orders")]
pub(crate) enum CertificateCommand {
    /// Check its signature, and whether it is of a plan and a report. Exit 14 when it does not hold.
    Verify(VerifyArgs),
    /// Show what it says, without looking at its signature.
    Show(ShowArgs),
}

/// Which certificate: a file, or a drill's.
#[derive(Debug, clap::Args)]
pub(crate) struct Which {
    /// The certificate, `certificate.json`.
    #[arg(value_name = "FILE", required_unless_present = "cluster", conflicts_with = "cluster")]
    certificate: Option<PathBuf>,
    /// Of this cluster's newest passed drill, from the deployment.
    #[arg(long)]
    cluster: Option<ClusterId>,
    /// Of this drill.
    #[arg(long, value_name = "ID", requires = "cluster")]
    drill: Option<DrillId>,
}

/// Arguments of `certificate verify`. Get the public key once and keep it where the backups are not:
/// `aws kms get-public-key --key-id ARN --query PublicKey --output text | base64 -d > highwater.der`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater certificate verify --cluster orders\n  highwater certificate verify --cluster orders --save proof\n  highwater certificate verify proof/certificate.json --key proof/highwater.der --plan proof/plan.json      # offline"
)]
pub(crate) struct VerifyArgs {
    #[command(flatten)]
    which: Which,
    /// Its signature. Default: `certificate.sig` beside it.
    #[arg(long, value_name = "FILE", conflicts_with = "cluster")]
    signature: Option<PathBuf>,
    /// The public key that must have signed it, PEM or DER. Default with --cluster: KMS is asked for the deployment's.
    #[arg(long, value_name = "FILE", required_unless_present = "cluster")]
    key: Option<PathBuf>,
    /// It must be of this plan.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// It must be of this report.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
    /// Keep certificate, signature, plan, report and public key in this directory, to verify it offline some day.
    #[arg(long, value_name = "DIR", requires = "cluster")]
    save: Option<PathBuf>,
}

/// The public key's name beside a saved certificate.
const KEY_NAME: &str = "highwater.der";

/// Arguments of `certificate show`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater certificate show --cluster orders\n  highwater certificate show certificate.json")]
pub(crate) struct ShowArgs {
    #[command(flatten)]
    which: Which,
}

/// A certificate as it is stored, and what is beside it.
struct Stored {
    place: String,
    bytes: Vec<u8>,
    signature: Vec<u8>,
    /// The deployment's public key, where it was asked for.
    key: Option<Vec<u8>>,
    /// Where it was found.
    bucket: Option<Bucket>,
}

pub(crate) async fn run(command: &CertificateCommand, cx: &Context) -> Result<()> {
    match command {
        CertificateCommand::Verify(args) => run_verify(args, cx).await,
        CertificateCommand::Show(args) => run_show(args, cx).await,
    }
}

/// From a deployment: the drill's, or the newest passed drill's.
async fn of_drill(cluster: &ClusterId, drill: Option<&DrillId>, wants_key: bool, cx: &Context) -> Result<Stored> {
    let deployment = cx.deployment().await?;
    deployment.config(cluster).await?;
    let catalog = deployment.catalog();
    let newest = match drill {
        Some(drill) => Some(drill.to_string()),
        None => catalog.head(cluster).await?.last_passed_drill.map(|passed| passed.drill_id),
    };
    let none = || {
        Error::new(Failure::Document, format!("no drill of {cluster} has passed yet")).hint(format!("highwater drill --cluster {cluster}"))
    };
    let id: DrillId =
        newest.ok_or_else(none)?.parse().map_err(|e| Error::new(Failure::Damaged, format!("the catalog's newest drill: {e}")))?;
    let record = catalog.drill(cluster, &id).await?.ok_or_else(|| unknown("drill", &id, cluster))?;
    let State::Passed(passed) = &record.state else {
        return Err(Error::new(Failure::Document, format!("drill {id} of {cluster} is {}: it has no certificate", record.state.name())));
    };
    let bucket = deployment.bucket().await;
    let prefix = drill_prefix(cluster, &id);
    let get =
        async |name: &str| Ok::<_, Error>(bucket.get(&format!("{prefix}{name}"), None, CertificateV1::MAX_BYTES as u64).await?.to_vec());
    let key = match wants_key {
        true => Some(SigningKey::new(&deployment.sdk, &deployment.of.signing_key).public_key().await?),
        false => None,
    };
    let (bytes, signature) = (get(CERTIFICATE_NAME).await?, get(SIGNATURE_NAME).await?);
    Ok(Stored { place: passed.certificate.uri.clone(), bytes, signature, key, bucket: Some(bucket) })
}

fn of_file(path: &Path, signature: Option<&Path>) -> Result<Stored> {
    let signature = match signature {
        Some(signature) => read(signature)?,
        None => read(&path.with_file_name(SIGNATURE_NAME))?,
    };
    Ok(Stored { place: path.display().to_string(), bytes: read(path)?, signature, key: None, bucket: None })
}

async fn run_verify(args: &VerifyArgs, cx: &Context) -> Result<()> {
    let Which { certificate, cluster, drill } = &args.which;
    let stored = match (certificate, cluster) {
        (Some(path), _) => of_file(path, args.signature.as_deref())?,
        (None, Some(cluster)) => of_drill(cluster, drill.as_ref(), args.key.is_none(), cx).await?,
        (None, None) => return Err(Error::new(Failure::Document, "no certificate is named")),
    };
    let (key_bytes, key_from) = match (&args.key, &stored.key) {
        (Some(path), _) => (read(path)?, path.display().to_string()),
        (None, Some(key)) => (key.clone(), "KMS".to_owned()),
        (None, None) => return Err(Error::new(Failure::Document, "no key is given").hint("--key FILE")),
    };
    let key = PublicKey::parse(&key_bytes).map_err(|e| refused(&key_from, &e))?;
    let certificate = verify(&stored.bytes, &stored.signature, &key).map_err(|e| refused(&stored.place, &e))?;
    let digest = |path: &Option<PathBuf>| path.as_deref().map(read).transpose().map(|bytes| bytes.map(|b| Sha256::of(&b)));
    let (plan, report) = (digest(&args.plan)?, digest(&args.report)?);
    certificate.is_of(plan, report).map_err(|e| refused(&stored.place, &e))?;
    let sha256 = Sha256::of(&stored.bytes);
    let held = [("its plan", plan), ("its report", report)].into_iter().filter_map(|(what, given)| given.map(|_| what)).collect::<Vec<_>>();
    let also = if held.is_empty() { String::new() } else { format!(", and it is of {}", held.join(" and ")) };
    let mut text = format!(
        "verified: {} of {} was restored and checked by drill {}{also}\ncertificate {} (SHA-256 {sha256})\nkey from {key_from}\n",
        certificate.point.backup_id, certificate.cluster, certificate.drill_id, stored.place,
    );
    if let (Some(into), Some(bucket)) = (&args.save, &stored.bucket) {
        save(into, bucket, &stored, &key_bytes, &certificate).await?;
        text.push_str(&format!(
            "saved: highwater certificate verify {0}/{CERTIFICATE_NAME} --key {0}/{KEY_NAME} --plan {0}/plan.json --report {0}/report.json\n",
            into.display()
        ));
    }
    let value = json!({
        "verified": true, "sha256": sha256, "held_against": held, "key_from": key_from, "saved": args.save, "certificate": certificate,
    });
    show(cx.json, &value, &text);
    Ok(())
}

/// Keeps what an offline verification needs. Files that are there already are left alone: they must be the same.
async fn save(into: &Path, bucket: &Bucket, stored: &Stored, key: &[u8], certificate: &CertificateV1) -> Result<()> {
    let prefix = drill_prefix(&certificate.cluster, &certificate.drill_id);
    std::fs::create_dir_all(into).map_err(|e| Error::io(format!("make {}", into.display()), &e))?;
    let mut files = vec![(CERTIFICATE_NAME, stored.bytes.clone()), (SIGNATURE_NAME, stored.signature.clone()), (KEY_NAME, key.to_vec())];
    for (name, pinned, most) in
        [("plan.json", &certificate.plan, RestorePlanV1::MAX_BYTES), ("report.json", &certificate.report, DrillReportV1::MAX_BYTES)]
    {
        let bytes = bucket.get(&format!("{prefix}{name}"), None, most as u64).await?.to_vec();
        if Sha256::of(&bytes) != pinned.sha256 {
            return Err(Error::new(Failure::Damaged, format!("{} is not what the certificate names", pinned.uri)));
        }
        files.push((name, bytes));
    }
    files.into_iter().try_for_each(|(name, bytes)| write_new(&into.join(name), &bytes).map(|_| ()))
}

async fn run_show(args: &ShowArgs, cx: &Context) -> Result<()> {
    let Which { certificate, cluster, drill } = &args.which;
    let (place, bytes) = match (certificate, cluster) {
        (Some(path), _) => (path.display().to_string(), read(path)?),
        (None, Some(cluster)) => {
            let stored = of_drill(cluster, drill.as_ref(), false, cx).await?;
            (stored.place, stored.bytes)
        }
        (None, None) => return Err(Error::new(Failure::Document, "no certificate is named")),
    };
    let certificate = CertificateV1::parse(&bytes).map_err(|e| Error::document(format!("read {place}"), &e))?;
    show(cx.json, &json!(certificate), &described(&certificate));
    Ok(())
}

fn described(c: &CertificateV1) -> String {
    let rows: Vec<_> = c
        .objects
        .iter()
        .map(|o| {
            let checksum = match &o.checksum {
                Checksum::Sha256(sha256) => format!("SHA-256 {sha256}"),
                Checksum::Crc64Nvme(crc) => format!("CRC-64/NVME {crc}"),
            };
            vec![o.key.clone(), o.version_id.clone().unwrap_or_default(), bytes(o.size), checksum]
        })
        .collect();
    let phases: Vec<_> = c
        .phases
        .iter()
        .map(|p| vec![p.name.clone(), p.backup_id.as_ref().map(ToString::to_string).unwrap_or_default(), format!("{:.1} s", p.seconds)])
        .collect();
    let v = &c.versions;
    format!(
        "drill {} of {} on {}, {} to {}\nrestored {} of {} (LSN {}); {} checks passed\n{:?} {} was restored by {} {} and served by {}\n\
         plan {} (SHA-256 {})\nreport {} (SHA-256 {})\nexecution {}\nsigned by {}\n\n{}\n{}\nThe signature was not checked: `highwater certificate verify`.",
        c.drill_id,
        c.cluster,
        c.instance,
        c.started_at,
        c.finished_at,
        c.point.backup_id,
        c.point.time,
        c.point.last_lsn,
        c.checks,
        v.vendor,
        v.source,
        v.tool,
        v.tool_version,
        v.restored,
        c.plan.uri,
        c.plan.sha256,
        c.report.uri,
        c.report.sha256,
        c.execution,
        c.signing_key,
        table(&["phase", "backup", "took"], &phases),
        table(&["object", "version", "size", "checksum"], &rows),
    )
}

fn read(path: &Path) -> Result<Vec<u8>> {
    std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), &e))
}

fn refused(place: &str, error: &CertificateError) -> Error {
    let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
    let made = Error::new(error.failure(), format!("{place}: {}: {error}{cause}", error.name()));
    match error.failure() {
        Failure::Damaged => {
            made.hint("do not rely on it: compare the files with those in the bucket, and the key with `aws kms get-public-key`")
        }
        _ => made,
    }
}
