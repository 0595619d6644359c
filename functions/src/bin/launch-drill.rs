//! The `launch-drill` Lambda.

use highwater_functions::launch_drill::LaunchDrill;
use highwater_functions::serve::serve;
use lambda_runtime::Error;

#[tokio::main]
async fn main() -> Result<(), Error> {
    serve(|common| async { LaunchDrill::new(common) }, |function, event| async move { function.handle(event).await }).await
}
