//! Plans for a bucket that holds copies of a deployment's objects. S3's replication keeps version ids; other ways of copying do
//! not, and a manifest names those that its objects had where they were written.

use crate::manifests::each;
use crate::s3::{Bucket, StoreError, StoreErrorKind};
use crate::versions::Version;
use highwater_core::Sha256;
use highwater_core::manifest::{DataObject, ObjectRef};
use highwater_core::plan::{PlanStep, RestorePlanV1};

/// The same plan, with each object pinned at the version that this bucket has of it: the one that is named, if it is there, or else the
/// newest of the same content.
///
/// # Errors
/// `NotFound` when there is no such version; `AccessDenied` (it lists versions), `Unavailable`.
pub async fn pin_copies(bucket: &Bucket, mut plan: RestorePlanV1) -> Result<RestorePlanV1, StoreError> {
    let steps = each(std::mem::take(&mut plan.steps).into_iter().enumerate(), |(nth, step)| {
        let bucket = bucket.clone();
        async move { pin_step(&bucket, step).await.map(|step| (nth, step)) }
    });
    let mut steps = steps.await?;
    steps.sort_by_key(|(nth, _)| *nth);
    plan.steps = steps.into_iter().map(|(_, step)| step).collect();
    Ok(plan)
}

async fn pin_step(bucket: &Bucket, mut step: PlanStep) -> Result<PlanStep, StoreError> {
    let prefix = step.manifest.key.rsplit_once('/').map_or("", |(prefix, _)| prefix);
    let versions = bucket.versions(&format!("{prefix}/")).await?;
    for object in &mut step.objects {
        if !has(&versions, &object.key, object.version_id.as_deref()) {
            object.version_id = Some(data_version(bucket, &versions, object).await?);
        }
    }
    for small in [&mut step.manifest, &mut step.inventory.object] {
        if !has(&versions, &small.key, small.version_id.as_deref()) {
            small.version_id = Some(small_version(bucket, &versions, small).await?);
        }
    }
    Ok(step)
}

/// A plan that names no version reads the newest one: it must not be hidden.
fn has(versions: &[Version], key: &str, version_id: Option<&str>) -> bool {
    version_id.is_some_and(|id| versions.iter().any(|v| v.key == key && v.version_id == id && !v.is_marker))
}

/// Versions of a key with this size, newest first, as S3 lists them.
fn candidates<'a>(versions: &'a [Version], key: &'a str, size: u64) -> impl Iterator<Item = &'a str> {
    versions.iter().filter(move |v| v.key == key && v.size == size && !v.is_marker).map(|v| v.version_id.as_str())
}

async fn data_version(bucket: &Bucket, versions: &[Version], object: &DataObject) -> Result<String, StoreError> {
    for id in candidates(versions, &object.key, object.size) {
        // A copy has the checksum of whoever made it, or none. The frame table has a checksum of every frame, and the manifest has the
        // table's digest: what has this table is the object, or will be noticed when it is restored.
        let table = bucket.get_range(&object.key, Some(id), object.table_offset..object.size).await?;
        if Sha256::of(&table) == object.table_sha256 {
            return Ok(id.to_owned());
        }
    }
    Err(none(bucket, &object.key))
}

async fn small_version(bucket: &Bucket, versions: &[Version], object: &ObjectRef) -> Result<String, StoreError> {
    for id in candidates(versions, &object.key, object.size) {
        if Sha256::of(&bucket.get(&object.key, Some(id), object.size).await?) == object.sha256 {
            return Ok(id.to_owned());
        }
    }
    Err(none(bucket, &object.key))
}

fn none(bucket: &Bucket, key: &str) -> StoreError {
    bucket.error(
        "find a copy of",
        key,
        StoreErrorKind::NotFound,
        Some("no version has the size and checksum that its manifest names".to_owned()),
    )
}
