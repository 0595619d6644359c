//! The `plan-restore` Lambda.

use highwater_functions::plan_restore::PlanRestore;
use highwater_functions::serve::serve;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { Ok(PlanRestore::new(common)) }, |function, event| async move { function.handle(event).await }).await
}
