//! The `prune` Lambda.

use highwater_functions::{prune::Prune, serve::serve};
use jiff::Timestamp;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { Ok(Prune::new(common)) }, |prune, event| async move { prune.handle(event, Timestamp::now()).await }).await
}
