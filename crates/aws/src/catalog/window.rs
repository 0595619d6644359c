//! As much of the catalog as a question needs: see [`highwater_core::window`].

use super::backups::{BackupRecord, Point, lsn_prefix, point_lsn, point_time};
use super::head::Head;
use super::{CatalogError, CatalogTable};
use crate::table::{Key, Range, partition};
use highwater_core::catalog::{Catalog, StoredManifest};
use highwater_core::plan::Target;
use highwater_core::{BackupId, ClusterId};
use serde::Deserialize;

/// A point with the sort key that it lies at.
#[derive(Debug, Deserialize)]
struct KeyedPoint {
    sk: String,
    #[serde(flatten)]
    point: Point,
}

/// The most records looked at for a backup near one that does not exist.
const NEIGHBOURS: usize = 25;

/// Part of a cluster's catalog, and the head under which it was read.
#[derive(Debug, Clone)]
pub struct Window {
    /// The head, read first: a write that depends on the rest is conditional on its version.
    pub head: Head,
    /// The backups.
    pub catalog: Catalog,
}

/// Every backup from one id to another.
fn backups(cluster: &ClusterId, from: Option<&BackupId>, to: Option<&BackupId>) -> Range {
    let text = |id: Option<&BackupId>| id.map(ToString::to_string);
    let (from, to) = (text(from).unwrap_or_default(), text(to).unwrap_or_else(|| "\u{10ffff}".to_owned()));
    Range { pk: partition(cluster), from: format!("backup#{from}"), to: format!("backup#{to}"), backwards: false, limit: 0 }
}

impl CatalogTable {
    /// What deciding the next backup needs: the newest chain and what ran beside it. Two reads, whatever the number of backups.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn window(&self, cluster: &ClusterId) -> Result<Window, CatalogError> {
        let head = self.head(cluster).await?;
        let found = match &head.window_from {
            Some(from) => self.committed(backups(cluster, Some(from), None)).await?,
            None => Vec::new(),
        };
        Ok(Window { catalog: Catalog::of_committed(cluster.clone(), found), head })
    }

    /// Every committed backup. Reads all of them.
    ///
    /// # Errors
    /// Those of the table.
    pub async fn whole(&self, cluster: &ClusterId) -> Result<Window, CatalogError> {
        let head = self.head(cluster).await?;
        let found = self.committed(backups(cluster, None, None)).await?;
        Ok(Window { catalog: Catalog::of_committed(cluster.clone(), found), head })
    }

    /// What judging a manifest needs: the window, or everything if the window does not suffice.
    pub(crate) async fn window_to_admit(&self, new: &StoredManifest) -> Result<Window, CatalogError> {
        let cluster = &new.manifest.cluster;
        let window = self.window(cluster).await?;
        match &window.head.window_from {
            Some(from) if !window.catalog.suffices_for(new, from) => {
                tracing::info!(%cluster, backup_id = %new.id(), "judged on the whole catalog: it did not start after the newest backup");
                self.whole(cluster).await
            }
            _ => Ok(window),
        }
    }

    /// What planning a restore to `target` needs: the restore point and its chain, the newest backup, and, where the target
    /// has no restore point, its neighbours for the message.
    ///
    /// # Errors
    /// `Unreadable` when the catalog points at a backup that it does not have; those of the table.
    pub async fn window_for(&self, cluster: &ClusterId, target: &Target) -> Result<Window, CatalogError> {
        let mut tries = 1;
        loop {
            let head = self.head(cluster).await?;
            let Some(newest) = head.newest.clone() else {
                return Ok(Window { catalog: Catalog::new(cluster.clone()), head });
            };
            let lsns = lsn_prefix(&newest.incarnation);
            let point = match target {
                Target::Latest => Some(newest.backup_id.clone()),
                Target::Backup(id) => Some(id.clone()),
                Target::Time(at) => self.last_point(cluster, "time#", &point_time(*at)).await?,
                Target::Lsn(lsn) => self.last_point(cluster, &lsns, &point_lsn(*lsn)).await?,
            };
            let mut found = match &point {
                Some(id) => self.chain_of(cluster, id).await?,
                None => Vec::new(),
            };
            match (&point, target) {
                _ if !found.is_empty() => {}
                (Some(id), Target::Backup(_)) => found = self.neighbours(cluster, id).await?,
                (None, Target::Lsn(_)) => found = self.first_point(cluster, &lsns).await?,
                (None, _) => found = self.first_point(cluster, "time#").await?,
                // Between the two reads retention may have marked it; twice it has not.
                (Some(_), _) if tries == 1 => {
                    tries += 1;
                    continue;
                }
                // An older restore point is not what was asked for.
                (Some(id), _) => {
                    let key = BackupRecord::key(cluster, id);
                    return Err(key.unreadable("a restore point leads to it, and it is not committed").into());
                }
            }
            if let Some(newest) = self.backup(cluster, &newest.backup_id).await? {
                found.extend(newest.stored()?);
            }
            return Ok(Window { catalog: Catalog::of_committed(cluster.clone(), found), head });
        }
    }

    /// A committed backup and everything its restore needs; nothing if it is not committed. One query where ids follow each
    /// other in time, as they do; a parent outside the range is fetched by itself.
    async fn chain_of(&self, cluster: &ClusterId, id: &BackupId) -> Result<Vec<StoredManifest>, CatalogError> {
        let Some(record) = self.backup(cluster, id).await? else {
            return Ok(Vec::new());
        };
        let super::backups::State::Committed(committed) = &record.state else {
            return Ok(Vec::new());
        };
        let mut found = self.committed(backups(cluster, Some(&committed.full), Some(id))).await?;
        let mut at = record.parent.clone();
        while let Some(parent) = at {
            at = match found.iter().find(|b| *b.id() == parent) {
                Some(stored) => stored.manifest.parent.as_ref().map(|link| link.backup_id.clone()),
                None => {
                    let record = self.backup(cluster, &parent).await?;
                    let stored = record.map(|record| record.stored()).transpose()?.flatten();
                    let next = stored.as_ref().and_then(|s| s.manifest.parent.as_ref().map(|link| link.backup_id.clone()));
                    found.extend(stored);
                    next
                }
            };
        }
        Ok(found)
    }

    async fn committed(&self, range: Range) -> Result<Vec<StoredManifest>, CatalogError> {
        let records: Vec<BackupRecord> = self.table.records(range).await?;
        Ok(records.iter().filter_map(|record| record.stored().transpose()).collect::<Result<_, _>>()?)
    }

    /// The last point of a prefix at or before a value.
    async fn last_point(&self, cluster: &ClusterId, prefix: &str, value: &str) -> Result<Option<BackupId>, CatalogError> {
        let range = Range { to: format!("{prefix}{value}#\u{10ffff}"), ..Range::prefixed(cluster, prefix) }.last(1);
        self.point(range).await
    }

    /// Where the first point of a range leads. Its key says so too: one that leads elsewhere would restore something else.
    async fn point(&self, range: Range) -> Result<Option<BackupId>, CatalogError> {
        let pk = range.pk.clone();
        let points: Vec<KeyedPoint> = self.table.query(range).await?;
        let Some(KeyedPoint { sk, point: Point { backup_id, .. } }) = points.into_iter().next() else {
            return Ok(None);
        };
        match sk.rsplit('#').next() == Some(backup_id.to_string().as_str()) {
            true => Ok(Some(backup_id)),
            false => Err(Key { pk, sk }.unreadable(format!("it leads to {backup_id}")).into()),
        }
    }

    /// The backup of the first point of a prefix.
    async fn first_point(&self, cluster: &ClusterId, prefix: &str) -> Result<Vec<StoredManifest>, CatalogError> {
        let Some(id) = self.point(Range { limit: 1, ..Range::prefixed(cluster, prefix) }).await? else {
            return Ok(Vec::new());
        };
        let record = self.backup(cluster, &id).await?;
        Ok(record.map(|record| record.stored()).transpose()?.flatten().into_iter().collect())
    }

    /// The committed backups before and after an id.
    async fn neighbours(&self, cluster: &ClusterId, id: &BackupId) -> Result<Vec<StoredManifest>, CatalogError> {
        let before = self.committed(backups(cluster, None, Some(id)).last(NEIGHBOURS)).await?;
        let after = self.committed(Range { limit: NEIGHBOURS, ..backups(cluster, Some(id), None) }).await?;
        Ok(before.into_iter().take(1).chain(after.into_iter().take(1)).collect())
    }
}
