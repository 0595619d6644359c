//! What every binary does: log as JSON lines, build the clients once, hand events over, map errors.

use crate::error::{FunctionError, Name};
use highwater_aws::call::sdk_config;
use highwater_aws::s3::Bucket;
use highwater_aws::table::Table;
use lambda_runtime::{Diagnostic, Error, LambdaEvent, run, service_fn};
use serde::Serialize;
use serde_json::Value;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;

/// The environment's variables, read when they are needed: a missing one is a named error of each invocation, while a
/// crash at start would have no name.
///
/// # Errors
/// `Permanent`, with the variable.
pub fn variable(name: &str) -> Result<String, FunctionError> {
    match std::env::var(name) {
        Ok(value) if !value.is_empty() => Ok(value),
        _ => Err(FunctionError::new(
            Name::Permanent,
            format!("Config: the function's environment does not set {name}: deploy the stack again"),
        )),
    }
}

/// What every function has.
#[derive(Debug, Clone)]
pub struct Common {
    /// For the clients of further services.
    pub sdk: aws_config::SdkConfig,
    /// The deployment's name.
    pub deployment: String,
    /// Path of the clusters' parameters.
    pub clusters: String,
    /// The catalog.
    pub table: Table,
    /// The backups.
    pub bucket: Bucket,
}

impl Common {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub async fn from_environment() -> Result<Self, FunctionError> {
        let (table, bucket) = (variable("HIGHWATER_TABLE")?, variable("HIGHWATER_BUCKET")?);
        let sdk = sdk_config().await;
        Ok(Self {
            table: Table::new(&sdk, table),
            bucket: Bucket::connect(&bucket).await,
            deployment: variable("HIGHWATER_DEPLOYMENT")?,
            clusters: variable("HIGHWATER_CLUSTERS")?,
            sdk,
        })
    }
}

/// An event's work.
type Handled = Pin<Box<dyn Future<Output = Result<Value, FunctionError>> + Send>>;

/// Runs a function until its environment ends. `build` runs once and makes what `handle` gets with every event.
///
/// # Errors
/// The runtime's own.
pub fn serve<State, Built, Work, Answer>(
    build: impl FnOnce(Common) -> Built,
    handle: impl Fn(Arc<State>, Value) -> Work + Send + Sync + 'static,
) -> Result<(), Error>
where
    State: Send + Sync + 'static,
    Built: Future<Output = Result<State, FunctionError>>,
    Work: Future<Output = Result<Answer, FunctionError>> + Send + 'static,
    Answer: Serialize,
{
    lambda_runtime::tracing::init_default_subscriber();
    tokio::runtime::Builder::new_multi_thread().enable_all().build()?.block_on(async {
        let state = match Common::from_environment().await {
            Ok(common) => build(common).await.map(Arc::new),
            Err(error) => Err(error),
        };
        answer(Box::new(move |event| {
            let work = state.clone().map(|state| handle(state, event));
            Box::pin(async move {
                let answer = work?.await?;
                serde_json::to_value(answer).map_err(|e| FunctionError::new(Name::Permanent, format!("write the answer as JSON: {e}")))
            })
        }))
        .await
    })
}

/// Answers events by `handle`: one type for all functions, which is compiled once.
async fn answer(handle: Box<dyn Fn(Value) -> Handled + Send + Sync>) -> Result<(), Error> {
    run(service_fn(|event: LambdaEvent<Value>| {
        let handled = handle(event.payload);
        async move { handled.await.inspect_err(|error| tracing::error!(name = ?error.name, "{}", error.message)).map_err(Diagnostic::from) }
    }))
    .await
}
