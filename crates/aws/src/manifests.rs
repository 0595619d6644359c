//! The manifests of a cluster, read from the bucket: what a catalog is rebuilt from (I1).
//!
//! Relies on `list` giving every key. An object that is there and is no readable manifest is named in the result; an
//! object that could not be *fetched* fails the whole reading, because a decision on half a catalog is worse than none.

use crate::s3::{Bucket, StoreError, StoreErrorKind};
use bytes::Bytes;
use highwater_core::audit::{Heads, ObjectFacts, ObjectId};
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::ids::cluster_prefix;
use highwater_core::manifest::{MANIFEST_NAME, ManifestV1};
use highwater_core::{ClusterId, Document};
use std::collections::BTreeSet;
use std::error::Error as StdError;
use std::future::Future;
use tokio::task::JoinSet;

/// Requests under way at once.
const AT_ONCE: usize = 16;

/// Reads every manifest of a cluster and rebuilds its catalog.
///
/// # Errors
/// `AccessDenied`, `NotFound` (the bucket), `Unavailable`.
pub async fn read_catalog(bucket: &Bucket, cluster: &ClusterId) -> Result<Catalog, StoreError> {
    Ok(Catalog::rebuild(cluster.clone(), read_manifests(bucket, cluster).await?))
}

/// Reads every manifest of a cluster, in no particular order.
///
/// # Errors
/// `AccessDenied`, `NotFound` (the bucket), `Unavailable`.
pub async fn read_manifests(bucket: &Bucket, cluster: &ClusterId) -> Result<Vec<Found>, StoreError> {
    Ok(read_manifest_texts(bucket, cluster).await?.into_iter().map(|(found, _)| found).collect())
}

/// As [`read_manifests`], each with its exact text; an unreadable one has none.
///
/// # Errors
/// As [`read_manifests`].
pub async fn read_manifest_texts(bucket: &Bucket, cluster: &ClusterId) -> Result<Vec<(Found, String)>, StoreError> {
    let prefix = cluster_prefix(cluster);
    let keys = bucket.list(&prefix).await?.into_iter().filter(|key| is_manifest_key(&prefix, key));
    each(keys, |key| read_one(bucket.clone(), key)).await
}

/// Asks the store about objects, for an audit. An object that is not there is part of the answer, not an error.
///
/// # Errors
/// `AccessDenied`, `Unavailable`, `Refused`.
pub async fn head_objects(bucket: &Bucket, objects: BTreeSet<ObjectId>) -> Result<Heads, StoreError> {
    Ok(each(objects.into_iter(), |id| head_one(bucket.clone(), id)).await?.into_iter().collect())
}

/// Does `work` for every item, `AT_ONCE` at a time; the first error ends it.
pub(crate) async fn each<I, T, E, F>(mut items: impl Iterator<Item = I>, work: impl Fn(I) -> F) -> Result<Vec<T>, E>
where
    T: Send + 'static,
    E: Send + 'static,
    F: Future<Output = Result<T, E>> + Send + 'static,
{
    let (mut done, mut running) = (Vec::new(), JoinSet::new());
    loop {
        while running.len() < AT_ONCE
            && let Some(item) = items.next()
        {
            running.spawn(work(item));
        }
        match running.join_next().await {
            None => return Ok(done),
            Some(Ok(one)) => done.push(one?),
            // Nothing aborts these tasks, so this is a panic of our own: let it go on as one.
            Some(Err(join)) => match join.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => continue,
            },
        }
    }
}

async fn head_one(bucket: Bucket, id: ObjectId) -> Result<(ObjectId, Option<ObjectFacts>), StoreError> {
    match bucket.head(&id.key, id.version_id.as_deref()).await {
        Ok(head) => Ok((id, Some(ObjectFacts { size: head.size, crc64nvme: head.crc64nvme, version_id: head.version_id }))),
        Err(error) if error.kind == StoreErrorKind::NotFound => Ok((id, None)),
        Err(error) => Err(error),
    }
}

/// `v1/<cluster>/<incarnation>/<backup-id>/manifest.json`, and nothing deeper: drills lie elsewhere.
fn is_manifest_key(prefix: &str, key: &str) -> bool {
    let mut parts = key.strip_prefix(prefix).unwrap_or_default().split('/');
    let (first, backup, name, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    first.is_some_and(|f| f != "drills") && backup.is_some() && name == Some(MANIFEST_NAME) && rest.is_none()
}

async fn read_one(bucket: Bucket, key: String) -> Result<(Found, String), StoreError> {
    let unreadable = |key: String, reason: String| (Found::Unreadable { key, reason }, String::new());
    match fetch(&bucket, &key).await {
        Ok((version_id, bytes)) => Ok(match StoredManifest::parse(key.clone(), version_id, &bytes) {
            Ok(stored) => (Found::Manifest(Box::new(stored)), String::from_utf8_lossy(&bytes).into_owned()),
            Err(error) => unreadable(key, with_source(&error)),
        }),
        // It was listed, and is gone, cut short or far too large: something is wrong with this object, not with the reading.
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Mismatch | StoreErrorKind::Refused) => {
            Ok(unreadable(key, error.to_string()))
        }
        Err(error) => Err(error),
    }
}

/// The version that is current, and its bytes. An object far too large is cut, and then refused as too large or malformed.
async fn fetch(bucket: &Bucket, key: &str) -> Result<(Option<String>, Bytes), StoreError> {
    let head = bucket.head(key, None).await?;
    let wanted = head.size.min(ManifestV1::MAX_BYTES as u64 + 1);
    let bytes = bucket.get_range(key, head.version_id.as_deref(), 0..wanted).await?;
    Ok((head.version_id, bytes))
}

fn with_source(error: &dyn StdError) -> String {
    match error.source() {
        Some(source) => format!("{error}: {source}"),
        None => error.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_manifests_of_backups_are_read() {
        let is = |key: &str| is_manifest_key("v1/orders/", key);
        assert!(is("v1/orders/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c/manifest.json"));
        for other in [
            "v1/orders/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c/data-000",
            "v1/orders/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c/x/manifest.json",
            "v1/orders/drills/7/manifest.json",
            "v1/orders/manifest.json",
            "v1/orders-eu/20261122T015900Z-8b2e/20261122T020000Z-full-4f7c/manifest.json",
        ] {
            assert!(!is(other), "{other}");
        }
    }
}
