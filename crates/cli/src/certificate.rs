//! `certificate`: whether one holds, and what it says. Offline: files only, no AWS.

use crate::error::{Error, Result};
use crate::output::{bytes, show, table};
use highwater_core::certificate::{CertificateError, CertificateV1, Checksum, PublicKey, SIGNATURE_NAME, verify};
use highwater_core::{Document, Failure, Sha256};
use serde_json::json;
use std::error::Error as StdError;
use std::path::{Path, PathBuf};

/// What to do with a certificate.
#[derive(Debug, clap::Subcommand)]
pub(crate) enum CertificateCommand {
    /// Check its signature, and whether it is of a plan and a report. Exit 14 when it does not hold.
    Verify(VerifyArgs),
    /// Show what it says, without looking at its signature.
    Show(ShowArgs),
}

/// Arguments of `certificate verify`. Get the public key once and keep it where the backups are not:
/// `aws kms get-public-key --key-id ARN --query PublicKey --output text | base64 -d > highwater.der`.
#[derive(Debug, clap::Args)]
pub(crate) struct VerifyArgs {
    /// The certificate, `certificate.json`.
    #[arg(value_name = "FILE")]
    certificate: PathBuf,
    /// Its signature. Default: `certificate.sig` in the same directory.
    #[arg(long, value_name = "FILE")]
    signature: Option<PathBuf>,
    /// The public key that must have signed it, PEM or DER.
    #[arg(long, value_name = "FILE")]
    key: PathBuf,
    /// It must be of this plan.
    #[arg(long, value_name = "FILE")]
    plan: Option<PathBuf>,
    /// It must be of this report.
    #[arg(long, value_name = "FILE")]
    report: Option<PathBuf>,
}

/// Arguments of `certificate show`.
#[derive(Debug, clap::Args)]
pub(crate) struct ShowArgs {
    /// The certificate, `certificate.json`.
    #[arg(value_name = "FILE")]
    certificate: PathBuf,
}

pub(crate) fn run(command: &CertificateCommand, json: bool) -> Result<()> {
    match command {
        CertificateCommand::Verify(args) => run_verify(args, json),
        CertificateCommand::Show(args) => run_show(args, json),
    }
}

fn run_verify(args: &VerifyArgs, json: bool) -> Result<()> {
    let beside = || args.certificate.with_file_name(SIGNATURE_NAME);
    let signature = read(&args.signature.clone().unwrap_or_else(beside))?;
    let stored = read(&args.certificate)?;
    let key = PublicKey::parse(&read(&args.key)?).map_err(|e| refused(&args.key, &e))?;
    let certificate = verify(&stored, &signature, &key).map_err(|e| refused(&args.certificate, &e))?;
    let digest = |path: &Option<PathBuf>| path.as_deref().map(read).transpose().map(|bytes| bytes.map(|b| Sha256::of(&b)));
    let (plan, report) = (digest(&args.plan)?, digest(&args.report)?);
    certificate.is_of(plan, report).map_err(|e| refused(&args.certificate, &e))?;
    let sha256 = Sha256::of(&stored);
    let held = [("its plan", plan), ("its report", report)].into_iter().filter_map(|(what, given)| given.map(|_| what)).collect::<Vec<_>>();
    let also = if held.is_empty() { String::new() } else { format!(", and it is of {}", held.join(" and ")) };
    let text = format!(
        "verified: {} of {} was restored and checked by drill {}{also}\ncertificate {} (SHA-256 {sha256})\n",
        certificate.point.backup_id,
        certificate.cluster,
        certificate.drill_id,
        args.certificate.display(),
    );
    let value = json!({"verified": true, "sha256": sha256, "held_against": held, "certificate": certificate});
    show(json, &value, &text);
    Ok(())
}

fn run_show(args: &ShowArgs, json: bool) -> Result<()> {
    let stored = read(&args.certificate)?;
    let certificate = CertificateV1::parse(&stored).map_err(|e| Error::document(format!("read {}", args.certificate.display()), &e))?;
    show(json, &json!(certificate), &described(&certificate));
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

fn refused(path: &Path, error: &CertificateError) -> Error {
    let cause = error.source().map(|s| format!(": {s}")).unwrap_or_default();
    let made = Error::new(error.failure(), format!("{}: {}: {error}{cause}", path.display(), error.name()));
    match error.failure() {
        Failure::Damaged => {
            made.hint("do not rely on it: compare the files with those in the bucket, and the key with `aws kms get-public-key`")
        }
        _ => made,
    }
}
