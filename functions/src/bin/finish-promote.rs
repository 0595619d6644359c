//! The `finish-promote` Lambda.

use highwater_functions::{finish_promote::FinishPromote, serve::serve};
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { FinishPromote::new(common) }, |function, event| async move { Box::pin(function.handle(event)).await }).await
}
