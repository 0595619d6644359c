//! The `promote` Lambda.

use highwater_functions::{promote::Promote, serve::serve};
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { Promote::new(common) }, |function, event| async move { Box::pin(function.handle(event)).await }).await
}
