//! The `reconcile` Lambda.

use highwater_functions::reconcile::Reconcile;
use highwater_functions::serve::serve;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { Reconcile::new(common) }, |function, event| async move { function.handle(event).await }).await
}
