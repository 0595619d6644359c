//! `publish-status`: writes the status page. The one writer of that object, called after every change and by `reconcile`.
//!
//! Calls may overlap, and an older page must not stay over a newer one. A page is put only over the page that was there before the catalog
//! was read (its ETag): so what is in a page was read after every page before it was written.

use crate::error::FunctionError;
use crate::serve::{Common, variable};
use highwater_aws::catalog::promotions::{PromotionRecord, State};
use highwater_aws::catalog::{CatalogError, CatalogTable};
use highwater_aws::s3::{Bucket, Replaced};
use highwater_aws::ssm::Ssm;
use highwater_aws::status::gather;
use highwater_core::cluster::ClusterConfigV1;
use highwater_pages::{BackupView, CONTENT_TYPE, ClusterView, Ending, PromotionLine, STATUS_NAME, status};
use jiff::Timestamp;
use serde::Serialize;
use serde_json::Value;

/// A call that was refused twice is done: see [`PublishStatus::handle`].
const ATTEMPTS: u32 = 2;

/// Backups of a cluster that the page looks at, the newest.
const BACKUPS: usize = 100;

/// Promotions of a cluster, the newest.
const PROMOTIONS: usize = 10;

/// The answer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Answer {
    /// Clusters on the page.
    pub clusters: usize,
    /// Those that could not be read; the page says so.
    pub unreadable: usize,
    /// Whether this call's page was put, or a newer one was there.
    pub written: bool,
}

/// What the function works with.
#[derive(Debug, Clone)]
pub struct PublishStatus {
    deployment: String,
    clusters: String,
    catalog: CatalogTable,
    ssm: Ssm,
    pages: Bucket,
}

impl PublishStatus {
    /// From the environment.
    ///
    /// # Errors
    /// `Permanent`, with the variable that is missing.
    pub async fn new(common: Common) -> Result<Self, FunctionError> {
        Ok(Self {
            pages: Bucket::connect(&variable("HIGHWATER_PAGES")?).await,
            catalog: CatalogTable::new(common.table),
            ssm: Ssm::new(&common.sdk),
            deployment: common.deployment,
            clusters: common.clusters,
        })
    }

    /// Handles one event, whatever it says. When it answers, the page has what the catalog had when it was called, or later.
    ///
    /// A put that is refused means that another page came in after this call had begun. When that happens twice, the second of them was read
    /// after the first of them was there, so after this call had begun: nothing is left to do.
    ///
    /// # Errors
    /// `Transient`; `Permanent` when access is denied. A cluster that cannot be read is no error: the page says it, and `reconcile` fails on it.
    pub async fn handle(&self, _event: Value) -> Result<Answer, FunctionError> {
        let mut answer = Answer { clusters: 0, unreadable: 0, written: false };
        for _ in 0..ATTEMPTS {
            let there = self.pages.e_tag(STATUS_NAME).await?;
            let now = Timestamp::now();
            let (views, unreadable) = self.views(now).await?;
            let page = status(&self.deployment, &views, &unreadable, now);
            let replaced = self.pages.replace(STATUS_NAME, there.as_deref(), page.into(), CONTENT_TYPE).await?;
            answer = Answer { clusters: views.len(), unreadable: unreadable.len(), written: replaced == Replaced::Done };
            if answer.written {
                break;
            }
        }
        Ok(answer)
    }

    async fn views(&self, now: Timestamp) -> Result<(Vec<ClusterView>, Vec<String>), FunctionError> {
        let (mut views, mut unreadable) = (Vec::new(), Vec::new());
        for config in self.ssm.clusters(&self.clusters).await? {
            let read = match config {
                Ok(config) => self.view(&config, now).await.map_err(|error| format!("{}: {error}", config.cluster)),
                Err(error) => Err(FunctionError::from(error).message),
            };
            match read {
                Ok(view) => views.push(view),
                Err(reason) => unreadable.push(reason),
            }
        }
        unreadable.iter().for_each(|reason| tracing::warn!("a cluster could not be read: {reason}"));
        Ok((views, unreadable))
    }

    async fn view(&self, config: &ClusterConfigV1, now: Timestamp) -> Result<ClusterView, CatalogError> {
        let mut briefs = self.catalog.newest_briefs(&config.cluster, BACKUPS).await?;
        briefs.reverse();
        let committed = briefs.into_iter().filter(|b| b.state == "committed");
        let backups =
            committed.filter_map(|b| Some(BackupView { at: b.finished_at?, id: b.backup_id, parent: b.parent, stored: b.stored_bytes }));
        let promotions = self.catalog.recent_promotions(&config.cluster, PROMOTIONS).await?;
        Ok(ClusterView {
            status: gather(&self.catalog, config, now).await?,
            backups: backups.collect(),
            promotions: promotions.into_iter().map(line).collect(),
        })
    }
}

fn line(record: PromotionRecord) -> PromotionLine {
    let PromotionRecord { id, backup_id, begun_at, .. } = record;
    let (ending, at) = match record.state {
        State::Requested | State::Running { .. } => (None, begun_at),
        State::Stuck { since, .. } => (Some(Ending::Stuck), since),
        State::Ended { outcome, ended_at, .. } => (Some(outcome.into()), ended_at),
        State::Reverted { reverted_at } => (Some(Ending::Reverted), reverted_at),
    };
    PromotionLine { id, backup_id, ending, at }
}
