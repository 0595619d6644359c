//! `catalog`: the DynamoDB catalog against the manifests it follows from.

use crate::deployment::{ClusterArgs, Context};
use crate::error::{Error, Result};
use crate::output::show;
use highwater_aws::call::sdk_config;
use highwater_aws::catalog::CatalogTable;
use highwater_aws::manifests::head_objects;
use highwater_aws::rebuild::{Comparison, Difference, compare, rebuild};
use highwater_aws::s3::Bucket;
use highwater_aws::table::Table;
use highwater_core::Failure;
use highwater_core::audit::{Audit, audit_catalog, objects_of};
use highwater_core::certificate::PublicKey;
use jiff::Timestamp;
use serde_json::{Value, json};
use std::path::PathBuf;

/// What to do with the catalog.
#[derive(Debug, clap::Subcommand)]
#[command(after_help = "Examples:\n  highwater catalog audit --cluster orders\n  highwater catalog rebuild --cluster orders")]
pub(crate) enum CatalogCommand {
    /// Compare catalog, manifests and objects, and name every difference. Exit 14 when there is one.
    Audit(CompareArgs),
    /// Show what the catalog lacks by the manifests; with --apply, write it. Refused while an operation is open.
    Rebuild(RebuildArgs),
}

/// Which catalog.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater catalog audit --cluster orders")]
pub(crate) struct CatalogArgs {
    #[command(flatten)]
    pub(crate) of: ClusterArgs,
    /// The catalog's table. Default: the deployment's.
    #[arg(long)]
    table: Option<String>,
}

/// What is compared.
#[derive(Debug, clap::Args)]
pub(crate) struct CompareArgs {
    #[command(flatten)]
    catalog: CatalogArgs,
    /// The public key that signs certificates, PEM or DER: with it, what they prove is compared too. `highwater certificate
    /// verify --help` says how to get it.
    #[arg(long, value_name = "FILE")]
    key: Option<PathBuf>,
}

impl CompareArgs {
    fn key(&self) -> Result<Option<PublicKey>> {
        let Some(path) = &self.key else { return Ok(None) };
        let bytes = std::fs::read(path).map_err(|e| Error::io(format!("read {}", path.display()), &e))?;
        PublicKey::parse(&bytes).map(Some).map_err(|e| Error::new(e.failure(), format!("{}: {}: {e}", path.display(), e.name())))
    }

    /// The comparison, and what was compared.
    async fn compare(&self, cx: &Context) -> Result<(Comparison, CatalogTable, Bucket)> {
        let key = self.key()?;
        let (catalog, bucket) = self.catalog.connect(cx).await?;
        let compared = compare(&catalog, &bucket, &self.catalog.of.cluster, key.as_ref(), Timestamp::now()).await?;
        Ok((compared, catalog, bucket))
    }
}

impl CatalogArgs {
    /// Whether something was not given that the deployment knows.
    pub(crate) fn needs_deployment(&self) -> bool {
        self.table.is_none() || self.of.bucket.is_none()
    }

    /// The catalog and the bucket. A cluster that the deployment does not have is refused.
    pub(crate) async fn connect(&self, cx: &Context) -> Result<(CatalogTable, Bucket)> {
        let deployment = match self.needs_deployment() {
            true => Some(cx.deployment().await?),
            false => None,
        };
        if let Some(deployment) = &deployment {
            deployment.config(&self.of.cluster).await?;
        }
        let catalog = match (&self.table, &deployment) {
            (None, Some(deployment)) => deployment.catalog(),
            (table, _) => CatalogTable::new(Table::new(&sdk_config().await, table.as_deref().unwrap_or_default())),
        };
        let bucket = match (&self.of.bucket, &deployment) {
            (None, Some(deployment)) => deployment.bucket().await,
            (bucket, _) => Bucket::connect(bucket.as_deref().unwrap_or_default()).await,
        };
        Ok((catalog, bucket))
    }
}

/// Arguments of `catalog rebuild`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  highwater catalog rebuild --cluster orders\n  highwater catalog rebuild --cluster orders --apply")]
pub(crate) struct RebuildArgs {
    #[command(flatten)]
    of: CompareArgs,
    /// Write it. Without this, nothing is changed.
    #[arg(long)]
    apply: bool,
}

pub(crate) async fn run(command: &CatalogCommand, cx: &Context) -> Result<()> {
    match command {
        CatalogCommand::Audit(args) => audit(args, cx).await,
        CatalogCommand::Rebuild(args) => run_rebuild(args, cx).await,
    }
}

async fn audit(args: &CompareArgs, cx: &Context) -> Result<()> {
    let (compared, _, bucket) = args.compare(cx).await?;
    let cluster = &args.catalog.of.cluster;
    let heads = head_objects(&bucket, objects_of(&compared.implied)).await?;
    let audit = audit_catalog(compared.implied.clone(), Some(&heads));
    let broken = audit.findings.iter().filter(|f| f.problem.is_broken()).count();
    let differences = compared.differences.len();
    let value = json!({
        "cluster": cluster, "backups": compared.implied.backups().count(), "open": compared.open,
        "unverified_certificates": compared.unverified, "differences": named(&compared.differences), "findings": found(&audit),
    });
    let mut text = format!(
        "{} backups by their manifests, {differences} differences to the catalog, {broken} broken invariants\n",
        compared.implied.backups().count()
    );
    text.extend(compared.differences.iter().map(|d| format!("DIFFERS {}: {d}\n", d.name())));
    text.extend(audit.findings.iter().map(|f| format!("{} {f}\n", if f.problem.is_broken() { "BROKEN " } else { "weak   " })));
    text.extend(compared.open.iter().map(|open| format!("open    {open}\n")));
    text.extend(unverified(&compared, "compared"));
    show(cx.json, &value, &text);
    match differences + broken {
        0 => Ok(()),
        n => Err(Error::new(Failure::Damaged, format!("the catalog of {cluster} differs from the bucket in {n} respects"))
            .hint("`highwater catalog rebuild` shows what it can mend")
            .already_shown()),
    }
}

async fn run_rebuild(args: &RebuildArgs, cx: &Context) -> Result<()> {
    let of = &args.of.catalog.of;
    let (compared, catalog, _) = args.of.compare(cx).await?;
    let mended: Vec<_> = compared.differences.iter().filter(|d| d.is_mended()).cloned().collect();
    if args.apply {
        refuse_while_open(&compared)?;
        rebuild(&catalog, &of.cluster, &compared).await.map_err(highwater_aws::prune::PruneError::from)?;
    }
    let not_mended: Vec<_> = compared.differences.iter().filter(|d| !d.is_mended()).cloned().collect();
    let value = json!({
        "cluster": of.cluster, "applied": args.apply, "open": compared.open, "mended": named(&mended), "not_mended": named(&not_mended),
        "unverified_certificates": compared.unverified,
    });
    let did = if args.apply { "mended" } else { "to mend; nothing was written, add --apply" };
    let mut text = format!("{} differences {did}\n", mended.len());
    text.extend(compared.differences.iter().map(|d| format!("{}: {d}\n", d.name())));
    text.extend(compared.open.iter().map(|open| format!("open, so nothing would be written yet: {open}\n")));
    text.extend(unverified(&compared, "restored"));
    show(cx.json, &value, &text);
    Ok(())
}

fn refuse_while_open(compared: &Comparison) -> Result<()> {
    match compared.open.as_slice() {
        [] => Ok(()),
        open => Err(Error::new(Failure::Precondition, format!("operations are under way: {}", open.join(", ")))
            .hint("wait for their end, or for `reconcile` to end them; stop the schedules meanwhile")),
    }
}

/// Says that proofs were left out, if some were.
fn unverified(compared: &Comparison, done: &str) -> Option<String> {
    let n = compared.unverified;
    (n > 0).then(|| format!("proofs were not {done}: {n} certificates were not verified; give the public key with --key\n"))
}

fn named(differences: &[Difference]) -> Vec<Value> {
    differences.iter().map(|d| json!({"name": d.name(), "message": d.to_string(), "mended_by_rebuild": d.is_mended()})).collect()
}

fn found(audit: &Audit) -> Vec<Value> {
    let finding = |f: &highwater_core::audit::Finding| json!({"name": f.problem.name(), "key": f.key, "message": f.problem.to_string(), "broken": f.problem.is_broken()});
    audit.findings.iter().map(finding).collect()
}
