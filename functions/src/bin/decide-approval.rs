//! The `decide-approval` Lambda.

use highwater_functions::{decide_approval::DecideApproval, serve::serve};
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { DecideApproval::new(common) }, |function, event| async move { Box::pin(function.handle(event)).await }).await
}
