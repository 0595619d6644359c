//! `reconcile`: the last net. Finishes what a lost event left open, and measures what is overdue. A part that fails does not
//! keep the others from running; the invocation then fails, is tried again, and is an alarm if that does not help.
//!
//! It runs every few minutes and on some events, which only say that it is time to look. Everything it does may be done
//! twice, beside itself and beside the functions it stands in for (I4).

mod backups;
mod cost;
mod drills;
mod overdue;
mod promotions;

use crate::error::{FunctionError, Name};
use crate::pages::Status;
use crate::serve::{Common, variable};
use highwater_aws::catalog::CatalogTable;
use highwater_aws::ec2::Ec2;
use highwater_aws::lambda::Lambda;
use highwater_aws::sfn::Executions;
use highwater_aws::sns::Topic;
use highwater_aws::ssm::Ssm;
use serde::Serialize;
use serde_json::Value;

/// What it did, in sentences.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Answer {
    /// One sentence for each thing done or found.
    pub did: Vec<String>,
}

/// A run so far. What fails is noted and the run goes on: one cluster's error does not hide the others.
#[derive(Debug, Default)]
struct Run {
    did: Vec<String>,
    errors: Vec<FunctionError>,
}

impl Run {
    /// What came of one thing that was to be done.
    fn note(&mut self, came: Result<impl IntoIterator<Item = String>, impl Into<FunctionError>>) {
        match came {
            Ok(done) => self.did.extend(done),
            Err(error) => self.fail(error),
        }
    }

    /// What could not be done.
    fn fail(&mut self, error: impl Into<FunctionError>) {
        self.errors.push(error.into());
    }

    /// What was read, without what could not be.
    fn of<T, E: Into<FunctionError>>(&mut self, read: Result<Vec<Result<T, E>>, impl Into<FunctionError>>) -> Vec<T> {
        let mut good = Vec::new();
        match read {
            Ok(each) => each.into_iter().for_each(|one| match one {
                Ok(one) => good.push(one),
                Err(error) => self.fail(error),
            }),
            Err(error) => self.fail(error),
        }
        good
    }
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct Reconcile {
    deployment: String,
    clusters: String,
    catalog: CatalogTable,
    ssm: Ssm,
    lambda: Lambda,
    ec2: Ec2,
    executions: Executions,
    topic: Topic,
    finish_backup: String,
    finish_promote: String,
    status: Status,
}

impl Reconcile {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: Common) -> Result<Self, FunctionError> {
        Ok(Self {
            status: Status::new(&common)?,
            finish_backup: variable("HIGHWATER_FINISH_BACKUP")?,
            finish_promote: variable("HIGHWATER_FINISH_PROMOTE")?,
            catalog: CatalogTable::new(common.table),
            ssm: Ssm::new(&common.sdk),
            lambda: Lambda::new(&common.sdk),
            ec2: Ec2::new(&common.sdk),
            executions: Executions::new(&common.sdk),
            topic: Topic::new(&common.sdk, variable("HIGHWATER_TOPIC")?),
            deployment: common.deployment,
            clusters: common.clusters,
        })
    }

    /// Handles one event, whatever it says.
    ///
    /// # Errors
    /// Of all that failed the messages, and the name of the first that another try does not help.
    pub async fn handle(&self, _event: Value) -> Result<Answer, FunctionError> {
        let mut run = Run::default();
        Box::pin(self.backups(&mut run)).await;
        Box::pin(self.drills(&mut run)).await;
        Box::pin(self.promotions(&mut run)).await;
        Box::pin(self.overdue(&mut run)).await;
        run.note(Box::pin(self.cost()).await);
        // Last, whatever the others came to: a page that nobody asked for, or whose time has passed, is written by this at the latest.
        self.status.changed().await;
        let Run { did, errors } = run;
        did.iter().for_each(|sentence| tracing::info!("{sentence}"));
        let Some(first) = errors.first() else {
            return Ok(Answer { did });
        };
        let name = errors.iter().map(|e| e.name).find(|name| *name != Name::Transient).unwrap_or(first.name);
        Err(FunctionError::new(name, errors.iter().map(|e| e.message.as_str()).collect::<Vec<_>>().join("; ")))
    }
}
