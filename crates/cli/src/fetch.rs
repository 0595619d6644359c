//! `fetch`: a restore point in a directory of this machine. The plan is made here, from the catalog; `highwater-host restore`
//! does the work, so that what is checked there is checked here, and a run that broke off goes on.

use crate::deployment::{Context, OfCluster};
use crate::drill;
use crate::error::{Error, Result};
use crate::output::{read_document, write_document};
use highwater_core::Failure;
use highwater_core::plan::{RestorePlanV1, Target};
use std::path::{Path, PathBuf};
use std::process::Command;

/// Arguments of `fetch`.
#[derive(Debug, clap::Args)]
#[command(
    after_help = "Examples:\n  highwater fetch --cluster orders --into /srv/orders-latest\n  highwater fetch --cluster orders --target 2026-11-22T02:00:00Z --into /srv/before-the-accident\n\nThis machine needs highwater-host, the backup tool of the cluster's series, and room for the data; you need the policy\n<deployment>-restorer. Run it again after an interruption: it goes on. DIR/data is the data directory, prepared: start a server on it\nwith a socket of its own and --skip-networking. DIR.plan.json beside it has the binlog position (point.binlog)."
)]
pub(crate) struct FetchArgs {
    #[command(flatten)]
    of: OfCluster,
    /// latest, a backup id, lsn:<number>, or a time like 2026-11-22T02:00:00Z: the newest restore point not after it.
    #[arg(long, default_value = "latest")]
    target: Target,
    /// The directory: absent, empty, or of an earlier try of the same restore point.
    #[arg(long, value_name = "DIR")]
    into: PathBuf,
    /// highwater-host. Default: the one beside this command, else the one in PATH.
    #[arg(long, value_name = "FILE")]
    helper: Option<PathBuf>,
    /// The host's configuration for it. Default: /etc/highwater/host.toml where that exists, else the defaults.
    #[arg(long, value_name = "FILE")]
    config: Option<PathBuf>,
}

/// The plan's file, beside the directory: a second run restores the very same plan, and its binlog position is worth keeping.
fn plan_beside(into: &Path) -> Option<PathBuf> {
    let name = into.file_name()?.to_string_lossy();
    Some(into.with_file_name(format!("{name}.plan.json")))
}

/// The plan of an earlier try into this directory, which goes on with it: `latest` may be another restore point by now.
fn earlier_plan(args: &FetchArgs, plan_at: &Path) -> Result<Option<RestorePlanV1>> {
    let is_begun = std::fs::read_dir(&args.into).is_ok_and(|mut entries| entries.next().is_some());
    if !is_begun || !plan_at.exists() {
        return Ok(None);
    }
    let (plan, _) = read_document::<RestorePlanV1>(plan_at)?;
    match plan.cluster == args.of.cluster && plan.target == args.target {
        true => Ok(Some(plan)),
        false => Err(Error::new(Failure::UnsafeDirectory, format!("{} holds {} of {}", args.into.display(), plan.target, plan.cluster))
            .hint("choose another --into, or remove it")),
    }
}

pub(crate) async fn run(args: &FetchArgs, cx: &Context) -> Result<()> {
    let wrong = |why: String| Error::new(Failure::Document, why);
    let plan_at = plan_beside(&args.into).ok_or_else(|| wrong(format!("--into {} names no directory", args.into.display())))?;
    let parent = args.into.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    if !parent.is_dir() {
        return Err(wrong(format!("{} is no directory: --into is made in it", parent.display())));
    }
    let helper = helper(args.helper.as_deref())?;
    let (deployment, config) = args.of.find(cx).await?;
    if earlier_plan(args, &plan_at)?.is_none() {
        let plan = drill::plan(&deployment, &config.cluster, &args.target).await?;
        match std::fs::remove_file(&plan_at) {
            Err(e) if e.kind() != std::io::ErrorKind::NotFound => return Err(Error::io(format!("remove {}", plan_at.display()), &e)),
            _ => write_document(&plan_at, &plan)?,
        };
    }
    let kept = tempfile::tempdir().map_err(|e| Error::io("make a temporary directory".into(), &e))?;
    let host_toml = match &args.config {
        Some(path) => path.clone(),
        None => host_toml(kept.path(), &config.cluster.to_string())?,
    };
    let mut command = Command::new(&helper);
    command.arg("--config").arg(host_toml);
    if cx.json {
        command.arg("--json");
    }
    command.arg("restore").arg("--plan").arg(&plan_at).arg("--into").arg(&args.into);
    let status = command.status().map_err(|e| Error::new(Failure::Precondition, format!("run {}: {e}", helper.display())))?;
    match status.code() {
        Some(0) => Ok(()),
        code => {
            let failure = code.and_then(Failure::from_exit_code).unwrap_or(Failure::Interrupted);
            Err(Error::new(failure, format!("{} did not restore into {}", helper.display(), args.into.display()))
                .hint(format!("what it said stands above; the same command goes on with the plan {}", plan_at.display()))
                .already_shown())
        }
    }
}

/// Where highwater-host is.
fn helper(given: Option<&Path>) -> Result<PathBuf> {
    const NAME: &str = "highwater-host";
    let beside = || Some(std::env::current_exe().ok()?.with_file_name(NAME));
    let in_path = || std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(NAME)).find(|path| path.is_file());
    let found = match given {
        Some(path) => Some(path.to_owned()),
        None => beside().filter(|path| path.is_file()).or_else(in_path),
    };
    found.filter(|path| path.is_file()).ok_or_else(|| {
        Error::new(Failure::Precondition, "highwater-host is not on this machine").hint("install it beside this command, or give --helper")
    })
}

/// The machine's own configuration, or one that has only defaults.
fn host_toml(directory: &Path, cluster: &str) -> Result<PathBuf> {
    let own = Path::new("/etc/highwater/host.toml");
    if own.exists() {
        return Ok(own.to_owned());
    }
    let path = directory.join("host.toml");
    let text = format!("cluster = \"{cluster}\"\nhost_id = \"fetch\"\n");
    std::fs::write(&path, text).map_err(|e| Error::io(format!("write {}", path.display()), &e))?;
    Ok(path)
}
