//! The manifests of a cluster, read from the bucket: what a catalog is rebuilt from (I1).
//!
//! Relies on `list` giving every key. An object that is there and is no readable manifest is named in the result; an
//! object that could not be *fetched* fails the whole reading, because a decision on half a catalog is worse than none.

use crate::s3::{Bucket, StoreError, StoreErrorKind};
use bytes::Bytes;
use highwater_core::catalog::{Catalog, Found, StoredManifest};
use highwater_core::ids::cluster_prefix;
use highwater_core::manifest::{MANIFEST_NAME, ManifestV1};
use highwater_core::{ClusterId, Document};
use std::error::Error as StdError;
use tokio::task::JoinSet;

/// Manifests read at once.
const READERS: usize = 16;

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
    let prefix = cluster_prefix(cluster);
    let mut keys = bucket.list(&prefix).await?.into_iter().filter(|key| is_manifest_key(&prefix, key));
    let (mut found, mut reading) = (Vec::new(), JoinSet::new());
    loop {
        while reading.len() < READERS
            && let Some(key) = keys.next()
        {
            let bucket = bucket.clone();
            reading.spawn(async move { read_one(&bucket, key).await });
        }
        match reading.join_next().await {
            None => return Ok(found),
            Some(Ok(one)) => found.push(one?),
            // Nothing aborts these tasks, so this is a panic of our own: let it go on as one.
            Some(Err(join)) => match join.try_into_panic() {
                Ok(panic) => std::panic::resume_unwind(panic),
                Err(_) => continue,
            },
        }
    }
}

/// `v1/<cluster>/<incarnation>/<backup-id>/manifest.json`, and nothing deeper: drills lie elsewhere.
fn is_manifest_key(prefix: &str, key: &str) -> bool {
    let mut parts = key.strip_prefix(prefix).unwrap_or_default().split('/');
    let (first, backup, name, rest) = (parts.next(), parts.next(), parts.next(), parts.next());
    first.is_some_and(|f| f != "drills") && backup.is_some() && name == Some(MANIFEST_NAME) && rest.is_none()
}

async fn read_one(bucket: &Bucket, key: String) -> Result<Found, StoreError> {
    match fetch(bucket, &key).await {
        Ok((version_id, bytes)) => Ok(match StoredManifest::parse(key.clone(), version_id, &bytes) {
            Ok(stored) => Found::Manifest(Box::new(stored)),
            Err(error) => Found::Unreadable { key, reason: with_source(&error) },
        }),
        // It was listed, and is gone, cut short or far too large: something is wrong with this object, not with the reading.
        Err(error) if matches!(error.kind, StoreErrorKind::NotFound | StoreErrorKind::Mismatch | StoreErrorKind::Refused) => {
            Ok(Found::Unreadable { key, reason: error.to_string() })
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
