//! Runs the tool and the upload beside each other, and says what went wrong when either does.

use super::preflight::Ready;
use crate::config::Config;
use crate::error::{Error, Result};
use crate::progress::Progress;
use crate::signal::Cancel;
use crate::stream::{self, StagedStream, UploadOptions};
use crate::tool::process::{Ended, Running};
use crate::tool::{BackupRun, Tool};
use highwater_aws::s3::Bucket;
use highwater_core::Failure;
use highwater_core::request::BackupRequestV1;
use std::path::Path;
use std::time::Duration;

/// How long the tool may need to end once its stream has ended.
const AFTER_STREAM: Duration = Duration::from_secs(600);
/// How long a tool that broke its stream may need to say why.
const LAST_WORDS: Duration = Duration::from_secs(5);

/// Streams the backup into staged objects. When it returns the tool has ended; on an error nothing is left in the bucket.
///
/// # Errors
/// `Tool`, `RedoOverrun`, `Precondition`, `Server`, `Resources` in the tool's own words; what the store says; `Interrupted`.
pub(super) async fn copy(
    ready: &Ready,
    request: &BackupRequestV1,
    bucket: &Bucket,
    options: UploadOptions,
    (config, scratch): (&Config, &Path),
    cancel: &Cancel,
) -> Result<StagedStream> {
    let Ready { access, tool, facts, .. } = ready;
    let run = BackupRun {
        defaults_file: access.defaults_file.as_deref(),
        socket: access.socket_for_tool.as_deref(),
        user: access.user_for_tool.as_deref(),
        from_lsn: request.parent.as_ref().map(|p| p.link.to_lsn),
        parallel: config.backup.tool_parallel,
        lock_ddl: config.backup.lock_ddl.as_deref(),
        scratch,
        nice: config.backup.nice,
        ionice: config.backup.ionice,
        redactor: access.redactor(),
    };
    // An incremental's size is unknown until it is there.
    let expected = facts.data_bytes.filter(|_| request.parent.is_none());
    let progress = Progress::begin("stream", expected);
    let mut running = tool.start_backup(run).await?;
    let Some(stdout) = running.take_stdout() else {
        return Err(Error::new(Failure::Resources, format!("{} has no standard output", tool.name)));
    };
    match stream::upload(stdout, bucket, options, progress, cancel).await {
        Ok(staged) => match end_of(tool, &mut running, cancel).await {
            Ok(()) => Ok(staged),
            Err(error) => {
                staged.abort().await;
                Err(error)
            }
        },
        Err(error) => Err(whose_fault(error, &mut running).await),
    }
}

/// The stream has ended; so must the tool, and well.
async fn end_of(tool: &Tool, running: &mut Running, cancel: &Cancel) -> Result<()> {
    let ended = match tokio::time::timeout(AFTER_STREAM, running.wait_or_cancel(cancel)).await {
        Ok(ended) => ended?,
        Err(_) => {
            running.end().await;
            return Err(Error::new(Failure::Tool, format!("{} closed its stream and did not end in {AFTER_STREAM:?}", tool.name)));
        }
    };
    if ended.redo_retries() > 0 {
        tracing::info!(retries = ended.redo_retries(), "the tool kept up with the redo after all");
    }
    ended.success()
}

/// A tool that dies cuts its stream; then its own words say why, and the malformed stream is only what we saw of it.
async fn whose_fault(error: Error, running: &mut Running) -> Error {
    let by_itself = match error.failure {
        Failure::Tool => tokio::time::timeout(LAST_WORDS, running.wait()).await.ok(),
        _ => None,
    };
    let ended = match by_itself {
        Some(ended) => ended,
        None => {
            running.end().await;
            return error;
        }
    };
    match ended.success() {
        Err(own) if !lost_its_reader(&ended) => own,
        _ => error,
    }
}

/// Whether the tool failed because we stopped reading.
fn lost_its_reader(ended: &Ended) -> bool {
    ended.says(&["Broken pipe", "Errcode: 32", "errno: 32", "error 32"])
}
