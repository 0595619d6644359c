//! The `plan-restore` Lambda. The bucket comes from `HIGHWATER_BUCKET`.

use highwater_aws::s3::Bucket;
use highwater_core::Failure;
use highwater_functions::error::FunctionError;
use highwater_functions::plan_restore;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, run, service_fn};
use serde_json::Value;

#[tokio::main]
async fn main() -> Result<(), Error> {
    lambda_runtime::tracing::init_default_subscriber();
    // A missing variable is answered as an error of each invocation, with a name: a crash at start has none.
    let bucket = match std::env::var("HIGHWATER_BUCKET") {
        Ok(name) if !name.is_empty() => Ok(Bucket::connect(&name).await),
        _ => Err(FunctionError::new(Failure::Config, "the function's environment does not set HIGHWATER_BUCKET")),
    };
    run(service_fn(|event: LambdaEvent<Value>| {
        let bucket = bucket.clone();
        async move { Ok::<_, Diagnostic>(plan_restore::handle(&bucket?, event.payload).await?) }
    }))
    .await
}
