//! What is checked before a byte of data is fetched: the manifests, the tool, the disk, the memory.

use crate::config::{RestoreConfig, ServerConfig};
use crate::error::{Context, Error, Result};
use crate::restore::memory;
use crate::tool::Tool;
use highwater_aws::s3::Bucket;
use highwater_core::manifest::ManifestV1;
use highwater_core::plan::{PlanStep, RestorePlanV1};
use highwater_core::{Document, Failure};
use std::path::Path;

/// What a restore works with.
#[derive(Debug)]
pub(crate) struct Ready {
    pub(crate) bucket: Bucket,
    pub(crate) tool: Tool,
    pub(crate) use_memory_bytes: u64,
}

/// Everything a restore needs is there.
///
/// # Errors
/// `Damaged` when a manifest is not the one that was planned with, `Document` when the plan says something else than its
/// manifests, `Precondition` for the tool, `Resources`; what the store says.
pub(crate) async fn check(plan: &RestorePlanV1, dir: &Path, config: &RestoreConfig, server: &ServerConfig) -> Result<Ready> {
    let tool = tool_of(plan, server).await?;
    let most_redo = plan.steps.iter().map(|s| s.redo_bytes).max().unwrap_or_default();
    let use_memory_bytes = memory::prepare_memory(config.prepare_memory_mib, most_redo, memory::available())?;
    space(plan, dir, config.keep_free_mib)?;
    let bucket = Bucket::connect(&plan.bucket).await;
    manifests(plan, &bucket).await?;
    Ok(Ready { bucket, tool, use_memory_bytes })
}

/// The tool that made the plan's backups, of their series: formats change between series, not within.
///
/// # Errors
/// `Precondition`, with the tool to install.
pub(crate) async fn tool_of(plan: &RestorePlanV1, server: &ServerConfig) -> Result<Tool> {
    let refused = |step: &PlanStep, here: &str| {
        let (made_by, (major, minor)) = (&step.tool, step.tool.version.series());
        let message = format!("{} was made by {} {}, here is {here}", step.backup_id, made_by.name, made_by.version);
        Error::new(Failure::Precondition, message)
            .hint(format!("install {} {major}.{minor}, or set server.bin_dir to where it is", made_by.name))
    };
    let tool = match (Tool::find(server, plan.server.vendor).await, plan.steps.first()) {
        (Err(error), Some(step)) if error.failure == Failure::Precondition => return Err(refused(step, &error.chain())),
        (tool, _) => tool?,
    };
    for step in &plan.steps {
        let made_by = &step.tool;
        if tool.name != made_by.name || tool.version.series() != made_by.version.series() {
            return Err(refused(step, &format!("{} {}", tool.name, tool.version)));
        }
        if tool.version < made_by.version {
            tracing::warn!(backup_id = %step.backup_id, made_by = %made_by.version, here = %tool.version, "the tool is older than the one that made the backup");
        }
    }
    Ok(tool)
}

fn space(plan: &RestorePlanV1, dir: &Path, keep_free_mib: u64) -> Result<()> {
    let stat = rustix::fs::statvfs(dir)
        .map_err(std::io::Error::from)
        .context(Failure::Resources, || format!("ask {} for its space", dir.display()))?;
    let free = stat.f_bavail.saturating_mul(stat.f_frsize);
    let ours = own_bytes(dir);
    let needed = plan.peak_bytes();
    let keep = keep_free_mib.saturating_mul(1 << 20);
    if free.saturating_add(ours) >= needed.saturating_add(keep) {
        return Ok(());
    }
    let mib = |bytes: u64| bytes.div_ceil(1 << 20);
    let message = format!(
        "{} has {} MiB free; this restore needs {} MiB and is to leave {keep_free_mib} MiB",
        dir.display(),
        mib(free.saturating_add(ours)),
        mib(needed)
    );
    Err(Error::new(Failure::Resources, message).hint("restore to a larger filesystem, or lower restore.keep_free_mib"))
}

/// What earlier tries already take, which this one replaces or builds on.
fn own_bytes(dir: &Path) -> u64 {
    use std::os::unix::fs::MetadataExt;
    let Ok(entries) = std::fs::read_dir(dir) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(m) if m.is_dir() => own_bytes(&entry.path()),
            Ok(m) if m.is_file() => m.blocks() * 512,
            _ => 0,
        })
        .sum()
}

/// Reads every manifest again and compares it with what the plan copied from it.
async fn manifests(plan: &RestorePlanV1, bucket: &Bucket) -> Result<()> {
    let mut parent: Option<&PlanStep> = None;
    for step in &plan.steps {
        let at = &step.manifest;
        let bytes = bucket.get(&at.key, at.version_id.as_deref(), ManifestV1::MAX_BYTES as u64).await?;
        let manifest = ManifestV1::parse_pinned(&bytes, at.sha256)
            .context(Failure::Damaged, || format!("read the manifest of {} at s3://{}/{}", step.backup_id, bucket.name(), at.key))?;
        let last = step.backup_id == plan.point.backup_id;
        if let Some(field) = difference(plan, step, parent, last, &manifest) {
            let message = format!("the plan and the manifest of {} differ in {field}", step.backup_id);
            return Err(Error::new(Failure::Document, message).hint("make a new plan: `highwater plan`"));
        }
        parent = Some(step);
    }
    Ok(())
}

/// The first thing in which a plan's step differs from its manifest.
fn difference(plan: &RestorePlanV1, step: &PlanStep, parent: Option<&PlanStep>, last: bool, manifest: &ManifestV1) -> Option<&'static str> {
    let m = manifest;
    let link = m.parent.as_ref().map(|l| (&l.backup_id, l.manifest_sha256));
    let point = &plan.point;
    let same_objects = m.objects.len() == step.objects.len() && m.objects.iter().zip(&step.objects).all(|(a, b)| a.same_bytes(b));
    let comparisons = [
        ("cluster", m.cluster == plan.cluster),
        ("incarnation", m.incarnation == plan.incarnation),
        ("backup_id", m.backup_id == step.backup_id),
        ("kind", m.kind == step.kind),
        ("its parent", link == parent.map(|p| (&p.backup_id, p.manifest.sha256))),
        ("from_lsn", m.from_lsn == step.from_lsn),
        ("to_lsn", m.to_lsn == step.to_lsn),
        ("tool", m.tool == step.tool),
        ("redo_bytes", m.redo_bytes == step.redo_bytes),
        ("raw_bytes", m.raw_bytes == step.raw_bytes),
        ("objects", same_objects),
        ("inventory", m.inventory.same_bytes(&step.inventory)),
        ("server.vendor", m.source.vendor == plan.server.vendor),
        ("server.version", !last || m.source.version == plan.server.version),
        ("server.settings", !last || m.settings == plan.server.settings),
        ("point.last_lsn", !last || m.last_lsn == point.last_lsn),
        ("point.time", !last || m.finished_at == point.time),
        ("point.binlog", !last || m.binlog == point.binlog),
    ];
    comparisons.into_iter().find(|(_, same)| !same).map(|(field, _)| field)
}
