//! Everything that can be known to be wrong before a byte is streamed.

use super::identity;
use crate::config::Config;
use crate::error::{Context, Error, Result};
use crate::restore::memory;
use crate::server::{Access, MissingPrivilege, Server, ServerFacts, Snapshot, SnapshotOptions};
use crate::signal::Cancel;
use crate::tool::Tool;
use highwater_aws::s3::Bucket;
use highwater_core::identity::SourceIdentity;
use highwater_core::ids::backup_prefix;
use highwater_core::manifest::{MANIFEST_NAME, ManifestV1};
use highwater_core::request::BackupRequestV1;
use highwater_core::{Document, Failure, Sha256};
use jiff::{SignedDuration, Timestamp};
use std::time::Duration;

/// How far this host's clock may be behind the one of whoever asked.
const CLOCK_SKEW: SignedDuration = SignedDuration::from_mins(5);
/// For a statement that only looks.
const LOOK_LIMIT: Duration = Duration::from_secs(60);

/// A host that is ready for this backup.
#[derive(Debug)]
pub(super) struct Ready {
    pub(super) access: Access,
    pub(super) tool: Tool,
    pub(super) facts: ServerFacts,
    pub(super) source: SourceIdentity,
    pub(super) before: Snapshot,
}

/// The manifest of a backup that this very request has already made, with its digest and version (I4).
///
/// # Errors
/// `Document` when another request has made a backup of this id; what the store says.
pub(super) async fn already_done(
    bucket: &Bucket,
    request: &BackupRequestV1,
    request_sha256: Sha256,
) -> Result<Option<(ManifestV1, Sha256)>> {
    let prefix = backup_prefix(&request.cluster, &request.incarnation, &request.backup_id);
    let key = format!("{prefix}{MANIFEST_NAME}");
    // Listed, not asked for: a role that may list only its own prefix is told 403, not 404, of an absent object.
    if !bucket.list(&prefix).await?.contains(&key) {
        return Ok(None);
    }
    let bytes = bucket.get(&key, None, ManifestV1::MAX_BYTES as u64).await?;
    let manifest = ManifestV1::parse(&bytes).context(Failure::Damaged, || format!("read {key}"))?;
    if manifest.request_sha256 != request_sha256 {
        let message = format!("{} exists and was made for another request, {}", request.backup_id, manifest.request_sha256);
        return Err(Error::new(Failure::Document, message).hint("ask for a backup with a new id"));
    }
    Ok(Some((manifest, Sha256::of(&bytes))))
}

/// Whether the request is for this host and still holds, by a clock that can be right.
///
/// # Errors
/// `Document`; `Precondition` when the clock is behind; `ChainBroken`.
pub(super) fn check_request(request: &BackupRequestV1, config: &Config, now: Timestamp) -> Result<()> {
    if now >= request.expires_at {
        let message = format!("the request for {} expired at {}, now is {now}", request.backup_id, request.expires_at);
        return Err(Error::new(Failure::Document, message).hint("make a new request; if it is new, set this host's clock"));
    }
    // What is taken by a clock that was set back began before its parent had ended: the catalog would refuse it, after everything was streamed.
    if now.saturating_add(CLOCK_SKEW).is_ok_and(|latest| latest < request.created_at) {
        let message = format!("this host's clock says {now}, the request for {} was made at {}", request.backup_id, request.created_at);
        return Err(Error::new(Failure::Precondition, message).hint("set this host's clock (`chronyc makestep`, `timedatectl`)"));
    }
    if let Some(parent) = &request.parent
        && parent.source.host_id != config.host_id
    {
        let message = format!("{} was taken on {}, this is {}", parent.link.backup_id, parent.source.host_id, config.host_id);
        return Err(Error::new(Failure::ChainBroken, message).hint("take a full backup"));
    }
    Ok(())
}

/// The buffer and what the threads work with must fit: on a database host the kernel might rather end the server than us.
fn check_memory(buffer_mib: usize, available: u64) -> Result<()> {
    const BESIDE_MIB: u64 = 64;
    let (needed, free) = (buffer_mib as u64 + BESIDE_MIB, available >> 20);
    if free >= needed {
        return Ok(());
    }
    Err(Error::new(Failure::Resources, format!("{free} MiB of memory are free, a backup needs {needed} MiB"))
        .hint("free memory, or lower backup.buffer_mib"))
}

/// Checks server, tool, privileges and identity, then looks at the tables.
///
/// # Errors
/// `Server`, `Precondition`, `ChainBroken`, `Config`, `Interrupted`.
pub(super) async fn prepare(request: &BackupRequestV1, config: &Config, cancel: &Cancel) -> Result<Ready> {
    check_memory(config.backup.buffer_mib, memory::available())?;
    let access = Access::resolve(&config.server)?;
    let mut server = Server::connect_with(&access).await?;
    let (vendor, version) = server.vendor_and_version().await?;
    config.server.check_engine(vendor, version)?;
    server.limit_statements(vendor, LOOK_LIMIT).await?;
    let tool = Tool::find(&config.server, vendor).await?;
    tool.check_versions(version)?;
    let missing = server.missing_privileges(vendor).await?;
    if !missing.is_empty() {
        return Err(lacks(&missing));
    }
    let facts = server.facts().await?;
    let source = identity::of(&mut server, &facts, config).await?;
    if let Some(parent) = &request.parent {
        identity::check_continues(&mut server, &facts, &source, parent).await?;
    }
    let before = look_at_tables(&mut server, &facts, config, cancel).await?;
    server.close().await;
    Ok(Ready { access, tool, facts, source, before })
}

/// The server looked at once more, after the tool: the same server life, the same data, the same parent (I2).
///
/// # Errors
/// `Server` when it was restarted or exchanged while the tool ran; `ChainBroken` when it no longer continues the parent.
pub(super) async fn look_again(
    ready: &Ready,
    started: std::time::Instant,
    request: &BackupRequestV1,
    config: &Config,
    cancel: &Cancel,
) -> Result<Snapshot> {
    let mut server = Server::connect_with(&ready.access).await?;
    server.limit_statements(ready.facts.vendor, LOOK_LIMIT).await?;
    let facts = server.facts().await?;
    let source = identity::of(&mut server, &facts, config).await?;
    let changed = |reason: String| Error::new(Failure::Server, format!("while the tool ran, {reason}; this backup is given up"));
    if let Some(reason) = identity::difference(&ready.source, &source) {
        return Err(changed(reason));
    }
    if facts.uptime_s + 1 < started.elapsed().as_secs() {
        return Err(changed(format!("the server was restarted {} s ago", facts.uptime_s)));
    }
    if let Some(parent) = &request.parent {
        identity::check_continues(&mut server, &facts, &source, parent).await?;
    }
    let after = look_at_tables(&mut server, &facts, config, cancel).await?;
    server.close().await;
    Ok(after)
}

async fn look_at_tables(server: &mut Server, facts: &ServerFacts, config: &Config, cancel: &Cancel) -> Result<Snapshot> {
    let options = SnapshotOptions {
        vendor: facts.vendor,
        count_budget: Duration::from_secs(config.backup.row_count_budget_s.into()),
        hash_tables: &config.backup.row_hash_tables,
    };
    server.snapshot(options, cancel).await
}

fn lacks(missing: &[MissingPrivilege]) -> Error {
    let names: Vec<_> = missing.iter().map(|m| m.name).collect();
    let fixes: Vec<_> = missing.iter().map(|m| m.fix.as_str()).collect();
    Error::new(Failure::Precondition, format!("the backup's user lacks {}", names.join(", "))).hint(fixes.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_backup_does_not_begin_where_its_buffer_does_not_fit() {
        assert!(check_memory(64, 128 << 20).is_ok());
        let error = check_memory(64, 127 << 20).unwrap_err();
        assert_eq!((error.failure, error.hint.as_deref()), (Failure::Resources, Some("free memory, or lower backup.buffer_mib")));
        assert!(check_memory(16, 100 << 20).is_ok());
    }
}
