//! The `start-backup` Lambda.

use highwater_functions::serve::serve;
use highwater_functions::start_backup::StartBackup;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { StartBackup::new(common) }, |function, event| async move { function.handle(event).await }).await
}
