//! The `request-approval` Lambda.

use highwater_functions::{request_approval::RequestApproval, serve::serve};
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { RequestApproval::new(common) }, |function, event| async move { Box::pin(function.handle(event)).await }).await
}
