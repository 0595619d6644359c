//! Versions of objects: which exist, what Object Lock holds them, longer locks, and their deletion.
//!
//! Relies on: a bucket with versions, where only a deletion that names a version removes bytes, and on Object Lock refusing
//! such a deletion whatever this code believes. Every call may be repeated: a version that is gone is deleted, a lock that
//! is long enough is extended.

use crate::manifests::each;
use crate::s3::{Bucket, StoreError, StoreErrorKind};
use aws_sdk_s3::primitives::DateTime;
use aws_sdk_s3::types::{ObjectLockLegalHoldStatus, ObjectLockMode, ObjectLockRetention, ObjectLockRetentionMode};
use highwater_core::audit::ObjectId;
use highwater_core::retention::Hold;
use jiff::Timestamp;

/// A version of an object, or a marker that hides one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version {
    /// Its key.
    pub key: String,
    /// Its id.
    pub version_id: String,
    /// Bytes stored; a marker has none.
    pub size: u64,
    /// Whether it is a delete marker.
    pub is_marker: bool,
}

/// What locks a version, now or formerly.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Lock {
    retention: Option<(ObjectLockMode, Timestamp)>,
    legal_hold: bool,
}

impl Lock {
    /// The date it was locked until, past or not.
    pub fn until(&self) -> Option<Timestamp> {
        self.retention.as_ref().map(|(_, until)| *until)
    }

    /// What holds the version at `now`.
    pub fn hold(&self, now: Timestamp) -> Option<Hold> {
        match self.legal_hold {
            true => Some(Hold::Legal),
            false => self.until().filter(|until| *until > now).map(Hold::Until),
        }
    }
}

impl Bucket {
    /// Every version and marker below a prefix, in no particular order.
    ///
    /// # Errors
    /// `AccessDenied`, `NotFound` (the bucket), `Unavailable`.
    pub async fn versions(&self, prefix: &str) -> Result<Vec<Version>, StoreError> {
        Ok(self.list_versions(prefix, None).await?.0)
    }

    async fn list_versions(&self, prefix: &str, delimiter: Option<&str>) -> Result<(Vec<Version>, Vec<String>), StoreError> {
        let (mut found, mut folders) = (Vec::new(), Vec::new());
        let (mut key_marker, mut version_marker) = (None, None);
        loop {
            let page = self
                .client
                .list_object_versions()
                .bucket(self.name())
                .prefix(prefix)
                .set_delimiter(delimiter.map(str::to_owned))
                .set_key_marker(key_marker.take())
                .set_version_id_marker(version_marker.take())
                .send()
                .await
                .map_err(|e| self.sdk_error("list versions below", prefix, e))?;
            let size = |n: Option<i64>| n.and_then(|n| u64::try_from(n).ok()).unwrap_or_default();
            let versions = page.versions.unwrap_or_default().into_iter().map(|v| (v.key, v.version_id, size(v.size), false));
            let markers = page.delete_markers.unwrap_or_default().into_iter().map(|m| (m.key, m.version_id, 0, true));
            for (key, version_id, size, is_marker) in versions.chain(markers) {
                let (Some(key), Some(version_id)) = (key, version_id) else { continue };
                found.push(Version { key, version_id, size, is_marker });
            }
            folders.extend(page.common_prefixes.unwrap_or_default().into_iter().filter_map(|p| p.prefix));
            if page.is_truncated != Some(true) {
                return Ok((found, folders));
            }
            (key_marker, version_marker) = (page.next_key_marker, page.next_version_id_marker);
            if key_marker.is_none() {
                let detail = Some("the list goes on, but the answer does not say where".to_owned());
                return Err(self.error("list versions below", prefix, StoreErrorKind::Unavailable, detail));
            }
        }
    }

    /// The names directly below a prefix that something lies below, however hidden: `a/` holds `b/` and `c/`.
    ///
    /// # Errors
    /// As [`Bucket::versions`].
    pub async fn folders(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        Ok(self.list_versions(prefix, Some("/")).await?.1)
    }

    /// Deletes a version for good. One that is gone already is success.
    ///
    /// # Errors
    /// `AccessDenied`, also when the version is locked; `Unavailable`.
    pub async fn delete_version(&self, key: &str, version_id: &str) -> Result<(), StoreError> {
        let sent = self.client.delete_object().bucket(self.name()).key(key).version_id(version_id).send().await;
        match sent.map_err(|e| self.sdk_error("delete", key, e)) {
            Err(error) if error.kind == StoreErrorKind::NotFound => Ok(()),
            other => other.map(|_| ()),
        }
    }

    /// What locks a version. Reads as "nothing" for a caller who may not read retentions.
    ///
    /// # Errors
    /// `NotFound`, `AccessDenied`, `Unavailable`.
    pub async fn lock(&self, id: &ObjectId) -> Result<Lock, StoreError> {
        let asked = self.client.head_object().bucket(self.name()).key(&id.key).set_version_id(id.version_id.clone());
        let head = asked.send().await.map_err(|e| self.sdk_error("read the lock of", &id.key, e))?;
        let until = head.object_lock_retain_until_date.as_ref().map(timestamp);
        Ok(Lock {
            retention: head.object_lock_mode.zip(until),
            legal_hold: head.object_lock_legal_hold_status == Some(ObjectLockLegalHoldStatus::On),
        })
    }

    /// Locks a version until a date, unless it is locked at least so long. Locks are never shortened.
    async fn lock_until(&self, id: &ObjectId, mode: &ObjectLockMode, until: Timestamp) -> Result<bool, StoreError> {
        let lock = self.lock(id).await?;
        if lock.until().is_some_and(|is| is >= until) {
            return Ok(false);
        }
        let mode = lock.retention.map_or(mode.clone(), |(mode, _)| mode);
        let retention = ObjectLockRetention::builder()
            .mode(ObjectLockRetentionMode::from(mode.as_str()))
            .retain_until_date(DateTime::from_secs_and_nanos(until.as_second(), 0))
            .build();
        let put = self.client.put_object_retention().bucket(self.name()).key(&id.key).set_version_id(id.version_id.clone());
        put.retention(retention).send().await.map_err(|e| self.sdk_error("extend the lock of", &id.key, e))?;
        Ok(true)
    }
}

/// Locks what a backup rests on as long as the backup itself: `child` is its manifest, which is written last and so is
/// locked longest, and `base` are the objects of the backups it needs. To be called before the commit: then no
/// committed backup has a base whose lock ends before its own, whatever crashes. Returns how many locks it extended.
///
/// # Errors
/// `NotFound` when an object of the base is gone; `AccessDenied`, `Unavailable`.
pub async fn extend_locks(bucket: &Bucket, child: &ObjectId, base: impl IntoIterator<Item = ObjectId>) -> Result<usize, StoreError> {
    let Some((mode, until)) = bucket.lock(child).await?.retention else { return Ok(0) };
    let extended = each(base.into_iter(), |id| {
        let (bucket, mode) = (bucket.clone(), mode.clone());
        async move { bucket.lock_until(&id, &mode, until).await }
    });
    Ok(extended.await?.into_iter().filter(|extended| *extended).count())
}

fn timestamp(at: &DateTime) -> Timestamp {
    Timestamp::new(at.secs(), i32::try_from(at.subsec_nanos()).unwrap_or_default()).unwrap_or(Timestamp::MAX)
}
