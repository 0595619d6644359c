//! What people look at: reports beside what they are of and among the pages, and the status page, which one function alone writes.
//!
//! Nothing here fails what it follows: a page proves nothing, and `reconcile` has the status page written every few minutes anyway.

use crate::error::FunctionError;
use crate::serve::{Common, variable};
use highwater_aws::lambda::Lambda;
use highwater_aws::s3::{Bucket, StoreError, StoreErrorKind};
use highwater_pages::CONTENT_TYPE;
use serde_json::json;

/// The places of pages.
#[derive(Debug, Clone)]
pub struct Pages {
    backups: Bucket,
    pages: Bucket,
    status: Status,
}

/// The status page's writer, as those see it who change what the page shows.
#[derive(Debug, Clone)]
pub struct Status {
    lambda: Lambda,
    writer: String,
}

impl Status {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub fn new(common: &Common) -> Result<Self, FunctionError> {
        Ok(Self { lambda: Lambda::new(&common.sdk), writer: variable("HIGHWATER_PUBLISH_STATUS")? })
    }

    /// What the page shows has changed, and the catalog has it: the page is written anew, soon.
    pub async fn changed(&self) {
        if let Err(error) = self.lambda.call(&self.writer, &json!({})).await {
            tracing::warn!(%error, "the status page was not asked for: reconcile does it");
        }
    }
}

impl Pages {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub async fn new(common: &Common) -> Result<Self, FunctionError> {
        let pages = Bucket::connect(&variable("HIGHWATER_PAGES")?).await;
        Ok(Self { backups: common.bucket.clone(), pages, status: Status::new(common)? })
    }

    /// Stores a report in both places. The first one stays, whatever a repeated call would write.
    pub async fn report(&self, key: &str, page: String) {
        for bucket in [&self.backups, &self.pages] {
            if let Err(error) = create(bucket, key, &page).await {
                tracing::warn!(%error, "a report was not written");
            }
        }
    }

    /// As [`Status::changed`].
    pub async fn changed(&self) {
        self.status.changed().await;
    }
}

async fn create(bucket: &Bucket, key: &str, page: &str) -> Result<(), StoreError> {
    match bucket.put_where_free(key, page.to_owned().into(), CONTENT_TYPE).await {
        Err(error) if error.kind != StoreErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
}
