//! The `record-drill` Lambda.

use highwater_functions::record_drill::RecordDrill;
use highwater_functions::serve::serve;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { RecordDrill::new(common) }, |function, event| async move { function.handle(event).await }).await
}
