//! `backup`: one request, one backup, once.
//!
//! Phases: request → lock → done already? → [`preflight`] → [`copy`] → look at the server again → [`seal`].
//! Relies on: the store's conditional writes, the server's binlog for identity, [`crate::tool`].
//! What a crash leaves: unfinished uploads, or objects that no manifest lists; the same request may be run again.

mod copy;
pub(crate) mod identity;
mod preflight;
mod seal;

use crate::cli::load_document;
use crate::config::Config;
use crate::crash::crash_point;
use crate::error::{Error, Result};
use crate::lock::{HostLock, Scratch};
use crate::signal::Cancel;
use crate::stream::UploadOptions;
use highwater_aws::s3::Bucket;
use highwater_core::ids::backup_prefix;
use highwater_core::manifest::ManifestV1;
use highwater_core::request::BackupRequestV1;
use highwater_core::{Failure, Sha256};
use jiff::Timestamp;
use std::hash::{BuildHasher, RandomState};
use std::time::Instant;
use tracing::Instrument;

/// Arguments of `backup`.
#[derive(Debug, clap::Args)]
pub struct BackupArgs {
    /// The request: a file, or s3://bucket/key with --sha256.
    #[arg(long)]
    pub request: String,
    /// SHA-256 of the request; required for an s3:// URI.
    #[arg(long, value_name = "HEX")]
    pub sha256: Option<Sha256>,
    /// The most MiB read from the tool a second; overrides the configuration.
    #[arg(long, value_name = "MIB_PER_S")]
    pub max_rate: Option<u32>,
}

/// A backup that exists.
#[derive(Debug)]
struct Made {
    manifest: ManifestV1,
    sha256: Sha256,
    /// By an earlier run of the same request.
    already: bool,
}

/// Runs it.
///
/// # Errors
/// Every class except those of restores and promotions.
pub async fn run(args: &BackupArgs, config: &Config, json: bool, cancel: &Cancel) -> Result<()> {
    let (request, sha256) = load_document::<BackupRequestV1>(&args.request, args.sha256).await?;
    let span = tracing::info_span!("backup", backup_id = %request.backup_id, host_id = %config.host_id, run_id = std::process::id());
    let made = Box::pin(make(args, &request, sha256, config, cancel)).instrument(span).await?;
    print(&made, json);
    Ok(())
}

async fn make(args: &BackupArgs, request: &BackupRequestV1, request_sha256: Sha256, config: &Config, cancel: &Cancel) -> Result<Made> {
    if request.cluster != config.cluster {
        return Err(Error::new(
            Failure::Document,
            format!("the request is for cluster {}, this host is of {}", request.cluster, config.cluster),
        ));
    }
    let lock = HostLock::take(&config.state_dir)?;
    let scratch = Scratch::make(&lock, &config.state_dir)?;
    let bucket = Bucket::connect(&request.bucket).await;
    if let Some((manifest, sha256)) = phase("look for the backup", preflight::already_done(&bucket, request, request_sha256)).await? {
        return Ok(Made { manifest, sha256, already: true });
    }
    preflight::check_request(request, config, Timestamp::now())?;
    be_gentle(config.backup.nice);
    let ready = phase("preflight", preflight::prepare(request, config, cancel)).await?;
    tracing::info!(tool = %ready.tool.name, tool_version = %ready.tool.version, server_version = %ready.facts.version, lsn = %ready.facts.lsn, tables = ready.before.tables(), "ready");

    let options = upload_options(args, request, config);
    let attempt = options.attempt;
    let (started_at, started) = (Timestamp::now(), Instant::now());
    let staged = phase("stream", copy::copy(&ready, request, &bucket, options, (config, scratch.path()), cancel)).await?;
    let finished_at = Timestamp::now();

    crash_point!("backup:streamed");
    // From here on the uploads are whole: every way out publishes or aborts them.
    let looked = async {
        let checked = seal::check(&staged, &ready, request)?;
        tracing::debug!(files = staged.files.len(), metadata = seal::names(&staged.metadata), "the stream is whole");
        let after = preflight::look_again(&ready, started, request, config, cancel).await?;
        cancel.check()?;
        Ok((checked, after))
    };
    let (checked, after) = match phase("check", looked).await {
        Ok(found) => found,
        Err(error) => {
            staged.abort().await;
            return Err(error);
        }
    };
    let run = seal::Run { request_sha256, attempt, started_at, finished_at };
    let (manifest, sha256) = phase("publish", seal::publish(&bucket, request, &ready, run, (staged, checked), &after)).await?;
    Ok(Made { manifest, sha256, already: false })
}

/// Says in which phase a failure happened.
async fn phase<T>(name: &str, work: impl Future<Output = Result<T>>) -> Result<T> {
    // The phases hold large futures; boxed, the command's own stays small.
    Box::pin(work).await.map_err(|mut error| {
        error.message = format!("{name}: {}", error.message);
        error
    })
}

fn upload_options(args: &BackupArgs, request: &BackupRequestV1, config: &Config) -> UploadOptions {
    let backup = &config.backup;
    let mib_per_second = args.max_rate.unwrap_or(backup.max_rate_mib_s);
    UploadOptions {
        prefix: backup_prefix(&request.cluster, &request.incarnation, &request.backup_id),
        // Keeps the objects of two tries apart; nothing is overwritten, whatever it is.
        attempt: (RandomState::new().hash_one(std::process::id()) & 0xffff) as u16,
        compression_level: backup.compression_level,
        threads: backup.threads,
        uploads: backup.uploads,
        buffer_bytes: backup.buffer_mib << 20,
        max_bytes_per_second: u64::from(mib_per_second) << 20,
    }
}

/// Lowers our own priority, thread by thread: those that the runtime has, and so those that they start.
fn be_gentle(nice: u8) {
    if nice == 0 {
        // Not a lower priority: who started us may have lowered it already.
        return;
    }
    let threads = std::fs::read_dir("/proc/self/task").into_iter().flatten().flatten();
    let ids = threads.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    for id in ids.filter_map(rustix::process::Pid::from_raw) {
        if let Err(error) = rustix::process::setpriority_process(Some(id), nice.into()) {
            tracing::debug!(%error, "lowering our priority");
        }
    }
}

/// The result: a line of JSON, or a table for a person.
fn print(made: &Made, json: bool) {
    let Made { manifest: m, sha256, already } = made;
    let seconds = m.finished_at.duration_since(m.started_at).as_secs_f64();
    if json {
        let body = serde_json::json!({
            "backup_id": m.backup_id, "kind": m.kind, "incarnation": m.incarnation,
            "manifest": m.key(), "manifest_sha256": sha256, "already_done": already,
            "from_lsn": m.from_lsn, "to_lsn": m.to_lsn, "last_lsn": m.last_lsn,
            "raw_bytes": m.raw_bytes, "stored_bytes": m.stored_bytes, "objects": m.objects.len(),
            "files": m.inventory.files, "tables": m.inventory.tables, "seconds": seconds,
        });
        println!("{body}");
        return;
    }
    let mib = |bytes: u64| bytes as f64 / f64::from(1 << 20);
    if *already {
        println!("This backup was already taken for this request.");
    }
    println!("backup      {}", m.backup_id);
    if let Some(parent) = &m.parent {
        println!("parent      {}", parent.backup_id);
    }
    println!("LSN         {} to {}, redo to {}", m.from_lsn, m.to_lsn, m.last_lsn);
    println!("data        {:.1} MiB in {} files, {:.1} MiB stored", mib(m.raw_bytes), m.inventory.files, mib(m.stored_bytes));
    println!("tables      {}", m.inventory.tables);
    println!("time        {seconds:.1} s");
    println!("manifest    {} (SHA-256 {sha256})", m.key());
}
