//! The `finish-backup` Lambda.

use highwater_functions::finish_backup::FinishBackup;
use highwater_functions::serve::serve;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { FinishBackup::new(common) }, |function, event| async move { function.handle(event).await }).await
}
