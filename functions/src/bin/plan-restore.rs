//! The `plan-restore` Lambda.

use highwater_functions::{plan_restore, serve::serve};
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { Ok(common.bucket) }, |bucket, event| async move { plan_restore::handle(&bucket, event).await }).await
}
