//! What each binary runs. It stands here because an `async fn` is compiled where it is first polled: a binary that did that
//! would compile the SDK's calls once more, each of them.

use crate::serve::serve;
use crate::{
    decide_approval, finish_backup, finish_promote, launch_drill, plan_restore, promote, prune, publish_status, reconcile, record_drill,
    request_approval, start_backup,
};
use lambda_runtime::Error;

/// `start-backup`.
///
/// # Errors
/// The runtime's own.
pub fn start_backup() -> Result<(), Error> {
    serve(|common| async { start_backup::StartBackup::new(common) }, |function, event| async move { function.handle(event).await })
}

/// `finish-backup`.
///
/// # Errors
/// The runtime's own.
pub fn finish_backup() -> Result<(), Error> {
    serve(|common| async { finish_backup::FinishBackup::new(common) }, |function, event| async move { function.handle(event).await })
}

/// `reconcile`.
///
/// # Errors
/// The runtime's own.
pub fn reconcile() -> Result<(), Error> {
    serve(|common| async { reconcile::Reconcile::new(common) }, |function, event| async move { function.handle(event).await })
}

/// `plan-restore`.
///
/// # Errors
/// The runtime's own.
pub fn plan_restore() -> Result<(), Error> {
    serve(|common| async { Ok(plan_restore::PlanRestore::new(common)) }, |function, event| async move { function.handle(event).await })
}

/// `launch-drill`.
///
/// # Errors
/// The runtime's own.
pub fn launch_drill() -> Result<(), Error> {
    serve(|common| async { launch_drill::LaunchDrill::new(common) }, |function, event| async move { function.handle(event).await })
}

/// `record-drill`.
///
/// # Errors
/// The runtime's own.
pub fn record_drill() -> Result<(), Error> {
    serve(|common| async { record_drill::RecordDrill::new(common).await }, |function, event| async move { function.handle(event).await })
}

/// `request-approval`.
///
/// # Errors
/// The runtime's own.
pub fn request_approval() -> Result<(), Error> {
    serve(
        |common| async { request_approval::RequestApproval::new(common) },
        |function, event| async move { Box::pin(function.handle(event)).await },
    )
}

/// `decide-approval`.
///
/// # Errors
/// The runtime's own.
pub fn decide_approval() -> Result<(), Error> {
    serve(
        |common| async { decide_approval::DecideApproval::new(common) },
        |function, event| async move { Box::pin(function.handle(event)).await },
    )
}

/// `promote`.
///
/// # Errors
/// The runtime's own.
pub fn promote() -> Result<(), Error> {
    serve(|common| async { promote::Promote::new(common) }, |function, event| async move { Box::pin(function.handle(event)).await })
}

/// `finish-promote`.
///
/// # Errors
/// The runtime's own.
pub fn finish_promote() -> Result<(), Error> {
    serve(
        |common| async { finish_promote::FinishPromote::new(common).await },
        |function, event| async move { Box::pin(function.handle(event)).await },
    )
}

/// `prune`.
///
/// # Errors
/// The runtime's own.
pub fn prune() -> Result<(), Error> {
    serve(
        |common| async { prune::Prune::new(common) },
        |function, event| async move { function.handle(event, jiff::Timestamp::now()).await },
    )
}

/// `publish-status`.
///
/// # Errors
/// The runtime's own.
pub fn publish_status() -> Result<(), Error> {
    serve(
        |common| async { publish_status::PublishStatus::new(common).await },
        |function, event| async move { function.handle(event).await },
    )
}
